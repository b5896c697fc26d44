r"""Where the best value of a hyperparameter lies, and how it moves with the batch size.

Positions are log2 of the value (of a decay: of its half-life). Two interpolants, since each has its
weakness: a parabola through the lowest three to five points, which a skewed basin draws to its flat
side, and Akima's spline, which follows every wiggle. A minimum at the end of the grid is a bound,
and counts in no slope. Rates are in *mean form*, η, the one that multiplies the mean gradient of a
batch; the config's base learning rate η̃ relates to it by ``config.lr_scaling``: η = m·η̃ for
``linear``, √m·η̃ for ``sqrt``, η̃ for ``none``. An exponent of α in η* ∝ m^α therefore is α − 1 for
the base learning rate under linear scaling.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.interpolate import Akima1DInterpolator

from sbt.advice.targets import Reached
from sbt.intervals import Interval, interval, seed_draws
from sbt.parabola import best_positions
from sbt.report.tuning import basin, octaves

POINTS = 5
FINE = 25  # points of the spline between neighbours
FEWEST_FOR_SLOPE = 3
TOLERANCE = 1.2  # times the fewest examples, within which a value is still good
FEWEST_FOR_FORMS = 5
FIXED = {"constant": 0.0, "square root": 0.5, "linear": 1.0}


class Optimum(NamedTuple):
    """Of one batch size.

    Attributes:
      parabola, akima: positions; NaN where the least point stands at an end.
      cell: the position of the least point.
      end: -1 or 1 where that is the first or last of those that have a loss; else 0.
    """

    parabola: float
    akima: float
    cell: float
    end: int


def optimum(x: np.ndarray, loss: np.ndarray) -> Optimum:
    """The least of a loss over positions.

    Args:
      x: positions, ascending.
      loss: at each; infinite or NaN where there is none.

    Examples:
      >>> x = np.arange(-13.0, -5.0)
      >>> print(f"{optimum(x, 3 + 0.02 * (x + 9.3) ** 2).parabola:.6f}")
      -9.300000
    """
    known = np.isfinite(loss)
    if not known.any():
        return Optimum(np.nan, np.nan, np.nan, 0)
    at = int(np.where(known, loss, np.inf).argmin())
    there = np.flatnonzero(known)
    low, high = there[0] == at, there[-1] == at
    end = 0 if low == high else (-1 if low else 1)
    # A neighbour without a loss is worse than any number: the optimum may be beyond, or not.
    return Optimum(float(parabola(x, loss)), float(akima(x, loss)), float(x[at]), end)


def parabola(x: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """The least of a parabola through the least of ``(..., positions)`` and two on either side."""
    return best_positions(x, np.where(np.isfinite(loss), -loss, np.nan), POINTS)


def akima(x: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """The least of Akima's spline through ``(..., positions)``; NaN where that is at an end."""
    rows = np.asarray(loss, float).reshape(-1, len(x))
    known = np.isfinite(rows)
    found = np.full(len(rows), np.nan)
    for have in np.unique(known, axis=0):
        if have.sum() >= 3:
            at = np.flatnonzero((known == have).all(-1))
            found[at] = _akima(np.asarray(x, float)[have], rows[at][:, have])
    return found.reshape(np.shape(loss)[:-1])


def _akima(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    fine = np.interp(np.arange(0, len(x) - 1 + 1e-9, 1 / FINE), np.arange(len(x)), x)
    curve = Akima1DInterpolator(x, y, axis=-1)(fine)
    inside = (curve.argmin(-1) > 0) & (curve.argmin(-1) < len(fine) - 1)
    return np.where(inside, best_positions(fine, -curve), np.nan)


def exponent(m: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Slopes of positions over log2 m, of least squares.

    Args:
      m: batch sizes.
      positions: ``(..., len(m))``; NaN where there is none.

    Returns:
      ``(...)`` slopes; NaN where fewer than three batch sizes have a position.
    """
    known = np.isfinite(positions)
    n = np.maximum(known.sum(-1, keepdims=True), 1)
    x = np.where(known, np.log2(m), 0.0)
    y = np.where(known, positions, 0.0)
    dx = np.where(known, x - x.sum(-1, keepdims=True) / n, 0.0)
    square = (dx**2).sum(-1)
    enough = (known.sum(-1) >= FEWEST_FOR_SLOPE) & (square > 0)
    return np.where(enough, (dx * y).sum(-1) / np.where(enough, square, 1.0), np.nan)


def surge(m: np.ndarray, noise: float) -> np.ndarray:
    r"""log2 of the surge curve's shape, 0 at its peak: Adam's best rate by Li et al. (2024).

    .. math:: \epsilon = \epsilon_{\max} \Big/ \tfrac12 \Bigl(\sqrt{B_n/m} + \sqrt{m/B_n}\Bigr)

    Examples:
      >>> print(np.round(2 ** surge(np.array([1.0, 4.0, 16.0, 64.0, 256.0]), 16.0), 4))
      [0.4706 0.8    1.     0.8    0.4706]

    References:
      Li et al., *Surge Phenomenon in Optimal Learning Rate and Batch Size Scaling*, 2024,
      arXiv:2405.14578
    """
    ratio = np.sqrt(np.asarray(m, float) / noise)
    return -np.log2((ratio + 1 / ratio) / 2)


def compare_forms(m: np.ndarray, positions: np.ndarray) -> dict[str, float]:
    """Akaike's criterion of how η* could depend on m; the least describes it best.

    n ln(RSS/n) + 2k of log2 η*, k counting the height, the exponent or B_n where it is free, and
    the variance. Differences below 2 tell nothing.

    Args:
      m: batch sizes.
      positions: log2 η* in mean form; NaN where there is none.

    Returns:
      By form: ``constant``, ``square root``, ``linear``, ``power`` (free exponent), ``surge``;
      empty where fewer than five batch sizes have an optimum.
    """
    known = np.isfinite(positions)
    m, y = np.asarray(m, float)[known], np.asarray(positions, float)[known]
    if len(m) < FEWEST_FOR_FORMS:
        return {}
    x = np.log2(m)
    shapes = {name: alpha * x for name, alpha in FIXED.items()}
    shapes["power"] = float(exponent(m, y)) * x
    # Noise scales far outside the grid give a square root, or its inverse.
    scales = 2 ** np.arange(x.min() - 6, x.max() + 6, 1 / 32)
    shapes["surge"] = min((surge(m, s) for s in scales), key=lambda shape: np.var(y - shape))
    free = {"power", "surge"}
    n = len(y)
    return {
        name: float(n * np.log(max(np.var(y - shape), 1e-12)) + 2 * (2 + (name in free)))
        for name, shape in shapes.items()
    }


def _beside(at: int, marks: np.ndarray) -> bool:
    """Whether a neighbour of a position is marked."""
    return bool(marks[max(at - 1, 0) : at].any() or marks[at + 1 : at + 2].any())


@dataclass(frozen=True)
class Optima:
    """Of an axis, where the best value lies at every batch size, and how it moves.

    Attributes:
      axis: its name.
      at: of every batch size, in log2 of the value of the axis (of a decay: of its half-life in
        updates).
      positions: the parabolas' minima with intervals over seeds, in the same unit.
      shift: what is added to these to give the positions that slopes are of: rates in mean form,
        half-lives in examples.
      exponent: α of value ∝ m^α, by parabolas.
      by_akima: the same by Akima's spline.
      forms: see :func:`compare_forms`; empty for other axes than the learning rate.
      ends: the first and last position of the axis.
      widths: octaves within which the target takes at most 20 % more examples, all else tuned; NaN
        where a search stopped what lies beside the best before that could be told.
    """

    axis: str
    at: tuple[Optimum, ...]
    positions: tuple[Interval, ...]
    shift: np.ndarray
    exponent: Interval
    by_akima: Interval
    forms: dict[str, float]
    ends: tuple[float, float]
    widths: np.ndarray

    @property
    def inside(self) -> np.ndarray:
        """Of every batch size, whether the optimum lies within the grid."""
        return np.isfinite([one.parabola for one in self.at])

    @property
    def beside_failure(self) -> np.ndarray:
        """Of every batch size, whether the best has neighbours, one of which has no number."""
        return ~self.inside & np.asarray(
            [self.ends[0] < one.cell < self.ends[1] for one in self.at]
        )


def optima(found: Reached, axis: str, power: float | np.ndarray, *, forms: bool = False) -> Optima:
    """The best values of an axis: those that reach the target with fewest examples, all else tuned.

    Args:
      found: examples to a target.
      axis: numeric, with three values or more.
      power: p of the position that is told, value · m^p: 1 or ½ for a base learning rate under
        linear or root scaling, 1 for a half-life that is to be told in examples.
      forms: whether to compare how a learning rate could depend on the batch size.
    """
    values = np.asarray(sorted({cell[axis] for cell in found.cells}), float)
    x = octaves(axis, values)
    order = np.argsort(x)
    x, values = x[order], values[order]
    groups = [[i for i, cell in enumerate(found.cells) if cell[axis] == value] for value in values]

    def losses(medians: np.ndarray) -> np.ndarray:
        """(..., sizes, values) log2 of the examples."""
        best = np.stack([medians[..., group].min(-1) for group in groups], -1)
        # Where the best is a bound, cells beside it tie with it.
        return np.where(found.resolved[:, None], np.log2(best), np.nan)

    shift = power * np.log2(found.sizes)
    loss = losses(found.medians)
    at = tuple(optimum(x, row) for row in loss)
    parabolas = np.asarray([one.parabola for one in at]) + shift
    splines = np.asarray([one.akima for one in at]) + shift
    drawn = losses(found.over(seed_draws(found.seeds)))
    minima = parabola(x, drawn)

    huge = 1e6  # octaves more: just beyond what is good
    cut = np.stack([found.open[:, group].any(-1) for group in groups], -1)
    widths = [
        basin(x, -np.where(np.isfinite(row), row, huge), float(np.log2(TOLERANCE)))
        if np.isfinite(row).any() and not _beside(int(np.nanargmin(row)), hidden)
        else np.nan
        for row, hidden in zip(loss, cut, strict=True)
    ]
    return Optima(
        axis,
        at,
        tuple(interval(one.parabola, minima[:, i], found.seeds) for i, one in enumerate(at)),
        shift,
        interval(
            float(exponent(found.sizes, parabolas)),
            exponent(found.sizes, minima + shift),
            found.seeds,
        ),
        interval(
            float(exponent(found.sizes, splines)),
            exponent(found.sizes, akima(x, drawn) + shift),
            found.seeds,
        ),
        compare_forms(found.sizes, parabolas) if forms else {},
        (float(x[0]), float(x[-1])),
        np.asarray(widths),
    )
