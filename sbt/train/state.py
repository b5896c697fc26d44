"""What a run carries from tick to tick, and what makes it this run and not another."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sbt.tasks.base import Task

Number = jax.Array | Any  # a traced scalar; on the host, an array of one value per lane


class Sums(NamedTuple):
    """Loss and metrics, summed over the examples seen: of the running epoch, or of a split."""

    loss: jax.Array  # shape=()
    metrics: Mapping[str, jax.Array]  # each shape=()
    examples: jax.Array  # shape=(), examples


class TrainState(NamedTuple):
    """One run in training. Lanes stack it along a leading axis.

    Attributes:
      params: the weights.
      stats: running statistics of batch norm; an empty tree without batch norm.
      opt_state: state of the update rule.
      average: mean over the micro-batches since the last update; ``()`` where no lane of the
        program accumulates.
      accumulated: int32, shape (); micro-batches in ``average``.
      updates: int32, shape (); weight updates done.
      examples: int32, shape (); examples that those updates consumed.
      diverged_at: int32, shape (); examples consumed when the loss first was not finite, -1 while
        it is. From then on nothing in the state changes.
      sums: metrics since the start of the epoch.
      told: what the batch schedule makes of measurements, see :class:`sbt.schedules.Feedback`;
        ``()`` for one that follows progress alone.
      observed: states of the program's online measurements, see :mod:`sbt.measure.online`.
    """

    params: Any
    stats: Any
    opt_state: Any
    average: Any
    accumulated: jax.Array
    updates: jax.Array
    examples: jax.Array
    diverged_at: jax.Array
    sums: Sums
    told: Any = ()
    observed: Any = ()


class Hyper(NamedTuple):
    """One lane's hyperparameters, all traced: changing them compiles nothing.

    Attributes:
      key: typed key of the run, ``jax.random.key(seed)``.
      batch_size: int32, m, examples per update.
      base_lr: η̃, learning rate per example.
      rule: numeric hyperparameters of the update rule, by name.
      schedule: numeric parameters of the learning-rate schedule, by name.
      batch_schedule: those of the batch-size schedule.
      momentum_schedule: those of the momentum schedule.
      noise: those of the noise schedule.
      scaling: those of the law by which rate and decays follow the batch size.
      objective: those of the objective.
      sample: those of the sample rule.
    """

    key: jax.Array
    batch_size: Number
    base_lr: Number
    rule: Mapping[str, Number] = {}
    schedule: Mapping[str, Number] = {}
    batch_schedule: Mapping[str, Number] = {}
    momentum_schedule: Mapping[str, Number] = {}
    noise: Mapping[str, Number] = {}
    scaling: Mapping[str, Number] = {}
    objective: Mapping[str, Number] = {}
    sample: Mapping[str, Number] = {}


def no_sums(task: Task) -> Sums:
    """Metrics of an epoch that has not begun."""
    zero = jnp.zeros((), jnp.float32)
    return Sums(zero, dict.fromkeys(task.metrics, zero), zero)
