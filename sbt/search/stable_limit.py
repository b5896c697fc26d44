"""The limits of reliable training, by bisection of the learning rates of every batch size."""

import math
import statistics
from typing import Annotated, Literal

from sbt.ranges import NON_NEGATIVE
from sbt.search.base import SEARCHES, News
from sbt.search.cells import Runs, ladders


def octaves(low: float, high: float, per_octave: int = 8) -> tuple[float, ...]:
    """Numbers from ``low`` to ``high`` at most, evenly spaced in log2: an axis to search on.

    >>> octaves(1, 4, 2)
    (1.0, 1.4142135623730951, 2.0, 2.8284271247461903, 4.0)
    """
    steps = math.floor(math.log2(high / low) * per_octave + 1e-9)
    return tuple(low * 2.0 ** (k / per_octave) for k in range(steps + 1))


class _Bracket:
    """The base learning rates of a group of runs that differ in nothing else but their seeds.

    Args:
      cells: of every rate, ascending, its runs.
      both: whether the smallest reliable one is looked for after the largest.
    """

    def __init__(self, cells: list[list[int]], both: bool):
        self.cells = cells
        self.tried: int | None = None  # the rate in work
        self._below, self._above = -1, len(cells)
        self._downwards, self._both = False, both
        self._known: dict[int, bool] = {}

    def next(self) -> int | None:
        """The rate to try now; None once the limits are known to one step."""
        while True:
            if self._above - self._below > 1:
                middle = (self._below + self._above) // 2
                if middle not in self._known:
                    return middle
                self._narrow(middle)
            elif self._both and not self._downwards and self._below >= 0:
                self._downwards, self._above, self._below = True, self._below, -1
            else:
                return None

    def learn(self, at: int, reliable: bool) -> None:
        """Whether a rate trains reliably."""
        self._known[at], self.tried = reliable, None
        self._narrow(at)

    def _narrow(self, at: int) -> None:
        # Upwards what is reliable lies below the limit, downwards above it.
        if self._known[at] != self._downwards:
            self._below = at
        else:
            self._above = at


@SEARCHES.register(
    "stable_limit", source="Masters & Luschi 2018, Fig. 16: rates that train reliably"
)
class StableLimit:
    """The largest ``base_lr`` that trains reliably, by bisection, for every setting of the rest.

    Reliable is a value whose loss stays finite for every seed and whose median score at the end is
    within ``margin`` of the best seen with that setting; the paper gives no numbers. That all
    smaller values than the limit train reliably too (all larger ones than the smallest, up to the
    largest) is assumed, not tried. The resolution is that of the axis: :func:`octaves` makes one.

    Args:
      runs: settings of each.
      epochs: length of a run.
      ends: the largest reliable value, or then the smallest as well.
      margin: in the unit of the score; 0: it is enough that the loss stays finite.

    Raises:
      UserError: ``base_lr`` is no axis.
    """

    def __init__(
        self,
        runs: Runs,
        epochs: int,
        ends: Literal["largest", "both"] = "largest",
        margin: Annotated[float, NON_NEGATIVE] = 0.0,
    ):
        self._epochs, self._margin = epochs, margin
        self._brackets = [
            _Bracket(ladder.cells, ends == "both") for ladder in ladders(runs, "stable_limit")
        ]
        self._place = {
            run: (number, at)
            for number, bracket in enumerate(self._brackets)
            for at, cell in enumerate(bracket.cells)
            for run in cell
        }
        self._queue: list[int] = []
        self._gains: dict[int, float] = {}  # of runs that have ended
        self._best = [-math.inf] * len(self._brackets)

    @property
    def width(self) -> int:
        return sum(max(map(len, bracket.cells)) for bracket in self._brackets)

    def ask(self, free: int) -> list[int]:
        for bracket in self._brackets:
            if bracket.tried is None and (at := bracket.next()) is not None:
                bracket.tried = at
                self._queue += bracket.cells[at]
        begun, self._queue = self._queue[:free], self._queue[free:]
        return begun

    def tell(self, news: News) -> list[int]:
        stopped = []
        for run, epoch, gain in news:
            number, at = self._place[run]
            bracket = self._brackets[number]
            if bracket.tried != at:
                continue  # another seed has decided it
            if gain == -math.inf:
                self._queue = [other for other in self._queue if other not in bracket.cells[at]]
                stopped += [other for other in bracket.cells[at] if other != run]
                bracket.learn(at, reliable=False)
            elif epoch >= self._epochs:
                self._gains[run] = gain
                if all(other in self._gains for other in bracket.cells[at]):
                    median = statistics.median(self._gains[other] for other in bracket.cells[at])
                    self._best[number] = max(self._best[number], median)
                    good = not self._margin or median >= self._best[number] - self._margin
                    bracket.learn(at, reliable=good)
        return stopped
