"""From a finished grid to what to use: everything that it says, put together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from sbt.advice.choices import Choice, choices
from sbt.advice.critical import FEWEST_SIZES, Critical, critical, local_slopes, region
from sbt.advice.gaps import gaps
from sbt.advice.optimum import Optima, optima
from sbt.advice.paragraph import paragraph
from sbt.advice.recommend import Recommendation, best_score, recommend
from sbt.advice.speeds import Speeds
from sbt.advice.targets import (
    Reached,
    Target,
    check_target,
    default_target,
    left_out,
    reached,
)
from sbt.errors import UserError
from sbt.fingerprint import own_parts
from sbt.report.style import Drawing
from sbt.report.tuning import is_decay, powers
from sbt.report.view import BASE_LR, BATCH_SIZE, View, checked

DEVICES = (8, 64)
OPEN = "not known: stopped before it was reached"


@dataclass(frozen=True, eq=False)
class Advice:
    """What a grid says to somebody who has to choose a batch size and a learning rate.

    Attributes:
      view: the grid.
      target: the score to reach, and why that.
      reached: updates and examples of every run.
      critical: both critical batch sizes; None of fewer than three batch sizes that reach it.
      rates: where the best learning rate lies; None where fewer than three were swept.
      others: the same of other numeric axes.
      choices: of axes without an order, what each value needs; and so of those of two numbers.
      speeds: what was measured of time.
      recommendations: least examples, least time here, budgets of devices, and the best score.
      gaps: what the grid cannot say.
      wanted: by axis, the values that would; the whole axis.
    """

    view: View
    target: Target
    reached: Reached
    critical: Critical | None
    rates: Optima | None
    others: tuple[Optima, ...]
    choices: tuple[Choice, ...]
    speeds: Speeds
    recommendations: tuple[Recommendation, ...]
    gaps: tuple[str, ...]
    wanted: dict[str, tuple[float, ...]]

    @property
    def table(self) -> pd.DataFrame:
        """A row for every batch size; see the columns' names.

        Censored numbers are infinite, those that a search left open NaN.
        """
        found, slopes = (
            self.reached,
            [np.nan, *local_slopes(self.reached.sizes, self.reached.updates)],
        )
        intervals = self.critical.examples if self.critical else ()
        rows = []
        for i, m in enumerate(found.sizes):
            cell = found.cells[found.best[i]] if found.best[i] >= 0 else {}
            low, high = (intervals[i].low, intervals[i].high) if intervals else (np.nan, np.nan)
            fewest = np.nan if found.unknown[i] else found.fewest[i]
            rate = cell.get(BASE_LR, np.nan)
            flags = [f"best {axis} at the grid's end" for axis in found.at_end[i]]
            flags += [] if found.best[i] >= 0 else [OPEN if found.unknown[i] else "never reached"]
            flags += ["at the first evaluation already"] if found.bounded[i] else []
            rows.append(
                {
                    "batch size": int(m),
                    "updates": fewest / m,
                    "examples": fewest,
                    "low": low,
                    "high": high,
                    "base LR": rate,
                    "η": rate * m ** self.power[i],
                    **{axis: cell.get(axis, "") for axis in self.tuned},
                    "octaves": self.rates.widths[i] if self.rates else np.nan,
                    "slope": slopes[i],
                    "region": region(slopes[i]),
                    "seconds alone": fewest / self.speeds.alone[i],
                    "seconds in lanes": fewest / self.speeds.lanes[i],
                    "remarks": "; ".join(flags),
                }
            )
        return pd.DataFrame(rows)

    @property
    def tuned(self) -> list[str]:
        """The swept axes besides batch size and learning rate, of which the table has the best."""
        return [axis for axis in self.view.varying if axis not in (BATCH_SIZE, BASE_LR)]

    @property
    def power(self) -> np.ndarray:
        """p of η = m^p η̃ at every batch size."""
        return powers(self.view)

    @property
    def new(self) -> int:
        """How many runs the wanted values add to the grid."""
        runs = self.view.reported
        sizes = dict(runs.sizes) | {axis: len(values) for axis, values in self.wanted.items()}
        return math.prod(sizes.values()) - runs.size

    @property
    def own(self) -> tuple[str, ...]:
        """Parts of the sweep that no config holds: a module, a data set, a loss."""
        return tuple(own_parts(self.view.parts))

    @property
    def text(self) -> str:
        """The paragraph that can be quoted."""
        return paragraph(self)

    def figure(self) -> Drawing:
        """Updates and examples to the target, and the best learning rates, against m."""
        from sbt.advice.figure import draw

        return draw(self)


def advise(
    ds: xr.Dataset,
    target: float | None = None,
    devices: Sequence[int] = DEVICES,
    meta: Mapping[str, Any] | None = None,
) -> Advice:
    """What a finished grid of batch sizes says: see :class:`Advice`.

    Args:
      ds: results of ``sbt.run`` or ``sbt.load``.
      target: the score to reach, in its own units (an accuracy as a fraction); by default
        :func:`sbt.advice.targets.default_target` chooses one.
      devices: budgets to recommend for.
      meta: ``meta.json`` of the work directory, for times; without it there are none.

    Raises:
      UserError: the sweep is not finished, there is one batch size, or the target is not reached or
        lies outside the curves.
    """
    view = checked(ds)
    _check(view, meta)
    if target is not None and not np.isfinite(target):
        raise UserError("--target", f"{target} is no score", "give a finite number")
    chosen = default_target(view) if target is None else Target(float(target), "as asked for")
    found = reached(view, chosen.value)
    check_target(view, chosen.value, found)
    power = powers(view)
    speeds = Speeds.of(found, meta)
    swept = [axis for axis in view.varying if axis != BATCH_SIZE]
    numeric = [axis for axis in swept if view.is_numeric(axis) and len(view.ds[axis]) > 2]
    unordered = [axis for axis in swept if axis not in (*numeric, BASE_LR)]
    rates = optima(found, BASE_LR, power, forms=True) if BASE_LR in numeric else None
    others = tuple(
        # A half-life in updates times m is one in examples.
        optima(found, axis, 1.0 if is_decay(axis, view.ds[axis].values.astype(float)) else 0.0)
        for axis in numeric
        if axis != BASE_LR and bool((view.ds[axis].values > 0).all())
    )
    values = tuple(one for axis in unordered for one in choices(found, axis))
    curve = critical(found) if found.resolved.sum() >= FEWEST_SIZES else None
    axes = [*([rates] if rates else []), *others]
    told, wanted = gaps(view, found, curve, axes, speeds)
    return Advice(
        *(view, chosen, found, curve, rates, others, values, speeds),
        (
            *recommend(found, curve, speeds, power, devices),
            *filter(None, [best_score(view, power)]),
        ),
        tuple(told),
        wanted,
    )


def _check(view: View, meta: Mapping[str, Any] | None) -> None:
    if BATCH_SIZE in view.axes and view.ds.sizes[BATCH_SIZE] < 2:
        (only,) = view.ds[BATCH_SIZE].values
        problem = f"the grid has one batch size ({only:g}): nothing to compare"
        raise UserError(f"config.sweep.{BATCH_SIZE}", problem, "sweep three or more")
    status = str((meta or {}).get("status", "done"))
    begun = view.ds["epochs_done"] > 0
    missing = int((begun & ~view.ds["finished"].astype(bool) & ~left_out(view)).sum())
    if status != "done" or missing or bool(view.reported.isnull().all()):
        missing = missing or int(view.reported.isnull().sum())
        problem = f"{missing} of {view.reported.size} runs have not finished"
        raise UserError("the sweep", problem, "finish it first: the same sbt run resumes it")
    name = view.setting("batch_schedule.name", "constant")
    if name not in ("", "none", "constant"):
        problem = f"the batch size moves within a run ({name}), so that m names no batch size"
        raise UserError("config.batch_schedule.name", problem, "advise on a sweep without one")
