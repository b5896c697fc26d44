"""One of K classes for each example."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from sbt.errors import UserError
from sbt.nn.norm import accumulation_dtype
from sbt.tasks.base import TASKS, Examples, Facts, Metric, Task
from sbt.tasks.score import Score


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


@TASKS.register("classification")
def classification(facts: Facts) -> Task:
    """Softmax cross entropy; runs are ranked by accuracy.

    Examples have a ``label`` in 0 .. K-1, outputs are ``(n, K)`` logits. A run whose loss was not
    finite counts as a guess, accuracy 1/K.
    """
    label = facts.entry("label", "classification")
    if facts.classes is None or np.ndim(label) != 1:
        raise UserError(
            "config.task.name",
            f"'classification' needs one class number from 0 for each example; label is of dtype "
            f"{label.dtype} and shape {label.shape}",
            "give integers of shape (N,), or choose another task",
        )
    classes, chance = facts.classes, 1 / facts.classes

    def loss(logits: jax.Array, examples: Examples) -> jax.Array:
        return cross_entropy(logits, examples["label"])

    def correct(logits: jax.Array, examples: Examples) -> jax.Array:
        return is_correct(logits, examples["label"])

    def check(field: str, outputs: Any, examples: Any) -> None:
        check_logits(field, outputs, examples["label"].shape[0], classes)

    return Task(
        "classification",
        Metric(loss, "loss", False, "nats"),
        {"accuracy": Metric(correct, "accuracy", True, percent=True, guess=chance)},
        Score(diverged=chance, guess=chance),
        check,
    )


def check_logits(field: str, found: Any, batch: int, classes: int) -> None:
    """Refuses outputs that are not one logit per class and example.

    Args:
      field: whose they are.
      found: their shape.
      batch: examples.
      classes: K.

    Raises:
      UserError: outputs of another shape or kind, with what to do.
    """
    wanted = f"sbt wants ({batch}, {classes}): one row per example, one logit per class"
    if not isinstance(found, jax.ShapeDtypeStruct):
        parts = ""
        if isinstance(found, tuple | list | dict):
            items = found.items() if isinstance(found, dict) else enumerate(found)
            shapes = (f"{k}: {getattr(v, 'shape', type(v).__name__)}" for k, v in items)
            parts = f" ({', '.join(shapes)})"
        remedy = "return the logits alone"
        raise UserError(field, f"gives a {type(found).__name__}{parts}; {wanted}", remedy)
    shape = found.shape
    if shape != (batch, classes):
        if shape in ((batch,), (batch, 1)):
            remedy = f"return {classes} logits per example, for 2 classes too"
        elif shape and shape[0] != batch:
            remedy = "keep the first axis, the batch: x.reshape(x.shape[0], -1) flattens the others"
        elif len(shape) == 2 and shape[1] < classes:
            remedy = (
                f"labels up to {classes - 1} need {classes} logits; number the classes without gaps"
            )
        elif len(shape) == 2:
            remedy = f"give the last layer {classes} features, or say from_arrays(num_classes=...)"
        else:
            remedy = "flatten, or take the mean over, what is between batch and classes"
        problem = f"gives outputs of shape {shape} for {batch} examples; {wanted}"
        raise UserError(field, problem, remedy)
    if not jnp.issubdtype(found.dtype, jnp.floating):
        remedy = "return real floating point logits, before any argmax"
        raise UserError(field, f"gives outputs of dtype {found.dtype}", remedy)
