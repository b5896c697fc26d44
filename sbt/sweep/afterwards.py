"""Measures saved weights: ``sbt measure DIR``, into the results that are there."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr
from ml_collections import ConfigDict

from sbt import checkpoint, results
from sbt import config as configs
from sbt import workdir as directories
from sbt.checkpoint import is_part, labels_of
from sbt.data import Dataset
from sbt.errors import UserError, nearest, shown
from sbt.files import directory_of
from sbt.measure.registry import separate_in
from sbt.optim import foreign
from sbt.sweep.arrangement import name_of, places_of
from sbt.sweep.axes import axes_of
from sbt.sweep.cohort import Cohort
from sbt.sweep.fit import memory_budget
from sbt.sweep.grid import Grid, make_grid
from sbt.sweep.lanes import make_lanes
from sbt.sweep.observe import make_observer
from sbt.sweep.prepare import Sweep, prepare
from sbt.sweep.progress import Progress, chosen_progress
from sbt.sweep.task import Parts
from sbt.text import roughly

SHARE_FOR_WEIGHTS = 0.25  # of the memory; the rest is for what measures them


def measure_runs(
    directory: str | Path,
    measure: Mapping[str, Any] | None = None,
    *,
    module: Any = None,
    dataset: Dataset | None = None,
    rule: foreign.MakeRule | None = None,
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
      progress: as for ``sbt.run``.

    Returns:
      The whole dataset.

    Raises:
      UserError: no sweep, no weights, nothing to measure, or a measurement that cannot be made.
    """
    directory = directory_of(directory, "directory")
    config = _config_in(directory)
    wanted = configs.updated(config, {} if measure is None else {"measure": measure})
    if wanted.rule.name == foreign.NAME and rule is None:
        raise UserError(
            str(directory),
            "was trained with an update rule of your own, which is not given",
            "name the file that defines it (sbt measure DIR --experiment FILE), or pass rule=",
        )
    with foreign.known(rule), directories.locked(directory, None):
        sweep = prepare(wanted, Parts(module, dataset, rule))
        directories.refuse_other_parts(directory, sweep.parts)
        if not separate_in(sweep.config):
            raise UserError(
                "config.measure.names",
                f"names no measurement of weights: {sweep.config.measure.names}",
                "give some, as --config.measure=sharpness,hessian_trace (all are in sbt list)",
            )
        return _measure(sweep, directory, chosen_progress(progress))


class Weights(NamedTuple):
    """What a run ended with.

    Attributes:
      params: its weights, as the module's ``init`` returns them below ``"params"``.
      stats: running statistics, below ``"batch_stats"``; empty without batch norm.
    """

    params: Any
    stats: Any


def load_weights(directory: str | os.PathLike[str], **run: Any) -> Weights:
    """The trained weights of one run of a sweep that kept them.

    ``model.apply({"params": params, "batch_stats": stats}, x)`` is the trained network; the
    functions of :mod:`sbt.measure` take ``params``. Leaves are numpy arrays of the shapes that the
    module made them with.

    Args:
      directory: work directory of a sweep that ran with ``config.checkpoint.final_weights``.
      **run: the run's value on every axis of more than one value, as in ``ds.sel``:
        ``batch_size=8, base_lr=2**-6, seed=0``.

    Raises:
      UserError: no sweep, no or damaged weights, an unknown axis or value, an axis left open, or a
        run that has not finished.
    """
    directory = directory_of(directory, "directory")
    config = _config_in(directory)
    index = _index_of(axes_of(config), run)
    # The config of a user's own rule makes no grid without the rule.
    grid = None if config.rule.name == foreign.NAME else make_grid(config)
    for rows in _saved(grid, directory):
        if index in rows:
            (params, stats), row = rows[index]
            return Weights(
                *(jax.tree.map(lambda leaf, row=row: leaf[row], t) for t in (params, stats))
            )
    remedy = "give the same sbt run again, to finish it, or another run"
    raise UserError(str(directory), f"holds no weights of the run {shown(run)}", remedy)


def _index_of(axes: Mapping[str, Sequence[Any]], run: Mapping[str, Any]) -> tuple[int, ...]:
    """Grid position of a run."""
    for name in run:
        if name not in axes:
            raise UserError(name, "is not an axis of this sweep", nearest(name, axes))
    index = []
    for name, values in axes.items():
        if name not in run and len(values) > 1:
            raise UserError(name, "is left open", f"give one of {shown(tuple(values))}")
        value = run.get(name, values[0])
        same = [i for i, known in enumerate(values) if bool(np.all(known == value))]
        if not same:
            problem = f"no run has the value {shown(value)}"
            raise UserError(name, problem, f"give one of {shown(tuple(values))}")
        index.append(same[0])
    return tuple(index)


def _config_in(directory: Path) -> ConfigDict:
    config = directories.stored_config(directory)
    if config is None:
        raise UserError(str(directory), "holds no sweep (config.json)", "run one: sbt run ...")
    return config


def _measure(sweep: Sweep, directory: Path, progress: Progress) -> xr.Dataset:
    rows = {index: row for saved in _saved(sweep.grid, directory) for index, row in saved.items()}
    known = results.load(directory)
    recorder = results.Recorder(sweep.grid.axes, known.sizes["epoch"], 0.0, 1, {})
    recorder.measured.restore(known)
    recorder.diverged_epoch[...] = known["diverged_epoch"].values
    seconds: dict[str, float] = {}
    for number, cohort in enumerate(sweep.cohorts):
        there = [i for i, run in enumerate(cohort.runs) if run.index in rows]
        if len(there) < len(cohort.runs):
            missing = len(cohort.runs) - len(there)
            progress.note(f"cohort {number + 1}: {missing} of {len(cohort.runs)} runs not finished")
        if there:
            _measure_cohort(sweep, cohort, there, rows, recorder, seconds, progress)
    dataset = results.with_measured(known, recorder.measured)
    results.write(dataset, directory)
    meta = directories.read_meta(directory, progress.note)
    meta["measured"] = {
        "settings": {k: v for k, v in _plain(sweep.config.measure).items() if k != "names"},
        "seconds": {**meta.get("measured", {}).get("seconds", {}), **seconds},
    }
    directories.write_meta(directory, meta)
    return dataset


def _saved(grid: Grid | None, directory: Path) -> Iterator[dict[tuple[int, ...], Any]]:
    """Weights and statistics of the runs in each file, by grid position."""
    paths = sorted(
        path for path in (directory / "weights").glob("*") if path.is_dir() and not is_part(path)
    )
    if not paths:
        raise UserError(
            str(directory),
            "holds no weights to measure",
            "run the sweep with --config.checkpoint.final_weights=True, or measure in training: "
            "sbt run CONFIG --config.measure=...",
        )
    places = places_of(grid, directory) if grid is not None else {}
    for path in paths:
        params, stats, runs = checkpoint.load_weights(path)
        weights = jax.tree.map(np.asarray, (params, stats))
        at: list[Any] = list(runs)
        if places and (labels := labels_of(path)):  # the grid may have grown since
            at = [places.get(name_of(label)) for label in labels]
        yield {tuple(i): (weights, row) for row, i in enumerate(at) if i is not None}


def _measure_cohort(
    sweep: Sweep,
    cohort: Cohort,
    there: list[int],
    rows: Mapping[tuple[int, ...], Any],
    recorder: results.Recorder,
    seconds: dict[str, float],
    progress: Progress,
) -> None:
    placed = sweep.place(cohort)
    count = placed.rows
    budget = memory_budget(
        cohort.config.engine.memory_gb, jax.local_devices()[0], len(placed.mesh.local_devices)
    )
    per_device = max(1, int(SHARE_FOR_WEIGHTS * budget / cohort.facts.parameter_bytes))
    size = min(-(-len(there) // count), per_device) * count
    names = ", ".join(separate_in(cohort.config))
    progress.note(f"{names}: {len(there)} runs; compiling")
    observer = make_observer(placed, size)
    progress.note(f"  compiled in {roughly(observer.compile_seconds)}")
    for start in range(0, len(there), size):
        members = there[start : start + size]
        filled = [*members, *[members[-1]] * (size - len(members))]
        picked = [rows[cohort.runs[i].index] for i in filled]
        lanes = [jax.tree.map(lambda leaf, row=row: leaf[row], weights) for weights, row in picked]
        params, stats = jax.tree.map(lambda *leaves: np.stack(leaves), *lanes)
        of_lanes = make_lanes(cohort, filled)
        indices = [cohort.runs[i].index for i in members]
        used = np.zeros(size, bool)
        used[: len(members)] = [not np.isfinite(recorder.diverged_epoch[i]) for i in indices]
        found = observer(params, stats, of_lanes.hyper, used)
        recorder.measured.record(indices, cohort.config.epochs, found)
        progress.note(f"  {start + len(members)} of {len(there)} runs measured")
    for name, spent in observer.seconds.items():
        seconds[name] = seconds.get(name, 0.0) + spent


def _plain(section: Any) -> dict[str, Any]:
    return {k: _plain(v) if isinstance(v, ConfigDict) else v for k, v in section.items()}
