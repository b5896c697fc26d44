r"""The critical batch size, by two definitions that differ by a factor of three to five.

Both rest on one curve of updates S and examples E = S m to a target at batch size m,

.. math::

  S = S_{\min}\Bigl(1 + \frac{B_{\mathrm{crit}}}{m}\Bigr), \qquad
  \Bigl(\frac{S}{S_{\min}} - 1\Bigr)\Bigl(\frac{E}{E_{\min}} - 1\Bigr) = 1, \qquad
  E_{\min} = S_{\min} B_{\mathrm{crit}}

- **McCandlish et al. (2018)**: :math:`B_{\mathrm{crit}} = E_{\min}/S_{\min}`, where twice the
  fewest updates and twice the fewest examples are needed.
- **Zhang et al. (2024)**, the 20 % definition: the batch size at which updates exceed by a fifth
  what linear scaling from an efficient one :math:`B_{\mathrm{opt}}` promises,
  :math:`B^* S(B^*) = 1.2\, B_{\mathrm{opt}} S(B_{\mathrm{opt}})`; with :math:`S = a + b/m` that is
  :math:`B^* = b/(5a) + 1.2\, B_{\mathrm{opt}}`. They take 256; here it is the batch size of the
  grid that needs fewest examples, unless another is given.

References:
  McCandlish, Kaplan and Amodei, *An Empirical Model of Large-Batch Training*, 2018,
  arXiv:1812.06162. Zhang et al., *How Does Critical Batch Size Scale in Pre-training?*, 2024,
  arXiv:2410.21676. Shallue et al., JMLR 20:112, 2019 (the three regions).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sbt.advice.targets import Reached
from sbt.intervals import Interval, interval, seed_draws

# The hyperbola's local slope is −1/(1 + m/B_crit): −0.8 at a quarter of B_crit, −0.2 at four times.
PERFECT, DIMINISHING, NONE = "perfect scaling", "diminishing returns", "no gain"
STEEP, FLAT = -0.8, -0.2
FEWEST_SIZES = 3  # two parameters and a point to tell whether they fit
BEYOND = 64.0  # times outside the grid, where a B_crit is not sought any more
BAD_FIT = 0.10  # root mean square of ln S against the curve that is still called good
BAD_AGAINST_SEEDS = 2.0  # ... or so many times the standard error of ln S over seeds


class Hyperbola(NamedTuple):
    """The curve that fits best; every field has the leading shape of the steps given.

    Attributes:
      s_min: fewest updates, at infinite batch.
      b_crit: McCandlish's critical batch size, in examples.
      rms: root mean square of the residuals of ln S.
      beyond: -1 or 1 where the best B_crit lies more than 64 times below or above the grid: the
        data do not bend, and say only that much; else 0.
    """

    s_min: np.ndarray
    b_crit: np.ndarray
    rms: np.ndarray
    beyond: np.ndarray

    @property
    def e_min(self) -> np.ndarray:
        """Fewest examples, at vanishing batch."""
        return self.s_min * self.b_crit

    def steps(self, m: np.ndarray) -> np.ndarray:
        """Updates of batch sizes, those as a last dimension."""
        s_min, b_crit = np.asarray(self.s_min)[..., None], np.asarray(self.b_crit)[..., None]
        return s_min * (1 + b_crit / np.asarray(m, float))


def fit_hyperbola(m: np.ndarray, steps: np.ndarray) -> Hyperbola:
    """Least squares of ln S, in which a factor weighs the same at every batch size.

    For a given B_crit the best S_min is a mean, which leaves one unknown, found by zooming in.

    Args:
      m: batch sizes.
      steps: ``(..., len(m))`` updates to the target; those that are infinite are left out.

    Returns:
      The curves; NaN where fewer than three batch sizes have a number.
    """
    m, steps = np.asarray(m, float), np.asarray(steps, float)
    known = np.isfinite(steps) & (steps > 0)
    count = known.sum(-1)
    y = np.log(np.where(known, steps, 1.0))
    ends = np.log([m.min() / BEYOND, m.max() * BEYOND])

    def residuals(log_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and root mean square of ln S − ln(1 + B/m), of candidates in a last dimension."""
        r = y[..., None, :] - np.log1p(np.exp(log_b)[..., None] / m)
        mask = known[..., None, :]
        n = np.maximum(count, 1)[..., None]
        mean = np.where(mask, r, 0).sum(-1) / n
        off = np.where(mask, r - mean[..., None], 0)
        return mean, np.sqrt((off**2).sum(-1) / n)

    points = 129
    step = (ends[1] - ends[0]) / (points - 1)
    best = np.broadcast_to((ends[0] + ends[1]) / 2, steps.shape[:-1])
    offsets = np.linspace(-(points // 2), points // 2, points)
    for _ in range(16):
        tried = np.clip(best[..., None] + step * offsets, *ends)
        at = residuals(tried)[1].argmin(-1)
        best = np.take_along_axis(tried, at[..., None], -1)[..., 0]
        step, offsets = step / 4, np.linspace(-4, 4, 9)
    mean, rms = (part[..., 0] for part in residuals(best[..., None]))
    fits = count >= FEWEST_SIZES
    edge = (best >= ends[1] - 1e-3).astype(int) - (best <= ends[0] + 1e-3)
    return Hyperbola(
        np.where(fits, np.exp(mean), np.nan),
        np.where(fits, np.exp(best), np.nan),
        np.where(fits, rms, np.nan),
        np.where(fits, edge, 0),
    )


def twenty_percent(hyperbola: Hyperbola, reference: np.ndarray | float) -> np.ndarray:
    """Zhang's critical batch size against an efficient one, ``reference``.

    >>> table = Hyperbola(np.array(1293.8), np.array(2.8343e6 / 1293.8), np.array(0), np.array(0))
    >>> print(f"{twenty_percent(table, 256):.1f}")
    745.3
    """
    return hyperbola.b_crit / 5 + 1.2 * np.asarray(reference, float)


def local_slopes(m: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """d log S / d log m between neighbours, one fewer than batch sizes; NaN beside a censored one.

    −1: twice the batch halves the updates; 0: it does nothing.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.diff(np.log(steps)) / np.diff(np.log(m))
    return np.where(np.isfinite(found), found, np.nan)


def region(slope: float) -> str:
    """Which of Shallue's three regions a local slope lies in; empty where there is none."""
    if np.isnan(slope):
        return ""
    return PERFECT if slope <= STEEP else NONE if slope >= FLAT else DIMINISHING


@dataclass(frozen=True)
class Critical:
    """Both critical batch sizes of a grid, with intervals over seeds.

    Attributes:
      curve: through the batch sizes that reach the target.
      b_crit: McCandlish's.
      twenty: Zhang's, against ``reference``.
      reference: the efficient batch size.
      s_min, e_min: fewest updates and examples.
      examples: of every batch size, fewest examples with the interval.
      sizes: how many batch sizes the curve goes through.
      noise: standard error of ln S over seeds, root mean square over batch sizes; NaN of one seed.
    """

    curve: Hyperbola
    b_crit: Interval
    twenty: Interval
    reference: float
    s_min: Interval
    e_min: Interval
    examples: tuple[Interval, ...]
    sizes: int
    noise: float

    @property
    def fits(self) -> bool:
        """Whether the hyperbola describes the grid: to 10 %, or twice what seeds explain."""
        return float(self.curve.rms) <= np.nanmax([BAD_FIT, BAD_AGAINST_SEEDS * self.noise])

    @property
    def known(self) -> bool:
        """Whether there is a curve, and it bends within reach of the grid."""
        return bool(np.isfinite(self.curve.b_crit)) and int(self.curve.beyond) == 0


def critical(found: Reached, reference: float | None = None) -> Critical:
    """Fits the curve to a grid, and to draws of its seeds.

    Args:
      found: examples to a target.
      reference: efficient batch size of the 20 % definition; by default the one of the grid that
        needs fewest examples.
    """
    seeds = found.seeds
    drawn = found.over(seed_draws(seeds)).min(-1)  # (draws, sizes) examples
    fewest = found.fewest
    efficient = float(found.sizes[int(np.argmin(fewest))]) if reference is None else reference
    # A bound is no point of a curve.
    steps = np.where(found.resolved, 1.0, np.inf) / found.sizes
    curve = fit_hyperbola(found.sizes, fewest * steps)
    curves = fit_hyperbola(found.sizes, drawn * steps)

    def told(value: np.ndarray, over: np.ndarray) -> Interval:
        return interval(float(value), over, seeds, log=True)

    examples = tuple(told(fewest[i], drawn[:, i]) for i in range(len(fewest)))
    steady = np.flatnonzero(found.resolved & np.isfinite(drawn).all(0))
    noise = np.nan
    if seeds > 1 and steady.size:
        noise = float(np.sqrt(np.mean(np.var(np.log(drawn[:, steady]), axis=0))))
    return Critical(
        curve,
        told(curve.b_crit, curves.b_crit),
        told(twenty_percent(curve, efficient), twenty_percent(curves, efficient)),
        efficient,
        told(curve.s_min, curves.s_min),
        told(curve.e_min, curves.e_min),
        examples,
        int(found.resolved.sum()),
        noise,
    )
