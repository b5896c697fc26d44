r"""Stochastic gradient descent in mean form and in sum form, and the rules that link the two.

One number, the learning rate per example :math:`\tilde\eta` (``base_lr``), means the same at every
batch size: :math:`\theta \leftarrow \theta - \tilde\eta \sum_{i \in B} \nabla L_i`. The mean form
that libraries implement has :math:`\eta = m \tilde\eta`.
"""

from typing import Any

import jax.numpy as jnp
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


def base_lr_sgd(
    base_lr: base.Scalar | base.Schedule,
    batch_size: base.Scalar,
    *,
    momentum: base.Decay | None = 0.0,
    nesterov: bool = False,
    weight_decay: base.NonNegative | None = 0.0,
    mask: base.Mask = None,
) -> base.Rule:
    r"""SGD in sum form: one learning rate *per example* for every batch size.

    .. math::

      w_{t+1} = w_t - \tilde\eta\, m\, u_{t+1}
      \quad\text{with } u \text{ and } g \text{ of :func:`sgd`, }
      m\, g_t = \textstyle\sum_{i \in B_t} \nabla L_i(w_t) + m \lambda w_t

    ``update`` takes the *mean* gradient, as everything in optax does. Note the factor :math:`m` on
    the decay: :math:`\lambda` belongs to the mean loss, so the step of the decay is
    :math:`m\tilde\eta\lambda w`.

    Args:
      base_lr: :math:`\tilde\eta`, learning rate per example: number, traced scalar or schedule.
      batch_size: :math:`m`, examples per update; may be traced.
      momentum: see :func:`sgd`.
      nesterov: see :func:`sgd`.
      weight_decay: see :func:`sgd`.
      mask: see :func:`sgd`.

    Returns:
      The update rule.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt import optim
      >>> rule = optim.base_lr_sgd(base_lr=2**-10, batch_size=32, momentum=None)
      >>> w = jnp.array([1.0])
      >>> updates, _ = rule.update(jnp.array([3.0]), rule.init(w), w)
      >>> print(updates)
      [-0.09375]

    References:
      Masters and Luschi, `Revisiting Small Batch Training for Deep Neural Networks
      <https://arxiv.org/abs/1804.07612>`_, 2018 (equations 1-6)

      Wilson and Martinez, `The general inefficiency of batch training for gradient descent
      learning <https://doi.org/10.1016/S0893-6080(03)00138-2>`_, 2003
    """
    learning_rate: Any
    if callable(base_lr):
        schedule = base_lr

        def learning_rate(count: Any) -> Any:
            return learning_rate_from_base(schedule(count), batch_size)
    else:
        learning_rate = learning_rate_from_base(base_lr, batch_size)
    return sgd(learning_rate, momentum, nesterov, weight_decay, mask)


def _real(count: Any, like: Any) -> Any:
    """An integer array (a traced batch size) in the float dtype of ``like``; the rest unchanged."""
    if not jnp.issubdtype(getattr(count, "dtype", float), jnp.integer):
        return count
    return count.astype(getattr(like, "dtype", jnp.result_type(float)))


def learning_rate_from_base(base_lr: Any, batch_size: Any) -> Any:
    r"""Mean-form learning rate :math:`\eta = m\tilde\eta` of a learning rate per example.

    >>> learning_rate_from_base(0.001, 32)
    0.032
    """
    return base_lr * _real(batch_size, base_lr)


def base_from_learning_rate(learning_rate: Any, batch_size: Any) -> Any:
    r"""Learning rate per example :math:`\tilde\eta = \eta/m` of a mean-form learning rate.

    >>> base_from_learning_rate(0.1, 128)
    0.00078125
    """
    return learning_rate / _real(batch_size, learning_rate)


def linear_scaling(learning_rate: Any, batch_size: Any, reference_batch: Any) -> Any:
    r"""Linear scaling rule :math:`\eta\, m / m_0`: constant learning rate per example.

    It keeps the expected update per example; the variance of an update grows with :math:`m`.

    Args:
      learning_rate: mean-form learning rate at ``reference_batch``.
      batch_size: :math:`m`, examples per update.
      reference_batch: :math:`m_0`, the batch size that ``learning_rate`` was chosen for.

    >>> linear_scaling(0.1, 1024, 256)
    0.4

    References:
      Goyal et al., `Accurate, Large Minibatch SGD <https://arxiv.org/abs/1706.02677>`_, 2017
    """
    return learning_rate * (_real(batch_size, learning_rate) / reference_batch)


def sqrt_scaling(learning_rate: Any, batch_size: Any, reference_batch: Any) -> Any:
    r"""Square-root scaling rule :math:`\eta \sqrt{m / m_0}`.

    It keeps the variance of an update, so far as gradient noise dominates it.

    Args:
      learning_rate: mean-form learning rate at ``reference_batch``.
      batch_size: :math:`m`, examples per update.
      reference_batch: :math:`m_0`, the batch size that ``learning_rate`` was chosen for.

    >>> print(f'{sqrt_scaling(0.1, 1024, 256):.3f}')
    0.200

    References:
      Krizhevsky, `One weird trick for parallelizing convolutional neural networks
      <https://arxiv.org/abs/1404.5997>`_, 2014

      Hoffer, Hubara and Soudry, `Train longer, generalize better
      <https://arxiv.org/abs/1705.08741>`_, 2017
    """
    return learning_rate * jnp.sqrt(_real(batch_size, learning_rate) / reference_batch)
