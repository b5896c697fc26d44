"""What a person sees while a sweep runs: a live panel on a terminal, plain lines elsewhere."""

import dataclasses
import math
import time
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress


@dataclasses.dataclass(frozen=True)
class Status:
    """Where a sweep stands.

    Attributes:
      cohort: number of the cohort in work, from 1.
      cohorts: how many there are.
      epoch: epochs done by the lanes in work, a real number.
      epochs: their length.
      lanes: lanes in work.
      rate: examples times lanes per second, of late.
      best: best test accuracy so far, and whose it is; None before the first evaluation.
      diverged: runs that diverged so far.
      done: fraction of the whole sweep.
      left: seconds, estimated.
    """

    cohort: int
    cohorts: int
    epoch: float
    epochs: int
    lanes: int
    rate: float
    best: tuple[float, str] | None
    diverged: int
    done: float
    left: float

    def line(self) -> str:
        """One line of text."""
        best = f"best {self.best[0]:.1%} ({self.best[1]})" if self.best else "best -"
        return (
            f"cohort {self.cohort}/{self.cohorts}  epoch {self.epoch:.1f}/{self.epochs}  "
            f"{self.lanes} lanes  {si(self.rate)} examples·lanes/s  {best}  "
            f"{self.diverged} diverged  {duration(self.left)} left"
        )


class Progress(Protocol):
    """Receives what happens. :class:`Silent` ignores it."""

    def note(self, text: str) -> None:
        """A line that stays."""
        ...

    def update(self, status: Status) -> None:
        """The present state."""
        ...

    def close(self) -> None:
        """Nothing follows."""
        ...


class Silent:
    """Shows nothing."""

    def note(self, text: str) -> None:
        pass

    def update(self, status: Status) -> None:
        pass

    def close(self) -> None:
        pass


class Lines:
    """Plain lines for a log: notes, and the state at most every ``interval`` seconds."""

    def __init__(self, console: Console, interval: float = 5.0):
        self._console, self._interval, self._last = console, interval, -1e9

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def update(self, status: Status) -> None:
        now = time.monotonic()
        if now - self._last >= self._interval or status.done >= 1.0:
            self._last = now
            self.note(f"[{status.done:4.0%}] {status.line()}")

    def close(self) -> None:
        pass


class Live:
    """A bar and one line that move in place."""

    def __init__(self, console: Console):
        self._bar = RichProgress(
            BarColumn(30), TextColumn("{task.percentage:3.0f} %"), TextColumn("{task.description}"),
            console=console, transient=True,
        )  # fmt: skip
        self._task: TaskID | None = None

    def note(self, text: str) -> None:
        self._bar.console.print(text, highlight=False, markup=False)

    def update(self, status: Status) -> None:
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("", total=1.0)
        self._bar.update(self._task, completed=status.done, description=status.line())

    def close(self) -> None:
        self._bar.stop()


def for_console(console: Console | None = None) -> Progress:
    """Live on a terminal, lines in a log."""
    console = console or Console()
    return Live(console) if console.is_terminal else Lines(console)


def si(value: float) -> str:
    """A number with a decimal prefix: 12.3k."""
    for prefix in ("", "k", "M", "G", "T"):
        if abs(value) < 1000 or prefix == "T":
            return f"{value:.3g}{prefix}"
        value /= 1000
    raise AssertionError


def duration(seconds: float) -> str:
    """A time span as people say it: 45 s, 12 min, 3.4 h, 2.1 days."""
    if not seconds < float("inf"):
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} days"


def describe(settings: dict[str, Any]) -> str:
    """The swept values of a run in a few words; powers of two as such."""

    def text(value: Any) -> str:
        if isinstance(value, float) and value > 0:
            exponent = math.log2(value)
            if exponent == int(exponent) and exponent != 0:
                return f"2^{int(exponent)}"
            return f"{value:.3g}"
        return str(value)

    return ", ".join(f"{name} {text(value)}" for name, value in settings.items())
