r"""Curvature radii of the loss along single parameters, layer by layer.

References:
  Gao and Zhong, `Study on the Large Batch Size Training of Neural Networks Based on the Second
  Order Gradient <https://arxiv.org/abs/2012.08795>`_, 2020 (equations 9, 17 and 25-28, figure 2)
"""

from typing import Annotated, Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from sbt.errors import UserError
from sbt.measure.noise import jackknife_error
from sbt.measure.registry import MEASUREMENTS, Found, Labelled, Subject
from sbt.measure.spectrum import diagonal_estimate, exact_diagonal
from sbt.measure.trees import Where, ravel, selected, unravel_by_leaf
from sbt.optim.base import one_of
from sbt.ranges import Range, check_number

Statistic = Literal["median", "trimmed", "mean", "harmonic"]

TRIM = Range(0, 0.5, open_high=True)  # share of the entries cut off at each end
GROUPS = 5  # of the random vectors, left out in turn
EXACT_PARAMETERS = 20_000  # more would take hours: two gradients each


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
      gradients: of the loss there, a tree of the same shapes.
      hessian_diagonal: of the selected parameters, shape ``(n,)``, from
        :func:`sbt.measure.exact_diagonal` or :func:`sbt.measure.diagonal_estimate`; an estimate's
        noise makes the smallest entries, and so the largest radii, arbitrary.

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
    one_of("statistic", statistic, get_args(Statistic))
    check_number("trim", trim, TRIM)
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
      gradients: of the loss there.
      hessian_diagonal: as for :func:`curvature_radii`.
      statistic: as for :func:`average_radius`.
      trim: likewise.

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


# --- measured on a run ---------------------------------------------------------------------------


@MEASUREMENTS.register("curvature_radius", cost="heavy", source="Gao & Zhong 2020, figure 2")
def curvature_radius(
    run: Subject,
    *,
    forms: tuple[Literal["parabola", "hutchinson", "exact"], ...] = ("parabola", "hutchinson"),
    samples: Annotated[int, Range(4, 10**6)] = 20,
    statistic: Statistic = "median",
    trim: Annotated[float, TRIM] = 0.1,
) -> Found:
    r"""Average curvature radius of every layer.

    The noise of Hutchinson's estimator goes into :math:`|h_i|`, so that the radius scatters and is
    biased, mostly towards small radii, and the more so the more of :math:`h_i` it drowns. Both are
    estimated by the jackknife over :math:`J` groups of random vectors: with :math:`R` the radius
    from all of them, :math:`R_{(j)}` without group :math:`j`, and :math:`\bar R` their mean,

    .. math:: \text{error} = \sqrt{\tfrac{J-1}{J} \textstyle\sum_j (R_{(j)} - \bar R)^2},
              \qquad \text{bias} = (J - 1)(\bar R - R)

    The value is not corrected by the bias; where either is not small against it, take more samples.

    Args:
      run: what is measured.
      forms: ``parabola``, :math:`|w_i/g_i|` (Gao & Zhong, equation 17), one gradient;
        ``hutchinson``, :math:`(1+g_i^2)^{3/2}/|h_i|` (equation 9) with the Hessian's diagonal from
        Hutchinson's estimator; ``exact``, the same with the diagonal itself, a Hessian-vector
        product over the split for every parameter: for small networks or single layers (``where``).
      samples: random vectors of ``hutchinson``, a Hessian-vector product over the split each
        (rounded up to groups of equal size).
      statistic: see :func:`average_radius`.
      trim: likewise.

    References:
      Efron & Tibshirani, An Introduction to the Bootstrap, 1993 (sections 11.2, 11.3, 11.5)
    """
    gradients = jax.grad(run.loss)(run.params)

    layers = tuple(path for path, taken in selected(run.params, run.where) if taken)

    def averages(diagonal: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Radius of each layer, and the share of its entries left out."""
        radii = layer_radii(
            run.params, gradients, diagonal, statistic=statistic, trim=trim, where=run.where
        ).values()
        shares = [radius.excluded / max(1, radius.size) for radius in radii]
        return jnp.stack([radius.value for radius in radii]), jnp.stack(shares)

    def measured(form: str) -> tuple[jax.Array, ...]:
        if form != "hutchinson":
            value, excluded = averages(_exact_diagonal(run) if form == "exact" else None)
            return value, jnp.zeros_like(value), jnp.zeros_like(value), excluded
        groups = _diagonals(run, samples)
        count, diagonal = len(groups), jnp.mean(groups, axis=0)
        value, excluded = averages(diagonal)
        rest = (count * diagonal - groups) / (count - 1)
        without = jax.lax.map(lambda diagonal: averages(diagonal)[0], rest)
        bias = (count - 1) * (jnp.mean(without, axis=0) - value)
        return value, jackknife_error(without), bias, excluded

    dims = (("radius_form", tuple(forms)), ("layer", layers))
    words = {
        "curvature_radius": f"curvature radius, {statistic} of the layer",
        "curvature_radius_error": "its standard error (jackknife)",
        "curvature_radius_bias": "its bias (jackknife), not taken off",
        "curvature_radius_excluded": "share of the layer left out of it",
    }
    columns = zip(*(measured(form) for form in forms))
    return {
        name: Labelled(jnp.stack(rows), dims, "", words[name]) for name, rows in zip(words, columns)
    }


def _diagonals(run: Subject, samples: int) -> jax.Array:
    """Independent estimates of the Hessian's diagonal from groups of random vectors, stacked."""
    groups = min(GROUPS, samples // 2)

    def estimate(group: jax.Array) -> jax.Array:
        key = jax.random.fold_in(run.key, group)
        return diagonal_estimate(
            run.loss, run.params, samples=-(-samples // groups), where=run.where, key=key
        ).value

    return jax.lax.map(estimate, jnp.arange(groups))


def _exact_diagonal(run: Subject) -> jax.Array:
    if run.size > EXACT_PARAMETERS:
        raise UserError(
            "forms",
            f"'exact' takes a Hessian-vector product for each of {run.size} parameters",
            f"use 'hutchinson', or select at most {EXACT_PARAMETERS} with config.measure.where",
        )
    return exact_diagonal(run.loss, run.params, run.where)
