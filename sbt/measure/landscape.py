r"""The loss between and around solutions: curves, slices, and distances in parameter space."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from sbt.errors import UserError
from sbt.measure.registry import MEASUREMENTS, Found, Labelled, Subject
from sbt.measure.trees import (
    Where,
    check_finite,
    checked_count,
    checked_key,
    fast,
    is_float,
    ravel,
    selected,
    wide,
)
from sbt.optim.base import one_of

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
    loss_fn = fast(loss_fn)
    for name, value in (("points", points), ("chunk", chunk)):
        checked_count(name, value)
    one_of("curve", curve, get_args(Curve))
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
      key: typed key; another one for every direction.
      where: the leaves that move.
      vectors: see :func:`filter_normalised`.

    Returns:
      A tree like ``params``.
    """
    key = checked_key(key)
    leaves, structure = jax.tree.flatten(params)
    drawn = [
        jax.random.normal(jax.random.fold_in(key, i), jnp.shape(leaf), wide(jnp.result_type(leaf)))
        if is_float(leaf)
        else jnp.zeros_like(leaf)
        for i, leaf in enumerate(leaves)
    ]
    drawn = jax.tree.unflatten(structure, drawn)
    return filter_normalised(drawn, params, where=where, vectors=vectors)


def loss_slice(
    loss_fn: Callable[[Any], Any],
    params: Any,
    directions: Sequence[Any],
    coordinates: Sequence[ArrayLike] | None = None,
    *,
    chunk: int = 1,
) -> Any:
    r"""Values of ``loss_fn`` on the grid :math:`w + a_1 d_1 + a_2 d_2 + \dots`

    Args:
      loss_fn: ``params -> value``, a loss or any tree of numbers.
      params: :math:`w`.
      directions: :math:`d_i`, one for a line, two for a plane: from :func:`random_direction`, say.
      coordinates: the values of each :math:`a_i`; None for 51 from -1 to 1.

    Returns:
      What ``loss_fn`` returns, with a leading axis for each direction.

    Raises:
      UserError: for parameters that are not finite or do not fit the directions, or an empty grid.

    Examples:
      >>> print(loss_slice(lambda w: jnp.sum(w**2), jnp.ones(1), [jnp.ones(1)], [[-1.0, 0.0, 1.0]]))
      [0. 1. 4.]
      >>> plane = [jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])]
      >>> print(loss_slice(lambda w: w[0] + 10 * w[1], jnp.zeros(2), plane, [[0.0, 1.0]] * 2))
      [[ 0. 10.]
       [ 1. 11.]]
    """
    loss_fn = fast(loss_fn)
    checked_count("chunk", chunk)
    check_finite(params)
    for direction in directions:
        same_shapes(params, direction, ("params", "directions"))
    if coordinates is None:
        coordinates = [np.linspace(-1, 1, 51)] * len(directions)
    axes = [jnp.ravel(jnp.asarray(a, jnp.result_type(float))) for a in coordinates]
    if not axes or len(axes) != len(directions) or not all(a.size for a in axes):
        problem = f"{len(axes)} axes for {len(directions)} directions, or an empty one"
        raise UserError("coordinates", problem, "give at least one value for each direction")

    def at(place: tuple[jax.Array, ...]) -> Any:
        def leaf(w: Any, *moves: jax.Array) -> Any:
            if not is_float(w):
                return w
            there = jnp.asarray(w, moves[0].dtype)
            for a, d in zip(place, moves):
                there = there + a.astype(d.dtype) * d
            return there

        return loss_fn(jax.tree.map(leaf, params, *directions))

    grid = tuple(axis.ravel() for axis in jnp.meshgrid(*axes, indexing="ij"))
    values = lax.map(at, grid, batch_size=chunk)
    return jax.tree.map(lambda v: v.reshape(*(a.size for a in axes), *v.shape[1:]), values)


# --- measured on a run ---------------------------------------------------------------------------


@MEASUREMENTS.register(
    "training_set",
    cost="passes over the data",
    source="Keskar et al. 2017, table 2 (training accuracy)",
)
def training_set(run: Subject) -> Found:
    """Loss and metrics of the training split as at test time: what papers call training accuracy.

    ``train_loss``, ``train_accuracy`` are means over an epoch, each batch before its update,
    with dropout and batch statistics where the network has them; these are of the weights as they
    stand, without dropout, with the statistics of ``config.evaluate.statistics``, not augmented.
    """
    found = {}
    for name, mean in run.evaluated().items():
        metric = run.told[name]
        words = f"training {metric.long_name} of these weights, as at test time"
        value = jnp.asarray(metric.result(mean, "train"))
        found[f"train_{name}_evaluated"] = Labelled(value, (), metric.units, words)
    return found


@MEASUREMENTS.register(
    "distance", cost="passes over the data", source="Keskar et al. 2017, section 4"
)
def distance_of(run: Subject) -> Found:
    """Euclidean distance of the weights from where the run started, and relative to that."""
    start = run.initial()
    moved = distance(run.params, start, run.where)
    size = jnp.linalg.norm(ravel(start, run.where)[0])
    relative = "distance from the initial weights over their norm"
    return {
        "distance_from_start": Labelled(moved, (), "", "distance from the initial weights"),
        "relative_distance": Labelled(moved / size, (), "", relative),
    }
