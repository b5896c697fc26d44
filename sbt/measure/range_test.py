r"""The learning-rate range test: how far the rate can rise before the loss goes up.

Train once while the learning rate rises (the schedule ``range_test``) and see where the loss is
lowest and where it is lost. What is read off here is what Smith reads off a curve by eye.

References:
  Smith, `Cyclical Learning Rates for Training Neural Networks <https://arxiv.org/abs/1506.01186>`_,
  2017 (section 3.3)
"""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sbt.measure.online import Kept, Online, Setting, Tick, Update
from sbt.measure.registry import MEASUREMENTS, Found, Labelled
from sbt.ranges import BELOW_ONE, Range

ZERO, UNKNOWN = np.zeros((), np.float32), np.full((), np.nan, np.float32)


class Reading(NamedTuple):
    """A range test so far; every leaf of shape ()."""

    updates: Any  # losses seen
    average: Any  # sum of losses, the older the less
    lowest: Any  # smoothed loss
    rate: Any  # of the last update; NaN before the first
    best: Any  # the rate that led to the lowest smoothed loss
    largest: Any  # the last rate after which it was still good
    lost: Any  # 1.0 once it is not


NO_READING = Reading(ZERO, ZERO, np.full((), np.inf, np.float32), UNKNOWN, UNKNOWN, UNKNOWN, ZERO)


def read(
    reading: Reading, loss: Any, learning_rate: Any, smoothing: float = 0.9, factor: float = 4.0
) -> Reading:
    r"""The reading after one more batch.

    .. math:: \bar L_t = \frac{(1 - s) \sum_{j \le t} s^{t - j} L_j}{1 - s^{t + 1}}

    A loss tells of the weights that the update before it left, so of *that* update's rate. The
    first time that :math:`\bar L_t` is more than ``factor`` times the lowest so far, or is no
    number, the test is over: rates after that count no more. The first :math:`1/(1-s)` losses are
    too few for an average to be called low.

    Args:
      reading: before; :data:`NO_READING` at the start.
      loss: of the batch, at the weights before its update.
      learning_rate: of its update.
      smoothing: :math:`s`.
      factor: how much more is lost. Smith looks for where the curve turns, without a number.

    >>> reading = NO_READING
    >>> for loss, rate in ((4.0, 1.0), (2.0, 2.0), (1.0, 3.0), (3.0, 4.0), (9.0, 5.0), (1.0, 6.0)):
    ...     reading = read(reading, loss, rate, smoothing=0.0)
    >>> print(reading.lowest, reading.best, reading.largest, reading.lost)  # 9 > 4 * 1
    1.0 2.0 3.0 1.0
    """
    loss, rate = (jnp.asarray(x).astype(jnp.float32) for x in (loss, learning_rate))
    updates = reading.updates + 1
    average = smoothing * reading.average + (1 - smoothing) * loss
    smooth = average / (1 - smoothing**updates)
    lost = jnp.where(smooth <= factor * reading.lowest, reading.lost, 1.0)
    # Of exactly 1/(1-s) losses rounding must not decide.
    enough = updates * (1 - smoothing) > 1 - 1e-3
    better = (lost == 0) & enough & (smooth < reading.lowest)
    return Reading(
        updates,
        average,
        jnp.where(better, smooth, reading.lowest),
        rate,
        jnp.where(better, reading.rate, reading.best),
        jnp.where(lost == 0, reading.rate, reading.largest),
        lost,
    )


@MEASUREMENTS.register("range_test", cost="free", source="Smith 2017, arXiv 1506.01186")
def range_test(
    setting: Setting,
    *,
    smoothing: Annotated[float, BELOW_ONE] = 0.9,
    factor: Annotated[float, Range(1, open_low=True)] = 4.0,
) -> Online:
    r"""Learning rates of a range test: at the lowest loss, and the largest before it is lost.

    Since the start of the run, by the smoothed loss of batches (:func:`read`). Train with
    ``schedule.name = 'range_test'`` and a ``base_lr`` that is too large. A run that never loses has
    as its largest rate the last one; NaN in epochs that a diverged run does not see.
    """

    def tick(pending: Any, seen: Tick) -> Any:
        (total, count), reading = pending
        return (total + seen.loss.astype(jnp.float32), count + 1), reading

    def update(kept: Kept, seen: Update) -> Kept:
        (total, count), reading = kept.pending
        loss = total / jnp.maximum(count, 1)
        after = read(reading, loss, seen.learning_rate, smoothing, factor)
        after = jax.tree.map(lambda x: jnp.asarray(x).astype(jnp.float32), after)
        return Kept(((ZERO, ZERO), after), (after.best, after.largest))

    def summary(sums: Any) -> Found:
        best, largest = sums
        return {
            "range_test_best_lr": Labelled(best, (), "", "learning rate η at the lowest loss"),
            "range_test_largest_lr": Labelled(
                largest, (), "", "largest learning rate η before the loss is lost"
            ),
        }

    return Online(Kept(((ZERO, ZERO), NO_READING), (UNKNOWN, UNKNOWN)), update, summary, tick)
