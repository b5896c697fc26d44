"""Tables of what was measured on the runs: any variable, its own dimensions, any epochs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from sbt.measure.registry import Labelled

MEASURED_EPOCH = "measured_epoch"
TIMES = (MEASURED_EPOCH, "epoch")
MARK = "measurement"  # the attribute by which a results file tells a measured variable


class Measured:
    """Collects measured variables; what was never measured is NaN.

    Every variable lies over the swept axes, a time (``measured_epoch``, weights after so many
    epochs, 0 for the initial ones; or ``epoch``, like the learning curves) and its own dimensions.
    Positions and labels are added as they come.

    Args:
      axes: swept axes with their numbers of values, in order.
    """

    def __init__(self, axes: Mapping[str, int]):
        self.axes = dict(axes)
        self._arrays: dict[str, xr.DataArray] = {}

    def record(
        self,
        indices: Sequence[tuple[int, ...]],
        epoch: int,
        found: Mapping[str, Labelled],
        *,
        time: str = MEASURED_EPOCH,
    ) -> None:
        """Notes what was measured on some runs after some epochs.

        Args:
          indices: grid position of each run.
          epoch: epochs trained.
          found: by variable, with a leading axis of runs (a longer one is cut).
          time: name of the dimension that ``epoch`` belongs to.
        """
        for name, labelled in found.items():
            labels = {time: (epoch,), **dict(labelled.dims)}
            array = self._with(name, labels, _attrs(labelled))
            places = [_places(array[dim].values, wanted) for dim, wanted in labels.items()]
            values = np.asarray(labelled.value, np.float64)
            for index, value in zip(indices, values):
                array.values[index][np.ix_(*places)] = value[None]

    def _with(self, name: str, labels: Mapping[str, Sequence[Any]], attrs: Any) -> xr.DataArray:
        """The array of a variable, grown to hold these labels."""
        if name not in self._arrays:
            coords = {dim: _coordinate(values) for dim, values in labels.items()}
            shape = (*self.axes.values(), *(len(values) for values in coords.values()))
            dims = (*self.axes, *coords)
            self._arrays[name] = xr.DataArray(np.full(shape, np.nan), coords, dims, attrs=attrs)
        grown = {
            dim: _joined(self._arrays[name][dim].values, values) for dim, values in labels.items()
        }
        self._arrays[name] = self._arrays[name].reindex(grown)
        return self._arrays[name]

    def restore(self, dataset: xr.Dataset) -> None:
        """Takes over what an earlier dataset of the same grid holds."""
        for name, array in dataset.data_vars.items():
            if MARK in array.attrs:
                own = {d: array[d].values for d in array.dims if d not in self.axes}
                self._arrays[str(name)] = xr.DataArray(
                    array.values.copy(), own, array.dims, attrs=dict(array.attrs)
                )

    def after(self, at: tuple[Any, ...], epoch: int) -> dict[str, xr.DataArray]:
        """What was measured on some runs after so many epochs, over ``run`` and its own dimensions.

        Args:
          at: positions of the runs along the axes, an array for each.
          epoch: epochs trained.
        """
        found = {}
        for name, array in self._arrays.items():
            (time,) = (dim for dim in array.dims if dim in TIMES)
            if epoch in array[time].values:
                then = array.sel({time: epoch}, drop=True)
                own = then.dims[len(self.axes) :]
                labels = {dim: then[dim].values for dim in own}
                found[name] = xr.DataArray(
                    then.values[at], labels, ("run", *own), attrs=array.attrs
                )
        return found

    def begun(self) -> np.ndarray:
        """Of which runs something was measured before they trained, over the axes."""
        found = np.zeros(tuple(self.axes.values()), bool)
        for array in self._arrays.values():
            (time,) = (dim for dim in array.dims if dim in TIMES)
            if 0 in array[time].values:
                known = array.sel({time: 0}).notnull()
                found |= known.any(known.dims[len(self.axes) :]).values
        return found

    def variables(self, epochs: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Variables and coordinates of a dataset.

        Args:
          epochs: length of its dimension ``epoch``.
        """
        labels: dict[str, np.ndarray] = {"epoch": np.arange(1, epochs + 1)}
        for array in self._arrays.values():
            for dim in array.dims[len(self.axes) :]:
                name = str(dim)
                known = labels.get(name)
                values = array[name].values
                labels[name] = values if known is None else _joined(known, values)
        used = {str(dim) for array in self._arrays.values() for dim in array.dims}
        data = {}
        for name, array in self._arrays.items():
            whole = array.reindex({d: labels[str(d)] for d in array.dims[len(self.axes) :]})
            data[name] = (whole.dims, whole.values, dict(array.attrs))
        return data, {dim: values for dim, values in labels.items() if dim in used}


def _attrs(labelled: Labelled) -> dict[str, str]:
    attrs = {MARK: "yes"}
    if labelled.units:
        attrs["units"] = labelled.units
    if labelled.long_name:
        attrs["long_name"] = labelled.long_name
    return attrs


def _coordinate(values: Iterable[Any]) -> np.ndarray:
    array = np.asarray(list(values))
    return array.astype(object) if array.dtype.kind in "US" else array


def _joined(known: np.ndarray, new: Iterable[Any]) -> np.ndarray:
    """Labels with those added that are new: numbers in order, names at the end."""
    added = [value for value in new if value not in known]
    if not added:
        return known
    joined = _coordinate([*known.tolist(), *added])
    return joined if joined.dtype == object else np.sort(joined)


def _places(known: np.ndarray, wanted: Sequence[Any]) -> list[int]:
    listed = known.tolist()
    return [listed.index(value) for value in wanted]
