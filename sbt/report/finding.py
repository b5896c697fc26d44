"""The finding of a grid in one sentence: what is best, and what the other choice costs.

The other choice is the largest batch size (the smallest, where the largest is best), of an axis
without an order the next best value, of any other axis the end farther away. All else is tuned
for both: each stands for its best cell in the tables, and what it costs is their mean difference
over paired seeds (:func:`sbt.intervals.lead`), by which verdicts on sweeps go as well. That cells
were chosen by the same seeds is not part of the interval, and is where those of
:mod:`sbt.report.seeds` are stricter.
"""

from collections.abc import Callable

import numpy as np
import xarray as xr

from sbt.intervals import Interval, lead, student
from sbt.report import wording
from sbt.report.figures import plane
from sbt.report.seeds import at_cell, best_at
from sbt.report.view import BATCH_SIZE, View
from sbt.text import capital

MOST_NAMED = 3  # further axes of the best cell; its table has them all


def finding(view: View) -> str:
    """The sentence at the head of a report."""
    best, score = view.best_so_far, view.score
    if best is None:
        return "No run has results yet."
    axis = _main(view)
    told = f"test {score.long_name} {score.text(best.value)}"
    if best.so_far:
        where = _where(view, list(view.varying))
        return f"So far, by the latest evaluations, {where or 'the run'} leads: {told}."
    if axis is None:
        (found,) = student(score.gain(at_cell(view, best.where))[:, None])
        known = _of_seeds(found, view.seeds, score.number)
        return f"The test {score.long_name} is {score.text(best.value)}{known}."
    rest = _where(view, [a for a in view.varying if a != axis][:MOST_NAMED])
    named = _named(axis, best.where[axis])
    lead = f"Batch size {named}" if axis == BATCH_SIZE else capital(named)
    lead += f" is best: {told}" + (f" at {rest}" if rest else "")
    cost = _cost(view, axis)
    return f"{lead}; {cost}." if cost else f"{lead}."


def _main(view: View) -> str | None:
    """The axis that the finding is about."""
    if BATCH_SIZE in view.varying:
        return BATCH_SIZE
    names = [axis for axis in view.varying if not view.is_numeric(axis)]
    return next(iter([*names, *plane(view)]), None)


def _where(view: View, axes: list[str]) -> str:
    where = view.best_so_far.where if view.best_so_far else {}
    return ", ".join(_named(axis, where[axis]) for axis in axes)


def _named(axis: str, value: object) -> str:
    """``m = 8``, ``momentum 0.9``, ``adam``."""
    if isinstance(value, str):
        return wording.label(axis, value)
    if axis in wording.PLAIN_SYMBOLS:
        return f"{wording.PLAIN_SYMBOLS[axis]} = {wording.label(axis, value)}"
    return f"{wording.plain(axis.rpartition('__')[2])} {wording.label(axis, value)}"


def _cost(view: View, axis: str) -> str:
    """What the other choice costs, in words; empty where it has no finished run."""
    assert view.best is not None
    best, cells = view.best.where, view.cells["gain"]
    top = cells.max([a for a in cells.dims if a != axis])
    other = _other(view, axis, best[axis], top)
    if other is None:
        return ""
    name, score = _named(axis, other), view.score
    tuned = ", tuned as well," if len(view.varying) > 1 else ""
    if not np.isfinite(top.sel({axis: other})):
        return f"{name} diverges" + (" wherever it was tried" if tuned else "")
    where = best_at(view, axis, other)
    assert where is not None  # as it is finite
    pair = [at_cell(view, one) for one in (best, where)]
    seeds = int(np.isfinite(pair).all(0).sum())
    if not seeds:
        return ""
    found = lead(*pair)
    text = (lambda v: f"{100 * v:.1f}") if score.percent else (lambda v: f"{v:.2g}")
    told = f"{'loses' if found.value >= 0 else 'gains'} {score.difference(abs(found.value))}"
    told += " on average" if seeds > 1 else ""
    if seeds > 1 and found.low <= 0 <= found.high:
        told += ", but not beyond chance"
    return f"{name}{tuned} {told}{_of_seeds(found, seeds, text)}"


def _other(view: View, axis: str, best: object, top: xr.DataArray) -> object | None:
    values = view.ds[axis].values.tolist()
    at = values.index(best)
    known = [i for i, gain in enumerate(top.values) if i != at and not np.isnan(gain)]
    if not known:
        return None
    if not view.is_numeric(axis):
        return values[max(known, key=lambda i: top.values[i])]
    if axis == BATCH_SIZE:
        return values[known[-1] if known[-1] > at else known[0]]
    return values[max(known, key=lambda i: abs(i - at))]


def _of_seeds(found: Interval, seeds: int, text: Callable[[float], str]) -> str:
    """The interval in parentheses, and over how many seeds."""
    if seeds < 2:
        return " (one seed, no interval)"
    if not (np.isfinite(found.low) and np.isfinite(found.high)):
        return ""
    low, high = (text(end).replace("-", "−") for end in sorted((found.low, found.high)))
    return f" (95 % interval {low} to {high}, {seeds} seeds)"
