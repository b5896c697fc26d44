r"""Intervals over few seeds: the bootstrap's spread, widened by Student's factor.

Percentiles of a bootstrap over n seeds are too narrow where n is small: what is drawn has the
variance of a population of n, and its quantiles are not those of a mean of n. For a mean of normal
numbers both are mended exactly by

.. math:: \hat\theta \pm t_{n-1,\,0.975} \sqrt{\frac{n}{n-1}}\; \mathrm{sd}_{\text{boot}}

and tests hold its coverage for the numbers here, too. Every draw takes the same seeds at every
batch size and in every cell: seeds are paired, and what one changes everywhere drops out.
"""

import itertools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

MOST_DRAWS = 2000
FEWER_DRAWS = 400  # a standard deviation of so many is known to 4 %
LEAST_KNOWN = 0.9  # of the draws must have the number, else its interval is not known


class Interval(NamedTuple):
    """A number of a grid, and its 95 % interval over seeds; infinite or NaN: none is known."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        known = np.isfinite(self.low) and np.isfinite(self.high)
        return f"{self.value:.3g}" + f" [{self.low:.3g}, {self.high:.3g}]" * bool(known)


def draws(seeds: int) -> np.ndarray:
    """Lists of seeds with replacement, ``(draws, seeds)``: all, or ``MOST_DRAWS`` random ones."""
    if seeds**seeds <= MOST_DRAWS:
        return np.asarray(list(itertools.product(range(seeds), repeat=seeds)))
    return np.random.default_rng(0).integers(0, seeds, (MOST_DRAWS, seeds))


def seed_draws(seeds: int) -> np.ndarray:
    """Seeds drawn with replacement, ``(draws, seeds)``; of one seed the seed itself."""
    return draws(seeds)[:FEWER_DRAWS]


def interval(value: float, drawn: np.ndarray, seeds: int, *, log: bool = False) -> Interval:
    """A number with its 95 % interval.

    Args:
      value: of all seeds.
      drawn: ``(draws,)`` the number of every draw; NaN or infinite where it has none.
      seeds: how many there are.
      log: whether the interval is symmetric in the logarithm, for numbers that are positive.

    Returns:
      The number; its ends are NaN of one seed, or where more than a tenth of the draws have none.
    """
    drawn = np.asarray(drawn, float)
    known = np.isfinite(drawn) & ((drawn > 0) | (not log))
    if seeds < 2 or known.mean() < LEAST_KNOWN or not np.isfinite(value):
        return Interval(float(value), np.nan, np.nan)
    spread = np.std(np.log(drawn[known]) if log else drawn[known])
    reach = float(_student(seeds - 1) * np.sqrt(seeds / (seeds - 1)) * spread)
    if log:
        return Interval(float(value), float(value * np.exp(-reach)), float(value * np.exp(reach)))
    return Interval(float(value), float(value - reach), float(value + reach))


def student(values: npt.ArrayLike) -> list[Interval]:
    """Means over the first axis, one value a seed, with Student's interval; infinite for one."""
    each = np.asarray(values, float)
    seeds = len(each)
    if seeds < 2:
        return [Interval(float(v), -np.inf, np.inf) for v in each.mean(0)]
    reach = _student(seeds - 1) * each.std(0, ddof=1) / np.sqrt(seeds)
    return [
        Interval(float(v), float(v - r), float(v + r))
        for v, r in zip(each.mean(0), reach, strict=True)
    ]


def lead(one: npt.ArrayLike, other: npt.ArrayLike) -> Interval:
    """By how much some numbers exceed others on average, seed by seed.

    Args:
      one, other: ``(seeds,)`` each, of the same seeds; a seed without two finite numbers is left
        out.

    Returns:
      The mean of the differences, with Student's interval; NaN of no seed.
    """
    gaps = np.asarray(one, float) - np.asarray(other, float)
    gaps = gaps[np.isfinite(gaps)]
    return student(gaps[:, None])[0] if gaps.size else Interval(np.nan, np.nan, np.nan)


def _student(degrees: int) -> float:
    """The 0.975 quantile of Student's t."""
    from scipy import special  # a tenth of a second that most commands do not need

    return float(special.stdtrit(degrees, 0.975))
