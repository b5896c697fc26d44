r"""The trade-off of steps against examples, and the critical batch size that describes it.

To reach a given loss with batch size :math:`B` takes :math:`S` updates and :math:`E = B S`
examples, with

.. math:: \left(\frac{S}{S_{\min}} - 1\right) \left(\frac{E}{E_{\min}} - 1\right) = 1
          \quad\Longleftrightarrow\quad S = S_{\min} + \frac{E_{\min}}{B}

and :math:`B_{\rm crit} = E_{\min} / S_{\min}`: there it takes twice the least steps and twice the
least examples.

References:
  McCandlish, Kaplan, Amodei et al., `An Empirical Model of Large-Batch Training
  <https://arxiv.org/abs/1812.06162>`_, 2018
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax.typing import ArrayLike

from sbt.errors import UserError


class CriticalBatch(NamedTuple):
    """A fit of steps to a target against batch size."""

    critical_batch: float  # B_crit, examples
    min_steps: float  # S_min, updates
    min_examples: float  # E_min
    relative_error: float  # standard error of log B_crit; NaN for two points, inf at an end
    residual: float  # root mean square of log S about the fit
    used: int  # batch sizes that reached the target


def fit_critical_batch(batch_sizes: ArrayLike, steps: ArrayLike) -> CriticalBatch:
    r"""Fits :math:`S = S_{\min} + E_{\min}/B` to measured steps, in relative terms.

    Least squares of :math:`\log S`, since steps span decades. Batch sizes that never reached the
    target (steps not finite) are left out. Learning rates should be tuned for each batch size.

    If all points lie on perfect scaling (steps fall as :math:`1/B`) the critical batch is beyond
    them, and infinite here; if larger batches save no step at all, it is 0.

    Args:
      batch_sizes: :math:`B`, examples.
      steps: :math:`S`, updates until the target (a loss or an accuracy) is reached.

    Returns:
      The fit; plain numbers.

    Raises:
      UserError: for fewer than two batch sizes that reached the target, or numbers that are not
        positive.

    Examples:
      >>> batch = np.array([8, 32, 128, 512, 2048])
      >>> fit = fit_critical_batch(batch, 500 * (1 + 100 / batch))
      >>> print(f'{fit.critical_batch:.1f} {fit.min_steps:.1f} {fit.min_examples:.0f}')
      100.0 500.0 50000
    """
    b, s = (np.asarray(x, np.float64).ravel() for x in (batch_sizes, steps))
    if b.shape != s.shape:
        raise UserError("steps", f"{s.size} for {b.size} batch sizes", "give one for each")
    reached = np.isfinite(s)
    b, s = b[reached], s[reached]
    if len(np.unique(b)) < 2:
        raise UserError(
            "steps",
            f"{len(np.unique(b))} batch sizes reached the target",
            "two are the least: choose a target that more of them reach",
        )
    if np.any(b <= 0) or np.any(s <= 0):
        raise UserError("batch_sizes, steps", "not all are positive", "count examples and updates")
    # Relative residuals are linear in the unknowns, and close to those of the logarithms.
    linear, _ = scipy.optimize.nnls(np.stack([1 / s, 1 / (b * s)], axis=1), np.ones_like(s))

    def misfit(logs: np.ndarray) -> np.ndarray:
        return np.log(np.exp(logs[0]) + np.exp(logs[1]) / b) - np.log(s)

    if np.any(linear == 0):
        with np.errstate(divide="ignore"):
            logs = np.log(linear)
            critical = float(np.exp(logs[1] - logs[0]))
        steps_end, examples_end = (float(x) for x in linear)
        misfits = _rms(misfit(logs))
        return CriticalBatch(critical, steps_end, examples_end, np.inf, misfits, len(b))
    fit = scipy.optimize.least_squares(misfit, np.log(linear), xtol=1e-12, ftol=1e-12, gtol=1e-12)
    error = np.nan
    if len(b) > 2:
        covariance = np.linalg.inv(fit.jac.T @ fit.jac) * np.sum(fit.fun**2) / (len(b) - 2)
        contrast = np.array([-1.0, 1.0])
        error = float(np.sqrt(max(contrast @ covariance @ contrast, 0)))
    least_steps, least_examples = (float(x) for x in np.exp(fit.x))
    critical = least_examples / least_steps
    return CriticalBatch(critical, least_steps, least_examples, error, _rms(fit.fun), len(b))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def relative_gain(batch_size: ArrayLike, noise_scale: ArrayLike) -> jax.Array:
    r"""Share :math:`1/(1 + B_{\rm noise}/B)` of what a noiseless step could gain.

    It holds for the largest decrease of the loss in one step, :math:`\Delta L(B) = \Delta L_{\max}
    / (1 + B_{\rm noise}/B)`, and for the learning rate that brings it, :math:`\epsilon_{\rm opt}(B)
    = \epsilon_{\max} / (1 + B_{\rm noise}/B)`.

    Examples:
      >>> print(relative_gain(jnp.array([10.0, 90.0, 810.0]), 90.0))
      [0.1 0.5 0.9]
    """
    b, noise = (jnp.asarray(x).astype(float) for x in (batch_size, noise_scale))
    return b / (b + noise)
