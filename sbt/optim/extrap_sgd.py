"""EXTRAP-SGD: the gradient is taken at a point extrapolated with the worker's previous gradient."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sbt.optim import base


class ExtrapolateState(NamedTuple):
    """The worker's previous gradient and the number of updates."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32
    gradient: Any  # as params; zeros at the start


@base.RULES.register("extrap_sgd", source="Lin et al. 2020, arXiv 2006.05720")
def extrap_sgd(
    learning_rate: base.Scalar | base.Schedule,
    momentum: base.Decay | None = 0.0,
    weight_decay: base.NonNegative = 0.0,
    extrapolation: base.NonNegative = 1.0,
    *,
    nesterov: bool = True,
    decay_mask: base.Mask = None,
    axis_name: Any = None,
) -> base.Rule:
    r"""EXTRAP-SGD: local extragradient steps that reuse the previous mini-batch gradient.

    .. math::

      w^k_{t+\frac12} = w_t - \hat\gamma_t\, g^k_{t-\frac12}, \qquad
      u_{t+1} = \beta u_t + \tfrac1K \textstyle\sum_k g^k(w^k_{t+\frac12}), \qquad
      w_{t+1} = w_t - \gamma_t (\bar g_t + \beta u_{t+1})

    for workers :math:`k = 1 \ldots K`, with :math:`g^k_{-1/2} = 0`, so the first gradient is taken
    at the start. Evaluate the gradient where ``rule.evaluate_at(params, state)`` says. The decay is
    part of the objective, so it is taken at the extrapolated point too. With one worker and
    :math:`\hat\gamma = 0` this is :func:`sbt.optim.sgd`.

    The paper's rule was taken from descriptions of it; :math:`\hat\gamma = \gamma/K`, the small
    batch's learning rate, is ``extrapolation=1/K``.

    Args:
      learning_rate: :math:`\gamma`, mean form: number, traced scalar or schedule.
      momentum: :math:`\beta \in [0, 1)` of the averaged gradient; None keeps no buffer.
      weight_decay: coefficient of :math:`\tfrac12\|w\|^2` in the mean loss.
      extrapolation: :math:`\hat\gamma / \gamma`, dimensionless.
      nesterov: Nesterov's look-ahead (the formula above); False steps along :math:`u_{t+1}`.
      decay_mask: leaves to decay, see :func:`sbt.optim.sgd`.
      axis_name: of the mapped axis over workers (``shard_map`` or ``vmap``). Each worker then
        extrapolates with its *own* gradient, keeps its own state, and the mean over the axis enters
        the buffer. None for a single worker.

    Returns:
      The update rule, whose ``evaluate_at`` is the extrapolated point; it needs params.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from sbt import optim
      >>> rule = optim.extrap_sgd(0.5)
      >>> w = jnp.array(1.0)
      >>> state = rule.init(w)
      >>> for _ in range(3):
      ...     point = rule.evaluate_at(w, state)
      ...     updates, state = rule.update(point, state, w)  # the gradient of w**2 / 2
      ...     w = optax.apply_updates(w, updates)
      ...     print(point, w)
      1.0 0.5
      0.0 0.5
      0.5 0.25

    References:
      Lin et al., `Extrapolation for Large-batch Training in Deep Learning
      <https://arxiv.org/abs/2006.05720>`_, 2020
    """

    def evaluate_at(params: Any, state: ExtrapolateState, key: Any = None) -> Any:
        del key
        hat = -(base.at_count(learning_rate, state.count) * extrapolation)
        return jax.tree.map(lambda p, g: p + hat * g, params, state.gradient)

    def init(params: Any) -> ExtrapolateState:
        return ExtrapolateState(jnp.zeros([], jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: ExtrapolateState, params: Any = None, **extra: Any) -> Any:
        del extra
        base.need_params(params)
        decay_on = base.mask_leaves(decay_mask, params)
        own = jax.tree.map(
            lambda g, p, decayed: g + weight_decay * p if decayed else g,
            updates,
            evaluate_at(params, state),
            decay_on,
        )
        mean = own if axis_name is None else jax.lax.pmean(own, axis_name)
        return mean, ExtrapolateState(optax.safe_increment(state.count), own)

    return base.chain(
        base.Rule(init, update, evaluate_at),
        base.heavy_ball(momentum, nesterov),
        base.scale_by_learning_rate(learning_rate),
    )
