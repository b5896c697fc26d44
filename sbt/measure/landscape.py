r"""The loss between and around solutions: interpolation, and distances in parameter space."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sbt.errors import UserError
from sbt.measure.trees import Where, check_finite, ravel

Curve = Literal["linear", "curvilinear"]


class Path(NamedTuple):
    """Values along a curve through two solutions."""

    alphas: jax.Array  # shape=(points,), 0 at the first solution and 1 at the second
    values: Any  # what loss_fn returns, with a leading axis of points


def same_shapes(first: Any, second: Any, fields: tuple[str, str]) -> None:
    """Refuses two trees that cannot be points of one parameter space."""
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (first, second)]
    if shapes[0] != shapes[1]:
        raise UserError(
            " and ".join(fields),
            "the parameters differ in structure or shape",
            "compare two solutions of one model",
        )


def interpolate(
    loss_fn: Callable[[Any], Any],
    start: Any,
    end: Any,
    *,
    curve: Curve = "linear",
    points: int = 25,
    low: float = -1.0,
    high: float = 2.0,
    where: Where = None,
    chunk: int = 1,
) -> Path:
    r"""The loss along a curve through two solutions (Keskar et al., figures 3 and 7).

    .. math::

      x(\alpha) = \alpha x_1 + (1 - \alpha) x_0 \quad\text{or}\quad
      x(\alpha) = \sin(\tfrac{\alpha\pi}{2}) x_1 + \cos(\tfrac{\alpha\pi}{2}) x_0

    with :math:`x_0` = ``start`` (small batch in the paper) at :math:`\alpha = 0` and :math:`x_1` =
    ``end`` (large batch) at 1. The defaults are the paper's 25 points from -1 to 2.

    Only weights are interpolated, never the running statistics of batch norm: they are no
    parameters, and those of neither end belong to a point between. ``loss_fn`` should use batch
    statistics (:func:`sbt.measure.over_split` with the paper's 5000 examples a batch), or compute
    the statistics anew.

    Args:
      loss_fn: ``params -> value``: a loss, or any tree of numbers, as (loss, accuracy) from
        :func:`sbt.measure.average_over_split`.
      start: :math:`x_0`, any tree.
      end: :math:`x_1`, a tree of the same shapes.
      curve: ``'linear'`` or ``'curvilinear'``.
      points: number of points.
      low: first :math:`\alpha`.
      high: last :math:`\alpha`.
      where: the leaves that move; the others stay those of ``start``.
      chunk: points evaluated at a time.

    Returns:
      The values of :math:`\alpha`, and those of ``loss_fn``. Cost: ``points`` evaluations; pairs of
      solutions can be mapped over.

    Raises:
      UserError: for parameters that are not finite or do not fit together, a filter that selects
        nothing, or an unknown curve.

    Examples:
      >>> path = interpolate(lambda w: jnp.sum(w**2), jnp.ones(1), -jnp.ones(1), points=4)
      >>> print(path.alphas, path.values)
      [-1.  0.  1.  2.] [9. 1. 1. 9.]

    References:
      Keskar et al., `On Large-Batch Training for Deep Learning: Generalization Gap and Sharp Minima
      <https://arxiv.org/abs/1609.04836>`_, 2017 (figures 3 and 7)
    """
    if curve not in ("linear", "curvilinear"):
        raise UserError("curve", f"unknown: {curve!r}", "use 'linear' or 'curvilinear'")
    same_shapes(start, end, ("start", "end"))
    check_finite(start, "start")
    check_finite(end, "end")
    first, unravel = ravel(start, where)
    second, _ = ravel(end, where)
    # NumPy's hits 0 and 1 exactly, where the solutions themselves are.
    alphas = jnp.asarray(np.linspace(low, high, points), first.dtype)

    def at(alpha: jax.Array) -> Any:
        if curve == "linear":
            x = alpha * second + (1 - alpha) * first
        else:
            angle = alpha * (math.pi / 2)
            x = jnp.sin(angle) * second + jnp.cos(angle) * first
        return loss_fn(unravel(x))

    return Path(alphas, lax.map(at, alphas, batch_size=chunk))


def distance(first: Any, second: Any, where: Where = None) -> jax.Array:
    r"""Euclidean distance :math:`\|x - y\|_2` of two points, over all selected parameters.

    Examples:
      >>> print(distance({'w': jnp.zeros(2)}, {'w': jnp.array([3.0, 4.0])}))
      5.0
    """
    same_shapes(first, second, ("first", "second"))
    a, b = ravel(first, where)[0], ravel(second, where)[0]
    return jnp.linalg.norm(a - b)


class Distances(NamedTuple):
    """Where two solutions of one start lie; parameter units."""

    first: jax.Array  # shape=(), of the first from the start
    second: jax.Array  # shape=(), of the second from the start
    between: jax.Array  # shape=(), of one from the other
    ratio: jax.Array  # shape=(), first / second


def distances(initial: Any, first: Any, second: Any, where: Where = None) -> Distances:
    r"""Distances from the common start :math:`x_0`, between the solutions, and their ratio.

    Keskar et al. report :math:`\|x_s - x_0\| / \|x_l - x_0\|` between 3 and 10, the small-batch
    solution as ``first``.

    Args:
      initial: :math:`x_0`.
      first: one solution.
      second: the other.
      where: the parameters that count.

    Raises:
      UserError: for trees that do not fit together, or a filter that selects nothing.

    Examples:
      >>> print(distances(jnp.zeros(2), jnp.array([6.0, 8.0]), jnp.array([3.0, 4.0])).ratio)
      2.0
    """
    one, other = distance(initial, first, where), distance(initial, second, where)
    return Distances(one, other, distance(first, second, where), one / other)
