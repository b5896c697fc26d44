"""Numbers of an advice in words."""

import numpy as np

from sbt.intervals import Interval
from sbt.text import duration

FAR = 64.0  # times beyond a grid: an interval that reaches so far says nothing


def number(value: float) -> str:
    """Three digits, without powers of ten: ``1,230``, ``0.42``."""
    if not np.isfinite(value):
        return "∞" if value > 0 else "?"
    if abs(value) < 100:
        return f"{value:.3g}"
    return f"{float(f'{value:.3g}'):,.0f}"


def interval(one: Interval) -> str:
    """A number and the ends of its interval, where it has one."""
    if not np.isfinite(one.low):
        return number(one.value)
    return f"{number(one.value)} [{number(one.low)}, {number(one.high)}]"


def size_interval(one: Interval, sizes: np.ndarray) -> str:
    """The same of a batch size; that its seeds do not tell it where the interval leaves a grid."""
    if one.low < sizes[0] / FAR and one.high > sizes[-1] * FAR:
        return f"{number(one.value)} (its seeds differ too much for an interval)"
    return interval(one)


def plain(one: Interval) -> str:
    """The same with two decimals."""
    if not np.isfinite(one.low):
        return f"{one.value:.2f}"
    return f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"


def listed(sizes: np.ndarray) -> str:
    """Batch sizes, one after another."""
    return ", ".join(f"{m:g}" for m in sizes)


def seconds(value: float) -> str:
    """A time, in the unit that suits it.

    >>> [seconds(v) for v in (0.0042, 0.42, 4.2, 192.0)]
    ['4.2 ms', '0.42 s', '4.2 s', '3 min 12 s']
    """
    if value < 0.1:
        return f"{1000 * value:.2g} ms"
    return f"{value:.2g} s" if value < 1 else duration(value)
