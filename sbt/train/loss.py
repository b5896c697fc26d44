"""The loss of a classifier, and what is counted beside it."""

import jax
import jax.numpy as jnp
import optax
from jax import lax

from sbt.nn.norm import accumulation_dtype


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Softmax cross entropy of each example, in nats.

    Args:
      logits: shape ``(..., classes)``; evaluated in at least float32.
      labels: integers, shape ``(...)``.

    Returns:
      Shape ``(...)``.
    """
    wide = logits.astype(accumulation_dtype(logits.dtype))
    return optax.softmax_cross_entropy_with_integer_labels(wide, labels)


def is_correct(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """1.0 where the largest logit is the label's, else 0.0; float32, shape ``(...)``."""
    best = lax.argmax(logits, logits.ndim - 1, labels.dtype)
    return (best == labels).astype(jnp.float32)
