"""Results where people look: long tables, TensorBoard, an Optuna study.

Every format is a function ``(dataset, directory) -> files`` in :data:`FORMATS`. A run has the same
name in all of them: ``run``, its number in grid order. Variables with further dimensions (layers,
spaces) become one for each of their places, ``sharpness/space=full/epsilon=0.001``.
"""

import importlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from sbt.errors import UserError, nearest
from sbt.measure.record import MEASURED_EPOCH
from sbt.report.view import EPOCH, SEED
from sbt.results import TEST, curve
from sbt.tasks.score import of_attrs

RUN = "run"
TIMES = {EPOCH, MEASURED_EPOCH}
MOST_PLACES = 64  # of a variable with further dimensions; spectra have hundreds

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
    found: dict[str, xr.DataArray] = {
        RUN: xr.DataArray(np.arange(math.prod(shape)).reshape(shape), dims=axes)
    }
    for name, variable in ds.data_vars.items():
        further = [d for d in variable.dims if d not in (*axes, *TIMES)]
        if not set(axes) <= set(variable.dims) or variable.dtype.kind not in "biuf":
            continue
        places = list(itertools.product(*(range(ds.sizes[d]) for d in further)))
        for place in places if len(places) <= MOST_PLACES else ():
            at = dict(zip(further, place, strict=True))
            one = variable.isel(at)
            labels = [
                f"{d}={one[d].item()}" if d in one.coords else f"{d}={i}" for d, i in at.items()
            ]
            whole = "/".join([str(name), *labels])
            found[whole] = one.drop_vars(further, errors="ignore").rename(whole)
    return xr.Dataset(found)


# --- formats -------------------------------------------------------------------------------------


def _csv(ds: xr.Dataset, directory: Path) -> list[Path]:
    paths = [directory / "runs.csv", directory / "curves.csv"]
    for path, frame in zip(paths, (runs(ds), curves(ds)), strict=True):
        frame.to_csv(path, index=False)
    return paths


def _parquet(ds: xr.Dataset, directory: Path) -> list[Path]:
    _needed("pyarrow", "parquet")
    paths = [directory / "runs.parquet", directory / "curves.parquet"]
    for path, frame in zip(paths, (runs(ds), curves(ds)), strict=True):
        frame.to_parquet(path, index=False)
    return paths


def _tensorboard(ds: xr.Dataset, directory: Path) -> list[Path]:
    """One directory of events for every run, with its axes as hyperparameters."""
    board = _needed("tensorboardX", "tensorboard")
    summary = importlib.import_module("tensorboardX.summary")
    score, axes = of_attrs(ds.attrs), axes_of(ds)
    steps = {run: rows for run, rows in curves(ds).groupby(RUN)}
    places = []
    for row in runs(ds).to_dict("records"):
        place = directory / f"run-{row[RUN]:05d}"
        with board.SummaryWriter(logdir=str(place)) as writer:
            settings = {axis: row[axis] for axis in axes}
            ends = {score.name: row[score.name]} if math.isfinite(row[score.name]) else {}
            for part in summary.hparams(settings, ends or {score.name: None}):
                writer.file_writer.add_summary(part)
            for name, value in ends.items():
                writer.add_scalar(name, value, int(row["epochs_done"]))
            for step in steps[row[RUN]].to_dict("records") if row[RUN] in steps else ():
                for name, value in _finite(step, (*axes, RUN, EPOCH)):
                    writer.add_scalar(name, value, int(step[EPOCH]))
        places.append(place)
    return places


def _optuna(ds: xr.Dataset, directory: Path) -> list[Path]:
    """A study with a trial for every cell: medians of its seeds, at every epoch and at the end."""
    optuna = _needed("optuna", "optuna")
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


def _finite(row: Mapping[str, Any], without: tuple[str, ...]) -> Iterator[tuple[str, float]]:
    for name, value in row.items():
        if name not in without and isinstance(value, int | float) and math.isfinite(value):
            yield name, float(value)


def _needed(package: str, extra: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UserError(
            f"--to {extra}",
            f"needs the package {package}, which is not installed",
            f"pip install {package}, or export to csv",
        ) from None


FORMATS: dict[str, Format] = {
    "csv": _csv,
    "parquet": _parquet,
    "tensorboard": _tensorboard,
    "optuna": _optuna,
}


def export(ds: xr.Dataset, directory: Path, to: str) -> list[Path]:
    """Writes results as another tool reads them.

    Args:
      ds: of a sweep, finished or not.
      directory: where to; made if it is not there.
      to: of :data:`FORMATS`: ``csv`` and ``parquet`` (``runs``, a row for each; ``curves``, a row
        for each run and epoch), ``tensorboard`` (HParams and curves), ``optuna`` (``study.log``, a
        journal that optuna-dashboard opens).

    Returns:
      The files, or the directories of every run.

    Raises:
      UserError: there is no such format, or its package is not installed.
    """
    if to not in FORMATS:
        raise UserError(f"--to {to}", "is not a format", nearest(to, list(FORMATS)))
    directory.mkdir(parents=True, exist_ok=True)
    return FORMATS[to](ds, directory)
