"""What a search was asked and told, and said: enough to make it again as it was."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from sbt.search.base import News, Search, Told


class Log:
    """A search, and every event of it, as JSON can hold them.

    Args:
      search: fresh.
      epochs: length of a run.
      events: of an earlier search of the same runs: the search hears all of them again.
    """

    def __init__(self, search: Search, epochs: int, events: Iterable[Sequence[Any]] = ()):
        self._search, self._epochs = search, epochs
        self.events: list[list[Any]] = []
        self.ended = False
        self.stopped: dict[int, int] = {}  # run -> epochs that it has trained
        self._asked: list[int] = []
        self._over: set[int] = set()
        self._diverged: set[int] = set()
        self._at: dict[int, int] = {}
        for name, *rest in events:
            if name == "asked":
                self.ask(rest[0])
            elif name == "told":
                self.tell([Told(r, e, -math.inf if g is None else g) for r, e, g in rest[0]])
            elif name == "left":
                self.leave(rest[0])
            else:
                self.end()

    @property
    def pending(self) -> list[int]:
        """Runs that were asked for and are not over, in order."""
        return [run for run in self._asked if run not in self._over]

    @property
    def begun(self) -> list[int]:
        """Runs that were asked for, in order."""
        return list(self._asked)

    def ask(self, free: int) -> list[int]:
        """Runs to begin."""
        if free <= 0:
            return []
        runs = self._search.ask(free)
        if runs:
            self._asked += runs
            self.events.append(["asked", free, runs])
        return runs

    def tell(self, news: News) -> list[int]:
        """Runs to stop; what has diverged is told once."""
        news = [told for told in news if told.run not in self._diverged]
        if not news:
            return []
        self._diverged |= {told.run for told in news if told.gain == -math.inf}
        self._at |= {told.run: told.epoch for told in news}
        self._over |= {told.run for told in news if told.epoch >= self._epochs}
        asked = set(self._asked) - self._over - self._diverged
        stopped = [run for run in self._search.tell(news) if run in asked]
        self._over |= set(stopped)
        self.stopped |= {run: self._at[run] for run in stopped}
        seen = [[r, e, g if math.isfinite(g) else None] for r, e, g in news]
        self.events.append(["told", seen, stopped])
        return stopped

    def leave(self, runs: Sequence[int]) -> None:
        """Runs that diverged have left their lanes."""
        self._over |= set(runs)
        self.events.append(["left", list(runs)])

    def end(self) -> None:
        """Nothing is left to train."""
        self.ended = True
        self.events.append(["ended"])
