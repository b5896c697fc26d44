r"""Curvature radii of the loss along single parameters, layer by layer.

References:
  Gao and Zhong, `Study on the Large Batch Size Training of Neural Networks Based on the Second
  Order Gradient <https://arxiv.org/abs/2012.08795>`_, 2020 (equations 9, 17 and 25-28, figure 2)
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from sbt.errors import UserError
from sbt.measure.batch_gradients import folded_normal_mean
from sbt.measure.example_gradients import Moments
from sbt.measure.trees import Where, ravel, unravel_by_leaf

Statistic = Literal["median", "trimmed", "mean", "harmonic"]


def curvature_radii(
    params: Any, gradients: Any, hessian_diagonal: jax.Array | None = None, where: Where = None
) -> jax.Array:
    r"""Curvature radius of the loss along every parameter.

    With the Hessian's diagonal :math:`h` it is that of the curve :math:`w_i \mapsto L` (equation
    9), without it the estimate from a parabola with its minimum at 0 (equation 17):

    .. math:: R_i = \frac{(1 + g_i^2)^{3/2}}{|h_i|} \qquad\text{or}\qquad
              R_i \approx \left|\frac{w_i}{g_i}\right|

    Infinite where nothing depends on the parameter, as weights of pixels that are always black;
    NaN for 0/0; 0 for zero weights under equation 17, whatever the curvature.

    Args:
      params: the point, any tree.
      gradients: of the loss there, a tree of the same shapes.
      hessian_diagonal: of the selected parameters, shape ``(n,)``, from
        :func:`sbt.measure.exact_diagonal` or :func:`sbt.measure.diagonal_estimate`; an estimate's
        noise makes the smallest entries, and so the largest radii, arbitrary.
      where: the parameters that count.

    Returns:
      Shape ``(n,)``, in the order of :func:`sbt.measure.ravel`; dimensionless only in the sense of
      the paper, which draws loss and parameter on one scale.

    Examples:
      >>> print(curvature_radii(jnp.array([1.0, 2.0]), jnp.array([-0.5, 0.0])))
      [ 2. inf]
      >>> print(curvature_radii(jnp.zeros(1), jnp.zeros(1), jnp.array([-4.0])))
      [0.25]
    """
    g = ravel(gradients, where)[0]
    if g.shape != (weights := ravel(params, where)[0]).shape:
        raise UserError(
            "gradients",
            f"{g.size} numbers for {weights.size} parameters",
            "give a tree of the same shapes as params",
        )
    if hessian_diagonal is None:
        return jnp.abs(weights / g)
    return (1 + jnp.square(g)) ** 1.5 / jnp.abs(hessian_diagonal.astype(g.dtype))


class LayerRadius(NamedTuple):
    """Average curvature radius of one layer."""

    value: jax.Array  # shape=(), NaN where no entry is left
    excluded: jax.Array  # shape=(), entries that did not take part
    size: int  # entries of the layer


def average_radius(
    radii: jax.Array, statistic: Statistic = "median", trim: float = 0.1
) -> LayerRadius:
    r"""Average of radii, of which some are infinite and many are huge.

    A plain mean says little: 7.7e6 against a median of 214 in one case. ``'median'``, ``'trimmed'``
    (mean without the ``trim`` smallest and largest shares) and ``'mean'`` leave out entries that
    are infinite or not a number. ``'harmonic'``, :math:`d / \sum_i 1/R_i`, is PercentDelta's
    (there an infinite radius counts, as :math:`1/R = 0`).

    Args:
      radii: any shape.
      statistic: as above.
      trim: share cut off at each end by ``'trimmed'``, below 1/2.

    Raises:
      UserError: for another statistic, or a share outside [0, 0.5).

    Examples:
      >>> radii = jnp.array([1.0, 2.0, 3.0, 1000.0, jnp.inf])
      >>> for statistic in ('median', 'trimmed', 'mean', 'harmonic'):
      ...     found = average_radius(radii, statistic, trim=0.25)
      ...     print(f'{statistic} {found.value:.2f}, without {found.excluded}')
      median 2.50, without 1
      trimmed 2.50, without 3
      mean 251.50, without 1
      harmonic 2.73, without 0
    """
    if statistic not in ("median", "trimmed", "mean", "harmonic"):
        raise UserError(
            "statistic", f"unknown: {statistic!r}", "use 'median', 'trimmed', 'mean' or 'harmonic'"
        )
    if not 0 <= trim < 0.5:
        raise UserError("trim", f"{trim} of the entries at each end", "use 0 to 0.5")
    radii = radii.ravel()
    if radii.size == 0:
        return LayerRadius(jnp.full((), jnp.nan, radii.dtype), jnp.zeros((), jnp.int32), 0)
    if statistic == "harmonic":
        undefined = jnp.isnan(radii)
        inverse = jnp.where(undefined, 0, 1 / jnp.where(undefined, 1, radii))
        excluded = jnp.sum(undefined)
        value = (radii.size - excluded).astype(radii.dtype) / jnp.sum(inverse)
        return LayerRadius(value, excluded, radii.size)
    finite = jnp.isfinite(radii)
    count = jnp.sum(finite)
    if statistic == "median":
        value = jnp.nanmedian(jnp.where(finite, radii, jnp.nan))
        return LayerRadius(value, radii.size - count, radii.size)
    cut = jnp.zeros_like(count)
    if statistic == "trimmed":
        cut = jnp.floor(trim * count.astype(radii.dtype)).astype(count.dtype)
    ordered = jnp.sort(jnp.where(finite, radii, jnp.inf))
    place = jnp.arange(radii.size)
    kept = (place >= cut) & (place < count - cut)
    value = jnp.mean(ordered, where=kept)
    return LayerRadius(value, radii.size - jnp.sum(kept), radii.size)


def layer_radii(
    params: Any,
    gradients: Any,
    hessian_diagonal: jax.Array | None = None,
    *,
    statistic: Statistic = "median",
    trim: float = 0.1,
    where: Where = None,
) -> dict[str, LayerRadius]:
    r"""Average curvature radius of every leaf (the bars of the paper's figure 2).

    How the paper averaged is not stated; see :func:`average_radius` for the choices.

    Args:
      params: the point, any tree.
      gradients: of the loss there.
      hessian_diagonal: as for :func:`curvature_radii`.
      statistic: as for :func:`average_radius`.
      trim: likewise.
      where: the leaves that count.

    Returns:
      Path of the leaf -> average, with the number of entries left out.

    Examples:
      >>> params = {'bias': jnp.zeros(2), 'kernel': jnp.array([[1.0, 2.0, 3.0]])}
      >>> gradients = {'bias': jnp.ones(2), 'kernel': jnp.array([[0.1, 0.1, 0.0]])}
      >>> for path, radius in layer_radii(params, gradients).items():
      ...     print(f'{path}: {radius.value:.1f}, {radius.excluded} of {radius.size} left out')
      bias: 0.0, 0 of 2 left out
      kernel: 15.0, 1 of 3 left out
    """
    radii = curvature_radii(params, gradients, hessian_diagonal, where)
    parts = unravel_by_leaf(params, radii, where)
    return {path: average_radius(part, statistic, trim) for path, part in parts.items()}


def parabola_distance(gradients: jax.Array, hessian_diagonal: jax.Array) -> jax.Array:
    r"""Distance :math:`|d_i| = |g_i / h_i|` to the minimum of each parameter's parabola.

    Equations 25 and 26, with :math:`h_i = 2 a_i`; infinite without curvature. Where the curvature
    is negative the extremum is a maximum.

    Examples:
      >>> print(parabola_distance(jnp.array([1.0, -3.0]), jnp.array([2.0, 6.0])))
      [0.5 0.5]
    """
    return jnp.abs(gradients / hessian_diagonal)


def expected_parabola_distance(
    moments: Moments, hessian_diagonal: jax.Array, batch_size: ArrayLike
) -> jax.Array:
    r"""Expected :func:`parabola_distance` that a mini-batch of :math:`n` examples sees.

    .. math:: E|d_i| = \frac{E|N(\mu_i, \sigma_i^2/n)|}{|h_i|} =
              \frac{\sigma_i}{|h_i|}\sqrt{\frac{2}{\pi n}} \ \text{ for } \mu_i = 0

    (equation 28, whose printed form is :math:`\sqrt2` too large). Batches drawn with replacement.

    Args:
      moments: of the per-example gradients.
      hessian_diagonal: shape ``(n,)``, of the same parameters.
      batch_size: :math:`n`, a number.

    Examples:
      >>> moments = Moments(jnp.zeros(1), jnp.array([4.0]), jnp.asarray(1000.0))
      >>> print(f'{expected_parabola_distance(moments, jnp.array([2.0]), 100)[0]:.4f}')
      0.0798
    """
    n = jnp.asarray(batch_size).astype(moments.mean.dtype)
    std = jnp.sqrt(moments.variance / n)
    return folded_normal_mean(moments.mean, std) / jnp.abs(hessian_diagonal)
