r"""Discarding the examples of smallest loss (Gao & Zhong, 2020, section 3.1), and its control.

Which examples count is decided from the losses of the *whole* SGD batch. So the batch cannot be
judged micro-batch by micro-batch: :func:`accumulated_gradient` first collects all losses, then
accumulates a weighted gradient.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from sbt.errors import UserError
from sbt.optim import base
from sbt.schedules.lr import as_progress, reached

Choice = Literal["loss", "random"]
Average = Literal["kept", "batch"]


def discard_count(batch_size: int, fraction: ArrayLike) -> jax.Array:
    r"""How many examples are dropped: :math:`\lfloor pm \rfloor`, and at least one is kept.

    The product is taken as decimal arithmetic would (29 % of 100 is 29, though 0.29 · 100 is
    28.999… in floating point).

    >>> print(discard_count(100, 0.29), discard_count(10, 0.3), discard_count(4, 1.0))
    29 3 3
    """
    p = jnp.asarray(fraction).astype(float)
    slack = 1 + 4 * float(jnp.finfo(p.dtype).eps)
    return jnp.clip(jnp.floor(p * batch_size * slack).astype(jnp.int32), 0, batch_size - 1)


def discard_weights(
    losses: jax.Array,
    fraction: ArrayLike,
    progress: ArrayLike = 0.0,
    until: ArrayLike = 1.0,
    *,
    choice: Choice = "loss",
    key: jax.Array | None = None,
    average: Average = "kept",
) -> jax.Array:
    r"""Weights of the examples of a batch: 0 for those with the smallest losses.

    .. math:: L = \sum_i w_i L_i, \qquad
              w_i = \frac{[\,i\ \text{kept}\,]}{m - \lfloor pm \rfloor}

    Exactly :math:`\lfloor pm \rfloor` examples are dropped; among equal losses those that come
    first in the batch. The weights are constants: no gradient flows through the choice. A loss
    that is not a number is kept, so that divergence stays visible.

    Args:
      losses: ``(m,)`` loss of every example of the SGD batch.
      fraction: :math:`p`, in [0, 1); may be traced.
      progress: fraction of the budget.
      until: progress from which on nothing is dropped (the paper: the first 100 epochs).
      choice: ``'loss'`` drops the smallest losses; ``'random'``, the control, as many examples
        drawn without regard to the loss.
      key: typed key for ``'random'``.
      average: ``'kept'`` is the mean over the kept examples (the paper's). ``'batch'``, the other
        control, divides by m all the same, so that dropping does not raise the step.

    Returns:
      ``(m,)`` weights in at least float32; they sum to 1 with ``average='kept'``.

    Raises:
      UserError: for another ``choice`` or ``average``, a fraction outside [0, 1), or a missing key.

    Examples:
      >>> print(discard_weights(jnp.asarray([3.0, 1.0, 1.0, 2.0]), 0.5))
      [0.5 0.  0.  0.5]

    References:
      Gao and Zhong, `Study on the Large Batch Size Training of Neural Networks Based on the Second
      Order Gradient <https://arxiv.org/abs/2012.08795>`_, 2020
    """
    base.one_of("choice", choice, ("loss", "random"))
    base.one_of("average", average, ("kept", "batch"))
    if isinstance(fraction, int | float) and not 0 <= fraction < 1:
        raise UserError("fraction", f"{fraction} of a batch", "give a number in [0, 1)")
    m = losses.shape[0]
    score = jax.lax.stop_gradient(losses)
    if choice == "random":
        if key is None:
            raise UserError("key", "dropping at random needs a key", "pass key=jax.random.key(...)")
        score = jax.random.uniform(key, (m,))
    # Ranks are a permutation even where losses are equal, so the count is exact.
    rank = jnp.argsort(jnp.argsort(score, stable=True), stable=True).astype(jnp.int32)
    active = ~reached(as_progress(progress), until)
    dropped = jnp.where(active, discard_count(m, fraction), 0)
    kept = (rank >= dropped).astype(base.widen(losses).dtype)
    return kept / (jnp.sum(kept) if average == "kept" else m)


def accumulated_gradient(
    example_losses: Callable[[Any, Any], jax.Array],
    params: Any,
    batch: Any,
    micro_batches: int,
    weigh: Callable[[jax.Array], jax.Array],
) -> tuple[jax.Array, Any]:
    """Gradient of the weighted loss of a batch that only fits in pieces.

    Two passes: the losses of all examples, then the gradient of the weighted sum, micro-batch by
    micro-batch. It is the gradient of the whole batch at once, as long as the loss of an example
    does not depend on the others. With batch norm it does: both passes then use the statistics of
    the same micro-batches, so the result is that of batch statistics over a micro-batch.

    Args:
      example_losses: ``(params, micro_batch)`` to the losses ``(g,)``.
      params: a tree.
      batch: a tree of arrays with leading axis m, a multiple of ``micro_batches``.
      micro_batches: number of pieces, k.
      weigh: losses ``(m,)`` to weights ``(m,)``, for example :func:`discard_weights`.

    Returns:
      ``(losses, gradient)``: ``(m,)`` and a tree like the params.

    Raises:
      UserError: if the batch cannot be cut into that many equal pieces.

    Examples:
      >>> loss = lambda w, x: (w - x) ** 2
      >>> x = jnp.asarray([0.0, 3.0, 1.0, 2.0])
      >>> weigh = lambda losses: discard_weights(losses, 0.5)
      >>> print(*accumulated_gradient(loss, jnp.asarray(0.0), x, 2, weigh))
      [0. 9. 1. 4.] -5.0
    """
    m = jax.tree.leaves(batch)[0].shape[0]
    if micro_batches < 1 or m % micro_batches:
        raise UserError(
            "micro_batches",
            f"{m} examples do not make {micro_batches} equal micro-batches",
            "choose a divisor of the batch size",
        )

    def cut(x: jax.Array) -> jax.Array:
        return x.reshape(micro_batches, m // micro_batches, *x.shape[1:])

    pieces = jax.tree.map(cut, batch)
    losses = jax.lax.map(lambda piece: example_losses(params, piece), pieces).reshape(m)
    weights = cut(jax.lax.stop_gradient(weigh(losses)))

    def weighted(params: Any, piece: Any, weight: jax.Array) -> jax.Array:
        return jnp.sum(weight * base.widen(example_losses(params, piece)))

    def add(total: Any, piece_and_weight: tuple[Any, jax.Array]) -> tuple[Any, None]:
        gradient = jax.grad(weighted)(params, *piece_and_weight)
        return jax.tree.map(lambda t, g: t + base.widen(g), total, gradient), None

    zeros = jax.tree.map(lambda p: jnp.zeros_like(base.widen(p)), params)
    total, _ = jax.lax.scan(add, zeros, (pieces, weights))
    return losses, jax.tree.map(lambda t, p: t.astype(p.dtype), total, params)
