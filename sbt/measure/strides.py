r"""How far an update moves the parameters, and how much loss it buys.

References:
  Gao and Zhong, `Study on the Large Batch Size Training of Neural Networks Based on the Second
  Order Gradient <https://arxiv.org/abs/2012.08795>`_, 2020 (equations 5-8, figures 4, 5 and 7)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from sbt.measure.trees import Loss, Where, ravel


def parameter_stride(updates: Any, where: Where = None) -> jax.Array:
    r"""Mean magnitude :math:`\frac1d \sum_i |\Delta w_i|` of an update, in parameter units.

    Divided by the learning rate it is the *normalised* stride; for plain SGD that is the mean
    magnitude of the gradient, with momentum it is not.

    Args:
      updates: :math:`\Delta w`, what an optax rule returns, or a difference of parameters.
      where: the parameters that count, see :data:`sbt.measure.Where`.

    Examples:
      >>> print(parameter_stride({'a': jnp.array([1.0, -2.0]), 'b': jnp.zeros(1)}))
      1.0
      >>> print(parameter_stride({'a': jnp.array([1.0, -2.0]), 'b': jnp.zeros(1)}, 'a'))
      1.5
    """
    return jnp.mean(jnp.abs(ravel(updates, where)[0]))


class LossStride(NamedTuple):
    """First-order decrease of the loss by one update."""

    per_parameter: jax.Array  # shape=(), mean over parameters of -g_i dw_i, in nats
    total: jax.Array  # shape=(), their sum: what the loss should fall by, in nats


def loss_stride(gradients: Any, updates: Any, where: Where = None) -> LossStride:
    r"""Predicted decrease :math:`-\sum_i g_i \Delta w_i` of the loss.

    For plain SGD, :math:`\Delta w_i = -\eta g_i`, it is :math:`\eta \|g\|^2`; the paper's loss
    stride (equation 7) is the mean :math:`\eta g_i^2` over parameters, and over :math:`\eta` its
    figure 7. Positive where the loss falls.

    Args:
      gradients: of the batch that made the update.
      updates: :math:`\Delta w`.
      where: the parameters that count.

    Examples:
      >>> print(loss_stride(jnp.array([1.0, 3.0]), jnp.array([-0.1, -0.3])).total)
      1.0
    """
    g, step = ravel(gradients, where)[0], ravel(updates, where)[0]
    return LossStride(-jnp.mean(g * step), -jnp.sum(g * step))


def realised_loss_stride(loss_fn: Loss, params: Any, updates: Any) -> jax.Array:
    r"""Decrease :math:`L(w) - L(w + \Delta w)` that an update really brings, in nats.

    On the batch that made the update it tends to :func:`loss_stride` as the step goes to 0; the
    gap is curvature. On the whole split it is what training gains.

    Args:
      loss_fn: ``params -> loss``; close it over the batch.
      params: :math:`w`, before the update.
      updates: :math:`\Delta w`.

    Examples:
      >>> print(realised_loss_stride(lambda w: jnp.sum(w**2), jnp.ones(1), jnp.array([-1.0])))
      1.0
    """
    moved = jax.tree.map(lambda w, step: w + jnp.asarray(step, jnp.result_type(w)), params, updates)
    return loss_fn(params) - loss_fn(moved)


class Strides(NamedTuple):
    """Sums over the steps of an epoch, carried through a training loop."""

    steps: jax.Array  # shape=(), number of updates
    path: jax.Array  # shape=(), sum of the parameter strides: path length, parameter units
    normalised: jax.Array  # shape=(), sum of stride / learning rate, units of the gradient
    loss: jax.Array  # shape=(), sum of the predicted loss strides per parameter, nats
    normalised_loss: jax.Array  # shape=(), sum of those / learning rate


def init_strides() -> Strides:
    """Nothing measured yet."""
    return Strides(*(jnp.zeros(()) for _ in Strides._fields))


def add_strides(
    strides: Strides,
    gradients: Any,
    updates: Any,
    learning_rate: ArrayLike,
    where: Where = None,
) -> Strides:
    r"""Adds one update to the sums.

    ``path`` is the paper's area under the stride curve, :math:`\sum_t \frac1d\sum_i |\Delta
    w_{t,i}|`: the length of the way, averaged over parameters. The means over an epoch's steps that
    figures 4 and 7 show are ``normalised / steps`` and ``normalised_loss / steps``.

    Args:
      strides: so far.
      gradients: of the batch (of the whole update, not of one micro-batch).
      updates: what was added to the parameters.
      learning_rate: :math:`\eta` of this step, in mean form.
      where: the parameters that count.

    Examples:
      >>> sums = init_strides()
      >>> for g in (jnp.array([1.0, -3.0]), jnp.array([2.0, 0.0])):
      ...     sums = add_strides(sums, g, -0.5 * g, 0.5)
      >>> print(sums.path, sums.normalised / sums.steps, sums.normalised_loss / sums.steps)
      1.5 1.5 3.5
    """
    stride = parameter_stride(updates, where).astype(strides.path.dtype)
    loss = loss_stride(gradients, updates, where).per_parameter.astype(strides.path.dtype)
    rate = jnp.asarray(learning_rate).astype(strides.path.dtype)
    moving = rate > 0
    rate = jnp.where(moving, rate, 1)
    return Strides(
        strides.steps + 1,
        strides.path + stride,
        strides.normalised + jnp.where(moving, stride / rate, 0),
        strides.loss + loss,
        strides.normalised_loss + jnp.where(moving, loss / rate, 0),
    )


def path_length(weights: Any, where: Where = None) -> jax.Array:
    r"""Length :math:`\sum_t \frac1d\sum_i |w_{t+1,i} - w_{t,i}|` of a way through saved weights.

    From weights saved once an epoch it is a lower bound of the way over all steps.

    Args:
      weights: tree whose leaves have a leading axis of time.
      where: the parameters that count.

    Returns:
      Parameter units, averaged over parameters.

    Examples:
      >>> print(path_length(jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, -3.0]])))
      2.0
    """
    return jnp.sum(
        jax.vmap(lambda step: parameter_stride(step, where))(
            jax.tree.map(lambda w: w[1:] - w[:-1], weights)
        )
    )
