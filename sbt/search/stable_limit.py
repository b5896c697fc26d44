"""The limits of reliable training, by bisection of the learning rates of every batch size."""

import math
import statistics
from typing import Annotated, Literal

from sbt.ranges import NON_NEGATIVE
from sbt.search.base import SEARCHES, News
from sbt.search.cells import Ladder, Runs, ladders

COARSE = 1.0  # octaves between the rates that come first: one of them is near the best


def octaves(low: float, high: float, per_octave: int = 8) -> tuple[float, ...]:
    """Numbers from ``low`` to ``high`` at most, evenly spaced in log2: an axis to search on.

    >>> octaves(1, 4, 2)
    (1.0, 1.4142135623730951, 2.0, 2.8284271247461903, 4.0)
    """
    steps = math.floor(math.log2(high / low) * per_octave + 1e-9)
    return tuple(low * 2.0 ** (k / per_octave) for k in range(steps + 1))


class _Bracket:
    """What is known of a ladder's rates, and which come next.

    Args:
      ladder: of rates.
      both: whether the smallest reliable one is looked for as well as the largest.
      margin: see :class:`StableLimit`.
    """

    def __init__(self, ladder: Ladder, both: bool, margin: float):
        self.cells, self._both, self._margin = ladder.cells, both, margin
        self._first = ladder.every(COARSE)
        self.tried: set[int] = set()  # rates in work
        self._worth: dict[int, float] = {}  # the median of their seeds; -inf: one has diverged

    def next(self) -> list[int]:
        """Rates to try now; none while some are in work, or once the limits are known."""
        if self.tried:
            return []
        best = max(self._worth.values(), default=0.0)
        least = -math.inf if not self._margin else best - self._margin
        good = [at for at, worth in self._worth.items() if worth > -math.inf and worth >= least]
        if not self._worth:
            found = self._first
        elif not good:
            found = []
        else:
            above = min((at for at in self._worth if at > max(good)), default=len(self.cells))
            below = max((at for at in self._worth if at < min(good)), default=-1)
            gaps = [(max(good), above), *([(below, min(good))] if self._both else [])]
            found = [(low + high) // 2 for low, high in gaps if high - low > 1]
        self.tried = set(found)
        return found

    def learn(self, at: int, worth: float) -> None:
        """What a rate is worth."""
        self.tried.discard(at)
        self._worth[at] = worth


@SEARCHES.register(
    "stable_limit", source="Masters & Luschi 2018, Fig. 16: rates that train reliably"
)
class StableLimit:
    """The largest ``base_lr`` that trains reliably, by bisection, for every setting of the rest.

    Reliable is a value whose loss stays finite for every seed and whose median score at the end is
    within ``margin`` of the best that was tried with that setting; the paper gives no numbers. A
    network that is dead has a finite loss, so that there is something to compare it with: values an
    octave apart come first. After that the gap above the largest reliable value is halved
    until it is one step of the axis (:func:`octaves` makes one), and that below the smallest where
    that is asked for. That all between a reliable value and the next one tried that is not train
    reliably up to a limit, and no further, is assumed.

    Args:
      runs: settings of each.
      epochs: length of a run.
      ends: the largest reliable value, or the smallest as well.
      margin: in the unit of the score; 0: it is enough that the loss stays finite.

    Raises:
      UserError: ``base_lr`` is no axis, or 0 is among its values.
    """

    def __init__(
        self,
        runs: Runs,
        epochs: int,
        ends: Literal["largest", "both"] = "largest",
        margin: Annotated[float, NON_NEGATIVE] = 0.05,
    ):
        self._epochs, self._ends = epochs, 2 if ends == "both" else 1
        self._brackets = [
            _Bracket(ladder, ends == "both", margin) for ladder in ladders(runs, "stable_limit")
        ]
        self._place = {
            run: (bracket, at)
            for bracket in self._brackets
            for at, cell in enumerate(bracket.cells)
            for run in cell
        }
        self._queue: list[int] = []
        self._gains: dict[int, float] = {}  # of runs that have ended

    @property
    def width(self) -> int:
        return self._ends * sum(max(map(len, bracket.cells)) for bracket in self._brackets)

    def ask(self, free: int) -> list[int]:
        for bracket in self._brackets:
            self._queue += [run for at in bracket.next() for run in bracket.cells[at]]
        begun, self._queue = self._queue[:free], self._queue[free:]
        return begun

    def tell(self, news: News) -> list[int]:
        stopped = []
        for run, epoch, gain in news:
            bracket, at = self._place[run]
            cell = bracket.cells[at]
            if at not in bracket.tried:
                continue  # another seed has decided it
            if gain == -math.inf:
                self._queue = [other for other in self._queue if other not in cell]
                stopped += [other for other in cell if other != run]
                bracket.learn(at, -math.inf)
            elif epoch >= self._epochs:
                self._gains[run] = gain
                if all(other in self._gains for other in cell):
                    bracket.learn(at, statistics.median(self._gains[other] for other in cell))
        return stopped
