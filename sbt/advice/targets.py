"""Steps to a target: how many updates and examples every batch size needs to a score.

As Shallue et al. (2019) count them: at each batch size the fewest over all other hyperparameters.
They take the first evaluation below the goal, which rounds up to the spacing of evaluations; here
the crossing is interpolated between the evaluation before and the one that reaches it, linearly in
the logarithm of the examples, since scores follow powers of them far more nearly than lines. Where
the first evaluation of a run reaches the target nothing lies before it, and it counts as it is.

A run that never reaches the target, or diverges before it or after, is *censored*: it took longer
than any number (infinity here). So is a cell that half of its seeds or fewer reach, by the median.

A run that a search stopped, or never began, counts as far as it was trained. Where it has not
reached the target by then it is censored there: it takes longer than that, and nothing says how
much. A cell of such runs is *open* where it could still be the fastest.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from sbt.errors import UserError
from sbt.report.view import BASE_LR, BATCH_SIZE, EPOCH, SEED, View
from sbt.results import TEST, VALIDATION, curve

# A batch size whose best cell gains less than this share of what the best one gains over a guess
# has not learned, and does not hold the default target down.
LEARNED = 0.5


@dataclass(frozen=True)
class Target:
    """A score to reach, in the units of the score, and why it."""

    value: float
    why: str


@dataclass(frozen=True)
class Reached:
    """Examples to a target, of every run.

    Attributes:
      target: the score.
      examples: over the batch size, ``cell`` (all other hyperparameters, stacked) and the seed:
        examples until the target is reached; infinite where it is not.
      early: of the same shape: whether the first evaluation already reached it, so that the number
        is only an upper bound.
      until: of the same shape: examples that a run was trained where a search ended it early, 0 if
        it never began; infinite of all others, which nothing more could make faster.
      cells: the values of the other hyperparameters of each cell.
    """

    target: float
    examples: np.ndarray
    early: np.ndarray
    until: np.ndarray
    sizes: np.ndarray
    cells: tuple[dict[str, Any], ...]

    @property
    def seeds(self) -> int:
        return self.examples.shape[-1]

    @cached_property
    def medians(self) -> np.ndarray:
        """Of every batch size and cell, over all seeds."""
        return self.over(np.arange(self.seeds)[None])[0]

    @cached_property
    def open(self) -> np.ndarray:
        """Of every batch size and cell, whether it could still need fewest examples.

        That is so where it would with all that a search stopped reaching the target right then.
        """
        return _median(np.minimum(self.examples, self.until)) < self.fewest[:, None]

    @property
    def unknown(self) -> np.ndarray:
        """Of every batch size, whether nothing reached the target, and what was stopped could."""
        return ~np.isfinite(self.fewest) & self.open.any(-1)

    def having(self, axis: str, value: Any) -> "Reached":
        """The cells that have a value of an axis."""
        at = [i for i, cell in enumerate(self.cells) if cell[axis] == value]
        parts = (self.examples[:, at], self.early[:, at], self.until[:, at])
        return Reached(self.target, *parts, self.sizes, tuple(self.cells[i] for i in at))

    def over(self, draws: np.ndarray) -> np.ndarray:
        """Medians over seeds drawn, ``(draws, sizes, cells)``: the same seeds everywhere."""
        drawn = self.examples[:, :, draws]  # (sizes, cells, draws, seeds)
        return np.moveaxis(_median(drawn), -1, 0)

    @cached_property
    def best(self) -> np.ndarray:
        """The cell of every batch size that needs fewest examples; -1 where none reaches it."""
        found = self.medians.argmin(-1)
        return np.where(np.isfinite(self.medians.min(-1)), found, -1)

    @property
    def best_cells(self) -> tuple[dict[str, Any] | None, ...]:
        """Its hyperparameters; None where there is none."""
        return tuple(self.cells[i] if i >= 0 else None for i in self.best)

    @property
    def fewest(self) -> np.ndarray:
        """Examples that every batch size needs; infinite where censored."""
        return self.medians.min(-1)

    @property
    def updates(self) -> np.ndarray:
        """Updates that every batch size needs."""
        return self.fewest / self.sizes

    @cached_property
    def at_end(self) -> tuple[tuple[str, ...], ...]:
        """Of every batch size, the numeric axes at whose end the best cell stands.

        Of cells that are equally fast within rounding one inside the axis counts.
        """
        return tuple(self._ends(i) for i in range(len(self.sizes)))

    def _ends(self, size: int) -> tuple[str, ...]:
        if self.best[size] < 0:
            return ()
        found = []
        for axis, value in self.cells[self.best[size]].items():
            line = sorted({cell[axis] for cell in self.cells}, key=str)
            if len(line) < 3 or not all(isinstance(v, int | float) for v in line):
                continue
            ends = (min(line), max(line))
            inside = [i for i, cell in enumerate(self.cells) if cell[axis] not in ends]
            tie = self.medians[size][inside].min() <= self.fewest[size] * (1 + 1e-9)
            if value in ends and not tie:
                found.append(axis)
        return tuple(found)

    @cached_property
    def bounded(self) -> np.ndarray:
        """Of every batch size, whether most seeds of its best cell reached it at once."""
        at = np.maximum(self.best, 0)
        share = self.early[np.arange(len(self.sizes)), at].mean(-1)
        return (self.best >= 0) & (share > 0.5)

    @property
    def resolved(self) -> np.ndarray:
        """Of every batch size, whether its examples are a number, not a bound."""
        return np.isfinite(self.fewest) & ~self.bounded


def _median(values: np.ndarray) -> np.ndarray:
    """Over the last axis; between a number and infinity lies infinity."""
    ordered, n = np.sort(values, axis=-1), values.shape[-1]
    low, high = ordered[..., (n - 1) // 2], ordered[..., n // 2]
    return low if n % 2 else np.where(np.isinf(high), np.inf, (low + high) / 2)


def crossing(examples: np.ndarray, gain: np.ndarray, target: float) -> tuple[float, bool]:
    """Examples until a curve first reaches a target.

    Args:
      examples: of every evaluation, ascending.
      gain: the score then, signed so that more is better; NaN where there was no evaluation.
      target: signed like it.

    Returns:
      The examples, interpolated linearly in their logarithm, infinite if it is never reached; and
      whether the first evaluation reaches it already.

    Examples:
      >>> crossing(np.array([100.0, 400.0]), np.array([0.2, 0.6]), 0.4)
      (200.0, False)
      >>> crossing(np.array([100.0, 400.0]), np.array([0.2, 0.6]), 0.7)
      (inf, False)
    """
    known = ~np.isnan(gain)
    n, y = examples[known], gain[known]
    there = np.flatnonzero(y >= target)
    if not there.size:
        return np.inf, False
    i = int(there[0])
    if i == 0:
        return float(n[0]), True
    if not np.isfinite(y[i - 1]):
        return float(n[i]), False
    share = (target - y[i - 1]) / (y[i] - y[i - 1])
    return float(np.exp(np.log(n[i - 1]) + share * np.log(n[i] / n[i - 1]))), False


def reached(view: View, target: float) -> Reached:
    """Examples to a target, of every run of a grid.

    Where there is a validation split its curve counts.

    Raises:
      UserError: the grid has no batch sizes, or the results do not say how long an epoch is.
    """
    gain, epoch = curves(view), _epoch(view)
    examples = view.ds[EPOCH].values.astype(float) * epoch
    axes = [str(d) for d in gain.dims if d not in (BATCH_SIZE, SEED, EPOCH)]
    gain = gain.transpose(BATCH_SIZE, *axes, SEED, EPOCH)
    shape = gain.shape
    rows = gain.values.reshape(-1, shape[-1])
    goal = view.score.gain(target)
    found = [crossing(examples, row, goal) for row in rows]
    wide = (shape[0], -1, shape[-2])

    def runs(values: xr.DataArray) -> np.ndarray:
        seeded = values if SEED in values.dims else values.expand_dims(SEED)
        return seeded.transpose(BATCH_SIZE, *axes, SEED).values.reshape(wide)

    gone = runs(view.ds["diverged"].fillna(False).astype(bool))
    done = runs(view.ds["epochs_done"].astype(float)) * epoch
    grid = np.meshgrid(*(gain[axis].values for axis in axes), indexing="ij")
    flat = [values.ravel().tolist() for values in grid]
    cells = tuple(dict(zip(axes, point, strict=True)) for point in zip(*flat, strict=True))
    times = np.asarray([n for n, _ in found]).reshape(wide)
    return Reached(
        float(target),
        np.where(gone, np.inf, times),
        np.asarray([early for _, early in found]).reshape(wide),
        np.where(runs(left_out(view)) & ~gone, done, np.inf),
        gain[BATCH_SIZE].values.astype(float),
        cells or ({},),
    )


def curves(view: View) -> xr.DataArray:
    """The score after every epoch, of the split that chooses, signed so that more is better."""
    if BATCH_SIZE not in view.axes:
        axes = ", ".join(view.axes) or "none"
        problem = f"the grid does not sweep the batch size (axes: {axes})"
        raise UserError(f"config.sweep.{BATCH_SIZE}", problem, "sweep it: ... = (4, 16, 64)")
    split = VALIDATION if view.validated else TEST
    found = view.score.gain(view.ds[curve(split, view.score.name)])
    return found if SEED in found.dims else found.expand_dims(SEED)


def left_out(view: View) -> xr.DataArray:
    """Which runs of a finished sweep were not trained to their end: a search ended them."""
    ended = view.ds["finished"].astype(bool)
    return ~ended if "stopped_epoch" in view.ds else xr.zeros_like(ended)


def _epoch(view: View) -> float:
    """Examples of an epoch."""
    size = view.ds.attrs.get("train_examples") or view.setting("data.train_size")
    if not size:
        problem = "does not say how many examples an epoch has (attribute train_examples)"
        raise UserError("results.nc", problem, "run the sweep again with this version")
    return float(size)


def default_target(view: View) -> Target:
    """A score that most batch sizes reach, with some room, and not at their first evaluation.

    Of every batch size the cell is taken whose worst seed comes furthest. What is ``margin`` of the
    report (``config.report.margin``) below that is a candidate, and the one that most batch sizes
    reach after their first evaluation is the target: before it nothing tells them apart. Batch
    sizes at which nothing learned (less than half of what the best gains over a guess) make no
    candidate.

    Raises:
      UserError: no run has a finite score.
    """
    gain = curves(view)
    gain = gain.where(~view.ds["diverged"].fillna(False).astype(bool))
    others = [d for d in gain.dims if d not in (BATCH_SIZE, SEED, EPOCH)]
    ends = gain.where(np.isfinite(gain)).max(EPOCH)
    each = ends.min(SEED, skipna=False).max(others).values
    known = each[np.isfinite(each)]
    if not known.size:
        problem = "no cell has a finite score of all its seeds"
        raise UserError("--target", problem, "give one, or sweep smaller learning rates")
    guess = view.score.gain(view.score.guess)
    floor = guess + LEARNED * (known.max() - guess) if np.isfinite(guess) else -np.inf
    counts = np.isfinite(each) & (each >= floor)
    tried = [
        reached(view, float(view.score.gain(gain - view.margin)))
        for gain in sorted(set(each[counts]))
    ]
    # Of equals the first is the easiest, which most batch sizes reach.
    best = max(tried, key=lambda one: int(one.resolved.sum()))
    resolved, total = int(best.resolved.sum()), len(best.sizes)
    reach = int(np.isfinite(best.fewest).sum())
    early = reach - resolved
    why = f"chosen here: {resolved} of {total} batch sizes reach it after their first evaluation"
    why += f", {early} at it" * (early > 0) + f", and {total - reach} never" * (reach < total)
    why += f"; {view.score.margin(view.margin)} to spare where it is hardest"
    return Target(best.target, why)


def check_target(view: View, target: float, found: Reached) -> None:
    """Refuses a target that the grid says nothing about.

    Raises:
      UserError: no batch size reaches it, or all do at their first evaluation.
    """
    score = view.score
    told = score.text(target)
    if not np.isfinite(found.fewest).any():
        gain = curves(view)
        best = gain.where(np.isfinite(gain)).max()
        reach = f"the best evaluation of any run is {score.text(float(score.gain(best)))}"
        problem = f"no batch size reaches {told} with most of its seeds: {reach}"
        raise UserError("--target", problem, "choose an easier one, or train longer")
    if bool(found.early[np.isfinite(found.examples)].all()):
        problem = f"{told} lies outside the curves: the first evaluation of every run reaches it"
        remedy = "choose a harder one, or evaluate more often"
        raise UserError("--target", problem, remedy)


def in_words(cell: Mapping[str, Any]) -> str:
    """A cell in words, without its learning rate."""
    rest = {k: v for k, v in cell.items() if k != BASE_LR}
    return ", ".join(
        f"{k.replace('__', '.')} {v:g}" if isinstance(v, int | float) else f"{k} {v}"
        for k, v in rest.items()
    )
