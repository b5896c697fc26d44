r"""Noise of the search direction, and the degree to which it smooths the objective.

The degree of smoothing itself, from constants, is :func:`sbt.measure.degree_of_smoothing`.

References:
  Sato and Iiduka, `Role of Momentum in Smoothing Objective Function and Generalizability of Deep
  Neural Networks <https://arxiv.org/abs/2402.02325>`_, 2024 (v4 is retitled "Momentum Does Not
  Reduce Stochastic Noise in Stochastic Gradient Descent")
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from sbt.measure.example_gradients import Moments
from sbt.measure.trees import Where, ravel
from sbt.optim.smoothing_degree import Form, degree_of_smoothing


def search_direction_noise(direction: Any, full_gradient: Any, where: Where = None) -> jax.Array:
    r"""Norm of the search-direction noise :math:`\omega_t = m_t - \nabla f(x_t)`.

    :math:`m_t` is what the learning rate multiplies: the mini-batch gradient for SGD, the momentum
    buffer for heavy ball; from an optax update it is :math:`-\Delta w / \eta`. The full gradient
    belongs to the *same* point :math:`x_t`, before the step, and to the loss that is minimised, so
    without augmentation and dropout. (The authors' code takes it after the step, in training mode.)

    Args:
      direction: :math:`m_t`, any tree.
      full_gradient: :math:`\nabla f(x_t)`, a tree of the same shapes.
      where: the parameters that count, see :data:`sbt.measure.Where`.

    Returns:
      A scalar in units of the gradient norm. For SGD its mean square is
      :func:`sbt.measure.noise_covariance_trace`.

    Examples:
      >>> print(search_direction_noise(jnp.array([4.0, 4.0]), jnp.array([1.0, 0.0])))
      5.0
    """
    return jnp.linalg.norm(ravel(direction, where)[0] - ravel(full_gradient, where)[0])


def measured_smoothing(
    moments: Moments,
    learning_rate: ArrayLike,
    batch_size: ArrayLike,
    momentum: ArrayLike = 0.0,
    *,
    form: Form = "shb",
) -> jax.Array:
    r"""Degree of smoothing :math:`\delta` with both constants measured at one point.

    The theory's constants are bounds along the whole way; here :math:`C^2 = \operatorname{tr}
    \Sigma` and :math:`K = \|\nabla f\|` are the values at the point, which makes :math:`\delta` a
    local quantity. The paper instead infers :math:`C^2` from a critical batch size
    (:func:`sbt.optim.smoothing_degree.variance_from_critical_batch`).

    Args:
      moments: of the per-example gradients over the split.
      learning_rate: :math:`\eta`, in mean form.
      batch_size: examples per update.
      momentum: :math:`\beta`.
      form: ``'sgd'``, ``'shb'`` or ``'nshb'``.

    Returns:
      A length in parameter space.

    Examples:
      >>> moments = Moments(jnp.array([3.0, 4.0]), jnp.array([30.0, 34.0]), jnp.asarray(100.0))
      >>> print(f"{measured_smoothing(moments, 0.1, 16, form='sgd'):.3f}")
      0.200
      >>> print(f"{measured_smoothing(moments, 0.1, 16, 0.5):.3f}")
      0.689
    """
    variance, square = jnp.sum(moments.variance), jnp.sum(jnp.square(moments.mean))
    bound = jnp.sqrt(square)
    return degree_of_smoothing(
        learning_rate, batch_size, momentum, variance=variance, gradient_bound=bound, form=form
    )
