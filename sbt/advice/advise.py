"""From a finished grid to what to use: tables, three recommendations and a paragraph."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from sbt.advice.critical import NONE, PERFECT, Critical, critical, local_slopes, region
from sbt.advice.optimum import Optima, optima
from sbt.advice.targets import (
    Reached,
    Target,
    check_target,
    default_target,
    left_out,
    reached,
    words,
)
from sbt.errors import UserError
from sbt.report.scales import label
from sbt.report.seeds import Interval
from sbt.report.style import Drawing
from sbt.report.tuning import is_decay, powers
from sbt.report.view import BASE_LR, BATCH_SIZE, SEED, View, checked
from sbt.text import duration

DEVICES = (8, 64)
ENOUGH_SEEDS = 5
HERE = "least time here"
OPEN = "not known: stopped before it was reached"


@dataclass(frozen=True)
class Machine:
    """What was measured where the grid was trained; None where it was not.

    Attributes:
      rate: examples a second, over all lanes.
      lanes: that trained at once.
      micro_batch: examples of a gradient evaluation.
      device: its name.
    """

    rate: float | None = None
    lanes: int | None = None
    micro_batch: int | None = None
    device: str = "the device"

    @classmethod
    def of(cls, meta: Mapping[str, Any] | None) -> "Machine":
        """What ``meta.json`` says; of several programs only what is true of all."""
        meta = meta or {}
        cohorts = meta.get("cohorts") or [{}]
        one = cohorts[0] if len(cohorts) == 1 else {}
        rate = meta.get("examples_lanes_per_s") if len(cohorts) == 1 else None
        count, kind = meta.get("devices"), meta.get("device_kind")
        device = f"{count} × {kind}" if count and kind else "the device"
        return cls(rate, one.get("lanes_per_pass"), one.get("micro_batch"), device)


@dataclass(frozen=True)
class Recommendation:
    """What to use for a goal, and what it costs to be wrong.

    Attributes:
      goal: what it is best for.
      batch_size, base_lr, rate: m, η̃ (None where it was not swept) and η in mean form.
      others: the other hyperparameters, in words.
      updates, examples: to the target; the examples with their interval.
      cost: in words, relative to what it is best for.
      neighbours: by name, times the cost at the neighbours on the grid, all else as it is or, for
        another batch size, tuned; infinite where the target is not reached, NaN where a search
        stopped before that could be told.
    """

    goal: str
    batch_size: int
    base_lr: float | None
    rate: float | None
    others: str
    updates: float
    examples: Interval
    cost: str
    neighbours: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        rate = ""
        if self.base_lr is not None:
            rate = f", base LR {label(BASE_LR, self.base_lr)} (η = {self.rate:.3g} in mean form)"
        others = f", {self.others}" if self.others else ""
        return f"{self.goal}: m = {self.batch_size}{rate}{others}: {self.cost}"

    @property
    def wrong(self) -> str:
        """What it costs to be wrong, in words."""
        return ", ".join(
            f"{name} ×{times:.2f}"
            if np.isfinite(times)
            else f"{name} {'is not known' if np.isnan(times) else 'never reaches it'}"
            for name, times in self.neighbours.items()
        )


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
      machine: what was measured.
      recommendations: least examples, least time here, and budgets of devices.
      gaps: what the grid cannot say.
      wanted: by axis, the values that would; the whole axis.
    """

    view: View
    target: Target
    reached: Reached
    critical: Critical | None
    rates: Optima | None
    others: tuple[Optima, ...]
    machine: Machine
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
            seconds = fewest / self.machine.rate if self.machine.rate else np.nan
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
                    "octaves": self.rates.widths[i] if self.rates else np.nan,
                    "slope": slopes[i],
                    "region": region(slopes[i]),
                    "device seconds": seconds,
                    "remarks": "; ".join(flags),
                }
            )
        return pd.DataFrame(rows)

    @property
    def power(self) -> np.ndarray:
        """p of η = m^p η̃ at every batch size."""
        return powers(self.view)

    @property
    def text(self) -> str:
        """The paragraph that can be quoted."""
        told = [self._to_target(), self._critical(), self._rates(), *self._others()]
        told += [f"For {one}." for one in self.recommendations]
        if first := self.recommendations[0].wrong:
            told.append(f"To be wrong about the first costs: {first}.")
        return " ".join(filter(None, told))

    def _to_target(self) -> str:
        found, score = self.reached, self.view.score
        fast = np.isfinite(found.fewest)
        i = int(np.argmin(found.fewest))
        how = f"median of {found.seeds} seeds" if found.seeds > 1 else "one seed, no intervals"
        left = left_out(self.view).values
        if left.any():
            name, whole = self.view.setting("search.name"), left.size - left.sum()
            how += f"; {name} trained {whole} of {left.size} runs to their end"
        text = (
            f"To {score.text(self.target.value)} {score.long_name} ({how}) "
            f"m = {found.sizes[i]:g} needs fewest examples, "
            f"{'at most ' * bool(found.bounded[i])}{_number(found.fewest[i])}"
        )
        last = int(np.flatnonzero(fast)[-1])
        if last != i:
            text += (
                f"; m = {found.sizes[last]:g} needs {found.fewest[last] / found.fewest[i]:.2g} "
                f"times as many, in {_number(found.updates[last])} updates instead of "
                f"{_number(found.updates[i])}"
            )
        for some, what in (
            (~fast & ~found.unknown, "never"),
            (found.unknown, "stopped before it could be"),
        ):
            if some.any():
                text += f"; m = {_sizes(found.sizes[some])}: {what} reached"
        return f"{text}."

    def _critical(self) -> str:
        one = self.critical
        if one is None:
            return ""
        if not one.known:
            if not np.isfinite(one.curve.b_crit):
                return "Too few batch sizes reach the target for a critical batch size."
            side = "above" if int(one.curve.beyond) > 0 else "below"
            return f"The curve does not bend: the critical batch size lies far {side} the grid."
        text = (
            f"The critical batch size E_min/S_min (McCandlish et al.) is {_interval(one.b_crit)}; "
            f"by the 20 % definition (Zhang et al., against m = {one.reference:g}) it is "
            f"{_interval(one.twenty)}"
        )
        off = f"{np.expm1(float(one.curve.rms)):.0%} root mean square"
        return f"{text}; the hyperbola fits to {off}." if one.fits else (
            f"{text}, but the hyperbola fits badly ({off}), so that neither should be relied on."
        )  # fmt: skip

    def _rates(self) -> str:
        one = self.rates
        if one is None or not np.isfinite(one.exponent.value):
            return ""
        alpha = one.exponent
        text = f"The best learning rate in mean form grows as m^α with α = {_plain(alpha)}"
        if np.isfinite(one.by_akima.value):
            text += f" (by splines {one.by_akima.value:.2f})"
        if np.isfinite(alpha.low):
            inside = [f"{v:g}" for v in (0, 0.5, 1) if alpha.low <= v <= alpha.high]
            text += f": of 0, 0.5 and 1 it admits {', '.join(inside) or 'none'}"
        if one.forms:
            best = min(one.forms, key=one.forms.__getitem__)
            near = [n for n, v in one.forms.items() if n != best and v - one.forms[best] < 2]
            text += f"; by AIC the best form is {best}"
            text += f", not told from {', '.join(near)}" if near else ""
        return f"{text}."

    def _others(self) -> list[str]:
        """How the best values of other axes move."""
        found = []
        for one in self.others:
            if np.isfinite(one.exponent.value):
                values = self.view.ds[one.axis].values.astype(float)
                of = "half-life of " * is_decay(one.axis, values)
                unit = " in examples" * bool(of)
                name = one.axis.replace("__", ".")
                found.append(f"The best {of}{name}{unit} moves as m^{_plain(one.exponent)}.")
        return found

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
    machine = Machine.of(meta)
    swept = [a for a in view.varying if a != BATCH_SIZE and len(view.ds[a]) > 2]
    numeric = [a for a in swept if view.is_numeric(a)]
    rates = optima(found, BASE_LR, power, forms=True) if BASE_LR in numeric else None
    others = tuple(
        # A half-life in updates times m is one in examples.
        optima(found, axis, 1.0 if is_decay(axis, view.ds[axis].values.astype(float)) else 0.0)
        for axis in numeric
        if axis != BASE_LR and bool((view.ds[axis].values > 0).all())
    )
    fits = int(found.resolved.sum()) > 2
    curve = critical(found) if fits else None
    gaps, wanted = _gaps(view, found, curve, machine)
    return Advice(
        *(view, chosen, found, curve, rates, others, machine),
        _recommend(found, curve, machine, power, devices),
        tuple(gaps),
        wanted,
    )


def _check(view: View, meta: Mapping[str, Any] | None) -> None:
    if BATCH_SIZE in view.axes and view.ds.sizes[BATCH_SIZE] < 2:
        (only,) = view.ds[BATCH_SIZE].values
        problem = f"the grid has one batch size ({only:g}): nothing to compare"
        raise UserError(f"config.sweep.{BATCH_SIZE}", problem, "sweep three or more")
    status = str((meta or {}).get("status", "done"))
    missing = int((~view.ds["finished"].astype(bool) & ~left_out(view)).sum())
    if status != "done" or missing or bool(view.reported.isnull().all()):
        missing = missing or int(view.reported.isnull().sum())
        problem = f"{missing} of {view.reported.size} runs have not finished"
        raise UserError("the sweep", problem, "finish it first: the same sbt run resumes it")
    name = view.setting("batch_schedule.name", "constant")
    if name not in ("", "none", "constant"):
        problem = f"the batch size moves within a run ({name}), so that m names no batch size"
        raise UserError("config.batch_schedule.name", problem, "advise on a sweep without one")


# --- recommendations -----------------------------------------------------------------------------


def _recommend(
    found: Reached,
    curve: Critical | None,
    machine: Machine,
    power: np.ndarray,
    devices: Sequence[int],
) -> tuple[Recommendation, ...]:
    fewest = found.fewest
    least = int(np.argmin(fewest))
    examples = curve.examples[least] if curve else Interval(float(fewest[least]), np.nan, np.nan)
    most = "at most " * bool(found.bounded[least])
    cost = f"{most}{_interval(examples)} examples in {_number(found.updates[least])} updates"
    made = [_one("least examples", found, least, power, fewest, curve, cost)]
    if machine.rate:
        seconds = fewest[least] / machine.rate
        cost = f"{duration(seconds)} of {machine.device}"
        if machine.lanes and machine.lanes > 1:
            cost += (
                f" as one of {machine.lanes} lanes, which end together after "
                f"{duration(seconds * machine.lanes)}; lanes take the same time for an example at "
                "every m, and a run alone was not measured"
            )
        made.append(_one(HERE, found, least, power, fewest, curve, cost))
    g = machine.micro_batch or 1
    alone = found.updates * np.maximum(found.sizes, g)
    for count in devices:
        time = found.updates * np.maximum(found.sizes / count, g)
        at = int(np.argmin(time))
        cost = (
            f"{_number(found.updates[at])} updates, {np.min(alone) / time[at]:.2g} times as fast "
            f"as one device at best, if each keeps its speed down to {g} examples an update and "
            "exchanging gradients costs nothing"
        )
        made.append(_one(f"{count} devices", found, at, power, time, curve, cost))
    return tuple(made)


def _one(
    goal: str,
    found: Reached,
    at: int,
    power: np.ndarray,
    costs: np.ndarray,
    curve: Critical | None,
    cost: str,
) -> Recommendation:
    cell, place = found.cells[found.best[at]], found.best[at]
    near: dict[str, float] = {
        f"m = {found.sizes[j]:g}": np.nan if found.unknown[j] else float(costs[j] / costs[at])
        for j in (at - 1, at + 1)
        if 0 <= j < len(found.sizes)
    }
    base = cell.get(BASE_LR)
    if base is not None:
        line = sorted(
            (other[BASE_LR], i)
            for i, other in enumerate(found.cells)
            if all(v == other[k] for k, v in cell.items() if k != BASE_LR)
        )
        here = line.index((base, place))
        for j in (here - 1, here + 1):
            if 0 <= j < len(line):
                other = line[j][1]
                times = float(found.medians[at, other] / found.medians[at, place])
                hidden = found.open[at, other] and np.isinf(times)
                near[f"base LR {label(BASE_LR, line[j][0])}"] = np.nan if hidden else times
    m = found.sizes[at]
    value = Interval(float(found.fewest[at]), np.nan, np.nan)
    return Recommendation(
        goal,
        int(m),
        base,
        None if base is None else float(base * m ** power[at]),
        words(cell),
        float(found.updates[at]),
        curve.examples[at] if curve else value,
        cost,
        near,
    )


# --- what is missing -----------------------------------------------------------------------------


def _slopes(found: Reached) -> np.ndarray:
    """Between batch sizes whose updates are numbers, not bounds."""
    return local_slopes(found.sizes, np.where(found.resolved, found.updates, np.nan))


def _gaps(
    view: View, found: Reached, curve: Critical | None, machine: Machine
) -> tuple[list[str], dict[str, tuple[float, ...]]]:
    """What the grid cannot say, and the values of its axes that would."""
    gaps: list[str] = []
    wanted: dict[str, tuple[float, ...]] = {}
    sizes, seeds = found.sizes, found.seeds
    if seeds < 2:
        gaps.append("One seed: nothing says how much of a difference is chance.")
    elif seeds < ENOUGH_SEEDS:
        gaps.append(f"{seeds} seeds: intervals carry Student's factor and are wide.")
    if seeds < ENOUGH_SEEDS and (SEED in view.ds.coords or seeds < 2):
        known = [0]
        if SEED in view.ds.coords:
            known = [int(s) for s in np.ravel(view.ds[SEED].values)]
        more = [s for s in range(max(known) + 1 + ENOUGH_SEEDS) if s not in known]
        wanted[SEED] = tuple([*known, *more[: ENOUGH_SEEDS - len(known)]])
    if left := int(left_out(view).sum()):
        begun = int((left_out(view) & (view.ds["epochs_done"] > 0)).sum())
        gap = f"{view.setting('search.name')} stopped {begun} runs and never began {left - begun}"
        if found.open.any():
            named, count = _sizes(sizes[found.open.any(-1)]), int(found.open.sum())
            gap += (
                f", among them {count} cells (at m = {named}) that could still be the fastest: "
                "examples are at most those told, and the best base LR is the best of what was "
                "trained"
            )
        gaps.append(f"{gap}.")
    ends = {axis for flags in found.at_end for axis in flags}
    for axis in sorted(ends):
        at = [i for i, flags in enumerate(found.at_end) if axis in flags]
        named = _sizes(sizes[at])
        gaps.append(f"The best {axis} stands at the grid's end at m = {named}: a bound.")
        if axis == BASE_LR:
            values = sorted({float(cell[axis]) for cell in found.cells})
            chosen = {found.cells[found.best[i]][axis] for i in at}
            low, high = values[0] / (values[1] / values[0]), values[-1] * values[-1] / values[-2]
            below, above = values[0] in chosen, values[-1] in chosen
            wanted[axis] = tuple([*[low] * below, *values, *[high] * above])
    if not any(BASE_LR in cell for cell in found.cells) or BASE_LR not in view.varying:
        gaps.append("Base learning rates were not swept: each m may need another one.")
    slopes = _slopes(found)
    marks = [region(s) for s in slopes]
    smaller: list[int] = []
    larger: list[int] = []
    if PERFECT not in marks:
        gaps.append(f"No perfect scaling seen: m = {sizes[0]:g} may already waste examples.")
        half = int(sizes[0]) // 2
        smaller = [half] if half and 2 * half == int(sizes[0]) else []
    if NONE not in marks and np.isfinite(found.fewest[-1]):
        gaps.append(f"Updates still fall at m = {sizes[-1]:g}: how far m can grow is not seen.")
        larger = [2 * int(sizes[-1])]
    data = int(view.ds.attrs.get("train_examples", 0))
    larger = [m for m in larger if not data or m <= data]
    if smaller or larger:
        wanted[BATCH_SIZE] = tuple([*smaller, *map(int, sizes), *larger])
    if found.bounded.any():
        named = _sizes(sizes[found.bounded])
        gaps.append(f"m = {named} reaches it by the first evaluation: examples are a bound there.")
    schedule = view.setting("schedule.name", "constant")
    if schedule != "constant":
        gaps.append(
            f"The learning rate follows the budget ({schedule}): a run that is to end at the "
            "target would drop its rate earlier, and could reach it sooner."
        )
    if machine.rate is None:
        gaps.append("Times are not known: no throughput of one program is kept with the results.")
    if curve is None:
        gaps.append(
            "Fewer than three batch sizes reach it after an evaluation: no critical batch size."
        )
    return gaps, wanted


def next_overrides(advice: Advice) -> list[str]:
    """The command-line arguments that make the next sweep of the same directory."""
    return [
        f"--config.sweep.{axis}={values!r}".replace(" ", "")
        for axis, values in advice.wanted.items()
    ]


def next_experiment(advice: Advice, directory: str) -> str:
    """An experiment file that goes on in the same directory with the runs that are wanted.

    Raises:
      UserError: nothing is wanting, or the sweep has parts of its own, which no config holds.
    """
    if not advice.wanted:
        problem = "the grid leaves nothing open that more of its values would answer"
        raise UserError("--next", problem, "leave it out")
    parts = json.loads(advice.view.ds.attrs.get("parts") or "{}")
    own = [bool(parts.get("module")), bool(parts.get("rule"))]
    own += [bool(data.get("own")) for data in (parts.get("data") or {}).values()]
    if any(own):
        line = " ".join(f"'{one}'" for one in next_overrides(advice))
        problem = "the sweep has a module, data set or rule of its own, which no config holds"
        remedy = f"run its experiment file again with --workdir={directory} {line}"
        raise UserError("--next", problem, remedy)
    lines = [f"    config.sweep.{axis} = {values!r}" for axis, values in advice.wanted.items()]
    config = json.dumps(advice.view.config, indent=1)
    return "\n".join(
        [
            '"""The runs that would tell what the grid cannot; the others are kept.',
            "",
            f"    sbt run THIS_FILE --workdir {directory}",
            '"""',
            "",
            "from sbt.config import from_json",
            "",
            f"CONFIG = r'''{config}'''",
            "",
            "",
            "def get_config():",
            "    config = from_json(CONFIG)",
            *lines,
            "    return config",
            "",
        ]
    )


# --- numbers in words ----------------------------------------------------------------------------


def _number(value: float) -> str:
    """Three digits, without powers of ten: ``1,230``, ``0.42``."""
    if not np.isfinite(value):
        return "∞" if value > 0 else "?"
    if abs(value) < 100:
        return f"{value:.3g}"
    return f"{float(f'{value:.3g}'):,.0f}"


def _sizes(sizes: np.ndarray) -> str:
    return ", ".join(f"{m:g}" for m in sizes)


def _interval(one: Interval) -> str:
    if not np.isfinite(one.low):
        return _number(one.value)
    return f"{_number(one.value)} [{_number(one.low)}, {_number(one.high)}]"


def _plain(one: Interval) -> str:
    if not np.isfinite(one.low):
        return f"{one.value:.2f}"
    return f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"
