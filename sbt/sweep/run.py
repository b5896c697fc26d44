"""``sbt.run``: trains a whole grid, keeps what it learns, survives interruption."""

import contextlib
import dataclasses
import functools
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import xarray as xr
from ml_collections import ConfigDict

from sbt import config as configs
from sbt import log
from sbt import workdir as directories
from sbt.checkpoint import Checkpoint
from sbt.data import Dataset
from sbt.errors import UserError, telling_memory
from sbt.errors import shown as in_words
from sbt.files import directory_of
from sbt.measure.registry import separate_in
from sbt.optim import foreign
from sbt.parallel import hosts
from sbt.parallel.mesh import by_lane
from sbt.sweep import extend
from sbt.sweep.afterwards import measure_runs
from sbt.sweep.arrangement import arrange
from sbt.sweep.fit import fit
from sbt.sweep.grid import shared
from sbt.sweep.loop import Interrupted, Loop
from sbt.sweep.observe import make_observer
from sbt.sweep.prepare import Sweep, prepare
from sbt.sweep.problem import Parts
from sbt.sweep.progress import Progress, chosen_progress, si
from sbt.sweep.records import OnEpoch, Records, open_records
from sbt.sweep.slots import epoch_ends, plan_of
from sbt.sweep.weights import starting
from sbt.tasks.base import PerExample

__all__ = ["Interrupted", "run"]


def run(
    config: ConfigDict | Mapping[str, Any],
    workdir: str | Path | None = None,
    *,
    module: Any = None,
    dataset: Dataset | None = None,
    rule: foreign.MakeRule | None = None,
    loss: PerExample | None = None,
    metrics: Mapping[str, Any] | None = None,
    schedule: Any = None,
    start: Any = None,
    on_epoch: OnEpoch | None = None,
    progress: Progress | bool | None = None,
) -> xr.Dataset:
    """Trains every run of a config's grid.

    Args:
      config: from :func:`sbt.config.default` or an experiment file; a mapping of some of its fields
        will do.
      workdir: keeps results and checkpoints there; the same call again goes on where it was, or, if
        all is done, only reads. None: nothing is written.
      module: your own Flax module instead of ``config.model`` (see ``sbt.models.adapter``).
      dataset: your own arrays (``sbt.from_arrays``) or any other examples (``sbt.from_examples``)
        instead of ``config.data.name``.
      rule: your own update rule instead of ``config.rule``: a function of the learning rate (and of
        hyperparameters with defaults, which can be swept) that gives an optax transformation, such
        as ``optax.sgd``. Hyperparameters come from ``config.rule``, by name.
      loss: your own loss instead of that of ``config.task``: ``(outputs, examples) -> (n,)``, one
        number for each of the n examples, where ``outputs`` is what the module gives for
        ``examples["x"]``. It ranks the runs, lower being better, unless ``config.task.score`` names
        a metric and ``config.task.direction`` says which way.
      metrics: functions likewise, by name, which are told beside the loss (and beside the metrics
        of ``config.task``, without a loss of your own); or :class:`sbt.tasks.Metric`, with units.
      schedule: your own schedule of the learning rate instead of ``config.schedule``: a function of
        progress, traced, in [0, 1], that gives a multiplier.
      start: weights that all runs start from instead of random ones, as :func:`sbt.load_weights`
        gives them, or params alone; ``config.start`` names a work directory instead, see
        :func:`sbt.sweep.weights.starting`. What a directory was made with is given again to resume.
      on_epoch: called whenever runs come to the end of an epoch, with what was just measured: a
        dataset over ``run``, their numbers in grid order, with ``epoch`` (one number), the axes of
        these runs and every metric as arrays, and the score of those that have ended. All runs
        that train side by side end an epoch together. Every epoch is told once, in order; a call
        that resumes tells new ones only (after a crash those, too, that were not written yet). It
        changes nothing of what is trained. What it raises stops the sweep, saved.
      progress: shows the progress; None: a panel in a notebook or, from a script, on a terminal's
        standard error; False: silent.

    Returns:
      A dataset over the swept axes and ``epoch``, with ``train_loss`` and ``test_loss`` and a pair
      for every metric of the task, such as ``train_accuracy`` and ``test_accuracy``; and over the
      axes alone the score, ``accuracy`` or whatever ``attrs["score"]`` names (median over the
      evaluations in the last epochs), ``diverged``, ``diverged_epoch`` and ``epochs_done``.

    Raises:
      UserError: before anything compiles, for a config that cannot be run, with the remedy.
      UserCodeError: ``on_epoch`` raised, once everything is saved; the same call tells it of that
        epoch again, and goes on.
      Interrupted: after SIGTERM or Ctrl-C, once everything is saved.

    Examples:
      >>> def best(now):
      ...     print(int(now.epoch), float(now.test_accuracy.max()))
      >>> sbt.run(config, "runs/mine", on_epoch=best)  # doctest: +SKIP
    """
    if on_epoch is not None and not callable(on_epoch):
        problem = f"{in_words(on_epoch)} cannot be called"
        raise UserError("on_epoch", problem, "give a function of a dataset")
    directory = None if workdir is None else directory_of(workdir)
    with telling_memory(), foreign.known(rule):
        parts = Parts(module, dataset, rule, loss, metrics, schedule)
        sweep = starting(prepare(config, parts), start)
        shown = chosen_progress(progress)
        if directory is None:
            with _listening(sweep, None, on_epoch) as listener:
                return _train(sweep, None, shown, listener)
        agree = functools.partial(extend.check, sweep.grid)
        kept = directories.checked(directory, sweep.config, sweep.parts, agree)
        late, nothing_left = _finished(sweep, kept)
        if nothing_left and kept.results is not None:
            earlier = configs.from_json(kept.results.attrs["config"])
            if idle := extend.without_effect(sweep.config, earlier):
                shown.note(f"every run is finished: nothing follows from {', '.join(idle)}")
            return kept.results
        if late:
            measure_runs(
                directory, {"names": tuple(late)}, module=module, dataset=dataset, rule=rule,
                loss=loss, metrics=metrics, schedule=schedule, progress=shown,
            )  # fmt: skip
        with (
            directories.locked(
                directory, sweep.config, agree, parts=sweep.parts, known=kept
            ) as kept,
            _listening(sweep, directory, on_epoch) as listener,
        ):
            return _train(sweep, kept, shown, listener)


@contextlib.contextmanager
def _listening(
    sweep: Sweep, directory: Path | None, on_epoch: OnEpoch | None
) -> Iterator[OnEpoch | None]:
    """What is told of every epoch, in process 0: the user's function, and the logs of the config.

    These open here, before anything compiles, and close when the sweep ends, however it does.
    """
    if not sweep.config.log or not hosts.writes():
        yield on_epoch
        return
    place = None if directory is None else directory / "log"
    with log.opened(sweep.config.log, place) as logs:
        tell = log.teller(logs, str(sweep.config.name), tuple(sweep.grid.axes))

        def both(now: xr.Dataset) -> None:
            if on_epoch is not None:
                on_epoch(now)
            tell(now)

        yield both


def _finished(sweep: Sweep, kept: directories.Kept) -> tuple[list[str], bool]:
    """What is left where every run is finished.

    Returns:
      Measurements that the config asks for, which are made of the kept weights; and whether nothing
      at all is left to do. Where runs are left to train: none, and no.

    Raises:
      UserError: every run is finished, and the config asks for what can no longer be had.
    """
    if kept.results is None:
        return [], False
    done = extend.in_grid(kept.results, sweep.grid)["epochs_done"].values
    if sweep.searches:  # which leaves runs out
        over = directories.read_meta(kept.directory, lambda text: None).get("status") == "done"
    else:
        over = all(done[run.index] >= c.config.epochs for c in sweep.cohorts for run in c.runs)
    if not over:
        return [], False
    config, earlier = sweep.config, configs.from_json(kept.results.attrs["config"])
    extend.check_finished(config, earlier, str(kept.directory))
    late = extend.added_measurements(config, earlier)
    ended = directories.read_meta(kept.directory, lambda text: None).get("status") == "done"
    alike = extend.said(earlier) == extend.said(config) and earlier.report == config.report
    return late, ended and alike and not late


def _train(
    sweep: Sweep, kept: directories.Kept | None, progress: Progress, on_epoch: OnEpoch | None
) -> xr.Dataset:
    directory = None if kept is None else kept.directory
    elsewhere = jax.default_backend() != "cpu"
    found = arrange(
        sweep.grid, sweep.builder.facts, directory, one_micro_batch=elsewhere, note=progress.note
    )
    sweep = dataclasses.replace(sweep, cohorts=found.cohorts)
    records = open_records(sweep, found, kept, progress, on_epoch)
    sharding = functools.partial(by_lane, sweep.mesh)
    saved = records.checkpoints.latest(sharding) if records.checkpoints else None
    if saved and (reason := _unfit(saved, records)):
        progress.note(f"the checkpoint {reason}: runs that are not finished start again")
        saved = None
    with _signals(records), contextlib.closing(progress):
        try:
            records.tell()
            if hosts.anywhere(records.failure is not None):
                raise Interrupted
            for number in range(len(sweep.cohorts)):
                mine = saved if saved and saved.position["cohort"] == number else None
                _train_cohort(records, number, mine)
            records.show_end()
        except Interrupted:
            records.write("interrupted")
            if records.failure is not None:
                raise records.failure from records.failure.__cause__
            raise
    records.write("done")
    if records.checkpoints:
        records.checkpoints.clear()
        records.checkpoints.close()
    return records.dataset()


def _unfit(saved: Checkpoint, records: Records) -> str | None:
    """Why training cannot go on from a checkpoint, if it cannot."""
    number, runs, plan = (saved.position[name] for name in ("cohort", "runs", "plan"))
    cohorts = records.sweep.cohorts
    other = "was made for another grouping of the runs (on another kind of device, perhaps)"
    if number >= len(cohorts):
        return other
    labels = records.arrangement.labels[number]
    if plan != plan_of(cohorts[number], labels, runs, plan["settled"]):
        return other
    cohort, done = cohorts[number], records.recorder.epochs_done
    for member, examples in zip(saved.position["rows"], saved.position["examples"], strict=True):
        if member < 0:
            continue
        tick, rest = divmod(examples, cohort.tick)
        if rest:
            return other
        ended = sum(epoch_ends(cohort, e + 1) <= tick for e in range(cohort.config.epochs))
        if done[cohort.runs[member].index] < ended:
            return "is ahead of the results, which must have been removed"
    return None


def _train_cohort(records: Records, number: int, saved: Checkpoint | None) -> None:
    sweep, cohort = records.sweep, records.sweep.cohorts[number]
    log = records.search(number, saved)
    waiting = records.waiting(number) if log is None else log.pending
    if not waiting and (log is None or log.events):
        if log is not None and not log.ended:
            log.end()
        return
    if log is None:
        records.work_done += (len(cohort.runs) - len(waiting)) * cohort.total_examples
    if log is None and saved and not set(saved.position["runs"]) & set(waiting):
        saved = None  # what it holds has gone on to its end
    runs = f"{len(waiting)} runs"
    if log is not None:
        runs = f"{sweep.config.search.name} among {len(cohort.runs)} runs"
    records.progress.note(
        f"cohort {number + 1}/{len(sweep.cohorts)}: {runs}, micro-batch "
        f"{cohort.micro_batch}, {si(cohort.facts.parameters)} parameters; compiling"
    )
    placed = sweep.place(cohort)
    resumed = set(saved.position["runs"]) & set(waiting) if saved else ()
    kept = records.arrangement.setup(number)
    width = len(waiting) if log is None else sweep.search(cohort).width
    fitted = fit(placed, runs=width, least=len(resumed), kept=kept)
    engine = fitted.engine
    if fitted.changed:
        records.progress.note(f"  {fitted.changed}: from here on bits may differ (only rounding)")
    records.arrangement.keep(number, fitted.setup)
    records.meta["compile_seconds"] += engine.compile_seconds
    entry = {
        "cohort": number,
        "runs": len(cohort.runs),
        "batch_sizes": list(cohort.sizes),
        "fixed": shared(sweep.grid, cohort.runs),
        "micro_batch": cohort.micro_batch,
        "strategy": str(engine.strategy),
        "lanes_per_pass": engine.lanes,
        "bytes_per_device": engine.bytes_per_device,
        "compile_seconds": engine.compile_seconds,
        "examples": 0.0,
        "train_seconds": 0.0,  # both filled as it trains
    }
    others = [e for e in records.meta["cohorts"] if e.get("cohort", number) != number]
    records.meta["cohorts"] = sorted([*others, entry], key=lambda kept: kept["cohort"])
    observer = None
    if separate_in(cohort.config):
        observer = make_observer(placed, engine.lanes)
        entry["measure"] = observer.seconds  # filled as it measures
        records.meta["compile_seconds"] += observer.compile_seconds
    records.progress.note(
        f"  compiled in {engine.compile_seconds:.1f} s: {engine.strategy}, "
        f"{engine.lanes} lanes at a time, {engine.bytes_per_device / 2**20:.0f} MiB per device"
    )
    with contextlib.closing(engine):
        Loop(records, number, fitted, waiting, observer, saved, log).train()


@contextlib.contextmanager
def _signals(records: Records) -> Iterator[None]:
    """SIGTERM, SIGHUP and Ctrl-C ask the sweep to stop at the next look; a second Ctrl-C insists.

    A signal that this process was started to ignore, as by ``nohup``, stays ignored.
    """
    if records.directory is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        del frame
        if records.stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        records.stop.set()

    asking = [
        number
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]
    before = {number: signal.signal(number, handle) for number in asking}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
