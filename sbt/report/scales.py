"""How axes look: the spacing and ticks of those of a grid; and that of the score."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, NullLocator

from sbt.report.style import QUIET
from sbt.report.wording import LONGEST, guess_word, in_units, label, title
from sbt.tasks.score import Score

LOG2_AXES = ("batch_size", "base_lr", "bn_batch", "micro_batch")
MOST_CHARACTERS = 40  # of the names along an abscissa; more are turned


def scale_of(axis: str, values: np.ndarray) -> str:
    """How to space the values of an axis: ``log2``, ``log``, ``linear`` or ``category``."""
    if not np.issubdtype(values.dtype, np.number):
        return "category"
    if np.all(values > 0):
        if axis in LOG2_AXES:
            return "log2"
        if values.max() / values.min() >= 16:
            return "log"
    positive = values[values > 0]
    # Zero beside values over several magnitudes has no place on either scale.
    wide = positive.size > 1 and positive.max() / positive.min() >= 16
    # Neither have values that crowd: 0, 0.9, 0.99.
    gaps = np.diff(np.sort(values.astype(float)))
    uneven = gaps.size > 0 and gaps.max() > 2 * gaps.min()
    crowded = uneven and gaps.min() < 0.07 * gaps.sum()
    return "category" if crowded or (wide and values.min() == 0) else "linear"


def positions(axis: str, values: np.ndarray) -> np.ndarray:
    """Where the values of an axis stand along it."""
    if scale_of(axis, values) == "category":
        return np.arange(values.size, dtype=float)
    return values.astype(float)


def set_scale(target: Axis, panel: Axes, axis: str, values: np.ndarray, most: int = 13) -> None:
    """Scales and labels ``target`` (an x or y axis of ``panel``) for the values of ``axis``."""
    scale = scale_of(axis, values)
    name = target.axis_name  # type: ignore[attr-defined]
    put = panel.set_xscale if name == "x" else panel.set_yscale
    target.set_label_text(title(axis))
    if scale == "log2":
        put("log", base=2)
        low = int(np.floor(np.log2(values.min()) + 1e-9))
        high = int(np.ceil(np.log2(values.max()) - 1e-9))
        every = -(-(high - low + 1) // most)
        powers = range(low, high + 1, -(-(high - low + 1) // (3 * most)))
        target.set_major_locator(FixedLocator([2.0**k for k in powers]))
        # Every power keeps its grid line; where they crowd, only some are named.
        names = [label(axis, 2.0**k, math=True) if (k - low) % every == 0 else "" for k in powers]
        target.set_major_formatter(FixedFormatter(names))
        target.set_minor_locator(NullLocator())
    elif scale == "log":
        put("log")
    else:
        places = positions(axis, values)
        if scale == "category" or values.size <= most:
            target.set_major_locator(FixedLocator(list(places)))
            marks = [label(axis, v, math=True) for v in values.tolist()]
            target.set_major_formatter(FixedFormatter(marks))
    places = positions(axis, values)
    ends = np.array([places.min(), places.max()])
    if scale in ("log2", "log"):
        ends = np.log2(ends)
    # The whole planned axis, also while some of it has not finished.
    pad = 0.05 * (ends[1] - ends[0]) or 0.5
    ends = ends + np.array([-pad, pad])
    ends = 2.0**ends if scale in ("log2", "log") else ends
    limit = panel.set_xlim if name == "x" else panel.set_ylim
    limit(float(ends[0]), float(ends[1]))
    if name == "x" and not np.issubdtype(values.dtype, np.number):
        longest = max((len(str(value)) for value in values.tolist()), default=0)
        if values.size * min(longest, LONGEST) > MOST_CHARACTERS or values.size > 4:
            for mark in target.get_majorticklabels():
                mark.set(rotation=30, ha="right", rotation_mode="anchor")


# --- the score -----------------------------------------------------------------------------------

WIDE = 20  # from this ratio of the largest to the smallest value on, a logarithmic scale
# Of the way from the best value to a guess: what is worse than a guess by more is off the scale.
BEYOND_A_GUESS = 0.25
EDGE = 0.08  # of the height of an axis, between the worst value in view and those that are not


@dataclass(frozen=True)
class Ordinate:
    """The axis of a score: values that are infinitely bad, or far off, stand at its edge.

    Attributes:
      score: whose axis.
      best, worst: the values in view.
      edge: where what is worse than ``worst`` stands; None where nothing is.
      log: whether it is logarithmic.
      beyond: what stands at the edge, in words.
    """

    score: Score
    best: float = 1.0
    worst: float = 0.0
    edge: float | None = None
    log: bool = False
    beyond: str = "diverged"

    @classmethod
    def of(cls, score: Score, values: Iterable[np.ndarray]) -> "Ordinate":
        """An axis for these values.

        Accuracies are all in view. Of other scores those are that are not much worse than a guess,
        whose exact value tells nothing; without a guess, all that are finite.
        """
        gain = score.gain(np.concatenate([np.ravel(v) for v in values] or [np.empty(0)]))
        finite = gain[np.isfinite(gain)]
        infinite = bool((gain == -np.inf).any())
        if not finite.size:
            guess = score.guess if np.isfinite(score.guess) else 1.0
            return cls(score, guess, guess, guess if infinite else None)
        best, worst = finite.max(), finite.min()
        guess = score.gain(score.guess)
        if not score.percent and guess < best:
            worst = max(worst, guess - BEYOND_A_GUESS * (best - guess))
        off = bool((finite < worst).any())
        worst = finite[finite >= worst].min()
        low, high = sorted((score.gain(best), score.gain(worst)))
        log = bool(not score.percent and low > 0 and high > WIDE * low)
        edge = None
        if infinite or off:
            ends = np.log([low, high]) if log else np.array([low, high])
            step = EDGE * float(np.ptp(ends)) or EDGE
            far = ends[0] - step if score.higher_is_better else ends[1] + step
            edge = float(np.exp(far) if log else far)
        beyond = " or ".join(["diverged"] * infinite + ["off the scale"] * off)
        return cls(score, score.gain(best), score.gain(worst), edge, log, beyond)

    def height(self, values: np.ndarray) -> np.ndarray:
        """Where values stand."""
        if self.edge is None:
            return values
        return np.where(self.score.gain(values) < self.score.gain(self.worst), self.edge, values)

    def heights(self, row: xr.Dataset, *names: str) -> xr.Dataset:
        """A dataset of values with these where they stand."""
        return row.assign({n: (row[n].dims, self.height(row[n].values)) for n in names})

    def depth(self, values: np.ndarray) -> np.ndarray:
        """From 0, the worst in view or worse, to 1, the best."""
        ends = np.array([self.worst, self.best])
        inside = np.clip(values, ends.min(), ends.max())
        if self.log:
            ends, inside = np.log(ends), np.log(inside)
        return (inside - ends[0]) / (ends[1] - ends[0]) if ends[0] != ends[1] else 0.0 * inside

    def label(self, panel: Axes, what: str, guess: bool = True) -> None:
        """Labels the ordinate of a panel, after its curves.

        Quiet lines show where guessing would be (unless ``guess`` is false), what no model passes,
        and where what is off the scale stands. A line far from all curves is left out, because it
        would press them together.
        """
        score = self.score
        panel.set_ylabel(in_units(what, score))
        if self.log:
            panel.set_yscale("log")
        if score.percent:
            percent = FuncFormatter(lambda value, _: f"{round(100 * value, 6):g}")
            panel.yaxis.set_major_formatter(percent)
        if self.edge is not None:
            _quiet_line(panel, self.edge, self.beyond, above=not score.higher_is_better)
        heights = [np.asarray(line.get_ydata(), float) for line in panel.lines]
        drawn = np.concatenate([np.empty(0), *heights])
        drawn = score.gain(drawn[np.isfinite(drawn)])
        if not drawn.size:
            return
        near = 1.5 * np.ptp(drawn)
        if guess and drawn.min() - score.gain(score.guess) <= near:
            _quiet_line(panel, score.guess, guess_word(score))
        if score.gain(score.floor) - drawn.max() <= near:
            _quiet_line(panel, score.floor, "floor", above=not score.higher_is_better)


def log_if_wide(panel: Axes, values: np.ndarray, ratio: float) -> None:
    """A logarithmic ordinate where positive values span more than a ratio."""
    finite = values[np.isfinite(values)]
    if finite.size and finite.min() > 0 and finite.max() / finite.min() > ratio:
        panel.set_yscale("log")


def _quiet_line(panel: Axes, height: float, words: str, above: bool = False) -> None:
    panel.axhline(height, color=QUIET, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
    panel.annotate(
        words,
        (0.0, height),
        xycoords=("axes fraction", "data"),
        xytext=(2, 2 if above else -2),
        textcoords="offset points",
        ha="left",
        va="bottom" if above else "top",
        fontsize=6.5,
        color=QUIET,
    )
