r"""The gradient of a batch against the fraction of easy examples left out of it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sbt.measure.example_gradients import ExampleLoss
from sbt.measure.split import split_size, sum_over_batches
from sbt.measure.trees import Where, check_finite, ravel
from sbt.optim.sample_rule import Average, discard_weights


class DiscardedGradient(NamedTuple):
    """Mean magnitude of a batch's gradient, with examples left out; axis: fractions."""

    smallest: jax.Array  # shape=(fractions,), without the smallest losses
    random: jax.Array  # shape=(fractions,), the control: as many left out at random


def gradient_by_discarded_fraction(
    example_loss: ExampleLoss,
    params: Any,
    batch: Any,
    fractions: Sequence[float],
    *,
    average: Average = "kept",
    key: jax.Array | None = None,
    where: Where = None,
    chunk: int = 256,
) -> DiscardedGradient:
    r"""Mean magnitude of a batch's gradient without its smallest losses (Gao & Zhong, figure 9).

    All losses are computed, the :math:`\lfloor pm \rfloor` smallest dropped, and
    :math:`\frac1d\sum_i|g_i|` is that of the mean loss over the rest. Dropping alone makes a
    gradient noisier, so its magnitude can rise by :math:`1/\sqrt{1-p}` where it is pure noise; the
    control that drops as many at random shows by how much.

    Args:
      example_loss: loss of one example.
      params: the point (the paper: at the first update), any tree.
      batch: the SGD batch; tree of arrays with one leading axis of examples.
      fractions: the values of :math:`p`, in [0, 1).
      average: ``'kept'``, mean over the kept examples; ``'batch'``, sum over them divided by the
        whole batch, so that dropping does not scale up.
      key: typed key of the control; None for ``jax.random.key(0)``.
      where: the parameters that count (the paper: the second fully connected layer's).
      chunk: examples at a time.

    Returns:
      In units of the gradient, one value for each fraction. Cost: two gradients of the batch for
      each fraction. Can be mapped over lanes.

    Raises:
      UserError: for parameters that are not finite, a filter that selects nothing, or a fraction
        outside [0, 1).

    Examples:
      >>> loss = lambda w, x: 0.5 * (w - x) ** 2
      >>> batch = jnp.array([0.0, 0.0, 1.0, 3.0])
      >>> print(gradient_by_discarded_fraction(loss, 0.0, batch, (0.0, 0.5, 0.75)).smallest)
      [1. 2. 3.]

    References:
      Gao and Zhong, `Study on the Large Batch Size Training of Neural Networks Based on the Second
      Order Gradient <https://arxiv.org/abs/2012.08795>`_, 2020 (section 3.1)
    """
    check_finite(params)
    size = split_size(batch, chunk)
    batch = jax.tree.map(jnp.asarray, batch)
    point, unravel = ravel(params, where)
    key = jax.random.key(0) if key is None else key
    losses = lax.map(
        lambda example: example_loss(params, example), batch, batch_size=min(chunk, size)
    )

    def magnitude(weights: jax.Array) -> jax.Array:
        def part(piece: tuple[Any, jax.Array]) -> jax.Array:
            examples, weight = piece

            def weighted(x: jax.Array) -> jax.Array:
                values = jax.vmap(lambda example: example_loss(unravel(x), example))(examples)
                return jnp.sum(weight * values)

            return jax.grad(weighted)(point)

        return jnp.mean(jnp.abs(sum_over_batches(part, (batch, weights), chunk, weighted=False)))

    def both(fraction: float, i: int) -> tuple[jax.Array, jax.Array]:
        kept = discard_weights(losses, fraction, average=average)
        control = discard_weights(
            losses, fraction, choice="random", key=jax.random.fold_in(key, i), average=average
        )
        return kept, control

    weights = [both(fraction, i) for i, fraction in enumerate(fractions)]
    stacked = jnp.stack([jnp.stack(side) for side in zip(*weights)])
    found = lax.map(magnitude, stacked.reshape(-1, size)).reshape(2, len(fractions))
    return DiscardedGradient(found[0], found[1])
