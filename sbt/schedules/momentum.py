"""Momentum as a function of progress."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from sbt.choice import Registry
from sbt.schedules.lr import BelowOne, Part, Within, as_progress, check_cycle, cycle_phases

MOMENTUM_SCHEDULES = Registry("momentum_schedule", default="constant")


@MOMENTUM_SCHEDULES.register("constant")
def constant(progress: ArrayLike) -> None:
    """Leaves the momentum to the rule."""


@MOMENTUM_SCHEDULES.register("onecycle", source="Smith 2018, arXiv 1803.09820", check=check_cycle)
def onecycle_momentum(
    progress: ArrayLike,
    rise: Within = 0.45,
    fall: Part = 0.9,
    high: BelowOne = 0.95,
    low: BelowOne = 0.85,
) -> jax.Array:
    """High while the learning rate of :func:`sbt.schedules.lr.onecycle` is low.

    ``high`` to ``low`` until ``rise``, back to ``high`` at ``fall``, and constant from there.

    Args:
      progress: fraction of the budget.
      rise: progress at which the learning rate peaks and the momentum is lowest.
      fall: progress at which both are back.
      high: momentum at the ends.
      low: momentum at the peak.

    Returns:
      The momentum, shaped like ``progress``.

    >>> print(onecycle_momentum(jnp.asarray([0.0, 0.45, 0.9, 1.0])))
    [0.95 0.85 0.95 0.95]
    """
    progress = as_progress(progress)
    high, low = (jnp.asarray(x, progress.dtype) for x in (high, low))
    up, down, _ = cycle_phases(progress, rise, fall)
    return high + (low - high) * (up - down)
