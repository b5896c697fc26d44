r"""Adam, with moments in at least float32 and hyperparameters that may be traced."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from sbt.optim import base


def scale_by_adam(
    b1: base.Decay = 0.9, b2: base.Scalar = 0.999, eps: base.Scalar = 1e-8
) -> optax.GradientTransformation:
    r"""Adam's bias-corrected direction.

    .. math::

      m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \quad
      v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2, \quad
      r_t = \frac{m_t / (1-\beta_1^t)}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon}

    It is ``optax.scale_by_adam`` for numbers; traced ones, and half-precision params, keep the
    dtypes of updates and state here. Of complex entries it averages squared absolute values.

    Args:
      b1: :math:`\beta_1 \in [0, 1)`, may be traced.
      b2: :math:`\beta_2 \in [0, 1)`, may be traced.
      eps: :math:`\epsilon`, in units of a gradient, added outside the root.

    Returns:
      The transformation; its moments are float32 at least.
    """

    def init(params: Any) -> optax.ScaleByAdamState:
        # Zeros of their own for each moment: a step that donates its state must not see one twice.
        mu = jax.tree.map(lambda p: jnp.zeros_like(base.widen(p)), params)
        nu = jax.tree.map(lambda p: jnp.zeros_like(base.square(base.widen(p))), params)
        return optax.ScaleByAdamState(jnp.zeros([], jnp.int32), mu, nu)

    def update(updates: Any, state: optax.ScaleByAdamState, params: Any = None) -> Any:
        del params
        count = optax.safe_increment(state.count)

        def average(decay: base.Scalar, old: jax.Array, new: jax.Array) -> jax.Array:
            beta = base.scalar_like(decay, old)
            return beta * old + (1 - beta) * new

        def unbiased(decay: base.Scalar, moment: jax.Array) -> jax.Array:
            beta = jnp.asarray(decay).astype(base.real_dtype(moment))
            return moment / (1 - beta ** count.astype(beta.dtype)).astype(moment.dtype)

        def direction(g: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
            size = base.sqrt(unbiased(b2, v)) + base.scalar_like(eps, v)
            return (unbiased(b1, m) / size.astype(m.dtype)).astype(g.dtype)

        mu = jax.tree.map(lambda g, m: average(b1, m, g.astype(m.dtype)), updates, state.mu)
        nu = jax.tree.map(
            lambda g, v: average(b2, v, base.square(base.widen(g)).astype(v.dtype)),
            updates,
            state.nu,
        )
        out = jax.tree.map(direction, updates, mu, nu)
        return out, optax.ScaleByAdamState(count, mu, nu)

    return base.link(init, update)


def adam(
    learning_rate: base.Scalar | base.Schedule,
    b1: base.Decay = 0.9,
    b2: base.Decay = 0.999,
    eps: base.Positive = 1e-8,
    weight_decay: base.NonNegative = 0.0,
    *,
    mask: base.Mask = None,
) -> base.Rule:
    r"""Adam with an L2 term: :func:`scale_by_adam` times :math:`-\eta`.

    Keskar et al. train everything with it, at a library's defaults: :math:`\eta = 10^{-3}` for
    every batch size, so ``lr_scaling='none'`` in a config.

    Args:
      learning_rate: :math:`\eta`, length of a first step in every coordinate, in parameter units:
        number, traced scalar or schedule.
      b1: see :func:`scale_by_adam`.
      b2: see :func:`scale_by_adam`.
      eps: see :func:`scale_by_adam`.
      weight_decay: coefficient of :math:`\tfrac12\|w\|^2` in the mean loss. It enters the moments;
        for AdamW chain :func:`scale_by_adam` with ``optax.add_decayed_weights``.
      mask: leaves to decay, as in :func:`sbt.optim.sgd`.

    Returns:
      The update rule.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt import optim
      >>> rule = optim.adam(0.1)
      >>> w = jnp.array([1.0, -2.0])
      >>> print(rule.update(10 * w, rule.init(w), w)[0])
      [-0.1  0.1]

    References:
      Kingma and Ba, `Adam: A Method for Stochastic Optimization
      <https://arxiv.org/abs/1412.6980>`_, 2015 (algorithm 1)
    """
    return base.chain(
        base.add_l2(weight_decay, mask),
        scale_by_adam(b1, b2, eps),
        base.scale_by_learning_rate(learning_rate),
    )
