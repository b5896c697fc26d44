"""What seeds decide: numbers with 95 % intervals over them, and the verdicts that follow.

A verdict falls when the interval of a number lies on one side of the border, and is open when the
border is inside. Numbers are paired: all cells of a seed count together, so that what a seed
changes everywhere drops out. Fewer than three seeds decide nothing.

- A number that each seed has by itself has Student's interval (:func:`sbt.intervals.student`).
- What a choice loses: the best of several noisy cells looks better than it is, so for each seed
  cells are chosen by the others and compared on that seed (:func:`held_out`).
- A number of the mean over seeds, such as where an optimum lies, has the interval of that number
  over seeds drawn with replacement (:func:`resampled`).
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from sbt.intervals import Interval, draws, student
from sbt.report.claims import FAILS, HOLDS, OPEN, Verdict
from sbt.report.view import SEED, View
from sbt.results import VALIDATION_SCORE

FEWEST_SEEDS = 3


def gains(view: View) -> xr.DataArray:
    """The score of every run, signed so that more is better, by which cells are chosen.

    What is worse than a guess counts as one; NaN marks runs that have not finished.
    """
    chosen = view.ds[VALIDATION_SCORE] if view.validated else view.reported
    found = view.score.gain(chosen if SEED in chosen.dims else chosen.expand_dims(SEED))
    guess = view.score.gain(view.score.guess)
    return found if np.isnan(guess) else found.clip(min=guess)


def best_at(view: View, axis: str, value: object) -> dict[str, Any] | None:
    """The best finished cell among those that have a value of an axis; None where there is none."""
    row = view.cells["gain"].sel({axis: value})
    known = row.fillna(-np.inf).values
    if not np.isfinite(known).any():
        return None
    at = np.unravel_index(np.argmax(known), row.shape)
    rest = {str(d): row[d].values[i].item() for d, i in zip(row.dims, at, strict=True)}
    return {axis: value} | rest


def at_cell(view: View, where: Mapping[str, Any]) -> np.ndarray:
    """The gains of a cell, one a seed."""
    return gains(view).sel(where).transpose(SEED).values


def resampled(runs: xr.DataArray, number: Callable[[xr.DataArray], float]) -> Interval:
    """A number of some runs, all seeds of them, with its interval over draws of the seeds."""
    found = np.asarray([number(runs.isel({SEED: one})) for one in draws(runs.sizes[SEED])])
    low, high = np.nanquantile(found, (0.025, 0.975)) if np.isfinite(found).any() else (np.nan,) * 2
    return Interval(number(runs), float(low), float(high))


def bootstrap(view: View, number: Callable[[xr.DataArray], float]) -> Interval:
    """A number of the mean gains of a grid's cells, with its interval over draws of the seeds."""
    return resampled(gains(view), lambda runs: number(runs.mean(SEED)))


def held_out(
    view: View, numbers: Callable[[xr.DataArray, xr.DataArray], np.ndarray]
) -> list[Interval]:
    """Numbers of ``(chosen, judged)``, the gains of cells to choose by and to compare.

    Of each seed: chosen by the mean over the others, judged by itself. The interval is infinite
    where there are not two seeds.
    """
    return student(np.asarray(each_held_out(gains(view), numbers)))


def each_held_out(
    runs: xr.DataArray, numbers: Callable[[xr.DataArray, xr.DataArray], Any]
) -> list[Any]:
    """Numbers of ``(chosen, judged)`` for each seed, as in :func:`held_out`.

    A single seed chooses and is judged.
    """
    seeds = range(runs.sizes[SEED])
    if len(seeds) < 2:
        mean = runs.mean(SEED)
        return [numbers(mean, mean)]
    found = []
    for seed in seeds:
        others = [other for other in seeds if other != seed]
        found.append(numbers(runs.isel({SEED: others}).mean(SEED), runs.isel({SEED: seed})))
    return found


def decided(view: View, words: str, holds: bool, fails: bool, numbers: str) -> Verdict:
    """The verdict of an interval, from seeds enough."""
    if view.seeds < FEWEST_SEEDS:
        numbers += f"; {view.seeds} of at least {FEWEST_SEEDS} seeds"
        return Verdict(words, OPEN, numbers)
    return Verdict(words, HOLDS if holds else FAILS if fails else OPEN, numbers)
