r"""Batch sizes that change during training, as functions of progress.

The batch is counted in micro-batches: a schedule maps progress and the run's own accumulation
count :math:`k = m/g` to the number of micro-batches of the next update, an integer of at least 1.
Lanes of different :math:`k` share a program, so growth is stated as a ratio of :math:`k`.

A change of batch size comes with a change of learning rate; :meth:`BatchSchedule.learning_rate`
is that factor, on the *mean-form* rate :math:`\eta` of the nominal batch :math:`m` (a step is
:math:`\eta` times the mean gradient of whatever batch is current). Per example it is
``learning_rate / (multiple / k)``.

Evaluate a schedule at the start of an update, with the progress made until then.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from sbt.errors import UserError
from sbt.optim.schedule_shapes import PART, Part, Positive, as_progress, reached, steps
from sbt.optim.schedules import check_shape, default_parameters
from sbt.ranges import NON_NEGATIVE, Range, check_fields, check_name, ranges_of

# Progress, nominal accumulation count and parameters to (wanted growth, learning-rate factor).
Growth = Callable[..., tuple[jax.Array, jax.Array]]


def constant(progress: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """The nominal batch throughout."""
    one = jnp.ones_like(as_progress(progress))
    return one, one


def small_first(
    progress: ArrayLike,
    until: Part = 0.01,
    ratio: Part = 1 / 16,
    factor: Positive = 0.1,
) -> tuple[jax.Array, jax.Array]:
    """A smaller batch at the start (Gao & Zhong, 2020, section 3.2), then the nominal one.

    The paper trains the first epoch with 512 examples at learning rate 0.005 and the others with
    8192 at 0.05: ``until = 1 / epochs``, ``ratio = 1/16``, ``factor = 0.1``.

    Args:
      progress: fraction of the budget.
      until: progress at which the nominal batch begins.
      ratio: small batch over nominal batch.
      factor: mean-form learning rate of the small batch over the nominal one's.
    """
    progress = as_progress(progress)
    small = ~reached(progress, until)
    ratio, factor = (jnp.asarray(x, progress.dtype) for x in (ratio, factor))
    one = jnp.ones_like(progress)
    return jnp.where(small, ratio, one), jnp.where(small, factor, one)


def adabatch(
    progress: ArrayLike,
    every: Part = 0.2,
    ratio: Positive = 2.0,
    factor: Positive = 0.75,
) -> tuple[jax.Array, jax.Array]:
    """AdaBatch (Devarakonda, Naumov & Garland, 2017): batch times ``ratio`` in regular stairs.

    The paper's CIFAR arm doubles the batch and multiplies the learning rate by 0.75 every 20 of 100
    epochs, where the fixed-batch arm multiplies it by 0.375: the learning rate per example is the
    same in both.

    Args:
      progress: fraction of the budget.
      every: length of a stair, a fraction of the budget.
      ratio: growth of the batch at each stair.
      factor: factor on the mean-form learning rate at each stair.
    """
    progress = as_progress(progress)
    every, ratio, factor = (jnp.asarray(x, progress.dtype) for x in (every, ratio, factor))
    # The stair that ``progress`` is on, or is about to reach, whichever has begun.
    following = jnp.round(progress / every)
    stairs = following - jnp.where(reached(progress, following * every), 0, 1)
    return ratio**stairs, factor**stairs


def smith(
    progress: ArrayLike,
    drops: Annotated[ArrayLike | Sequence[ArrayLike], PART] = (0.3, 0.6, 0.8),
    factor: Annotated[ArrayLike | Sequence[ArrayLike], Range(1)] = 5.0,
) -> tuple[jax.Array, jax.Array]:
    """Smith, Kindermans, Ying & Le (2018): grow the batch where others lower the learning rate.

    The defaults are the CIFAR-10 run of the paper: times 5 at epochs 60, 120 and 160 of 200, at
    constant learning rate. With ``largest``, growth stops there and the learning rate is divided
    instead, as the paper does near a tenth of the training set.

    Args:
      progress: fraction of the budget.
      drops: progress at which each growth happens.
      factor: growth at each; one number, or one per drop.
    """
    growth = steps(progress, drops, factor)
    return growth, jnp.ones_like(growth)


BATCH_SCHEDULES: dict[str, Growth] = {
    "constant": constant,
    "small_first": small_first,
    "adabatch": adabatch,
    "smith": smith,
}


@dataclasses.dataclass(frozen=True, eq=False)
class BatchSchedule:
    """A batch-size schedule with its parameters bound.

    Attributes:
      name: key of :data:`BATCH_SCHEDULES`.
      parameters: the parameters; each may be overridden at a call by a number or traced scalar.
        ``largest`` is there for every schedule: the largest multiple of the nominal batch, 0 for
        no limit. Growth that it cuts off is taken from the learning rate instead, so that learning
        rate over batch size (the noise scale of Smith et al.) follows the same course.
    """

    name: str
    parameters: Mapping[str, Any]

    def __call__(
        self, progress: ArrayLike, *, accumulation: ArrayLike, **overrides: Any
    ) -> jax.Array:
        """Micro-batches in the next update.

        Args:
          progress: fraction of the budget.
          accumulation: :math:`k`, micro-batches in the run's nominal batch; int, may be traced.
          **overrides: parameters that replace those of the config.

        Returns:
          int32, at least 1: nominal count times growth, rounded to the nearest.
        """
        return self._evaluate(progress, accumulation, overrides)[0]

    def learning_rate(
        self, progress: ArrayLike, *, accumulation: ArrayLike, **overrides: Any
    ) -> jax.Array:
        """The factor on the mean-form learning rate that belongs to the batch size."""
        return self._evaluate(progress, accumulation, overrides)[1]

    def growth(self, progress: ArrayLike, **overrides: Any) -> jax.Array:
        """The next batch over the nominal one, before it is rounded to micro-batches."""
        return self._growth(progress, overrides)[0]

    def _evaluate(self, progress, accumulation, overrides):
        growth, factor = self._growth(progress, overrides)
        count = jnp.round(jnp.asarray(accumulation).astype(growth.dtype) * growth)
        return jnp.maximum(count.astype(jnp.int32), 1), factor

    def _growth(self, progress, overrides):
        _refuse_unknown(self.name, overrides, self.parameters)
        values = {**self.parameters, **overrides}
        progress = as_progress(progress)
        largest = jnp.asarray(values.pop("largest"), progress.dtype)
        wanted, factor = BATCH_SCHEDULES[self.name](progress, **values)
        growth = jnp.where(largest > 0, jnp.minimum(wanted, largest), wanted)
        return growth, factor * growth / wanted


def make_batch_schedule(config: Mapping[str, Any]) -> BatchSchedule:
    """Builds a :class:`BatchSchedule` from a flat mapping.

    Args:
      config: ``name`` (constant when absent), the parameters of that function, and ``largest``.

    Raises:
      UserError: unknown name or field, or a value that is not above 0 (``largest`` may be 0).

    >>> schedule = make_batch_schedule({"name": "smith", "largest": 25})
    >>> progress = jnp.asarray([0.0, 0.3, 0.6, 0.8])
    >>> print(schedule(progress, accumulation=4))
    [  4  20 100 100]
    >>> print(schedule.learning_rate(progress, accumulation=4))
    [1.  1.  1.  0.2]
    """
    fields = dict(config)
    name = fields.pop("name", "constant")
    check_name("config.batch_schedule.name", name, BATCH_SCHEDULES)
    function = BATCH_SCHEDULES[name]
    defaults = default_parameters(function) | {"largest": 0.0}
    ranges = ranges_of(function) | {"largest": NON_NEGATIVE}
    several = {"drops", "factor"} if "drops" in defaults else set()
    parameters = check_fields("config.batch_schedule", fields, defaults, ranges, several)
    check_shape("config.batch_schedule", parameters)
    if 0 < parameters["largest"] < 1:
        raise UserError(
            "config.batch_schedule.largest",
            f"{parameters['largest']!r} is less than the nominal batch",
            "give a multiple of the nominal batch of at least 1, or 0 for no limit",
        )
    return BatchSchedule(name, parameters)


def _refuse_unknown(name: str, given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    for field in given:
        if field not in known:
            raise UserError(
                f"config.batch_schedule.{field}",
                f"the batch-size schedule {name!r} has no such field",
                f"its fields are {', '.join(sorted(known))}.",
            )
