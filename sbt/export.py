"""Results where people look: long tables, an Optuna study, TensorBoard and other logs.

Every format is a function ``(dataset, directory) -> files`` in :data:`FORMATS`. A run has the same
name in all of them: ``run``, its number in grid order. Variables with further dimensions (layers,
spaces) become one for each of their places, ``sharpness/space=full/epsilon=0.001``.
"""

import functools
import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from sbt.errors import UserError, nearest
from sbt.log import SINKS, LoggedRun, Sink, finite, needed, numbers
from sbt.measure.record import MEASURED_EPOCH
from sbt.report.view import EPOCH, SEED
from sbt.results import TEST, curve
from sbt.tasks.score import of_attrs

RUN = "run"
TIMES = {EPOCH, MEASURED_EPOCH}

Format = Callable[[xr.Dataset, Path], list[Path]]


def axes_of(ds: xr.Dataset) -> tuple[str, ...]:
    """The axes of the grid."""
    return tuple(str(dim) for dim in ds["finished"].dims)


def runs(ds: xr.Dataset) -> pd.DataFrame:
    """A row for every run that has begun: its number, its axes, what it has one number of."""
    flat = _flat(ds)
    timed = [name for name, variable in flat.variables.items() if TIMES & {*variable.dims}]
    once = flat.drop_vars(timed)
    return _rows(once, axes_of(ds))


def curves(ds: xr.Dataset) -> pd.DataFrame:
    """A row for every run and epoch at which something is known of it."""
    flat = _flat(ds)
    known = [
        variable.rename({MEASURED_EPOCH: EPOCH}) if MEASURED_EPOCH in variable.dims else variable
        for variable in flat.data_vars.values()
        if TIMES & {*variable.dims}
    ]
    whole = xr.merge(known, join="outer", compat="override")
    rows = _rows(
        whole.assign({RUN: flat[RUN], "epochs_done": flat["epochs_done"]}), (*axes_of(ds), EPOCH)
    )
    told = [str(v.name) for v in known]
    return rows.dropna(subset=told, how="all").drop(columns="epochs_done").reset_index(drop=True)


def _rows(ds: xr.Dataset, dims: tuple[str, ...]) -> pd.DataFrame:
    frame = ds.to_dataframe(dim_order=list(dims)).reset_index()
    frame = frame[frame["epochs_done"] > 0]
    first = [RUN, *dims]
    rest = [name for name in frame.columns if name not in first]
    return frame[[*first, *rest]].reset_index(drop=True)


def _flat(ds: xr.Dataset) -> xr.Dataset:
    """Variables of runs and epochs alone, the number of every run among them."""
    axes = axes_of(ds)
    shape = tuple(ds.sizes[axis] for axis in axes)
    number = xr.DataArray(np.arange(math.prod(shape)).reshape(shape), dims=axes)
    return xr.Dataset({RUN: number, **numbers(ds, axes, tuple(TIMES))})


# --- formats -------------------------------------------------------------------------------------


def _csv(ds: xr.Dataset, directory: Path) -> list[Path]:
    paths = [directory / "runs.csv", directory / "curves.csv"]
    for path, frame in zip(paths, (runs(ds), curves(ds)), strict=True):
        frame.to_csv(path, index=False)
    return paths


def _parquet(ds: xr.Dataset, directory: Path) -> list[Path]:
    needed("pyarrow", "export", "--to parquet")
    paths = [directory / "runs.parquet", directory / "curves.parquet"]
    for path, frame in zip(paths, (runs(ds), curves(ds)), strict=True):
        frame.to_parquet(path, index=False)
    return paths


def _logged(sink: Sink, ds: xr.Dataset, directory: Path) -> list[Path]:
    """What a log would have been told while the sweep ran, a run after the other."""
    score, axes = str(of_attrs(ds.attrs).name), axes_of(ds)
    steps = {number: rows for number, rows in curves(ds).groupby(RUN)}
    with sink(directory) as log:
        for row in runs(ds).to_dict("records"):
            settings = {axis: row[axis] for axis in axes}
            run = LoggedRun(str(ds.attrs.get("name", "sweep")), row[RUN], settings, score)
            own = steps.get(row[RUN])
            for step in [] if own is None else own.to_dict("records"):
                epoch = int(step[EPOCH])
                told = {k: v for k, v in step.items() if k not in (*axes, RUN, EPOCH)}
                ends = {score: row[score]} if epoch == row["epochs_done"] else {}
                log(run, epoch, finite(told | ends))
    return [directory]


def _optuna(ds: xr.Dataset, directory: Path) -> list[Path]:
    """A study with a trial for every cell: medians of its seeds, at every epoch and at the end."""
    optuna = needed("optuna", "optuna", "--to optuna")
    journal = importlib.import_module("optuna.storages.journal")
    score = of_attrs(ds.attrs)
    path = directory / "study.log"
    path.unlink(missing_ok=True)
    axes = [axis for axis in axes_of(ds) if axis != SEED]
    study = optuna.create_study(
        study_name=str(ds.attrs.get("name", "sweep")),
        storage=optuna.storages.JournalStorage(journal.JournalFileBackend(str(path))),
        direction="maximize" if score.higher_is_better else "minimize",
    )
    spaces = {axis: _distribution(optuna, ds[axis].values.tolist()) for axis in axes}
    steps = dict(iter(curves(ds).groupby(axes))) if axes else {(): curves(ds)}
    every = runs(ds)
    states = optuna.trial.TrialState
    for at, cell in every.groupby(axes) if axes else [((), every)]:
        place = dict(zip(axes, at if isinstance(at, tuple) else (at,), strict=True))
        values = steps[at].groupby(EPOCH)[curve(TEST, score.name)].median() if at in steps else {}
        known = {int(e): float(v) for e, v in dict(values).items() if math.isfinite(v)}
        value = float(np.median(cell[score.name]))
        done = bool(cell["finished"].all()) and math.isfinite(value)
        stopped = "stopped_epoch" in cell and bool(np.isfinite(cell["stopped_epoch"]).any())
        state = states.COMPLETE if done else states.PRUNED if stopped and known else states.FAIL
        study.add_trial(
            optuna.trial.create_trial(
                params=place,
                distributions=spaces,
                value=value if done else max(known.items())[1] if state == states.PRUNED else None,
                state=state,
                intermediate_values=known,
                user_attrs={"runs": [int(run) for run in cell[RUN]]},
            )
        )
    return [path]


def _distribution(optuna: Any, values: list[Any]) -> Any:
    kinds = optuna.distributions
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        low, high = min(values), max(values)
        logarithmic = low > 0 and high / low > 4
        made = (
            kinds.IntDistribution
            if all(isinstance(v, int) for v in values)
            else kinds.FloatDistribution
        )
        return made(low, high, log=logarithmic)
    return kinds.CategoricalDistribution(values)


FORMATS: dict[str, Format] = {
    "csv": _csv,
    "parquet": _parquet,
    "optuna": _optuna,
    **{name: functools.partial(_logged, sink) for name, sink in SINKS.items()},
}


def export(ds: xr.Dataset, directory: Path, to: str) -> list[Path]:
    """Writes results as another tool reads them.

    Args:
      ds: of a sweep, finished or not.
      directory: where to; made if it is not there.
      to: of :data:`FORMATS`: ``csv`` and ``parquet`` (``runs``, a row for each; ``curves``, a row
        for each run and epoch), ``optuna`` (``study.log``, a journal that optuna-dashboard opens),
        ``tensorboard`` (HParams and curves), ``wandb`` and ``trackio``: the logs of
        :mod:`sbt.log`, told of what ``config.log`` would have told them.

    Returns:
      The files, or their directory.

    Raises:
      UserError: there is no such format, or its package is not installed.
    """
    if to not in FORMATS:
        raise UserError(f"--to {to}", "is not a format", nearest(to, list(FORMATS)))
    directory.mkdir(parents=True, exist_ok=True)
    return FORMATS[to](ds, directory)
