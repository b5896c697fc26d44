"""Complete layer-wise adaptive rate scaling (CLARS) and the per-example norms that it needs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sbt.optim import base
from sbt.optim.ratio import Layer, scale_by_layer_ratio, with_rate_inside


def mean_example_norms(
    loss_fn: Callable[[Any, Any], jax.Array],
    params: Any,
    batch: Any,
    *,
    micro_batch: int = 1,
    chunk: int | None = None,
) -> Any:
    r"""Mean over a batch of each layer's per-example gradient norm.

    .. math:: \frac1B \sum_{i=1}^B \|\nabla_l f_i(w)\|_2 \quad\text{for every leaf } l

    With ``micro_batch`` :math:`g > 1` it is the mean over the :math:`B/g` micro-batches of the norm
    of their mean gradient: cheaper, and smaller by up to :math:`\sqrt g`.

    Args:
      loss_fn: ``loss_fn(params, batch)``, the mean loss of a batch of any size.
      params: the point.
      batch: a tree of arrays with a common leading dimension of B examples.
      micro_batch: :math:`g`, must divide B.
      chunk: number of gradients held in memory at a time; None for all (B/g copies of params).

    Returns:
      A tree like ``params`` of scalars, in at least float32.

    Raises:
      ValueError: if ``micro_batch`` does not divide the batch.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt import optim
      >>> loss = lambda w, x: jnp.mean(x * w)
      >>> print(optim.mean_example_norms(loss, jnp.array(1.0), jnp.array([1.0, -1.0, 4.0])))
      2.0
    """
    size = jax.tree.leaves(batch)[0].shape[0]
    if size % micro_batch:
        raise ValueError(f"micro_batch={micro_batch} does not divide the {size} examples")
    groups = jax.tree.map(
        lambda x: x.reshape((size // micro_batch, micro_batch, *x.shape[1:])), batch
    )

    def norms(group: Any) -> Any:
        return jax.tree.map(base.l2_norm, jax.grad(loss_fn)(params, group))

    each = jax.lax.map(norms, groups, batch_size=chunk or size // micro_batch)
    return jax.tree.map(lambda n: jnp.mean(n, axis=0), each)


def scale_by_clars(
    trust_coefficient: base.Positive = 0.001,
    weight_decay: base.NonNegative = 0.0,
    fallback_ratio: base.NonNegative = 1.0,
    *,
    mask: base.Mask = "kernels",
    ratio_mask: base.Mask = "kernels",
) -> optax.GradientTransformationExtraArgs:
    r"""Scales each layer by its norm over the mean norm of its *per-example* gradients.

    .. math::

      d_l = \eta\, \frac{\|w_l\|}{\tfrac1B \sum_i \|\nabla_l f_i(w)\| + \lambda\|w_l\|}\,
      (g_l + \lambda w_l)

    The norm of the averaged gradient, LARS's denominator, is small where the examples disagree,
    early in training above all; the average of the norms is not, which is why no warm-up is needed.
    For a batch of one example this is LARS. The place of the decay in the denominator is not taken
    from the paper; it is LARS's, so that the two agree there.

    ``update(updates, state, params, example_norms=norms)`` takes the mean norms, a tree like params
    of scalars, of the *whole* batch: average them over micro-batches and over devices as gradients
    are. :func:`mean_example_norms` computes them.

    Args:
      trust_coefficient: :math:`\eta`, dimensionless.
      weight_decay: :math:`\lambda`, coefficient of :math:`\tfrac12\|w\|^2` in the mean loss.
      fallback_ratio: value of the ratio where there is none (zero weights, zero norms, leaves that
        ``ratio_mask`` leaves out).
      mask: leaves to decay, see :func:`sbt.optim.sgd`.
      ratio_mask: leaves with a rate of their own.

    Returns:
      The transformation; it needs params and ``example_norms``, and has no state.
    """

    def ratio(layer: Layer, example_norm: jax.Array) -> tuple[jax.Array, jax.Array]:
        weights = base.l2_norm(layer.weights)
        return weights, example_norm + layer.decay * weights

    return scale_by_layer_ratio(
        ratio,
        trust_coefficient,
        weight_decay,
        fallback_ratio,
        mask=mask,
        ratio_mask=ratio_mask,
        extra="example_norms",
    )


def clars(
    learning_rate: base.Scalar | base.Schedule,
    momentum: base.Decay | None = 0.9,
    weight_decay: base.NonNegative = 0.0,
    trust_coefficient: base.Positive = 0.001,
    fallback_ratio: base.NonNegative = 1.0,
    *,
    mask: base.Mask = "kernels",
    ratio_mask: base.Mask = "kernels",
) -> base.Rule:
    r"""CLARS: :func:`scale_by_clars`, then the learning rate, then momentum, as in LARS.

    .. math:: v_l \leftarrow m v_l + \gamma_t d_l, \qquad w_l \leftarrow w_l - v_l

    Args:
      learning_rate: :math:`\gamma`, dimensionless: number, traced scalar or schedule.
      momentum: :math:`m \in [0, 1)`; None keeps no buffer.
      weight_decay: see :func:`scale_by_clars`.
      trust_coefficient: see :func:`scale_by_clars`.
      fallback_ratio: see :func:`scale_by_clars`.
      mask: see :func:`scale_by_clars`.
      ratio_mask: see :func:`scale_by_clars`.

    Returns:
      The update rule; ``update`` needs ``example_norms=``.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from sbt import optim
      >>> loss = lambda w, x: jnp.mean(x @ w)
      >>> w, x = jnp.ones((2, 2)), jnp.array([[3.0, 4.0], [-3.0, 4.0]])
      >>> rule = optim.clars(1.0, trust_coefficient=0.1)
      >>> norms = optim.mean_example_norms(loss, w, x)
      >>> updates, _ = rule.update(jax.grad(loss)(w, x), rule.init(w), w, example_norms=norms)
      >>> print(f'{norms:.4f} {updates[1, 0]:.4f} {updates[1, 1]:.4f}')
      3.5355 -0.1131 -0.1131

    References:
      Huo, Gu and Huang, `Large Batch Optimization for Deep Learning Using New Complete Layer-Wise
      Adaptive Rate Scaling <https://arxiv.org/abs/2002.01576>`_, 2021
    """
    link = scale_by_clars(
        trust_coefficient, weight_decay, fallback_ratio, mask=mask, ratio_mask=ratio_mask
    )
    return with_rate_inside(link, learning_rate, momentum)
