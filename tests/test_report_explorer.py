"""The part of a report that one explores: its finding, its data, and the page in a real browser."""

import base64
import fcntl
import os
import re
import time

import browser
import numpy as np
import pytest
from test_report import NAN, grid, results, surface

from sbt import report
from sbt.cli import main
from sbt.report import View, explorer, markup
from sbt.report.finding import finding

# --- the finding ---------------------------------------------------------------------------------


def seeds(*rows, spread=0.01):
    """Three seeds around each value."""
    return np.asarray(rows)[..., None] + np.array([-spread, 0.0, spread])


def test_the_finding_compares_the_best_batch_size_with_the_largest():
    rows = seeds([0.5, 0.9], [0.6, 0.95], [0.8, 0.7])
    rows[2, 0] = [0.78, 0.8, 0.85]
    ds = results(rows, {"batch_size": [2, 4, 8], "base_lr": [0.125, 0.25]})
    # Of each seed 0.16, 0.15 and 0.11; Student's 97.5 % quantile of two degrees of freedom is
    # 4.3027.
    gaps = np.array([0.16, 0.15, 0.11])
    reach = 100 * 4.3027 * gaps.std(ddof=1) / np.sqrt(3)
    assert finding(View(ds)) == (
        "Batch size m = 4 is best: test accuracy 95.0 % at η̃ = 2^-2; m = 8, tuned as well, loses "
        f"14.0 points on average (95 % interval {14 - reach:.1f} to {14 + reach:.1f}, 3 seeds)."
    )


@pytest.mark.parametrize(
    "axes, values, words",
    [
        ({"batch_size": [2, 4]}, [0.5, 0.9], "m = 2 loses 40.0 points (one seed, no interval)"),
        (
            {"rule": ["a", "b", "c"]},
            [0.5, 0.9, 0.8],
            "B is best: test accuracy 90.0 %; c loses",
        ),
        (
            {"momentum": [0, 0.5, 0.9]},
            [0.5, 0.6, 0.4],
            "Momentum 0.5 is best: test accuracy",
        ),
        ({}, 0.5, "The test accuracy is 50.0 % (one seed, no interval)."),
        ({"batch_size": [2, 4]}, [NAN, 0.9], "Batch size m = 4 is best: test accuracy 90.0 %."),
    ],
)
def test_findings_of_other_axes(axes, values, words):
    assert words in finding(View(results(values, axes)))


def test_a_difference_that_seeds_do_not_tell_is_open():
    ds = results([[0.8, 0.9, 0.85], [0.88, 0.8, 0.84]], {"batch_size": [2, 4]})
    words = "m = 4 loses 1.0 points on average, but not beyond chance (95 % interval −"
    assert words in finding(View(ds))


def test_a_finding_before_any_run_has_ended():
    ds = results([0.5, 0.6], {"batch_size": [2, 4]})
    ds["accuracy"] = ds["accuracy"].where(False)
    assert finding(View(ds)).startswith("So far, by the latest evaluations, m = 4 leads: ")
    nothing = ds.where(False).assign(diverged=ds["diverged"])
    assert finding(View(nothing)) == "No run has results yet."


# --- the data ------------------------------------------------------------------------------------


def decoded(coded):
    codes = np.frombuffer(base64.b64decode(coded["codes"]), "<u2").astype(float)
    ends = np.array([coded["low"], coded["high"]])
    a, b = np.log(ends) if coded["log"] else ends
    part = codes / explorer.TOP
    values = a * (1 - part) + b * part
    values = np.exp(values) if coded["log"] else values
    values[codes == explorer.MISSING] = np.nan
    values[codes == explorer.INFINITE] = np.inf
    values[codes == explorer.WORSE] = -np.inf
    return values


@pytest.mark.parametrize(
    "values",
    [
        [0.1, 0.972, NAN, 1.0],
        [3.5, np.inf, 1e12, -np.inf],
        [-2.0, 5.0, 0.0],
        [NAN, NAN],
        [7.0],
        [-1e308, 1e308],
    ],
)
def test_codes_keep_numbers_to_what_a_screen_shows(values):
    found, values = decoded(explorer.coded(np.array(values))), np.array(values)
    finite = np.isfinite(values)
    np.testing.assert_array_equal(found[~finite], values[~finite])
    if finite.any():
        within = np.ptp(values[finite] / 2) / explorer.TOP
        np.testing.assert_allclose(found[finite] / 2, values[finite] / 2, rtol=1e-3, atol=within)


def test_thinned_curves_keep_their_ends():
    for most in (8, 20, 200):
        at = explorer.thinned(5000, most)
        assert at[0] == 0 and at[-1] == 4999 and len(at) <= most and np.all(np.diff(at) > 0)
    np.testing.assert_array_equal(explorer.thinned(5, 8), np.arange(5))


def test_the_data_hold_every_run_that_has_begun():
    ds = surface(sizes=3, rates=4)
    ds["accuracy"][0, 1, 2] = NAN  # still in training: it has curves
    for name in ("accuracy", "train_loss", "test_loss", "train_accuracy", "test_accuracy"):
        ds[name][2, 3] = NAN  # never began
    found = explorer.data(View(ds))
    assert found["runs"] == list(range(33))
    assert [axis["labels"] for axis in found["axes"]] == [
        ["2", "4", "8"],
        ["2^-5", "2^-4", "2^-3", "2^-2"],
    ]
    scores = decoded(found["columns"][0])
    np.testing.assert_allclose(scores, ds["accuracy"].values.reshape(-1)[:33], atol=1e-5)
    (curve,) = [one for one in found["curves"] if one["label"] == "test accuracy"]
    expected = ds["test_accuracy"].values.reshape(-1, 10)[:33]
    np.testing.assert_allclose(decoded(curve).reshape(33, 10), expected, atol=1e-5)
    best = View(ds).best.where
    i, j = divmod(found["best"], 4)
    assert (2.0 ** (i + 1), 2.0 ** (j - 5)) == (best["batch_size"], best["base_lr"])


def test_the_data_of_a_sweep_that_has_not_begun_are_none():
    assert explorer.embedded(View(surface(sizes=2, rates=2).where(False))) == ""


def large():
    """2 x 10 x 10 x 10 cells of 5 seeds with 60 epochs: 10^4 runs."""
    cells = np.random.default_rng(0).uniform(0.2, 0.9, (2, 10, 10, 10, 5))
    axes = {
        "rule": ["sgd", "adam"],
        "batch_size": [2**k for k in range(10)],
        "base_lr": [2.0**-k for k in range(10)],
        "weight_decay": [0.0, *(10.0**-k for k in range(9))],
    }
    return results(cells, axes, epochs=60)


def test_ten_thousand_runs_fit_a_page():
    assert len(explorer.embedded(View(large()))) < 3.5e6


def test_watching_writes_again_until_the_sweep_ends(tmp_path, monkeypatch, capsys):
    ds = surface(sizes=2, rates=2, seeds=1)
    whole = ds.assign(epochs_done=ds["diverged"] * 0 + 10, finished=ds["diverged"] | True)
    part = whole.assign(accuracy=whole["accuracy"].where(whole["batch_size"] < 4))
    states, pages = iter([(part, fcntl.LOCK_EX), (whole, fcntl.LOCK_UN)]), []
    lock = os.open(tmp_path / ".lock", os.O_CREAT)  # as a sweep holds it while it works there

    def next_state(seconds):
        pages.append((tmp_path / "report.html").read_text() if seconds else "")
        results, held = next(states)
        results.to_netcdf(tmp_path / "results.nc", engine="h5netcdf")
        fcntl.flock(lock, held)

    next_state(0)
    monkeypatch.setattr(time, "sleep", next_state)
    assert main(["report", str(tmp_path), "--watch"]) == 0
    os.close(lock)
    pages.append((tmp_path / "report.html").read_text())
    assert ['http-equiv="refresh"' in page for page in pages] == [False, True, False]
    assert "2 of 4 runs have results" in pages[1] and "4 of 4 runs have results" in pages[2]
    assert main(["report", str(tmp_path), str(tmp_path.parent), "--watch"]) == 2
    assert "--watch: follows one sweep" in capsys.readouterr().err


# --- in a browser --------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(browser.BINARY is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def chromium():
    with browser.Browser() as one:
        yield one


@pytest.fixture(scope="module")
def grid_page(tmp_path_factory):
    """A page of eight batch sizes and nine base LRs, three seeds each."""
    directory = tmp_path_factory.mktemp("grid")
    return report.write_report(surface(config={"name": "grid"}), directory, {"status": "done"})[0]


def luminance(colour):
    """Relative luminance by WCAG 2.1 of ``rgb(r, g, b)``."""
    part = np.array([float(v) for v in re.findall(r"[\d.]+", colour)[:3]]) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


CONTRASTS = """
[...document.querySelectorAll("h1,h2,p,td,th,label,summary,button,select,a,li,small,figcaption")]
  .filter((e) => e.checkVisibility() && e.textContent.trim() && !e.disabled && !e.closest(".dim"))
  .map((e) => {
    let back = e;
    const colour = (n) => getComputedStyle(n).backgroundColor;
    while (back && /, 0\\)$|transparent/.test(colour(back))) back = back.parentElement;
    return [getComputedStyle(e).color, back ? colour(back) : "rgb(255,255,255)",
            e.tagName + " " + e.textContent.trim().slice(0, 30)];
  })
"""


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_loads_nothing_and_contrasts(chromium, grid_page, dark):
    chromium.open(grid_page, dark=dark)
    assert chromium.errors == []
    assert all(url.startswith(("file:", "data:")) for url in chromium.requests)
    assert [url for url in chromium.requests if url.startswith("file:")] == [grid_page.as_uri()]
    background = chromium.run("getComputedStyle(document.body).backgroundColor")
    assert (luminance(background) < 0.1) == dark
    for colour, back, text in chromium.run(CONTRASTS):
        low, high = sorted((luminance(colour), luminance(back)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, colour, back)


@needs_browser
def test_the_finding_and_the_map_are_above_the_fold(chromium, grid_page):
    chromium.open(grid_page)
    for selector in (".finding", "table.map", "#detail svg"):
        bottom = f"document.querySelector({selector!r}).getBoundingClientRect().bottom"
        assert chromium.run(bottom) <= 768
    assert not chromium.run("document.getElementById('static').open")


@needs_browser
def test_a_cell_shows_its_seeds_and_a_click_keeps_it(chromium, grid_page):
    chromium.open(grid_page)
    chromium.hover("table.map tbody tr:nth-child(5) td:nth-child(4)")
    readout = chromium.run("document.querySelector('.readout').textContent")
    assert readout.startswith("m 8, η̃ 2⁻⁶: ") and "3 seeds" in readout
    lines = "document.querySelectorAll('#detail svg polyline').length"
    assert chromium.run(lines) == 4  # three seeds and their median
    chromium.click("table.map tbody tr:nth-child(5) td:nth-child(4)")
    chromium.hover("table.map tbody tr:nth-child(7) td:nth-child(2)")
    assert chromium.run(lines) == 8
    chromium.run("document.querySelector('#detail .legend button').click()")
    assert chromium.run(lines) == 4


@needs_browser
def test_the_keyboard_reaches_every_cell(chromium, grid_page):
    chromium.open(grid_page)
    chromium.run("document.querySelector('table.map td[tabindex=\"0\"]').focus()")
    before = chromium.run("document.activeElement.dataset.place")
    for name in ("ArrowRight", "ArrowDown"):
        chromium.key(name)
    i, j = map(int, before.split(","))
    assert chromium.run("document.activeElement.dataset.place") == f"{i + 1},{j + 1}"
    label = chromium.run("document.activeElement.getAttribute('aria-label')")
    readout = chromium.run("document.querySelector('.readout').textContent")
    assert readout.split(":")[0] == label.split(":")[0]
    chromium.key("Enter")
    assert chromium.run("document.activeElement.getAttribute('aria-selected')") == "true"


def column(chromium, n):
    """The texts of a column of the table of runs."""
    cells = f"document.querySelectorAll('table.runs tbody td:nth-child({n})')"
    return chromium.run(f"[...{cells}].map((e) => e.textContent)")


@needs_browser
def test_the_table_sorts_and_filters(chromium, grid_page):
    chromium.open(grid_page)
    scores = [float(text) for text in column(chromium, 4)]
    assert len(scores) == 25 and scores == sorted(scores, reverse=True)
    chromium.click("table.runs th:nth-child(4) button")
    scores = [float(text) for text in column(chromium, 4)]
    assert scores == sorted(scores) and scores[0] == 10
    assert (
        chromium.run("document.querySelector('table.runs th[aria-sort]').ariaSort") == "ascending"
    )
    chromium.click("table.runs .filters td:nth-child(4) input")
    chromium.type("> 80")
    scores = [float(text) for text in column(chromium, 4)]
    expected = int((surface()["accuracy"] > 0.8).sum())
    assert min(scores) > 80
    count = "document.querySelector('#runs .quiet').textContent"
    assert chromium.run(count) == f"{expected} of 216 runs"
    chromium.run(
        "const s = document.querySelector('table.runs .filters select');"
        "s.value = 2; s.dispatchEvent(new Event('change'))"
    )
    assert set(column(chromium, 1)) == {"8"}
    dimmed = chromium.run("document.querySelectorAll('table.map td.dim').length")
    assert dimmed == 7 * 9


@needs_browser
def test_a_choice_of_score_axes_and_scale(chromium, grid_page):
    chromium.open(grid_page)
    choose = (
        (
            "(i, value) => {{ const s = document.querySelectorAll('#overview select')[i];"
            "s.value = value; s.dispatchEvent(new Event('change')) }}"
        )
        .replace("{{", "{")
        .replace("}}", "}")
    )
    chromium.run(f"({choose})(2, 1)")  # base LRs across: batch sizes go up
    assert chromium.run("document.querySelectorAll('table.map tbody tr').length") == 8
    chromium.run(f"({choose})(1, 'lines')")
    assert chromium.run("document.querySelectorAll('#overview svg polyline').length") == 8
    losses = chromium.run(
        "[...document.querySelectorAll('#overview select')[0].options].findIndex((o) =>"
        "/test loss/.test(o.textContent))"
    )
    chromium.run(f"({choose})(0, {losses})")
    chromium.run("document.querySelector('#overview input[type=checkbox]').click()")
    assert "loss" in chromium.run("document.querySelector('#overview h2').textContent")
    assert chromium.errors == []


@needs_browser
def test_a_page_read_again_goes_on_where_its_reader_was(chromium, tmp_path):
    """As the page of ``--watch`` does while a sweep runs: the file is another one by then."""
    whole = surface(config={"name": "grid"})
    part = whole.assign(accuracy=whole["accuracy"].where(whole["batch_size"] < 64))
    page, *_ = report.write_report(part, tmp_path, {"status": "running"}, every=1000)
    chromium.open(page)
    chromium.run(
        "(() => { const s = document.querySelectorAll('#overview select')[1];"
        "s.value = 'lines'; s.dispatchEvent(new Event('change')) })()"
    )
    chromium.click("table.runs .filters td:nth-child(4) input")
    chromium.type("> 80")
    shown = len(column(chromium, 1))
    report.write_report(whole, tmp_path, {"status": "running"}, every=1000)
    chromium.reload()
    assert chromium.run("document.querySelectorAll('#overview svg polyline').length") > 1
    value = "document.querySelector('table.runs .filters td:nth-child(4) input').value"
    assert chromium.run(value) == "> 80"
    assert min(float(text) for text in column(chromium, 4)) > 80
    assert len(column(chromium, 1)) >= shown > 0 and chromium.errors == []


@needs_browser
def test_the_theme_can_be_chosen(chromium, grid_page):
    chromium.open(grid_page)
    background = "getComputedStyle(document.body).backgroundColor"
    chromium.click("#theme")
    assert luminance(chromium.run(background)) < 0.1
    chromium.click("#theme")
    assert luminance(chromium.run(background)) > 0.9


@needs_browser
def test_a_phone_needs_no_scrolling_aside(chromium, grid_page):
    chromium.open(grid_page, width=400, height=800)
    assert chromium.run("document.documentElement.scrollWidth") <= 400
    elements = "[...document.querySelectorAll('p, td, label')]"
    sizes = f"{elements}.map((e) => parseFloat(getComputedStyle(e).fontSize))"
    assert min(chromium.run(sizes)) >= 10


@needs_browser
def test_without_scripts_the_figures_are_there(chromium, grid_page):
    chromium.open(grid_page, scripts=False)
    # What scripts may not tell, the protocol does: the tree of the page as it is laid out.
    root = chromium.send("DOM.getDocument")["root"]["nodeId"]

    def find(selector):
        return chromium.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]

    top = chromium.send("DOM.getBoxModel", nodeId=find("#static img"))["model"]["content"][1]
    assert top < 768
    assert find("#explorer[hidden]") and find("#theme[hidden]") and find("#static[open]")


def explored(view, directory):
    """A page with nothing but what is explored: its figures would take most of the time."""
    places = [markup.tag("div", id=name, hidden="") for name in ("explorer", "explorer-more")]
    script = markup.Markup(explorer.embedded(view) + explorer.script())
    path = directory / "page.html"
    path.write_text(markup.page("explored", markup.join(places), script))
    return path


STATES = {
    "one axis": results(seeds(0.5, 0.7, 0.6), {"momentum": [0.0, 0.5, 0.9]}),
    "names": results(
        seeds([0.5, 0.7], [0.6, 0.4]), {"rule": ["<b>a</b>", "b"], "case": ["x", "y"]}
    ),
    "one seed": grid([[0.5, 0.6], [0.7, 0.8]]),
    "one run": results(0.5, {}).squeeze("seed", drop=True),
    "diverged": grid([[0.8, 0.1]], diverged=[[False, True]]),
    "all diverged": surface(2, 3).assign(diverged=lambda d: d["diverged"] | True),
    "five axes": results(
        np.linspace(0.1, 0.9, 32).reshape((2,) * 5),
        {"batch_size": [2, 4], "base_lr": [0.1, 0.2], "momentum": [0.0, 0.9], "case": ["a", "b"],
         "weight_decay": [0.0, 1e-4]},
    ),
    "partial": surface(2, 3).where(lambda d: d["batch_size"] < 4),
}  # fmt: skip


@needs_browser
@pytest.mark.parametrize("state", STATES)
def test_sweeps_of_every_shape_are_drawn(chromium, tmp_path, state):
    view = View(STATES[state].assign(diverged=STATES[state]["diverged"] == 1))
    path = explored(view, tmp_path)
    chromium.open(path)
    assert chromium.errors == []
    assert chromium.run("document.querySelectorAll('#detail svg').length")
    assert chromium.run("document.querySelectorAll('table.runs tbody tr').length")
    several = len(view.varying) > 2
    assert bool(chromium.run("document.querySelectorAll('#parallel path').length")) == several


@needs_browser
def test_ten_thousand_runs_stay_usable(chromium, tmp_path):
    path = explored(View(large()), tmp_path)
    chromium.open(path)
    assert chromium.errors == []
    assert (
        chromium.run("document.querySelector('#runs .quiet').textContent")
        == "10,000 of 10,000 runs"
    )
    milliseconds = chromium.run(
        "(() => { const t = performance.now();"
        "document.querySelector('table.runs th:nth-child(1) button').click();"
        "return performance.now() - t })()"
    )
    assert milliseconds < 2000  # tens on an idle machine
    assert chromium.run("document.querySelectorAll('*').length") < 3000
