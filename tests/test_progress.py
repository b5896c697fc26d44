"""What is drawn while a sweep runs: on narrow terminals, in logs, in notebooks, of any text."""

import io
import os
import pty
import re
import subprocess
import sys
import types

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sbt import text
from sbt.config import default
from sbt.results import best_cell
from sbt.sweep import progress
from sbt.sweep.progress import Lines, Live, Notebook, Silent, Status, describe, panel
from sbt.sweep.run import run
from sbt.tasks import Score

HOSTILE = "$x_1^ \\frac [bold]&<script>\n\x1b[31m 日本語 שלום 👩‍🔬 " + "w" * 300


def status(**changed):
    fields = dict(
        cohort=2, cohorts=3, epoch=1.24, epochs=4, lanes=72, rate=1.234e6,
        best=("97.1 %", "batch_size 8, base_lr 2^-4"), diverged=3, done=0.62, left=200.0,
    )  # fmt: skip
    return Status(**(fields | changed))


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 200])
@pytest.mark.parametrize("where", ["batch_size 8", "schedule__warmup 0.123456, " * 9, HOSTILE])
def test_percentage_bar_and_time_left_are_there_at_every_width(columns, where):
    lines = panel(status(best=("97.0 %", where)), columns)
    assert re.search(r"━.*─ +62 %  3 min left$", lines[0])
    assert [text.width(line) <= columns for line in lines] == [True] * 3
    assert "97.0 %" in lines[2]
    assert all(line.isprintable() or "\u200d" in line for line in lines)


def test_the_bar_is_full_only_at_the_end():
    assert "─" in panel(status(done=0.9999), 80)[0]
    assert " 99 %" in panel(status(done=0.9999), 80)[0]
    assert "─" not in panel(status(done=1.0), 80)[0]
    assert "100 %" in panel(status(done=1.0), 80)[0]
    assert "?" in panel(status(left=float("nan")), 80)[0]


def test_what_has_no_known_end_is_never_nearly_over():
    """An evaluation of many lanes takes minutes after the last update."""
    first, *_ = panel(status(done=1.0, left=0.0, doing="evaluating"), 80)
    assert first.endswith("─ 99 %  evaluating")
    file = io.StringIO()
    lines = Lines(Console(file=file, width=80), interval=0.0)
    for now in (status(done=1.0, doing="evaluating"), status(done=1.0), status(done=1.0)):
        lines.update(now)
    assert [line[:20] for line in file.getvalue().splitlines()] == [
        "[ 99 %] evaluating  ", "[100 %] 3 min left  ",
    ]  # fmt: skip


def test_long_words_of_the_best_cell_are_shortened_first():
    where = "schedule__warmup_of_the_rate 0.25, case a_name_that_says_very_much_about_the_case"
    assert panel(status(best=("97.0 %", where)), 60)[2] == (
        "best 97.0 % at schedule__warmu… 0.25, case a_name_that_say…"
    )


@given(st.text(max_size=80), st.integers(0, 90))
def test_shortened_text_fits_and_is_printable(words, columns):
    line = text.one_line(words)
    assert text.width(text.fitted(line, columns)) <= columns
    line.encode()
    assert "\n" not in line and "\x1b" not in line


DRAW = """
import sys, time
sys.path.insert(0, {tests!r})
from test_progress import HOSTILE, status
from sbt.sweep.progress import for_console
shown = for_console()
shown.note("a note [bold]of text[/bold]")
shown.update(status(best=("50.0 %", HOSTILE)))
time.sleep(0.4)
shown.close()
"""


@pytest.mark.parametrize("columns", [40, 80])
def test_a_real_terminal(columns):
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns), "TERM": "xterm-256color"}
    code = DRAW.format(tests=os.path.dirname(__file__))
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment):
        os.close(theirs)
        drawn = b""
        with io.FileIO(ours) as terminal:
            try:
                while found := terminal.read(4096):
                    drawn += found
            except OSError:  # Linux: the other end is closed
                pass
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn.decode())
    assert "Traceback" not in plain
    assert "a note [bold]of text[/bold]" in plain
    assert re.search(r"━─* +62 %  3 min left", plain)
    assert all(text.width(line) <= columns for line in re.split(r"[\r\n]+", plain))


def test_lines_of_a_log_are_whole_and_plain():
    file = io.StringIO()
    lines = Lines(Console(file=file, width=40))
    lines.note("  an [indented] note")
    lines.update(status(best=("50.0 %", HOSTILE)))
    note, state = file.getvalue().splitlines()
    assert note == "  an [indented] note"
    assert state.startswith("[ 62 %] 3 min left  cohort 2/3  epoch 1.2/4  3 diverged  72 lanes")
    assert "[bold]&<script>" in state


def test_a_terminal_without_unicode():
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="latin-1", write_through=True)
    live = Live(Console(file=file, width=60, force_terminal=True))
    live.note("日本")
    live.update(status())
    live.close()
    assert re.search(r"#(\x1b\[0m)?-", raw.getvalue().decode("latin-1"))


class Display:
    """IPython's ``display`` with a display id."""

    def __init__(self):
        self.shown = []

    def __call__(self, bundle, raw, display_id):
        assert raw and display_id
        self.shown.append(bundle)
        return types.SimpleNamespace(update=lambda bundle, raw: self.shown.append(bundle))


def test_a_notebook_shows_one_panel_that_changes(capsys):
    display = Display()
    notebook = Notebook(display, interval=0.0)
    notebook.note("compiling")
    notebook.update(status(done=0.1))
    notebook.update(status(best=("50.0 %", "case <b>&")))
    notebook.close()
    assert capsys.readouterr().out == "compiling\n"
    assert "10 %" in display.shown[0]["text/plain"]
    assert "62 %" in display.shown[-1]["text/plain"]
    assert "case &lt;b&gt;&amp;" in display.shown[-1]["text/html"]


def test_what_a_run_shows_when_it_is_not_told(monkeypatch):
    assert isinstance(progress.chosen_progress(False), Silent)
    assert isinstance(progress.chosen_progress(None), Silent)  # standard error is no terminal here
    mine = Silent()
    assert progress.chosen_progress(mine) is mine

    display = Display()
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    shown = types.ModuleType("IPython.display")
    shown.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    assert isinstance(progress.chosen_progress(None), Notebook)
    config = default()
    config.data = {"name": "synthetic", "train_size": 32, "test_size": 8, "image_shape": (2, 2, 1)}
    config.model.name = "mlp"
    config.epochs = 1
    config.sweep.base_lr = (0.01, 0.02)
    ds = run(config)
    assert "100 %" in display.shown[-1]["text/plain"]
    best = best_cell(ds)
    assert (
        f"best {Score().text(best.value)} at {describe(best.where)}"
        in display.shown[-1]["text/plain"]
    )

    ipython.get_ipython = lambda: None  # IPython is imported, but this is a script
    assert isinstance(progress.chosen_progress(None), Silent)


# --- the best cell -------------------------------------------------------------------------------


def grid(accuracy, diverged=None, curves=None):
    accuracy = np.asarray(accuracy, float)
    curves = accuracy[..., None] if curves is None else np.asarray(curves, float)
    dims = ("batch_size", "seed")
    none = np.zeros(accuracy.shape, bool)
    return xr.Dataset(
        {
            "accuracy": (dims, accuracy),
            "diverged": (dims, none if diverged is None else np.asarray(diverged, bool)),
            "test_accuracy": ((*dims, "epoch"), curves),
        },
        {"batch_size": [8, 4][: accuracy.shape[0]], "seed": range(accuracy.shape[1])},
    )


def test_best_is_the_median_over_seeds_not_the_luckiest_run():
    best = best_cell(grid([[0.99, 0.1, 0.2], [0.5, 0.6, 0.7]]))
    assert best == (0.6, {"batch_size": 4}, False)


def test_of_equal_cells_the_smallest_numbers_are_best():
    assert best_cell(grid([[0.5], [0.5]])).where == {"batch_size": 4}


def test_before_a_run_has_finished_the_latest_evaluations_are_compared():
    nan = np.nan
    curves = [[[0.9, 0.3, nan], [0.9, 0.5, nan]], [[0.35, nan, nan], [nan, nan, nan]]]
    assert best_cell(grid(np.full((2, 2), nan), curves=curves)) == (0.4, {"batch_size": 8}, True)
    # One that diverged is at chance and says nothing about the others.
    diverged = [[False, False], [True, False]]
    accuracy = [[nan, nan], [0.1, nan]]
    assert best_cell(grid(accuracy, diverged, curves)) == (0.4, {"batch_size": 8}, True)
    # Once a run has finished, reported accuracies alone count.
    assert best_cell(grid([[nan, nan], [0.2, nan]], curves=curves)) == (
        0.2,
        {"batch_size": 4},
        False,
    )
    assert best_cell(grid([[0.1], [0.1]], [[True], [True]])).value == 0.1
    assert best_cell(grid([[nan]])) is None
