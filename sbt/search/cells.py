"""Which runs of a search belong together: those that differ in nothing but what is named."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sbt.errors import UserError

RATE, SEED = "base_lr", "seed"

Runs = Sequence[Mapping[str, Any]]  # settings of each, by dotted path


EPS = 1e-6  # octaves


class Ladder(NamedTuple):
    """The base learning rates of runs that differ in nothing else but their seeds.

    Attributes:
      rates: ascending.
      cells: of each rate, its runs.
    """

    rates: list[float]
    cells: list[list[int]]

    def every(self, octaves: float) -> list[int]:
        """Places of the first rate, and of each that is so far from the one before, at least."""
        found = [0]
        for at, rate in enumerate(self.rates):
            if math.log2(rate / self.rates[found[-1]]) >= octaves - EPS:
                found.append(at)
        return found


def alike(runs: Runs, apart: Collection[str]) -> list[list[int]]:
    """Runs in groups that differ in nothing but their settings ``apart`` (paths), in order."""
    groups: dict[Any, list[int]] = {}
    for number, settings in enumerate(runs):
        own = tuple(sorted((p, repr(v)) for p, v in settings.items() if p not in apart))
        groups.setdefault(own, []).append(number)
    return list(groups.values())


def ladders(runs: Runs, search: str) -> list[Ladder]:
    """A ladder for every setting of all else but the base learning rate and the seed.

    Args:
      runs: settings of each.
      search: who asks, for the message.

    Raises:
      UserError: the base learning rate is no axis of the runs, or 0 is among its values.
    """
    found = []
    for group in alike(runs, (RATE, SEED)):
        rates: dict[float, list[int]] = {}
        for number in group:
            rates.setdefault(float(runs[number].get(RATE, 0.0)), []).append(number)
        found.append(Ladder(sorted(rates), [rates[rate] for rate in sorted(rates)]))
    if all(len(ladder.rates) == 1 for ladder in found):
        problem = f"{search!r} searches along base_lr, which is not swept"
        remedy = "set config.sweep.base_lr, to sbt.octaves(2**-12, 1) perhaps"
        raise UserError("config.search.name", problem, remedy)
    if any(rate <= 0 for ladder in found for rate in ladder.rates):
        problem = f"{search!r} goes by octaves, and 0 is none from anything"
        raise UserError("config.sweep.base_lr", problem, "leave 0 out")
    return found
