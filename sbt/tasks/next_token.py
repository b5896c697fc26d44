"""The next token at every place of a sequence."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sbt.errors import UserError
from sbt.tasks.base import TASKS, Examples, Facts, Metric, PerExample, Task, score_of
from sbt.tasks.classification import cross_entropy, is_correct


@TASKS.register("next_token")
def next_token(facts: Facts) -> Task:
    r"""Cross entropy of the next token in nats; runs are ranked by it.

    An example is a sequence: ``x`` and ``label`` are integers, ``(N, T)``, the label of a place
    being the token that follows. Outputs are ``(n, T, V)`` logits. The loss of an example is the
    mean over its places, or over those where its ``mask`` is not 0; batches are means over
    sequences, so that they do not depend on how they are cut into micro-batches. Told beside it are
    the fraction of tokens that are the likeliest, and, where the data know their bytes per token
    :math:`\beta`, bits per byte, :math:`L / (\beta \ln 2)`. A guess is as good as :math:`\ln V`
    nats.
    """
    label = facts.entry("label", "next_token")
    if np.ndim(label) != 2 or not jnp.issubdtype(label.dtype, jnp.integer):
        raise UserError(
            "config.task.name",
            f"'next_token' needs integer labels of shape (N, T), they are {label.dtype} of shape "
            f"{label.shape}",
            "give the token that follows at every place: tokens[:, 1:], with x = tokens[:, :-1]",
        )

    def over_places(each: Callable[[Any, Any], jax.Array]) -> PerExample:
        def mean(logits: jax.Array, examples: Examples) -> jax.Array:
            values = each(logits, examples["label"])
            if "mask" not in examples:
                return jnp.mean(values, axis=1)
            counted = examples["mask"].astype(bool).astype(values.dtype)
            total = jnp.sum(jnp.where(counted > 0, values, 0), axis=1)
            return total / jnp.maximum(jnp.sum(counted, axis=1), 1)

        return mean

    guess = math.log(facts.classes) if facts.classes else math.nan
    each = over_places(cross_entropy)
    loss = Metric(each, "loss", False, "nats per token", guess=guess, floor=facts.floor)
    metrics = {"accuracy": Metric(over_places(is_correct), "accuracy", True, percent=True)}
    if facts.bytes_per_token:
        scale = math.log(2) * facts.bytes_per_token
        metrics["bits_per_byte"] = Metric(
            loss.each, "bits per byte", False, "bits per byte", result=lambda mean, _: mean / scale
        )

    def check(field: str, outputs: Any, examples: Any) -> None:
        shape: tuple[int, ...] = getattr(outputs, "shape", ())
        wanted = examples["label"].shape
        if len(shape) != 3 or shape[:2] != wanted or (facts.classes or 1) > shape[2]:
            vocabulary = facts.classes or "vocabulary"
            told = shape or type(outputs).__name__
            problem = f"gives {told} for tokens of shape {wanted}"
            remedy = f"return logits of shape {(*wanted, vocabulary)}"
            if len(shape) == 3 and shape[:2] == wanted:
                problem = f"gives {shape[2]} logits, and the data have {facts.classes} tokens"
                remedy = f"make its vocabulary {facts.classes} or more"
            raise UserError(field, problem, remedy)

    return Task("next_token", loss, metrics, score_of("loss", loss), check)
