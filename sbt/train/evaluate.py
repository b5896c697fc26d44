"""Loss and accuracy of a run over a whole split, and batch statistics made anew for it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sbt.data.order import purpose_key
from sbt.nn.conv import lane_friendly
from sbt.train.objective import is_correct
from sbt.train.state import Hyper, Sums, TrainState
from sbt.train.step import Program


class Evaluation(NamedTuple):
    """Means over a split."""

    loss: jax.Array  # shape=(), nats
    accuracy: jax.Array  # shape=(), fraction


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
    examples = jnp.sum(weights)
    count = indices.shape[0] // program.sharding.devices
    indices, weights = (program.sharding.own_rows(a) for a in (indices, weights))

    def batch(i: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        x, labels = program.batches(arrays, indices[i], 0, None, False)
        with lane_friendly(program.objective.convolution):
            logits, _ = program.objective.model.apply(state.params, state.stats, x, None, False)
        # A padded example may have a loss that is not finite; zero times it would not be zero.
        loss = jnp.where(weights[i] > 0, program.objective.loss(logits, labels), 0.0).astype(
            jnp.float32
        )
        correct = is_correct(logits, labels) * weights[i]
        return sums[0] + jnp.sum(loss), sums[1] + jnp.sum(correct)

    zero = jnp.zeros((), jnp.float32)
    loss, correct = program.sharding.sum(lax.fori_loop(0, count, batch, (zero, zero)))
    return Sums(loss, correct, examples)


def means(sums: Sums) -> Evaluation:
    """Means of what was summed."""
    return Evaluation(sums.loss / sums.examples, sums.correct / sums.examples)


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
        x, _ = program.batches(
            arrays, indices % program.num_examples, 0, hyper.key, True, augmented=False
        )
        with lane_friendly(program.objective.convolution):
            _, new = program.objective.model.apply(state.params, stats, x, key, True)
        return new

    def add(i: jax.Array, total: Any) -> Any:
        from_zero, from_one = moved(zeros, i), moved(ones, i)
        statistic = jax.tree.map(lambda z, o: z / (1 - (o - z)), from_zero, from_one)
        return jax.tree.map(jnp.add, total, statistic)

    total = lax.fori_loop(0, batches, add, zeros)
    mean = jax.tree.map(lambda s: s / batches, total)
    return state._replace(stats=program.sharding.mean(mean))
