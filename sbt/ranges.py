"""What numbers a field takes, stated beside the field and checked where it is read.

A parameter carries its range in its annotation,

    def poly(progress, power: Annotated[ArrayLike, POSITIVE] = 1.0): ...

and :mod:`sbt.choice` reads it from there, so that a config's values are refused in plain words
before anything compiles. The functions themselves check nothing: their arguments may be traced.
"""

import dataclasses
import itertools
import math
from collections.abc import Collection
from typing import Any

from sbt.errors import UserError, nearest, shown

LARGEST = 3.4e38  # training computes in single precision


@dataclasses.dataclass(frozen=True)
class Range:
    """An interval of finite numbers.

    Attributes:
      low: least number ...
      high: ... and greatest.
      open_low: whether ``low`` itself is left out.
      open_high: whether ``high`` itself is left out.
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return math.isfinite(value) and above and below

    def __str__(self) -> str:
        """In words, to follow "give a number": ``of at least 0 and below 1``."""
        parts = []
        if math.isfinite(self.low):
            parts.append(f"{'above' if self.open_low else 'of at least'} {_text(self.low)}")
        if math.isfinite(self.high):
            parts.append(f"{'below' if self.open_high else 'of at most'} {_text(self.high)}")
        return " and ".join(parts) or "that is finite"


def _text(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value:g}"


ANY = Range()
NON_NEGATIVE = Range(0)
POSITIVE = Range(0, open_low=True)
FRACTION = Range(0, 1)
BELOW_ONE = Range(0, 1, open_high=True)  # momenta and other decay rates
COUNT = Range(1, 2**31 - 1)


def check_number(field: str, value: Any, allowed: Range, *, whole: bool = False) -> Any:
    """The value, if it is a number that a field takes.

    Args:
      field: as the user writes it, ``config.rule.momentum``.
      value: what is given for it.
      allowed: the numbers that it takes.
      whole: whether it takes whole numbers only.

    Raises:
      UserError: the value is not a number (a truth value is none), or out of range.
    """
    value = plain(value)
    kind = "whole number" if whole else "number"
    remedy = f"give a {kind} {allowed}"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise UserError(field, f"{shown(value)} is not a {kind}", remedy)
    try:
        good = float(value) in allowed and abs(value) <= LARGEST
    except OverflowError:
        good = False
    if not good:
        raise UserError(field, f"{shown(value)} is out of range", remedy)
    return value


def plain(value: Any) -> Any:
    """A NumPy or JAX scalar as the Python number that it holds; anything else as it is."""
    if hasattr(value, "dtype") and getattr(value, "ndim", 1) == 0:
        try:
            return value.item()
        except Exception:  # traced, or of no such dtype
            return value
    return value


def check_name(field: str, name: Any, known: Collection[str]) -> None:
    """Refuses a name that nothing has.

    Raises:
      UserError: with the nearest names.
    """
    if not isinstance(name, str) or name not in known:
        raise UserError(field, f"unknown name {shown(name)}", nearest(str(name), known))


def check_rising(field: str, values: Any) -> None:
    """Refuses a tuple of numbers that does not rise.

    Raises:
      UserError: naming the pair that is out of order.
    """
    for before, after in itertools.pairwise(values if isinstance(values, tuple) else ()):
        if not before < after:
            raise UserError(
                field, f"{after!r} does not come after {before!r}", "give rising numbers, each once"
            )
