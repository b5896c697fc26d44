"""Which run each lane of a program trains, and how far that run is. Bookkeeping only: no arrays.

Runs that wait take the lanes of runs that are finished or have diverged. The lanes of a program
then differ in their epoch, and each goes by its own number of ticks.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sbt.sweep.cohort import Cohort

# Lanes wait to be taken until this share of them is free: runs that begin together are evaluated
# together.
REFILLED_TOGETHER = 0.25


@dataclasses.dataclass
class Slots:
    """The lanes of a program.

    Attributes:
      cohort: whose runs they train.
      members: of each lane, the position of its run in the cohort; -1 for a free lane.
      ticks: of each lane, done of its run.
      waiting: runs that have no lane yet, in order.
      in_flight: most epochs that the lanes may be in at a time.
    """

    cohort: Cohort
    members: np.ndarray
    ticks: np.ndarray
    waiting: list[int]
    in_flight: int = 1

    def __post_init__(self) -> None:
        epochs = self.cohort.config.epochs
        self._ends = np.asarray([epoch_ends(self.cohort, e) for e in range(epochs + 1)])

    @property
    def live(self) -> np.ndarray:
        """Which lanes train a run."""
        return self.members >= 0

    def epoch(self) -> np.ndarray:
        """Of each lane, the epoch that its next tick is recorded in."""
        return np.searchsorted(self._ends, self.ticks, side="right") - 1

    def begins(self) -> np.ndarray:
        """Which lanes are at the start of an epoch."""
        return self.ticks == self._ends[self.epoch()]

    def reading(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each lane, the epoch whose order its next tick reads, and the position in it."""
        n = self.cohort.facts.num_examples
        examples = np.where(self.live, self.ticks, self.ticks[self.live][0]) * self.cohort.tick
        return examples // n, examples % n

    def step(self, window: int, saving: bool) -> int:
        """Ticks of the next call: no run goes past the end of its epoch, or of its order.

        Args:
          window: wanted.
          saving: whether a checkpoint waits for an update of every run to be done.
        """
        own, epochs = np.unique(self.ticks[self.live], return_index=True)
        last = self.epoch()[self.live][epochs]
        ordered = self.reading()[0][self.live][epochs]
        first = np.asarray([self.cohort.first_tick(int(e) + 1) for e in ordered])
        most = int(np.min(np.minimum(self._ends[last + 1], first) - own))
        every = ticks_between_updates(self.cohort)
        if np.any(own % every) and len(np.unique(own % every)) > 1:
            return min(window, most)  # there is no such moment
        tick = int(own[0])
        if saving and every <= window:
            most = min(most, every - tick % every)
        if window >= most:
            return most
        settled = (tick + window) // every * every
        return settled - tick if settled > tick else window

    def settled(self) -> bool:
        """Whether every run has just done an update, or none of the lanes ever will together."""
        every = ticks_between_updates(self.cohort)
        rests = np.unique(self.ticks[self.live] % every)
        return len(rests) != 1 or rests[0] == 0

    def ended(self) -> dict[int, np.ndarray]:
        """The lanes that are at the end of an epoch, by epoch."""
        at_end = self.live & self.begins() & (self.ticks > 0)
        epochs = self.epoch() - 1
        return {int(e): np.flatnonzero(at_end & (epochs == e)) for e in np.unique(epochs[at_end])}

    def finished(self) -> np.ndarray:
        """Which lanes have finished their run."""
        return self.live & (self.ticks >= self._ends[-1])

    def refill(self, diverged: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gives free lanes to runs that wait, if it is time to; call it between windows.

        Args:
          diverged: which lanes have diverged.

        Returns:
          The lanes whose run was given up, and those that have a new one.
        """
        none = np.zeros(0, np.int64)
        stuck = self.live & diverged & self.begins() & (self.ticks > 0)
        healthy = self.live & ~diverged
        if not self.waiting:
            if np.any(healthy) or not np.any(stuck):
                return none, none
            self.members[stuck] = -1  # nothing is left to train
            return np.flatnonzero(stuck), none
        free = ~self.live | stuck
        rest = self.live & ~stuck
        own = len(np.unique(self.ticks[rest]))
        if np.any(healthy) and (
            np.sum(free) < REFILLED_TOGETHER * len(free) or own + 1 > self.in_flight
        ):
            return none, none
        given_up = np.flatnonzero(stuck)
        taken = np.flatnonzero(free)[: len(self.waiting)]
        self.members[free], self.ticks[free] = -1, 0
        self.members[taken] = self.waiting[: len(taken)]
        self.waiting = self.waiting[len(taken) :]
        return given_up, taken


def first_slots(
    cohort: Cohort, waiting: Sequence[int], lanes: int, rows: int, in_flight: int
) -> Slots:
    """Slots for the runs that wait: as many of them as there are lanes begin.

    Neighbours in the grid go to different devices: where one diverges, the next may too, and a
    device whose lanes have stopped early would idle.

    Args:
      cohort: whose runs.
      waiting: positions in it.
      lanes: of the program.
      rows: devices, or groups of devices, that the lanes are spread over in blocks.
      in_flight: see :class:`Slots`.
    """
    first = list(waiting[:lanes])
    members = np.full(lanes, -1)
    block = lanes // rows
    for d in range(rows):
        own = first[d::rows]
        members[d * block : d * block + len(own)] = own
    return Slots(cohort, members, np.zeros(lanes, np.int64), list(waiting[lanes:]), in_flight)


def epoch_ends(cohort: Cohort, epochs: int) -> int:
    """Ticks after which so many epochs are recorded: those that end within them.

    A run of batch size m has then done ``epochs N // m`` updates, whatever its micro-batch (for any
    g that divides m), so that its curves do not depend on how the runs are grouped.
    """
    return epochs * cohort.facts.num_examples // cohort.tick


def ticks_between_updates(cohort: Cohort) -> int:
    """Ticks after which all runs of a cohort have just done an update."""
    if cohort.accumulates and cohort.moves_batch:
        return 1  # there is no such number
    return math.lcm(*cohort.sizes) // cohort.examples_per_tick


def resumed_slots(
    cohort: Cohort, saved: Mapping[str, Any], waiting: Sequence[int], lanes: int, in_flight: int
) -> Slots | None:
    """The slots as a checkpoint has them; None if it is one of another number of lanes.

    Runs that the results have finished meanwhile are left out.

    Args:
      cohort: whose runs.
      saved: position of the checkpoint.
      waiting: positions of the runs in the cohort that are not finished, in order.
      lanes: of the program.
      in_flight: see :class:`Slots`.
    """
    rows = np.asarray(saved["rows"])
    if len(rows) != lanes:
        return None
    members = np.where(np.isin(rows, waiting), rows, -1)
    ticks = np.where(members >= 0, np.asarray(saved["examples"]) // cohort.tick, 0)
    placed = set(members.tolist())
    return Slots(cohort, members, ticks, [i for i in waiting if i not in placed], in_flight)


def plan_of(cohort: Cohort, labels: Sequence[Any], runs: Sequence[int], settled: bool) -> Any:
    """What a checkpoint of these runs of a cohort must agree on with the cohort that resumes it.

    Args:
      cohort: whose.
      labels: of all its runs, see :class:`sbt.sweep.arrangement.Arrangement`.
      runs: positions in it.
      settled: whether every run has just done an update; else half a batch must find the same
        ticks again.
    """
    points = [dict(labels[i]) for i in runs if i < len(labels)]
    ticks = [cohort.micro_batch, cohort.tick, cohort.accumulates]
    return {"points": points, "settled": settled, "ticks": None if settled else ticks}
