"""What the synthetic problems of Dang, Babanezhad & Vaswani (2024), arXiv 2401.06738, share.

Least squares in 20 dimensions with 10,000 examples, of which 8000 are trained on; condition numbers
κ and target noise r; every method at the step size that theory gives it, and a fixed number of
updates. What is told is the squared norm of the full gradient. Here the loss is divided by L = 10κ,
so that the step 1/L is 1 (see ``sbt.data.least_squares``), and norms are the paper's over L: ratios
between methods are the same. The paper draws new data for each of its three runs; here seeds share
the data and differ in the first weights and the order of the examples.

A batch of b = 0.9 n is a new choice among all n examples at every update, which is what the theory
is of: all examples are one batch, and the random sample rule leaves a tenth out. Batches of a
stream of epochs would straddle two of them; where they take 0.45 n of each, an example's share of a
batch has five times the variance, and heavy ball diverges.

``:small`` is the same with 800 examples: minutes on two CPU cores.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from sbt.config import default
from sbt.errors import UserError

PAPER = "Dang et al. 2024"
EXAMPLES, SMALL_EXAMPLES = 8000, 800
# Step sizes over 1/L: theory's.
STEPS = {
    "sgd": 1.0,
    "accelerated_shb": 1.0,
    "multistage_shb": 1.0,
    "mix_shb": 0.5,
    "exponential_shb": 0.5,
}
SGD, SHB = {"rule": "sgd"}, {"rule": "accelerated_shb"}


class Linear(nn.Module):
    """The inner product with one vector of weights, from a standard normal start."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return x @ self.param("w", nn.initializers.normal(1.0), (x.shape[-1],))


def half_square(outputs: jax.Array, examples: Mapping[str, jax.Array]) -> jax.Array:
    """The loss of an example, whose Hessian is that of the problem."""
    return jnp.square(outputs - examples["target"]) / 2


def quadratics(
    figure: str,
    variant: str,
    where: str,
    caption: str,
    claims: Sequence[Any],
    *,
    rules: Sequence[str],
    updates: int,
    budget: int,
    left_out: Sequence[float],
    condition_numbers: Sequence[float],
    noises: Sequence[float] = (0.0,),
) -> ConfigDict:
    """The config of one family of problems.

    Args:
      figure: name of the file.
      variant: ``""`` (the paper's size) or ``small``.
      where, caption, claims: what the paper says, and where.
      rules: keys of :data:`STEPS`.
      updates: of every run.
      budget: updates of the paper's runs.
      left_out: shares of the training set that a batch does not have.
      condition_numbers, noises: of the problems.
    """
    if variant not in ("", "small"):
        raise UserError(f"{figure}.py:{variant}", "there is no such variant", "use :small, or none")
    examples = SMALL_EXAMPLES if variant else EXAMPLES
    config = default()
    config.name = f"dang_2024-{figure}" + "-small" * bool(variant)
    config.report.figure, config.report.caption = f"{PAPER}, {where}", caption
    config.report.claims = tuple(claims)
    config.report.last_epochs = 1
    config.report.protocol = (
        ("data", "least_squares"),
        ("model", ("Linear (own module)",)),
        ("epochs", budget),
        ("last_epochs", 1),
        ("test_examples", 0),
        ("score", "loss"),
        ("seeds", 3),
        ("settings", (("data.train_size", None),)),
    )
    config.data.name = "least_squares"
    config.data.condition_number, config.data.noise = 128.0, 0.0  # or the axes below
    config.data.train_size, config.data.test_size = (examples, examples) if variant else (None, 20)
    config.sweep.rule = tuple(rules)
    config.sweep.data__condition_number = tuple(map(float, condition_numbers))
    config.sweep.data__noise = tuple(noises)
    config.follow.rule__condition_number = (
        "data__condition_number",
        tuple((float(kappa), float(kappa)) for kappa in condition_numbers),
    )
    config.batch_size = examples
    config.sample.name, config.sample.fraction = "random", left_out[0]  # or the axis below
    config.sweep.sample__fraction = tuple(left_out)
    config.epochs = updates
    methods(config)
    return config


def methods(config: ConfigDict) -> None:
    """Sets how every method of a config trains: at theory's step sizes, and told at the end.

    Args:
      config: whose ``sweep.rule`` holds keys of :data:`STEPS`, and whose epochs are set.
    """
    config.lr_scaling = "none"
    config.sweep.seed = (0, 1, 2)
    config.follow.base_lr = ("rule", tuple((rule, STEPS[rule]) for rule in config.sweep.rule))
    config.evaluate.every = config.epochs
    config.measure.names, config.measure.every = ("gradient_moments",), config.epochs
