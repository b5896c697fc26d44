"""Learning rates from coarse to fine, around the best one of every batch size."""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated

import numpy as np

from sbt.intervals import interval, seed_draws
from sbt.parabola import best_positions
from sbt.ranges import POSITIVE
from sbt.search.base import SEARCHES, News
from sbt.search.cells import EPS, Ladder, Runs, ladders

ROOT = 0.5  # octaves: a step of √2, which is halved only where the optimum is not sure enough
POINTS = 5  # of the parabola at most


class _Basin:
    """What is known of a ladder's rates, and which come next.

    Args:
      ladder: rates that are all positive.
      coarse: octaves between those that come first, at least.
    """

    def __init__(self, ladder: Ladder, coarse: float):
        self.cells, self._coarse = ladder.cells, coarse
        self._x = np.log2(ladder.rates)
        self.begun = ladder.every(coarse)

    def _further(self, at: int, octaves: float) -> int | None:
        """The next rate so many octaves up, or (less than 0) down."""
        away = (self._x - self._x[at]) * math.copysign(1.0, octaves)
        found = np.flatnonzero(away >= abs(octaves) - EPS)
        if not len(found):
            return None
        return int(found[0] if octaves > 0 else found[-1])

    def next(self, gains: Mapping[int, float], finest: float, tolerance: float) -> list[int]:
        """Rates to begin once all that were begun have ended; none: the optimum is known."""
        known = sorted(self.begun)
        rows = [[gains[run] for run in self.cells[at]] for at in known]
        medians = np.asarray([np.median(row) for row in rows])
        best, last = int(medians.argmax()), len(self._x) - 1
        at = known[best]
        if at == known[0] > 0:
            return [self._further(at, -self._coarse) or 0]
        if at == known[-1] < last:
            further = self._further(at, self._coarse)
            return [last if further is None else further]
        if medians[best] == -math.inf:
            return []
        sides = [known[i] for i in (best - 1, best + 1) if 0 <= i < len(known)]
        step = max((abs(self._x[side] - self._x[at]) for side in sides), default=0.0)
        if step <= ROOT + EPS and self._spread(known, rows, medians) < tolerance:
            return []
        wanted = max(finest, step / 2)
        found = [self._between(at, side) for side in sides if self._wide(at, side, wanted)]
        return sorted(middle for middle in found if middle is not None)

    def _wide(self, one: int, other: int, wanted: float) -> bool:
        return bool(abs(self._x[one] - self._x[other]) > wanted + EPS)

    def _between(self, one: int, other: int) -> int | None:
        """The rate in the middle of two; None where the axis has none between them."""
        inside = np.arange(min(one, other) + 1, max(one, other))
        middle = (self._x[one] + self._x[other]) / 2
        return int(inside[np.abs(self._x[inside] - middle).argmin()]) if len(inside) else None

    def _spread(self, known: list[int], rows: list[list[float]], medians: np.ndarray) -> float:
        """Octaves of the 95 % interval of the optimum; NaN where there is none."""
        seeds = len(rows[0])
        if any(len(row) != seeds for row in rows):
            return math.nan
        drawn = np.median(np.asarray(rows)[:, seed_draws(seeds)], axis=-1).T
        one, *drawn = (
            best_positions(self._x[known], np.where(np.isfinite(gain), gain, np.nan), POINTS)
            for gain in (medians, *drawn)
        )
        found = interval(float(one), np.asarray(drawn, float), seeds)
        return found.high - found.low


@SEARCHES.register("refine", source="coarse to fine; the optimum as sbt advise tells it")
class Refine:
    """Refines ``base_lr`` around its best value, for every setting of the rest.

    First every rate that is ``coarse`` octaves from the one before, from the axis's first on. Then,
    for each setting by itself, whenever all that it has begun has ended: while the best rate (by
    the median of its seeds' last evaluations) is the first or last that was trained and the axis
    goes on, the next one there; after that the middles between it and its neighbours, so that the
    step around it halves. It ends where that step is ``finest``, or at half an octave or less once
    the 95 % interval of the optimum is narrower than ``tolerance``: of the highest point of a
    parabola through the best rate and its neighbours, over paired draws of the seeds. An optimum
    at the end of the axis, beside rates that diverge, or of a single seed has no interval and is
    refined to ``finest``. No finer than the axis: :func:`octaves` makes one.

    Args:
      runs: settings of each.
      epochs: length of a run.
      coarse: octaves between the rates that come first.
      finest: octaves between the best rate and its neighbours in the end, at least.
      tolerance: octaves.

    Raises:
      UserError: ``base_lr`` is no axis, or 0 is among its values.
    """

    def __init__(
        self,
        runs: Runs,
        epochs: int,
        coarse: Annotated[float, POSITIVE] = 1.0,
        finest: Annotated[float, POSITIVE] = 0.25,
        tolerance: Annotated[float, POSITIVE] = 0.25,
    ):
        self._epochs, self._finest, self._tolerance = epochs, finest, tolerance
        self._basins = [_Basin(ladder, coarse) for ladder in ladders(runs, "refine")]
        self._basin = {run: basin for basin in self._basins for cell in basin.cells for run in cell}
        self._queue = [run for basin in self._basins for run in self._runs(basin, basin.begun)]
        self._gains: dict[int, float] = {}  # of runs that have ended

    @staticmethod
    def _runs(basin: _Basin, rates: Iterable[int]) -> list[int]:
        return [run for at in rates for run in basin.cells[at]]

    @property
    def width(self) -> int:
        # Those of a step around the best rate: the coarse ones, which are more, take turns.
        return sum(2 * max(map(len, basin.cells)) for basin in self._basins)

    def ask(self, free: int) -> list[int]:
        begun, self._queue = self._queue[:free], self._queue[free:]
        return begun

    def tell(self, news: News) -> list[int]:
        ended = [one for one in news if one.gain == -math.inf or one.epoch >= self._epochs]
        self._gains |= {run: gain for run, _, gain in ended}
        for basin in dict.fromkeys(self._basin[run] for run, _, _ in ended):
            if all(run in self._gains for run in self._runs(basin, basin.begun)):
                more = basin.next(self._gains, self._finest, self._tolerance)
                basin.begun += more
                self._queue += self._runs(basin, more)
        return []
