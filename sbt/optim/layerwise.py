"""Layer-wise learning rates from norms of weights and gradients: LARS and PercentDelta."""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

from sbt.optim import base
from sbt.optim.ratio import Layer, scale_by_layer_ratio, with_rate_inside


def scale_by_lars(
    trust_coefficient: base.Positive = 0.001,
    weight_decay: base.NonNegative = 0.0,
    fallback_ratio: base.NonNegative = 1.0,
    *,
    form: Literal["paper", "optax"] = "paper",
    mask: base.Mask = "kernels",
    ratio_mask: base.Mask = "kernels",
) -> optax.GradientTransformationExtraArgs:
    r"""Scales each layer's decayed gradient by its LARS rate.

    .. math::

      d_l = \eta\, \frac{\|w_l\|}{\|g_l\| + \lambda \|w_l\|}\, (g_l + \lambda w_l)
      \quad\text{or, with form='optax',}\quad
      d_l = \eta\, \frac{\|w_l\|}{\|g_l + \lambda w_l\|}\, (g_l + \lambda w_l)

    The printed formula is defined at :math:`g_l = 0` if :math:`\lambda > 0`. Where it is not, where
    :math:`w_l = 0` (it would never move) and on the skip list, the rate is :math:`\eta` times
    ``fallback_ratio``. optax's convention for these leaves, a rate of 1, is
    ``fallback_ratio=1/trust_coefficient``: with the usual coefficient a zero-initialised bias then
    moves a thousand times farther than a weight.

    Args:
      trust_coefficient: :math:`\eta`, step length of a layer relative to its norm, at learning
        rate 1 (dimensionless).
      weight_decay: :math:`\lambda`, coefficient of :math:`\tfrac12\|w\|^2` in the mean loss.
      fallback_ratio: value taken for :math:`\|w_l\|/\|g_l\|` where there is none.
      form: which denominator.
      mask: leaves to decay, see :func:`sbt.optim.sgd`; by default biases and normalisation
        parameters are left out.
      ratio_mask: leaves with a LARS rate; False puts a leaf on the skip list.

    Returns:
      The transformation; it needs params and has no state.

    Raises:
      UserError: for another ``form``.
    """
    base.one_of("form", form, ("paper", "optax"))

    def ratio(layer: Layer) -> tuple[jax.Array, jax.Array]:
        weights = base.l2_norm(layer.weights)
        if form == "optax":
            return weights, base.l2_norm(layer.direction)
        return weights, base.l2_norm(layer.gradient) + layer.decay * weights

    return scale_by_layer_ratio(
        ratio, trust_coefficient, weight_decay, fallback_ratio, mask=mask, ratio_mask=ratio_mask
    )


def lars(
    learning_rate: base.Scalar | base.Schedule,
    momentum: base.Decay | None = 0.9,
    weight_decay: base.NonNegative = 0.0,
    trust_coefficient: base.Positive = 0.001,
    fallback_ratio: base.NonNegative = 1.0,
    *,
    nesterov: bool = False,
    form: Literal["paper", "optax"] = "paper",
    mask: base.Mask = "kernels",
    ratio_mask: base.Mask = "kernels",
) -> base.Rule:
    r"""LARS: layer-wise adaptive rate scaling, the learning rate inside the momentum buffer.

    .. math::

      \lambda_l = \eta \frac{\|w_l\|}{\|g_l\| + \beta \|w_l\|}, \qquad
      v_l \leftarrow m v_l + \gamma_t \lambda_l (g_l + \beta w_l), \qquad w_l \leftarrow w_l - v_l

    ``optax.lars`` differs in the denominator (``form='optax'``), in zero norms (see
    ``fallback_ratio`` of :func:`scale_by_lars`) and in rating biases and normalisation parameters
    like weights by default; the paper is silent on the last two. The paper uses
    :math:`\eta = 0.001`, :math:`m = 0.9`, :math:`\beta = 5\cdot10^{-4}`, and a learning rate that
    decays with power 2.

    Args:
      learning_rate: :math:`\gamma`, dimensionless: number, traced scalar or schedule.
      momentum: :math:`m \in [0, 1)`; None keeps no buffer.
      weight_decay: :math:`\beta` of the paper, coefficient of :math:`\tfrac12\|w\|^2` in the loss.
      trust_coefficient: :math:`\eta`, dimensionless.
      fallback_ratio: see :func:`scale_by_lars`.
      nesterov: use Nesterov's look-ahead.
      form: see :func:`scale_by_lars`.
      mask: see :func:`scale_by_lars`.
      ratio_mask: see :func:`scale_by_lars`.

    Returns:
      The update rule.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt import optim
      >>> params = {'kernel': 2 * jnp.ones((2, 2)), 'bias': jnp.zeros(2)}
      >>> grads = {'kernel': 100 * jnp.ones((2, 2)), 'bias': jnp.ones(2)}
      >>> rule = optim.lars(learning_rate=1.0, trust_coefficient=0.001)
      >>> updates, state = rule.update(grads, rule.init(params), params)
      >>> print(updates['kernel'][0], updates['bias'])
      [-0.002 -0.002] [-0.001 -0.001]

    References:
      You, Gitman and Ginsburg, `Large Batch Training of Convolutional Networks
      <https://arxiv.org/abs/1708.03888>`_, 2017 (algorithm 1)
    """
    link = scale_by_lars(
        trust_coefficient,
        weight_decay,
        fallback_ratio,
        form=form,
        mask=mask,
        ratio_mask=ratio_mask,
    )
    return with_rate_inside(link, learning_rate, momentum, nesterov)


def scale_by_percent_delta(
    weight_decay: base.NonNegative = 0.0,
    weight_floor: base.NonNegative = 1e-6,
    fallback_ratio: base.NonNegative = 1.0,
    *,
    mask: base.Mask = "kernels",
    ratio_mask: base.Mask = "kernels",
) -> optax.GradientTransformationExtraArgs:
    r"""Scales each layer so that its mean relative change per unit of learning rate is 1.

    .. math::

      d_l \leftarrow \frac{\mathrm{size}(w_l)}{\|d_l / (|w_l| + \epsilon)\|_1}\, d_l, \qquad
      d_l = g_l + \lambda w_l

    With :math:`\epsilon = 0` the rate is the harmonic mean of the radii :math:`|w_i/d_i|`, so the
    smallest weights of a layer decide; a single weight of exactly 0 makes it 0, and the layer then
    takes ``fallback_ratio``. The author's released code adds :math:`10^{-6}` to :math:`|w|` (the
    default here), :math:`10^{-5}` to the mean, and multiplies by a target that falls during
    training; the last two are left to the learning rate here.

    Args:
      weight_decay: :math:`\lambda`; the paper has none.
      weight_floor: :math:`\epsilon`, in parameter units.
      fallback_ratio: the rate of leaves that have none, see
        :func:`sbt.optim.ratio.scale_by_layer_ratio`.
      mask: leaves to decay, see :func:`sbt.optim.sgd`.
      ratio_mask: leaves with a rate of their own.

    Returns:
      The transformation; it needs params and has no state.
    """

    def ratio(layer: Layer) -> tuple[jax.Array, jax.Array]:
        change, size = base.magnitude(layer.direction), base.magnitude(layer.weights)
        size = size + jnp.asarray(weight_floor).astype(size.dtype)
        still = change == 0
        relative = change / jnp.where(still, jnp.ones_like(size), size)
        return jnp.ones_like(layer.decay), jnp.mean(relative)

    return scale_by_layer_ratio(
        ratio, 1.0, weight_decay, fallback_ratio, mask=mask, ratio_mask=ratio_mask
    )


def percent_delta(
    learning_rate: base.Scalar | base.Schedule,
    momentum: base.Decay | None = None,
    weight_decay: base.NonNegative = 0.0,
    weight_floor: base.NonNegative = 1e-6,
    fallback_ratio: base.NonNegative = 1.0,
    *,
    mask: base.Mask = "kernels",
    ratio_mask: base.Mask = "kernels",
) -> base.Rule:
    r"""PercentDelta: every layer changes by the same average percentage.

    .. math::

      \Delta w_l = -\gamma \frac{\mathrm{size}(w_l)}{\|g_l / w_l\|_1}\, g_l
      \quad\Longrightarrow\quad
      \operatorname{mean}_i |\Delta w_i / w_i| = \gamma

    Momentum is no part of it; here it may follow, the learning rate inside the buffer as in LARS.

    Args:
      learning_rate: :math:`\gamma`, the mean relative change of a layer's weights per update
        (dimensionless): number, traced scalar or schedule.
      momentum: of the buffer that follows; None (the default) for none.
      weight_decay: see :func:`scale_by_percent_delta`.
      weight_floor: see :func:`scale_by_percent_delta`.
      fallback_ratio: see :func:`scale_by_percent_delta`.
      mask: see :func:`scale_by_percent_delta`.
      ratio_mask: see :func:`scale_by_percent_delta`.

    Returns:
      The update rule.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt import optim
      >>> w, g = jnp.array([[1.0, -2.0]]), jnp.array([[5.0, 30.0]])
      >>> rule = optim.percent_delta(0.01, weight_floor=0.0)
      >>> updates, _ = rule.update(g, rule.init(w), w)
      >>> print(updates, jnp.mean(jnp.abs(updates / w)))
      [[-0.005 -0.03 ]] 0.01

    References:
      Abu-El-Haija, `Proportionate gradient updates with PercentDelta
      <https://arxiv.org/abs/1708.07227>`_, 2017

      Gao and Zhong, `Study on the Large Batch Size Training of Neural Networks Based on the
      Second Order Gradient <https://arxiv.org/abs/2012.08795>`_, 2020 (equation 24)
    """
    link = scale_by_percent_delta(
        weight_decay, weight_floor, fallback_ratio, mask=mask, ratio_mask=ratio_mask
    )
    return with_rate_inside(link, learning_rate, momentum)
