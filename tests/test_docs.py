"""Every block of the documentation runs.

A page's blocks run in their order, in an empty directory and one namespace: Python is executed,
``python title="mine.py"`` is written to that file, and of ``sh`` the lines of ``sbt`` go through
the command, with smaller grids where a page's take minutes.
"""

import re
import shlex
import tomllib
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest
import submitit  # noqa: F401 (within a test its import would close what pytest captures)

from sbt import cli
from sbt.config import SECTIONS
from sbt.data import DATASETS
from sbt.measure import MEASUREMENTS
from sbt.report.claims import CLAIMS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)(?: title=\"(.*?)\")?\n(.*?)^```$", re.M | re.S)
LONG = ("advice", "language", "papers")
ELSEWHERE = ("sbt list papers", "sbt gallery")  # lines that other tests run: they take long
# What lines are given besides, by the first of these words that they contain.
SMALLER = {
    "sbt advise runs/quickstart": ("--no-measure", "--target=0.5"),
    "sbt advise runs/gpt": ("--no-measure", "--target=3.2"),
    "sbt advise": ("--no-measure",),
    "sbt keep": ("--command=sbt run experiments/marek_2025/fig01a.py:small",),  # pytest ran it
    "sbt submit": ("--config.model.name=mlp", "--config.epochs=1", "--config.data.train_size=64",
                   "--config.sweep.batch_size=(4,16)", "--config.sweep.base_lr=(2**-8,2**-6)",
                   "--config.sweep.seed=(0,1)"),
    "quickstart.py": ("--config.model.name=mlp", "--config.epochs=4",
                      "--config.data.train_size=128", "--config.sweep.batch_size=(2,8,32)",
                      "--config.sweep.base_lr=(2**-8,2**-6,2**-4)", "--config.sweep.seed=(0,)"),
    "gpt.py": ("--config.epochs=2", "--config.data.train_size=48", "--config.data.test_size=16",
               "--config.sweep.batch_size=(4,8,16)", "--config.sweep.seed=(0,)"),
    "many_runs.py": ("--config.sweep.seed=(0, 1)",),
    "own.py": ("--config.epochs=2", "--config.data.train_size=48", "--config.sweep.seed=(0,)"),
    "fig01a.py:small": ("--config.model.depth=1", "--config.data.train_size=32",
                        "--config.data.seq_len=16", "--config.sweep.batch_size=(4,16)",
                        "--config.sweep.seed=(0,)"),
}  # fmt: skip
# Files that a reader has.
INPUTS = {
    "my.txt": b"It was the best of times, it was the worst of times.\n" * 200,
    "train.bin": np.tile(np.arange(500, dtype="<u2"), 20).tobytes(),
    "val.bin": np.tile(np.arange(500, dtype="<u2"), 4).tobytes(),
}


@pytest.fixture
def as_before():
    """Forgets what a page registers: other tests are told what ships."""
    kept = [(names, {*names}) for names in (*SECTIONS.values(), DATASETS, MEASUREMENTS, CLAIMS)]
    yield
    for names, before in kept:
        for name in {*names} - before:
            del names[name]


def each(page):
    """A page as a parameter; those that train for a minute are among the slow tests."""
    return pytest.param(
        page, id=page.relative_to(ROOT).as_posix(), marks=[pytest.mark.slow] * (page.stem in LONG)
    )


@pytest.mark.parametrize("page", [each(page) for page in PAGES])
def test_every_block_of_a_page_runs(page, tmp_path, monkeypatch, capsys, as_before):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    for name, content in INPUTS.items():
        Path(name).write_bytes(content)
    text, names, printed = page.read_text(), {}, ""
    with jax.numpy_dtype_promotion("standard"):  # as users have it
        for language, title, body in BLOCK.findall(text):
            if language == "sh":
                for line in body.splitlines():
                    run_line(line, capsys)
            elif title:
                Path(title).write_text(body)
            elif language == "python":
                capsys.readouterr()
                exec(compile(body, f"{page.name}: {body[:40]!r}", "exec"), names)
                printed = capsys.readouterr().out
            elif language == "text":
                assert body.split() == printed.split()
    assert len(BLOCK.findall(text)) == len(re.findall("^```.", text, re.M))


def run_line(line, capsys):
    """A line for the shell; what is not of sbt must at least name what there is."""
    words = shlex.split(line, comments=True)
    if not words or line in ELSEWHERE:
        return
    if "=" in words[0]:  # of the environment
        words.pop(0)
    if words[:2] == ["sbt", "bench"]:  # takes minutes
        cli.parsers()[1]["bench"].read(words[2:])
    elif words[0] == "sbt":
        smaller = next((more for part, more in SMALLER.items() if part in line), ())
        assert cli.main([*words[1:], *smaller]) == 0, capsys.readouterr().err
    elif words[0] == "make":
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()
    elif words[:2] == ["python", "-m"]:
        assert find_spec(words[2])
    elif words[0] == "python":
        assert (ROOT / words[1]).exists()
    elif words[:2] == ["pip", "install"]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
            "optional-dependencies"
        ]
        assert {*re.findall(r"\w+", "".join(re.findall(r"\[(.*)\]", line)))} <= {*extras}
    else:
        raise AssertionError(f"nothing checks this line: {line}")
