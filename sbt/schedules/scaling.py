"""How the learning rate follows the batch size."""

from typing import Any, Literal, get_args

import jax.numpy as jnp

from sbt.errors import UserError

Scaling = Literal["linear", "sqrt", "none"]
SCALINGS = get_args(Scaling)


def scaled_learning_rate(
    learning_rate: Any, batch_size: Any, scaling: Scaling = "linear", reference_batch: Any = 1
) -> Any:
    r"""Learning rate in mean form at batch size :math:`m`, from that at :math:`m_0`.

    .. math::

      \eta = \eta_0\, \frac{m}{m_0} \quad\text{or}\quad \eta_0 \sqrt{m/m_0}
      \quad\text{or}\quad \eta_0

    With :math:`m_0 = 1`, the default, :math:`\eta_0` is the learning rate per example
    :math:`\tilde\eta` (``base_lr``) of the sum form
    :math:`w \leftarrow w - \tilde\eta \sum_{i \in B} \nabla L_i`: linear scaling,
    :math:`\eta = m\tilde\eta`, keeps the expected update per example, and the variance of an update
    grows with :math:`m`. Square-root scaling keeps that variance, so far as gradient noise
    dominates it. The way back is ``scaled_learning_rate(eta, 1, reference_batch=m)``.

    Args:
      learning_rate: :math:`\eta_0`, at ``reference_batch``: number or array.
      batch_size: :math:`m`, examples per update: number or array, of integers too.
      scaling: ``'linear'``, ``'sqrt'`` or ``'none'``.
      reference_batch: :math:`m_0`, the batch size that ``learning_rate`` was chosen for.

    Returns:
      :math:`\eta`, per update of the mean gradient.

    Raises:
      UserError: for another ``scaling``.

    Examples:
      >>> scaled_learning_rate(0.001, 32), scaled_learning_rate(0.1, 1024, reference_batch=256)
      (0.032, 0.4)
      >>> print(f"{scaled_learning_rate(0.1, 1024, 'sqrt', 256):.3f}")
      0.200

    References:
      Masters and Luschi, `Revisiting Small Batch Training for Deep Neural Networks
      <https://arxiv.org/abs/1804.07612>`_, 2018 (equations 1-6)

      Goyal et al., `Accurate, Large Minibatch SGD <https://arxiv.org/abs/1706.02677>`_, 2017

      Krizhevsky, `One weird trick for parallelizing convolutional neural networks
      <https://arxiv.org/abs/1404.5997>`_, 2014 (the square root)
    """
    if jnp.issubdtype(getattr(batch_size, "dtype", float), jnp.integer):
        batch_size = batch_size.astype(getattr(learning_rate, "dtype", jnp.result_type(float)))
    ratio = batch_size / reference_batch
    if scaling == "linear":
        return learning_rate * ratio
    if scaling == "sqrt":
        return learning_rate * jnp.sqrt(ratio)
    if scaling == "none":
        return learning_rate
    raise UserError("scaling", f"unknown scaling {scaling!r}", "use 'linear', 'sqrt' or 'none'")
