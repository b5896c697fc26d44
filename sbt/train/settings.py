"""Learning rate, batch size and momentum of an update, from the progress at its start."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sbt.schedules import settings
from sbt.schedules.batch import BATCH_SCHEDULES, Feedback
from sbt.schedules.lr import MOMENTUM_SCHEDULES, SCHEDULES
from sbt.schedules.noise import NOISE
from sbt.schedules.scaling import LAWS, Scaled, Scaling, Size
from sbt.train.state import Hyper


class Schedules(NamedTuple):
    """The schedules of a program: choices, with their options.

    Attributes:
      micro_batch: examples per tick that count towards m.
      lr_scaling: how η follows from η̃, where the law does not say so with a power of its own.
      scaling: of :data:`sbt.schedules.LAWS`: how rate and decays follow m.
      tokens: T, of each example; 0 where they are not counted.
      budget: D, examples of the whole training.
      learning_rate: of :data:`sbt.schedules.SCHEDULES`.
      batch: of :data:`sbt.schedules.BATCH_SCHEDULES`.
      momentum: of :data:`sbt.schedules.MOMENTUM_SCHEDULES`.
      noise: of :data:`sbt.schedules.NOISE`.
      noise_form: form of the momentum, see :mod:`sbt.schedules.noise`.
    """

    micro_batch: int
    lr_scaling: Scaling = "linear"
    scaling: Any = LAWS["fixed"]
    tokens: int = 0
    budget: int = 1
    learning_rate: Callable[..., jax.Array] = SCHEDULES["constant"]
    batch: Any = BATCH_SCHEDULES["constant"]
    momentum: Any = MOMENTUM_SCHEDULES["constant"]
    noise: Any = NOISE["none"]
    noise_form: str = "shb"

    @property
    def feedback(self) -> Feedback | None:
        """What the batch schedule wants to be told."""
        found: Feedback | None = self.batch.facts.get("feedback")
        return found

    def growth(self, hyper: Hyper, told: Any) -> list[settings.Move]:
        """What the batch schedule does to a run's settings; nothing, if it stands still."""
        if self.batch.name == "constant":
            return []
        state = {} if self.feedback is None else {"told": told}
        return [settings.grow_batch(self.batch, self.micro_batch, **hyper.batch_schedule, **state)]

    def grown(self, hyper: Hyper, progress: jax.Array, told: Any) -> settings.Settings:
        """The current m, and in place of η what the batch schedule multiplies it by."""
        now = settings.Settings(jnp.ones_like(hyper.base_lr), hyper.batch_size, None)
        for move in self.growth(hyper, told):
            now = move(progress, now)
        return now

    def moves(self, hyper: Hyper, told: Any) -> list[settings.Move]:
        """What is done to a run's settings, in order; schedules that stand still do nothing."""
        g = self.micro_batch
        found = [settings.scale_rate(self.learning_rate, **hyper.schedule)]
        found += self.growth(hyper, told)
        if self.momentum.name != "constant":
            found.append(settings.move_momentum(self.momentum, **hyper.momentum_schedule))
        if self.noise.name != "none":
            noise = {"form": self.noise_form, **hyper.noise}
            found.append(settings.move_noise(self.noise, g, **noise))
        return found


class Now(NamedTuple):
    """What holds for one update."""

    learning_rate: jax.Array  # mean form
    batch_size: jax.Array  # int32, a multiple of the micro-batch
    rule: Mapping[str, Any]  # numeric hyperparameters of the rule


def settings_at(schedules: Schedules, hyper: Hyper, progress: jax.Array, told: Any = ()) -> Now:
    """The settings of the update that begins at this progress, with what was told until then.

    By the law of the config, η̃ and m of the run give η (Masters & Luschi 2018, section 2:
    η = m η̃), and the current m gives the decays; then the schedules move η, m and β, each from
    where the one before it left them.
    """
    grown = schedules.grown(hyper, progress, told)
    batch = jnp.asarray(grown.batch_size).astype(jnp.result_type(hyper.base_lr))
    size = Size(batch, schedules.tokens, schedules.budget, hyper.batch_size, grown.learning_rate)
    base = Scaled(hyper.base_lr, hyper.rule)
    scaled = schedules.scaling(base, size, schedules.lr_scaling, **hyper.scaling)
    rule = dict(scaled.rule)
    now = settings.Settings(scaled.learning_rate, hyper.batch_size, rule.get("momentum"))
    for move in schedules.moves(hyper, told):
        now = move(progress, now)
    if "momentum" in rule:
        rule["momentum"] = now.momentum
    return Now(now.learning_rate, now.batch_size, rule)
