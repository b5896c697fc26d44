"""Learning rate, batch size and momentum of an update, from the progress at its start."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sbt.optim.noise_schedules import NoiseSettings, noise_settings
from sbt.optim.schedules import default_parameters, onecycle_momentum
from sbt.ranges import ranges_of
from sbt.schedules.scaling import Scaling, scaled_learning_rate
from sbt.train.state import Hyper

# Momentum as a function of progress. ``constant`` leaves it to the rule.
MOMENTUM_SCHEDULES: dict[str, Mapping[str, Any]] = {
    "constant": {},
    "onecycle": default_parameters(onecycle_momentum),
}
_NOISE = {
    "variance": 25.0,
    "gradient_bound": 0.0,
    "power": 0.9,
    "epochs": 0.0,
    "balance": 1.0,
    "largest_batch": 50_000.0,
}
# Sato & Iiduka's schedules, which move learning rate, batch size and momentum together.
NOISE: dict[str, Mapping[str, Any]] = {
    "none": {},
    **{name: _NOISE for name in ("lr", "lr-batch", "beta", "lr-beta", "cosine")},
    "exp": {**_NOISE, "power": 0.99, "epochs": 200.0},
}

MOMENTUM_RANGES = ranges_of(onecycle_momentum)
NOISE_RANGES = ranges_of(noise_settings)


class Settings(NamedTuple):
    """What holds for one update."""

    learning_rate: jax.Array  # mean form
    batch_size: jax.Array  # int32, a multiple of the micro-batch
    rule: Mapping[str, Any]  # numeric hyperparameters of the rule


@dataclasses.dataclass(frozen=True)
class Pace:
    """The schedules of a program.

    Attributes:
      schedule: ``(progress, batch_size=m, **parameters) -> `` multiplier of the peak learning rate.
      micro_batch: examples per tick that count towards m.
      lr_scaling: how η follows from η̃, see :func:`sbt.schedules.scaled_learning_rate`.
      batch_schedule: see :mod:`sbt.optim.batch_schedules`; None for a constant batch size.
      momentum_schedule: key of :data:`MOMENTUM_SCHEDULES`.
      noise: key of :data:`NOISE`.
      noise_form: form of the momentum, see :mod:`sbt.optim.smoothing_degree`.
    """

    schedule: Callable[..., jax.Array]
    micro_batch: int
    lr_scaling: Scaling = "linear"
    batch_schedule: Any = None
    momentum_schedule: str = "constant"
    noise: str = "none"
    noise_form: Any = "shb"


def settings_at(pace: Pace, hyper: Hyper, progress: jax.Array) -> Settings:
    """The settings of the update that begins at this progress."""
    rate = learning_rate(pace, hyper, progress)
    size = current_batch_size(pace, hyper, progress)
    rule = dict(hyper.rule)
    if pace.momentum_schedule != "constant":
        momentum = onecycle_momentum(progress, **hyper.momentum_schedule)
        rule["momentum"] = momentum.astype(rate.dtype)
    if pace.noise != "none":
        start = NoiseSettings(rate, size.astype(rate.dtype), rule["momentum"])
        now = noise_settings(pace.noise, progress, start, form=pace.noise_form, **hyper.noise)
        rate = now.learning_rate.astype(rate.dtype)
        k = jnp.maximum(1, jnp.round(now.batch_size / pace.micro_batch)).astype(jnp.int32)
        size, rule["momentum"] = k * pace.micro_batch, now.momentum.astype(rate.dtype)
    return Settings(rate, size, rule)


def learning_rate(pace: Pace, hyper: Hyper, progress: jax.Array) -> jax.Array:
    """η of the next update, in mean form: base LR, times the batch size, times the schedule.

    Args:
      pace: gives ``lr_scaling`` and the schedules.
      hyper: gives m and η̃ (Masters & Luschi 2018, section 2: η = m η̃).
      progress: at the start of the update.
    """
    dtype = hyper.base_lr.dtype
    peak = scaled_learning_rate(hyper.base_lr, hyper.batch_size, pace.lr_scaling)
    multiplier = pace.schedule(progress, batch_size=hyper.batch_size, **hyper.schedule)
    rate = peak * multiplier.astype(dtype)
    if pace.batch_schedule is not None:
        k = hyper.batch_size // pace.micro_batch
        factor = pace.batch_schedule.learning_rate(progress, accumulation=k, **hyper.batch_schedule)
        rate = rate * factor.astype(dtype)
    return rate


def current_batch_size(pace: Pace, hyper: Hyper, progress: jax.Array) -> jax.Array:
    """m of the update that begins at this progress."""
    if pace.batch_schedule is None:
        return hyper.batch_size
    k = hyper.batch_size // pace.micro_batch
    multiple = pace.batch_schedule(progress, accumulation=k, **hyper.batch_schedule)
    return multiple * pace.micro_batch
