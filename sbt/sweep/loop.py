"""The runs of a cohort on the lanes of its program, from the first tick to the last."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sbt.checkpoint import Checkpoint, pack, save_weights, unpack
from sbt.measure.registry import Found, Labelled, online_in
from sbt.parallel import hosts
from sbt.parallel.mesh import fetch, put, take
from sbt.results import TEST, VALIDATION, curve
from sbt.schedules import BATCH_SCHEDULES
from sbt.search import Log, Told
from sbt.sweep.arrangement import name_of
from sbt.sweep.fit import Fitted
from sbt.sweep.lanes import make_lanes
from sbt.sweep.observe import Observer
from sbt.sweep.records import Records
from sbt.sweep.slots import first_slots, plan_of, resumed_slots, ticks_between_updates
from sbt.sweep.weights import place_of
from sbt.train.state import TrainState

WINDOW_SECONDS = 5.0  # between two looks at the clock, the signals and the progress display
# A call reads and writes the states of all lanes; ticks that share it share that cost. So many at
# least, while they take no longer than that.
LEAST_TICKS, LEAST_SECONDS = 4, 30.0


class Interrupted(KeyboardInterrupt):
    """The sweep was told to stop; what it had is saved, and the same call goes on from there."""


class Loop:
    """Lanes in training.

    Args:
      records: where everything is written down.
      number: of the cohort.
      fitted: its engine.
      waiting: positions of the runs in the cohort; those that find no lane wait for one.
      observer: measures the runs, if there is something to measure.
      saved: a checkpoint of some of the runs that wait, to go on from.
      log: of the search that says which runs wait, and which stop; None: all of ``waiting``.
    """

    def __init__(
        self,
        records: Records,
        number: int,
        fitted: Fitted,
        waiting: list[int],
        observer: Observer | None = None,
        saved: Checkpoint | None = None,
        log: Log | None = None,
    ):
        self.records, self.number, self.fitted, self.observer = records, number, fitted, observer
        self.engine, self.cohort = fitted.engine, fitted.engine.placed.cohort
        self.labels = records.arrangement.labels[number]
        self.task = self.engine.placed.problem.task
        self.tested = self.engine.placed.problem.tested
        lanes, rows = self.engine.lanes, self.engine.placed.rows
        self.log = log
        if log is not None and not log.events:
            waiting = log.ask(lanes)
        in_flight = self.engine.in_flight
        self.saved, slots = saved, None
        if saved is not None:
            slots = resumed_slots(self.cohort, saved.position, waiting, lanes, in_flight)
            still, began = set(waiting), set(saved.position["runs"])
            first = [i for i in saved.position["runs"] if i in still]
            waiting = [*first, *(i for i in waiting if i not in began)]
        self.slots = slots or first_slots(self.cohort, waiting, lanes, rows, in_flight)
        self.lanes = make_lanes(self.cohort, self.slots.members)
        # Which lanes' online measurements began in the middle of an epoch, by name.
        self.partial = {name: np.zeros(lanes, bool) for name in online_in(self.cohort.config)}

    def train(self) -> None:
        """Trains to the end, from the beginning or from the checkpoint.

        Raises:
          Interrupted: on request, once a checkpoint is written.
        """
        records, slots = self.records, self.slots
        state = self.engine.init(self.lanes)
        if self.saved is not None:
            state = self._restore(state, self.saved)
            self.saved = None
            records.progress.note(f"  resumed at epoch {self._epochs():.2f}")
            records.work_done += float(np.sum(slots.ticks[slots.live])) * self.cohort.tick
        state = self._measure_start(state, np.flatnonzero(slots.live & (slots.ticks == 0)))
        window, saving = self.fitted.first_window, False
        while np.any(slots.live):
            began = time.monotonic()
            count = slots.step(window, saving)
            begins = slots.begins()
            state = self.engine.train(state, self.lanes, *slots.reading(), count, begins)
            for partial in self.partial.values():
                partial[begins] = False
            jax.block_until_ready(state)
            seconds = max(time.monotonic() - began, 1e-6)
            slots.ticks[slots.live] += count
            self._report(count, seconds)
            if count >= window // 2 or seconds > WINDOW_SECONDS:
                window = self._next_window(count, seconds)
            ended = slots.ended()
            done = np.flatnonzero(slots.finished())
            for epoch, lanes in ended.items():
                # Before the results can say that these runs are so far.
                self._keep_weights(state, epoch + 1, lanes, self.slots.members)
                state = self._record(state, epoch, lanes)
            if ended and self.log is not None:
                self._search(self.log, state, ended)
            slots.members[done] = -1
            if ended:
                state = self._refill(state)
                records.tell()  # before they are written: what nobody was told of is told again
                records.write_due()
            window, saving, stop = self._agreed(window, saving or records.save_due())
            within = ticks_between_updates(self.cohort) <= window
            if not saving or (within and np.any(slots.live) and not slots.settled()):
                continue  # or: one of the next windows ends with an update of every run
            self._save(state)
            saving = False
            if stop:
                records.progress.note(f"stopped at epoch {self._epochs():.2f}")
                raise Interrupted
        if self.log is not None:
            self.log.end()
        records.write("running")

    @staticmethod
    def _next_window(count: int, seconds: float) -> int:
        """Ticks of the next windows, from those of one and their time."""
        least = LEAST_TICKS if LEAST_TICKS * seconds <= LEAST_SECONDS * count else 1
        return max(least, int(count * min(4.0, WINDOW_SECONDS / seconds)))

    def _agreed(self, window: int, saving: bool) -> tuple[int, bool, bool]:
        """Length of the next window, whether to save, whether to stop: the same in all processes.

        A signal may reach any of them; clocks are process 0's.
        """
        stop = hosts.anywhere(self.records.stop.is_set()) and self.records.checkpoints is not None
        length, save = hosts.of_first(window, saving)
        return int(length), bool(save) or stop, stop

    def _epochs(self) -> float:
        """Epochs of the run that is farthest."""
        ticks = float(np.max(self.slots.ticks, where=self.slots.live, initial=0))
        return ticks * self.cohort.tick / self.cohort.facts.num_examples

    def _report(self, count: int, seconds: float) -> None:
        lanes = int(np.sum(self.slots.live))
        work = lanes * count * self.cohort.tick
        self.records.account(self.number, work, seconds)
        self.records.show(self.number, self._epochs(), lanes, work / seconds)

    # --- epochs ----------------------------------------------------------------------------------

    def _search(self, log: Log, state: TrainState, ended: Mapping[int, np.ndarray]) -> None:
        """Tells the search of runs that were evaluated, stops some, and asks for others.

        All of this follows from the ticks that the runs have done, never from the clock.
        """
        slots, recorder, score = self.slots, self.records.recorder, self.task.score
        split = next((s for s in self.tested if s == VALIDATION), TEST)
        curves = recorder.curves[curve(split, score.name)]
        news = []
        for epoch, lanes in ended.items():
            for member in slots.members[lanes].tolist():
                index = self.cohort.runs[member].index
                if np.isfinite(recorder.diverged_epoch[index]):
                    news.append(Told(member, epoch + 1, -np.inf))
                elif self._evaluated(epoch):
                    gain = float(score.gain(curves[(*index, epoch)]))
                    news.append(Told(member, epoch + 1, gain if np.isfinite(gain) else -np.inf))
        stopped = log.tell(sorted(news))
        slots.members[np.isin(slots.members, stopped)] = -1
        for member in stopped:
            recorder.stop(self.cohort.runs[member].index, log.stopped[member])
        stuck = slots.live & (fetch(state.diverged_at) >= 0) & slots.begins()
        free = int(np.sum(~slots.live | slots.finished() | stuck))
        slots.waiting += log.ask(free - len(slots.waiting))

    def _refill(self, state: TrainState) -> TrainState:
        """At the end of an epoch: runs that wait take the lanes of those that are over."""
        members, epochs = self.slots.members.copy(), self.slots.epoch()
        given_up, taken = self.slots.refill(fetch(state.diverged_at) >= 0)
        if len(given_up):
            self._keep_weights(state, self.cohort.config.epochs, given_up, members)
            self._fill_in(state, given_up, members, epochs)
            if self.log is not None:
                self.log.leave(members[given_up].tolist())
        if not len(given_up) and not len(taken):
            return state
        self.lanes = make_lanes(self.cohort, self.slots.members)
        new = ~self.slots.live  # unused lanes start frozen
        new[taken] = True
        state = _merge(state, self.engine.init(self.lanes), put(new, state.updates.sharding))
        if len(taken):
            self.records.progress.note(
                f"  {len(taken)} runs that waited take the lanes of runs that are over, "
                f"{len(self.slots.waiting)} wait"
            )
            state = self._measure_start(state, taken)
        return state

    def _record(self, state: TrainState, epoch: int, lanes: np.ndarray) -> TrainState:
        """The metrics of an epoch, of the lanes that are at its end; what they are told of it."""
        evaluation = None
        if self._evaluated(epoch):
            with self.records.timed("evaluate"):
                evaluation = self.engine.evaluate(state, self.lanes)
        sums, diverged_at, consumed = fetch((state.sums, state.diverged_at, state.examples))
        for lane in lanes:
            seen = max(float(sums.examples[lane]), 1.0)
            means = {"loss": sums.loss, **sums.metrics}
            values = self._told("train", {n: float(v[lane]) / seen for n, v in means.items()})
            for split, tested in (evaluation or {}).items():
                means = {"loss": tested.loss, **tested.metrics}
                values |= self._told(split, {n: float(v[lane]) for n, v in means.items()})
            at = int(diverged_at[lane])
            losses = [values[f"{split}_loss"] for split in evaluation or ()]
            if at < 0 and not np.all(np.isfinite(losses)):
                at = int(consumed[lane])  # by its last update: no training loss has seen that yet
            self._write(int(self.slots.members[lane]), epoch, values, at)
        observed = jax.tree.map(lambda leaf: leaf[lanes], fetch(state.observed))
        indices = self._indices(self.slots.members[lanes])
        for partial, online, kept in zip(
            self.partial.values(), self.engine.online, observed, strict=True
        ):
            whole = jax.vmap(online.summary)(kept.sums)
            found = {name: _masked(value, partial[lanes]) for name, value in whole.items()}
            self.records.recorder.measured.record(indices, epoch + 1, found, time="epoch")
        last = epoch + 1 == self.cohort.config.epochs
        if last or (epoch + 1) % self.cohort.config.measure.every == 0:
            return self._measure(state, epoch + 1, lanes)
        return state

    def _told(self, split: str, means: Mapping[str, float]) -> dict[str, float]:
        """What is told of a split, by curve."""
        told = self.task.told
        return {f"{split}_{name}": told[name].result(mean, split) for name, mean in means.items()}

    def _write(self, member: int, epoch: int, values: dict[str, float], at: int) -> None:
        """One epoch of one run; ``at``: examples until it diverged, or -1."""
        index = self.cohort.runs[member].index
        self.records.note(epoch + 1, [index])
        self.records.recorder.record(
            index,
            epoch,
            values,
            diverged=at / self.cohort.facts.num_examples if at >= 0 else np.nan,
            last=epoch + 1 == self.cohort.config.epochs,
            diverged_score=self.task.score.diverged,
        )

    def _fill_in(
        self, state: TrainState, lanes: np.ndarray, members: np.ndarray, epochs: np.ndarray
    ) -> None:
        """The epochs that diverged runs do not train any more: nothing would change in them."""
        total = self.cohort.config.epochs
        for lane, at in zip(lanes, fetch(state.diverged_at)[lanes], strict=True):
            for epoch in range(epochs[lane], total):
                splits = ["train", *self.tested] if self._evaluated(epoch) else ["train"]
                names = [f"{split}_{name}" for split in splits for name in self.task.told]
                self._write(int(members[lane]), epoch, dict.fromkeys(names, 0.0), int(at))
                for online in self.engine.online:
                    found = jax.vmap(online.summary)(
                        jax.tree.map(lambda leaf: leaf[None], online.empty.sums)
                    )
                    index = self._indices(members[[lane]])
                    self.records.recorder.measured.record(index, epoch + 1, found, time="epoch")
            left = self.cohort.ticks - self.slots.ticks[lane]
            self.records.work_done += float(left) * self.cohort.tick

    def _evaluated(self, epoch: int) -> bool:
        config = self.cohort.config
        return epoch + 1 == config.epochs or (epoch + 1) % config.evaluate.every == 0

    def _indices(self, members: np.ndarray) -> list[tuple[int, ...]]:
        return [self.cohort.runs[member].index for member in members]

    def _measure_start(self, state: TrainState, lanes: np.ndarray) -> TrainState:
        if len(lanes) and self.cohort.config.measure.at_start:
            return self._measure(state, 0, lanes)
        return state

    def _measure(self, state: TrainState, epochs: int, lanes: np.ndarray) -> TrainState:
        """Measures the weights of some lanes after so many epochs; NaN once a run has diverged.

        Frozen weights could be measured, but not those of a run that has given up its lane.
        """
        if self.observer is None:
            return state
        weights = state.params, state.stats
        if self.cohort.sharding.local:
            weights = jax.tree.map(lambda leaf: leaf.mean(axis=1), weights)
        indices = self._indices(self.slots.members[lanes])
        self.records.note(epochs, indices)
        diverged = self.records.recorder.diverged_epoch
        used = np.zeros(self.engine.lanes, bool)
        used[lanes] = [epochs == 0 or not diverged[index] <= epochs for index in indices]
        rule = state.opt_state, state.examples, state.told
        with self.records.timed("measure"):
            found = self.observer(*weights, self.lanes, used, rule)
        mine = {
            name: dataclasses.replace(labelled, value=np.asarray(labelled.value)[lanes])
            for name, labelled in found.items()
        }
        self.records.recorder.measured.record(indices, epochs, mine)
        return self._tell(state, found, used)

    def _tell(self, state: TrainState, found: Found, used: np.ndarray) -> TrainState:
        """The states of the lanes that were measured, told what their batch schedule asks for."""
        schedule = BATCH_SCHEDULES.configured(self.cohort.config.batch_schedule)
        feedback = schedule.facts.get("feedback")
        if feedback is None:
            return state
        value = np.asarray(found[feedback.variable].value).reshape(len(used), -1)[:, 0]
        before = fetch(state.told)
        after = feedback.hear(before, value, **self.lanes.hyper.batch_schedule)
        told = jax.tree.map(
            lambda new, old: np.asarray(np.where(used, new, old), old.dtype), after, before
        )
        return state._replace(told=put(told, state.updates.sharding))

    # --- checkpoints and weights -----------------------------------------------------------------

    def _save(self, state: TrainState) -> None:
        # Between two updates nothing of a state depends on how ticks divide the batches, so that
        # another number of devices may go on.
        live = self.slots.live
        pending, diverged_at = fetch((state.accumulated, state.diverged_at))
        settled = not np.any(pending[live & (diverged_at < 0)])
        kept = state._replace(average=()) if settled else state
        runs = sorted(self.slots.members[live].tolist())
        position = {
            "cohort": self.number,
            "runs": runs,
            "rows": self.slots.members.tolist(),
            "examples": (self.slots.ticks * self.cohort.tick).tolist(),
            "plan": plan_of(self.cohort, self.labels, runs, settled),
            "tallies": [
                [name, len(jax.tree.leaves(own)), partial.tolist()]
                for (name, partial), own in zip(self.partial.items(), state.observed, strict=True)
            ],
        }
        if self.log is not None:
            position["search"] = self.log.events
        self.records.save(pack(kept), position)

    def _restore(self, fresh: TrainState, saved: Checkpoint) -> TrainState:
        """The saved lanes on this pass's, on this machine's devices; other lanes stay fresh."""
        at = {member: row for row, member in enumerate(saved.position["rows"]) if member >= 0}
        rows = np.asarray([at.get(member, -1) for member in self.slots.members.tolist()])
        found = rows >= 0
        examples = np.asarray(saved.position["examples"])
        self.slots.ticks[found] = examples[rows[found]] // self.cohort.tick
        settled = saved.position["plan"]["settled"]
        like = fresh._replace(average=()) if settled else fresh
        leaves = [take(leaf, np.where(found, rows, 0)) for leaf in saved.leaves]
        state = unpack(self._with_online(leaves, saved.position, rows, fresh), like)
        if settled:
            state = state._replace(average=fresh.average)
        state = jax.tree.map(lambda new, old: put(new, old.sharding), state, fresh)
        return _merge(fresh, state, put(found, fresh.updates.sharding))

    def _with_online(
        self, leaves: list[Any], position: Mapping[str, Any], rows: np.ndarray, fresh: TrainState
    ) -> list[Any]:
        """The saved leaves, with the online measurements that the config names now in place of
        those saved.

        One that is new begins with the next epoch: there is no value for the one in work.
        """
        saved = position["tallies"]
        first = len(leaves) - sum(count for _, count, _ in saved)
        kept, at = {}, first
        for name, count, partial in saved:
            kept[name] = leaves[at : at + count], np.asarray(partial)
            at += count
        chosen = leaves[:first]
        for (name, partial), empty in zip(self.partial.items(), fresh.observed, strict=True):
            if name in kept:
                own, before = kept[name]
                partial[rows >= 0] = before[rows[rows >= 0]]
            else:
                own = pack(empty)
                partial[rows >= 0] = True
            chosen += own
        return chosen

    def _wants_weights(self, epochs: int) -> bool:
        """Whether the config keeps the weights after so many epochs."""
        config = self.cohort.config
        every = config.checkpoint.weights_every
        if epochs == config.epochs:
            return bool(config.checkpoint.final_weights or every)
        return bool(every) and epochs % every == 0

    def _keep_weights(
        self, state: TrainState, epochs: int, lanes: np.ndarray, members: np.ndarray
    ) -> None:
        """Keeps the weights of some lanes after so many epochs, if the config wants them."""
        directory, total = self.records.directory, self.cohort.config.epochs
        if directory is None or not len(lanes) or not self._wants_weights(epochs):
            return
        members = members[lanes]
        rows = lanes[np.argsort(members)]
        weights = fetch((state.params, state.stats))
        if self.cohort.sharding.local:
            weights = jax.tree.map(lambda leaf: leaf.mean(axis=1), weights)
        rule = fetch(state.opt_state) if self.cohort.config.checkpoint.rule_state else ()
        params, stats, rule = jax.tree.map(lambda leaf: leaf[rows], (*weights, rule))
        order = np.sort(members).tolist()
        runs = [list(index) for index in self._indices(np.sort(members))]
        labels = [self.labels[i] for i in order]
        place = place_of(directory, None if epochs == total else epochs)
        save_weights(place / name_of(labels[0]), params, stats, runs, labels, rule)


def _masked(labelled: Labelled, absent: np.ndarray) -> Labelled:
    """Values of lanes, NaN for some."""
    where = absent.reshape(-1, *[1] * (labelled.value.ndim - 1))
    return dataclasses.replace(labelled, value=jnp.where(where, jnp.nan, labelled.value))


@jax.jit
def _merge(state: TrainState, fresh: TrainState, new: jax.Array) -> TrainState:
    """The state with some lanes replaced."""

    def one(old: jax.Array, other: jax.Array) -> jax.Array:
        return jnp.where(new.reshape(-1, *[1] * (old.ndim - 1)), other, old)

    return jax.tree.map(one, state, fresh)
