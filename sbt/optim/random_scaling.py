r"""Random scaling: every update is multiplied by one random number of mean 1."""

from typing import Annotated, Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from sbt.optim import base
from sbt.optim.sgd import sgd
from sbt.optim.shb import scale_by_shb
from sbt.ranges import Range

Distribution = Literal["exponential", "uniform", "none"]
_ZHANG = "Zhang and Cutkosky 2024, arXiv 2405.09742"


class RandomScalingState(NamedTuple):
    """State of :func:`random_scaling`."""

    count: Any  # shape=(), dtype=int32: updates made; the scale's key is folded with it
    scale: jax.Array  # shape=(): the number that the last update was multiplied by; 1 at the start
    weight: jax.Array  # shape=(): sum of the weights in the average, in units of the newest
    average: Any  # mean of the points where gradients were taken, float32 at least; () without
    inner: Any  # state of the wrapped rule


def random_scaling(
    inner: optax.GradientTransformation,
    seed: Annotated[float | jax.Array, Range(0, 2**32 - 1)] = 0,
    distribution: Distribution = "exponential",
    average_decay: base.Fraction | None = None,
) -> base.Rule:
    r"""Multiplies all updates of ``inner`` by one random scalar per step.

    .. math:: x_{n+1} = x_n + s_{n+1}\,\Delta_{n+1}, \qquad s_n \sim \mathrm{Exp}(1)

    where :math:`\Delta` is what ``inner`` (learning rate included) makes of the gradient at
    :math:`x_n`. The mean and the variance of :math:`s` are 1, and the gradient at the new point is
    an unbiased estimate of the change along the step, :math:`E[F(x+s\Delta) - F(x)] =
    E\langle\nabla F(x+s\Delta), \Delta\rangle`, however rough F is. The scale is one number for the
    whole tree, and it never enters the buffers of ``inner``.

    The method's output is not the last point but the average

    .. math::

      \bar x_n = \frac{\beta - \beta^n}{1 - \beta^n}\,\bar x_{n-1} + \frac{1-\beta}{1-\beta^n}\,x_n

    over the points :math:`x_1 \dots x_n` at which gradients were taken: the bias-corrected
    exponential average. Because :math:`\Delta_1 = 0`, :math:`x_1` is the start point itself, and it
    counts: the average of the first n updates holds the params that those updates were *given*.
    Read it with :func:`averaged_iterate`.

    Args:
      inner: the rule to wrap, with its learning rate; its ``evaluate_at`` is kept.
      seed: of the scales: a whole number or traced scalar, or a typed key. The scale of update n
        is drawn from this key folded with n, so that the state holds no key.
      distribution: ``'exponential'``; ``'uniform'`` on (0, 2), for which the next gradient is
        weighted by :math:`2 - s` to stay unbiased; or ``'none'``, s = 1: ``inner`` itself.
      average_decay: :math:`\beta \in [0, 1]` of the output average, 1 for the plain mean; may be
        traced. None keeps no average.

    Returns:
      The wrapped rule. ``update`` needs params when there is an average. It takes an optional extra
      argument ``key``, a typed key that replaces the rule's own for this update (for runs that
      differ in nothing but their own key).

    Raises:
      UserError: for another ``distribution``.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from sbt import optim
      >>> rule = optim.random_scaling(optax.sgd(0.1), seed=0, average_decay=0.9)
      >>> w = {'a': jnp.ones(2), 'b': jnp.ones(())}
      >>> state = rule.init(w)
      >>> updates, state = rule.update(w, state, w)
      >>> print(bool(updates['a'][0] == updates['b']), bool(updates['b'] == -0.1 * state.scale))
      True True
      >>> print(optim.averaged_iterate(state)['a'])
      [1. 1.]

    References:
      Zhang and Cutkosky, `Random Scaling and Momentum for Non-smooth Non-convex Optimization
      <https://arxiv.org/abs/2405.09742>`_, 2024
    """
    base.one_of("distribution", distribution, get_args(Distribution))
    wrapped = optax.with_extra_args_support(inner)

    def init(params: Any) -> RandomScalingState:
        def start(p: jax.Array) -> jax.Array:
            # A bfloat16 average would stop moving once its steps fall below its resolution.
            return jnp.zeros_like(base.widen(p))

        dtype = jnp.result_type(float)
        return RandomScalingState(
            count=jnp.zeros([], jnp.int32),
            scale=jnp.ones([], dtype),
            weight=jnp.zeros([], dtype),
            average=() if average_decay is None else jax.tree.map(start, params),
            inner=inner.init(params),
        )

    def draw(key: jax.Array, dtype: Any) -> jax.Array:
        if distribution == "exponential":
            return jax.random.exponential(key, (), dtype)
        if distribution == "uniform":
            return jax.random.uniform(key, (), dtype, 0.0, 2.0)
        return jnp.ones((), dtype)

    def update(
        updates: Any,
        state: RandomScalingState,
        params: Any = None,
        *,
        key: jax.Array | None = None,
        **extra: Any,
    ) -> Any:
        weight, average = state.weight, state.average
        if average_decay is not None:
            base.need_params(params)
            weight = 1 + average_decay * weight
            average = jax.tree.map(lambda old, x: old + 1 / weight * (x - old), average, params)
        if distribution == "uniform":
            updates = jax.tree.map(lambda g: (2 - state.scale) * g, updates)
        displacement, inner_state = wrapped.update(updates, state.inner, params, **extra)
        fresh = jax.random.fold_in(_as_key(seed), state.count) if key is None else key
        scale = draw(fresh, state.scale.dtype)
        scaled = jax.tree.map(lambda d: scale * d, displacement)
        count = optax.safe_increment(state.count)
        return scaled, RandomScalingState(count, scale, weight, average, inner_state)

    def evaluate_at(params: Any, state: RandomScalingState, key: jax.Array | None = None) -> Any:
        return base.evaluation_point(inner, params, state.inner, key)

    return base.Rule(init, update, evaluate_at)


def _as_key(seed: float | jax.Array) -> jax.Array:
    value = jnp.asarray(seed)
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return value
    return jax.random.key(value.astype(jnp.uint32))


def averaged_iterate(state: RandomScalingState) -> Any:
    r"""The output point :math:`\bar x_n` of :func:`random_scaling`, in float32 at least.

    It is the average over the params that the updates so far were given, so it is not defined (all
    zeros) before the first; the params that the last update produced are not in it yet.
    """
    return state.average


@base.RULES.register("randomly_scaled_sgdm", source=_ZHANG)
def randomly_scaled_sgdm(
    learning_rate: base.Scalar | base.Schedule,
    momentum: base.Decay | None = 0.9,
    weight_decay: base.NonNegative = 0.0,
    *,
    seed: Annotated[float | jax.Array, Range(0, 2**32 - 1)] = 0,
    distribution: Distribution = "exponential",
    average_decay: base.Fraction | None = None,
    decay_mask: base.Mask = None,
) -> base.Rule:
    r"""SGDM whose steps are scaled by Exp(1) numbers: :func:`sbt.optim.sgd` in random scaling.

    What that is, :func:`random_scaling` says.

    Args:
      learning_rate: :math:`\eta`, in mean form: number, traced scalar or schedule.
      momentum: as in :func:`sbt.optim.sgd`.
      weight_decay: as in :func:`sbt.optim.sgd`.
      seed: see :func:`random_scaling`.
      distribution: see :func:`random_scaling`.
      average_decay: see :func:`random_scaling`.
      decay_mask: leaves to decay, as in :func:`sbt.optim.sgd`.

    Returns:
      The update rule.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt import optim
      >>> rule = optim.randomly_scaled_sgdm(0.5, 0.5, distribution='none')
      >>> w = jnp.asarray([1.0])
      >>> state = rule.init(w)
      >>> for _ in range(2):
      ...     step, state = rule.update(jnp.asarray([1.0]), state, w)
      ...     print(step)
      [-0.5]
      [-0.75]

    References:
      Zhang and Cutkosky, `Random Scaling and Momentum for Non-smooth Non-convex Optimization
      <https://arxiv.org/abs/2405.09742>`_, 2024
    """
    inner = sgd(learning_rate, momentum, weight_decay=weight_decay, decay_mask=decay_mask)
    return random_scaling(inner, seed, distribution, average_decay)


@base.RULES.register("exponentiated_o2nc", source=_ZHANG)
def exponentiated_o2nc(
    learning_rate: base.Scalar | base.Schedule,
    momentum: Annotated[base.Scalar, Range(0, 1, open_low=True)] = 0.9,
    regularization: base.NonNegative = 0.0,
    *,
    seed: Annotated[float | jax.Array, Range(0, 2**32 - 1)] = 0,
    distribution: Distribution = "exponential",
) -> base.Rule:
    r"""Exponentiated online-to-non-convex conversion with unconstrained mirror descent.

    .. math::

      x_n = x_{n-1} + s_n\Delta_n, \qquad
      \Delta_{n+1} = \frac{\beta}{1+\eta\mu}\,(\Delta_n - \eta\,g_n), \qquad \Delta_1 = 0

    with :math:`g_n` the gradient at :math:`x_n` and :math:`s_n \sim \mathrm{Exp}(1)`. It is
    :func:`sbt.optim.normalized_shb` in random scaling, with momentum
    :math:`\beta' = \beta / (1+\eta\mu)` and effective learning rate
    :math:`\eta\beta' / (1-\beta')`. The output is the average with decay
    :math:`\beta`, kept in the state (:func:`averaged_iterate`).

    Args:
      learning_rate: :math:`\eta`, in mean form: number, traced scalar or schedule.
      momentum: :math:`\beta \in (0, 1]`, the discount of the losses and of the output average. The
        theory takes it close to 1; the paper's value for networks is not known to us.
      regularization: :math:`\mu \ge 0`, of the displacement, in inverse units of a learning rate.
      seed: see :func:`random_scaling`.
      distribution: see :func:`random_scaling`.

    Returns:
      The update rule.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from sbt import optim
      >>> rule = optim.exponentiated_o2nc(0.05, momentum=0.9, regularization=0.1)
      >>> w = jnp.array([1.0, -2.0])
      >>> state = rule.init(w)
      >>> for _ in range(100):
      ...     updates, state = rule.update(jnp.sign(w), state, w)  # gradient of sum |w_i|
      ...     w = optax.apply_updates(w, updates)
      >>> print(bool(jnp.sum(jnp.abs(optim.averaged_iterate(state))) < 0.5))
      True

    References:
      Zhang and Cutkosky, `Random Scaling and Momentum for Non-smooth Non-convex Optimization
      <https://arxiv.org/abs/2405.09742>`_, 2024
    """

    def contraction(count: jax.Array) -> jax.Array:
        return momentum / (1 + base.at_count(learning_rate, count) * regularization)

    def step_size(count: jax.Array) -> jax.Array:
        return contraction(count) * base.at_count(learning_rate, count)

    return random_scaling(scale_by_shb(step_size, contraction), seed, distribution, momentum)
