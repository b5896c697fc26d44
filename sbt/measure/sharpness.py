r"""Sharpness of a minimum: how far the loss can rise in a small box around it (Keskar et al.).

With :math:`A \in \mathbb R^{n \times p}` (the identity, or random columns) and its pseudo-inverse,

.. math::

  C_\epsilon = \{z \in \mathbb R^p : |z_i| \le \epsilon\,(|(A^+ x)_i| + 1)\}, \qquad
  \phi(x) = 100\; \frac{\max_{z \in C_\epsilon} f(x + A z) - f(x)}{1 + f(x)}

Dimensionless: the rise in per cent of one plus the loss. The paper takes
:math:`\epsilon \in \{10^{-3}, 5\cdot10^{-4}\}`, the whole training set for :math:`f`, the full
space and random subspaces of 100 directions.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from sbt.measure.box import Box, sharpness_box
from sbt.measure.subspace import Subspace
from sbt.measure.trees import Loss, Where
from sbt.ranges import COUNT, check_number

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
      loss_fn: mean loss over the whole split, see :func:`sbt.measure.over_split`.
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
      UserError: for parameters that are not finite, a filter that selects nothing, a subspace
        larger than the parameters, or no start, step or box.

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
        check_number(name, value, COUNT, whole=True)
    key = jax.random.key(0) if key is None else key
    box = sharpness_box(loss_fn, params, epsilon, subspace, jax.random.fold_in(key, 0), where)
    return climb(box, starts, steps, jax.random.fold_in(key, 1))


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
