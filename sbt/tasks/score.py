"""The score: the one number of a run that ranks it among others, and how it is told."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Score:
    """What ranks runs.

    Attributes:
      name: of the metric, and of the variable of results: ``accuracy``, ``loss``.
      higher_is_better: its direction.
      diverged: the score of a run whose loss was not finite: that of a guess, or infinitely bad.
      guess: the score of an uninformed guess, for orientation; NaN where there is none.
      units: ``nats per token``; empty for what has none.
      percent: whether people read it in percent.
      long_name: in words, without the split: ``accuracy``, ``loss``.
      floor: what no model passes, where the data are made so that it is known; else NaN.
    """

    name: str = "accuracy"
    higher_is_better: bool = True
    diverged: float = math.nan
    guess: float = math.nan
    units: str = ""
    percent: bool = True
    long_name: str = "accuracy"
    floor: float = math.nan

    def gain(self, values: Any) -> Any:
        """The values, signed so that more is better."""
        return values if self.higher_is_better else -values

    def text(self, value: float) -> str:
        """A value as people read it: ``97.2 %``, ``3.512 nats per token``, ``diverged``."""
        if math.isinf(value):
            return "diverged"
        return f"{self.number(value)} {'%' if self.percent else self.units}".strip()

    def number(self, value: float) -> str:
        """A value without its units: ``97.2``, ``3.512``, ``∞``."""
        if math.isinf(value):
            return "−∞" if value < 0 else "∞"
        return f"{100 * value:.1f}" if self.percent else f"{value:#.4g}".rstrip(".")

    def difference(self, value: float) -> str:
        """How far two values are apart: ``1.2 points``, ``0.031 nats per token``."""
        if self.percent:
            return f"{100 * value:.1f} points"
        return f"{value:.2g} {self.units}".strip()

    def margin(self, value: float) -> str:
        """A difference that somebody has chosen: ``5 points``, ``0.05 nats per token``."""
        return f"{100 * value:g} points" if self.percent else f"{value:g} {self.units}".strip()

    @property
    def attrs(self) -> dict[str, Any]:
        """What a results file keeps of it."""
        fields = dataclasses.asdict(self)
        kept = {f"score_{name}": value for name, value in fields.items() if name != "name"}
        if math.isnan(self.floor):
            del kept["score_floor"]
        attrs = {"score": self.name, **{k: _stored(v) for k, v in kept.items()}}
        # Readers of accuracies know the score of a guess by this name.
        chance = {"chance": self.guess} if self.name == "accuracy" and self.guess > 0 else {}
        return chance | attrs


def of_attrs(attrs: Mapping[str, Any]) -> Score:
    """The score of a results file; files from before there was one rank by accuracy."""
    if "score" not in attrs:
        chance = float(attrs.get("chance", math.nan))
        return Score(diverged=chance, guess=chance)
    fields = {f.name: attrs.get(f"score_{f.name}", f.default) for f in dataclasses.fields(Score)}
    return Score(
        name=str(attrs["score"]),
        higher_is_better=bool(fields["higher_is_better"]),
        diverged=float(fields["diverged"]),
        guess=float(fields["guess"]),
        units=str(fields["units"]),
        percent=bool(fields["percent"]),
        long_name=str(fields["long_name"]),
        floor=float(fields["floor"]),
    )


def _stored(value: Any) -> Any:
    """As an attribute of a netCDF file, which knows no truth values."""
    return np.int8(value) if isinstance(value, bool) else value
