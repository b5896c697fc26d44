"""A finished (or interrupted) grid as one HTML file, with its figures and tables beside it."""

import json
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import xarray as xr

from sbt.errors import UserError
from sbt.files import write_text
from sbt.report import claims, comparisons, dataset, markup, paper, scales, summary, tables
from sbt.report.checks import checked
from sbt.report.choose import MOST_SLICES, default_figures, plane
from sbt.report.dataset import BASE_LR, BATCH_SIZE, EPOCH
from sbt.report.figures import sweep_figure
from sbt.report.markup import BREAK, NOTHING, Markup, tag
from sbt.report.measured import measured_figures
from sbt.report.style import Drawing
from sbt.report.verdict import FAILS, HOLDS, Verdict
from sbt.results import best_cell
from sbt.text import one_line

MOST_NAMED = 12  # values of an axis, in a sentence
DONE = ("done", "finished", "complete")


def write_report(ds: xr.Dataset, directory: Path | str, meta: Mapping[str, Any]) -> list[Path]:
    """Writes figures, tables and ``report.html``; every file atomically.

    Args:
      ds: results of ``sbt.run``, finished or not.
      directory: the work directory; gets ``report.html``, ``figures/`` and ``tables/``.
      meta: what is known about the run, nested at will: ``status``, ``device``, ``versions``,
        ``examples_lanes_per_s``, ``compile_seconds``, ``wall_seconds``, ... Keys that end in
        ``seconds`` are shown as durations. Any ``status`` but ``done`` marks results as partial.

    Returns:
      The files written, ``report.html`` first.

    Raises:
      UserError: the dataset is not one that ``sbt.run`` made.
    """
    directory, ds = Path(directory), checked(ds)
    margin = dataset.margin_of(ds)
    drawings = default_figures(ds, margin)
    found = claims.verdicts(ds, margin)
    measured = measured_figures(ds)
    written = _save_figures([*drawings, *measured], directory)
    made = [tables.cell_table(ds), tables.run_table(ds), tables.batch_size_table(ds, margin)]
    written += _save_tables((table for table in made if table is not None), directory)
    name = one_line(ds.attrs.get("name") or dataset.setting(ds, "name", "sweep"))
    parts = [
        tag("h1", name),
        _subtitle(ds),
        _status(ds, meta),
        _verdicts(ds, found),
        tag("h2", "Figures"),
        *(markup.figure(drawing, i + 1) for i, drawing in enumerate(drawings)),
        NOTHING if drawings else tag("p", "No run has results yet."),
        *_measured(measured, len(drawings)),
        _accuracy(ds, margin),
        _method(ds, margin),
        _machine(meta),
        _config(ds),
    ]
    html = markup.page(f"{name}: report", markup.join(filter(None, parts), "\n"))
    return [write_text(directory / "report.html", html), *written]


def write_comparison(
    datasets: Mapping[str, xr.Dataset], directory: Path | str, meta: Mapping[str, Any]
) -> list[Path]:
    """Writes a report that compares several grids (Masters & Luschi, Figs 15 to 18).

    Best accuracy and stable range of all grids in one figure each, then every grid's own sweep, and
    each one's verdicts. Grids that differ only in their epochs are also compared in pairs.

    Args:
      datasets: results by label, each with the axis ``batch_size``; further axes than this and
        ``base_lr`` are compared slice by slice.
      directory, meta: as for ``write_report``.

    Raises:
      UserError: a grid has no axis ``batch_size``.
    """
    directory = Path(directory)
    datasets = _slices({label: checked(ds) for label, ds in datasets.items()})
    ranged = {k: d for k, d in datasets.items() if BASE_LR in dataset.varying(d)}
    drawings = [comparisons.best_accuracy_summary(datasets)]
    if ranged:
        drawings.append(comparisons.stable_range_summary(ranged))
    for i, (label, ds) in enumerate(ranged.items()):
        drawings.append(sweep_figure(ds, title=label, name=f"sweep_{i + 1}"))
    sections = []
    for label, ds in datasets.items():
        section = _verdicts(ds, claims.verdicts(ds), heading=False)
        if section:
            sections += [tag("h3", label), section]
    by_length = sorted(datasets.items(), key=lambda item: item[1].sizes[EPOCH])
    for (a, short), (b, long) in pairwise(by_length):
        longer = short.sizes[EPOCH] < long.sizes[EPOCH]
        if longer and _setting_but_epochs(short) == _setting_but_epochs(long):
            verdict = claims.longer_training(short, long)
            sections += [tag("h3", f"{a} and {b}"), _verdict_table([verdict])]
    written = _save_figures(drawings, directory)
    status = (
        tag("p", tag("b", label), ": ", markup.rich(_progress(ds)))
        for label, ds in datasets.items()
    )
    parts = [
        tag("h1", "Comparison"),
        tag("div", *status, class_="status"),
        *([VERDICTS, *sections] if sections else []),
        tag("h2", "Figures"),
        *(markup.figure(drawing, i + 1) for i, drawing in enumerate(drawings)),
        _method(next(iter(datasets.values())), None),
        _machine(meta),
    ]
    html = markup.page("Comparison", markup.join(filter(None, parts), "\n"))
    return [write_text(directory / "report.html", html), *written]


def _measured(drawings: list[Drawing], before: int) -> list[Markup]:
    figures = [markup.figure(drawing, before + i + 1) for i, drawing in enumerate(drawings)]
    return [tag("h2", "Measurements"), *figures] if figures else []


VERDICTS = tag("h2", "Verdicts")


def _slices(datasets: Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    found = {}
    for label, ds in datasets.items():
        if BATCH_SIZE not in dataset.axes(ds):
            axes = ", ".join(dataset.axes(ds)) or "none"
            remedy = "compare grids that sweep it, or report each on its own"
            raise UserError(label, f"has no axis batch_size (axes: {axes})", remedy)
        for title, part in dataset.facets(ds, (BATCH_SIZE, BASE_LR)):
            bare = dataset.without_singletons(part, keep=(BATCH_SIZE, BASE_LR))
            found[f"{label}, {title}" if title else label] = bare
    return found


def _setting_but_epochs(ds: xr.Dataset) -> dict[str, Any]:
    parts = ("data", "model", "rule", "schedule", "lr_scaling", "bn_batch")
    return {part: dataset.setting(ds, part) for part in parts}


def _save_figures(drawings: Iterable[Drawing], directory: Path) -> list[Path]:
    return [path for drawing in drawings for path in drawing.save(directory / "figures")]


def _save_tables(made: Iterable[tables.Table], directory: Path) -> list[Path]:
    return [write_text(directory / "tables" / f"{t.name}.csv", t.csv()) for t in made]


def _subtitle(ds: xr.Dataset) -> Markup:
    words = []
    for path in ("data.name", "model.name", "rule.name", "schedule.name"):
        section, value = path.split(".")[0], dataset.setting(ds, path)
        if value:
            words.append(f"{section} {value}")
    words.append(f"{ds.sizes.get(EPOCH, 0)} epochs")
    for axis in dataset.axes(ds):
        values = ds[axis].values.tolist()
        shown = [scales.label(axis, v) for v in values]
        span = f"{shown[0]} … {shown[-1]} ({len(shown)})" if len(shown) > 5 else ", ".join(shown)
        words.append(f"{scales.plain(axis)} {span}")
    seeds = ds.sizes.get(dataset.SEED, 1)
    words.append(f"{seeds} seed{'s' * (seeds != 1)} per cell")
    return tag("p", markup.rich(" · ".join(words)), class_="quiet")


def _progress(ds: xr.Dataset) -> str:
    total, ended = ds["accuracy"].size, int(ds["accuracy"].notnull().sum())
    diverged = int(ds["diverged"].fillna(False).astype(bool).sum())
    best = best_cell(ds)
    words = f"{ended} of {total} runs have results; {diverged} diverged (counted at chance)."
    if best:
        at = ", ".join(f"{scales.plain(a)} {scales.label(a, v)}" for a, v in best.where.items())
        cell = "Best cell so far, by its latest evaluations" if best.so_far else "Best cell"
        words += f" {cell}: {100 * best.accuracy:.1f} %" + (f" at {at}." if at else ".")
    return words


def _unfinished(ds: xr.Dataset) -> str:
    """How many runs are in training and how many have not begun, and where they are."""
    waiting = ds["accuracy"].isnull()
    trained = ds["train_loss"].notnull() & waiting
    begun = trained.any(EPOCH)
    last = int(ds[EPOCH].where(trained).max().fillna(0))
    parts = [f"{int(begun.sum())} in training (up to epoch {last} of {ds.sizes[EPOCH]})"] * bool(
        last
    )
    rest = int(waiting.sum()) - int(begun.sum())
    parts += [f"{rest} not begun"] * bool(rest)
    words = f" Not finished: {', '.join(parts)}."
    free = dataset.varying(ds)
    if not free:
        return words
    axis = BATCH_SIZE if BATCH_SIZE in free else free[0]
    count = waiting.sum([d for d in waiting.dims if d != axis])
    share = waiting.size // ds.sizes[axis]
    where = [
        f"{int(n)} of {share} at {scales.label(axis, v)}"
        for v, n in zip(ds[axis].values.tolist(), count.values)
        if n
    ]
    shown = where if len(where) <= MOST_NAMED else [*where[:MOST_NAMED], "…"]
    return f"{words} By {scales.plain(axis)}: {', '.join(shown)}."


def _status(ds: xr.Dataset, meta: Mapping[str, Any]) -> Markup:
    status = str(meta.get("status", "")).lower()
    missing = bool(ds["accuracy"].isnull().any())
    words = markup.rich(_progress(ds))
    if status in DONE:
        rest = " The others are not part of the grid." if missing else ""
        return tag("div", words, rest, class_="status")
    if status or missing:
        lead = tag("b", f"Partial results: {status}." if status else "Partial results.")
        rests = " What follows rests on the runs so far. "
        open_ = markup.rich(_unfinished(ds)) if missing else NOTHING
        return tag("div", lead, rests, words, open_, class_="status partial")
    return tag("div", words, class_="status")


def _verdict_table(found: Iterable[Verdict]) -> Markup:
    """What was found, each with what it rests on where that is not the same for all."""
    rows, found = [], list(found)
    same = len({verdict.scope for verdict in found}) == 1
    for verdict in found:
        kind = {HOLDS: "yes", FAILS: "no"}.get(verdict.verdict, "open")
        below = [tag("small", markup.rich(verdict.subject))] if verdict.subject else []
        below.append(tag("small", verdict.source, class_="quiet"))
        head, open_, rest = verdict.verdict.partition("not decidable ")
        words = [open_.strip(), rest] if open_ else [head]
        outcome = tag("span", markup.join(words, BREAK), class_=f"verdict {kind}")
        reduced = [tag("small", "reduced run")] if verdict.reduced else []
        scope = [] if same else [tag("small", markup.rich(verdict.scope), class_="quiet")]
        rows.append(
            tag(
                "tr",
                tag("td", markup.join([markup.rich(verdict.claim), *below], BREAK)),
                tag("td", markup.join([outcome, *reduced], BREAK)),
                tag("td", markup.join([markup.rich(verdict.numbers), *scope], BREAK)),
            )
        )
    names = tag("tr", *(tag("th", word) for word in ("Statement", "Verdict", "Measured")))
    return tag("table", tag("thead", names), tag("tbody", *rows))


def _verdicts(ds: xr.Dataset, found: list[Verdict], *, heading: bool = True) -> Markup:
    if not found:
        return NOTHING
    outcome = paper.outcome_of(ds)
    lead = [tag("p", "Decided by the numbers of this grid, with the rules under “Method”.")]
    if outcome is not None:
        says = f"Masters & Luschi (2018), {outcome.name}: {outcome.says}."
        lead.append(tag("p", markup.rich(says)))
    parts = [*lead, _rests_on(found), _verdict_table(found)]
    return markup.join([VERDICTS if heading else NOTHING, *parts])


def _rests_on(found: Iterable[Verdict]) -> Markup:
    """How much of the paper's protocol all verdicts rest on, and how many seeds."""
    scopes = {(verdict.scope, verdict.reduced) for verdict in found}
    if len(scopes) > 1:
        return NOTHING  # each says it
    [(scope, reduced)] = scopes
    if not reduced:
        return tag("p", markup.rich(f"They rest on {scope}."))
    covers = tag("b", "This run covers less than the paper's protocol")
    return tag("p", covers, markup.rich(f": {scope}. Its verdicts are about this run alone."))


def _accuracy(ds: xr.Dataset, margin: float) -> Markup:
    if not dataset.axes(ds):
        return NOTHING
    parts = [
        tag("h2", "Accuracy per cell"),
        tag(
            "p",
            "Median over the seeds, in percent. Framed: best; bold: reliable (see “Method”); "
            "×n: n seeds diverged; –: no result. Every number is in ",
            tag("code", "tables/accuracy.csv"),
            ", every run in ",
            tag("code", "tables/runs.csv"),
            ".",
        ),
    ]
    axes = plane(ds)
    down, across = reversed(axes) if len(axes) == 2 else ((axes or dataset.axes(ds))[0], None)
    for i, (title, part) in enumerate(dataset.facets(ds, axes)):
        if i == MOST_SLICES:
            parts.append(tag("p", "Further slices are in the CSV file."))
            break
        grid = tables.grid_html(part, down, across, margin)
        parts += [tag("h3", title)] if title else []
        parts.append(tag("div", grid, class_="scroll"))
    table = tables.batch_size_table(ds, margin)
    if table is not None:
        rows = [[_entry(h, v) for h, v in zip(table.header, row)] for row in table.rows]
        html = tables.html_table([h.replace("_", " ") for h in table.header], rows, "numbers")
        parts += [tag("h3", "Per batch size"), tag("div", html, class_="scroll")]
    return markup.join(parts, "\n")


def _entry(header: str, value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else ""
    if "accuracy" in header:
        return f"{100 * value:.1f} %"
    rate = header in ("best_base_lr", "stable_from", "stable_to")
    return scales.label(BASE_LR if rate else header, value)


def _method(ds: xr.Dataset, margin: float | None) -> Markup:
    last = dataset.setting(ds, "report.last_epochs", 5)
    usual = f"test accuracy, median over the evaluations in the last {last} epochs of a run"
    of = ds["accuracy"].attrs.get("long_name") or usual
    points = "the margin" if margin is None else f"{100 * margin:g} points"
    of_runs = (
        f"Accuracy of a run: {of}; a run whose loss was not finite counts at chance. Accuracy of a "
        f"cell: median over seeds. {summary.spread_words(ds)}"
    )
    ranges = (
        f"Reliable: the loss of every seed stayed finite and the accuracy is within {points} of "
        "the best cell of the grid. Stable range: the contiguous reliable base learning rates "
        "around the most accurate one. The paper states no numeric rule; this one is ours, and "
        "the verdict on the range is given at two margins."
    )
    better = (
        "Better: the bands of the two cells do not overlap and their medians differ by more "
        "than one binomial standard error of the test set (half a point if its size is unknown). "
        f"At least three finished {scales.plain(BATCH_SIZE)}s decide a trend."
    )
    return markup.join([tag("h2", "Method"), *(tag("p", p) for p in (of_runs, ranges, better))])


def _machine(meta: Mapping[str, Any]) -> Markup:
    rows = list(markup.flat(meta))
    table = [tag("h2", "Hardware and speed"), tables.html_table(("", ""), rows)]
    return markup.join(table if rows else [])


def _config(ds: xr.Dataset) -> Markup:
    config = dataset.config_of(ds)
    text = "\n".join(
        json.dumps({key: config[key]}, indent=1, default=str)[2:-2] for key in sorted(config)
    )
    return markup.join([tag("h2", "Configuration"), tag("pre", text)] if config else [])
