"""Whether a report can be made of a results file, which anyone may have written."""

import json
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from sbt.errors import UserError, shown
from sbt.ranges import COUNT, FRACTION, POSITIVE, Range, check_number
from sbt.report import dataset
from sbt.report.dataset import EPOCH

FILE = "results.nc"
RUN_VARIABLES = ("accuracy", "diverged", "diverged_epoch")
CURVES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
NUMERIC_AXES = ("batch_size", "base_lr", "bn_batch", "micro_batch", "seed", EPOCH)
# What a report reads as a number, where it is there.
SETTINGS: dict[str, tuple[Range, bool]] = {
    "report.margin": (FRACTION, False),
    "report.last_epochs": (COUNT, True),
    "report.curves_base_lr": (Range(0), False),
    "data.train_size": (COUNT, True),
    "data.test_size": (COUNT, True),
    "epochs": (COUNT, True),
    "batch_size": (COUNT, True),
    "base_lr": (Range(0), False),
    "bn_batch": (COUNT, True),
}
ATTRIBUTES = {"chance": FRACTION, "test_examples": POSITIVE, "train_examples": POSITIVE}


def checked(ds: xr.Dataset) -> xr.Dataset:
    """The dataset, if it has what every report rests on.

    Raises:
      UserError: a variable, an axis, an attribute or a setting is missing or of another kind than
        ``sbt.run`` writes.
    """
    for name in (*RUN_VARIABLES, *CURVES):
        if name not in ds.data_vars:
            raise _not_ours(f"has no variable {name!r}")
        if not _is_real(ds[name]):
            raise _not_ours(f"{name!r} holds no numbers ({ds[name].dtype})")
    axes = ds["accuracy"].dims
    for name in RUN_VARIABLES:
        _same_dims(ds, name, axes)
    for name in CURVES:
        _same_dims(ds, name, (*axes, EPOCH))
    for axis in (*axes, EPOCH):
        _check_axis(ds, str(axis))
    found = ds["accuracy"].values
    if bool(np.any((found < 0) | (found > 1))):
        raise _not_ours("'accuracy' is not always between 0 and 1")
    _check_config(ds)
    for name, allowed in ATTRIBUTES.items():
        if name in ds.attrs:
            value = ds.attrs[name]
            check_number(f"{FILE}, attribute {name}", _plain(value), allowed)
    return ds


def _not_ours(problem: str) -> UserError:
    return UserError(FILE, problem, "give results that sbt.run wrote")


def _is_real(values: xr.DataArray) -> bool:
    return values.dtype == bool or values.dtype.kind in "iuf"


def _same_dims(ds: xr.Dataset, name: str, dims: tuple[Hashable, ...]) -> None:
    if set(ds[name].dims) != set(dims):
        raise _not_ours(f"{name!r} has dimensions {tuple(ds[name].dims)} instead of {tuple(dims)}")


def _check_axis(ds: xr.Dataset, axis: str) -> None:
    if axis not in ds.coords or ds[axis].dims != (axis,):
        raise _not_ours(f"the axis {axis!r} has no values")
    values = ds[axis].values
    words = values.dtype.kind in "USO" and all(isinstance(v, str) for v in values.tolist())
    numbers = values.dtype.kind in "iuf" and bool(np.isfinite(values).all())
    if not (numbers or ((words or values.dtype == bool) and axis not in NUMERIC_AXES)):
        kind = "numbers" if axis in NUMERIC_AXES else "numbers or names"
        raise _not_ours(f"the axis {axis!r} holds something else than {kind}")
    if len(set(values.tolist())) < values.size or not values.size:
        raise _not_ours(f"the axis {axis!r} has no value, or one of them twice")


def _check_config(ds: xr.Dataset) -> None:
    try:
        config = json.loads(ds.attrs.get("config") or "{}")
    except (TypeError, ValueError):
        config = None
    if not isinstance(config, Mapping):
        text = shown(ds.attrs.get("config"))
        raise _not_ours(f"its config is not one: {text}")
    for path, (allowed, whole) in SETTINGS.items():
        value = dataset.setting(ds, path)
        if value is not None:
            check_number(f"{FILE}, config.{path}", value, allowed, whole=whole)


def _plain(value: Any) -> Any:
    """A number as Python has it; netCDF gives them as NumPy's."""
    return value.item() if isinstance(value, np.generic | np.ndarray) and value.size == 1 else value
