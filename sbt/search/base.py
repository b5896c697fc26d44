"""What a search is: it is asked for runs when lanes are free, and told how runs do."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from sbt.choice import Registry

# A search is made with ``(runs, epochs)``: the settings of the runs that it chooses among (those of
# one program), by dotted path of the config, and the length of each. It names runs by their
# positions. It refuses what it cannot search with a UserError.
SEARCHES = Registry("search", static=True, default="grid")


class Told(NamedTuple):
    """How a run does.

    Attributes:
      run: which.
      epoch: epochs it has trained.
      gain: its score then, signed so that more is better; -inf once it has diverged.
    """

    run: int
    epoch: int
    gain: float


News = Sequence[Told]


class Search(Protocol):
    """Chooses among runs. What it does follows from what it was asked and told, in that order, and
    from nothing else: no clock, no randomness but of a seed of its own."""

    @property
    def width(self) -> int:
        """Runs that it keeps in work most of the time, if it is given as many lanes; asked for
        once, before anything else. More lanes than these would idle."""
        ...

    def ask(self, free: int) -> list[int]:
        """Runs to begin now, at most ``free``, none of them twice. None once nothing is left; while
        runs are in work, it is asked again."""
        ...

    def tell(self, news: News) -> list[int]:
        """Hears of runs that were evaluated at the same moment; returns those of all runs in work
        that stop here."""
        ...
