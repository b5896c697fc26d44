r"""The large-batch recipe of Hoffer, Hubara & Soudry (2017).

Three parts: ghost batch norm (``bn_batch`` in a config), a learning rate :math:`\propto\sqrt m`
with clipped gradients (:func:`hoffer_sgd` with ``lr_scaling='sqrt'``), and as many *updates* as the
small batch would have made (:func:`regime_adaptation`).
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from sbt.errors import UserError
from sbt.optim import base
from sbt.optim.sgd import sgd


def clip_by_global_norm(max_norm: base.Scalar) -> optax.GradientTransformation:
    r"""Shortens a gradient that is longer than ``max_norm``: :math:`g \min(1, c/\|g\|_2)`.

    Nothing is added to the norm (PyTorch's ``clip_grad_norm_`` adds 1e-6). Clip the mean gradient
    of the whole batch: after accumulation, and after the mean over devices.

    Args:
      max_norm: :math:`c > 0`, may be traced.

    Returns:
      The transformation; it has no state.

    >>> print(clip_by_global_norm(1.0).update(jnp.asarray([3.0, 4.0]), ())[0])
    [0.6 0.8]
    """

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        norm = base.l2_norm(updates)
        limit = jnp.asarray(max_norm).astype(norm.dtype)
        factor = jnp.where(norm > limit, limit / jnp.where(norm > 0, norm, 1), 1)
        return jax.tree.map(lambda g: base.multiply(g, factor), updates), state

    return base.link(lambda _: optax.EmptyState(), update)


def hoffer_sgd(
    learning_rate: base.Scalar | base.Schedule,
    momentum: base.Decay | None = 0.9,
    weight_decay: base.NonNegative = 0.0,
    max_norm: base.Positive = 5.0,
    *,
    mask: base.Mask = None,
) -> base.Rule:
    r"""SGD with momentum on gradients clipped by their global norm.

    .. math::

      u_{t+1} = \beta u_t + g_t \min(1, c / \|g_t\|_2) + \lambda w_t, \qquad
      w_{t+1} = w_t - \eta_t u_{t+1}

    The gradient of the loss is clipped, then decay is added, as in the authors' PyTorch code. Their
    learning rate is :math:`\eta = \eta_0\sqrt{m/128}` (``lr_scaling='sqrt'`` in a config); note
    that the released code takes the *ghost* batch size, and its helper makes a new
    optimiser every epoch, which empties the momentum buffer. Neither is done here.

    Args:
      learning_rate: :math:`\eta`, in mean form: number, traced scalar or schedule.
      momentum: as in :func:`sbt.optim.sgd`.
      weight_decay: as in :func:`sbt.optim.sgd`.
      max_norm: :math:`c`, norm of a mean gradient; the paper's is 5. May be traced.
      mask: leaves to decay, as in :func:`sbt.optim.sgd`.

    Returns:
      The update rule.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt import optim
      >>> rule = optim.hoffer_sgd(0.1, max_norm=5.0)
      >>> w = jnp.zeros(2)
      >>> print(rule.update(jnp.array([30.0, 40.0]), rule.init(w), w)[0])
      [-0.3 -0.4]

    References:
      Hoffer, Hubara and Soudry, `Train longer, generalize better: closing the generalization gap in
      large batch training of neural networks <https://arxiv.org/abs/1705.08741>`_, 2017
    """
    inner = sgd(learning_rate, momentum, weight_decay=weight_decay, mask=mask)
    return base.chain(clip_by_global_norm(max_norm), inner)


def regime_adaptation(epochs: int, batch_size: int, reference_batch: int = 128) -> int:
    r"""Epochs that give a large batch the updates of a small one: :math:`E\lceil m/m_0\rceil`.

    The drops of the learning rate are stretched by the same factor, so as fractions of the budget,
    which is how schedules are stated here, they stay where they are.

    Args:
      epochs: :math:`E`, of the small-batch regime.
      batch_size: :math:`m`.
      reference_batch: :math:`m_0`, batch size of the small-batch regime.

    Raises:
      UserError: for a batch size below 1.

    >>> regime_adaptation(200, 2048)
    3200
    """
    if batch_size < 1 or reference_batch < 1:
        raise UserError(
            "batch_size",
            f"batch sizes {batch_size} and {reference_batch}",
            "give batch sizes of 1 or more",
        )
    return epochs * -(-batch_size // reference_batch)
