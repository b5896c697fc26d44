"""What axes, their values and scores are called: in plain words, and in matplotlib's notation.

Nothing is drawn here, so that verdicts and tables need no drawing library.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sbt.tasks.score import Score
from sbt.text import fitted, one_line

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
PLAIN_SYMBOLS = {"batch_size": "m", "base_lr": "η̃", "bn_batch": "b"}
SYMBOLS = {"batch_size": "$m$", "base_lr": r"$\tilde{\eta}$", "bn_batch": "$b$"}
# Columns of text: of a curve's label, of a panel's title or axis, of a heading across the figure.
LONGEST, TITLE, HEADING = 24, 48, 100


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


def place(where: Mapping[str, Any]) -> str:
    """A place of a grid in words: ``batch size 8, base learning rate 2^-9``."""
    return ", ".join(f"{plain(axis)} {label(axis, value)}" for axis, value in where.items())


def guess_word(score: Score) -> str:
    """What the score of an uninformed guess is called."""
    return "chance" if score.percent else "guess"


def in_units(words: str, score: Score) -> str:
    """A title with the units of the score: ``test accuracy [%]``."""
    units = "%" if score.percent else score.units
    return literal(f"{words} [{units}]" if units else words, TITLE)


def literal(words: object, longest: int = LONGEST) -> str:
    """Text for a figure as it stands: one line, not too long, and no mathematics in it.

    Matplotlib reads what stands between two ``$`` as TeX, and leaves a label that begins with an
    underscore out of the legend.
    """
    line = fitted(one_line(words), longest).replace("$", r"\$")
    return f" {line}" if line.startswith("_") else line
