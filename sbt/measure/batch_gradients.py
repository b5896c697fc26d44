r"""Size of a mini-batch gradient against the batch size: measured, and predicted.

Gao and Zhong explain the large-batch gap by gradients that shrink as :math:`1/\sqrt n`. Their
equations 3, 4, 6 and 28 are misprinted (by :math:`\sqrt2`, and by a factor n in a density); what
follows is derived anew. The mean of :math:`n` per-example gradients of parameter :math:`i` is
taken as normal, :math:`N(\mu_i, s_i^2)` with :math:`s_i = \sigma_i/\sqrt n`, so its magnitude is
*folded* normal.

References:
  Gao and Zhong, `Study on the Large Batch Size Training of Neural Networks Based on the Second
  Order Gradient <https://arxiv.org/abs/2012.08795>`_, 2020 (equations 1-8, figures 3, 4 and 7)
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import erf
from jax.typing import ArrayLike

from sbt.errors import UserError
from sbt.measure.example_gradients import Moments
from sbt.measure.split import over_split, split_size
from sbt.measure.trees import Where, check_finite, ravel

ROOT_TWO_OVER_PI = math.sqrt(2 / math.pi)  # mean of |N(0, 1)|, 0.798


def folded_normal_mean(mean: ArrayLike, std: ArrayLike) -> jax.Array:
    r"""Expected magnitude of a normal variable,

    .. math:: E|N(\mu, s^2)| = s\sqrt{\tfrac2\pi}\, e^{-\mu^2/2s^2}
              + \mu\, \mathrm{erf}\!\left(\frac{\mu}{\sqrt2\, s}\right)

    which is :math:`|\mu|` for :math:`s = 0`.

    Examples:
      >>> mean, std = jnp.array([0.0, 2.0, -2.0]), jnp.array([1.0, 1.0, 0.0])
      >>> print([f'{m:.4f}' for m in folded_normal_mean(mean, std)])
      ['0.7979', '2.0170', '2.0000']
    """
    mu, s = jnp.asarray(mean), jnp.asarray(std)
    ratio = mu / jnp.where(s > 0, s, 1)
    bell = s * ROOT_TWO_OVER_PI * jnp.exp(-0.5 * jnp.square(ratio))
    return jnp.where(s > 0, bell + mu * erf(ratio / math.sqrt(2)), jnp.abs(mu))


class GradientPrediction(NamedTuple):
    """Mean over parameters of the expected magnitude of a mini-batch gradient."""

    folded: jax.Array  # shape of the batch sizes; E|g| from every parameter's mean and variance
    zero_mean: jax.Array  # the same with all means zero: 0.798 sigma / sqrt(n)
    floor: jax.Array  # shape=(), mean |full gradient|: what is left as n grows


def predict_mean_abs_gradient(
    moments: Moments, batch_sizes: ArrayLike, *, replacement: bool = False
) -> GradientPrediction:
    r"""Predicts :math:`\frac1d\sum_i E|g_i|` of a mini-batch of :math:`n` examples.

    Without replacement (as training draws) :math:`s_i^2 = \frac{\sigma_i^2}{n}\frac{N-n}{N-1}`,
    which ends at 0 for the whole split. The gradient does not vanish as :math:`n` grows: it goes to
    the mean magnitude of the full gradient.

    Validity: the normal approximation is good near initialisation or at large n. Trained nets have
    heavy-tailed per-example gradients (most examples give next to none), and the prediction is too
    large at small n, by a factor of 3 at n = 1; there 0.798 σ/√n acts as an upper bound. Plot
    prediction and measurement together.

    Args:
      moments: of the per-example gradients over the split.
      batch_sizes: :math:`n`, a number or an array; at most :math:`N` without replacement.
      replacement: whether the examples of a batch are drawn with replacement.

    Returns:
      Predictions of the shape of ``batch_sizes``, in units of the gradient.

    Examples:
      >>> moments = Moments(jnp.array([0.1]), jnp.array([4.0]), jnp.asarray(10000.0))
      >>> found = predict_mean_abs_gradient(moments, jnp.array([1, 100, 10000]))
      >>> print([f'{value:.3f}' for value in found.folded], found.floor)
      ['1.598', '0.178', '0.100'] 0.1
      >>> print([f'{value:.3f}' for value in found.zero_mean])
      ['1.596', '0.159', '0.000']
    """
    n = jnp.asarray(batch_sizes).astype(moments.mean.dtype)
    shrink = jnp.sqrt(1 / n)
    if not replacement:
        total = moments.examples
        left = jnp.maximum(total - n, 0) / jnp.maximum(total - 1, 1)
        shrink = shrink * jnp.sqrt(left)
    sigma = jnp.sqrt(moments.variance)

    def folded(shrink: jax.Array) -> jax.Array:
        return jnp.mean(folded_normal_mean(moments.mean, shrink * sigma))

    return GradientPrediction(
        lax.map(folded, shrink.ravel()).reshape(n.shape),
        ROOT_TWO_OVER_PI * jnp.mean(sigma) * shrink,
        jnp.mean(jnp.abs(moments.mean)),
    )


class GradientSize(NamedTuple):
    """Magnitudes of mini-batch gradients at one point; axes: batch sizes, repeats."""

    mean_abs: jax.Array  # shape=(sizes, repeats), mean over parameters of |g_i|
    mean_square: jax.Array  # shape=(sizes, repeats), mean over parameters of g_i^2


def measure_gradient_size(
    batch_loss: Any,
    params: Any,
    arrays: Any,
    batch_sizes: Sequence[int],
    *,
    repeats: int = 20,
    key: jax.Array | None = None,
    where: Where = None,
    chunk: int = 1024,
    replacement: bool = False,
) -> GradientSize:
    r"""Size of the gradient of random mini-batches at one point, for several batch sizes.

    Their ``mean_abs`` is the paper's :math:`E|g|` (figure 3, at the first update step for the first
    fully connected layer's weights); ``mean_square`` is the loss stride per learning rate of
    equation 8, whose expectation is :math:`\frac1d\sum_i(\mu_i^2 + \sigma_i^2/n)` with replacement.

    Cost: ``repeats`` gradients of each batch size.

    Args:
      batch_loss: ``batch_loss(params, batch)``, mean loss over a batch.
      params: the point, any tree.
      arrays: the split; tree of arrays with one leading axis of examples.
      batch_sizes: numbers of examples, each at most those of the split unless with replacement.
      repeats: batches drawn for each size.
      key: typed key; None for ``jax.random.key(0)``.
      where: the parameters that count.
      chunk: largest number of examples at a time. With batch norm on batch statistics these are
        the statistics of a chunk (a "ghost" batch).
      replacement: whether a batch is drawn with replacement.

    Raises:
      UserError: for parameters that are not finite, a filter that selects nothing, or a batch size
        that the split does not have.

    Examples:
      >>> loss = lambda w, batch: jnp.mean(0.5 * (w - batch) ** 2)
      >>> found = measure_gradient_size(loss, 1.0, jnp.arange(4.0), (1, 4), repeats=3)
      >>> print(found.mean_abs[1])  # the whole split, whichever way it is drawn
      [0.5 0.5 0.5]
    """
    check_finite(params)
    size = split_size(arrays, chunk)
    arrays = jax.tree.map(jnp.asarray, arrays)
    point, unravel = ravel(params, where)
    key = jax.random.key(0) if key is None else key
    for n in batch_sizes:
        if not 1 <= n <= (n if replacement else size):
            raise UserError("batch_sizes", f"{n} of {size} examples", f"use 1 to {size}")

    def measure(n: int, size_key: jax.Array) -> tuple[jax.Array, jax.Array]:
        def draw(i: jax.Array) -> tuple[jax.Array, jax.Array]:
            chosen = jax.random.choice(
                jax.random.fold_in(size_key, i), size, (n,), replace=replacement
            )
            batch = jax.tree.map(lambda a: a[chosen], arrays)
            loss = over_split(batch_loss, batch, chunk)
            g = jax.grad(lambda x: loss(unravel(x)))(point)
            return jnp.mean(jnp.abs(g)), jnp.mean(jnp.square(g))

        return lax.map(draw, jnp.arange(repeats))

    found = [measure(n, jax.random.fold_in(key, i)) for i, n in enumerate(batch_sizes)]
    return GradientSize(*(jnp.stack(values) for values in zip(*found)))
