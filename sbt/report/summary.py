"""What a finished grid says: pure functions from a results dataset to labelled numbers.

A *cell* is a point of the grid without the seed axis. Every function takes the dataset of
``sbt.run`` (axes, then ``epoch``), leaves it unchanged, and broadcasts over axes that it does not
name. NaN marks a run that has not finished; it never counts as a failure.
"""

from typing import Any

import numpy as np
import xarray as xr

from sbt import results
from sbt.report.dataset import BASE_LR, SEED, prepared, setting, with_axis
from sbt.results import over_seeds

# From this many seeds on the spread is a 10-90 % band: the extremes of many seeds grow with their
# number, and would say more about how many were run than about the rule.
QUANTILE_SEEDS = 10
# Smallest accuracy difference that counts when the size of the test set is unknown.
UNKNOWN_RESOLUTION = 0.005


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
        low = filled.quantile(0.1, SEED).drop_vars("quantile")
        high = filled.quantile(0.9, SEED).drop_vars("quantile")
    parts = {"median": over_seeds(values), "low": low, "high": high}
    found = {name: part.where(count > 0) for name, part in parts.items()}
    return xr.Dataset({**found, "count": count})


def spread_words(ds: xr.Dataset) -> str:
    """What line and band of a figure mean for this number of seeds."""
    seeds = ds.sizes.get(SEED, 1)
    if seeds == 1:
        return "One seed per cell."
    band = "min–max" if seeds < QUANTILE_SEEDS else "10–90 %"
    return f"Line: median of {seeds} seeds; band: {band}."


def cells(ds: xr.Dataset) -> xr.Dataset:
    """Accuracy of every cell over its seeds.

    Returns:
      ``spread`` of ``accuracy``, with ``diverged`` (how many seeds diverged) and ``seeds`` (how
      many were asked for). ``count < seeds`` marks a cell that is not complete.
    """
    diverged = ds["diverged"].fillna(False).astype(bool)
    total = diverged.sum(SEED) if SEED in diverged.dims else diverged.astype(int)
    result = spread(ds["accuracy"])
    return result.assign(diverged=total, seeds=xr.full_like(total, ds.sizes.get(SEED, 1)))


def best_cell(ds: xr.Dataset) -> dict[str, Any]:
    """Coordinates and ``accuracy`` of the best finished cell; {} before any finished."""
    best = results.best_cell(ds)
    return {**best.where, "accuracy": best.accuracy} if best and not best.so_far else {}


def resolution(ds: xr.Dataset, accuracy: float) -> float:
    """One binomial standard error of an accuracy, √(p(1−p)/n) for n test examples.

    The size of the test set is ``attrs['test_examples']`` or ``config.data.test_size``; without
    either, half a point.
    """
    n = ds.attrs.get("test_examples") or setting(ds, "data.test_size")
    if not n:
        return UNKNOWN_RESOLUTION
    return float(np.sqrt(max(accuracy * (1 - accuracy), 0.0) / float(n)))


def best_over_lr(ds: xr.Dataset) -> xr.Dataset:
    """For every batch size (and any other axis) the cell with the best base LR.

    Best means the highest median over seeds; of equal cells, the smallest base LR.

    Returns:
      ``accuracy``, ``low``, ``high``, ``count``, ``best_base_lr``; ``edge``: whether the
      maximum lies at the end of the finished base LRs, with every cell inside them worse by more
      than the test set resolves, so that a wider grid could find a better one; ``complete``:
      whether every cell of the row has all its seeds.
    """
    ds = prepared(with_axis(ds, BASE_LR))
    cell = cells(ds)
    score = cell["median"].fillna(-np.inf)
    found = cell["median"].notnull().any(BASE_LR)
    at = score.argmax(BASE_LR)
    picked = cell.isel({BASE_LR: at})
    edge = xr.apply_ufunc(
        lambda row: _at_edge(row, ds),
        cell["median"],
        input_core_dims=[[BASE_LR]],
        vectorize=True,
        output_dtypes=[bool],
    )
    rates = xr.DataArray(ds[BASE_LR].values.astype(float), dims=BASE_LR)
    return xr.Dataset(
        {
            "accuracy": picked["median"],
            "low": picked["low"],
            "high": picked["high"],
            "count": picked["count"],
            "best_base_lr": rates.isel({BASE_LR: at}).where(found),
            "edge": edge,
            "complete": (cell["count"] == cell["seeds"]).all(BASE_LR),
        }
    ).drop_vars(BASE_LR, errors="ignore")


def _at_edge(row: np.ndarray, ds: xr.Dataset) -> bool:
    known = np.flatnonzero(np.isfinite(row))
    if known.size == 0:
        return False
    best = row[known].max()
    near = known[row[known] >= best - resolution(ds, float(best))]
    return bool(np.all((near == known[0]) | (near == known[-1])))


def reliable(ds: xr.Dataset, margin: float) -> xr.DataArray:
    """Which cells train reliably: our reading of "stable convergence" (Masters & Luschi, Fig. 16).

    The paper gives no numeric rule. A cell is reliable when the loss of every finished seed stayed
    finite and its median accuracy is at least the best cell of the dataset minus ``margin``.
    Unfinished cells are not reliable (see ``stable_range`` for how they are kept apart).
    """
    cell = cells(ds)
    if not bool(cell["median"].notnull().any()):
        return cell["median"].notnull()
    # The tolerance keeps "exactly the margin" inside in spite of rounding.
    enough = cell["median"] >= cell["median"].max() - margin - 1e-9
    return enough & (cell["diverged"] == 0)


def stable_range(ds: xr.Dataset, margin: float) -> xr.Dataset:
    """For every batch size the contiguous interval of reliable base LRs around the best one.

    The interval starts at the most accurate reliable cell of the row and ends where the next cell
    is not reliable.

    Returns:
      ``low``, ``high``: the smallest and largest base LR of the interval (NaN if it is empty);
      ``count``: its number of grid points; ``octaves``: log₂(high/low); ``low_open``,
      ``high_open``: whether it ends at the end of the grid or at a cell that has not finished, so
      that the true interval may be wider on that side; ``complete``: whether the row is finished.
    """
    ds = prepared(with_axis(ds, BASE_LR))
    # A rate of zero trains nothing and has no place on a logarithmic axis.
    ds = ds.isel({BASE_LR: np.flatnonzero(~(ds[BASE_LR].values.astype(float) <= 0))})
    cell = cells(ds)
    known = cell["count"] == cell["seeds"]
    first, last, low_open, high_open = xr.apply_ufunc(
        _interval,
        reliable(ds, margin),
        known,
        cell["median"].fillna(-np.inf),
        input_core_dims=[[BASE_LR]] * 3,
        output_core_dims=[[]] * 4,
        vectorize=True,
        output_dtypes=[int, int, bool, bool],
    )
    rates = xr.DataArray(ds[BASE_LR].values.astype(float), dims=BASE_LR)
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


def shared_base_lr(ds: xr.Dataset) -> float:
    """The base LR to compare batch sizes at: the highest accuracy averaged over all other axes.

    Only rows with a finished cell count; a base LR is judged on the mean of its cells, those that
    are missing left out.
    """
    median = cells(prepared(with_axis(ds, BASE_LR)))["median"]
    others = [d for d in median.dims if d != BASE_LR]
    count = median.notnull().sum(others)
    mean = (median.fillna(0.0).sum(others) / count.clip(1)).where(count > 0, -np.inf)
    return float(mean[BASE_LR].values[int(np.argmax(mean.values))])
