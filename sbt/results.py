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
from sbt.errors import UserError, first_line
from sbt.measure.record import MARK, Measured
from sbt.tasks.score import Score, of_attrs

TRAIN, TEST, VALIDATION = "train", "test", "validation"
LOSS = "loss"
# The reported score on the validation split, where there is one: what chooses, and is not told.
VALIDATION_SCORE = "validation_score"
# What no score can be called: every file has them beside it.
RESERVED = ("epoch", "diverged", "diverged_epoch", "epochs_done", "finished")
FILE = "results.nc"


def curve(split: str, metric: str) -> str:
    """Name of the variable that holds a metric of a split after every epoch."""
    return f"{split}_{metric}"


class Recorder:
    """Collects what runs report, and is a Dataset whenever asked.

    Args:
      axes: swept axes with their values, in order.
      epochs: length of the longest run.
      score: of the (first) task: which curve ranks runs, and what one that diverged has.
      curves: what is told after every epoch, with units and a long name each; :func:`curve` names
        them. The score's of the test split is among them; its of the validation split makes
        :data:`VALIDATION_SCORE` of every run.
      last_epochs: the reported score is the median over the evaluations in so many last epochs.
      attrs: kept with the dataset.
      searched: whether a search chooses among the runs, so that some stop and some never begin.
    """

    def __init__(
        self,
        axes: Mapping[str, Sequence[Any]],
        epochs: int,
        score: Score,
        curves: Mapping[str, Mapping[str, Any]],
        last_epochs: int,
        attrs: Mapping[str, Any],
        searched: bool = False,
    ):
        self.axes = {name: tuple(values) for name, values in axes.items()}
        self.score = score
        self.attrs = {**attrs, **score.attrs, "last_epochs": last_epochs}
        shape = tuple(len(values) for values in self.axes.values())
        self.curves = {name: np.full((*shape, epochs), np.nan) for name in curves}
        self.curve_attrs = {name: dict(about) for name, about in curves.items()}
        self.diverged_epoch = np.full(shape, np.nan)
        self.epochs_done = np.zeros(shape, np.int32)
        self.finished = np.zeros(shape, bool)
        self.evaluations = 0  # of runs, noted so far
        self.searched = searched
        self.stopped_epoch = np.full(shape, np.nan)
        self.diverged_score = np.full(shape, score.diverged)
        self.measured = Measured({name: len(values) for name, values in self.axes.items()})

    def record(
        self,
        index: tuple[int, ...],
        epoch: int,
        values: Mapping[str, float],
        *,
        diverged: float = np.nan,
        last: bool = False,
        diverged_score: float | None = None,
    ) -> None:
        """Notes one epoch of one run.

        Of a run that diverged the loss is infinite, the score what ``diverged_score`` says, and
        every other metric NaN.

        Args:
          index: grid position.
          epoch: from 0.
          values: of the curves; what was not measured is left out.
          diverged: epochs (a real number) until the loss was not finite; NaN while it is.
          last: whether this is the last epoch of the run.
          diverged_score: of this run, if it diverges; that of the recorder's score by default.
        """
        if diverged_score is not None:
            self.diverged_score[index] = diverged_score
        if np.isfinite(diverged):
            self.diverged_epoch[index] = diverged
            at_divergence = {LOSS: np.inf, self.score.name: self.diverged_score[index]}
            values = {name: at_divergence.get(_metric(name), np.nan) for name in values}
        for name, value in values.items():
            self.curves[name][(*index, epoch)] = value
        self.evaluations += curve(TEST, LOSS) in values
        self.epochs_done[index] = epoch + 1
        self.finished[index] = last

    def stop(self, index: tuple[int, ...], epoch: int) -> None:
        """Notes that a search has stopped a run after so many epochs: it has no score."""
        self.stopped_epoch[index] = epoch

    def cut(self, index: tuple[int, ...], epoch: int) -> None:
        """Leaves of a run what it had when it was stopped after so many epochs."""
        for values in self.curves.values():
            values[index][epoch:] = np.nan
        self.epochs_done[index], self.finished[index] = epoch, False
        self.stopped_epoch[index] = epoch

    def forget(self, index: tuple[int, ...]) -> None:
        """Leaves nothing of a run: it has not begun."""
        self.cut(index, 0)
        self.stopped_epoch[index] = self.diverged_epoch[index] = np.nan

    def restore(self, dataset: xr.Dataset) -> None:
        """Takes over what an earlier dataset of the same grid holds."""
        for name, values in self.curves.items():
            values[..., : dataset.sizes["epoch"]] = dataset[name].values
        self.diverged_epoch[...] = dataset["diverged_epoch"].values
        self.epochs_done[...] = dataset["epochs_done"].values
        self.finished[...] = dataset["finished"].values
        self.measured.restore(dataset)
        if "stopped_epoch" in dataset:
            self.stopped_epoch[...] = dataset["stopped_epoch"].values
        diverged = np.isfinite(self.diverged_epoch)
        reported = dataset[self.score.name].values
        self.diverged_score[...] = np.where(diverged, reported, self.diverged_score)

    def dataset(self) -> xr.Dataset:
        """Everything so far; unfinished cells are NaN."""
        dims = tuple(self.axes)
        data: dict[str, Any] = {
            name: ((*dims, "epoch"), values, self.curve_attrs[name])
            for name, values in self.curves.items()
        }
        data[self.score.name] = (dims, *self._reported(TEST))
        if curve(VALIDATION, self.score.name) in self.curves:
            data[VALIDATION_SCORE] = (dims, *self._reported(VALIDATION))
        data["diverged"] = (dims, np.isfinite(self.diverged_epoch))
        data["diverged_epoch"] = (
            dims,
            self.diverged_epoch.copy(),
            {"long_name": "epochs until the loss was not finite"},
        )
        data["epochs_done"] = (dims, self.epochs_done.copy())
        data["finished"] = (dims, self.finished.copy())
        if self.searched:
            words = "epochs after which the search stopped the run"
            data["stopped_epoch"] = (dims, self.stopped_epoch.copy(), {"long_name": words})
        epochs = self.curves[curve(TEST, LOSS)].shape[-1]
        measured, labels = self.measured.variables(epochs)
        coords: dict[str, Any] = {name: coordinate(values) for name, values in self.axes.items()}
        coords |= labels | {"epoch": np.arange(1, epochs + 1)}
        return xr.Dataset(data | measured, coords, dict(self.attrs))

    def after(self, indices: Sequence[tuple[int, ...]], epochs: int) -> xr.Dataset:
        """What is known of some runs after so many epochs.

        Args:
          indices: grid position of each of the n runs.
          epochs: that they have trained; 0 for what was measured before.

        Returns:
          Over ``run`` (n), the numbers of the runs in grid order: the curves at that epoch, what
          was measured then, ``diverged``, and the reported score of runs that end here (NaN for
          others). The axes are coordinates over ``run`` as well, ``epoch`` is one number.
        """
        places = np.asarray(indices, int).reshape(len(indices), len(self.axes)).T
        at = tuple(places) or (np.newaxis,)
        shape = self.finished.shape
        coords: dict[str, Any] = {
            "run": np.ravel_multi_index(tuple(places), shape) if shape else np.zeros(1, int),
            "epoch": epochs,
        }
        for (axis, values), place in zip(self.axes.items(), places, strict=True):
            coords[axis] = ("run", coordinate(values)[place])
        data: dict[str, Any] = {"diverged": ("run", self.diverged_epoch[at] <= epochs)}
        if epochs:
            for name, curves in self.curves.items():
                data[name] = ("run", curves[(*at, epochs - 1)], self.curve_attrs[name])
            ends = self.finished[at] & (self.epochs_done[at] == epochs)
            data[self.score.name] = ("run", np.where(ends, self._scores(TEST, at), np.nan))
        return xr.Dataset(data | self.measured.after(at, epochs), coords, dict(self.attrs))

    def _scores(self, split: str, at: Any = ...) -> np.ndarray:
        """The reported score of the runs at some positions; NaN before they end."""
        curves = self.curves[curve(split, self.score.name)][at]
        ends = np.where(self.finished, self.epochs_done, 0)[at]
        values = last_median(curves, ends, self.attrs["last_epochs"])
        return np.where(np.isnan(self.diverged_epoch[at]), values, self.diverged_score[at])

    def _reported(self, split: str) -> tuple[np.ndarray, dict[str, str]]:
        """The score of every run on a split, with its attributes."""
        curves, last = self.curves[curve(split, self.score.name)], self.attrs["last_epochs"]
        ends = np.where(self.finished, self.epochs_done, 0)
        words = f"{split} {self.score.long_name}, {reported_words(curves, ends, last)}"
        units = {"units": self.score.units} if self.score.units else {}
        return self._scores(split), {**units, "long_name": words}


def _metric(name: str) -> str:
    """The metric of a curve."""
    return name.partition("_")[2]


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
    """Median over the evaluations in the last epochs of every run: its reported score.

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
    # In one go, for grids of many runs: NaN is sorted behind every number.
    ordered, known = np.sort(flat, axis=-1), (~np.isnan(flat)).sum(-1, keepdims=True)
    middle = (np.maximum(known - 1, 0) // 2, np.minimum(known // 2, flat.shape[-1] - 1))
    low, high = (np.take_along_axis(ordered, at, -1)[..., 0] for at in middle)
    return np.where(known[..., 0] > 0, (low + high) / 2, np.nan)


def reported_words(curves: np.ndarray, ends: np.ndarray, count: int) -> str:
    """Which evaluations the reported score is the median of.

    The epochs are named where they are the same in all runs that have ended.

    Args:
      curves, ends, count: as for :func:`last_median`.
    """
    words = f"median over the evaluations in the last {count} epochs of a run"
    words = words.replace("last 1 epochs", "last epoch")
    counted = _in_last_epochs(curves, ends, count) & ~np.isnan(curves)
    rows = counted.reshape(-1, curves.shape[-1])[np.ravel(ends) > 0]
    if not len(rows) or not rows[0].any() or np.any(rows != rows[0]):
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
      value: median over its seeds of the reported score, on the test split.
      where: its value on every axis but the seed.
      so_far: whether no run has finished (without diverging), so that the latest evaluations were
        compared instead.
    """

    value: float
    where: dict[str, Any]
    so_far: bool


def best_cell(ds: xr.Dataset) -> Best | None:
    """The cell with the best score: the one meaning of "best", wherever the word stands.

    A cell is a point of the grid without the seed axis, its score the median over the seeds that
    have one. Of equal cells the first counts, numbers in ascending order. Runs that have not
    finished have no reported score and are left out; while that leaves only runs that diverged, or
    none, every run counts with its latest evaluation. Where there is a validation split, its score
    chooses the cell, and the test split's is told.

    Args:
      ds: a dataset of :meth:`Recorder.dataset`, of any state.

    Returns:
      The cell, or None before the first evaluation.
    """
    score = of_attrs(ds.attrs)
    split = VALIDATION if VALIDATION_SCORE in ds else TEST
    told, ranked = ds[score.name], ds[VALIDATION_SCORE if split == VALIDATION else score.name]
    so_far = bool((told.isnull() | ds["diverged"]).all()) and bool(told.isnull().any())
    if so_far:
        told = told.fillna(_latest(ds[curve(TEST, score.name)]))
        ranked = ranked.fillna(_latest(ds[curve(split, score.name)]))
    cells = xr.Dataset({"told": over_seeds(told), "gain": over_seeds(score.gain(ranked))})
    cells = cells.sortby([d for d in cells.dims if np.issubdtype(cells[d].dtype, np.number)])
    gain = cells["gain"].values
    known = np.flatnonzero(~np.isnan(gain))
    if not known.size:
        return None
    at = np.unravel_index(known[np.argmax(gain.flat[known])], gain.shape)
    best = cells.isel(dict(zip(cells["gain"].dims, at)))
    where = {str(d): best[d].item() for d in cells["gain"].dims}
    return Best(best["told"].item(), where, so_far)


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


def coordinate(values: tuple[Any, ...]) -> np.ndarray:
    """The values of an axis as results have them: numbers, or text."""
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return np.asarray(values)
    return np.asarray([str(v) for v in values])


# --- files ---------------------------------------------------------------------------------------

# The last line of a file: the checksum of what is before it. It stands behind the end that HDF5 has
# noted in its first bytes, where no reader of netCDF looks.
_SEAL = "\nsbt: crc32 {sum:08x} of the {size:016d} bytes before this line\n"
_WORTH_COMPRESSING = 10_000  # bytes of a variable
_SEAL_BYTES = len(_SEAL.format(sum=0, size=0))
# What makes a netCDF file the results of a sweep.
_OURS = (*RESERVED, curve(TRAIN, LOSS), curve(TEST, LOSS))


def to_bytes(dataset: xr.Dataset, *, compressed: bool = False) -> bytes:
    """A netCDF file with its checksum at the end; other tools read it like any other.

    Args:
      dataset: of ``sbt.run``.
      compressed: without loss, and slower: for a file that is kept.
    """
    # Whole in memory: HDF5 can bring the process down when a disk is full.
    buffer = io.BytesIO()
    least = _WORTH_COMPRESSING if compressed else np.inf
    large = [name for name, values in dataset.data_vars.items() if values.nbytes >= least]
    encoding = {name: {"zlib": True, "shuffle": True} for name in large}
    dataset.to_netcdf(buffer, engine="h5netcdf", encoding=encoding)
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
        raise ValueError(first_line(error) or type(error).__name__) from None


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
    score = str(dataset.attrs.get("score", "accuracy"))
    ours = (*_OURS, curve(TEST, score), score)
    if missing := [name for name in ours if name not in dataset.variables]:
        problem = f"is not the results of a sweep (no {', '.join(missing)})"
        raise UserError(str(path), problem, another)
    return dataset
