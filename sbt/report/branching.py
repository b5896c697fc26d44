"""Critical batch sizes by branching (Merrill et al. 2025, arXiv:2505.23971, section 3).

From checkpoints of one training, branches of several batch sizes see the same number of examples.
The critical batch size there is the largest whose loss is no more than a tolerance above that of
every smaller one: up to it a larger batch costs nothing. Between it and the next one tried lies the
border.
"""

from typing import NamedTuple

import numpy as np
import xarray as xr

from sbt.report.claims import OPEN, Verdict, claim
from sbt.report.seeds import bootstrap, decided, gains
from sbt.report.tuning import rank_correlation
from sbt.report.view import BATCH_SIZE, SEED, View

START = "start_epoch"
SOURCE = "Merrill et al. 2025, arXiv:2505.23971"
TOLERANCE = 0.01  # nats per token: theirs


class Border(NamedTuple):
    """Where a larger batch begins to cost, at every checkpoint.

    Attributes:
      epochs: of the checkpoints.
      low: the largest batch size that costs nothing.
      high: the next one tried; infinite where even the largest costs nothing.
    """

    epochs: np.ndarray
    low: np.ndarray
    high: np.ndarray


def largest_without_loss(losses: np.ndarray, tolerance: float) -> np.ndarray:
    """Position of the largest batch size that loses nothing, along the last axis.

    Args:
      losses: by batch size, ascending; NaN or infinite: no good.
      tolerance: nats, say.

    >>> linear = np.asarray([.018818, .019365, .020617, .024091, .047265])
    >>> int(largest_without_loss(linear, .001)), int(largest_without_loss(linear, .002))
    (1, 2)
    """
    known = np.where(np.isfinite(losses), losses, np.inf)
    best = np.minimum.accumulate(known, axis=-1)
    # No worse than any smaller one is: no worse than the best of them.
    before = np.concatenate([known[..., :1], best[..., :-1]], axis=-1)
    good = known <= before + tolerance
    return known.shape[-1] - 1 - np.argmax(good[..., ::-1], axis=-1)


def border(view: View, tolerance: float = TOLERANCE, gain: xr.DataArray | None = None) -> Border:
    """The critical batch sizes of a sweep of branches, of the mean over its seeds.

    Args:
      view: a grid over ``start_epoch`` and ``batch_size``.
      tolerance: in the unit of the score.
      gain: of the cells; that of the view by default.
    """
    found = gains(view).mean(SEED) if gain is None else gain
    others = [axis for axis in found.dims if axis not in (START, BATCH_SIZE)]
    found = found.max(others).transpose(START, BATCH_SIZE)
    sizes = np.append(found[BATCH_SIZE].values.astype(float), np.inf)
    at = largest_without_loss(-found.values, tolerance)
    return Border(found[START].values.astype(float), sizes[at], sizes[at + 1])


@claim(axes=(START, BATCH_SIZE), source=SOURCE)
def critical_batch_rises(view: View, tolerance: float = TOLERANCE) -> Verdict:
    """Whether the critical batch size by branching rises along a training.

    Its rank correlation with the checkpoint's epoch must be positive.
    """
    words = f"The critical batch size rises in training (tolerance {view.score.margin(tolerance)})"
    if missing := [axis for axis in (START, BATCH_SIZE) if axis not in view.varying]:
        return Verdict(words, OPEN, f"the grid does not sweep {', '.join(missing)}")

    def trend(gain: xr.DataArray) -> float:
        found = border(view, tolerance, gain)
        return rank_correlation(found.epochs, found.low)

    found, at = bootstrap(view, trend), border(view, tolerance)
    told = ", ".join(f"{e:g}: {m:g}" for e, m in zip(at.epochs, at.low, strict=True))
    numbers = f"by epoch: {told}; rank correlation {found}"
    return decided(view, words, found.low > 0, found.high <= 0, numbers)
