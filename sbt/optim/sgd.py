r"""Stochastic gradient descent in mean form.

:func:`sbt.schedules.scaled_learning_rate` gives its :math:`\eta = m\tilde\eta` from the learning
rate per example :math:`\tilde\eta` (``base_lr``) of the sum form.
"""

import optax

from sbt.optim import base


def sgd(
    learning_rate: base.Scalar | base.Schedule,
    momentum: base.Decay | None = 0.0,
    nesterov: bool = False,
    weight_decay: base.NonNegative | None = 0.0,
    mask: base.Mask = None,
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
    is not stated there: all are by default, ``mask='kernels'`` leaves them out.

    Args:
      learning_rate: :math:`\eta`, per update in mean form (units of parameter² per unit of loss);
        a number, a traced scalar, or a schedule of the update count.
      momentum: :math:`\beta \in [0, 1)`. Any number, traced or not, 0 included, keeps a buffer (so
        that runs which differ in it share a program); None keeps none.
      nesterov: use Nesterov's look-ahead.
      weight_decay: :math:`\lambda \ge 0`, the coefficient of :math:`\tfrac12\|w\|^2` in the mean
        loss, not multiplied by the batch size. None for none.
      mask: leaves to decay: None or ``'all'``; ``'kernels'`` for those with two dimensions or more;
        a tree of bools; or a callable from params to one.

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
    decay = optax.identity() if weight_decay is None else base.add_l2(weight_decay, mask)
    return base.chain(
        decay, base.heavy_ball(momentum, nesterov), base.scale_by_learning_rate(learning_rate)
    )
