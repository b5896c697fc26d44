"""Loss and metrics of a run over a whole split, and batch statistics made anew for it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sbt.data.order import purpose_key
from sbt.nn.conv import lane_friendly
from sbt.tasks.base import PerExample
from sbt.train.state import Hyper, Sums, TrainState, no_sums
from sbt.train.step import Program


class Evaluation(NamedTuple):
    """Means over a split."""

    loss: jax.Array  # shape=()
    metrics: Mapping[str, jax.Array]  # each shape=()


def evaluate(
    program: Program,
    state: TrainState,
    arrays: Any,
    indices: jax.Array,
    weights: jax.Array,
) -> Sums:
    """Evaluates test examples with the running statistics; the state is only read.

    Devices that share the run share its batches.

    Args:
      program: what the lanes share.
      state: of one run.
      arrays: data on the device.
      indices: ``(batches, batch)`` positions in the split; batches a multiple of the devices.
      weights: of the same shape, 1.0 or, for padding, 0.0.

    Returns:
      Sums, so that parts of a split add up; :func:`means` makes means of them.
    """
    model, task = program.objective.model, program.objective.task
    examples = jnp.sum(weights)
    count = indices.shape[0] // program.sharding.devices
    indices, weights = (program.sharding.own_rows(a) for a in (indices, weights))

    def batch(i: jax.Array, sums: Sums) -> Sums:
        batch = program.batches(arrays, indices[i], 0, None, False)
        with lane_friendly(program.objective.convolution):
            outputs, _ = model.apply(state.params, state.stats, batch["x"], None, False)

        def summed(total: jax.Array, each: PerExample) -> jax.Array:
            # A padded example may have a value that is not finite; zero times it would not be zero.
            values = jnp.where(weights[i] > 0, each(outputs, batch), 0.0)
            return total + jnp.sum(values.astype(jnp.float32))

        metrics = {n: summed(sums.metrics[n], metric.each) for n, metric in task.metrics.items()}
        return Sums(summed(sums.loss, task.loss.each), metrics, sums.examples)

    sums = program.sharding.sum(lax.fori_loop(0, count, batch, no_sums(task)))
    return sums._replace(examples=examples)


def means(sums: Sums) -> Evaluation:
    """Means of what was summed."""
    metrics = {name: total / sums.examples for name, total in sums.metrics.items()}
    return Evaluation(sums.loss / sums.examples, metrics)


def precise_statistics(
    program: Program, state: TrainState, hyper: Hyper, arrays: Any, batches: int
) -> TrainState:
    """Batch statistics of the present weights, in place of their running average.

    The mean over the micro-batches of ``batches`` ticks (the first of the training set, not
    augmented) of what batch norm sees there. It needs no knowledge of the layer: a running average
    that maps old statistic ``r`` to ``d r + (1 - d) s`` maps 0 to ``(1 - d) s`` and 1 to that plus
    ``d``.
    """
    ones = jax.tree.map(jnp.ones_like, state.stats)
    zeros = jax.tree.map(jnp.zeros_like, state.stats)
    key = purpose_key(hyper.key, "dropout")

    def moved(stats: Any, i: jax.Array) -> Any:
        indices = i * program.micro_batch + jnp.arange(program.micro_batch, dtype=jnp.int32)
        indices = program.sharding.own(indices)
        examples = program.batches(
            arrays, indices % program.num_examples, 0, hyper.key, True, augmented=False
        )
        with lane_friendly(program.objective.convolution):
            _, new = program.objective.model.apply(state.params, stats, examples["x"], key, True)
        return new

    def add(i: jax.Array, total: Any) -> Any:
        from_zero, from_one = moved(zeros, i), moved(ones, i)
        statistic = jax.tree.map(lambda z, o: z / (1 - (o - z)), from_zero, from_one)
        return jax.tree.map(jnp.add, total, statistic)

    total = lax.fori_loop(0, batches, add, zeros)
    mean = jax.tree.map(lambda s: s / batches, total)
    return state._replace(stats=program.sharding.mean(mean))
