r"""Learning-rate schedules as functions of progress.

*Progress* is the fraction of the training budget already spent, counted in examples, in [0, 1]. A
schedule maps it to a *multiplier of the peak learning rate* (dimensionless). Runs of different
batch sizes take different numbers of updates over the same budget, so only a function of progress
means the same thing for all of them.

Every parameter may be a Python number or a traced scalar: one compiled program can hold lanes with
different warm-ups, powers or drop points. The curves are in :mod:`sbt.optim.schedule_shapes`.

Warm-up fields apply to every schedule (see :func:`make_schedule`):

===================  ===============================================================================
``warmup``           length of the warm-up, a fraction of the budget; 0 is none
``warmup_start``     first value, a fraction of the peak
``warmup_batch``     0, or the batch size for which ``warmup`` is stated (LEGW, :func:`legw`)
``after_warmup``     False: the schedule runs from progress 0 and the ramp multiplies it, so that
                     drops stay where the protocol puts them. True: the schedule starts when the
                     warm-up ends, over the remaining budget
===================  ===============================================================================
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from sbt.errors import UserError, shown
from sbt.optim.schedule_shapes import (
    as_progress,
    constant,
    cosine,
    exponential,
    gradual_warmup,
    legw,
    onecycle,
    onecycle_momentum,
    poly,
    reached,
    steps,
    triangular,
)
from sbt.ranges import COUNT, FRACTION, Range, check_fields, check_name, check_rising, ranges_of

__all__ = [
    "SCHEDULES",
    "WARMUP_DEFAULTS",
    "Schedule",
    "as_optax",
    "constant",
    "cosine",
    "exponential",
    "gradual_warmup",
    "legw",
    "make_schedule",
    "onecycle",
    "onecycle_momentum",
    "poly",
    "steps",
    "triangular",
]

Shape = Callable[..., jax.Array]

WARMUP_DEFAULTS: dict[str, Any] = {
    "warmup": 0.0,
    "warmup_start": 1 / 32,
    "warmup_batch": 0,  # a batch size, not a quantity that lanes differ in
    "after_warmup": False,
}
WARMUP_RANGES = {
    "warmup": FRACTION,
    "warmup_start": FRACTION,
    "warmup_batch": Range(0, COUNT.high),
}


SCHEDULES: dict[str, Shape] = {
    "constant": constant,
    "steps": steps,
    "poly": poly,
    "cosine": cosine,
    "exponential": exponential,
    "triangular": triangular,
    "onecycle": onecycle,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """A schedule with its warm-up and parameters bound: ``schedule(progress, **overrides)``.

    Attributes:
      name: key of :data:`SCHEDULES`.
      parameters: every parameter, warm-up fields included. Any of them but ``after_warmup`` may be
        overridden at the call by a number or a traced scalar.
    """

    name: str
    parameters: Mapping[str, Any]

    def __call__(
        self, progress: ArrayLike, *, batch_size: ArrayLike | None = None, **overrides: Any
    ) -> jax.Array:
        """The multiplier of the peak learning rate.

        Args:
          progress: fraction of the budget.
          batch_size: examples per update, needed (and used) only with ``warmup_batch``.
          **overrides: parameters that replace those of the config, traced or not.

        Returns:
          The multiplier, shaped like ``progress``.

        Raises:
          UserError: an override is no parameter of this schedule, or the batch size is missing.
        """
        _refuse_unknown(self.name, overrides, self.parameters)
        values = {**self.parameters, **overrides}
        progress = as_progress(progress)
        warmup, start, base, after = (values.pop(key) for key in WARMUP_DEFAULTS)
        warmup = jnp.asarray(warmup, progress.dtype)
        if batch_size is not None:
            base = jnp.asarray(base, progress.dtype)
            ratio = jnp.asarray(batch_size).astype(progress.dtype) / jnp.where(base > 0, base, 1)
            warmup = jnp.where(base > 0, warmup * ratio, warmup)
        elif isinstance(base, jax.core.Tracer) or base:
            raise UserError(
                "config.schedule.warmup_batch",
                "a warm-up stated for one batch size needs the batch size of the run",
                "call schedule(progress, batch_size=m).",
            )
        seen = progress
        if after:
            rest = jnp.where(warmup < 1, 1 - warmup, 1)
            seen = jnp.where(reached(progress, warmup), (progress - warmup) / rest, 0)
        return gradual_warmup(progress, warmup, start) * SCHEDULES[self.name](seen, **values)


def make_schedule(config: Mapping[str, Any]) -> Schedule:
    """Builds ``schedule(progress, **overrides) -> multiplier`` from a flat mapping.

    Args:
      config: ``name`` (a key of :data:`SCHEDULES`; constant when absent), the parameters of that
        function, and the warm-up fields of this module's table. Missing fields take the defaults.

    Returns:
      The schedule.

    Raises:
      UserError: unknown name or field, or a value that no training could use.

    >>> schedule = make_schedule({"name": "steps", "drops": (0.5, 0.75), "warmup": 0.05})
    >>> print(schedule(jnp.asarray([0.0, 0.05, 0.5])))
    [0.03125 1.      0.1    ]
    >>> print(schedule(0.5, factor=0.2))
    0.2
    """
    fields = dict(config)
    name = fields.pop("name", "constant")
    check_name("config.schedule.name", name, SCHEDULES)
    function = SCHEDULES[name]
    defaults = default_parameters(function) | WARMUP_DEFAULTS
    ranges = ranges_of(function) | WARMUP_RANGES
    several = {"drops", "factor"} if "drops" in defaults else set()
    parameters = check_fields("config.schedule", fields, defaults, ranges, several)
    check_shape("config.schedule", parameters)
    return Schedule(name, parameters)


def default_parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """The keyword parameters of a schedule function, with their defaults."""
    items = list(inspect.signature(function).parameters.items())[1:]
    return {key: parameter.default for key, parameter in items}


def as_optax(
    schedule: Callable[..., jax.Array], total_updates: ArrayLike, **overrides: Any
) -> Callable[[ArrayLike], jax.Array]:
    """An optax schedule (update count to value) made of a schedule of progress.

    Update ``count`` (from 0) sees the progress made before it, ``count / total_updates``. A
    learning rate is ``lambda count: peak * as_optax(schedule, total)(count)``.

    Args:
      schedule: any function of this module, or a :class:`Schedule`.
      total_updates: updates in the budget; may be traced.
      **overrides: passed on to the schedule.

    Returns:
      The function of the update count.
    """

    def of_count(count: ArrayLike) -> jax.Array:
        dtype = jnp.result_type(float)
        done = jnp.asarray(count).astype(dtype) / jnp.asarray(total_updates).astype(dtype)
        return schedule(done, **overrides)

    return of_count


def _refuse_unknown(name: str, given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    for field in given:
        if field not in known:
            raise UserError(
                f"config.schedule.{field}",
                f"the schedule {name!r} has no such field",
                f"its fields are {', '.join(sorted(known))}.",
            )


def check_shape(where: str, parameters: Mapping[str, Any]) -> None:
    """Refuses parameters of a schedule that do not go together.

    Raises:
      UserError: drops that do not rise, a number of factors that is not that of the drops, a fall
        that does not come after the rise.
    """
    if "drops" in parameters:
        drops, factor = parameters["drops"], parameters["factor"]
        check_rising(f"{where}.drops", drops)
        count = len(drops) if isinstance(drops, tuple) else 1
        if isinstance(factor, tuple) and len(factor) != count:
            raise UserError(
                f"{where}.factor",
                f"{shown(factor)} has {len(factor)} numbers for {count} drops",
                "give one for each drop, or one number for all",
            )
    if "fall" in parameters and not parameters["rise"] < parameters["fall"]:
        raise UserError(
            f"{where}.fall",
            f"{parameters['fall']!r} does not come after the rise, {parameters['rise']!r}",
            "make fall the larger one",
        )
