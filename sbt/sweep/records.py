"""What a sweep writes down while it runs. The one mutable thing; all below it is functional."""

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr

from sbt import config as configs
from sbt import implied, results, workdir
from sbt.checkpoint import Checkpoint, Checkpoints
from sbt.errors import UserError, user_code
from sbt.parallel import hosts
from sbt.search import Log
from sbt.sweep.arrangement import Arrangement
from sbt.sweep.extend import in_grid
from sbt.sweep.fit import peak_memory
from sbt.sweep.prepare import Sweep
from sbt.sweep.problem import Problem
from sbt.sweep.progress import Progress, Status, describe

# What the time of a sweep goes into, and what the display says meanwhile.
DOING = {"train": "", "evaluate": "evaluating", "measure": "measuring", "write": "", "tell": ""}
COMPARE_SECONDS, COMPARE_EVERY = 0.1, 20  # a longer look at all runs waits for 20 times as long
WRITE_SECONDS = 10.0  # at least, between two times that the results are written as they grow

OnEpoch = Callable[[xr.Dataset], object]  # see :func:`sbt.sweep.run.run`


@dataclasses.dataclass
class Records:
    """Results, meta data and progress of a sweep.

    Attributes:
      sweep: what runs.
      arrangement: of its runs in cohorts, and the programs of these.
      recorder: the results so far.
      progress: who shows them.
      directory: where they are written, or None.
      checkpoints: in that directory.
      meta: contents of ``meta.json``.
      logs: of the searches, by number of their cohort.
      on_epoch: told of every epoch of every run, once.
      failure: what ``on_epoch`` has raised; it is not called again.
      stop: set to ask for a stop at the next opportunity.
      work_done: examples times lanes, those of earlier calls included; of a search, whose whole
        nobody knows, those of this call alone.
      examples: examples times lanes trained by this call.
      seconds: of this call, by what they went into, see :meth:`timed`.
    """

    sweep: Sweep
    arrangement: Arrangement
    recorder: results.Recorder
    progress: Progress
    directory: Path | None
    checkpoints: Checkpoints | None
    meta: dict[str, Any]
    logs: dict[int, Log] = dataclasses.field(default_factory=dict)
    on_epoch: OnEpoch | None = None
    failure: UserError | None = None
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)
    work_done: float = 0.0
    examples: float = 0.0
    seconds: dict[str, float] = dataclasses.field(default_factory=lambda: dict.fromkeys(DOING, 0.0))
    _started: float = dataclasses.field(default_factory=time.monotonic)
    _saved: float = dataclasses.field(default_factory=time.monotonic)
    _written: float = dataclasses.field(default_factory=time.monotonic)
    _status: Status | None = None
    _spent: dict[str, float] = dataclasses.field(default_factory=dict)  # by earlier calls
    _compared: int = -1
    _compare_at: float = 0.0
    _found: tuple[str, str] | None = None
    _kept_events: dict[str, Any] = dataclasses.field(default_factory=dict)
    _untold: dict[int, set[tuple[int, ...]]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.on_epoch is not None:
            done = self.recorder.epochs_done
            begun = (done > 0) | self.recorder.measured.begun()
            self._told = np.where(begun, done, -1)  # epochs, as far as the results know
            for epochs, indices in self.meta.pop("untold", {}).items():
                self._untold[int(epochs)] = {tuple(index) for index in indices}
        spent = self.meta.get("spent", {})
        self._spent = {what: spent.get(f"{what}_seconds", 0.0) for what in DOING}

    def write(self, status: str) -> None:
        """Results and meta data to disk."""
        if self.directory is None or not hosts.writes():
            return
        with self.timed("write"):
            results.write(self.dataset(), self.directory)
        now = self._written = time.monotonic()
        self.meta["wall_seconds"] += now - self._started
        self._started = now
        train = self.seconds["train"]
        self.meta |= {
            "status": status,
            "examples_lanes_per_s": self.examples / train if train else None,
            "spent": {f"{k}_seconds": self._spent[k] + s for k, s in self.seconds.items()},
            "memory_peak_bytes": peak_memory(),
        }
        if self._untold:
            self.meta["untold"] = {str(e): sorted(found) for e, found in self._untold.items()}
        workdir.write_meta(self.directory, self.meta)

    def dataset(self) -> xr.Dataset:
        """The results so far, with the events of every search."""
        found = self.recorder.dataset()
        if self.logs:
            events = {str(number): log.events for number, log in self.logs.items()}
            found.attrs["search"] = json.dumps(events)
        return found

    def search(self, number: int, saved: Checkpoint | None) -> Log | None:
        """The search of a cohort, where it was at a checkpoint; None for all runs of the grid.

        What the results hold beyond the checkpoint is trained again, and the same comes of it: the
        search decides by what it was told, and it was told of all lanes together.
        """
        cohort = self.sweep.cohorts[number]
        if not self.sweep.searches:
            return None
        events = saved.position["search"] if saved else []
        kept = self._kept_events.get(str(number), [])
        if kept and kept[-1] == ["ended"]:
            events = kept
        made = self.sweep.search(cohort)
        log = self.logs[number] = Log(made, cohort.config.epochs, events)
        begun, pending = set(log.begun), set(log.pending)
        for i, run in enumerate(cohort.runs):
            if i in log.stopped:
                self.recorder.cut(run.index, log.stopped[i])
            elif i not in begun or (i in pending and not saved):
                self.recorder.forget(run.index)
            else:
                self.recorder.stopped_epoch[run.index] = np.nan
        return log

    def write_due(self) -> None:
        """Writes the results, if the last time is long enough ago.

        They may be ahead of the checkpoint, see :meth:`save`.
        """
        if time.monotonic() - self._written >= WRITE_SECONDS:
            self.write("running")

    def note(self, epochs: int, indices: Iterable[tuple[int, ...]]) -> None:
        """Notes that the results hold what runs at these grid positions do after so many epochs."""
        if self.on_epoch is not None:
            new = {index for index in indices if self._told[index] < epochs}
            self._untold.setdefault(epochs, set()).update(new)

    def tell(self) -> None:
        """Calls ``on_epoch`` with what was noted, an epoch at a time, in process 0.

        What it raises asks the sweep to stop, see :attr:`failure`; what it was not told by then
        is told when the sweep goes on.

        Raises:
          UserError: without a directory, where nothing could be saved: at once.
        """
        if self.on_epoch is None or self.failure is not None or not hosts.writes():
            return
        try:
            with self.timed("tell"), user_code("on_epoch"):
                while self._untold:
                    epochs = min(self._untold)
                    if indices := sorted(self._untold[epochs]):
                        self.on_epoch(self.recorder.after(indices, epochs))
                    for index in self._untold.pop(epochs):
                        self._told[index] = epochs
        except UserError as error:
            if self.checkpoints is None:
                raise
            self.failure = error
            self.stop.set()

    def waiting(self, number: int) -> list[int]:
        """Positions of the runs of a cohort that are not finished."""
        cohort, done = self.sweep.cohorts[number], self.recorder.epochs_done
        return [i for i, run in enumerate(cohort.runs) if done[run.index] < cohort.config.epochs]

    def save_due(self) -> bool:
        """Whether a checkpoint is to be written now."""
        minutes = self.sweep.config.checkpoint.minutes
        due = time.monotonic() - self._saved >= 60 * minutes
        return self.checkpoints is not None and (due or self.stop.is_set())

    def save(self, leaves: list[Any], position: dict[str, Any]) -> None:
        """Writes the results so far, then the checkpoint to go on from.

        In this order: after a crash between the two, an older checkpoint trains again what the
        results already hold; the other way round, epochs before a newer one would be missing.
        """
        assert self.checkpoints is not None
        self.write("running")
        self.checkpoints.save(leaves, position)
        self._saved = time.monotonic()

    def account(self, number: int, work: float, seconds: float) -> None:
        """Notes that so many examples times lanes of a cohort were trained in so many seconds."""
        self.work_done += work
        self.examples += work
        self.seconds["train"] += seconds
        for entry in self.meta["cohorts"]:
            if entry["cohort"] == number:
                entry["examples"] += work
                entry["train_seconds"] += seconds

    @contextlib.contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Counts the time of a block that does not train, a key of ``DOING``, and shows it."""
        if self._status is not None and DOING[what]:
            self.progress.update(dataclasses.replace(self._status, doing=DOING[what]))
        began = time.monotonic()
        yield
        self.seconds[what] += time.monotonic() - began

    def show(self, number: int, epoch: float, lanes: int, rate: float) -> None:
        """Tells the progress display where the sweep stands."""
        left = self.sweep.work - self.work_done
        spent = sum(self.seconds.values())  # evaluations and all else go on as they did
        searches = self.sweep.searches
        self._status = Status(
            cohort=number + 1,
            cohorts=len(self.sweep.cohorts),
            epoch=epoch,
            epochs=self.sweep.cohorts[number].config.epochs,
            lanes=lanes,
            rate=rate,
            best=self._best(patient=True),
            diverged=int(np.isfinite(self.recorder.diverged_epoch).sum()),
            done=None if searches else self.work_done / self.sweep.work,
            left=None if searches else max(left, 0.0) * spent / max(self.examples, 1.0),
            chosen=self._chosen(lanes) if searches else "",
        )
        self.progress.update(self._status)

    def _chosen(self, lanes: int) -> str:
        """How many runs a search has begun so far, and what became of them."""
        finished = int(self.recorder.finished.sum())
        stopped = int(np.isfinite(self.recorder.stopped_epoch).sum())
        many = f"{lanes} run{'s' * (lanes != 1)} in work, {finished} finished"
        return f"{many}, {stopped} stopped of {self.sweep.runs}"

    def show_end(self) -> None:
        """Tells the display what the last evaluations found: it was last told before them."""
        if self._status is not None:
            self.progress.update(dataclasses.replace(self._status, best=self._best()))

    def _best(self, patient: bool = False) -> tuple[str, str] | None:
        """The best cell; ``patient``: an earlier one where comparing large grids takes long."""
        began = time.monotonic()
        if self.recorder.evaluations == self._compared or (patient and began < self._compare_at):
            return self._found
        best = results.best_cell(self.recorder.dataset())
        self._found = best and (self.recorder.score.text(best.value), describe(best.where))
        self._compared, taken = self.recorder.evaluations, time.monotonic() - began
        if taken > COMPARE_SECONDS:
            self._compare_at = began + COMPARE_EVERY * taken
        return self._found


def open_records(
    sweep: Sweep,
    arrangement: Arrangement,
    kept: workdir.Kept | None,
    progress: Progress,
    on_epoch: OnEpoch | None = None,
) -> Records:
    """Starts the records of a sweep, or goes on with those that are kept."""
    config = sweep.config
    problems = [sweep.builder.problem(cohort.config) for cohort in sweep.cohorts]
    dataset, laws = problems[0].dataset, sweep.laws
    recorder = results.Recorder(
        sweep.grid.axes,
        epochs=max(cohort.config.epochs for cohort in sweep.cohorts),
        score=problems[0].task.score,
        curves=_curves(problems),
        last_epochs=config.report.last_epochs,
        searched=sweep.searches,
        attrs={
            "name": config.name,
            "config": configs.to_json(config),
            "parts": json.dumps(sweep.parts),
            "train_examples": dataset.train_examples,
            "test_examples": dataset.test_examples,
            **({"tokens_per_example": dataset.tokens} if dataset.tokens else {}),
            **({"implied": json.dumps(implied.as_json(laws))} if laws else {}),
        },
    )
    directory, checkpoints, earlier, events = None, None, {}, {}
    if kept is not None:
        directory = kept.directory
        earlier = workdir.read_meta(directory, progress.note)
        if kept.results is not None:
            recorder.restore(in_grid(kept.results, sweep.grid))
            events = json.loads(kept.results.attrs.get("search", "{}"))
        checkpoints = Checkpoints(
            directory / "checkpoints", keep=config.checkpoint.keep, warn=progress.note
        )
    meta = workdir.with_start(
        {"wall_seconds": 0.0, "compile_seconds": 0.0, "cohorts": []} | earlier,
        workdir.describe_environment(),
    )
    many = len(sweep.cohorts) > 1
    progress.note(
        f"{config.name}: {sweep.runs} runs in {len(sweep.cohorts)} cohort{'s' * many} on "
        f"{jax.device_count()} {jax.default_backend()} device(s)"
    )
    for remark in sweep.remarks:
        progress.note(f"  {remark}")
    if sweep.parts["module"] is not None:
        name = sweep.parts["module"]["name"]
        progress.note(f"  model: {name} (module=), in place of {config.model.name!r} of the config")
    return Records(
        sweep, arrangement, recorder, progress, directory, checkpoints, meta, on_epoch=on_epoch,
        _kept_events=events,
    )  # fmt: skip


def _curves(problems: Sequence[Problem]) -> dict[str, dict[str, str]]:
    """What runs tell after every epoch, with units and words; see ``results.Recorder``."""
    found = {}
    for problem in problems:
        for split in ("train", *problem.tested):
            words = ("training", ", mean over the epoch") if split == "train" else (split, "")
            for name, metric in problem.task.told.items():
                units = {"units": metric.units} if metric.units else {}
                long_name = f"{words[0]} {metric.long_name}{words[1]}"
                found[results.curve(split, name)] = {**units, "long_name": long_name}
    return found
