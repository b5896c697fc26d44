r"""Gradient noise scale: the batch size at which gradient and noise are of one size.

.. math:: B_{\rm simple} = \frac{\operatorname{tr}\Sigma}{|G|^2}

with the full gradient :math:`G` and the covariance :math:`\Sigma` of per-example gradients; in
examples. The mean gradient of :math:`B` examples has :math:`E|G_B|^2 = |G|^2 +
\operatorname{tr}\Sigma / B`, so two batch sizes are enough to estimate both, without any
per-example gradient.

References:
  McCandlish, Kaplan, Amodei et al., `An Empirical Model of Large-Batch Training
  <https://arxiv.org/abs/1812.06162>`_, 2018 (appendix A)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from sbt.errors import UserError
from sbt.measure.example_gradients import Moments
from sbt.measure.split import split_size
from sbt.measure.trees import Where, check_finite, ravel


class NoiseScale(NamedTuple):
    """An estimate, of any shape."""

    value: jax.Array  # B_simple, examples; NaN where |G|^2 is not positive
    gradient_square: jax.Array  # |G|^2, may be negative: an estimate
    covariance_trace: jax.Array  # tr Sigma, may be negative
    standard_error: jax.Array | None = None  # of value, examples; where it is estimated


def as_noise_scale(gradient_square: jax.Array, covariance_trace: jax.Array) -> NoiseScale:
    """The ratio; NaN where the estimate of the squared gradient is not positive."""
    positive = gradient_square > 0
    ratio = covariance_trace / jnp.where(positive, gradient_square, 1)
    return NoiseScale(jnp.where(positive, ratio, jnp.nan), gradient_square, covariance_trace)


def square_norm(gradient: Any, where: Where = None) -> jax.Array:
    r"""Squared Euclidean norm :math:`|g|^2` of a gradient, in at least float32.

    Examples:
      >>> print(square_norm({'a': jnp.array([3.0]), 'b': jnp.array([4.0])}))
      25.0
    """
    return jnp.sum(jnp.square(ravel(gradient, where)[0]))


def noise_scale_from_two(
    small_square: ArrayLike,
    large_square: ArrayLike,
    small_batch: ArrayLike,
    large_batch: ArrayLike,
    *,
    population: int | None = None,
) -> NoiseScale:
    r"""Estimate from the squared gradient norms at two batch sizes :math:`b < B`.

    .. math::

      |G|^2 \approx \frac{B |G_B|^2 - b |G_b|^2}{B - b}, \qquad
      \operatorname{tr}\Sigma \approx \frac{|G_b|^2 - |G_B|^2}{1/b - 1/B}

    Both are unbiased where examples are drawn with replacement. Drawn without (an epoch),
    :math:`E|G_B|^2` lacks :math:`\operatorname{tr}\Sigma/N`; then pass ``population``, and
    :math:`\operatorname{tr}\Sigma / N` is added back (:math:`\Sigma` with divisor :math:`N - 1`).

    The ratio of two noisy estimates is neither unbiased nor sure to be positive: average numerator
    and denominator over steps first (:func:`update_noise_average`).

    Args:
      small_square: :math:`|G_b|^2`, better the mean over several batches.
      large_square: :math:`|G_B|^2`. It may be the mean of those small gradients.
      small_batch: :math:`b`, examples: the micro-batch, or a device's share.
      large_batch: :math:`B`, examples: the whole SGD batch.
      population: :math:`N`, if examples are drawn without replacement.

    Returns:
      Of the broadcast shape; all NaN where :math:`b = B`, as in a lane that does not accumulate.

    Examples:
      >>> found = noise_scale_from_two(5.0, 2.0, 10, 40)
      >>> print(found.gradient_square, found.covariance_trace, found.value)
      1.0 40.0 40.0
    """
    dtype = jnp.result_type(float)
    small, large, b, big = (
        jnp.asarray(x).astype(dtype) for x in (small_square, large_square, small_batch, large_batch)
    )
    apart = big != b
    gap = jnp.where(apart, big - b, jnp.nan)
    square = (big * large - b * small) / gap
    trace = (small - large) * (b * big) / gap
    if population is not None:
        square = square + trace / population
    return as_noise_scale(square, trace)


def noise_scale_from_accumulation(
    micro_squares: jax.Array,
    mean_square: ArrayLike,
    micro_batch: ArrayLike,
    count: ArrayLike,
    *,
    population: int | None = None,
) -> NoiseScale:
    r"""Estimate from one accumulated update: :math:`k` micro-batch gradients and their mean.

    Costs nothing but the norms. The micro-batches count as small, the SGD batch as large.

    Args:
      micro_squares: their :math:`k` squared norms, shape ``(k,)``, or the mean of them, a scalar.
      mean_square: squared norm of the mean gradient.
      micro_batch: :math:`g`, examples.
      count: :math:`k`; the SGD batch is :math:`k g`.
      population: see :func:`noise_scale_from_two`.

    Examples:
      >>> gradients = jnp.array([[2.0, 1.0], [0.0, 1.0], [1.0, 1.0]])  # three micro-batches of 4
      >>> squares = jnp.sum(gradients**2, axis=1)
      >>> mean_square = jnp.sum(gradients.mean(axis=0) ** 2)
      >>> found = noise_scale_from_accumulation(squares, mean_square, 4, 3)
      >>> print(f'{found.gradient_square:.4f} {found.covariance_trace:.4f} {found.value:.4f}')
      1.6667 4.0000 2.4000
    """
    g, k = jnp.asarray(micro_batch), jnp.asarray(count)
    small = jnp.mean(micro_squares)
    return noise_scale_from_two(small, mean_square, g, g * k, population=population)


def noise_scale_from_examples(moments: Moments, *, population: bool = True) -> NoiseScale:
    r"""Exact value, or an unbiased estimate, from per-example gradients.

    Args:
      moments: from :func:`sbt.measure.example_gradient_moments`.
      population: whether those examples are the whole training set (then this is the exact value at
        this point, :math:`\Sigma` with divisor :math:`N`), or a sample of it (then
        :math:`\operatorname{tr}\Sigma` takes divisor :math:`N - 1`, and :math:`|G|^2` loses
        :math:`\operatorname{tr}\Sigma / N`).

    Examples:
      >>> moments = Moments(jnp.array([1.0, 1.0]), jnp.array([3.0, 7.0]), jnp.asarray(6.0))
      >>> print(noise_scale_from_examples(moments).value)
      5.0
      >>> print(noise_scale_from_examples(moments, population=False).covariance_trace)
      12.0
    """
    square, trace = jnp.sum(jnp.square(moments.mean)), jnp.sum(moments.variance)
    if not population:
        trace = trace * moments.examples / (moments.examples - 1)
        square = square - trace / moments.examples
    return as_noise_scale(square, trace)


def noise_covariance_trace(
    moments: Moments, batch_size: ArrayLike, *, replacement: bool = False
) -> jax.Array:
    r"""Trace of the covariance of a mini-batch gradient: its mean squared distance from the full.

    .. math:: E|G_n - G|^2 = \frac{\operatorname{tr}\Sigma}{n}\,\frac{N - n}{N - 1}

    the last factor without replacement only.

    Args:
      moments: of the per-example gradients over the split.
      batch_size: :math:`n`, numbers of any shape.
      replacement: whether the examples of a batch are drawn with replacement.

    Examples:
      >>> moments = Moments(jnp.zeros(2), jnp.array([3.0, 7.0]), jnp.asarray(101.0))
      >>> print(noise_covariance_trace(moments, jnp.array([1, 101])))
      [10.  0.]
    """
    n = jnp.asarray(batch_size).astype(moments.mean.dtype)
    trace = jnp.sum(moments.variance) / n
    if replacement:
        return trace
    return trace * (moments.examples - n) / jnp.maximum(moments.examples - 1, 1)


def measure_noise_scale(
    batch_loss: Any,
    params: Any,
    arrays: Any,
    *,
    micro_batch: int,
    count: int = 8,
    repeats: int = 16,
    key: jax.Array | None = None,
    where: Where = None,
) -> NoiseScale:
    r"""Noise scale at one point from random batches: the ratio of averages over ``repeats``.

    Its standard error is the jackknife's, which leaves out each large batch in turn: with
    :math:`B_{(i)}` the estimate from all but the :math:`i`-th of :math:`R`,

    .. math:: \sqrt{\tfrac{R-1}{R} \textstyle\sum_i (B_{(i)} - \bar B_{(\cdot)})^2}

    A ratio's error is not normal: it reaches farther up than down.

    Works where per-example gradients do not exist (batch norm) or cost too much: batch norm then
    sees ``micro_batch`` examples.

    Args:
      batch_loss: ``batch_loss(params, batch)``, mean loss over a batch.
      params: the point, any tree.
      arrays: the training split; tree of arrays with one leading axis of examples.
      micro_batch: :math:`g`, examples of a small gradient.
      count: :math:`k \ge 2`; a large batch has :math:`k g` examples, drawn without replacement.
      repeats: number of large batches.
      key: typed key; None for ``jax.random.key(0)``.
      where: the parameters that count.

    Returns:
      ``value`` is NaN where even the average of :math:`|G|^2` is not positive, ``standard_error``
      where that happens with one batch left out, or ``repeats`` is 1: measure more batches, or
      larger ones. Cost: ``count * repeats`` gradients of ``micro_batch`` examples.

    Raises:
      UserError: for parameters that are not finite, a filter that selects nothing, or batches that
        the split does not have.

    References:
      Efron & Tibshirani, An Introduction to the Bootstrap, 1993 (section 11.5)
    """
    check_finite(params)
    size = split_size(arrays, micro_batch)
    if count < 2 or micro_batch * count > size or repeats < 1:
        raise UserError(
            "micro_batch, count, repeats",
            f"{repeats} batches of {count} times {micro_batch} of {size} examples",
            "use at least two micro-batches, and no more examples than there are",
        )
    arrays = jax.tree.map(jnp.asarray, arrays)
    point, unravel = ravel(params, where)
    key = jax.random.key(0) if key is None else key
    gradient = jax.grad(lambda x, batch: batch_loss(unravel(x), batch))

    def draw(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        chosen = jax.random.choice(
            jax.random.fold_in(key, i), size, (count, micro_batch), replace=False
        )

        def add(total: Any, indices: jax.Array) -> tuple[Any, jax.Array]:
            g = gradient(point, jax.tree.map(lambda a: a[indices], arrays))
            return total + g, jnp.sum(jnp.square(g))

        total, squares = lax.scan(add, jnp.zeros_like(point), chosen)
        return jnp.mean(squares), jnp.sum(jnp.square(total / count))

    squares = jnp.stack(lax.map(draw, jnp.arange(repeats)))  # shape=(2, repeats): small, large
    total = jnp.sum(squares, axis=1, keepdims=True)

    def estimate(means: jax.Array) -> NoiseScale:
        small, large = means
        return noise_scale_from_two(small, large, micro_batch, micro_batch * count, population=size)

    without = estimate((total - squares) / max(1, repeats - 1)).value
    error = jnp.sqrt((repeats - 1) * jnp.var(without)) if repeats > 1 else jnp.nan
    found = estimate(total[:, 0] / repeats)
    return found._replace(standard_error=jnp.asarray(error, found.value.dtype))
