r"""Stochastic heavy ball: coefficients inside the buffer, and the damped and matched forms.

Three forms of momentum are in use, and they differ once a coefficient varies or when learning rates
are compared between values of :math:`\beta`:

=======================  ===========================================  ==========================
form                     update                                       effective learning rate
=======================  ===========================================  ==========================
:func:`sbt.optim.sgd`    :math:`u=\beta u+g,\ w-=\eta u`              :math:`\eta/(1-\beta)`
:func:`shb`              :math:`\Delta=\beta\Delta-\alpha g`          :math:`\alpha/(1-\beta)`
:func:`normalized_shb`   :math:`u=\beta u+(1-\beta)g,\ w-=\eta u`     :math:`\eta`
=======================  ===========================================  ==========================
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sbt.optim import base


class ScaleByShbState(NamedTuple):
    """State of :func:`scale_by_shb`."""

    count: Any  # shape=(), dtype=int32: updates made
    delta: optax.Updates  # the last displacement, x_k - x_{k-1}


class ScaleByNormalizedShbState(NamedTuple):
    """State of :func:`scale_by_normalized_shb`."""

    count: Any  # shape=(), dtype=int32: updates made
    average: optax.Updates  # exponential average of the gradients, from 0


def at_count(value: base.Scalar | base.Schedule, count: jax.Array) -> Any:
    """The value of a hyperparameter at an update: schedules are called, the rest is returned."""
    return value(count) if callable(value) else value


def scale_by_shb(
    step_size: base.Scalar | base.Schedule, momentum: base.Scalar | base.Schedule
) -> optax.GradientTransformation:
    r"""Heavy ball with step size and momentum of each update: returns the displacement.

    .. math::

      \Delta_{k+1} = \beta_k \Delta_k - \alpha_k g_k, \qquad x_{k+1} = x_k + \Delta_{k+1},
      \qquad \Delta_0 = 0

    which is :math:`x_{k+1} = x_k - \alpha_k g_k + \beta_k (x_k - x_{k-1})`. The sign and the step
    size are in the result: apply it as it is, with no learning rate after it. With constant
    coefficients the iterates are those of :func:`sbt.optim.sgd`; when :math:`\alpha_k` varies they
    are not, because there the learning rate also rescales what the buffer holds.

    Args:
      step_size: :math:`\alpha_k` (units of parameter² per unit of loss): number, traced scalar, or
        schedule of the update count.
      momentum: :math:`\beta_k`, dimensionless: the same.

    Returns:
      The transformation. Its buffer has the params' dtype and exists for every value of momentum.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt.optim.shb import scale_by_shb
      >>> link = scale_by_shb(lambda k: 0.1 / (k + 1), 0.5)
      >>> state = link.init(jnp.zeros(1))
      >>> for _ in range(3):
      ...     delta, state = link.update(jnp.ones(1), state)
      ...     print(f'{delta[0]:.4f}')
      -0.1000
      -0.1000
      -0.0833

    References:
      Polyak, `Some methods of speeding up the convergence of iteration methods
      <https://doi.org/10.1016/0041-5553(64)90137-5>`_, 1964

      Dang, Babanezhad and Vaswani, `(Accelerated) Noise-adaptive Stochastic Heavy-Ball Momentum
      <https://arxiv.org/abs/2401.06738>`_, 2024
    """

    def init(params: Any) -> ScaleByShbState:
        return ScaleByShbState(jnp.zeros([], jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: ScaleByShbState, params: Any = None) -> Any:
        del params
        alpha, beta = at_count(step_size, state.count), at_count(momentum, state.count)

        def move(g: jax.Array, d: jax.Array) -> jax.Array:
            wide = base.widen(d)
            kept = base.scalar_like(beta, d) * wide
            return (kept - base.scalar_like(alpha, d) * g.astype(wide.dtype)).astype(d.dtype)

        delta = jax.tree.map(move, updates, state.delta)
        out = jax.tree.map(lambda g, d: d.astype(g.dtype), updates, delta)
        return out, ScaleByShbState(optax.safe_increment(state.count), delta)

    return base.link(init, update)


def shb(
    learning_rate: base.Scalar | base.Schedule,
    momentum: base.Decay | base.Schedule = 0.9,
    weight_decay: base.NonNegative = 0.0,
    *,
    mask: base.Mask = None,
) -> base.Rule:
    r"""Stochastic heavy ball, learning rate inside the buffer: see :func:`scale_by_shb`.

    A change of the learning rate acts on new gradients only and takes about
    :math:`1/(1-\beta)` updates to act in full. (The momentum correction of Goyal et al. turns this
    form into that of :func:`sbt.optim.sgd`.)

    Args:
      learning_rate: :math:`\alpha_k`, per update in mean form: number, traced scalar or schedule.
      momentum: :math:`\beta_k \in [0, 1)`: the same.
      weight_decay: coefficient of :math:`\tfrac12\|w\|^2` in the mean loss.
      mask: leaves to decay, as in :func:`sbt.optim.sgd`.

    Returns:
      The update rule.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from sbt import optim
      >>> loss = lambda w: 0.5 * jnp.sum(w**2)
      >>> rule = optim.shb(0.1, momentum=0.9)
      >>> w = jnp.array([1.0, -2.0])
      >>> state = rule.init(w)
      >>> for _ in range(3):
      ...     updates, state = rule.update(jax.grad(loss)(w), state, w)
      ...     w = optax.apply_updates(w, updates)
      ...     print(f'{loss(w):.4f}')
      2.0250
      1.2960
      0.5905

    References:
      Dang, Babanezhad and Vaswani, `(Accelerated) Noise-adaptive Stochastic Heavy-Ball Momentum
      <https://arxiv.org/abs/2401.06738>`_, 2024
    """
    return base.chain(base.add_l2(weight_decay, mask), scale_by_shb(learning_rate, momentum))


def scale_by_normalized_shb(
    momentum: base.Decay | base.Schedule,
) -> optax.GradientTransformation:
    r"""The damped buffer :math:`u_{k+1} = \beta_k u_k + (1 - \beta_k) g_k`, which it returns.

    It starts at 0 without bias correction (``optax.ema`` corrects unless told not to): the first
    updates are short, the k-th by :math:`1 - \beta^k`.

    Args:
      momentum: :math:`\beta_k \in [0, 1)`: number, traced scalar, or schedule of the update count.

    Returns:
      The transformation.
    """

    def init(params: Any) -> ScaleByNormalizedShbState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return ScaleByNormalizedShbState(jnp.zeros([], jnp.int32), zeros)

    def update(updates: Any, state: ScaleByNormalizedShbState, params: Any = None) -> Any:
        del params
        beta = at_count(momentum, state.count)

        def mix(g: jax.Array, u: jax.Array) -> jax.Array:
            wide, kept = base.widen(u), base.scalar_like(beta, u)
            return (kept * wide + (1 - kept) * g.astype(wide.dtype)).astype(u.dtype)

        average = jax.tree.map(mix, updates, state.average)
        out = jax.tree.map(lambda g, u: u.astype(g.dtype), updates, average)
        return out, ScaleByNormalizedShbState(optax.safe_increment(state.count), average)

    return base.link(init, update)


def normalized_shb(
    learning_rate: base.Scalar | base.Schedule,
    momentum: base.Decay | base.Schedule = 0.9,
    weight_decay: base.NonNegative = 0.0,
    *,
    mask: base.Mask = None,
) -> base.Rule:
    r"""Normalised heavy ball (NSHB): the damped buffer, learning rate last.

    .. math::

      u_{k+1} = \beta u_k + (1-\beta) g_k, \qquad w_{k+1} = w_k - \eta_k u_{k+1}

    :math:`\eta` is the effective learning rate for every :math:`\beta`: this is the theory form of
    Wang et al. (their equation 3), and the iterates are those of :func:`sbt.optim.sgd` with the
    learning rate :math:`\gamma = \eta (1-\beta)`. A sweep over momentum keeps the other axes
    comparable in this form only.

    Args:
      learning_rate: :math:`\eta`, effective, per update in mean form: number, traced scalar or
        schedule.
      momentum: :math:`\beta_k \in [0, 1)`: the same; 0 is SGD.
      weight_decay: coefficient of :math:`\tfrac12\|w\|^2` in the mean loss.
      mask: leaves to decay, as in :func:`sbt.optim.sgd`.

    Returns:
      The update rule.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from sbt import optim
      >>> loss = lambda w: 0.5 * jnp.sum(w**2)
      >>> rule = optim.normalized_shb(1.0, momentum=0.9)
      >>> w = jnp.array([1.0, -2.0])
      >>> state = rule.init(w)
      >>> for _ in range(3):
      ...     updates, state = rule.update(jax.grad(loss)(w), state, w)
      ...     w = optax.apply_updates(w, updates)
      ...     print(f'{loss(w):.4f}')
      2.0250
      1.2960
      0.5905

    References:
      Sato and Iiduka, `Role of Momentum in Smoothing Objective Function and Generalizability of
      Deep Neural Networks <https://arxiv.org/abs/2402.02325>`_, 2024

      Wang et al., `The Marginal Value of Momentum for Small Learning Rate SGD
      <https://arxiv.org/abs/2307.15196>`_, 2024
    """
    return base.chain(
        base.add_l2(weight_decay, mask),
        scale_by_normalized_shb(momentum),
        base.scale_by_learning_rate(learning_rate),
    )
