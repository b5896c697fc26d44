"""What to use for a goal: least examples, least time here, a budget of devices, the best score."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sbt.advice import words
from sbt.advice.critical import Critical
from sbt.advice.speeds import Speeds
from sbt.advice.targets import Reached, in_words
from sbt.intervals import Interval, lead, student
from sbt.report.seeds import at_cell, best_at
from sbt.report.view import BASE_LR, BATCH_SIZE, View
from sbt.report.wording import label

EXAMPLES, HERE = "least examples", "least time here"


@dataclass(frozen=True)
class Recommendation:
    """What to use for a goal, and what it costs to be wrong.

    Attributes:
      goal: what it is best for.
      batch_size, base_lr, rate: m, η̃ (None where it was not swept) and η in mean form.
      others: the other hyperparameters, in words.
      updates, examples: to the target; the examples with their interval. NaN where the goal is a
        score.
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
        others = f", {self.others}" if self.others else ""
        return f"{self.goal}: m = {self.batch_size}{self._rate}{others}: {self.cost}"

    @property
    def _rate(self) -> str:
        if self.base_lr is None:
            return ""
        told = label(BASE_LR, self.base_lr)
        if self.rate != self.base_lr:
            return f", base LR {told} (η = {self.rate:.3g} in mean form)"
        decimal = f" = {self.rate:.3g}" * ("^" in told)
        return f", learning rate {told}{decimal}"

    @property
    def wrong(self) -> str:
        """What it costs to be wrong, in words."""
        return ", ".join(
            f"{name} ×{times:.2f}"
            if np.isfinite(times)
            else f"{name} {'is not known' if np.isnan(times) else 'never reaches it'}"
            for name, times in self.neighbours.items()
        )


def recommend(
    found: Reached,
    curve: Critical | None,
    speeds: Speeds,
    power: np.ndarray,
    devices: Sequence[int],
) -> tuple[Recommendation, ...]:
    """Least examples, least time here where that was measured, and each budget of devices."""
    fewest = found.fewest
    least = int(np.argmin(fewest))
    examples = curve.examples[least] if curve else Interval(float(fewest[least]), np.nan, np.nan)
    most = "at most " * bool(found.bounded[least])
    updates = words.number(found.updates[least])
    cost = f"{most}{words.interval(examples)} examples in {updates} updates"
    made = [_one(EXAMPLES, found, least, power, fewest, curve, cost)]
    for rate in (speeds.alone, speeds.lanes):
        if np.isfinite(rate).any():
            seconds = np.where(np.isfinite(fewest) & np.isfinite(rate), fewest / rate, np.inf)
            at = int(np.argmin(seconds))
            cost = _time(found, speeds, at)
            made.append(_one(HERE, found, at, power, seconds, curve, cost))
            break
    for count in devices:
        time, best, condition = _spread(found, speeds, count)
        at = int(np.argmin(time))
        cost = (
            f"{words.number(found.updates[at])} updates, {best / time[at]:.2g} times as fast as "
            f"one device at best, if {condition}exchanging gradients costs nothing"
        )
        made.append(_one(f"{count} devices", found, at, power, time, curve, cost))
    return tuple(made)


def best_score(view: View, power: np.ndarray) -> Recommendation | None:
    """The cell that ends best, whatever it needs to get there; None where no run has finished.

    Beside it stand the batch sizes whose own best cells are not told from it: by Student's interval
    of the seeds' differences, :func:`sbt.intervals.lead`.
    """
    best, score = view.best, view.score
    if best is None:
        return None
    here = at_cell(view, best.where)
    (found,) = student(score.gain(here)[:, None])
    low, high = sorted((found.low, found.high))
    told, m = score.text(best.value), best.where[BATCH_SIZE]
    if np.isfinite(low) and low < high:
        told += f" [{score.number(low)}, {score.number(high)}]"
    sizes = view.ds[BATCH_SIZE].values
    rivals = {other: best_at(view, BATCH_SIZE, other) for other in sizes.tolist() if other != m}
    ahead = {other: lead(here, at_cell(view, one)) for other, one in rivals.items() if one}
    if alike := [other for other, by in ahead.items() if by.low <= 0 <= by.high]:
        told += f"; seeds do not tell m = {words.listed(np.asarray(alike))} from it"
    base = best.where.get(BASE_LR)
    rate = None if base is None else float(base * m ** power[sizes.tolist().index(m)])
    return Recommendation(
        f"the {'highest' if score.higher_is_better else 'lowest'} {score.long_name} in this budget",
        int(m),
        base,
        rate,
        in_words({axis: value for axis, value in best.where.items() if axis != BATCH_SIZE}),
        np.nan,
        Interval(np.nan, np.nan, np.nan),
        told,
    )


def _time(found: Reached, speeds: Speeds, at: int) -> str:
    """What a batch size takes here, of a run by itself and as a lane."""
    alone, lanes = found.fewest[at] / speeds.alone[at], found.fewest[at] / speeds.lanes[at]
    told = []
    if np.isfinite(alone):
        told.append(f"{words.seconds(alone)} of a run by itself on {speeds.device}")
    if np.isfinite(lanes):
        told.append(f"{words.seconds(lanes)} of {speeds.lanes_device} in lanes")
        if speeds.at_once[at] > 1:
            together = words.seconds(lanes * speeds.at_once[at])
            told[-1] += f" ({speeds.at_once[at]:.0f} at once, together {together})"
    return "; ".join(told)


def _spread(found: Reached, speeds: Speeds, count: int) -> tuple[np.ndarray, float, str]:
    """Relative times on so many devices, the least on one of them, and what that rests on.

    A device takes m/count examples of an update, as long as a run by itself takes an update of so
    many; or, where that was not measured, as long as that many micro-batches take.
    """
    if speeds.known:
        each = speeds.update_seconds(found.sizes / count)
        alone = speeds.update_seconds(found.sizes)
        return found.updates * each, float(np.min(found.updates * alone)), ""
    g = np.nan_to_num(speeds.micro_batch, nan=1.0)
    condition = f"each keeps its speed down to {g.min():.0f} examples an update and "
    alone = found.updates * np.maximum(found.sizes, g)
    return found.updates * np.maximum(found.sizes / count, g), float(np.min(alone)), condition


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
        in_words(cell),
        float(found.updates[at]),
        curve.examples[at] if curve else value,
        cost,
        near,
    )
