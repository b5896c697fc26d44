"""Learning rate, batch size and momentum of an update: what schedules move.

Schedules of different kinds are all turned into *moves*, ``(progress, Settings) -> Settings``, so
that they compose: each begins with what the one before it left.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sbt.schedules.batch import Growth, micro_batches


class Settings(NamedTuple):
    """What holds for one update.

    Attributes:
      learning_rate: η, in mean form.
      batch_size: m, examples.
      momentum: β; None where the rule has none that can move.
    """

    learning_rate: jax.Array
    batch_size: jax.Array
    momentum: Any


Move = Callable[[jax.Array, Settings], Settings]


def scale_rate(schedule: Callable[..., jax.Array], **parameters: Any) -> Move:
    """The move of a learning-rate schedule, see :mod:`sbt.schedules.lr`."""

    def move(progress: jax.Array, now: Settings) -> Settings:
        multiplier = schedule(progress, batch_size=now.batch_size, **parameters)
        return now._replace(learning_rate=now.learning_rate * _like(multiplier, now.learning_rate))

    return move


def grow_batch(schedule: Callable[..., Growth], micro_batch: int, **parameters: Any) -> Move:
    """The move of a batch schedule, see :mod:`sbt.schedules.batch`: to whole micro-batches."""

    def move(progress: jax.Array, now: Settings) -> Settings:
        growth = schedule(progress, **parameters)
        count = micro_batches(now.batch_size // micro_batch, growth.batch)
        rate = now.learning_rate * _like(growth.learning_rate, now.learning_rate)
        return now._replace(learning_rate=rate, batch_size=count * micro_batch)

    return move


def move_momentum(schedule: Callable[..., jax.Array], **parameters: Any) -> Move:
    """The move of a momentum schedule, see :mod:`sbt.schedules.lr`."""

    def move(progress: jax.Array, now: Settings) -> Settings:
        return now._replace(momentum=_like(schedule(progress, **parameters), now.learning_rate))

    return move


def move_noise(schedule: Callable[..., Settings], micro_batch: int, **parameters: Any) -> Move:
    """The move of a noise schedule, see :mod:`sbt.schedules.noise`: to whole micro-batches."""

    def move(progress: jax.Array, now: Settings) -> Settings:
        rate = now.learning_rate
        momentum = jnp.zeros_like(rate) if now.momentum is None else now.momentum
        then = schedule(
            progress, Settings(rate, _like(now.batch_size, rate), momentum), **parameters
        )
        count = jnp.maximum(1, jnp.round(then.batch_size / micro_batch)).astype(jnp.int32)
        moved = None if now.momentum is None else _like(then.momentum, rate)
        return Settings(_like(then.learning_rate, rate), count * micro_batch, moved)

    return move


def _like(value: jax.Array, other: jax.Array) -> jax.Array:
    return value.astype(other.dtype)
