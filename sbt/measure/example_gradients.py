r"""Mean and variance of the gradients of single examples, over a whole split."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sbt.measure.split import split_size
from sbt.measure.trees import Where, check_finite, fast, ravel

ExampleLoss = Callable[[Any, Any], jax.Array]
"""``(params, example) -> scalar``; an example has no leading axis."""


class Moments(NamedTuple):
    r"""Moments of the per-example gradients :math:`g^k`, entry by entry."""

    mean: jax.Array  # shape=(n,), mu_i: the gradient of the mean loss
    variance: jax.Array  # shape=(n,), sigma_i^2, divided by N: the split is the population
    examples: jax.Array  # shape=(), N, as a float


def example_gradient_moments(
    example_loss: ExampleLoss,
    params: Any,
    examples: Any,
    *,
    chunk: int = 64,
    where: Where = None,
) -> Moments:
    r"""Mean and variance of every parameter's per-example gradient.

    .. math::

      \mu_i = \frac1N \sum_k g_i^k, \qquad \sigma_i^2 = \frac1N \sum_k (g_i^k - \mu_i)^2

    One pass over the split, ``chunk`` examples at a time, whose moments are merged by Chan's
    formula: there is no difference of two large sums, which would lose the variance to rounding.

    A net whose examples see each other (batch norm on batch statistics) has no per-example
    gradient: close ``example_loss`` over running statistics. Dropout must be off, or keyed by
    example.

    Args:
      example_loss: loss of one example.
      params: the point, any tree.
      examples: tree of arrays with one leading axis of examples.
      chunk: examples differentiated at a time; memory of as many gradients.
      where: the parameters that count, see :data:`sbt.measure.Where`.

    Returns:
      Vectors in the order of :func:`sbt.measure.ravel`. Can be mapped over lanes.

    Raises:
      UserError: for parameters that are not finite, a filter that selects nothing, or arrays whose
        leading axes differ.

    Examples:
      >>> found = example_gradient_moments(lambda w, x: 0.5 * (w - x) ** 2, 0.0, jnp.arange(5.0))
      >>> print(found.mean, found.variance)
      [-2.] [2.]

    References:
      Chan, Golub and LeVeque, `Algorithms for Computing the Sample Variance
      <https://doi.org/10.1080/00031305.1983.10483115>`_, 1983
    """
    check_finite(params)
    size = split_size(examples, chunk)
    examples = jax.tree.map(jnp.asarray, examples)
    point, unravel = ravel(params, where)
    length = min(chunk, size)
    full, rest = divmod(size, length)
    of_one = fast(example_loss, "im2col")
    gradients = jax.vmap(
        jax.grad(lambda x, example: of_one(unravel(x), example)),
        in_axes=(None, 0),
    )

    def of_chunk(start: Any, length: int) -> Moments:
        part = jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, start, length), examples)
        g = gradients(point, part)
        return Moments(jnp.mean(g, axis=0), jnp.var(g, axis=0), jnp.asarray(length, g.dtype))

    def merge(i: jax.Array, total: Moments) -> Moments:
        return merge_moments(total, of_chunk(i * length, length))

    total = of_chunk(0, length)
    if full > 1:
        total = lax.fori_loop(1, full, merge, total)
    return merge_moments(total, of_chunk(full * length, rest)) if rest else total


def merge_moments(a: Moments, b: Moments) -> Moments:
    """Moments of two disjoint sets of examples together."""
    examples = a.examples + b.examples
    share = b.examples / examples
    gap = b.mean - a.mean
    variance = (1 - share) * a.variance + share * b.variance
    return Moments(a.mean + share * gap, variance + share * (1 - share) * jnp.square(gap), examples)
