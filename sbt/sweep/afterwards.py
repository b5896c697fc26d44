"""Measures saved weights: ``sbt measure DIR``, into the results that are there."""

import collections
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr

from sbt import config as configs
from sbt import results
from sbt import workdir as directories
from sbt.data import Dataset
from sbt.errors import UserError
from sbt.files import directory_of
from sbt.measure.record import Measured
from sbt.measure.registry import RULE_STATE, separate_in
from sbt.optim import foreign
from sbt.sweep.fit import memory_budget
from sbt.sweep.lanes import make_lanes
from sbt.sweep.observe import make_observer, needs_rule
from sbt.sweep.prepare import Sweep, prepare
from sbt.sweep.problem import Parts, Placed
from sbt.sweep.progress import Progress, chosen_progress
from sbt.sweep.weights import Row, config_in, kept_weights, starting_again
from sbt.tasks.base import PerExample
from sbt.text import roughly

SHARE_FOR_WEIGHTS = 0.25  # of the memory; the rest is for what measures them


def measure_runs(
    directory: str | Path,
    measure: Mapping[str, Any] | None = None,
    *,
    module: Any = None,
    dataset: Dataset | None = None,
    rule: foreign.MakeRule | None = None,
    loss: PerExample | None = None,
    metrics: Mapping[str, Any] | None = None,
    schedule: Any = None,
    progress: Progress | bool | None = None,
) -> xr.Dataset:
    """Measures the final weights of a sweep and adds what is found to its ``results.nc``.

    The variables are those that ``config.measure`` gives during training, at ``measured_epoch`` =
    the last epoch; what is there of the same name, epoch and runs is replaced. A run that diverged
    is NaN.

    Args:
      directory: work directory of a sweep that ran with ``config.checkpoint.final_weights``.
      measure: fields of ``config.measure`` to set before; None measures what the config names.
      module: the module that ``sbt.run`` was given, if any.
      dataset: likewise the data.
      rule: likewise the update rule.
      loss: likewise the loss.
      metrics: likewise further metrics.
      schedule: likewise the schedule.
      progress: as for ``sbt.run``.

    Returns:
      The whole dataset.

    Raises:
      UserError: no sweep, no weights, nothing to measure, or a measurement that cannot be made.
    """
    directory = directory_of(directory, "directory")
    config = config_in(directory)
    wanted = configs.updated(config, {} if measure is None else {"measure": measure})
    if wanted.rule.name == foreign.NAME and rule is None:
        raise UserError(
            str(directory),
            "was trained with an update rule of your own, which is not given",
            "name the file that defines it (sbt measure DIR --experiment FILE), or pass rule=",
        )
    with foreign.known(rule), directories.locked(directory, None) as kept:
        sweep = prepare(wanted, Parts(module, dataset, rule, loss, metrics, schedule))
        start = (kept.parts() or {}).get("start")
        if start is not None and "distance" in sweep.config.measure.names:
            sweep = starting_again(sweep)
        kept.check_parts({"start": start, **sweep.parts})
        if not separate_in(sweep.config):
            raise UserError(
                "config.measure.names",
                f"names no measurement of weights: {sweep.config.measure.names}",
                "give some, as --config.measure=sharpness,hessian_trace (all are in sbt list)",
            )
        for name in filter(needs_rule, separate_in(sweep.config)):
            raise UserError(
                "config.measure.names",
                f"{name!r} looks at {RULE_STATE}, and kept weights are measured without it",
                f"measure while training: sbt run CONFIG --config.measure.names={name}",
            )
        return _measure(sweep, kept, chosen_progress(progress))


def _measure(sweep: Sweep, kept: directories.Kept, progress: Progress) -> xr.Dataset:
    directory = kept.directory
    rows = {i: row for rows in kept_weights(sweep.grid, directory) for i, row in rows.items()}
    known = results.load(directory) if kept.results is None else kept.results
    table = Measured({axis: len(values) for axis, values in sweep.grid.axes.items()})
    table.restore(known)
    sound = np.isnan(known["diverged_epoch"].values)
    seconds: collections.Counter[str] = collections.Counter()
    for number, cohort in enumerate(sweep.cohorts):
        there = {i: rows[run.index] for i, run in enumerate(cohort.runs) if run.index in rows}
        if len(there) < len(cohort.runs):
            missing = len(cohort.runs) - len(there)
            progress.note(f"cohort {number + 1}: {missing} of {len(cohort.runs)} runs not finished")
        if there:
            seconds.update(_measure_cohort(sweep.place(cohort), there, sound, table, progress))
    dataset = results.with_measured(known, table)
    results.write(dataset, directory)
    meta = directories.read_meta(directory, progress.note)
    settings = configs.as_json(sweep.config.measure)
    meta["measured"] = {
        "settings": {k: v for k, v in settings.items() if k != "names"},
        "seconds": {**meta.get("measured", {}).get("seconds", {}), **seconds},
    }
    directories.write_meta(directory, meta)
    return dataset


def _measure_cohort(
    placed: Placed,
    there: Mapping[int, Row],
    sound: np.ndarray,
    table: Measured,
    progress: Progress,
) -> Mapping[str, Any]:
    """Measures runs of a cohort, as many at a time as fit; seconds spent, by measurement.

    Args:
      placed: the cohort.
      there: its runs, by position, with their weights.
      sound: of the whole grid, which runs have not diverged.
      table: takes what is found.
      progress: is told.
    """
    cohort, count, local = placed.cohort, placed.rows, placed.mesh.local_devices
    budget = memory_budget(cohort.config.engine.memory_gb, jax.local_devices()[0], len(local))
    per_device = max(1, int(SHARE_FOR_WEIGHTS * budget / cohort.facts.parameter_bytes))
    size = min(-(-len(there) // count), per_device) * count
    names = ", ".join(separate_in(cohort.config))
    progress.note(f"{names}: {len(there)} runs; compiling")
    observer = make_observer(placed, size)
    progress.note(f"  compiled in {roughly(observer.compile_seconds)}")
    for start in range(0, len(there), size):
        members = list(there)[start : start + size]
        filled = [*members, *[members[-1]] * (size - len(members))]
        lanes = [there[i].weights() for i in filled]
        params, stats = jax.tree.map(lambda *leaves: np.stack(leaves), *lanes)
        indices = [cohort.runs[i].index for i in members]
        used = np.zeros(size, bool)
        used[: len(members)] = [sound[index] for index in indices]
        found = observer(params, stats, make_lanes(cohort, filled), used)
        table.record(indices, cohort.config.epochs, found)
        progress.note(f"  {start + len(members)} of {len(there)} runs measured")
    return observer.seconds
