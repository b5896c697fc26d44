"""Axes of a grid in figures and words: their names, their values, and how they are spaced."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from sbt.report.style import LONGEST, TITLE, literal
from sbt.text import one_line

LOG2_AXES = ("batch_size", "base_lr", "bn_batch", "micro_batch")
NAMES = {
    "batch_size": "batch size $m$",
    "base_lr": r"base learning rate $\tilde{\eta}$",
    "bn_batch": "BN batch $b$",
    "micro_batch": "micro-batch $g$",
    "epoch": "epoch",
    "measured_epoch": "epochs trained",
    "gradient_batch": "batch size of the gradient $n$",
    "fraction": "discarded fraction",
}
MOST_CHARACTERS = 40  # of the names along an abscissa; more are turned
PLAIN_SYMBOLS = {"batch_size": "m", "base_lr": "η̃", "bn_batch": "b"}
SYMBOLS = {"batch_size": "$m$", "base_lr": r"$\tilde{\eta}$", "bn_batch": "$b$"}


def exponent(value: float) -> int | None:
    """k where ``value`` is 2^k, else None."""
    if not value > 0 or not np.isfinite(value):
        return None
    k = round(float(np.log2(value)))
    return k if np.isclose(value, 2.0**k, rtol=1e-6) else None


def label(axis: str, value: Any, *, math: bool = False) -> str:
    """A value of an axis in words: ``2^-8`` for a base LR, ``64`` for a batch size.

    With ``math``, in matplotlib's notation.
    """
    if isinstance(value, str | bytes | bool):
        return literal(value) if math else one_line(value)
    number = float(value)
    k = exponent(number)
    if axis == "base_lr" and k is not None:
        return f"$2^{{{k}}}$" if math else f"2^{k}"
    return f"{number:g}" if abs(number) < 1e6 else f"{number:.0f}"


def title(axis: str) -> str:
    """The axis in words, for an axis label, in matplotlib's notation."""
    return NAMES.get(axis) or literal(axis.replace("_", " "), TITLE)


def plain(axis: str | None) -> str:
    """The axis in words without notation, for captions."""
    names = {"base_lr": "base learning rate", "bn_batch": "BN batch"}
    return names.get(axis or "", one_line((axis or "").replace("_", " ")))


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
    crowded = gaps.size > 0 and gaps.min() < 0.07 * gaps.sum()
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
