"""What a person sees while a sweep runs: a panel on a terminal or in a notebook, lines in a log."""

import dataclasses
import math
import sys
import time
from html import escape
from typing import Any, Protocol

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live as RichLive
from rich.text import Text

from sbt.errors import UserError, shown
from sbt.parallel import hosts
from sbt.text import fitted, one_line, printable, roughly, shortened, width

BAR = 40  # columns of the bar where there is room
FULL, EMPTY = "━", "─"  # of the bar: told apart without colours
ASCII = str.maketrans({FULL: "#", EMPTY: "-", "…": "~", "·": "*"})
NARROWEST = 20  # columns, however narrow the terminal


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
      best: score of the best cell so far (``results.best_cell``), in words, and which one it is;
        None before the first evaluation.
      diverged: runs that diverged so far.
      done: fraction of the whole sweep; None where a search chooses: nobody knows.
      left: seconds, estimated; None likewise.
      doing: what the lanes do in place of training, such as "evaluating"; it has no known end.
      chosen: where a search chooses, how many runs are in work and what became of others.
    """

    cohort: int
    cohorts: int
    epoch: float
    epochs: int
    lanes: int
    rate: float
    best: tuple[str, str] | None
    diverged: int
    done: float | None
    left: float | None
    doing: str = ""
    chosen: str = ""

    def line(self) -> str:
        """One line of text, of any length."""
        return f"{self.time()}  {'  '.join((*self.facts(), self.best_words()))}"

    def time(self) -> str:
        """How long it goes on, in words, or what stands in the way of knowing it."""
        if self.left is None:
            return f"{self.chosen}, {self.doing}" if self.doing else self.chosen
        return self.doing or f"{roughly(self.left)} left"

    def facts(self) -> tuple[str, ...]:
        """Where it stands, in words, the most important first."""
        facts = [f"epoch {self.epoch:.1f}/{self.epochs}", f"{self.diverged} diverged"]
        if self.cohorts > 1:
            facts.insert(0, f"cohort {self.cohort}/{self.cohorts}")
        return (*facts, _many(self.lanes, "lane"), f"{si(self.rate)} examples·lanes/s")

    def best_words(self, columns: int | None = None) -> str:
        """The best cell, in words; in so many columns, the longest ones shortened."""
        if self.best is None:
            return "best: none yet"
        score, where = self.best
        words, where = f"best {score}", one_line(where)
        if columns is not None:
            where = fitted(where, columns - width(f"{words} at "))
        return f"{words} at {where}" if where else words

    def share(self) -> float:
        """``done`` as it is shown: all only where nothing is left."""
        return min(max(self.done or 0.0, 0.0), 0.99 if self.doing else 1.0)

    def percentage(self) -> str:
        """The share in words, rounded down; nothing where nobody knows it."""
        if self.done is None:
            return ""
        return f"{math.floor(100 * self.share() + 1e-9):3d} %"


def panel(status: Status, columns: int) -> list[str]:
    """Three lines of at most so many columns.

    Bar, percentage and time left (of a search, its runs) come first, on a line of their own, so
    that nothing drives them away; then where the sweep stands, as far as there is room; then the
    best cell, its longest words shortened.
    """
    columns = max(columns, NARROWEST)
    times = f"{status.percentage()}  {status.time()}".strip()
    room = columns - width(times) - 1
    length = 0 if status.done is None else max(0, min(BAR, room))
    filled = math.floor(length * status.share())
    facts = list(status.facts())
    while width("  ".join(facts)) > columns:
        facts.pop()
    return [
        shortened(f"{FULL * filled}{EMPTY * (length - filled)} {times}".strip(), columns),
        "  ".join(facts),
        status.best_words(columns),
    ]


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
        self._shown = ""

    def note(self, text: str) -> None:
        _print(self._console, text)

    def update(self, status: Status) -> None:
        now = time.monotonic()
        if now - self._last >= self._interval or (status.share() >= 1.0):
            self._last, before = now, self._shown
            share = status.percentage()
            self._shown = f"[{share}] {status.line()}" if share else status.line()
            if self._shown != before:
                self.note(self._shown)

    def close(self) -> None:
        pass


class Live:
    """Three lines that stay in place below the notes."""

    def __init__(self, console: Console):
        self._status: Status | None = None
        self._live = RichLive(self, console=console, refresh_per_second=4, transient=True)

    def note(self, text: str) -> None:
        _print(self._live.console, text)

    def update(self, status: Status) -> None:
        self._status = status
        self._live.start()

    def close(self) -> None:
        self._live.stop()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._status is None:
            return
        first, *rest = panel(self._status, options.max_width)
        text = Text(_writable(first, console), no_wrap=True, overflow="crop")
        text.stylize("green", 0, first.count(FULL))
        yield text
        for line in rest:
            yield Text(_writable(line, console), no_wrap=True, overflow="crop", style="dim")


class Notebook:
    """Three lines under a notebook's cell that change in place, notes above them.

    Args:
      display: ``IPython.display.display``.
      interval: seconds between two changes at least.
    """

    def __init__(self, display: Any, interval: float = 0.5):
        self._display, self._interval, self._last = display, interval, -1e9
        self._handle: Any = None
        self._status: Status | None = None

    def note(self, text: str) -> None:
        print(one_line(text))

    def update(self, status: Status) -> None:
        self._status, now = status, time.monotonic()
        if now - self._last >= self._interval:
            self._last = now
            self._show(status)

    def close(self) -> None:
        if self._status is not None:
            self._show(self._status)

    def _show(self, status: Status) -> None:
        text = "\n".join(panel(status, 80))
        bundle = {"text/plain": text, "text/html": f"<pre>{escape(text)}</pre>"}
        if self._handle is None:
            self._handle = self._display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


def for_console(console: Console | None = None) -> Progress:
    """Live on a terminal, lines in a log."""
    console = console or Console()
    return Live(console) if console.is_terminal else Lines(console)


def chosen_progress(progress: Progress | bool | None) -> Progress:
    """What the ``progress`` of ``sbt.run`` means.

    None and True stand for a panel in a notebook, or on standard error where that is a terminal;
    elsewhere a script's output is its own, and nothing is shown. False shows nothing. Of several
    processes only the first shows anything.

    Raises:
      UserError: it is none of these, and no :class:`Progress` either.
    """
    if progress is not None and not isinstance(progress, bool):
        if not all(callable(getattr(progress, name, None)) for name in ("note", "update", "close")):
            remedy = "give None, True, False, or an object with note, update and close"
            raise UserError("progress", f"{shown(progress)} cannot show progress", remedy)
        return progress
    if progress is False or not hosts.writes():
        return Silent()
    if "IPython" in sys.modules:  # in a kernel it is; nothing else needs it
        from IPython import get_ipython  # type: ignore[import-not-found,unused-ignore]
        from IPython.display import display  # type: ignore[import-not-found,unused-ignore]

        if getattr(get_ipython(), "kernel", None) is not None:
            return Notebook(display)
    console = Console(stderr=True)
    return Live(console) if console.is_terminal else Silent()


def _print(console: Console, text: str) -> None:
    for line in text.splitlines():
        console.print(Text(_writable(printable(line), console)), soft_wrap=True)


def _writable(text: str, console: Console) -> str:
    """The text with what the terminal's encoding lacks replaced."""
    if not console.encoding.lower().startswith("utf"):
        text = text.translate(ASCII)
    return text.encode(console.encoding, "replace").decode(console.encoding)


def _many(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"


def si(value: float) -> str:
    """A number with a decimal prefix: 12.3k."""
    for prefix in ("", "k", "M", "G", "T"):
        if abs(value) < 1000 or prefix == "T":
            return f"{value:.3g}{prefix}"
        value /= 1000
    raise AssertionError


def describe(settings: dict[str, Any]) -> str:
    """The swept values of a run in a few words; powers of two as such."""

    def text(value: Any) -> str:
        if isinstance(value, float) and value > 0:
            exponent = math.log2(value)
            if exponent == int(exponent) and exponent != 0:
                return f"2^{int(exponent)}"
            return f"{value:.3g}"
        return one_line(value)

    return ", ".join(f"{one_line(name)} {text(value)}" for name, value in settings.items())
