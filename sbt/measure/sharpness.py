r"""Sharpness of a minimum: how far the loss can rise in a small box around it (Keskar et al.).

With :math:`A \in \mathbb R^{n \times p}` (the identity, or random columns) and its pseudo-inverse,

.. math::

  C_\epsilon = \{z \in \mathbb R^p : |z_i| \le \epsilon\,(|(A^+ x)_i| + 1)\}, \qquad
  \phi(x) = 100\; \frac{\max_{z \in C_\epsilon} f(x + A z) - f(x)}{1 + f(x)}

Dimensionless: the rise in per cent of one plus the loss. The paper takes
:math:`\epsilon \in \{10^{-3}, 5\cdot10^{-4}\}`, the whole training set for :math:`f`, the full
space and random subspaces of 100 directions.
"""

import functools
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from sbt.errors import UserError, shown
from sbt.measure.registry import MEASUREMENTS, STEPS, Found, Labelled, Subject
from sbt.measure.subspace import Subspace, random_subspace
from sbt.measure.trees import (
    Loss,
    Where,
    checked_count,
    checked_key,
    is_float,
    ravel,
    surface,
)
from sbt.optim.base import one_of
from sbt.ranges import COUNT, Range

Array = jax.Array | np.ndarray

GAINS = (0.5, 3.0)  # first and last gain of the soft steps
HARD_STEPS = 2


class Sharpness(NamedTuple):
    """What a maximisation over the box found."""

    value: Array  # shape=(), phi, dimensionless, at least 0
    loss: Array  # shape=(), f(x)
    highest: Array  # shape=(), the largest f(x + A z) met, at least f(x)
    point: Array  # shape=(p,), or (n,) in the full space: the z where it was met


def as_sharpness(loss: Array, highest: Array, point: Array) -> Sharpness:
    """The metric, from the loss at the point and the highest in the box."""
    return Sharpness(100 * (highest - loss) / (1 + loss), loss, highest, point)


def sharpness(
    loss_fn: Loss,
    params: Any,
    epsilon: ArrayLike = 1e-3,
    *,
    subspace: Subspace | int | None = None,
    where: Where = None,
    starts: int = 2,
    steps: int = 10,
    key: jax.Array | None = None,
) -> Sharpness:
    r"""Keskar's sharpness :math:`\phi`, maximised by sign iteration from several starts.

    Each start goes from point to point by the gradient, softly at first and in the end to corners:

    .. math::

      u = d \odot A^\top \nabla f(x + A z), \qquad
      z \leftarrow d \odot \operatorname{clip}(\kappa_t\, u / \mathrm{rms}(u), -1, 1), \qquad
      d_i = \epsilon\,(|(A^+ x)_i| + 1)

    with a gain :math:`\kappa_t` that rises from 1/2 to 3, and :math:`z \leftarrow d \odot
    \operatorname{sign} u` (the corner that maximises the linear model) in the last two steps. The
    highest loss met anywhere counts, :math:`f(x)` included: :math:`\phi \ge 0`, and every value is
    attained at a feasible point. The first start is :math:`z = 0`, the others are random corners;
    they matter at a stationary point, where the gradient says nothing.

    Quality for the paper's two :math:`\epsilon`, on nets of 610 to 13,000 parameters with and
    without batch norm, 60 to 1500 updates of good and bad training, full space, 100 and 20
    directions:

    ============================== ======================= ===================== =========
    ..                             over the best known,    over L-BFGS-B, least  gradients
                                   mean (least)
    ============================== ======================= ===================== =========
    ``starts=1``                   99.8 (90) %             0.997                 10
    ``starts=2``, the default      99.95 (97) %            0.997 or more         20
    ``starts=4``                   99.99 (99.7) %          0.9985                40
    ten iterations of L-BFGS-B     91 (19) %               1                     11 to 20
    ============================== ======================= ===================== =========

    The first column is of 144 problems, the second of 208, the same in float32 and float64.
    L-BFGS-B (:func:`sbt.measure.sharpness_scipy`) is the paper's inexact maximiser, and a lower
    bound. In larger boxes take more starts: at :math:`\epsilon = 10^{-2}` four have missed up to
    17 % and eight up to 7 %. Signs from the first step on, without the gain, get caught earlier.
    Speed: ``experiments/keskar_2017/sharpness_speed.py``.

    What the paper leaves open is an argument: distribution and scale of :math:`A` (see
    :func:`sbt.measure.random_subspace`) and how many of them to average over (map over keys), the
    starts, and, inside ``loss_fn``, dropout and the statistics of batch norm. ``loss_fn`` must be
    deterministic.

    Cost: ``starts * steps`` gradients and ``starts + 1`` values over the split; memory of a few
    copies of the parameters, and of :math:`A` where it is stored. To measure all lanes of a sweep
    at once, map it: ``jax.vmap(lambda p: sharpness(loss_fn, p).value)(stacked)``, or
    ``jax.lax.map(..., batch_size=...)`` where they do not fit together; every lane meets the same
    :math:`A` and the same random starts. A lane that is not finite gives NaN.

    Args:
      params: the point :math:`x`, any tree.
      epsilon: half-width :math:`\epsilon` of the box, relative to :math:`|x_i| + 1`.
      subspace: None for the full space, the number :math:`p` of random directions, or a
        :class:`Subspace`.
      where: the leaves that may move, see :data:`sbt.measure.Where`; the others stay.
      starts: number of starts.
      steps: steps from each; below 5 or so the gain has no time to rise.
      key: typed key of :math:`A` and of the random starts; None for ``jax.random.key(0)``.

    Returns:
      The metric and the point where it was found.

    Raises:
      UserError: for a subspace larger than the parameters, or no start, step or box.

    Examples:
      Along each axis of :math:`f(w) = w_1^2 + 10 w_2^2` the rise is greatest at a corner:

      >>> loss = lambda w: w[0] ** 2 + 10 * w[1] ** 2
      >>> w = jnp.array([1.0, 0.0])
      >>> print(f'{sharpness(loss, w, 0.01).value:.5f}')  # 100 (1.02^2 - 1 + 10 * 0.01^2) / (1 + 1)
      2.07000

    References:
      Keskar et al., `On Large-Batch Training for Deep Learning: Generalization Gap and Sharp Minima
      <https://arxiv.org/abs/1609.04836>`_, 2017 (metric 2.1)
    """
    for name, value in (("starts", starts), ("steps", steps)):
        checked_count(name, value)
    key = checked_key(key)
    box = sharpness_box(loss_fn, params, epsilon, subspace, jax.random.fold_in(key, 0), where)
    return climb(box, starts, steps, jax.random.fold_in(key, 1))


# --- maximisation ---------------------------------------------------------------------------------


class Box(NamedTuple):
    r"""Maximise ``height(z)`` over :math:`|z_i| \le` ``bound[i]``."""

    centre: Callable[[], jax.Array]  # f(x)
    height: Callable[[jax.Array], jax.Array]  # z -> f(x + A z)
    slope: Callable[[jax.Array], tuple[jax.Array, jax.Array]]  # z -> that and its gradient in z
    bound: jax.Array  # shape=(p,), or (n,) in the full space


def sharpness_box(
    loss_fn: Loss,
    params: Any,
    epsilon: ArrayLike,
    subspace: Subspace | int | None,
    key: jax.Array,
    where: Where,
) -> Box:
    """The box of a point and the loss in it, checked."""
    if not isinstance(epsilon, jax.core.Tracer):
        width = np.asarray(epsilon)
        if width.dtype.kind not in "iuf" or not np.all(width > 0):
            problem = f"{shown(epsilon)} leaves no box"
            raise UserError("epsilon", problem, "use a positive half-width, as 1e-3")
    if not isinstance(subspace, int | Subspace | None):
        remedy = "give None for the full space, a number of random directions, or a Subspace"
        raise UserError("subspace", f"{shown(subspace)} is not a subspace", remedy)
    loss, x, _ = surface(loss_fn, params, where)
    if isinstance(subspace, int):
        subspace = random_subspace(x.size, subspace, key, dtype=x.dtype)
    out = (lambda z: z) if subspace is None else subspace.out

    def height(z: jax.Array) -> jax.Array:
        return loss(x + out(z))

    def slope(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, gradient = jax.value_and_grad(lambda move: loss(x + move))(out(z))
        return value, gradient if subspace is None else subspace.back(gradient)

    place = x if subspace is None else subspace.pinv(x)
    bound = jnp.asarray(epsilon, x.dtype) * (jnp.abs(place) + 1)
    return Box(lambda: loss(x), height, slope, bound)


def random_corner(box: Box, key: jax.Array) -> jax.Array:
    """A random corner of the box."""
    return box.bound * jax.random.rademacher(key, box.bound.shape, box.bound.dtype)


def gains(steps: int, dtype: Any) -> jax.Array:
    """Gain of each step; infinite means sign."""
    soft = max(0, steps - HARD_STEPS)
    return jnp.concatenate(
        [jnp.geomspace(*GAINS, soft, dtype=dtype), jnp.full(steps - soft, jnp.inf, dtype)]
    )


def climb(box: Box, starts: int, steps: int, key: jax.Array) -> Sharpness:
    """Sign iteration from zero and ``starts - 1`` random corners; the best of all points met."""
    zero = jnp.zeros_like(box.bound)
    gain = gains(steps, box.bound.dtype)

    def better(best: tuple[jax.Array, jax.Array], value: jax.Array, z: jax.Array) -> Any:
        # A loss that is not a number inside the box is no maximum; one at the centre stays.
        up = value > best[0]
        return jnp.where(up, value, best[0]), jnp.where(up, z, best[1])

    def step(t: jax.Array, carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        z, best = carry
        value, gradient = box.slope(z)
        rise = box.bound * gradient
        top = jnp.max(jnp.abs(rise))  # the squares of a flat minimum's gradient would underflow
        rise = rise / jnp.where(top > 0, top, 1)
        size = jnp.sqrt(jnp.mean(jnp.square(rise)))
        soft = jnp.clip(gain[t] * rise / jnp.where(size > 0, size, 1), -1, 1)
        return box.bound * jnp.where(jnp.isinf(gain[t]), jnp.sign(rise), soft), better(
            best, value, z
        )

    def start(i: jax.Array, best: Any) -> Any:
        corner = random_corner(box, jax.random.fold_in(key, i))
        z, best = lax.fori_loop(0, steps, step, (jnp.where(i == 0, zero, corner), best))
        return better(best, box.height(z), z)

    loss = box.centre()  # not height(zero): a stored A times a constant would be folded
    highest, point = lax.fori_loop(0, starts, start, (loss, zero))
    return as_sharpness(loss, highest, point)


# --- the paper's maximiser, as a reference --------------------------------------------------------


Start = Literal["centre", "corner", "sign"]


def sharpness_scipy(
    loss_fn: Loss,
    params: Any,
    epsilon: float = 1e-3,
    *,
    subspace: Subspace | int | None = None,
    where: Where = None,
    iterations: int = 10,
    start: Start = "centre",
    key: jax.Array | None = None,
) -> Sharpness:
    r"""Keskar's sharpness :math:`\phi` by ten iterations of L-BFGS-B, in double precision.

    Both tolerances are zero: with SciPy's defaults the solver stops at once where
    :math:`\max_i |\partial f/\partial z_i| < 10^{-5}`, and reports a sharpness of exactly 0 at flat
    minima. At an exactly stationary point it cannot move from the centre at all: choose another
    ``start``. It is a lower bound of the maximum, often a few per cent and at times a factor of two
    below :func:`sbt.measure.sharpness`. One point at a time, on the host.

    Args:
      loss_fn: mean loss over the whole split. It is called with float64 parameters; data that it
        holds in float32 is promoted by JAX's usual rules.
      params: the point, any tree of numbers (no tracers).
      epsilon: half-width of the box, relative to :math:`|x_i| + 1`.
      subspace: see :func:`sbt.measure.sharpness`; with the same key an integer gives the same
        :math:`A`.
      where: the leaves that may move.
      iterations: of L-BFGS-B.
      start: ``'centre'``, :math:`z = 0`; ``'corner'``, a random corner; ``'sign'``, the corner that
        the gradient at the centre points to.

    Returns:
      As :func:`sbt.measure.sharpness`, NumPy arrays of float64. The maximum is taken with
      :math:`f(x)`.

    Raises:
      UserError: as :func:`sbt.measure.sharpness`, or for an unknown ``start``.

    Examples:
      >>> loss = lambda w: w[0] ** 2 + 10 * w[1] ** 2
      >>> w = jnp.array([1.0, 0.0])
      >>> print(f'{sharpness_scipy(loss, w, 0.01).value:.5f}')  # z_2 = 0 is stationary
      2.02000
      >>> print(f'{sharpness_scipy(loss, w, 0.01, start="corner").value:.5f}')
      2.07000

    References:
      Byrd et al., `A Limited Memory Algorithm for Bound Constrained Optimization
      <https://doi.org/10.1137/0916069>`_, 1995
    """
    import scipy.optimize  # half a second that training does not need

    key = checked_key(key)
    checked_count("iterations", iterations)
    one_of("start", start, get_args(Start))
    with jax.enable_x64(True):
        params = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float64) if is_float(leaf) else leaf, params
        )
        if isinstance(subspace, int):
            size = ravel(params, where)[0].size
            subspace = random_subspace(
                size, subspace, jax.random.fold_in(key, 0), dtype=jnp.float64
            )
        box = sharpness_box(loss_fn, params, epsilon, subspace, key, where)
        bound = np.asarray(box.bound)

        def descend(z: np.ndarray) -> tuple[float, np.ndarray]:
            move = jnp.asarray(z) if subspace is None else subspace.out(jnp.asarray(z))
            value, gradient = _value_and_gradient(loss_fn, params, move, where)
            back = gradient if subspace is None else subspace.back(gradient)
            return -float(value), -np.asarray(back)

        centre = np.zeros_like(bound)
        loss, downhill = descend(centre)
        corner = np.asarray(random_corner(box, jax.random.fold_in(key, 1)))
        first = {"centre": centre, "corner": corner, "sign": -bound * np.sign(downhill)}[start]
        found = scipy.optimize.minimize(
            descend,
            first,
            jac=True,
            method="L-BFGS-B",
            bounds=np.stack([-bound, bound], axis=1),
            options={"maxiter": iterations, "ftol": 0.0, "gtol": 0.0},
        )
    highest, point = (-found.fun, found.x) if found.fun < loss else (-loss, centre)
    return as_sharpness(np.asarray(-loss), np.asarray(highest), np.asarray(point))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _value_and_gradient(
    loss_fn: Loss, params: Any, move: jax.Array, where: Where
) -> tuple[jax.Array, jax.Array]:
    """Compiled once for all points that are measured with one ``loss_fn``."""
    loss, x, _ = surface(loss_fn, params, where)
    return jax.value_and_grad(lambda move: loss(x + move))(move)


# --- measured on a run ----------------------------------------------------------------------------


@MEASUREMENTS.register("sharpness", cost="heavy", source="Keskar et al. 2017, metric 2.1")
def sharpness_of(
    run: Subject,
    *,
    epsilons: Annotated[tuple[float, ...], Range(0, 100, open_low=True)] = (1e-3, 5e-4),
    spaces: tuple[Literal["full", "subspace"], ...] = ("full", "subspace"),
    directions: Annotated[int, COUNT] = 100,
    starts: Annotated[int, STEPS] = 4,
    steps: Annotated[int, STEPS] = 10,
) -> Found:
    r"""Keskar's sharpness by box size, in the full space and in a random subspace.

    It is that of :func:`sharpness`. Beside it the loss at the weights themselves, :math:`f(x)` of
    the metric.

    Args:
      run: what is measured.
      epsilons: half-widths of the box, relative to :math:`|x_i| + 1`.
      spaces: ``full``, ``subspace`` or both.
      directions: of the subspace, the same in every run.
      starts: of the maximisation; ``starts * steps`` gradients over the split for each value.
      steps: from each start.
    """
    basis = None
    if "subspace" in spaces:
        basis = random_subspace(
            run.size,
            directions,
            jax.random.fold_in(run.key, 0),
            dtype=ravel(run.params, run.where)[0].dtype,
        )

    def by_epsilon(space: str) -> tuple[jax.Array, jax.Array]:
        def one(epsilon: jax.Array) -> tuple[jax.Array, jax.Array]:
            found = sharpness(
                run.loss,
                run.params,
                epsilon,
                subspace=basis if space == "subspace" else None,
                where=run.where,
                starts=starts,
                steps=steps,
                key=jax.random.fold_in(run.key, 1),
            )
            return jnp.asarray(found.value), jnp.asarray(found.loss)

        return jax.lax.map(one, jnp.asarray(epsilons, jnp.result_type(float)))

    values, losses = zip(*(by_epsilon(space) for space in spaces))
    dims = (("space", tuple(spaces)), ("epsilon", tuple(epsilons)))
    return {
        "sharpness": Labelled(jnp.stack(values), dims, "%", "sharpness, rise over 1 + loss"),
        "sharpness_loss": Labelled(
            losses[0][0], (), run.told["loss"].units, "training loss of the weights, f(x)"
        ),
    }
