r"""Stochastic gradient descent, plain and with the clipping of Hoffer, Hubara & Soudry (2017).

Rules are in mean form, as in any library: the learning rate per example :math:`\tilde\eta`
(``base_lr``) of :math:`w \leftarrow w - \tilde\eta \sum_{i \in B} \nabla L_i` is turned into
theirs, :math:`\eta = m \tilde\eta`, by :func:`sbt.schedules.scaled_learning_rate`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from sbt.optim import base


@base.RULES.register("sgd", source="Masters and Luschi 2018, arXiv 1804.07612, equations 1-6")
def sgd(
    learning_rate: base.Scalar | base.Schedule,
    momentum: base.Decay | None = 0.0,
    nesterov: bool = False,
    weight_decay: base.NonNegative | None = 0.0,
    decay_mask: base.Mask = None,
) -> base.Rule:
    r"""SGD with coupled weight decay and heavy-ball momentum, learning rate last.

    .. math::

      g_t = \tfrac1m \sum_{i \in B_t} \nabla L_i(w_t) + \lambda w_t, \qquad
      u_{t+1} = \beta u_t + g_t, \qquad
      w_{t+1} = w_t - \eta_t u_{t+1}

    The decay is an L2 term of the mean-form loss: it is multiplied by the learning rate and enters
    the momentum buffer. The learning rate stays outside the buffer, so a change of it acts at once
    (no momentum correction is due). With ``nesterov`` the step uses :math:`g_t + \beta u_{t+1}`.

    The paper trains with :math:`\beta = 0`; whether biases and normalisation parameters are decayed
    is not stated there: all are by default, ``decay_mask='kernels'`` leaves them out.

    Args:
      learning_rate: :math:`\eta`, per update in mean form (units of parameter² per unit of loss);
        a number, a traced scalar, or a schedule of the update count.
      momentum: :math:`\beta \in [0, 1)`. Any number, traced or not, 0 included, keeps a buffer (so
        that runs which differ in it share a program); None keeps none.
      nesterov: use Nesterov's look-ahead.
      weight_decay: :math:`\lambda \ge 0`, the coefficient of :math:`\tfrac12\|w\|^2` in the mean
        loss, not multiplied by the batch size. None for none.
      decay_mask: leaves to decay: None or ``'all'``; ``'kernels'`` for those with two dimensions or
        more; a tree of bools; or a callable from params to one.

    Returns:
      The update rule.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from sbt import optim
      >>> loss = lambda w: 0.5 * jnp.sum(w**2)
      >>> rule = optim.sgd(0.1, momentum=0.9)
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
      Masters and Luschi, `Revisiting Small Batch Training for Deep Neural Networks
      <https://arxiv.org/abs/1804.07612>`_, 2018 (equations 1-3)

      Sutskever et al., `On the importance of initialization and momentum in deep learning
      <https://proceedings.mlr.press/v28/sutskever13.html>`_, 2013 (the look-ahead)
    """
    decay = optax.identity() if weight_decay is None else base.add_l2(weight_decay, decay_mask)
    return base.chain(
        decay, base.heavy_ball(momentum, nesterov), base.scale_by_learning_rate(learning_rate)
    )


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

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        del params, extra
        norm = base.l2_norm(updates)
        factor = jnp.where(norm > max_norm, max_norm / jnp.where(norm > 0, norm, 1), 1)
        return jax.tree.map(lambda g: factor * g, updates), state

    return base.Rule(lambda _: optax.EmptyState(), update)


@base.RULES.register("hoffer_sgd", source="Hoffer, Hubara and Soudry 2017, arXiv 1705.08741")
def hoffer_sgd(
    learning_rate: base.Scalar | base.Schedule,
    momentum: base.Decay | None = 0.9,
    weight_decay: base.NonNegative = 0.0,
    max_norm: base.Positive = 5.0,
    *,
    decay_mask: base.Mask = None,
) -> base.Rule:
    r"""SGD with momentum on gradients clipped by their global norm.

    .. math::

      u_{t+1} = \beta u_t + g_t \min(1, c / \|g_t\|_2) + \lambda w_t, \qquad
      w_{t+1} = w_t - \eta_t u_{t+1}

    The gradient of the loss is clipped, then decay is added, as in the authors' PyTorch code. The
    rest of their large-batch recipe is in a config: ghost batch norm (``bn_batch``), the learning
    rate :math:`\eta = \eta_0\sqrt{m/128}` (``lr_scaling='sqrt'``), and as many *updates* as the
    small batch would have made, :math:`\lceil m/128 \rceil` times the ``epochs``. Note that the
    released code divides by the *ghost* batch size instead, and that its helper makes a new
    optimiser every epoch, which empties the momentum buffer. Neither is done here.

    Args:
      learning_rate: :math:`\eta`, in mean form: number, traced scalar or schedule.
      momentum: as in :func:`sbt.optim.sgd`.
      weight_decay: as in :func:`sbt.optim.sgd`.
      max_norm: :math:`c`, norm of a mean gradient; the paper's is 5. May be traced.
      decay_mask: leaves to decay, as in :func:`sbt.optim.sgd`.

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
    inner = sgd(learning_rate, momentum, weight_decay=weight_decay, decay_mask=decay_mask)
    return base.chain(clip_by_global_norm(max_norm), inner)
