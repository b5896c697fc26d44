"""What the layer-wise rules share: a learning rate for each layer, and what to do without one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sbt.optim import base


class Layer(NamedTuple):
    """One leaf as a layer-wise rule sees it, in at least float32."""

    weights: jax.Array
    gradient: jax.Array  # without decay
    direction: jax.Array  # gradient + decay * weights
    decay: jax.Array  # shape=(); 0 for leaves that the decay mask leaves out


Ratio = Callable[..., tuple[jax.Array, jax.Array]]


def scale_by_layer_ratio(
    ratio: Ratio,
    coefficient: base.Scalar = 1.0,
    weight_decay: base.NonNegative = 0.0,
    fallback_ratio: base.NonNegative = 1.0,
    *,
    mask: base.Mask = "kernels",
    ratio_mask: base.Mask = "kernels",
    extra: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Multiplies every leaf's decayed gradient by a learning rate of its own.

    .. math::

      d_l = g_l + \lambda w_l, \qquad d_l \leftarrow \gamma\, R_l\, d_l, \qquad
      R_l = \frac{\text{numerator}}{\text{denominator}}

    A leaf has no ratio where ``ratio_mask`` leaves it out, and where numerator or denominator is 0
    or infinite (a layer of zeros, a layer without gradient): there :math:`R_l` is
    ``fallback_ratio``, which makes it a plain gradient step. A NaN stays one.

    Args:
      ratio: function of a :class:`Layer` (and, with ``extra``, of the leaf of that extra argument)
        that returns numerator and denominator, both scalars.
      coefficient: :math:`\gamma`.
      weight_decay: :math:`\lambda`, coefficient of :math:`\tfrac12\|w\|^2` in the mean loss.
      fallback_ratio: :math:`R_l` of the leaves that have none.
      mask: leaves to decay, see :func:`sbt.optim.sgd`.
      ratio_mask: leaves that have a ratio, likewise.
      extra: name of an extra argument of ``update`` with one leaf for each leaf of params.

    Returns:
      The transformation; no state.
    """

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        base.need_params(params)
        trees = []
        if extra is not None:
            if extra_args.get(extra) is None:
                raise ValueError(f"This rule needs update(updates, state, params, {extra}=...).")
            trees = [extra_args[extra]]

        def leaf(g: jax.Array, p: jax.Array, decayed: bool, adaptive: bool, *more: Any) -> Any:
            gradient = base.widen(g)
            weights = p.astype(gradient.dtype)
            real = base.real_dtype(gradient)
            decay, gamma, fallback = (
                jnp.asarray(value).astype(real)
                for value in (weight_decay if decayed else 0.0, coefficient, fallback_ratio)
            )
            direction = gradient + decay.astype(gradient.dtype) * weights
            layer = Layer(weights, gradient, direction, decay)
            if not adaptive:
                return ((gamma * fallback).astype(direction.dtype) * direction).astype(g.dtype)
            above, below = ratio(layer, *[jnp.asarray(m).astype(real) for m in more])
            missing = (above == 0) | (below == 0) | jnp.isinf(above) | jnp.isinf(below)
            # The direction is divided first: it may be as small as the denominator, and the
            # quotient of the two norms alone could overflow. What is missing enters no product, so
            # that derivatives stay finite.
            one = jnp.ones_like(below)
            unit = direction / jnp.where(missing, one, below).astype(direction.dtype)
            rate = gamma * jnp.where(missing, fallback, jnp.where(missing, one, above))
            return (unit * rate.astype(direction.dtype)).astype(g.dtype)

        decay_on = base.mask_leaves(mask, params)
        ratio_on = base.mask_leaves(ratio_mask, params)
        return jax.tree.map(leaf, updates, params, decay_on, ratio_on, *trees), state

    return base.link_with_extra(lambda _: optax.EmptyState(), update)


def with_rate_inside(
    link: optax.GradientTransformation,
    learning_rate: base.Scalar | base.Schedule,
    momentum: base.Decay | None,
    nesterov: bool = False,
) -> base.Rule:
    r"""``link``, then the learning rate, then momentum: :math:`v \leftarrow \beta v + \eta_t d_t`.

    The order of LARS. A change of the learning rate reaches the buffer's contents only as they
    decay; with a constant rate it equals the order of :func:`sbt.optim.sgd`.
    """
    return base.chain(
        link, base.scale_by_learning_rate(learning_rate), base.heavy_ball(momentum, nesterov)
    )
