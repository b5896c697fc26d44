"""Claims about tuning: how hyperparameters and their tolerances move with the batch size.

Intervals and verdicts are those of :mod:`sbt.report.seeds`: what a choice loses is held out, where
an optimum lies and how wide it is comes from the mean over seeds. A run that diverged counts as a
guess where scores have one, so that differences stay finite.
"""

from collections.abc import Hashable
from typing import Any

import numpy as np
import xarray as xr

from sbt.intervals import Interval
from sbt.parabola import best_positions
from sbt.report.claims import OPEN, Verdict, claim
from sbt.report.seeds import bootstrap, decided, gains, held_out
from sbt.report.view import BASE_LR, BATCH_SIZE, SEED, View
from sbt.schedules import POWERS, half_life_of_decay, rescaled_decay

OPTIMIZER, LAW, ROUNDING = "rule", "scaling", "rounding"
B1, B2 = "rule__b1", "rule__b2"
WIDE = (BATCH_SIZE, BASE_LR, B1, B2)
MAREK = "Marek et al. 2025, arXiv:2507.07101"


def tuned(gain: xr.DataArray, *keep: Hashable) -> xr.DataArray:
    """The best over all other axes."""
    return gain.max([axis for axis in gain.dims if axis not in keep])


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's, of ranks in which equal values share a mean rank; 0 where one never varies."""

    def ranks(x: np.ndarray) -> np.ndarray:
        below = (x[:, None] > x).sum(1) + (x[:, None] == x).sum(1) / 2
        return below - below.mean()

    x, y = ranks(np.asarray(a, float)), ranks(np.asarray(b, float))
    norm = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / norm) if norm else 0.0


def _sizes(gain: xr.DataArray) -> np.ndarray:
    return gain[BATCH_SIZE].values.astype(float)


def _by(sizes: np.ndarray, numbers: list[Interval]) -> str:
    return ", ".join(f"{m:g}: {number}" for m, number in zip(sizes, numbers, strict=True))


def _missing(view: View, *axes: str) -> str:
    """The axes of those that the grid does not vary, in words."""
    wanting = [axis for axis in axes if axis not in view.varying]
    return f"the grid does not sweep {', '.join(wanting)}" if wanting else ""


# --- decay rates ----------------------------------------------------------------------------------


def half_life(decay: Any) -> Any:
    """Updates after which an average has halved."""
    return half_life_of_decay(np.asarray(decay, float), 1.0)


def rescaled(decay: float, m: Any, reference: float) -> Any:
    r"""The same half-life in examples: :math:`\beta^{m/m_0}` (Marek et al. 2025, equation 2)."""
    return rescaled_decay(decay, np.asarray(m, float) / reference)


def regret(chosen: xr.DataArray, judged: xr.DataArray, axis: str, values: Any) -> np.ndarray:
    """What a rule loses at each batch size against the best value of an axis, all else tuned.

    Args:
      chosen: gains of cells, by which all else is tuned and the best value is found.
      judged: gains of the same cells, which are compared.
      axis: of the hyperparameter.
      values: what the rule chooses, a number for each batch size; the nearest of the grid counts,
        of decay rates by their half-lives.
    """
    order = (BATCH_SIZE, axis, *(d for d in chosen.dims if d not in (BATCH_SIZE, axis)))
    shape = (chosen.sizes[BATCH_SIZE], chosen.sizes[axis], -1)
    by, of = (g.transpose(*order).values.reshape(shape) for g in (chosen, judged))
    wanted, grid = octaves(axis, values), octaves(axis, chosen[axis].values)
    nearest = np.argmin(np.abs(wanted[:, None] - grid), axis=1)
    lost = []
    for row, seen, at in zip(by, of, nearest, strict=True):
        best = np.unravel_index(np.nanargmax(row), row.shape)
        lost.append(seen[best] - seen[at, np.nanargmax(row[at])])
    return np.asarray(lost)


def octaves(axis: str, values: Any) -> np.ndarray:
    """Positions on an axis, in factors of two; on that of a decay, of its half-life."""
    numbers = np.asarray(values, float)
    with np.errstate(divide="ignore"):
        return np.log2(half_life(numbers) if is_decay(axis, numbers) else numbers)


def is_decay(axis: str, values: np.ndarray) -> bool:
    """Whether an axis holds decays of moving averages, which are told by their half-lives."""
    return axis.rpartition("__")[2] in ("b1", "b2", "momentum", "beta") and bool((values < 1).all())


@claim(axes=WIDE, source=f"{MAREK}, Figs 4 and 5")
def fixed_decay_fails(view: View, axis: str = B2, decay: float = 0.95, margin: float = 0.02) -> Any:
    """Whether a fixed decay fails at the smallest batch size while its half-life, kept, does not.

    The decay that is usual at the largest batch size of the grid loses more than ``margin`` at the
    smallest, the learning rate tuned for it; kept as a half-life in examples it loses at most that
    at every batch size. Losses are against the best decay of the grid at the batch size.

    Args:
      view: a grid of batch sizes and decays.
      axis: of the decay.
      decay: at the largest batch size.
      margin: in the unit of the score.
    """
    words = (
        f"{axis.rpartition('__')[2]} = {decay:g} of the largest m fails at the smallest, the same "
        f"half-life does not (margin {view.score.margin(margin)})"
    )
    if problem := _missing(view, BATCH_SIZE, axis):
        return Verdict(words, OPEN, problem)

    sizes = _sizes(gains(view))
    same = np.full(sizes.size, decay)
    fixed = held_out(view, lambda by, of: regret(by, of, axis, same))[int(np.argmin(sizes))]
    kept = held_out(view, lambda by, of: regret(by, of, axis, rescaled(decay, sizes, sizes.max())))
    return decided(
        view,
        words,
        fixed.low > margin and all(one.high <= margin for one in kept),
        fixed.high <= margin or any(one.low > margin for one in kept),
        f"fixed loses {fixed} at m = {sizes.min():g}; the half-life, by m: {_by(sizes, kept)}",
    )


@claim(axes=WIDE, source=f"{MAREK}, Fig. 4")
def fixed_value_suffices(view: View, axis: str, value: float, margin: float = 0.02) -> Verdict:
    """Whether one value of a hyperparameter is good enough at every batch size."""
    words = f"{axis.replace('__', '.')} = {value:g} loses at most {margin:g} at every m"
    if problem := _missing(view, BATCH_SIZE, axis):
        return Verdict(words, OPEN, problem)
    sizes = _sizes(gains(view))
    lost = held_out(view, lambda by, of: regret(by, of, axis, np.full(sizes.size, value)))
    holds, fails = (all(one.high <= margin for one in lost), any(one.low > margin for one in lost))
    return decided(view, words, holds, fails, f"lost, by m: {_by(sizes, lost)}")


@claim(axes=WIDE, source=f"{MAREK}, Fig. 4")
def half_life_transfers(view: View, axis: str = B2, decay: float = 0.95) -> Verdict:
    """Whether a half-life beats every fixed decay of the grid, on average over batch sizes.

    The half-life in examples is that of ``decay`` at the largest batch size.
    """
    name = axis.rpartition("__")[2]
    words = f"The half-life of {name} = {decay:g} at the largest m beats every fixed {name}"
    if problem := _missing(view, BATCH_SIZE, axis):
        return Verdict(words, OPEN, problem)
    sizes, values = _sizes(gains(view)), gains(view)[axis].values
    rules = [rescaled(decay, sizes, sizes.max()), *(np.full(sizes.size, v) for v in values)]

    def lead(by: xr.DataArray, of: xr.DataArray) -> np.ndarray:
        # Regrets are against the same best cells, so that their differences are those of rules.
        (_, kept), *fixed = [
            (regret(by, by, axis, rule).mean(), regret(by, of, axis, rule).mean()) for rule in rules
        ]
        return np.asarray([min(fixed)[1] - kept])

    (found,) = held_out(view, lead)
    return decided(view, words, found.low > 0, found.high < 0, f"by {found} against the best fixed")


def lead(
    chosen: xr.DataArray, judged: xr.DataArray, axis: str, value: Any, other: Any
) -> np.ndarray:
    """What one value of an axis gains on another at each batch size, all else tuned for each."""
    found = []
    for one in (value, other):
        by, of = (
            g.sel({axis: one}).transpose(BATCH_SIZE, ...).values.reshape(g.sizes[BATCH_SIZE], -1)
            for g in (chosen, judged)
        )
        found.append(of[np.arange(len(of)), np.nanargmax(by, axis=1)])
    return found[0] - found[1]


@claim(axes=(*WIDE, LAW), source=f"{MAREK}, Fig. 5")
def law_helps(
    view: View, law: str = "half_life", other: str = "fixed", margin: float = 0.02
) -> Verdict:
    """Whether a law of the batch size gains at the smallest one what it need not at the largest.

    More than ``margin`` against the other law at the smallest batch size, at most that at the
    largest, all else tuned for each. Both are values of the axis ``scaling``.
    """
    words = f"{law} is better than {other} at the smallest m alone (margin {margin:g})"
    if problem := _missing(view, BATCH_SIZE, LAW):
        return Verdict(words, OPEN, problem)
    if missing := {law, other} - set(view.ds[LAW].values.tolist()):
        return Verdict(words, OPEN, f"the grid has no law {', '.join(sorted(missing))}")
    sizes = _sizes(gains(view))
    gained = held_out(view, lambda by, of: lead(by, of, LAW, law, other))
    small, large = gained[int(np.argmin(sizes))], gained[int(np.argmax(sizes))]
    return decided(
        view,
        words,
        small.low > margin and large.high <= margin,
        small.high <= margin or large.low > margin,
        f"gained, by m: {_by(sizes, gained)}",
    )


# --- rounding -------------------------------------------------------------------------------------


@claim(axes=(*WIDE, ROUNDING), source=f"{MAREK}, Fig. 9")
def stochastic_rounding_suffices(view: View, margin: float = 0.02) -> Verdict:
    """Whether weights rounded to bfloat16 by chance are as good as weights that are not rounded.

    They lose at most ``margin`` at every batch size, all else tuned for each.
    """
    words = f"Weights in bfloat16, rounded by chance, lose at most {margin:g} at every m"
    if problem := _missing(view, BATCH_SIZE, ROUNDING):
        return Verdict(words, OPEN, problem)
    lost = held_out(view, lambda by, of: lead(by, of, ROUNDING, "none", "stochastic"))
    holds, fails = (all(one.high <= margin for one in lost), any(one.low > margin for one in lost))
    numbers = f"lost, by m: {_by(_sizes(gains(view)), lost)}"
    return decided(view, words, holds, fails, numbers)


@claim(axes=(*WIDE, ROUNDING), source=f"{MAREK}, Fig. 9")
def nearest_rounding_hurts_small_batches(view: View) -> Verdict:
    """Whether weights rounded to the nearest bfloat16 lose more at the smallest batch size.

    Against weights that are not rounded, and than at the largest batch size.
    """
    words = "Rounding weights to the nearest bfloat16 costs more at the smallest m"
    if problem := _missing(view, BATCH_SIZE, ROUNDING):
        return Verdict(words, OPEN, problem)
    sizes = _sizes(gains(view))

    def lost(by: xr.DataArray, of: xr.DataArray) -> np.ndarray:
        each = lead(by, of, ROUNDING, "none", "nearest")
        return np.append(each, each[np.argmin(sizes)] - each[np.argmax(sizes)])

    *each, more = held_out(view, lost)
    numbers = f"lost, by m: {_by(sizes, each)}; at the smallest more by {more}"
    return decided(view, words, more.low > 0, more.high <= 0, numbers)


# --- basins, rates and optimizers -----------------------------------------------------------------


def basin(positions: np.ndarray, gain: np.ndarray, margin: float) -> float:
    """Width around the best point within which at most ``margin`` is lost, between points linearly.

    A basin that reaches an end of the grid is cut there.
    """
    known = np.isfinite(positions) & np.isfinite(gain)
    x, y = positions[known], gain[known]
    order = np.argsort(x)
    x, lost = x[order], (y.max() - y)[order]
    ends, best = [], int(np.argmin(lost))
    for step, last in ((-1, 0), (1, len(x) - 1)):
        i = best
        while i != last and lost[i + step] <= margin:
            i += step
        end = x[i]
        if i != last:
            end += (x[i + step] - x[i]) * (margin - lost[i]) / (lost[i + step] - lost[i])
        ends.append(end)
    return float(ends[1] - ends[0])


@claim(axes=WIDE, source=f"{MAREK}, Fig. 3")
def basin_narrows(view: View, axis: str = BASE_LR, margin: float = 0.02) -> Verdict:
    """Whether the range of good values of a hyperparameter is narrower at larger batch sizes.

    Its width in factors of two, at ``margin`` below the best of each batch size, all else tuned;
    the rank correlation with the batch size must be negative.
    """
    words = f"The range of good {axis.replace('__', '.')} narrows as m grows (margin {margin:g})"
    if problem := _missing(view, BATCH_SIZE, axis):
        return Verdict(words, OPEN, problem)

    def widths(gain: xr.DataArray) -> np.ndarray:
        best = tuned(gain, BATCH_SIZE, axis).transpose(BATCH_SIZE, axis)
        positions = octaves(axis, best[axis].values)
        return np.asarray([basin(positions, row, margin) for row in best.values])

    found = bootstrap(view, lambda g: rank_correlation(_sizes(g), widths(g)))
    each = zip(_sizes(gains(view)), widths(gains(view).mean(SEED)), strict=True)
    told = ", ".join(f"{m:g}: {width:.1f}" for m, width in each)
    numbers = f"octaves by m: {told}; rank correlation {found}"
    return decided(view, words, found.high < 0, found.low >= 0, numbers)


def powers(view: View) -> np.ndarray:
    """The power of m by which a base rate is multiplied, at each batch size."""
    sizes = _sizes(gains(view))
    follows, table = view.setting("follow", {}).get("scaling__power", (BATCH_SIZE, ()))
    if follows == BATCH_SIZE and table:
        return np.asarray([dict(map(tuple, table))[m] for m in sizes])
    power = view.ds.coords.get("scaling__power", view.setting("scaling.power"))
    named = POWERS[str(view.setting("lr_scaling", "linear"))]
    return np.full(sizes.size, named if power is None else float(power))


@claim(axes=WIDE, source=f"{MAREK}, Fig. 4")
def rate_grows_slower(view: View, exponent: float = 0.5) -> Verdict:
    """Whether the best learning rate grows with the batch size more slowly than a power of it.

    The slope of log2 of the best rate, in mean form, over log2 m. Rates are interpolated by a
    parabola; batch sizes whose best stands at an end of the grid are left out.
    """
    words = f"The best learning rate grows more slowly than m^{exponent:g}"
    if problem := _missing(view, BATCH_SIZE, BASE_LR):
        return Verdict(words, OPEN, problem)
    power = powers(view)

    def slope(gain: xr.DataArray) -> float:
        best = tuned(gain, BATCH_SIZE, BASE_LR).transpose(BATCH_SIZE, BASE_LR)
        x, sizes = np.log2(best[BASE_LR].values.astype(float)), np.log2(_sizes(best))
        rates = best_positions(x, best.values) + power * sizes
        known = np.isfinite(rates)
        return float(np.polyfit(sizes[known], rates[known], 1)[0]) if known.sum() > 2 else np.nan

    found = bootstrap(view, slope)
    if not np.isfinite(found.value):
        return Verdict(words, OPEN, "the best rates of too many batch sizes are at the grid's end")
    return decided(view, words, found.high < exponent, found.low >= exponent, f"exponent {found}")


@claim(axes=(*WIDE, OPTIMIZER), source=f"{MAREK}, Fig. 1a")
def optimizers_part(view: View, axis: str = OPTIMIZER) -> Verdict:
    """Whether optimizers, each tuned, differ more from each other at larger batch sizes.

    The difference between the best and the worst of them; its rank correlation with the batch size
    must be positive. Batch sizes at which one was not trained are left out.
    """
    words = "The optimizers differ the more, the larger m is"
    if problem := _missing(view, BATCH_SIZE, axis):
        return Verdict(words, OPEN, problem)

    def gaps(gain: xr.DataArray) -> xr.DataArray:
        best = tuned(gain, BATCH_SIZE, axis).dropna(BATCH_SIZE)
        return best.max(axis) - best.min(axis)

    def trend(gain: xr.DataArray) -> float:
        found = gaps(gain)
        return rank_correlation(_sizes(found), found.values)

    found, gap = bootstrap(view, trend), gaps(gains(view).mean(SEED))
    told = ", ".join(f"{m:g}: {g:.3f}" for m, g in zip(_sizes(gap), gap.values, strict=True))
    numbers = f"by m: {told}; rank correlation {found}"
    return decided(view, words, found.low > 0, found.high <= 0, numbers)


@claim(axes=WIDE, source=f"{MAREK}, Fig. 1b")
def small_batches_forgive(view: View, margin: float = 0.02) -> Verdict:
    """Whether more of the grid is good at the smallest batch size than at the largest.

    The share of cells that lose at most ``margin`` on the best of their batch size.
    """
    words = f"More of the grid is within {margin:g} of the best at the smallest m"
    if problem := _missing(view, BATCH_SIZE):
        return Verdict(words, OPEN, problem)

    def shares(gain: xr.DataArray) -> xr.DataArray:
        others = [axis for axis in gain.dims if axis != BATCH_SIZE]
        return (gain >= gain.max(others) - margin).mean(others)

    def lead(gain: xr.DataArray) -> float:
        found = shares(gain)
        return float(found.isel({BATCH_SIZE: 0}) - found.isel({BATCH_SIZE: -1}))

    share = shares(gains(view).mean(SEED)).values
    found = bootstrap(view, lead)
    numbers = f"{share[0]:.0%} against {share[-1]:.0%}; difference {found}"
    return decided(view, words, found.low > 0, found.high <= 0, numbers)
