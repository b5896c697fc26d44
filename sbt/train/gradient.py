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
from sbt.tasks.base import Examples, Task
from sbt.train import extras
from sbt.train.objective import (
    OBJECTIVES,
    SAMPLES,
    Batch,
    Loss,
    Sample,
    batch_loss,
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


# What gives the averages, mean loss, sums of the metrics. The gradient is taken where it is used:
# inside the branch that updates the weights, XLA can make one loop of both.
Found = tuple[Callable[[], Averages], jax.Array, dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is minimised, and on which examples of a batch.

    Attributes:
      model: pure ``init`` and ``apply``.
      task: the loss of an example, and its metrics.
      convolution: implementation that every ``nn.Conv`` of the model runs.
      wrapper: one of :data:`sbt.train.objective.OBJECTIVES`, with its options.
      sample: one of :data:`sbt.train.objective.SAMPLES`, with its options.
      pieces: micro-batches that a tick is evaluated in, where it holds a whole SGD batch.
      needs: names of the extra arguments that the rule asks for.
      sharding: of the batch over devices.
    """

    model: Model
    task: Task
    convolution: Implementation = "direct"
    wrapper: Callable[..., Loss] = OBJECTIVES["standard"]
    sample: Callable[..., Any] = SAMPLES["all"]
    pieces: int = 1
    needs: frozenset[str] = frozenset()
    sharding: Sharding = ONE_DEVICE

    def forward(self, params: Any, stats: Any, x: Any, key: jax.Array) -> Any:
        """Outputs and new statistics, in training."""
        with lane_friendly(self.convolution):
            return self.model.apply(params, stats, x, key, True)

    def sample_of(self, hyper: Hyper) -> Sample:
        """The sample rule, for one lane's hyperparameters."""
        return functools.partial(self.sample, **hyper.sample)

    def of(self, hyper: Hyper) -> Loss:
        """The loss of a batch, for one lane's hyperparameters."""
        return self.wrapper(
            batch_loss(self.task.loss.each, self.sample_of(hyper)), **hyper.objective
        )


def _summed(task: Task, outputs: Any, examples: Examples) -> dict[str, jax.Array]:
    """Sums of the metrics over the examples."""
    return {name: jnp.sum(each.each(outputs, examples)) for name, each in task.metrics.items()}


def gradients(objective: Objective, hyper: Hyper, params: Any, stats: Any, batch: Batch) -> Found:
    """What gives mean gradient, new statistics and extras; mean loss; sums of the metrics.

    The loss that is returned is the objective's, over the examples that count; metrics are summed
    over all.

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

    def loss_fn(params: Any, batch: Batch) -> tuple[jax.Array, tuple[Any, Any]]:
        return loss_of(lambda x: objective.forward(params, stats, x, batch.key), batch)

    value, pull, (outputs, new_stats) = jax.vjp(lambda p: loss_fn(p, batch), params, has_aux=True)

    def averages() -> Averages:
        (grads,) = pull(jnp.ones_like(value))
        seen = extras.Seen(
            params, batch, stats, lambda p, b: loss_fn(p, b)[0], value, grads, objective.sharding
        )
        return Averages(grads, new_stats, extras.computed(objective.needs, seen))

    return averages, value, _summed(objective.task, outputs, batch.examples)


def _in_pieces(objective: Objective, hyper: Hyper, params: Any, stats: Any, batch: Batch) -> Found:
    """A whole batch under the sample rule, micro-batch by micro-batch (no batch statistics)."""

    def forward(params: Any, piece: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        outputs, _ = objective.forward(params, stats, piece["x"], batch.key)
        return objective.task.loss.each(outputs, piece), _summed(objective.task, outputs, piece)

    examples = dict(batch.examples)
    cut = (objective.pieces, -1)
    pieces = jax.tree.map(lambda leaf: leaf.reshape(*cut, *leaf.shape[1:]), examples)
    losses, metrics = jax.lax.map(lambda piece: forward(params, piece), pieces)
    losses = losses.reshape(-1)
    chosen = sample_weights(losses, batch, objective.sample_of(hyper))
    weights = jnp.full_like(losses, 1 / losses.shape[0]) if chosen is None else chosen
    value = jnp.sum(weights * losses)

    def averages() -> Averages:
        _, grads = accumulated_gradient(
            lambda params, piece: forward(params, piece)[0],
            params,
            examples,
            objective.pieces,
            lambda _: weights,
        )
        return Averages(grads, stats, {"value": value} if "value" in objective.needs else {})

    return averages, value, jax.tree.map(jnp.sum, metrics)


def drawn_gradients(
    objective: Objective, hyper: Hyper, params: Any, stats: Any, batch: Batch
) -> Found:
    """:func:`gradients`; of two halves of the examples, where the rule compares two batches."""
    if extras.draws(objective.needs) == 1:
        return gradients(objective, hyper, params, stats, batch)
    half = jax.tree.leaves(batch.x)[0].shape[0] // 2
    first, second = (
        gradients(objective, hyper, params, stats, own)
        for own in (
            batch.part(slice(half)),
            batch.part(slice(half, None))._replace(key=jax.random.fold_in(batch.key, 4)),
        )
    )
    value = (first[1] + second[1]) / 2

    def averages() -> Averages:
        one, other = first[0](), second[0]()
        found = {**one.extras, "second_gradient": other.grads}
        if "value" in found:
            found["value"] = value
        stats = jax.tree.map(lambda a, b: (a + b) / 2, one.stats, other.stats)
        return Averages(one.grads, stats, found)

    return averages, value, jax.tree.map(jnp.add, first[2], second[2])
