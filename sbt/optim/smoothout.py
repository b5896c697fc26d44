"""SmoothOut: gradients at randomly perturbed weights, steps from the unperturbed ones."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sbt.optim import base
from sbt.optim.sgd import sgd


class SmoothOutState(NamedTuple):
    """State of :func:`smoothout`."""

    count: Any  # shape=(), dtype=int32: updates made
    inner: Any  # state of the wrapped rule


def smoothout(
    inner: optax.GradientTransformation,
    amplitude: base.NonNegative | base.Schedule,
    *,
    adaptive: bool = False,
    noise_mask: base.Mask = "kernels",
) -> base.Rule:
    r"""Takes every gradient at weights perturbed by uniform noise.

    .. math:: \theta_i \sim U(-a, a), \qquad g_t = \nabla L_{B_t}(w_t + \theta), \qquad
              w_{t+1} = w_t + \Delta(g_t)

    so that it descends the loss averaged over a box around the weights: sharp minima are smoothed
    out. The noise is in the *evaluation point* only (``rule.evaluate_at``); it is gone when the
    step is made. ``optax.add_noise``, which perturbs the gradient, is another method.

    With ``adaptive`` (AdaSmoothOut) the noise of every output filter f is rescaled to
    :math:`\|\theta_f\| = a \|w_f\|`. The filter is the last axis (flax's layout, HWIO and in-out);
    a leaf with fewer than two axes counts as one filter.

    The paper leaves batch-norm parameters unperturbed. ``noise_mask='kernels'`` does that and
    leaves biases alone too, which layouts alone cannot tell from batch-norm parameters; give a tree
    of bools to perturb biases.

    The key decides the noise: one key per update gives all micro-batches of a batch the same
    noise. Ghost batches with noise of their own, the paper's large-batch variant, are micro-batches
    that call ``evaluate_at`` each with a key of its own; this rule allows it.

    Args:
      inner: the rule that makes the step of the gradient.
      amplitude: :math:`a`: half-width of the box in parameter units, or without unit if
        ``adaptive``. Number, traced scalar or schedule of the update count; the paper's falls as
        :math:`a\,(1+t)^{-0.275}`.
      adaptive: rescale per output filter.
      noise_mask: leaves to perturb: ``'all'``, ``'kernels'``, a tree of bools or a callable.

    Returns:
      The rule; its ``evaluate_at`` needs a key.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from sbt import optim
      >>> rule = optim.smoothout(optax.sgd(0.1), 0.01, adaptive=True)
      >>> params = {'kernel': jnp.ones((3, 3, 2, 4)), 'bias': jnp.ones(4)}
      >>> state = rule.init(params)
      >>> point = rule.evaluate_at(params, state, jax.random.key(0))
      >>> noise = jax.tree.map(lambda a, b: a - b, point, params)
      >>> sizes = jnp.sqrt(jnp.sum(noise['kernel'] ** 2, axis=(0, 1, 2)) / 18)
      >>> print(*(f'{size:.4f}' for size in sizes), noise['bias'])
      0.0100 0.0100 0.0100 0.0100 [0. 0. 0. 0.]

    References:
      Wen et al., `SmoothOut: Smoothing Out Sharp Minima to Improve Generalization in Deep Learning
      <https://arxiv.org/abs/1805.07898>`_, 2018
    """
    wrapped = optax.with_extra_args_support(inner)

    def init(params: Any) -> SmoothOutState:
        return SmoothOutState(jnp.zeros([], jnp.int32), inner.init(params))

    def update(updates: Any, state: SmoothOutState, params: Any = None, **extra: Any) -> Any:
        step, inner_state = wrapped.update(updates, state.inner, params, **extra)
        return step, SmoothOutState(optax.safe_increment(state.count), inner_state)

    def evaluate_at(params: Any, state: SmoothOutState, key: jax.Array | None = None) -> Any:
        if key is None:
            raise ValueError("SmoothOut draws noise: evaluate_at(params, state, key) needs a key.")
        base.need_real("smoothout", params)
        inner_key, noise_key = jax.random.split(key)
        size = base.at_count(amplitude, state.count)
        point = base.evaluation_point(inner, params, state.inner, inner_key)
        leaves, structure = jax.tree.flatten(point)
        chosen = jax.tree.leaves(base.mask_leaves(noise_mask, params))
        return jax.tree.unflatten(
            structure,
            [
                _perturb(jax.random.fold_in(noise_key, i), w, size, adaptive) if on else w
                for i, (w, on) in enumerate(zip(leaves, chosen, strict=True))
            ],
        )

    return base.Rule(init, update, evaluate_at)


def _perturb(key: jax.Array, w: jax.Array, amplitude: Any, adaptive: bool) -> jax.Array:
    noise = jax.random.uniform(key, w.shape, w.dtype, -1.0, 1.0)
    if adaptive:
        axes = tuple(range(w.ndim - 1)) if w.ndim > 1 else None
        length, size = (
            base.sqrt(jnp.sum(jnp.square(x), axis=axes, keepdims=True)) for x in (noise, w)
        )
        noise = noise * size / jnp.where(length > 0, length, 1)
    return w + amplitude * noise


@base.RULES.register("smoothout_sgd", source="Wen et al. 2018, arXiv 1805.07898")
def smoothout_sgd(
    learning_rate: base.Scalar | base.Schedule,
    momentum: base.Decay | None = 0.9,
    weight_decay: base.NonNegative = 0.0,
    amplitude: base.NonNegative | base.Schedule = 0.01,
    *,
    adaptive: bool = False,
    noise_mask: base.Mask = "kernels",
    decay_mask: base.Mask = None,
) -> base.Rule:
    r"""SGD at smoothed weights: :func:`sbt.optim.sgd` in :func:`smoothout`.

    .. math:: \xi_t \sim U(-a, a)^n, \quad
              u_{t+1} = \beta u_t + \nabla L(w_t + \xi_t) + \lambda w_t, \quad
              w_{t+1} = w_t - \eta u_{t+1}

    Args:
      learning_rate: in mean form: number, traced scalar or schedule.
      momentum: as in :func:`sbt.optim.sgd`.
      weight_decay: as in :func:`sbt.optim.sgd`; the unperturbed weights are decayed.
      amplitude: see :func:`smoothout`; the paper's values per network are not known.
      adaptive: see :func:`smoothout`.
      noise_mask: leaves to perturb, see :func:`smoothout`.
      decay_mask: leaves to decay, as in :func:`sbt.optim.sgd`.

    Returns:
      The rule; its ``evaluate_at`` needs a key.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt import optim
      >>> rule = optim.smoothout_sgd(0.1, momentum=None, amplitude=0.01)
      >>> w = jnp.ones((2, 2))
      >>> point = rule.evaluate_at(w, rule.init(w), jax.random.key(0))
      >>> bool(jnp.all((point != w) & (jnp.abs(point - w) <= 0.01)))
      True
      >>> print(rule.update(2 * point, rule.init(w), w)[0].shape)
      (2, 2)

    References:
      Wen et al., `SmoothOut: Smoothing Out Sharp Minima to Improve Generalization in Deep Learning
      <https://arxiv.org/abs/1805.07898>`_, 2018
    """
    inner = sgd(learning_rate, momentum, weight_decay=weight_decay, decay_mask=decay_mask)
    return smoothout(inner, amplitude, adaptive=adaptive, noise_mask=noise_mask)
