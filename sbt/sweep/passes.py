"""One pass: as many lanes as fit, from their first tick to their last."""

import math
import time
from typing import Any

import jax
import numpy as np

from sbt.checkpoint import Checkpoint, pack, save_weights, unpack
from sbt.parallel import hosts
from sbt.parallel.mesh import fetch, put, take
from sbt.sweep.book import Book
from sbt.sweep.fit import Fitted
from sbt.sweep.lanes import make_lanes
from sbt.sweep.observe import Observer
from sbt.sweep.plan import Cohort
from sbt.train.state import TrainState
from sbt.train.tallies import TALLIES

WINDOW_SECONDS = 2.0  # between two looks at the clock, the signals and the progress display


class Interrupted(KeyboardInterrupt):
    """The sweep was told to stop; what it had is saved, and the same call goes on from there."""


class Pass:
    """Lanes in training.

    Args:
      book: where everything is written down.
      number: of the cohort.
      fitted: its engine.
      members: positions of the runs in the cohort; at most as many as the engine has lanes.
      observer: measures the runs, if there is something to measure.
    """

    def __init__(
        self,
        book: Book,
        number: int,
        fitted: Fitted,
        members: list[int],
        observer: Observer | None = None,
    ):
        self.book, self.number, self.fitted, self.observer = book, number, fitted, observer
        self.cohort, self.engine = book.sweep.cohorts[number], fitted.engine
        self.classes = book.sweep.builder.dataset(self.cohort.config.data).num_classes
        # Neighbours in the grid go to different devices: where one diverges, the next may too, and
        # a device whose lanes have stopped early would idle.
        self.members = [i for d in range(fitted.rows) for i in members[d :: fitted.rows]]
        self.lanes = make_lanes(self.cohort, self.members, self.engine.lanes)

    def train(self, saved: Checkpoint | None = None) -> None:
        """Trains to the end, from the beginning or from a checkpoint.

        Raises:
          Interrupted: on request, once a checkpoint is written.
        """
        cohort, book = self.cohort, self.book
        state, tick = self.engine.init(self.lanes), 0
        if saved is not None:
            state, tick = self._restore(state, saved), saved.position["examples"] // cohort.tick
            book.progress.note(f"  resumed at epoch {self._epochs(tick):.2f}")
            book.work_done += len(self.members) * tick * cohort.tick
        elif cohort.config.measure.at_start:
            self._measure(state, 0)
        window, n = self.fitted.first_window, cohort.facts.num_examples
        every, saving = ticks_between_updates(cohort), False
        for epoch in range(cohort.config.epochs):
            start, end = epoch_ends(cohort, epoch), epoch_ends(cohort, epoch + 1)
            while start <= tick < end:
                # A call reads the order of one epoch: of the one that its first examples belong to.
                ordered = tick * cohort.tick // n
                until = min(end, cohort.first_tick(ordered + 1))
                if saving and every <= window:
                    until = min(until, tick - tick % every + every)
                count = whole_updates(tick, window, until, every) - tick
                position = tick * cohort.tick - ordered * n
                began = time.monotonic()
                fresh = tick == start
                state = self.engine.train(state, self.lanes, ordered, position, count, fresh)
                jax.block_until_ready(state)
                seconds = max(time.monotonic() - began, 1e-6)
                tick += count
                work = len(self.members) * count * cohort.tick
                book.account(work, seconds)
                book.show(self.number, self._epochs(tick), len(self.members), work / seconds)
                if count >= window // 2 or seconds > WINDOW_SECONDS:
                    window = max(1, int(count * min(4.0, WINDOW_SECONDS / seconds)))
                if tick == cohort.ticks:
                    self._keep_weights(state)  # before the results can say that these runs are done
                if tick == end:
                    self._record(state, epoch)
                window, saving, stop = self._agreed(window, saving or book.save_due())
                if not saving or (tick % every and every <= window and tick < cohort.ticks):
                    continue  # or: one of the next windows ends with an update of every run
                self._save(state, tick)
                saving = False
                if stop:
                    book.progress.note(f"stopped at epoch {self._epochs(tick):.2f}")
                    raise Interrupted
        book.write("running")

    def _agreed(self, window: int, saving: bool) -> tuple[int, bool, bool]:
        """Length of the next window, whether to save, whether to stop: the same in all processes.

        A signal may reach any of them; clocks are process 0's.
        """
        stop = hosts.anywhere(self.book.stop.is_set()) and self.book.checkpoints is not None
        length, save = hosts.of_first(window, saving)
        return int(length), bool(save) or stop, stop

    def _epochs(self, tick: int) -> float:
        return tick * self.cohort.tick / self.cohort.facts.num_examples

    def _record(self, state: TrainState, epoch: int) -> None:
        """One host round trip: the metrics of an epoch, of all lanes."""
        cohort, every = self.cohort, self.cohort.config.evaluate.every
        last = epoch + 1 == cohort.config.epochs
        due = last or (epoch + 1) % every == 0
        evaluation = self.engine.evaluate(state, self.lanes) if due else None
        sums, diverged_at, consumed, test = fetch(
            (state.sums, state.diverged_at, state.examples, evaluation)
        )
        for lane, member in enumerate(self.members):
            seen = max(float(sums.examples[lane]), 1.0)
            values = {
                "train_loss": float(sums.loss[lane]) / seen,
                "train_accuracy": float(sums.correct[lane]) / seen,
            }
            if test is not None:
                values["test_loss"] = float(test.loss[lane])
                values["test_accuracy"] = float(test.accuracy[lane])
            at = int(diverged_at[lane])
            if at < 0 and not np.isfinite(values.get("test_loss", 0.0)):
                at = int(consumed[lane])  # by its last update: no training loss has seen that yet
            diverged = at / cohort.facts.num_examples if at >= 0 else np.nan
            self.book.recorder.record(
                cohort.runs[member].index,
                epoch,
                values,
                diverged=diverged,
                last=last,
                chance=1 / self.classes,
            )
        self._summarise(state, epoch)
        if last or (epoch + 1) % cohort.config.measure.every == 0:
            self._measure(state, epoch + 1)

    def _summarise(self, state: TrainState, epoch: int) -> None:
        """What the tallies have summed up over an epoch."""
        observed = fetch(state.observed)
        indices = [self.cohort.runs[member].index for member in self.members]
        for tally, kept in zip(self.engine.tallies, observed, strict=True):
            found = jax.vmap(tally.summary)(kept.sums)
            self.book.recorder.measured.record(indices, epoch + 1, found, time="epoch")

    def _measure(self, state: TrainState, epochs: int) -> None:
        """Measures the weights after so many epochs."""
        if self.observer is None:
            return
        weights = state.params, state.stats
        if self.cohort.sharding.local:
            weights = jax.tree.map(lambda leaf: leaf.mean(axis=1), weights)
        found = self.observer(*weights, self.lanes.hyper, self.lanes.used)
        indices = [self.cohort.runs[member].index for member in self.members]
        self.book.recorder.measured.record(indices, epochs, found)

    def _save(self, state: TrainState, tick: int) -> None:
        # Between two updates nothing of a state depends on how ticks divide the batches, so that
        # another number of devices may go on.
        waiting, diverged_at = fetch((state.accumulated, state.diverged_at))
        settled = not np.any(waiting[diverged_at < 0])
        kept = state._replace(average=()) if settled else state
        runs = sorted(self.members)
        position = {
            "cohort": self.number,
            "runs": runs,
            "rows": self.members,
            "examples": tick * self.cohort.tick,
            "plan": plan_of(self.cohort, runs, settled),
        }
        self.book.save(pack(kept), position)

    def _restore(self, fresh: TrainState, saved: Checkpoint) -> TrainState:
        """The saved lanes in this pass's order, on this machine's devices."""
        at = {member: row for row, member in enumerate(saved.position["rows"])}
        rows = np.asarray([at[member] for member in self.members])
        rows = np.append(rows, np.full(self.engine.lanes - len(rows), rows[-1]))
        settled = saved.position["plan"]["settled"]
        like = fresh._replace(average=()) if settled else fresh
        state = unpack([take(leaf, rows) for leaf in saved.leaves], like)
        frozen = np.where(self.lanes.used, fetch(state.diverged_at), 0).astype(np.int32)
        state = state._replace(diverged_at=frozen)
        if settled:
            state = state._replace(average=fresh.average)
        return jax.tree.map(lambda new, old: put(new, old.sharding), state, fresh)

    def _keep_weights(self, state: TrainState) -> None:
        if self.book.directory is None or not self.cohort.config.checkpoint.final_weights:
            return
        order = np.argsort(self.members)
        weights = fetch((state.params, state.stats))
        if self.cohort.sharding.local:
            weights = jax.tree.map(lambda leaf: leaf.mean(axis=1), weights)
        params, stats = jax.tree.map(lambda leaf: leaf[: len(order)][order], weights)
        runs = [list(self.cohort.runs[i].index) for i in sorted(self.members)]
        name = f"cohort{self.number:03d}-run{min(self.members):05d}"
        save_weights(self.book.directory / "weights" / name, params, stats, runs)


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
    return math.lcm(*cohort.batch_sizes) // cohort.counted


def whole_updates(tick: int, window: int, end: int, every: int) -> int:
    """Where a window that begins at a tick ends: with an update of every run, if it is so long."""
    if tick + window >= end:
        return end
    settled = (tick + window) // every * every
    return settled if settled > tick else tick + window


def plan_of(cohort: Cohort, runs: list[int], settled: bool) -> dict[str, Any]:
    """What a checkpoint of these runs of a cohort must agree on with the cohort that resumes it.

    Args:
      cohort: whose.
      runs: positions in it.
      settled: whether every run has just done an update; else half a batch must find the same
        ticks again.
    """
    points = [list(cohort.runs[i].index) for i in runs if i < len(cohort.runs)]
    ticks = [cohort.micro_batch, cohort.tick, cohort.accumulates]
    sums = [name for name in cohort.config.measure.names if name in TALLIES]
    return {
        "points": points,
        "settled": settled,
        "ticks": None if settled else ticks,
        "tallies": sums,
    }
