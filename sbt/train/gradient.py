"""The gradient of a tick's examples, and whatever else a rule wants to know of them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sbt.models.adapter import Model
from sbt.nn.conv import Implementation, lane_friendly
from sbt.optim.sample_rule import accumulated_gradient
from sbt.train import extras
from sbt.train.objective import (
    OBJECTIVES,
    SAMPLES,
    Batch,
    ExampleLoss,
    Loss,
    Sample,
    batch_loss,
    cross_entropy,
    is_correct,
    sample_weights,
)
from sbt.train.shards import ONE_DEVICE, Sharding
from sbt.train.state import Hyper


class Averages(NamedTuple):
    """What a weight update needs from its batch: means over the batch, so they can be accumulated.

    Attributes:
      grads: gradient of the mean loss, a tree like the parameters.
      stats: the running statistics as this micro-batch would leave them. A running average is
        linear in the new statistic, so the mean over micro-batches of *one* update's results is one
        update by the mean statistic.
      extras: further arguments that a rule asks for, by name (:mod:`sbt.train.extras`).
    """

    grads: Any
    stats: Any
    extras: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is minimised, and on which examples of a batch.

    Attributes:
      model: pure ``init`` and ``apply``.
      convolution: implementation that every ``nn.Conv`` of the model runs.
      loss: of each example.
      wrapper: one of :data:`sbt.train.objective.OBJECTIVES`, with its options.
      sample: one of :data:`sbt.train.objective.SAMPLES`, with its options.
      pieces: micro-batches that a tick is evaluated in, where it holds a whole SGD batch.
      needs: names of the extra arguments that the rule asks for.
      sharding: of the batch over devices.
    """

    model: Model
    convolution: Implementation = "direct"
    loss: ExampleLoss = cross_entropy
    wrapper: Callable[..., Loss] = OBJECTIVES["standard"]
    sample: Callable[..., Any] = SAMPLES["all"]
    pieces: int = 1
    needs: frozenset[str] = frozenset()
    sharding: Sharding = ONE_DEVICE

    def forward(self, params: Any, stats: Any, x: jax.Array, key: jax.Array) -> Any:
        """Logits and new statistics, in training."""
        with lane_friendly(self.convolution):
            return self.model.apply(params, stats, x, key, True)

    def sample_of(self, hyper: Hyper) -> Sample:
        """The sample rule, for one lane's hyperparameters."""
        return functools.partial(self.sample, **hyper.sample)

    def of(self, hyper: Hyper) -> Loss:
        """The loss of a batch, for one lane's hyperparameters."""
        return self.wrapper(batch_loss(self.loss, self.sample_of(hyper)), **hyper.objective)


def gradients(
    objective: Objective, hyper: Hyper, params: Any, stats: Any, batch: Batch
) -> tuple[Averages, jax.Array, jax.Array]:
    """Mean gradient, new statistics and extras; mean loss; number of correct answers.

    The loss that is returned is the objective's, over the examples that count; correct answers are
    counted over all.

    Args:
      objective: what is minimised.
      hyper: of this run.
      params: where.
      stats: running statistics.
      batch: on which examples.
    """
    if objective.pieces > 1:
        return _in_pieces(objective, hyper, params, stats, batch)
    loss_of = objective.of(hyper)

    def loss_fn(params: Any, batch: Batch) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        return loss_of(lambda x: objective.forward(params, stats, x, batch.key), batch)

    (value, (logits, new_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, batch)
    seen = extras.Seen(
        params, batch, stats, lambda p, b: loss_fn(p, b)[0], value, grads, objective.sharding
    )
    found = extras.computed(objective.needs, seen)
    return Averages(grads, new_stats, found), value, jnp.sum(is_correct(logits, batch.labels))


def _in_pieces(
    objective: Objective, hyper: Hyper, params: Any, stats: Any, batch: Batch
) -> tuple[Averages, jax.Array, jax.Array]:
    """A whole batch under the sample rule, micro-batch by micro-batch (no batch statistics)."""

    def forward(params: Any, piece: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x, labels = piece
        logits, _ = objective.forward(params, stats, x, batch.key)
        return objective.loss(logits, labels), is_correct(logits, labels)

    examples = (batch.x, batch.labels)
    cut = (objective.pieces, -1)
    pieces = jax.tree.map(lambda leaf: leaf.reshape(*cut, *leaf.shape[1:]), examples)
    losses, correct = jax.lax.map(lambda piece: forward(params, piece), pieces)
    losses = losses.reshape(-1)
    weights = sample_weights(losses, batch, objective.sample_of(hyper))
    if weights is None:
        weights = jnp.full_like(losses, 1 / losses.shape[0])
    _, grads = accumulated_gradient(
        lambda params, piece: forward(params, piece)[0],
        params,
        examples,
        objective.pieces,
        lambda _: weights,
    )
    value = jnp.sum(weights * losses)
    found = {"value": value} if "value" in objective.needs else {}
    return Averages(grads, stats, found), value, jnp.sum(correct)


def drawn_gradients(
    objective: Objective, hyper: Hyper, params: Any, stats: Any, batch: Batch
) -> tuple[Averages, jax.Array, jax.Array]:
    """:func:`gradients`; of two halves of the examples, where the rule compares two batches."""
    if extras.draws(objective.needs) == 1:
        return gradients(objective, hyper, params, stats, batch)
    half = batch.x.shape[0] // 2
    first, second = (
        gradients(objective, hyper, params, stats, own)
        for own in (
            batch._replace(x=batch.x[:half], labels=batch.labels[:half]),
            batch._replace(
                x=batch.x[half:],
                labels=batch.labels[half:],
                key=jax.random.fold_in(batch.key, 4),
            ),
        )
    )
    found = {**first[0].extras, "second_gradient": second[0].grads}
    if "value" in found:
        found["value"] = (first[1] + second[1]) / 2
    stats = jax.tree.map(lambda a, b: (a + b) / 2, first[0].stats, second[0].stats)
    averages = Averages(first[0].grads, stats, found)
    return averages, (first[1] + second[1]) / 2, first[2] + second[2]
