"""A whole split as one differentiable function of the parameters, computed batch by batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from sbt.errors import UserError
from sbt.measure.trees import Loss, as_loss, checked_count, fast, is_float, wide


def split_size(arrays: Any, batch_size: int = 1, field: str = "batch_size") -> int:
    """Number of examples, the common length of the leading axes.

    Raises:
      UserError: for no arrays, leading axes that differ, or batches of less than one example.
    """
    checked_count(field, batch_size)
    sizes = {jnp.shape(leaf)[0] if jnp.ndim(leaf) else 0 for leaf in jax.tree.leaves(arrays)}
    if len(sizes) != 1 or 0 in sizes:
        raise UserError(
            "arrays", f"leading axes are {sorted(sizes)}", "give arrays with one entry per example"
        )
    return sizes.pop()


def sum_over_batches(
    batch_fn: Callable[[Any], Any], arrays: Any, batch_size: int, weighted: bool = True
) -> Any:
    """Sum over consecutive batches of ``batch_fn(batch)``, any tree of floats, times batch length.

    The last batch may be shorter; every example counts once. The sum is kept in at least float32.

    Args:
      batch_fn: maps a batch (a tree like ``arrays``) to means over it.
      arrays: tree of arrays with one leading axis of examples.
      batch_size: examples held at a time.
      weighted: whether to multiply by the batch length; without, ``batch_fn`` returns sums.
    """
    size = split_size(arrays, batch_size)
    length = min(batch_size, size)
    full, rest = divmod(size, length)

    def summed(start: Any, length: int) -> Any:
        batch = jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, start, length), arrays)
        factor = length if weighted else 1
        return jax.tree.map(lambda m: m.astype(wide(m.dtype)) * factor, batch_fn(batch))

    def add(i: jax.Array, total: Any) -> Any:
        return jax.tree.map(jnp.add, total, summed(i * length, length))

    arrays = jax.tree.map(jnp.asarray, arrays)
    if full == 1:
        total = summed(0, length)
    else:
        shapes = jax.eval_shape(lambda: summed(0, length))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total = lax.fori_loop(0, full, add, zeros)
    return jax.tree.map(jnp.add, total, summed(full * length, rest)) if rest else total


def average_over_split(
    batch_fn: Callable[[Any, Any], Any], arrays: Any, batch_size: int
) -> Callable[[Any], Any]:
    """``params -> tree`` of means over all examples, for values that need no derivative.

    Args:
      batch_fn: ``batch_fn(params, batch)``, a tree of means over the batch: (loss, accuracy), say.
      arrays: the split, see :func:`over_split`.
      batch_size: examples held at a time.
    """
    size, batch_fn = split_size(arrays, batch_size), fast(batch_fn, "batch_fn")

    def average(params: Any) -> Any:
        total = sum_over_batches(lambda batch: batch_fn(params, batch), arrays, batch_size)
        return jax.tree.map(lambda t: t / size, total)

    return average


def over_split(batch_loss: Callable[[Any, Any], jax.Array], arrays: Any, batch_size: int) -> Loss:
    r"""The mean loss over a whole split as a function of the parameters, ready to be measured.

    .. math:: L(w) = \frac1N \sum_{\text{batches } B} |B|\, L_B(w)

    The split goes through in consecutive batches, and so does every derivative: a gradient or a
    Hessian-vector product of the result needs the memory of one batch, and no example is dropped
    (the last batch may be shorter). Deterministic, as long as ``batch_loss`` is.

    A net with batch norm on *batch* statistics has one loss for each way to cut the split: choose
    ``batch_size`` as the paper does (5000 in Keskar et al.'s code). With running statistics, close
    ``batch_loss`` over them.

    Args:
      batch_loss: ``batch_loss(params, batch)``, the mean loss over the batch, a scalar.
      arrays: tree of arrays (images and labels, say) with one leading axis of examples.
      batch_size: examples held at a time.

    Returns:
      ``loss_fn(params)``, a scalar; can be differentiated to any order, compiled and mapped over
      lanes. Its gradient comes with the value, in one pass over the split.

    Raises:
      UserError: for leading axes that differ, or a batch size below 1.

    Examples:
      >>> x = jnp.arange(5.0)
      >>> loss = over_split(lambda w, batch: jnp.mean((w - batch) ** 2), x, batch_size=2)
      >>> print(loss(0.0), jax.grad(loss)(0.0), jax.hessian(loss)(0.0))
      6.0 -4.0 2.0
    """
    size, batch_loss = split_size(arrays, batch_size), as_loss(batch_loss, "batch_loss")

    @jax.custom_jvp
    def mean_loss(params: Any) -> jax.Array:
        return sum_over_batches(lambda batch: batch_loss(params, batch), arrays, batch_size) / size

    # The rule is linear in the tangent, so that it serves forward, reverse and second order alike,
    # and no residual of one batch outlives it.
    @mean_loss.defjvp
    def mean_loss_jvp(primals: tuple[Any], tangents: tuple[Any]) -> tuple[jax.Array, jax.Array]:
        (params,), (tangent,) = primals, tangents
        leaves, structure = jax.tree.flatten(params)
        real = [i for i, leaf in enumerate(leaves) if is_float(leaf)]

        def batch_value(weights: list[jax.Array], batch: Any) -> jax.Array:
            filled = list(leaves)
            for i, leaf in zip(real, weights):
                filled[i] = leaf
            return batch_loss(jax.tree.unflatten(structure, filled), batch)

        weights = [leaves[i] for i in real]
        value, gradient = sum_over_batches(
            lambda batch: jax.value_and_grad(batch_value)(weights, batch), arrays, batch_size
        )
        moves = [jnp.asarray(jax.tree.leaves(tangent)[i]) for i in real]
        slope = sum(jnp.vdot(g, t.astype(g.dtype)) for g, t in zip(gradient, moves))
        return value / size, jnp.asarray(slope / size).astype(value.dtype)

    return mean_loss
