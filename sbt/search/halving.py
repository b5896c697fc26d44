"""Asynchronous successive halving: most runs stop early, the best of each rung go on."""

import math
import random
import statistics
from typing import Annotated

from sbt.ranges import COUNT, Range
from sbt.search.base import SEARCHES, News
from sbt.search.cells import SEED, Runs, alike


@SEARCHES.register(
    "halving", source="Jamieson & Talwalkar 2016; Li et al. 2020 (arXiv:1810.05934), Algorithm 2"
)
class Halving:
    """Runs go on past a rung if they are in the best 1/factor of those that have reached it.

    Successive halving is that of Jamieson & Talwalkar (2016, arXiv:1502.07943); Li et al. (2020)
    decide as runs arrive, without waiting for all of a rung.

    Rungs lie after ``first · factorᵏ`` epochs. The paper pauses what is not promoted, and may take
    it up again; a lane cannot pause, so that what is not promoted when it reaches a rung stops. Of
    n cells that have reached one, ⌈n/factor⌉ are promoted (the paper rounds down, and would begin
    with none). The paper leaves repetitions open: here a *cell*, all runs that differ in their seed
    alone, is ranked by the median of its seeds and stops as a whole, once its last seed has reached
    the rung.

    Args:
      runs: settings of each.
      epochs: length of a run.
      factor: η of the paper.
      first: epochs until the first rung.
      seed: of the order in which cells begin.
    """

    def __init__(
        self,
        runs: Runs,
        epochs: int,
        factor: Annotated[int, Range(2, 64)] = 3,
        first: Annotated[int, COUNT] = 1,
        seed: Annotated[int, Range(0, 2**32 - 1)] = 0,
    ):
        self._cells = alike(runs, (SEED,))
        self._cell = {run: i for i, cell in enumerate(self._cells) for run in cell}
        order = list(range(len(self._cells)))
        random.Random(seed).shuffle(order)
        self._left = [run for i in order for run in self._cells[i]]
        self._factor, self._rungs = factor, []
        while first < epochs:
            self._rungs.append(first)
            first *= factor
        # Of each rung: the gain of each run that has reached it, and the gain of each whole cell.
        self._reached: list[dict[int, float]] = [{} for _ in self._rungs]
        self._ranked: list[dict[int, float]] = [{} for _ in self._rungs]
        self._stopped: set[int] = set()

    @property
    def width(self) -> int:
        # As many as go on if all began together: on so many lanes they take hardly longer.
        return math.ceil(len(self._left) / self._factor)

    def ask(self, free: int) -> list[int]:
        begun, self._left = self._left[:free], self._left[free:]
        return begun

    def tell(self, news: News) -> list[int]:
        new: list[set[int]] = [set() for _ in self._rungs]
        for run, epoch, gain in news:
            for rung, reached in zip(self._rungs, self._reached, strict=True):
                if epoch >= rung or gain == -math.inf:
                    reached.setdefault(run, gain)
        for at, (reached, ranked) in enumerate(zip(self._reached, self._ranked, strict=True)):
            for i in {self._cell[run] for run, _, _ in news}:
                if i not in ranked and all(run in reached for run in self._cells[i]):
                    ranked[i] = statistics.median(reached[run] for run in self._cells[i])
                    new[at].add(i)
        lost: set[int] = set()
        for fresh, ranked in zip(new, self._ranked, strict=True):
            best = sorted(ranked, key=lambda i: (-ranked[i], i))
            lost |= fresh - set(best[: math.ceil(len(best) / self._factor)])
        lost -= self._stopped
        self._stopped |= lost
        return sorted(run for i in lost for run in self._cells[i])
