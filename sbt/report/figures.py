"""The figures of a grid: the score along its axes, learning curves, and grids compared.

``default_figures`` chooses by the axes that a grid has. The layouts are those of Masters & Luschi
(2018): both views of a sweep side by side (Figs 1-3, 5-11), learning curves (Fig. 4), the score
along the BN batch (Fig. 13), best score and stable range of several grids (Figs 15, 16).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from sbt.errors import UserError
from sbt.report import scales, style, wording
from sbt.report.branching import START, TOLERANCE, border
from sbt.report.scales import Ordinate
from sbt.report.seeds import gains
from sbt.report.style import Drawing
from sbt.report.view import (
    BASE_LR,
    BATCH_SIZE,
    BN_BATCH,
    EPOCH,
    SEED,
    View,
    spread,
    spread_words,
    where_best,
)
from sbt.results import LOSS, TEST, TRAIN, VALIDATION, curve
from sbt.tasks.score import Score
from sbt.text import capital

# More slices than this make a page that nobody reads; the tables have them all.
MOST_SLICES = 6
# More curves than markers could not be told apart: then they spread over panels of so many.
MOST_CURVES = 13
CURVES_PER_PANEL = 8
_BAND, _ROW = ("median", "low", "high"), ("score", "low", "high")


def plane(view: View) -> tuple[str, ...]:
    """The one or two axes that figures of a grid run along; the others are sliced.

    Batch size and base LR if both vary; else the BN batch with the batch size; else whatever
    varies, a numeric axis with more values before one with fewer, names last.
    """
    for pair in ((BATCH_SIZE, BASE_LR), (BN_BATCH, BATCH_SIZE)):
        if set(pair) <= set(view.varying):
            return pair

    def rank(axis: str) -> tuple[bool, bool, int]:
        usual = axis in (BATCH_SIZE, BASE_LR)
        return not view.is_numeric(axis), not usual, -view.ds.sizes[axis]

    return tuple(sorted(view.varying, key=rank)[:2])


def default_figures(view: View) -> list[Drawing]:
    """The figures of a report.

    A grid of batch sizes and base LRs gets both views of the sweep, the best score, the stable
    range and learning curves; any other two axes get both views; one axis gets one; a single point
    gets learning curves only. Further axes are sliced, and compared where there is a comparison;
    a sweep of branches from checkpoints gets what they cost; a sweep of more slices than
    ``MOST_CURVES``, all update rules for instance, is about the comparison, and gets that alone.
    """
    if not bool(view.ds[curve(TEST, view.score.name)].notnull().any()):
        return []
    finished = bool(view.reported.notnull().any())
    if finished and {START, BATCH_SIZE} <= set(view.varying):
        return [branching_figure(view)]
    axes = plane(view)
    slices = view.slices(axes)
    swept = finished and axes == (BATCH_SIZE, BASE_LR)
    if swept and len(slices) > MOST_CURVES:
        return [best_score_summary(dict(slices))]
    shown = [
        (title, part, f"_{i + 1}" if len(slices) > 1 else "")
        for i, (title, part) in enumerate(slices[:MOST_SLICES])
    ]
    found: list[Drawing] = []
    if finished:
        for title, part, suffix in shown:
            found += _along(part, axes, title, suffix)
    if swept:
        compared = [best_score_summary(dict(slices)), stable_range_summary(dict(slices))]
        # Where there is something to compare, the comparison is the point of the sweep.
        found = [*compared, *found] if len(slices) > 1 else [*found, *compared]
        if BN_BATCH in view.varying:
            parts = view.slices((*axes, BN_BATCH))[:MOST_SLICES]
            found += [
                bn_batch_figure(part, title, f"bn_batch_{i + 1}")
                for i, (title, part) in enumerate(parts)
            ]
    pinned = view.setting("report.curves_base_lr")
    return found + [
        learning_curves(part, pinned, title=title, name=f"learning_curves{suffix}")
        for title, part, suffix in shown
    ]


def _along(view: View, axes: tuple[str, ...], title: str, suffix: str) -> list[Drawing]:
    if not axes:
        return []
    if axes == (BN_BATCH, BATCH_SIZE):
        return [bn_batch_figure(view, title, f"bn_batch{suffix}")]
    first, second = axes if len(axes) == 2 else (axes[0], None)
    if second and view.is_numeric(second):
        return [sweep_figure(view, (first, second), title, f"sweep{suffix}")]
    return [score_vs(view, first, second, title, f"{view.score.name}_vs_{first}{suffix}")]


# --- the score along the axes of one grid --------------------------------------------------------


def score_vs(
    view: View, x: str, curves: str | None = None, title: str = "", name: str = ""
) -> Drawing:
    """The score against one axis, one curve per value of another.

    Args:
      view: a grid; its varying axes must be ``x`` and ``curves`` (select first otherwise).
      x: the axis along the abscissa.
      curves: the axis whose values get a curve each; None for a single curve.
      title: a heading, for instance the values at which other axes were fixed.
      name: file stem, ``<score>_vs_<x>`` by default.

    Raises:
      UserError: an axis is missing, or another axis still varies.
    """
    words = f"Test {view.score.long_name} against {wording.plain(x)}"
    words += f", one curve per {wording.plain(curves)}" if curves else ""
    view = _of_axes(view, x, curves)
    return _scores(view, [(x, curves)], words, title, name or f"{view.score.name}_vs_{x}")


def sweep_figure(
    view: View,
    axes: tuple[str, str] = (BATCH_SIZE, BASE_LR),
    title: str = "",
    name: str = "sweep",
) -> Drawing:
    """Both views of a two-axis grid side by side; the best cell carries a ring in each.

    Args:
      view: a grid whose varying axes are at most the two of ``axes``.
      axes: the two axes; the first is the abscissa on the left.
      title: a heading, for instance the values at which other axes were fixed.
      name: file stem.
    """
    first, second = axes
    left, right = wording.plain(first), wording.plain(second)
    words = (
        f"Test {view.score.long_name} (a) against {left}, one curve per {right}, and "
        f"(b) against {right}, one curve per {left}"
    )
    view = _of_axes(view, first, second)
    ring = ""
    if best := view.best:
        at = wording.place({axis: best.where[axis] for axis in axes})
        chosen = " (by validation)" if view.validated else ""
        ring = f" Ring: best cell{chosen}, {view.score.text(best.value)} at {at}."
    return _scores(view, [(first, second), (second, first)], words, title, name, ring)


def bn_batch_figure(view: View, title: str = "", name: str = "bn_batch") -> Drawing:
    """The score against the BN batch, one curve per SGD batch.

    Where base LRs were swept too, every point is the best base LR of its pair of batches.
    """
    words = (
        f"Test {view.score.long_name} against the number of examples that share batch statistics, "
        "one curve per SGD batch size"
    )
    words += ", each point at its best base learning rate" if BASE_LR in view.varying else ""
    view = _of_axes(view, BN_BATCH, BATCH_SIZE, BASE_LR)
    return _scores(view, [(BN_BATCH, BATCH_SIZE)], words, title, name)


def _of_axes(view: View, x: str, curves: str | None, *also: str) -> View:
    """The grid with only the wanted axes left; complains about any other that varies."""
    for axis in (x, curves):
        if axis is not None and axis not in view.axes:
            have = ", ".join(view.axes) or "none"
            raise UserError(axis, "is not an axis of this grid", f"axes that were swept: {have}")
    for axis in view.varying:
        if axis not in (x, curves, *also):
            problem = f"has {view.ds.sizes[axis]} values; a figure shows two axes"
            raise UserError(axis, problem, f"select one value first: ds.sel({axis}=...)")
    return view.bare(*(axis for axis in (x, curves, *also) if axis))


@style.styled
def _scores(
    view: View,
    panels: Sequence[tuple[str, str | None]],
    words: str,
    title: str,
    name: str,
    ring: str = "",
) -> Drawing:
    """Panels of the score along one axis, curves along another, with the words under them."""
    pair = len(panels) == 2
    figure, drawn = style.new_figure(style.WIDE if pair else style.SINGLE, len(panels))
    for panel, (x, curves) in zip(drawn, panels):
        _score_panel(panel, view, x, curves, ticks=9 if pair else 13)
    if pair:
        drawn[1].sharey(drawn[0])
        for letter, panel in zip("ab", drawn):
            panel.set_title(letter, loc="left", fontweight="bold")
    if title and pair:
        figure.suptitle(wording.literal(title, wording.HEADING), fontsize=9.5)
    elif title:
        drawn[0].set_title(wording.literal(title, wording.TITLE))
    note = spread_words(view.seeds)
    if bool(view.ds["diverged"].any()):
        note += f" Hollow marker: at least one seed diverged ({counted(view.score)})."
    style.footnote(figure, note)
    heading = f"{title}. " if title else ""
    return Drawing(name, figure, f"{heading}{words}. {note}{ring}")


def counted(score: Score) -> str:
    """What a run that diverged counts as."""
    known = np.isfinite(score.diverged)
    return f"counted at {wording.guess_word(score)}" if known else "counted as infinitely bad"


def _score_panel(panel: Axes, view: View, x: str, curves: str | None, ticks: int) -> None:
    cell = view.cells
    if BASE_LR in cell.dims and BASE_LR not in (x, curves):
        at = where_best(cell["gain"], BASE_LR)
        cell = cell.isel({BASE_LR: at}).drop_vars(BASE_LR)
    ordinate = Ordinate.of(view.score, (cell[name].values for name in _BAND))
    cell = ordinate.heights(cell, *_BAND)
    along = view.ds[x].values
    places = scales.positions(x, along)
    values = view.ds[curves].values if curves else np.array([np.nan])
    ordered = curves is not None and view.is_numeric(curves)
    for i, look in enumerate(style.looks(values.size, ordered)):
        row = cell.isel({curves: i}) if curves else cell
        text = wording.label(curves, values[i].item(), math=True) if curves else None
        style.banded(panel, places, row, look, text)
        diverged = (row["diverged"] > 0).values & row["median"].notnull().values
        _hollow(panel, places, row["median"].values, diverged, look, zorder=3)
    if best := view.best:
        where = places[int(np.flatnonzero(along == best.where[x])[0])]
        ring: dict[str, Any] = {"marker": "o", "markersize": 10, "mfc": "none", "mec": style.INK}
        panel.plot(where, ordinate.height(np.array(best.value)), zorder=4, **ring)
    ordinate.label(panel, f"test {view.score.long_name}")
    scales.set_scale(panel.xaxis, panel, x, along, ticks)
    if curves:
        style.legend(panel, wording.SYMBOLS.get(curves, wording.title(curves)))


def _hollow(
    panel: Axes, x: np.ndarray, y: np.ndarray, which: np.ndarray, look: Any, **extra: Any
) -> None:
    dots: dict[str, Any] = {"linestyle": "none", "marker": look["marker"], "color": look["color"]}
    panel.plot(x[which], y[which], markerfacecolor="white", **dots, **extra)


# --- learning curves -----------------------------------------------------------------------------


@style.styled
def learning_curves(
    view: View, base_lr: float | None = None, title: str = "", name: str = "learning_curves"
) -> Drawing:
    """Test score and training loss after every epoch; of few curves, both on both splits.

    The score of a validation split has a panel of its own; of few curves, a faint one beside them.

    Each batch size has a curve, or each value of the first axis that varies where batch sizes do
    not. Other axes are fixed at the best cell.

    Args:
      view: a grid.
      base_lr: the base LR to show, one of the grid's; by default the one with the best score
        averaged over the other axes, so that most batch sizes train.
      title: a heading.
      name: file stem.

    Raises:
      UserError: the grid has no such base LR.
    """
    free = view.varying
    curves = BATCH_SIZE if BATCH_SIZE in free else next(iter(free), None)
    ds, fixed = _at_best(view, base_lr, curves)
    count = ds.sizes[curves] if curves else 1
    few = count <= 3
    held_out = (VALIDATION,) if view.validated else ()
    drawn = [*((split, view.score.name) for split in (TEST, *held_out)), (TRAIN, LOSS)]
    if few:  # all splits in a panel
        drawn = list(dict.fromkeys(("", name) for _, name in drawn))
    size = (style.SINGLE, style.WIDE, style.WIDER)[len(drawn) - 1]
    figure, panels = style.new_figure(size, len(drawn))
    for panel, (split, metric) in zip(panels, drawn):
        splits = (split,) if split else (TEST, TRAIN, *held_out)
        _curve_panel(panel, ds, curves, [curve(one, metric) for one in splits])
        words = {TRAIN: "training "}.get(split, f"{split} " if split else "")
        if metric == view.score.name:
            Ordinate(view.score).label(panel, f"{words}{view.score.long_name}")
        else:
            panel.set_ylabel(_in_units(ds[curve(TEST, metric)], words))
        if metric == LOSS:
            losses = [np.asarray(line.get_ydata(), float) for line in panel.lines]
            scales.log_if_wide(panel, np.concatenate(losses), 10)
    if curves or few:
        style.legend(panels[-1], wording.title(curves) if curves else "")
    shown = [f"{wording.title(a)} = {wording.label(a, v, math=True)}" for a, v in fixed.items()]
    heading = wording.literal(title, wording.HEADING) if title else ""
    if heading := "; ".join(part for part in (heading, ", ".join(shown)) if part):
        figure.suptitle(heading, fontsize=9.5)
    note = spread_words(view.seeds)
    if few:
        note += " Training curves (faint) are running means over the epoch."
        note += " Dotted and faint: validation." * bool(held_out)
    if bool(ds["diverged"].any()):
        note += f" Cross: a seed diverged ({_ends(view.score)})."
    style.footnote(figure, note)
    at = wording.place(fixed)
    words = f"{title}. " if title else ""
    words += f"{_panel_words(view.score, few, bool(held_out))} against the epoch"
    words += f", one curve per {wording.plain(curves)}" if curves else ""
    words += f", at {at}" if at else ""
    return Drawing(name, figure, f"{words}. {note}")


def _panel_words(score: Score, few: bool, validated: bool) -> str:
    """What panels of learning curves show: of few curves all splits in each."""
    told = score.long_name
    if score.name == LOSS and few:
        return f"Training, validation and test {told}" if validated else f"Training and test {told}"
    if score.name == LOSS:
        return f"Test, validation and training {told}" if validated else f"Test and training {told}"
    if few:
        return f"{capital(told)} and loss"
    return f"Test {'and validation ' * validated}{told} and training loss"


def _ends(score: Score) -> str:
    """What becomes of the curves of a run that diverges."""
    counts = f"its {score.long_name} counts as {wording.guess_word(score)}, "
    return f"{counts if np.isfinite(score.diverged) else ''}its loss ends"


def _in_units(values: xr.DataArray, words: str) -> str:
    """What a curve of the test split holds, after these words for the split, with its units."""
    named = str(values.attrs.get("long_name", values.name)).replace("_", " ")
    label, units = words + named.removeprefix("test "), values.attrs.get("units")
    return wording.literal(f"{label} [{units}]" if units else label, wording.TITLE)


def _at_best(
    view: View, base_lr: float | None, curves: str | None
) -> tuple[xr.Dataset, dict[str, Any]]:
    """The results with only the axis of the curves left, and what was fixed at which value."""
    fixed: dict[str, Any] = {}
    if BASE_LR in view.axes and curves != BASE_LR:
        rates = view.ds[BASE_LR].values.astype(float)
        wanted = view.shared_base_lr if base_lr is None else float(base_lr)
        near = np.flatnonzero(np.isclose(rates, wanted, rtol=1e-6))
        if near.size == 0:
            have = ", ".join(wording.label(BASE_LR, r) for r in rates)
            raise UserError("base_lr", f"{wanted:g} is not in the grid", f"choose one of: {have}")
        fixed[BASE_LR] = float(rates[near[0]])
        view = View(view.ds.isel({BASE_LR: int(near[0])}))
    where = view.at_best(*(axis for axis in view.axes if axis != curves))
    fixed |= {axis: value for axis, value in where.items() if axis in view.varying}
    return view.ds.sel(where), fixed


def _curve_panel(panel: Axes, ds: xr.Dataset, curves: str | None, names: Sequence[str]) -> None:
    """Curves over epochs; of ``names`` the first are drawn in full, others faint."""
    values = ds[curves].values if curves else np.array([np.nan])
    ordered = curves is not None and np.issubdtype(values.dtype, np.number)
    every = max(1, ds.sizes[EPOCH] // 8)
    for i, look in enumerate(style.looks(values.size, ordered)):
        run = ds.isel({curves: i}) if curves else ds
        for faint, variable in enumerate(names):
            text = wording.label(curves, values[i].item(), math=True) if curves else ""
            if len(names) > 1:
                part = variable.split("_")[0]
                text = f"{text} {part}" if text else part
            # Evaluations may be several epochs apart: the line joins those that there are.
            # A loss that overflowed has no place on the axis.
            row = spread(run[variable].where(np.isfinite(run[variable])))
            row = row.isel({EPOCH: np.flatnonzero(row["median"].notnull().values)})
            extra: dict[str, Any] = {"markevery": (i % every, every)}
            if faint:
                extra = {"alpha": 0.5, "marker": ""} | ({"linestyle": ":"} if faint > 1 else {})
            style.banded(panel, row[EPOCH].values, row, look, text, **extra)
            if not faint:
                _crosses(panel, run, row["median"], look["color"])
    panel.set_xlabel("epoch")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))


def _crosses(panel: Axes, run: xr.Dataset, median: xr.DataArray, colour: str) -> None:
    # A run diverges inside an epoch; the curves have values at its end.
    at = np.unique(np.ceil(np.ravel(run["diverged_epoch"].values)))
    for epoch in at[np.isfinite(at)]:
        # The loss has no value from there on: the mark stands at the last one before.
        before = median.where(median[EPOCH] <= epoch).dropna(EPOCH)
        if before.size:
            x, y = max(float(epoch), 1.0), float(before[-1])
            panel.plot(x, y, marker="x", markersize=6, color=colour, zorder=4)


# --- several grids -------------------------------------------------------------------------------


@style.styled
def best_score_summary(views: Mapping[str, View]) -> Drawing:
    """The score at the best base LR against the batch size, one curve per grid.

    More than ``MOST_CURVES`` grids spread over panels, each with the others behind it in grey.

    Args:
      views: grids by label; each needs the axis ``batch_size`` and may have ``base_lr``.
    """
    count = -(-len(views) // CURVES_PER_PANEL) if len(views) > MOST_CURVES else 1
    size = style.SINGLE if count == 1 else (3.1 * count, 4.4)
    figure, panels = style.new_figure(size, columns=count)
    sizes = np.unique(
        np.concatenate([view.ds[BATCH_SIZE].values.astype(float) for view in views.values()])
    )
    score = next(iter(views.values())).score
    rows = {text: view.rows for text, view in views.items()}
    ordinate = Ordinate.of(score, (row[name].values for row in rows.values() for name in _ROW))
    share = -(-len(views) // count)
    texts = list(views)
    prefix = _common_words(texts) if count > 1 else ""
    for i, panel in enumerate(panels):
        mine = texts[i * share : (i + 1) * share]
        for text in texts:
            if text not in mine:
                grey = ordinate.height(rows[text]["score"].values)
                panel.plot(rows[text][BATCH_SIZE], grey, color="#cccccc", lw=0.7, zorder=1.5)
        for text, look in zip(mine, style.looks(len(mine), ordered=False)):
            label = wording.literal(text.removeprefix(prefix))
            _best_curve(panel, ordinate.heights(rows[text], *_ROW), look, label or None)
        ordinate.label(panel, f"best test {score.long_name}", guess=False)
        scales.set_scale(panel.xaxis, panel, BATCH_SIZE, sizes)
        if count > 1:
            # Below the panel: several panels have no room beside them.
            below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16)}
            panel.legend(title=wording.literal(prefix), ncols=2, **below)
        if i > 0:
            panel.sharey(panels[0])
            panel.set_ylabel("")
    if len(views) > 1 and count == 1:
        style.legend(panels[0], "")
    note = spread_words(next(iter(views.values())).seeds)
    note += " Hollow: best at the end of the base LR grid, or runs missing."
    style.footnote(figure, note)
    chosen = " (by validation)" if any(view.validated for view in views.values()) else ""
    caption = f"Test {score.long_name} at the best base learning rate{chosen} of every batch size."
    caption += f" {note}"
    if count > 1:
        caption += " Grey: the curves of the other panels."
    guesses = {view.score.guess for view in views.values()}
    if len(guesses) == 1 and np.isfinite(guess := guesses.pop()):
        told = f"{100 * guess:g} %" if score.percent else score.text(guess)
        caption += f" {capital(wording.guess_word(score))}: {told}."
    return Drawing(f"best_{score.name}", figure, caption)


def _best_curve(panel: Axes, best: xr.Dataset, look: dict[str, Any], text: str | None) -> None:
    m, height = best[BATCH_SIZE].values.astype(float), best["score"].values
    low, high = best["low"].values, best["high"].values
    panel.fill_between(m, low, high, color=look["color"], alpha=0.13, linewidth=0)
    panel.plot(m, height, label=text, **look)
    edge = (best["edge"] | ~best["complete"]).values & np.isfinite(height)
    _hollow(panel, m, height, edge, look)


def _values(views: Mapping[str, View], axis: str) -> np.ndarray:
    """All values of an axis, ascending."""
    return np.unique(np.concatenate([v.ds[axis].values.astype(float) for v in views.values()]))


def _common_words(texts: list[str]) -> str:
    """The words that all labels begin with, the space after them included."""
    words = [text.split(" ")[:-1] for text in texts]
    common = [first for first, *others in zip(*words) if set(others) <= {first}]
    prefix = "".join(f"{word} " for word in common)
    return prefix if all(text.startswith(prefix) for text in texts) else ""


@style.styled
def stable_range_summary(views: Mapping[str, View], margin: float | None = None) -> Drawing:
    """The interval of base LRs that train reliably against the batch size.

    Args:
      views: grids by label, each with the axes ``batch_size`` and ``base_lr``. "Best cell" is
        taken per grid.
      margin: below the best cell, in the unit of the score; by default that of each config.
        See ``View.stable_range`` for the rule.
    """
    # Bars of several grids stand side by side, and need the room.
    count = len(views)
    figure, (panel,) = style.new_figure(style.SINGLE if count == 1 else style.WIDE)
    shifts = (np.arange(count) - (count - 1) / 2) * min(0.14, 0.6 / max(count - 1, 1))
    margins = {view.margin if margin is None else margin for view in views.values()}
    thick = 5.0 if count == 1 else 3.5
    for shift, (text, view), look in zip(shifts, views.items(), style.looks(count, ordered=False)):
        span = view.stable_range(view.margin if margin is None else margin)
        x = span[BATCH_SIZE].values.astype(float) * 2.0**shift
        low, high, inside = span["low"].values, span["high"].values, span["count"].values > 0
        colour, marker = look["color"], look["marker"]
        dots: dict[str, Any] = {"linestyle": "none", "color": colour}
        panel.vlines(x, low, high, color=style.pale(colour), linewidth=thick)
        # Arrows stand just outside the interval, so that they do not hide its best point.
        for end, edge, arrow, out in (("low", low, "v", -0.2), ("high", high, "^", 0.2)):
            cut = span[f"{end}_open"].values & inside
            panel.plot(x[~cut], edge[~cut], marker="_", markersize=thick + 2, **dots)
            panel.plot(x[cut], edge[cut] * 2.0**out, marker=arrow, mfc="white", **dots)
        rate = view.rows["best_base_lr"].values
        panel.plot(
            x[inside], rate[inside], marker=marker, label=wording.literal(text) or None, **dots
        )
        none = ~inside & span["complete"].values
        if none.any():
            floor = np.full(int(none.sum()), 0.02)
            panel.plot(x[none], floor, marker="x", transform=panel.get_xaxis_transform(), **dots)
    for axis, target in ((BATCH_SIZE, panel.xaxis), (BASE_LR, panel.yaxis)):
        values = _values(views, axis)
        scales.set_scale(target, panel, axis, values)
        if axis == BATCH_SIZE and count > 1:
            panel.set_xlim(values.min() / 2**0.5, values.max() * 2**0.5)
    if count > 1:
        style.legend(panel, "")
    score = next(iter(views.values())).score
    *others, last = (score.margin(value) for value in sorted(margins))
    within = " or ".join([*(text.split()[0] for text in others), last])
    style.footnote(
        figure, "Bar: reliable base LRs; point: the best; arrow: the grid ends there; cross: none."
    )
    caption = (
        f"Base learning rates that train reliably: every seed's loss finite and median "
        f"{score.long_name} within {within} of the best cell of the grid, contiguous around the "
        f"best base learning rate (point). Open arrows: the range reaches the end of the grid or a "
        f"cell that has not finished, and may be wider. Cross on the axis: none is reliable."
    )
    return Drawing("stable_range", figure, caption)


@style.styled
def branching_figure(view: View, tolerance: float = TOLERANCE) -> Drawing:
    """What larger batches cost from every checkpoint, and the critical batch size over epochs.

    On the left the loss of every branch above that of the smallest batch, on the right the border
    and, where it was measured at the start of the branches, the gradient noise scale.
    """
    mean = gains(view).mean(SEED)
    mean = mean.max([a for a in mean.dims if a not in (START, BATCH_SIZE)])
    at = border(view, tolerance, mean)
    figure, (left, right) = style.new_figure(style.WIDE, 2)
    sizes, lost = mean[BATCH_SIZE].values.astype(float), mean.isel({BATCH_SIZE: 0}) - mean
    for epoch, look in zip(at.epochs, style.looks(len(at.epochs), ordered=True), strict=True):
        row = lost.sel({START: epoch}).values
        left.plot(sizes, row, label=f"{epoch:g}", **{**look, "linestyle": "-", "markersize": 3})
    left.axhline(tolerance, color=style.QUIET, linewidth=0.8, linestyle=":")
    score = view.score
    left.set_ylabel(
        wording.literal(wording.in_units(f"{score.long_name} lost", score), wording.TITLE)
    )
    scales.set_scale(left.xaxis, left, BATCH_SIZE, sizes)
    left.set_xlabel(wording.title(BATCH_SIZE))
    style.legend(left, "epoch")
    top = np.where(np.isfinite(at.high), at.high, at.low)
    right.vlines(at.epochs, at.low, top, color="black", linewidth=2)
    right.plot(at.epochs, np.sqrt(at.low * top), "o-", color="black", label="by branching")
    noise = _noise_scale(view)
    if noise is not None:
        right.plot(at.epochs, noise, "s--", color=style.UNORDERED[1], label="noise scale")
    right.set_yscale("log", base=2)
    right.set_xlabel("epochs trained before")
    right.set_ylabel("critical batch size")
    right.legend(loc="best")
    note = "Dotted: the tolerance. Bars: from the largest size within it to the next one tried."
    style.footnote(figure, note)
    words = f"What larger batches cost from every checkpoint on, and where that begins. {note}"
    return Drawing("branching", figure, words)


def _noise_scale(view: View) -> np.ndarray | None:
    """The gradient noise scale of the checkpoints, mean over seeds; None if it was not measured."""
    if "noise_scale" not in view.ds or 0 not in view.ds["measured_epoch"].values:
        return None
    values = view.ds["noise_scale"].sel(measured_epoch=0)
    others = [axis for axis in values.dims if axis != START]
    return values.median(others).values
