"""Real numbers for each example."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sbt.errors import UserError
from sbt.tasks.base import TASKS, Examples, Facts, Metric, Task, score_of


@TASKS.register("regression")
def regression(facts: Facts) -> Task:
    r"""Mean squared error; runs are ranked by it.

    Examples have a ``target`` of real numbers, ``(N,)`` or ``(N, d)``, and outputs are of its
    shape. The loss of an example is :math:`\frac1d \|f(x) - y\|^2`. Told beside it is the fraction
    of the variance that is explained, over all components together,
    :math:`R^2 = 1 - \sum_i \|f(x_i) - y_i\|^2 / \sum_i \|y_i - \bar y\|^2`, with the mean
    :math:`\bar y` of the split that it is told of. A guess is that mean of the test split.
    """
    target = facts.entry("target", "regression")
    if not jnp.issubdtype(target.dtype, jnp.floating):
        raise UserError(
            "config.task.name",
            f"'regression' needs real targets, they are of dtype {target.dtype}",
            "convert them: target.astype('float32')",
        )

    def loss(outputs: jax.Array, examples: Examples) -> jax.Array:
        squares = jnp.square(outputs.astype(examples["target"].dtype) - examples["target"])
        return jnp.mean(squares.reshape(squares.shape[0], -1), axis=1)

    @functools.cache
    def variance(split: str) -> float:
        return float(np.mean(np.var(facts.splits[split]["target"], axis=0, dtype=np.float64)))

    def explained(mean: float, split: str) -> float:
        return 1 - mean / variance(split) if variance(split) else float("nan")

    guess = variance("test") if "test" in facts.splits else math.nan
    squared = Metric(loss, "mean squared error", False, guess=guess)
    return Task(
        "regression",
        squared,
        {"r2": Metric(loss, "R²", True, guess=0.0, result=explained)},
        score_of("loss", squared),
        _check,
    )


def _check(field: str, outputs: Any, examples: Any) -> None:
    wanted = examples["target"].shape
    found = getattr(outputs, "shape", type(outputs).__name__)
    if found != wanted:
        remedy = "return one number for each component of the target"
        if found == (*wanted, 1):
            remedy = "drop the last axis: y[..., 0] or y.squeeze(-1)"
        raise UserError(field, f"gives {found}, and the targets have shape {wanted}", remedy)
