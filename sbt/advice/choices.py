"""Axes without an order: what each of their values, a rule's name perhaps, needs by itself.

Every other number of an advice is tuned over all axes, and so belongs to the best value of these.
An axis of two numbers counts as one of these, too: nothing can be interpolated between two.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sbt.advice.critical import FEWEST_SIZES, Critical, critical
from sbt.advice.targets import Reached
from sbt.intervals import Interval, interval, seed_draws


@dataclass(frozen=True, eq=False)
class Choice:
    """One value of an axis, everything else tuned.

    Attributes:
      axis, value: which.
      reached: examples to the target of the cells that have it.
      curve: its critical batch sizes; None where fewer than three batch sizes reach the target.
      times: its fewest examples over all batch sizes, relative to those of the best value; paired
        over seeds, infinite where it never reaches the target, NaN where a search left that open.
      best_at: the batch sizes at which no other value needs fewer.
    """

    axis: str
    value: Any
    reached: Reached
    curve: Critical | None
    times: Interval
    best_at: np.ndarray


def choices(found: Reached, axis: str) -> tuple[Choice, ...]:
    """Every value of an axis, in the order of the results."""
    values = list(dict.fromkeys(cell[axis] for cell in found.cells))
    parts = [found.having(axis, value) for value in values]
    seeds, draws = found.seeds, seed_draws(found.seeds)
    fewest = np.stack([part.fewest for part in parts])  # (values, sizes)
    least = fewest.min(-1)
    first = int(np.argmin(least))
    drawn = np.stack([part.over(draws).min((-1, -2)) for part in parts])  # (values, draws)
    made = []
    for i, (value, part) in enumerate(zip(values, parts, strict=True)):
        with np.errstate(invalid="ignore"):
            ratio = drawn[i] / drawn[first]
        times = interval(float(least[i] / least[first]), ratio, seeds, log=True)
        if i == first:
            times = Interval(1.0, np.nan, np.nan)
        elif np.isinf(least[i]) and part.open.any():
            times = Interval(np.nan, np.nan, np.nan)
        wins = np.isfinite(fewest[i]) & (fewest[i] <= fewest.min(0))
        curve = critical(part) if part.resolved.sum() >= FEWEST_SIZES else None
        made.append(Choice(axis, value, part, curve, times, found.sizes[wins]))
    return tuple(made)
