r"""Losses that were proposed as remedies for large batches.

Keskar et al. (2017, appendix E) tried adversarial training and stability training and saw no
improvement; they give neither numbers nor hyperparameters, so the defaults here are those of the
papers that the methods come from, where these state any. Everything is a pure function of another
function, and differentiable in the params that it closes over.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from sbt.optim import base

InputLoss = Callable[[jax.Array], jax.Array]


def fast_gradient_sign(
    loss: InputLoss,
    inputs: jax.Array,
    epsilon: base.Scalar,
    low: float | None = None,
    high: float | None = None,
) -> jax.Array:
    r"""Adversarial inputs :math:`x + \epsilon\,\mathrm{sign}\,\nabla_x L(x)`.

    Args:
      loss: inputs to a scalar loss (mean or sum over examples: only the sign matters).
      inputs: ``(B, ...)``.
      epsilon: largest change of an entry, in units of the inputs; may be traced.
      low: smallest valid entry, None for no bound.
      high: largest valid entry, None for no bound.

    Returns:
      Inputs of the same shape and dtype; no gradient flows back through them.

    Examples:
      >>> x = jnp.asarray([[0.5, -2.0]])
      >>> print(fast_gradient_sign(lambda x: jnp.sum(x**2), x, 0.25))
      [[ 0.75 -2.25]]

    References:
      Goodfellow, Shlens and Szegedy, `Explaining and Harnessing Adversarial Examples
      <https://arxiv.org/abs/1412.6572>`_, 2015
    """
    signs = jnp.sign(jax.grad(loss)(inputs))
    moved = base.multiply_add(inputs, epsilon, signs)
    if low is not None or high is not None:
        moved = jnp.clip(moved, low, high)
    return jax.lax.stop_gradient(moved)


def adversarial_loss(
    loss: InputLoss,
    inputs: jax.Array,
    epsilon: base.NonNegative,
    clean_weight: base.Fraction = 0.5,
    low: float | None = None,
    high: float | None = None,
) -> jax.Array:
    r"""The loss :math:`\alpha L(x) + (1-\alpha) L(x + \epsilon\,\mathrm{sign}\,\nabla_x L(x))`.

    Args:
      loss: inputs to the scalar loss of the batch.
      inputs: ``(B, ...)``.
      epsilon: see :func:`fast_gradient_sign`; 0 gives the plain loss.
      clean_weight: :math:`\alpha`; Goodfellow et al. use 0.5.
      low: see :func:`fast_gradient_sign`.
      high: see :func:`fast_gradient_sign`.

    Returns:
      The scalar loss, in nats if ``loss`` is.
    """
    clean = loss(inputs)
    attacked = loss(fast_gradient_sign(loss, inputs, epsilon, low, high))
    weight = jnp.asarray(clean_weight).astype(clean.dtype)
    return weight * clean + (1 - weight) * attacked


def stability_loss(
    log_probabilities: Callable[[jax.Array], jax.Array],
    inputs: jax.Array,
    keys: jax.Array,
    deviation: base.NonNegative = 0.04,
    weight: base.NonNegative = 0.01,
) -> jax.Array:
    r"""The term that stability training adds to the loss of the clean inputs.

    .. math:: \alpha \cdot \frac1B \sum_i -\sum_j P(j \mid x_i) \log P(j \mid x_i'),
              \qquad x_i' = x_i + \sigma \epsilon_i, \quad \epsilon_i \sim N(0, I)

    The cross entropy of Zheng et al. for classification; the gradient flows through both
    predictions. The noise scale is our choice for inputs of unit range (the paper tunes it).

    Args:
      log_probabilities: inputs to log-probabilities ``(B, classes)``.
      inputs: ``(B, ...)``.
      keys: typed keys ``(B,)``, one per example, so that the noise of an example does not depend on
        the batch that it is in.
      deviation: :math:`\sigma`, in units of the inputs; may be traced.
      weight: :math:`\alpha`; may be traced.

    Returns:
      The scalar term, in nats. Add it to the loss of the clean inputs.

    References:
      Zheng et al., `Improving the Robustness of Deep Neural Networks via Stability Training
      <https://arxiv.org/abs/1604.04326>`_, 2016
    """
    noise = jax.vmap(lambda k, x: jax.random.normal(k, x.shape, x.dtype))(keys, inputs)
    clean = log_probabilities(inputs)
    noisy = log_probabilities(base.multiply_add(inputs, deviation, noise))
    distance = -jnp.mean(jnp.sum(jnp.exp(clean) * noisy, axis=-1))
    return jnp.asarray(weight).astype(distance.dtype) * distance
