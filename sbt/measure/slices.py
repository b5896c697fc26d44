r"""One- and two-dimensional slices of the loss along filter-normalised random directions."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from sbt.errors import UserError
from sbt.measure.landscape import same_shapes
from sbt.measure.trees import Where, check_finite, is_float, selected, wide

Coordinates = ArrayLike | Sequence[float] | None


def filter_normalised(
    direction: Any, params: Any, *, where: Where = None, vectors: bool = False
) -> Any:
    r"""Rescales a direction filter by filter to the norms of the parameters (Li et al., 2018).

    .. math:: d_{l,j} \leftarrow \frac{d_{l,j}}{\|d_{l,j}\|}\, \|w_{l,j}\|

    A filter :math:`j` of layer :math:`l` is what feeds one output: all entries of one index of the
    *last* axis, as flax lays out dense and convolution kernels. So slices of nets that differ by
    the scale of their filters (which batch norm makes arbitrary) can be compared.

    Args:
      direction: tree like ``params``.
      params: the point.
      where: the leaves that move; the direction is zero on the others.
      vectors: whether biases and the scales and offsets of norms (leaves with fewer than two axes)
        move as well, each leaf as one filter. The usual choice is not to move them.

    Returns:
      The direction, in at least float32; zero for filters that are zero.

    Raises:
      UserError: for trees that do not fit together, or a filter that selects nothing.

    Examples:
      >>> w = jnp.array([[3.0, 1.0], [4.0, 0.0]])  # two filters, of norms 5 and 1
      >>> print(filter_normalised(jnp.array([[0.0, 1.0], [2.0, 0.0]]), w))
      [[0. 1.]
       [5. 0.]]

    References:
      Li et al., `Visualizing the Loss Landscape of Neural Nets
      <https://arxiv.org/abs/1712.09913>`_, 2018
    """
    same_shapes(direction, params, ("direction", "params"))
    chosen = [taken for _, taken in selected(params, where)]
    leaves, structure = jax.tree.flatten(params)

    def leaf(d: jax.Array, w: jax.Array, taken: bool) -> jax.Array:
        if not is_float(w):
            return jnp.zeros_like(w)
        dtype = wide(jnp.result_type(w))
        d, w = jnp.asarray(d, dtype), jnp.asarray(w, dtype)
        if not taken or (w.ndim < 2 and not vectors):
            return jnp.zeros_like(w)
        axes = tuple(range(w.ndim - 1)) if w.ndim > 1 else tuple(range(w.ndim))
        norm = jnp.linalg.vector_norm(d, axis=axes, keepdims=True)
        scale = jnp.linalg.vector_norm(w, axis=axes, keepdims=True)
        return d / jnp.where(norm > 0, norm, 1) * scale

    scaled = [leaf(*each) for each in zip(jax.tree.leaves(direction), leaves, chosen)]
    return jax.tree.unflatten(structure, scaled)


def random_direction(
    params: Any, key: jax.Array, *, where: Where = None, vectors: bool = False
) -> Any:
    """A Gaussian direction, normalised by :func:`filter_normalised`.

    Two of them are nearly orthogonal in the high dimensions of a net; they are not made exactly so.

    Args:
      params: the point, any tree.
      key: typed key; another one for every direction.
      where: the leaves that move.
      vectors: see :func:`filter_normalised`.

    Returns:
      A tree like ``params``.
    """
    leaves, structure = jax.tree.flatten(params)
    drawn = [
        jax.random.normal(jax.random.fold_in(key, i), jnp.shape(leaf), wide(jnp.result_type(leaf)))
        if is_float(leaf)
        else jnp.zeros_like(leaf)
        for i, leaf in enumerate(leaves)
    ]
    drawn = jax.tree.unflatten(structure, drawn)
    return filter_normalised(drawn, params, where=where, vectors=vectors)


def slice_1d(
    loss_fn: Callable[[Any], Any],
    params: Any,
    direction: Any,
    coordinates: Coordinates = None,
    *,
    chunk: int = 1,
) -> Any:
    r"""Values of ``loss_fn`` at :math:`w + a\, d`.

    Args:
      loss_fn: ``params -> value``, a loss or any tree of numbers.
      params: :math:`w`.
      direction: :math:`d`, from :func:`random_direction`, say.
      coordinates: the values of :math:`a`; None for 51 from -1 to 1.
      chunk: points evaluated at a time.

    Returns:
      What ``loss_fn`` returns, with a leading axis of coordinates.

    Raises:
      UserError: for parameters that are not finite or do not fit the direction.

    Examples:
      >>> print(slice_1d(lambda w: jnp.sum(w**2), jnp.ones(1), jnp.ones(1), [-1.0, 0.0, 1.0]))
      [0. 1. 4.]
    """
    zero = jax.tree.map(jnp.zeros_like, direction)
    values = slice_2d(loss_fn, params, direction, zero, coordinates, [0.0], chunk=chunk)
    return jax.tree.map(lambda v: v[:, 0], values)


def slice_2d(
    loss_fn: Callable[[Any], Any],
    params: Any,
    first: Any,
    second: Any,
    rows: Coordinates = None,
    columns: Coordinates = None,
    *,
    chunk: int = 1,
) -> Any:
    r"""Values of ``loss_fn`` on the grid :math:`w + a\, d_1 + b\, d_2`.

    Args:
      loss_fn: ``params -> value``, a loss or any tree of numbers.
      params: :math:`w`.
      first: :math:`d_1`.
      second: :math:`d_2`.
      rows: the values of :math:`a`; None for 51 from -1 to 1.
      columns: the values of :math:`b`; None for the same as ``rows``.
      chunk: points evaluated at a time.

    Returns:
      What ``loss_fn`` returns, with leading axes ``(rows, columns)``.

    Raises:
      UserError: for parameters that are not finite or do not fit the directions.

    Examples:
      >>> one, other = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
      >>> print(slice_2d(lambda w: w[0] + 10 * w[1], jnp.zeros(2), one, other, [0.0, 1.0]))
      [[ 0. 10.]
       [ 1. 11.]]
    """
    check_finite(params)
    for field, direction in (("first", first), ("second", second)):
        same_shapes(params, direction, ("params", field))
    rows = np.linspace(-1, 1, 51) if rows is None else rows
    columns = rows if columns is None else columns
    a, b = (jnp.ravel(jnp.asarray(axis, jnp.result_type(float))) for axis in (rows, columns))
    if not a.size or not b.size:
        raise UserError("coordinates", "the grid is empty", "give at least one value per axis")

    def at(place: tuple[jax.Array, jax.Array]) -> Any:
        def leaf(w: Any, d1: jax.Array, d2: jax.Array) -> Any:
            if not is_float(w):
                return w
            x, y = (c.astype(d1.dtype) for c in place)
            return jnp.asarray(w, d1.dtype) + x * d1 + y * d2

        return loss_fn(jax.tree.map(leaf, params, first, second))

    grid = [axis.ravel() for axis in jnp.meshgrid(a, b, indexing="ij")]
    values = lax.map(at, tuple(grid), batch_size=chunk)
    return jax.tree.map(lambda v: v.reshape(a.size, b.size, *v.shape[1:]), values)
