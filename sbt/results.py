"""Results: labelled arrays over the grid, written atomically, read back as they were."""

import io
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import xarray as xr

from sbt import files
from sbt.errors import UserError
from sbt.measure.record import MARK, Measured

CURVES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
FILE = "results.nc"


class Recorder:
    """Collects what runs report, and is a Dataset whenever asked.

    Args:
      axes: swept axes with their values, in order.
      epochs: length of the longest run.
      chance: accuracy of a guess on the (first) data set.
      last_epochs: the reported accuracy is the median over the evaluations in so many last epochs.
      attrs: kept with the dataset.
    """

    def __init__(
        self,
        axes: Mapping[str, Sequence[Any]],
        epochs: int,
        chance: float,
        last_epochs: int,
        attrs: Mapping[str, Any],
    ):
        self.axes = {name: tuple(values) for name, values in axes.items()}
        self.attrs = {**attrs, "chance": chance, "last_epochs": last_epochs}
        shape = tuple(len(values) for values in self.axes.values())
        self.curves = {name: np.full((*shape, epochs), np.nan) for name in CURVES}
        self.diverged_epoch = np.full(shape, np.nan)
        self.epochs_done = np.zeros(shape, np.int32)
        self.finished = np.zeros(shape, bool)
        self.chance = np.full(shape, chance)
        self.measured = Measured({name: len(values) for name, values in self.axes.items()})

    def record(
        self,
        index: tuple[int, ...],
        epoch: int,
        values: Mapping[str, float],
        *,
        diverged: float = np.nan,
        last: bool = False,
        chance: float | None = None,
    ) -> None:
        """Notes one epoch of one run.

        Args:
          index: grid position.
          epoch: from 0.
          values: of :data:`CURVES`; what was not measured is left out.
          diverged: epochs (a real number) until the loss was not finite; NaN while it is.
          last: whether this is the last epoch of the run.
          chance: accuracy of a guess, the accuracy of a diverged run.
        """
        if chance is not None:
            self.chance[index] = chance
        for name, value in values.items():
            self.curves[name][(*index, epoch)] = value
        if np.isfinite(diverged):
            self.diverged_epoch[index] = diverged
            for name in ("train_accuracy", "test_accuracy"):
                if name in values:
                    self.curves[name][(*index, epoch)] = self.chance[index]
            for name in ("train_loss", "test_loss"):
                if name in values:
                    self.curves[name][(*index, epoch)] = np.inf
        self.epochs_done[index] = epoch + 1
        self.finished[index] = last

    def restore(self, dataset: xr.Dataset) -> None:
        """Takes over what an earlier dataset of the same grid holds."""
        for name in CURVES:
            self.curves[name][..., : dataset.sizes["epoch"]] = dataset[name].values
        self.diverged_epoch[...] = dataset["diverged_epoch"].values
        self.epochs_done[...] = dataset["epochs_done"].values
        self.finished[...] = dataset["finished"].values
        self.measured.restore(dataset)
        diverged = np.isfinite(self.diverged_epoch)
        self.chance[...] = np.where(diverged, dataset["accuracy"].values, self.chance)

    def dataset(self) -> xr.Dataset:
        """Everything so far; unfinished cells are NaN."""
        dims = tuple(self.axes)
        curves, last = self.curves["test_accuracy"], self.attrs["last_epochs"]
        ends = np.where(self.finished, self.epochs_done, 0)
        accuracy = last_median(curves, ends, last)
        accuracy = np.where(np.isnan(self.diverged_epoch), accuracy, self.chance)
        epochs = self.curves["test_loss"].shape[-1]
        data: dict[str, Any] = {
            name: ((*dims, "epoch"), values, _CURVE_ATTRS[name])
            for name, values in self.curves.items()
        }
        data["accuracy"] = (
            dims,
            accuracy,
            {"long_name": f"test accuracy, {reported_words(curves, ends, last)}"},
        )
        data["diverged"] = (dims, np.isfinite(self.diverged_epoch))
        data["diverged_epoch"] = (
            dims,
            self.diverged_epoch.copy(),
            {"long_name": "epochs until the loss was not finite"},
        )
        data["epochs_done"] = (dims, self.epochs_done.copy())
        data["finished"] = (dims, self.finished.copy())
        measured, labels = self.measured.variables(epochs)
        coords: dict[str, Any] = {name: _coordinate(values) for name, values in self.axes.items()}
        coords |= labels | {"epoch": np.arange(1, epochs + 1)}
        return xr.Dataset(data | measured, coords, dict(self.attrs))


_CURVE_ATTRS = {
    "train_loss": {"units": "nats", "long_name": "training loss, mean over the epoch"},
    "train_accuracy": {"long_name": "training accuracy, mean over the epoch"},
    "test_loss": {"units": "nats", "long_name": "test loss"},
    "test_accuracy": {"long_name": "test accuracy"},
}


def with_measured(dataset: xr.Dataset, measured: Measured) -> xr.Dataset:
    """The dataset with these measured variables in place of its own."""
    epochs = dataset.sizes["epoch"]
    variables, labels = measured.variables(epochs)
    bare = dataset.drop_vars([name for name, v in dataset.data_vars.items() if MARK in v.attrs])
    bare = bare.drop_vars([dim for dim in labels if dim in bare.coords and dim != "epoch"])
    return bare.assign_coords(labels).assign(variables)


def rearranged(
    dataset: xr.Dataset,
    axes: Sequence[str],
    sources: Mapping[str, str | None],
    places: Mapping[str, np.ndarray],
) -> xr.Dataset:
    """A dataset over other axes.

    Args:
      dataset: over some axes.
      axes: these. One that no new axis comes from must have one value.
      sources: of each new axis, the old one that it comes from; None: it had one value.
      places: of each new axis, where its values are on the old one; -1 for a new value, which is
        empty (NaN, 0 or False).

    Returns:
      The dataset without labels of the axes.
    """
    gone = {axis: 0 for axis in axes if axis not in sources.values()}
    renamed = {old: new for new, old in sources.items() if old is not None}
    bare = dataset.drop_vars([axis for axis in axes if axis in dataset.coords]).isel(gone)
    bare = bare.rename_dims({old: new for old, new in renamed.items() if old != new})
    at = {axis: np.maximum(own, 0) for axis, own in places.items()}
    known = xr.DataArray(True)
    for axis, own in places.items():
        known = known & xr.DataArray(own >= 0, dims=axis)

    def one(array: xr.DataArray) -> xr.DataArray:
        added = [axis for axis in places if axis not in array.dims]
        whole = array.expand_dims(added).transpose(*places, ...).isel(at)
        nothing = np.nan if array.dtype.kind == "f" else array.dtype.type(0)
        return whole.where(known, nothing)

    return bare.map(one, keep_attrs=True)


def last_median(curves: np.ndarray, ends: np.ndarray, count: int) -> np.ndarray:
    """Median over the evaluations in the last epochs of every run: its reported accuracy.

    What counts are epochs, not evaluations: where only every second epoch is evaluated, five
    evaluations would reach back over ten epochs, before the last drop of the learning rate perhaps.

    Args:
      curves: ``(..., epochs)``; NaN where an epoch was not evaluated.
      ends: ``(...)`` the last epoch of each run, counted from 1; 0 for a run that has not ended.
      count: last epochs that count; the last one is always evaluated.

    Returns:
      ``(...)`` medians; NaN where there is no evaluation.
    """
    flat = np.where(_in_last_epochs(curves, ends, count), curves, np.nan)
    flat = flat.reshape(-1, curves.shape[-1])
    result = np.full(len(flat), np.nan)
    for i, curve in enumerate(flat):
        evaluated = curve[~np.isnan(curve)]
        if len(evaluated):
            result[i] = np.median(evaluated)
    return result.reshape(curves.shape[:-1])


def reported_words(curves: np.ndarray, ends: np.ndarray, count: int) -> str:
    """Which evaluations the reported accuracy is the median of.

    The epochs are named where they are the same in all runs that have ended.

    Args:
      curves, ends, count: as for :func:`last_median`.
    """
    words = f"median over the evaluations in the last {count} epochs of a run"
    words = words.replace("last 1 epochs", "last epoch")
    counted = _in_last_epochs(curves, ends, count) & ~np.isnan(curves)
    rows = np.unique(counted.reshape(-1, curves.shape[-1])[np.ravel(ends) > 0], axis=0)
    if len(rows) != 1 or not rows.any():
        return words
    *epochs, last = map(str, np.flatnonzero(rows[0]) + 1)
    listed = f"epochs {', '.join(epochs)} and {last}" if epochs else f"epoch {last}"
    return f"{words}: after {listed}"


def _in_last_epochs(curves: np.ndarray, ends: np.ndarray, count: int) -> np.ndarray:
    epoch, ends = np.arange(1, curves.shape[-1] + 1), np.asarray(ends)[..., None]
    return (epoch > ends - count) & (epoch <= ends)


class Best(NamedTuple):
    """The best cell of a grid.

    Attributes:
      accuracy: median over its seeds of the reported accuracy.
      where: its value on every axis but the seed.
      so_far: whether no run has finished (without diverging), so that the latest evaluations were
        compared instead.
    """

    accuracy: float
    where: dict[str, Any]
    so_far: bool


def best_cell(ds: xr.Dataset) -> Best | None:
    """The cell with the highest accuracy: the one meaning of "best", wherever the word stands.

    A cell is a point of the grid without the seed axis, its accuracy the median over the seeds that
    have one. Of equal cells the first counts, numbers in ascending order. Runs that have not
    finished have no reported accuracy and are left out; while that leaves only runs that diverged,
    or none, every run counts with its latest evaluation.

    Args:
      ds: a dataset of :meth:`Recorder.dataset`, of any state.

    Returns:
      The cell, or None before the first evaluation.
    """
    accuracy = ds["accuracy"]
    so_far = bool((accuracy.isnull() | ds["diverged"]).all()) and bool(accuracy.isnull().any())
    if so_far:
        accuracy = accuracy.fillna(_latest(ds["test_accuracy"]))
    cells = over_seeds(accuracy)
    cells = cells.sortby([d for d in cells.dims if np.issubdtype(cells[d].dtype, np.number)])
    if not bool(cells.notnull().any()):
        return None
    at = np.unravel_index(int(np.nanargmax(cells.values)), cells.shape)
    best = cells[tuple(int(i) for i in at)]
    return Best(best.item(), {str(d): best[d].item() for d in cells.dims}, so_far)


def over_seeds(values: xr.DataArray) -> xr.DataArray:
    """The median over the seeds that have a value, NaN where none has."""
    if "seed" not in values.dims:
        return values
    known = values.notnull().any("seed")
    # Cells without any are filled and masked: numpy warns about them otherwise.
    return values.where(known, 0.0).median("seed").where(known)


def _latest(curves: xr.DataArray) -> xr.DataArray:
    """The last value of each curve, NaN where there is none."""
    known = curves.notnull()
    last = curves.sizes["epoch"] - 1 - known.isel(epoch=slice(None, None, -1)).argmax("epoch")
    return curves.isel(epoch=last).drop_vars("epoch", errors="ignore")


def _coordinate(values: tuple[Any, ...]) -> np.ndarray:
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return np.asarray(values)
    return np.asarray([str(v) for v in values])


# --- files ---------------------------------------------------------------------------------------

# The last line of a file: the checksum of what is before it. It stands behind the end that HDF5 has
# noted in its first bytes, where no reader of netCDF looks.
_SEAL = "\nsbt: crc32 {sum:08x} of the {size:016d} bytes before this line\n"
_SEAL_BYTES = len(_SEAL.format(sum=0, size=0))
# What makes a netCDF file the results of a sweep.
_OURS = ("epoch", *CURVES, "accuracy", "diverged", "diverged_epoch", "epochs_done", "finished")


def to_bytes(dataset: xr.Dataset) -> bytes:
    """A netCDF file with its checksum at the end; other tools read it like any other."""
    # Whole in memory: HDF5 can bring the process down when a disk is full.
    buffer = io.BytesIO()
    dataset.to_netcdf(buffer, engine="h5netcdf")
    data = buffer.getvalue()
    return data + _seal(data)


def _seal(data: bytes) -> bytes:
    return _SEAL.format(sum=zlib.crc32(data), size=len(data)).encode()


def from_bytes(data: bytes) -> xr.Dataset:
    """The dataset in a netCDF file, with or (older ones) without a checksum at the end.

    Raises:
      ValueError: the file is damaged; the message says how.
    """
    body, seal = data[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
    if seal == _seal(body):
        data = body
    elif seal.startswith(_seal(b"")[:12]) or _is_whole(body):
        raise ValueError("its checksum does not fit")
    try:
        with xr.open_dataset(io.BytesIO(data), engine="h5netcdf") as dataset:
            return dataset.load()
    except Exception as error:  # a library's, about bytes of any kind
        raise ValueError((str(error).strip().splitlines() or [type(error).__name__])[0]) from None


def _is_whole(data: bytes) -> bool:
    """Whether nothing is missing at the end of an HDF5 file."""
    try:
        with h5py.File(io.BytesIO(data)):
            return True
    except Exception:  # whatever a library says about bytes of any kind
        return False


def write(dataset: xr.Dataset, directory: Path) -> Path:
    """Writes ``results.nc``; a reader sees the old file or the new one, never a part.

    Raises:
      CannotWrite: the disk is full, or the directory cannot be written.
    """
    return files.write_bytes(Path(directory) / FILE, to_bytes(dataset))


def load(directory: str | os.PathLike[str]) -> xr.Dataset:
    """The results in a work directory, finished or not.

    Args:
      directory: work directory of ``sbt run`` or ``sbt.run``, or a netCDF file.

    Returns:
      The dataset that ``sbt.run`` returned, in memory.

    Raises:
      UserError: there are no results, they are damaged, or they are not those of a sweep.
    """
    path = files.path_of(directory, "directory")
    another = "give the work directory of a sweep, or its results.nc"
    try:
        path = path / FILE if path.is_dir() else path
        if path.exists() and not path.is_file():
            raise UserError(str(path), "is not a regular file", another)
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            str(directory), "holds no results (results.nc)", "run a sweep there: sbt run ..."
        ) from None
    except OSError as error:
        raise UserError(str(path), f"cannot be read ({error.strerror})", another) from None
    remedy = "restore it from a copy, or remove it and give the same sbt run again: it trains again"
    if path.name != FILE:
        remedy = another
    try:
        dataset = from_bytes(data)
    except ValueError as error:
        raise UserError(str(path), f"cannot be read ({error})", remedy) from None
    if missing := [name for name in _OURS if name not in dataset.variables]:
        problem = f"is not the results of a sweep (no {', '.join(missing)})"
        raise UserError(str(path), problem, another)
    return dataset
