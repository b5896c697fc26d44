"""The one hook of all logs, ``log(run, step, metrics)``, and what calls it after each epoch."""

import contextlib
import dataclasses
import importlib
import itertools
import math
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from sbt.errors import UserError, user_code

MOST_PLACES = 64  # of a variable with further dimensions; spectra have hundreds


@dataclasses.dataclass(frozen=True)
class LoggedRun:
    """A run, as a log knows it.

    Attributes:
      sweep: name of the sweep.
      number: of the run, in grid order; the same in every export.
      settings: its value on every axis.
      score: name of the metric that ranks runs, which a run has once, at its end.
    """

    sweep: str
    number: int
    settings: Mapping[str, Any]
    score: str

    @property
    def name(self) -> str:
        """``run-00042``."""
        return f"run-{self.number:05d}"


Tell = Callable[[xr.Dataset], None]
# Given a run, the epochs that it has trained (0: nothing yet), and every finite number that is
# known of it then, by name; a variable with further dimensions has a name for each of its places.
Log = Callable[[LoggedRun, int, Mapping[str, float]], object]


def teller(logs: Mapping[str, Log], sweep: str, axes: Sequence[str]) -> Tell:
    """What tells logs of an epoch: an ``on_epoch`` of :func:`sbt.run`.

    Args:
      logs: by name, for messages.
      sweep: its name.
      axes: of its grid.
    """

    def tell(now: xr.Dataset) -> None:
        columns = {name: one.values.tolist() for name, one in numbers(now, ("run",)).items()}
        settings = {axis: now[axis].values.tolist() for axis in axes}
        for i, number in enumerate(now["run"].values.tolist()):
            own = {axis: values[i] for axis, values in settings.items()}
            run = LoggedRun(sweep, number, own, str(now.attrs["score"]))
            metrics = finite({name: values[i] for name, values in columns.items()})
            for name, log in logs.items():
                with user_code(f"config.log, {name}"):
                    log(run, int(now["epoch"]), metrics)

    return tell


def finite(values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a mapping."""
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def numbers(
    ds: xr.Dataset, dims: Sequence[str], times: Sequence[str] = ()
) -> dict[str, xr.DataArray]:
    """Variables over some dimensions alone, by name.

    One with further dimensions (layers, spaces) becomes one for each of its places,
    ``sharpness/space=full``; with more than :data:`MOST_PLACES` of them it is left out.

    Args:
      ds: results.
      dims: that every variable has; others are left out.
      times: dimensions that it may have and keeps.
    """
    found = {}
    for name, variable in ds.data_vars.items():
        further = [str(d) for d in variable.dims if d not in (*dims, *times)]
        if not {*dims} <= {*variable.dims} or variable.dtype.kind not in "biuf":
            continue
        places = list(itertools.product(*(range(ds.sizes[d]) for d in further)))
        for place in places if len(places) <= MOST_PLACES else ():
            at = dict(zip(further, place, strict=True))
            one = variable.isel(at)
            whole = "/".join([str(name), *_labels(one, at)])
            found[whole] = one.drop_vars(further, errors="ignore").rename(whole)
    return found


def _labels(one: xr.DataArray, at: Mapping[str, int]) -> Iterator[str]:
    for dim, place in at.items():
        yield f"{dim}={one[dim].item()}" if dim in one.coords else f"{dim}={place}"


# --- for those that write ------------------------------------------------------------------------


def needed(module: str, extra: str, what: str) -> Any:
    """A module of a package that not everybody has.

    Raises:
      UserError: it is not installed; the remedy names the extra of ours that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise UserError(
            what,
            f"needs the package {package}, which is not installed",
            f"pip install 'small-batch-training[{extra}]'",
        ) from None


@contextlib.contextmanager
def a_run_each(begin: Callable[[LoggedRun], Any], end: Callable[[Any], None]) -> Iterator[Log]:
    """A log that begins a run of a service for every run, and ends it with the score, or the sweep.

    Args:
      begin: gives what has ``log(metrics, step=...)``.
      end: is given that.
    """
    runs: dict[int, Any] = {}

    def log(run: LoggedRun, step: int, metrics: Mapping[str, float]) -> None:
        if run.number not in runs:
            runs[run.number] = begin(run)
        runs[run.number].log(dict(metrics), step=step)
        if run.score in metrics:
            end(runs.pop(run.number))

    try:
        yield log
    finally:
        for one in runs.values():
            end(one)


def token(directory: Path) -> str:
    """What tells this directory's runs from others of the same name, today and on resuming."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "id"
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:8])
    return path.read_text()
