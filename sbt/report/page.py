"""A finished (or interrupted) grid as one HTML file, with its figures and tables beside it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from sbt import implied
from sbt.errors import UserError
from sbt.files import write_text
from sbt.report import claims, explorer, figures, markup, tables, wording
from sbt.report.claims import FAILS, HOLDS, Verdict
from sbt.report.figures import MOST_SLICES, default_figures, plane
from sbt.report.finding import finding
from sbt.report.markup import BREAK, NOTHING, Markup, rich, tag
from sbt.report.measured import measured_figures
from sbt.report.style import Drawing
from sbt.report.view import BASE_LR, BATCH_SIZE, EPOCH, View, checked, spread_words
from sbt.text import capital

MOST_NAMED = 12  # values of an axis, in a sentence
DONE = ("done", "finished", "complete")


def write_report(
    ds: xr.Dataset,
    directory: Path | str,
    meta: Mapping[str, Any],
    advice: Markup = NOTHING,
    every: int = 0,
) -> list[Path]:
    """Writes figures, tables and ``report.html``; every file atomically.

    The page begins with the finding and views of the grid to explore; without JavaScript figures
    stand in their place.

    Args:
      ds: results of ``sbt.run``, finished or not.
      directory: the work directory; gets ``report.html``, ``figures/`` and ``tables/``.
      meta: what is known about the run, nested at will: ``status``, ``device``, ``versions``,
        ``examples_lanes_per_s``, ``compile_seconds``, ``wall_seconds``, ... Keys that end in
        ``seconds`` are shown as durations. Any ``status`` but ``done`` marks results as partial.
      advice: a part of the page that says what to use (:func:`sbt.advice.page.section`).
      every: seconds after which an open page reads its file again; 0: never.

    Returns:
      The files written, ``report.html`` first.

    Raises:
      UserError: the dataset is not one that ``sbt.run`` made.
    """
    directory, view = Path(directory), checked(ds)
    drawings, measured = default_figures(view), measured_figures(view)
    judged = claims.verdicts(view)
    frames = {view.score.name: tables.cell_table(view), "runs": tables.run_table(view)}
    if set(claims.SWEEP) <= set(view.varying):
        frames["batch_sizes"] = tables.batch_size_table(view)
    written = _save_figures([*drawings, *measured], directory)
    for name, frame in frames.items():
        path = directory / "tables" / f"{name}.csv"
        written.append(write_text(path, frame.to_csv(index=False, lineterminator="\n")))
    explored = explorer.embedded(view)
    parts = [
        _head(view, judged),
        _status(view, meta),
        tag("div", id="explorer", hidden="") if explored else NOTHING,
        _static(drawings, measured),
        tag("div", id="explorer-more", hidden="") if explored else NOTHING,
        *((VERDICTS, verdicts) if (verdicts := _verdicts(view, judged)) else ()),
        advice,
        _tables(view, frames.get("batch_sizes")),
        _method(view, view.score.margin(view.margin)),
        _machine(meta),
        _config(view),
    ]
    script = explored + explorer.script()
    path = _write_page(f"{view.name}: report", parts, directory, Markup(script), every)
    return [path, *written]


def write_comparison(
    datasets: Mapping[str, xr.Dataset], directory: Path | str, meta: Mapping[str, Any]
) -> list[Path]:
    """Writes a report that compares several grids.

    Best score and stable range of all grids in one figure each, then every grid's own sweep, and
    each one's verdicts. Grids that differ only in their epochs are also compared in pairs.

    Args:
      datasets: results by label, each with the axis ``batch_size``; further axes than this and
        ``base_lr`` are compared slice by slice.
      directory, meta: as for ``write_report``.

    Raises:
      UserError: a grid has no axis ``batch_size``, or its runs are ranked by another score.
    """
    directory = Path(directory)
    views = _slices({label: checked(ds) for label, ds in datasets.items()})
    ranged = {label: view for label, view in views.items() if BASE_LR in view.varying}
    drawings = [figures.best_score_summary(views)]
    if ranged:
        drawings.append(figures.stable_range_summary(ranged))
    for i, (label, view) in enumerate(ranged.items()):
        drawings.append(figures.sweep_figure(view, title=label, name=f"sweep_{i + 1}"))
    sections = []
    for label, view in views.items():
        if section := _verdicts(view, claims.verdicts(view)):
            sections += [tag("h3", label), _source(view), section]
    by_length = sorted(views.items(), key=lambda item: item[1].ds.sizes[EPOCH])
    for (a, short), (b, long) in pairwise(by_length):
        longer = short.ds.sizes[EPOCH] < long.ds.sizes[EPOCH]
        if longer and _all_but_epochs(short) == _all_but_epochs(long):
            verdict = claims.longer_training(short, long)
            sections += [tag("h3", f"{a} and {b}"), verdict_table([verdict])]
    written = _save_figures(drawings, directory)
    status = (tag("p", tag("b", label), ": ", rich(_progress(v))) for label, v in views.items())
    parts = [
        tag("h1", "Comparison"),
        tag("div", *status, class_="status"),
        *([VERDICTS, *sections] if sections else []),
        tag("h2", "Figures"),
        *(markup.figure(drawing, i + 1) for i, drawing in enumerate(drawings)),
        _method(next(iter(views.values())), "the margin"),
        _machine(meta),
    ]
    return [_write_page("Comparison", parts, directory), *written]


VERDICTS = tag("h2", "Verdicts", id="verdicts")


def _slices(views: Mapping[str, View]) -> dict[str, View]:
    found = {}
    (first, ranked), *others = ((label, _ranked_by(view)) for label, view in views.items())
    for label, words in others:
        if words != ranked:
            problem = f"is ranked by {words}, and {first} by {ranked}"
            raise UserError(label, problem, "compare grids of one score, or report each on its own")
    for label, view in views.items():
        if BATCH_SIZE not in view.axes:
            axes = ", ".join(view.axes) or "none"
            remedy = "compare grids that sweep it, or report each on its own"
            raise UserError(label, f"has no axis batch_size (axes: {axes})", remedy)
        for title, part in view.slices((BATCH_SIZE, BASE_LR)):
            bare = part.bare(BATCH_SIZE, BASE_LR)
            found[f"{label}, {title}" if title else label] = bare
    return found


def _ranked_by(view: View) -> str:
    score = view.score
    return f"{score.name} in {score.units}" if score.units else score.name


def _all_but_epochs(view: View) -> list[Any]:
    parts = ("data", "model", "rule", "schedule", "lr_scaling", "bn_batch")
    return [view.setting(part) for part in parts]


def _save_figures(drawings: Iterable[Drawing], directory: Path) -> list[Path]:
    return [path for drawing in drawings for path in drawing.save(directory / "figures")]


def _write_page(
    title: str, parts: Iterable[Markup], directory: Path, script: Markup = NOTHING, every: int = 0
) -> Path:
    body = markup.join(filter(None, parts), "\n")
    return write_text(directory / "report.html", markup.page(title, body, script, every))


def _scrolled(table: Markup) -> Markup:
    return tag("div", table, class_="scroll")


# --- what was trained, and how far it is ---------------------------------------------------------


def _head(view: View, judged: list[Verdict]) -> Markup:
    """The finding, and what it is about."""
    theme = tag("button", "Dark", id="theme", type="button", hidden="")
    lines = [_subtitle(view), _source(view, judged)]
    return tag(
        "header",
        tag("h1", view.name),
        theme,
        tag("p", rich(finding(view)), class_="finding"),
        *lines,
    )


def _static(drawings: list[Drawing], measured: list[Drawing]) -> Markup:
    """The figures for print: open where no script folds them away."""
    if not drawings and not measured:
        return tag("p", "No run has results yet.")
    numbered = [markup.figure(drawing, i + 1) for i, drawing in enumerate([*drawings, *measured])]
    of_measured = [tag("h3", "Measurements"), *numbered[len(drawings) :]] if measured else []
    parts = [*numbered[: len(drawings)], *of_measured]
    return markup.folded("Figures for print", *parts, id="static", open="")


def _subtitle(view: View) -> Markup:
    words = []
    for section in ("data", "model", "rule", "schedule"):
        if name := view.setting(f"{section}.name"):
            words.append(f"{section} {name}")
    epochs = view.ds.sizes.get(EPOCH, 0)
    words.append(f"{epochs} epoch" + "s" * (epochs != 1))
    for axis in view.axes:
        shown = [wording.label(axis, v) for v in view.ds[axis].values.tolist()]
        span = f"{shown[0]} … {shown[-1]} ({len(shown)})" if len(shown) > 5 else ", ".join(shown)
        words.append(f"{wording.plain(axis)} {span}")
        if axis == BATCH_SIZE and (length := view.tokens_per_example):
            ends = dict.fromkeys(length * int(view.ds[axis].values[i]) for i in (0, -1))
            words[-1] += f" ({' … '.join(map(str, ends))} tokens)"
    words.append(f"{view.seeds} seed{'s' * (view.seeds != 1)} per cell")
    return tag("p", rich(" · ".join(words)), class_="quiet")


def _progress(view: View) -> str:
    reported, best = view.reported, view.best_so_far
    diverged = int(view.cells["diverged"].sum())
    words = f"{int(reported.notnull().sum())} of {reported.size} runs have results; "
    words += f"{diverged} diverged ({figures.counted(view.score)})."
    if best:
        at = wording.place(best.where)
        cell = "Best cell by validation" if view.validated else "Best cell"
        cell += " so far, by its latest evaluations" * best.so_far
        words += f" {cell}: {view.score.text(best.value)}" + (f" at {at}." if at else ".")
    return words


def _unfinished(view: View) -> str:
    """How many runs are in training and how many have not begun, and where they are."""
    waiting = view.reported.isnull()
    trained = view.ds["train_loss"].notnull() & waiting
    begun = int(trained.any(EPOCH).sum())
    last = int(view.ds[EPOCH].where(trained).max().fillna(0))
    parts = []
    if last:
        parts.append(f"{begun} in training (up to epoch {last} of {view.ds.sizes[EPOCH]})")
    if rest := int(waiting.sum()) - begun:
        parts.append(f"{rest} not begun")
    words = f" Not finished: {', '.join(parts)}."
    free = view.varying
    if not free:
        return words
    axis = BATCH_SIZE if BATCH_SIZE in free else free[0]
    count = waiting.sum([d for d in waiting.dims if d != axis])
    share = waiting.size // view.ds.sizes[axis]
    where = [
        f"{int(n)} of {share} at {wording.label(axis, v)}"
        for v, n in zip(view.ds[axis].values.tolist(), count.values)
        if n
    ]
    shown = where if len(where) <= MOST_NAMED else [*where[:MOST_NAMED], "…"]
    return f"{words} By {wording.plain(axis)}: {', '.join(shown)}."


def _status(view: View, meta: Mapping[str, Any]) -> Markup:
    status = str(meta.get("status", "")).lower()
    missing = bool(view.reported.isnull().any())
    words = rich(_progress(view))
    if status in DONE:
        rest = " The others are not part of the grid." if missing else ""
        if "stopped_epoch" in view.ds:
            stopped = int(view.ds["stopped_epoch"].notnull().sum())
            never = int((view.ds["epochs_done"] == 0).sum())
            rest = f" The search stopped {stopped} before their end, and began {never} not at all."
        return tag("div", words, rest, class_="status")
    if not status and not missing:
        return tag("div", words, class_="status")
    lead = tag("b", f"Partial results: {status}." if status else "Partial results.")
    rests = " What follows rests on the runs so far. "
    unfinished = rich(_unfinished(view)) if missing else NOTHING
    return tag("div", lead, rests, words, unfinished, class_="status partial")


# --- verdicts ------------------------------------------------------------------------------------


def _source(view: View, judged: Sequence[Verdict] = ()) -> Markup:
    """The figure that the run reproduces, what it shows by its authors, and how that fared."""
    figure, caption = (str(view.setting(f"report.{key}", "")) for key in ("figure", "caption"))
    said = [rich(f"{figure}: {caption}.")] if figure and caption else []
    counts = [sum(v.verdict == one for v in judged) for one in (HOLDS, FAILS)]
    if judged:
        kinds = zip((*counts, len(judged) - sum(counts)), ("hold", "fail", "open"))
        told = ", ".join(f"{n} {word}" for n, word in kinds if n)
        said.append(tag("a", f"Statements judged: {told}.", href="#verdicts"))
    return tag("p", markup.join(said, " ")) if said else NOTHING


def _verdicts(view: View, found: list[Verdict]) -> Markup:
    lines = [tag("p", rich(line), class_="quiet") for line in claims.not_judged(view)]
    if not found:
        return markup.join(lines)
    lead = tag("p", "Decided by the numbers of this grid, with the rules under “Method”.")
    return markup.join([lead, *lines, rests_on(found), _scrolled(verdict_table(found))])


def verdict_table(found: list[Verdict]) -> Markup:
    """What was found, each with what it rests on where that is not the same for all."""
    same = len({verdict.scope for verdict in found}) == 1
    rows = []
    for verdict in found:
        kind = {HOLDS: "yes", FAILS: "no"}.get(verdict.verdict, "open")
        below = [tag("small", rich(verdict.subject))] if verdict.subject else []
        below.append(tag("small", verdict.source, class_="quiet"))
        head, undecided, rest = verdict.verdict.partition("not decidable ")
        words = [undecided.strip(), rest] if undecided else [head]
        outcome = tag("span", markup.join(words, BREAK), class_=f"verdict {kind}")
        reduced = [tag("small", "reduced run")] if verdict.reduced else []
        scope = [] if same else [tag("small", rich(verdict.scope), class_="quiet")]
        cells = (
            [rich(verdict.claim), *below],
            [outcome, *reduced],
            [rich(verdict.numbers), *scope],
        )
        rows.append(tag("tr", *(tag("td", markup.join(cell, BREAK)) for cell in cells)))
    names = tag("tr", *(tag("th", word) for word in ("Statement", "Verdict", "Measured")))
    return tag("table", tag("thead", names), tag("tbody", *rows))


def rests_on(found: Iterable[Verdict]) -> Markup:
    """How much of the source's protocol all verdicts rest on, and how many seeds."""
    scopes = {(verdict.scope, verdict.reduced) for verdict in found}
    if len(scopes) > 1:
        return NOTHING  # each says it
    [(scope, reduced)] = scopes
    if not reduced:
        return tag("p", rich(f"They rest on {scope}."))
    covers = tag("b", "This run covers less than the paper's protocol")
    return tag("p", covers, rich(f": {scope}. Its verdicts are about this run alone."))


# --- numbers -------------------------------------------------------------------------------------


def _tables(view: View, per_batch_size: pd.DataFrame | None) -> Markup:
    parts = [_scores(view), _per_batch_size(view, per_batch_size), _laws(view)]
    return markup.folded("Tables", *filter(None, parts)) if any(parts) else NOTHING


def _scores(view: View) -> Markup:
    if not view.axes:
        return NOTHING
    score = view.score
    units = "percent" if score.percent else score.units
    of = f"Median over the seeds, in {units}" if units else "Median over the seeds"
    best = "best by validation" if view.validated else "best"
    parts = [
        tag("h3", f"{capital(score.long_name)} per cell"),
        tag(
            "p",
            f"{of}. Framed: {best}; bold: reliable (see “Method”); "
            "×n: n seeds diverged; –: no result. Every number is in ",
            tag("code", f"tables/{score.name}.csv"),
            ", every run in ",
            tag("code", "tables/runs.csv"),
            ".",
        ),
    ]
    axes = plane(view)
    down, across = reversed(axes) if len(axes) == 2 else ((axes or view.axes)[0], None)
    slices = view.slices(axes)
    for title, part in slices[:MOST_SLICES]:
        parts += [tag("h3", title)] if title else []
        parts.append(_scrolled(tables.grid_html(part, down, across)))
    if len(slices) > MOST_SLICES:
        parts.append(tag("p", "Further slices are in the CSV file."))
    return markup.join(parts, "\n")


def _per_batch_size(view: View, table: pd.DataFrame | None) -> Markup:
    if table is None:
        return NOTHING
    found = _scrolled(tables.batch_size_html(view, table))
    return markup.join([tag("h3", "Per batch size"), found])


def _laws(view: View) -> Markup:
    if not view.laws:
        return NOTHING
    table = _scrolled(tables.html_table(*implied.words(view.laws), "numbers"))
    return markup.join([tag("h3", implied.TITLE), tag("p", implied.ABOUT), table])


def _method(view: View, margin: str) -> Markup:
    last, score = view.setting("report.last_epochs", 5), view.score
    told = score.long_name
    usual = f"test {told}, median over the evaluations in the last {last} epochs of a run"
    of = view.reported.attrs.get("long_name") or usual
    counts = "is infinitely bad"
    if np.isfinite(score.diverged):
        counts = f"counts at {wording.guess_word(score)}"
    of_runs = (
        f"{capital(told)} of a run: {of}; a run whose loss was not finite {counts}. "
        f"{capital(told)} of a cell: median over seeds. {spread_words(view.seeds)}"
    )
    if view.validated:
        of_runs += " What is best or reliable is chosen by the validation split in the same way."
    most = "most accurate" if score.name == "accuracy" else "best"
    ranges = (
        f"Reliable: the loss of every seed stayed finite and the {told} is within {margin} of "
        "the best cell of the grid. Stable range: the contiguous reliable base learning rates "
        f"around the {most} one. Masters & Luschi (2018) state no numeric rule; this one is "
        "ours, and the verdict on the range is given at two margins."
    )
    counts_from = "a tenth of the margin"
    if score.name == "accuracy":
        counts_from = (
            "one binomial standard error of the test set (half a point if its size is unknown)"
        )
    better = (
        "Better: the two cells differ, on average over seeds, by more than "
        f"{counts_from}, and the 95 % interval of the difference is above zero. "
        f"At least three finished {wording.plain(BATCH_SIZE)}s decide a trend."
    )
    return markup.join([tag("h2", "Method"), *(tag("p", p) for p in (of_runs, ranges, better))])


def _machine(meta: Mapping[str, Any]) -> Markup:
    rows = list(markup.flat(meta))
    return (
        markup.folded("Hardware and speed", tables.html_table(("", ""), rows)) if rows else NOTHING
    )


def _config(view: View) -> Markup:
    config = view.config
    text = "\n".join(
        json.dumps({key: config[key]}, indent=1, default=str, ensure_ascii=False)[2:-2]
        for key in sorted(config)
    )
    return markup.folded("Configuration", tag("pre", text)) if config else NOTHING
