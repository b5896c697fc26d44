"""A claim held against numbers, and what counts as a difference."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from sbt.report import scales, summary
from sbt.report.dataset import BATCH_SIZE, BN_BATCH, SEED

HOLDS = "holds"
FAILS = "does not hold"
OPEN = "not decidable on this grid"
ONE_SEED = "not decidable from one seed"
# Fewer points than this along an axis show no trend.
ENOUGH = 3


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check.

    Attributes:
      claim: the statement that was checked.
      verdict: ``holds``, ``does not hold``, ``not decidable on this grid`` or ``from one seed``.
      numbers: the measurements behind it, or why it cannot be decided.
      source: who states it.
      scope: what it rests on: where the run covers less than the source's protocol, how; its seeds.
      subject: the part of the grid that was checked; empty for all of it.
      reduced: whether the run covers less than the source's protocol.
    """

    claim: str
    verdict: str
    numbers: str
    source: str = ""
    scope: str = ""
    subject: str = ""
    reduced: bool = False

    def __str__(self) -> str:
        where = f" [{self.subject}]" if self.subject else ""
        reduced = "on a reduced run: " * self.reduced
        scope = f" ({reduced}{self.scope})" if self.scope else ""
        return f"{self.claim}{where}: {self.verdict}{scope}. {self.numbers}"


def one_seed(ds: xr.Dataset) -> bool:
    """Whether nothing tells how much the accuracy of a cell varies from seed to seed."""
    return ds.sizes.get(SEED, 1) < 2


def separated(ds: xr.Dataset, high: xr.Dataset, low: xr.Dataset) -> bool:
    """Whether one cell is better than another beyond the noise.

    Their bands over the seeds must not overlap, and their medians must differ by more than one
    binomial standard error of the test set (``summary.resolution``). One seed has no band, and the
    standard error alone is less than what another seed changes: it separates nothing.

    Args:
      ds: the results that both come from.
      high, low: cells with ``accuracy`` (median), ``low`` and ``high`` (band).
    """
    gap = float(high["accuracy"] - low["accuracy"])
    apart = float(high["low"]) > float(low["high"])
    return not one_seed(ds) and apart and gap > summary.resolution(ds, float(high["accuracy"]))


def tied(ds: xr.Dataset, rows: xr.Dataset, axis: str) -> list[float]:
    """The values of ``axis`` whose cell is not separated from the best one."""
    top = rows.isel({axis: int(np.argmax(rows["accuracy"].values))})
    alike = [not separated(ds, top, rows.isel({axis: i})) for i in range(rows.sizes[axis])]
    return [float(v) for v, same in zip(rows[axis].values, alike) if same]


def among(ds: xr.Dataset, rows: xr.Dataset, axis: str, named: Iterable[float]) -> tuple[str, str]:
    """Whether the best values of ``axis`` are the named ones.

    It holds if the best value and all that tie with it are named, and fails if none of them is and
    every named value was measured. A tie across the border decides nothing, and neither does a
    grid on which all values are named, or none, or of one seed.

    Returns:
      The verdict and the numbers behind it.
    """
    named = sorted(float(v) for v in named)
    have = {float(v) for v in rows[axis].values}
    if not have & set(named) or not have - set(named):
        word = scales.NAMES.get(axis, axis).replace("$", "")
        return OPEN, f"the finished {word} values ({numbers(have)}) do not include both sides"
    top = rows.isel({axis: int(np.argmax(rows["accuracy"].values))})
    where = f"best {percent(top['accuracy'])} at {float(top[axis]):g}"
    if one_seed(ds):
        return ONE_SEED, where
    best = tied(ds, rows, axis)
    where += f"; within the noise of it: {numbers(best)}"
    inside = [v for v in best if v in named]
    if len(inside) == len(best):
        return HOLDS, where
    if not inside and set(named) <= have:
        return FAILS, where
    return OPEN, where


def so_far(ds: xr.Dataset, verdict: Verdict) -> Verdict:
    """The verdict, undecided if cells that could change it have not finished.

    A BN batch larger than the SGD batch does not exist, and is not waited for.
    """
    cell = summary.cells(ds)
    waiting = cell["count"] < cell["seeds"]
    if BN_BATCH in cell.coords and BATCH_SIZE in cell.coords:
        waiting = waiting & (cell[BN_BATCH] <= cell[BATCH_SIZE])
    count = int(waiting.sum())
    if not count:
        return verdict
    text = f"{count} of {waiting.size} cells have not finished; so far: {verdict.numbers}"
    return replace(verdict, verdict=OPEN, numbers=text)


def finished_rows(rows: xr.Dataset) -> xr.Dataset:
    """The batch sizes of which every cell has finished."""
    return rows.isel({BATCH_SIZE: np.flatnonzero(rows["complete"].values)})


def numbers(values: Iterable[float]) -> str:
    """Numbers in ascending order, separated by commas."""
    return ", ".join(f"{v:g}" for v in sorted(values)) or "none"


def percent(value: xr.DataArray | float) -> str:
    """An accuracy in words: ``71.2 %``."""
    return f"{100 * float(value):.1f} %"
