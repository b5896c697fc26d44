"""Sums over the updates of an epoch that training carries along: strides, noise, fluctuation.

A tally sees what an update has at hand anyway, so it costs a few reductions over the weights. It
never touches training: it reads the gradients, and the weights before and after an update (not the
update itself, which the compiler adds to the weights in one rounding), behind a barrier that keeps
the compiler from rearranging the one for the other.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sbt.measure import Where
from sbt.measure.labelled import Labelled
from sbt.train.shards import Sharding


class Kept(NamedTuple):
    """State of a tally."""

    pending: Any  # of the batch that is not complete, kept over the end of an epoch
    sums: Any  # over the updates of the epoch; zero at its start


class Tick(NamedTuple):
    """What a tick of a run shows; the devices of a run see their own."""

    grads: Any  # of the micro-batch
    loss: jax.Array  # mean over the tick


class Update(NamedTuple):
    """What an update of a run shows."""

    grads: Any  # of the whole batch
    before: Any  # weights
    after: Any
    learning_rate: jax.Array  # in mean form
    batch_size: jax.Array


@dataclasses.dataclass(frozen=True)
class Tally:
    """One kind of sum.

    Attributes:
      empty: at the start of training.
      tick: ``(pending, Tick) -> pending``, at every tick.
      update: ``(kept, Update) -> kept``, after it, where the tick completes a batch.
      summary: ``sums -> {variable: Labelled}`` of an epoch.
    """

    empty: Kept
    tick: Callable[[Any, Tick], Any]
    update: Callable[[Kept, Update], Kept]
    summary: Callable[[Any], dict[str, Labelled]]


@dataclasses.dataclass(frozen=True)
class Setting:
    """What tallies need to know of a program.

    Attributes:
      params: shapes of the weights.
      where: the leaves that count.
      micro_batch: g, examples of a gradient.
      num_examples: N.
      sharding: of every batch over devices.
    """

    params: Any
    where: Where
    micro_batch: int
    num_examples: int
    sharding: Sharding


def seen_tick(
    tallies: Sequence[Tally], observed: Any, grads: Any, loss: jax.Array, sound: jax.Array
) -> Any:
    """The states after a tick; those before, where the run has diverged."""
    if not tallies:
        return observed
    shown = Tick(*lax.optimization_barrier((grads, loss)))
    ticked = tuple(
        kept._replace(pending=tally.tick(kept.pending, shown))
        for tally, kept in zip(tallies, observed)
    )
    return jax.tree.map(lambda new, old: jnp.where(sound, new, old), ticked, observed)


def seen_update(tallies: Sequence[Tally], observed: Any, shown: Update) -> Any:
    """The states after an update."""
    if not tallies:
        return observed
    shown = Update(*lax.optimization_barrier(tuple(shown)))
    return tuple(tally.update(kept, shown) for tally, kept in zip(tallies, observed))


def new_epoch(tallies: Sequence[Tally], observed: Any, fresh: jax.Array) -> Any:
    """The states of lanes at the start of a window: ``fresh``, whether an epoch begins there."""

    def sums(old: Any, empty: Any) -> Any:
        return jax.tree.map(lambda o, e: jnp.where(fresh, e, o), old, empty)

    return tuple(
        kept._replace(sums=sums(kept.sums, tally.empty.sums))
        for tally, kept in zip(tallies, observed)
    )
