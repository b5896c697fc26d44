"""The ``View`` of a grid, which every part of a report takes: what the results say, computed once.

A *cell* is a point of the grid without the seed axis. NaN marks a run that has not finished; it
never counts as a failure.
"""

import functools
import json
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from sbt import implied, results
from sbt.config import FIELDS
from sbt.errors import UserError, shown
from sbt.ranges import FRACTION, NON_NEGATIVE, POSITIVE, check_number, plain
from sbt.results import (
    FILE,
    LOSS,
    TEST,
    TRAIN,
    VALIDATION,
    VALIDATION_SCORE,
    Best,
    curve,
    over_seeds,
)
from sbt.tasks.score import Score, of_attrs
from sbt.text import one_line

SEED = "seed"
EPOCH = "epoch"
BATCH_SIZE = "batch_size"
BASE_LR = "base_lr"
BN_BATCH = "bn_batch"

DEFAULT_MARGIN = 0.05
# From this many seeds on the spread is a 10-90 % band: the extremes of many seeds grow with their
# number, and would say more about how many were run than about the rule.
QUANTILE_SEEDS = 10
# Smallest difference of accuracies that counts when the size of the test set is unknown; of other
# scores, in parts of the margin.
UNKNOWN_RESOLUTION = 0.005
RESOLUTION_OF_MARGIN = 0.1


F = TypeVar("F", bound=Callable[..., Any])


def once(method: F) -> F:
    """Decorator: a method of a view is computed once for each of its arguments."""

    @functools.wraps(method)
    def kept(self, *args):
        key = (method.__name__, *args)
        if key not in self._kept:
            self._kept[key] = method(self, *args)
        return self._kept[key]

    return kept  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class View:
    """The results of a grid, and what follows from them.

    Attributes:
      results: a dataset of ``sbt.run`` in any state, or a part of one; it stays unchanged.
    """

    results: xr.Dataset
    _kept: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    # --- what ranks its runs ---

    @cached_property
    def score(self) -> Score:
        """What ranks runs, and how it is told."""
        return of_attrs(self.results.attrs)

    @property
    def reported(self) -> xr.DataArray:
        """The score of every run, on the test split: what is told."""
        return self.ds[self.score.name]

    @property
    def validated(self) -> bool:
        """Whether a validation split chooses what is best."""
        return VALIDATION_SCORE in self.results

    # --- the grid ---

    @cached_property
    def ds(self) -> xr.Dataset:
        """The results with every numeric axis in ascending order."""
        bare = self.results
        dims = bare[self.score.name].dims
        ordered = [d for d in dims if d in bare.coords and d not in (SEED, EPOCH)]
        ordered = [d for d in ordered if np.issubdtype(bare[d].dtype, np.number)]
        return bare.sortby(ordered) if ordered else bare

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """The swept axes, in the dataset's order, without the seed."""
        return tuple(str(d) for d in self.reported.dims if d not in (SEED, EPOCH))

    @cached_property
    def varying(self) -> tuple[str, ...]:
        """The swept axes that hold more than one value."""
        return tuple(a for a in self.axes if self.ds.sizes[a] > 1)

    @property
    def seeds(self) -> int:
        """How many seeds every cell was asked for."""
        return int(self.ds.sizes.get(SEED, 1))

    def is_numeric(self, axis: str) -> bool:
        """Whether an axis holds numbers (and so has an order and a scale)."""
        return bool(np.issubdtype(self.ds[axis].dtype, np.number))

    @once
    def slices(self, keep: tuple[str, ...]) -> tuple[tuple[str, "View"], ...]:
        """The parts of the grid at every combination of the varying axes that are not in ``keep``.

        Returns:
          ``(label, part)`` pairs, the label naming the fixed values (empty for a single part).
        """
        extra = [a for a in self.varying if a not in keep]
        if not extra:
            return (("", self),)
        places = [dict(zip(extra, i)) for i in product(*(range(self.ds.sizes[a]) for a in extra))]
        parts = [self.ds.isel(place) for place in places]
        names = [", ".join(_words(a, part[a].item()) for a in extra) for part in parts]
        return tuple(zip(names, map(View, parts)))

    @once
    def bare(self, *keep: str) -> "View":
        """The grid without the axes of length one, other than those in ``keep``."""
        single = [a for a in self.axes if self.ds.sizes[a] == 1 and a not in keep]
        return View(self.ds.squeeze(single)) if single else self

    @once
    def with_axis(self, axis: str) -> "View":
        """The grid with ``axis`` as a dimension: a value that was not swept has length one.

        The value is taken from a scalar coordinate, else from the config, else it is NaN.
        """
        if axis in self.axes:
            return self
        known = self.ds[axis] if axis in self.ds.coords else self.setting(axis, np.nan)
        bare = self.ds.drop_vars(axis, errors="ignore")
        return View(bare.expand_dims({axis: [float(known)]}))

    # --- its settings ---

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration stored with the results, or an empty dictionary.

        The user's own module, data and rule stand where the config names what they replaced.
        """
        loaded = _mapping(self.ds.attrs.get("config"))
        parts = self.parts
        data = [one for one in _mapping(parts.get("data")).values() if one.get("own")]
        own: dict[str, dict[str, Any]] = {}
        if module := _mapping(parts.get("module")):
            name = f"{module.get('name')} (own module)"
            own["model"] = {"name": name, **_mapping(module["fields"])}
        if data:
            called = data[0]["name"]
            called = "own arrays" if called == "arrays" else f"{called}, own arrays"
            kept = {k: v for k, v in _mapping(loaded.get("data")).items() if k not in _OF_FILES}
            own["data"] = {**kept, "name": f"{called} ({data[0]['training examples']} examples)"}
        if rule := _mapping(parts.get("rule")):
            name = f"{rule.get('name')} (own rule)"
            own["rule"] = {**_mapping(loaded.get("rule")), "name": name}
        return {**loaded, **own}

    @property
    def parts(self) -> dict[str, Any]:
        """What the results keep of the user's own parts, see :mod:`sbt.fingerprint`."""
        return _mapping(self.ds.attrs.get("parts"))

    def setting(self, path: str, default: Any = None) -> Any:
        """The config's value at a dotted path; ``default`` where it has none, or None."""
        node: Any = self.config
        for part in path.split("."):
            if not isinstance(node, Mapping) or node.get(part) is None:
                return default
            node = node[part]
        return node

    @cached_property
    def name(self) -> str:
        """What the run is called, in one line."""
        return one_line(self.ds.attrs.get("name") or self.setting("name", "sweep"))

    @cached_property
    def margin(self) -> float:
        """The margin of the stable range (``config.report.margin``), in the unit of the score.

        Of accuracies that is a fraction: 0.05 are 5 points.
        """
        return float(self.setting("report.margin", DEFAULT_MARGIN))

    def resolution(self, value: float) -> float:
        """The smallest difference from a score that counts.

        Of an accuracy one binomial standard error, √(p(1−p)/n) for n test examples: their number is
        ``attrs['test_examples']`` or ``config.data.test_size``; without either, half a point. How
        other scores spread over examples is not known: a tenth of the margin.
        """
        if self.score.name != "accuracy":
            return RESOLUTION_OF_MARGIN * self.margin
        n = self.ds.attrs.get("test_examples") or self.setting("data.test_size")
        if not n:
            return UNKNOWN_RESOLUTION
        return float(np.sqrt(max(value * (1 - value), 0.0) / float(n)))

    @cached_property
    def tokens_per_example(self) -> int:
        """Tokens of an example where examples are sequences; else 0."""
        return int(self.ds.attrs.get("tokens_per_example", 0))

    @cached_property
    def laws(self) -> list[implied.Row]:
        """What each batch size makes of the hyperparameters; empty where nothing follows it."""
        try:
            return implied.of_json(json.loads(self.ds.attrs.get("implied", "[]")))
        except (TypeError, ValueError, LookupError, AttributeError):
            return []

    # --- what it says ---

    @cached_property
    def cells(self) -> xr.Dataset:
        """The score of every cell over its seeds.

        ``spread`` of the reported score, with ``gain`` (what ranks cells: their median score, of
        the validation split where there is one, signed so that more is better), ``diverged`` (how
        many seeds diverged) and ``seeds`` (how many were asked for). ``count < seeds`` marks a cell
        that is not complete.
        """
        diverged = self.ds["diverged"].fillna(False).astype(bool)
        total = diverged.sum(SEED) if SEED in diverged.dims else diverged.astype(int)
        found = spread(self.reported)
        median = over_seeds(self.ds[VALIDATION_SCORE]) if self.validated else found["median"]
        gain = self.score.gain(median)
        return found.assign(gain=gain, diverged=total, seeds=xr.full_like(total, self.seeds))

    @cached_property
    def best_so_far(self) -> Best | None:
        """The best cell, by the latest evaluations while no run has finished."""
        return results.best_cell(self.ds)

    @property
    def best(self) -> Best | None:
        """The best finished cell; None before any finished."""
        best = self.best_so_far
        return None if best is None or best.so_far else best

    def at_best(self, *axes: str) -> dict[str, Any]:
        """The value of each axis in the best finished cell; its first value before any finished."""
        where = self.best.where if self.best else {}
        return {axis: where.get(axis, self.ds[axis].values[0].item()) for axis in axes}

    @cached_property
    def rows(self) -> xr.Dataset:
        """For every batch size (and any other axis) the cell with the best base LR.

        Best means the highest ``gain``; of equal cells, the smallest base LR.

        ``score`` (the median over seeds), ``low``, ``high``, ``gain``, ``count``, ``best_base_lr``;
        ``runs``: the score of every seed;
        ``edge``: whether the best lies at the end of the finished base LRs, with every cell inside
        them worse by more than counts (:meth:`resolution`), so that a wider grid could find a
        better one; ``complete``: whether every cell of the row has all its seeds.
        """
        wide = self.with_axis(BASE_LR)
        cell = wide.cells
        at = where_best(cell["gain"], BASE_LR)
        picked = cell.isel({BASE_LR: at})
        rates = xr.DataArray(wide.ds[BASE_LR].values.astype(float), dims=BASE_LR)
        edge = xr.apply_ufunc(
            self._at_edge,
            cell["gain"],
            input_core_dims=[[BASE_LR]],
            vectorize=True,
            output_dtypes=[bool],
        )
        found = {
            "score": picked["median"],
            "low": picked["low"],
            "high": picked["high"],
            "gain": picked["gain"],
            "count": picked["count"],
            "runs": wide.reported.isel({BASE_LR: at}),
            "best_base_lr": rates.isel({BASE_LR: at}).where(picked["median"].notnull()),
            "edge": edge,
            "complete": (cell["count"] == cell["seeds"]).all(BASE_LR),
        }
        return xr.Dataset(found).drop_vars(BASE_LR, errors="ignore")

    def _at_edge(self, row: np.ndarray) -> bool:
        known = np.flatnonzero(~np.isnan(row))
        if known.size == 0:
            return False
        best = row[known].max()
        near = known[row[known] >= best - self.resolution(self.score.gain(float(best)))]
        return bool(np.all((near == known[0]) | (near == known[-1])))

    @cached_property
    def finished_rows(self) -> xr.Dataset:
        """Of :attr:`rows`, the batch sizes of which every cell has finished."""
        return self.rows.isel({BATCH_SIZE: np.flatnonzero(self.rows["complete"].values)})

    @once
    def reliable(self, margin: float) -> xr.DataArray:
        """Which cells train reliably: our reading of "stable convergence" (Masters & Luschi 2018).

        The paper gives no numeric rule. A cell is reliable when the loss of every finished seed
        stayed finite and its score is worse than that of the best cell of the grid by ``margin`` at
        most. Unfinished cells are not reliable (``stable_range`` keeps them apart).
        """
        gain = self.cells["gain"]
        if not bool(gain.notnull().any()):
            return gain.notnull()
        # The tolerance keeps "exactly the margin" inside in spite of rounding.
        return (gain >= gain.max() - margin - 1e-9) & (self.cells["diverged"] == 0)

    @once
    def stable_range(self, margin: float) -> xr.Dataset:
        """For every batch size the contiguous interval of reliable base LRs around the best one.

        The interval starts at the best reliable cell of the row and ends where the next cell is not
        reliable.

        Returns:
          ``low``, ``high``: the smallest and largest base LR of the interval (NaN if it is empty);
          ``count``: its number of grid points; ``octaves``: log₂(high/low); ``low_open``,
          ``high_open``: whether it ends at the end of the grid or at a cell that has not finished,
          so that the true interval may be wider on that side; ``complete``: whether the row is
          finished.
        """
        wide = self.with_axis(BASE_LR)
        rate = wide.ds[BASE_LR].values.astype(float)
        # A rate of zero trains nothing and has no place on a logarithmic axis.
        positive = {BASE_LR: np.flatnonzero(~(rate <= 0))}
        if positive[BASE_LR].size < rate.size:
            wide = View(wide.ds.isel(positive))
        known = wide.cells["count"] == wide.cells["seeds"]
        first, last, low_open, high_open = xr.apply_ufunc(
            _interval,
            wide.reliable(margin),
            known,
            wide.cells["gain"].fillna(-np.inf),
            input_core_dims=[[BASE_LR]] * 3,
            output_core_dims=[[]] * 4,
            vectorize=True,
            output_dtypes=[int, int, bool, bool],
        )
        rates = xr.DataArray(rate[positive[BASE_LR]], dims=BASE_LR)
        some = first >= 0
        low = rates.isel({BASE_LR: first.clip(0)}).where(some)
        high = rates.isel({BASE_LR: last.clip(0)}).where(some)
        return xr.Dataset(
            {
                "low": low,
                "high": high,
                "count": (last - first + 1).where(some, 0).astype(int),
                "octaves": np.log2(high) - np.log2(low),
                "low_open": low_open,
                "high_open": high_open,
                "complete": known.all(BASE_LR),
            }
        )

    @cached_property
    def shared_base_lr(self) -> float:
        """The base LR to compare batch sizes at: the best score averaged over all other axes.

        Only rows with a finished cell count; a base LR is judged on the mean of its cells, those
        that are missing left out. One that is infinitely bad counts as the worst of the others, or
        as a guess where that is worse: a mean over it would not tell one base LR from another.
        """
        gain = self.with_axis(BASE_LR).cells["gain"]
        known = gain.values[np.isfinite(gain.values)]
        worst = np.nanmin([*known, self.score.gain(self.score.guess), np.inf])
        mean = gain.where(gain != -np.inf, worst)
        mean = mean.mean([d for d in mean.dims if d != BASE_LR]).fillna(-np.inf)
        return float(mean[BASE_LR].values[int(np.argmax(mean.values))])


def where_best(gain: xr.DataArray, axis: str) -> xr.DataArray:
    """Where the best value lies along an axis: of equal ones the first, of none the first place.

    An infinitely bad value is still better than none.
    """
    return gain.clip(min=np.finfo(float).min).fillna(-np.inf).argmax(axis)


def spread(values: xr.DataArray) -> xr.Dataset:
    """Median and band over the seeds that have a value.

    Returns:
      A dataset without the seed axis: ``median``; ``low`` and ``high``, the smallest and largest
      value, or from ``QUANTILE_SEEDS`` seeds on the 10 % and 90 % quantiles; ``count``, the number
      of values. Where no seed has one, the first three are NaN.
    """
    if SEED not in values.dims:
        values = values.expand_dims(SEED)
    count = values.notnull().sum(SEED)
    # As in `over_seeds`: numpy warns about cells that are all NaN.
    filled = values.where(count > 0, 0.0)
    if values.sizes[SEED] < QUANTILE_SEEDS:
        low, high = filled.min(SEED), filled.max(SEED)
    else:
        low, high = (_quantile(filled, q) for q in (0.1, 0.9))
    parts = {"median": over_seeds(values), "low": low, "high": high}
    found = {name: part.where(count > 0) for name, part in parts.items()}
    return xr.Dataset({**found, "count": count})


def _quantile(values: xr.DataArray, q: float) -> xr.DataArray:
    """A quantile over the seeds; between a number and infinity lies infinity."""

    def of(numbers: xr.DataArray, method: Any = "linear") -> xr.DataArray:
        return numbers.quantile(q, SEED, method=method).drop_vars("quantile")

    infinite = np.isinf(values)
    if not bool(infinite.any()):
        return of(values)
    low, high = of(values, "lower"), of(values, "higher")
    # Numpy interpolates between infinities to NaN: numbers alone are left to it.
    between = of(values.where(~infinite, np.sign(values) * 1e300))
    return between.where(np.isfinite(low) & np.isfinite(high), low.where(np.isinf(low), high))


def spread_words(seeds: int) -> str:
    """What line and band of a figure mean for this number of seeds."""
    if seeds == 1:
        return "One seed per cell."
    band = "min–max" if seeds < QUANTILE_SEEDS else "10–90 %"
    return f"Line: median of {seeds} seeds; band: {band}."


def _interval(
    good: np.ndarray, known: np.ndarray, score: np.ndarray
) -> tuple[int, int, bool, bool]:
    if not good.any():
        waiting = bool((~known).any())
        return -1, -1, waiting, waiting
    first = last = int(np.argmax(np.where(good, score, -np.inf)))
    while first > 0 and good[first - 1]:
        first -= 1
    while last < good.size - 1 and good[last + 1]:
        last += 1
    low_open = first == 0 or not known[first - 1]
    high_open = last == good.size - 1 or not known[last + 1]
    return first, last, bool(low_open), bool(high_open)


_OF_FILES = ("name", "data_dir", "stream", "image_size", "resize")


def _mapping(value: Any) -> dict[str, Any]:
    """A JSON object, as text or read already; empty where it is something else."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    return dict(value) if isinstance(value, Mapping) else {}


def _words(axis: str, value: Any) -> str:
    # A case is a name for a whole setting, and says enough.
    if axis == "case":
        return one_line(value)
    # An axis named with its section (schedule__warmup) is known by its field.
    words = axis.rpartition("__")[2].replace("_", " ")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{words} {value:g}" if number else one_line(f"{words} {value}")


# --- a results file may be anyone's --------------------------------------------------------------

_NUMERIC_AXES = (BATCH_SIZE, BASE_LR, BN_BATCH, "micro_batch", SEED, EPOCH)
# What a report reads as a number, where it is there.
_SETTINGS = (
    *("report.margin", "report.last_epochs", "report.curves_base_lr", "data.train_size"),
    *("data.test_size", "epochs", "batch_size", "base_lr", "bn_batch"),
)
_ATTRIBUTES = {
    "chance": FRACTION,
    "test_examples": POSITIVE,
    "train_examples": POSITIVE,
    "tokens_per_example": NON_NEGATIVE,
}


def checked(ds: xr.Dataset) -> View:
    """The view of a dataset, if it has what every report rests on.

    Raises:
      UserError: a variable, an axis, an attribute or a setting is missing or of another kind than
        ``sbt.run`` writes.
    """
    for name, allowed in _ATTRIBUTES.items():
        if name in ds.attrs:
            check_number(f"{FILE}, attribute {name}", plain(ds.attrs[name]), allowed)
    score = _score(ds)
    splits = [TRAIN, TEST, *([VALIDATION] if VALIDATION_SCORE in ds else [])]
    curves = [curve(split, of) for split in splits for of in dict.fromkeys((LOSS, score.name))]
    of_runs = [score.name, "diverged", "diverged_epoch"]
    of_runs += [VALIDATION_SCORE] if VALIDATION_SCORE in ds else []
    for name in (*of_runs, *curves):
        if name not in ds.data_vars:
            raise _not_ours(f"has no variable {name!r}")
        if ds[name].dtype.kind not in "biuf":
            raise _not_ours(f"{name!r} holds no numbers ({ds[name].dtype})")
    axes = ds[score.name].dims
    for name in (*of_runs, *curves):
        dims: tuple[Hashable, ...] = (*axes, EPOCH) if name in curves else axes
        if set(ds[name].dims) != set(dims):
            found = tuple(ds[name].dims)
            raise _not_ours(f"{name!r} has dimensions {found} instead of {tuple(dims)}")
    for axis in (*axes, EPOCH):
        _check_axis(ds, str(axis))
    values = ds[score.name].values
    if score.percent and bool(np.any(np.isfinite(values) & ((values < 0) | (values > 1)))):
        raise _not_ours(f"{score.name!r} is not always between 0 and 1")
    try:
        config = json.loads(ds.attrs.get("config") or "{}")
    except (TypeError, ValueError):
        config = None
    if not isinstance(config, Mapping):
        raise _not_ours(f"its config cannot be read: {shown(ds.attrs.get('config'))}")
    view = View(ds)
    for path in _SETTINGS:
        if (value := view.setting(path)) is not None:
            FIELDS[path].taken(f"{FILE}, config.{path}", value)
    return view


def _score(ds: xr.Dataset) -> Score:
    try:
        score = of_attrs(ds.attrs)
    except (TypeError, ValueError):
        raise _not_ours("the attributes of its score cannot be read") from None
    if not score.name.isidentifier():
        raise _not_ours(f"its score cannot be named {shown(score.name)}")
    return score


def _not_ours(problem: str) -> UserError:
    return UserError(FILE, problem, "give results that sbt.run wrote")


def _check_axis(ds: xr.Dataset, axis: str) -> None:
    if axis not in ds.coords or ds[axis].dims != (axis,):
        raise _not_ours(f"the axis {axis!r} has no values")
    values = ds[axis].values
    words = values.dtype.kind in "USO" and all(isinstance(v, str) for v in values.tolist())
    numbers = values.dtype.kind in "iuf" and bool(np.isfinite(values).all())
    if not (numbers or ((words or values.dtype == bool) and axis not in _NUMERIC_AXES)):
        kind = "numbers" if axis in _NUMERIC_AXES else "numbers or names"
        raise _not_ours(f"the values of the axis {axis!r} are not {kind}")
    if len(set(values.tolist())) < values.size or not values.size:
        raise _not_ours(f"the axis {axis!r} is empty, or has a value twice")
