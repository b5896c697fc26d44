"""Claims about any variable of the results, as a figure's file states them: words, then numbers.

    CLAIMS = (
        ratio_at_least("Large batches end at least 9 times as sharp", "sharpness", factor=9,
                       more={"batch_size": "last"}, less={"batch_size": "first"},
                       at={"space": "full", "epsilon": 1e-3}),
    )

The first argument is the claim as its source makes it; the others say which numbers decide it. A
*place* maps dimensions of the variable to values of theirs, ``"first"``, ``"last"``, or ``"all"``:
the claim must hold at each (a dimension's own value of that name, such as the ``layer`` that is all
of them, comes before the word). Dimensions that no place names are ``"all"``, except epochs, of
which the last counts. Under ``"variable"`` a place may name another variable. ``tune`` names an
axis, such as ``base_lr``, at whose ``best`` value (``"highest"`` or ``"lowest"``) the variable is
compared; each seed's by the others, see :mod:`sbt.report.seeds`, which also says when an interval
decides.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from sbt.errors import nearest, shown
from sbt.intervals import Interval, student
from sbt.parabola import best_positions
from sbt.report import wording
from sbt.report.branching import largest_without_loss
from sbt.report.claims import OPEN, Verdict, claim
from sbt.report.seeds import decided, each_held_out, resampled
from sbt.report.tuning import rank_correlation
from sbt.report.view import EPOCH, SEED, View, where_best

Place = Mapping[str, Any]
FIRST, LAST, ALL = "first", "last", "all"
VARIABLE = "variable"
EPOCHS = (EPOCH, "measured_epoch")
MOST_TOLD = 8  # numbers in a verdict


class Unfit(Exception):
    """The results cannot decide a claim; the message says why."""


# --- numbers of the results ----------------------------------------------------------------------


def numbers(
    view: View,
    variable: str,
    place: Place,
    keep: Iterable[str] = (),
    tune: str | None = None,
    best: str = "highest",
) -> xr.DataArray:
    """A variable at a place, one number for each seed and each value of the dimensions left.

    Args:
      view: the whole grid.
      variable: of the results.
      place: see the module.
      keep: dimensions that stay, whether the place names them or not.
      tune: an axis to take the best value of; by the last epoch, where epochs stay.
      best: whether that is the ``highest`` or the ``lowest``.

    Raises:
      Unfit: what is named is not in the results, or runs have no number there.
    """
    place = dict(place)
    variable = place.pop(VARIABLE, variable)
    if variable not in view.ds:
        known = [str(name) for name in view.ds.data_vars]
        raise Unfit(f"the results hold no {shown(variable)}; {nearest(variable, known)}")
    values = view.ds[variable].astype(float)
    values = values if SEED in values.dims else values.expand_dims(SEED)
    wanted = {axis: LAST for axis in EPOCHS if axis in values.dims and axis not in keep}
    for axis, value in {**wanted, **place}.items():
        if axis in EPOCHS and axis in values.dims and value == LAST:
            values = _at_the_end(view, values, axis)
        elif axis in values.dims and (value != ALL or np.any(values[axis].values == ALL)):
            values = values.isel({axis: _index(values[axis].values, axis, value)})
        elif axis not in values.dims and not _is_there(view, axis, value):
            raise Unfit(f"the results do not vary {axis}")
    if missing := [axis for axis in keep if values.sizes.get(axis, 1) < 2]:
        raise Unfit(f"the results do not vary {', '.join(missing)}")
    if tune in values.dims:
        values = _tuned(values, str(tune), best)
    if count := int((~np.isfinite(values)).sum()):
        raise Unfit(f"{count} of {values.size} numbers are missing or not finite")
    return values.transpose(SEED, ...)


def _at_the_end(view: View, values: xr.DataArray, axis: str) -> xr.DataArray:
    """The numbers of every run at its own last epoch: the runs of a grid may differ in budget."""
    if "epochs_done" not in view.ds:
        return values.isel({axis: -1})
    finished, ends = view.ds["finished"].astype(bool), view.ds["epochs_done"]
    before = (values[axis] <= ends).sum(axis)
    return values.isel({axis: (before - 1).clip(0)}).where(finished & (before > 0)).drop_vars(axis)


def _index(values: np.ndarray, axis: str, value: Any) -> int:
    if value in (FIRST, LAST) and not np.any(values == value):
        return 0 if value == FIRST else len(values) - 1
    number = isinstance(value, int | float) and np.issubdtype(values.dtype, np.number)
    same = np.isclose(values, value, rtol=1e-5, atol=0) if number else values == value
    if not np.any(same):
        raise Unfit(f"{axis} has no {wording.label(axis, value)}")
    return int(np.flatnonzero(same)[0])


def _is_there(view: View, axis: str, value: Any) -> bool:
    """Whether an axis that was not swept has a value; an unknown one is none."""
    if axis in view.ds.coords and view.ds[axis].ndim == 0:
        return value in (FIRST, LAST, ALL) or view.ds[axis].item() == value
    known = view.setting(axis.replace("__", "."))
    return known is not None and (value in (FIRST, LAST, ALL) or known == value)


def _tuned(values: xr.DataArray, axis: str, best: str) -> xr.DataArray:
    """The numbers of each seed at the value of an axis that is best for the other seeds."""
    sign = 1 if best == "highest" else -1

    def pick(chosen: xr.DataArray, judged: xr.DataArray) -> xr.DataArray:
        ends = [d for d in EPOCHS if d in chosen.dims]
        return judged.isel({axis: where_best(sign * chosen.isel(dict.fromkeys(ends, -1)), axis)})

    return xr.concat(each_held_out(values, pick), SEED, coords="minimal", compat="override")


def _intervals(values: xr.DataArray) -> list[Interval]:
    """One for each place that is left."""
    return student(values.transpose(SEED, ...).values.reshape(values.sizes[SEED], -1))


def _exponentials(logarithms: xr.DataArray) -> list[Interval]:
    """Intervals of positive numbers, from those of their logarithms."""
    return [Interval(*np.exp(x)) for x in _intervals(logarithms)]


def _told(values: xr.DataArray, found: list[Interval]) -> str:
    """Intervals with the places that they are of."""
    rest = [str(d) for d in values.dims if d != SEED]
    names = values.isel({SEED: 0}, drop=True).stack(_=rest)["_"].values if rest else [()]
    words = []
    for name, one in zip(names, found, strict=True):
        pairs = zip(rest, name) if rest else ()
        where = ", ".join(f"{axis} {wording.label(axis, value)}" for axis, value in pairs)
        words.append(f"{where}: {one}" if where else f"{one}")
    if len(words) > MOST_TOLD:
        return "; ".join(words[: MOST_TOLD - 1]) + f"; and {len(words) - MOST_TOLD + 1} more"
    return "; ".join(words)


Outcome = tuple[bool, bool, str]  # whether it holds, whether it fails, by which numbers


def _judge(view: View, words: str, decide: Callable[[], Outcome]) -> Verdict:
    try:
        return decided(view, words, *decide())
    except Unfit as reason:
        return Verdict(words, OPEN, str(reason))


def _within(found: list[Interval], low: float, high: float = np.inf) -> tuple[bool, bool]:
    """Whether intervals all lie in a range, and whether one lies outside."""
    holds = all(low <= x.low and x.high <= high for x in found)
    return holds, any(x.high < low or x.low > high for x in found)


def _both(at: Place | None, one: Place, other: Place) -> tuple[Place, Place]:
    """Two places, and what they have in common."""
    return {**(at or {}), **one}, {**(at or {}), **other}


def _logarithm(values: xr.DataArray) -> xr.DataArray:
    if not bool((values > 0).all()):
        raise Unfit("ratios need positive numbers")
    return values.copy(data=np.log(values.values))


# --- two places ----------------------------------------------------------------------------------


@claim(axes=None)
def exceeds(
    view: View,
    words: str,
    variable: str,
    *,
    more: Place,
    less: Place,
    at: Place | None = None,
    margin: float = 0.0,
    tune: str | None = None,
    best: str = "highest",
) -> Verdict:
    """Whether a variable is greater at one place than at another, by more than a margin."""

    def decide() -> Outcome:
        a, b = (numbers(view, variable, p, (), tune, best) for p in _both(at, more, less))
        found = _intervals(gap := _difference(a, b))
        holds, fails = all(x.low > margin for x in found), any(x.high <= margin for x in found)
        return holds, fails, f"greater by {_told(gap, found)}"

    return _judge(view, words, decide)


@claim(axes=None)
def ratio_at_least(
    view: View,
    words: str,
    variable: str,
    *,
    more: Place,
    less: Place,
    factor: float = 1.0,
    at: Place | None = None,
    tune: str | None = None,
    best: str = "highest",
) -> Verdict:
    """Whether a positive variable is so many times as large at one place as at another.

    The number is the geometric mean over seeds of each seed's ratio.
    """

    def decide() -> Outcome:
        places = _both(at, more, less)
        a, b = (_logarithm(numbers(view, variable, p, (), tune, best)) for p in places)
        found = _exponentials(ratio := _difference(a, b))
        return *_within(found, factor), f"{_told(ratio, found)} times"

    return _judge(view, words, decide)


@claim(axes=None)
def nearly_equal(
    view: View,
    words: str,
    variable: str,
    *,
    one: Place,
    other: Place,
    margin: float,
    at: Place | None = None,
    tune: str | None = None,
    best: str = "highest",
) -> Verdict:
    """Whether a variable differs between two places by at most a margin, either way.

    With ``at={"epoch": "all"}`` whole curves coincide, at every epoch.
    """

    def decide() -> Outcome:
        keep = [axis for axis in EPOCHS if (at or {}).get(axis) == ALL]
        a, b = (numbers(view, variable, p, keep, tune, best) for p in _both(at, one, other))
        found = _intervals(gap := _difference(a, b))
        return *_within(
            found, -margin, margin
        ), f"differs by {_told(gap, found)} (margin {margin:g})"

    return _judge(view, words, decide)


def _difference(a: xr.DataArray, b: xr.DataArray) -> xr.DataArray:
    bare = [x.drop_vars([c for c in x.coords if c not in x.dims]) for x in (a, b)]
    if bare[0].sizes != bare[1].sizes:
        raise Unfit(f"{dict(a.sizes)} and {dict(b.sizes)} cannot be compared")
    return bare[0] - bare[1]


@claim(axes=None)
def scatters_less(
    view: View, words: str, variable: str, *, less: Place, more: Place, at: Place | None = None
) -> Verdict:
    """Whether a variable scatters less over the seeds at one place than at another.

    By the ratio of the standard deviations over seeds.
    """

    def decide() -> Outcome:
        a, b = (numbers(view, variable, p) for p in _both(at, less, more))
        if a.ndim > 1 or b.ndim > 1:
            raise Unfit(f"{', '.join(map(str, a.dims[1:] or b.dims[1:]))} is not told by any place")
        both = xr.concat([a, b], "_", coords="minimal", compat="override", join="override")

        def ratio(runs: xr.DataArray) -> float:
            small, large = runs.std(SEED, ddof=1).values
            # Of equal numbers rounding leaves a deviation.
            return float(small / large) if np.ptp(runs.isel(_=1).values) > 0 else np.nan

        if not np.ptp(b.values) > 0:
            raise Unfit("all seeds are equal where the larger scatter should be")
        found = resampled(both, ratio)
        return found.high < 1, found.low >= 1, f"ratio of the standard deviations {found}"

    return _judge(view, words, decide)


# --- along an axis -------------------------------------------------------------------------------


def _trend(
    view: View, words: str, values: Callable[[], xr.DataArray], along: str, sign: int
) -> Verdict:
    def decide() -> Outcome:
        runs = values().transpose(SEED, ..., along)
        flat = runs.values.reshape(runs.sizes[SEED], -1, runs.sizes[along])
        places = np.arange(flat.shape[-1])
        order = student([[rank_correlation(places, row) for row in rows] for rows in flat])
        change = student(flat[..., -1] - flat[..., 0])
        both = [one for pair in zip(order, change, strict=True) for one in pair]
        holds = all(sign * end > 0 for one in both for end in one)
        fails = any(max(sign * one.low, sign * one.high) <= 0 for one in both)
        told = _told(runs.isel({along: 0}, drop=True), change)
        return holds, fails, f"from first to last {told}; rank correlation {_least(order, sign)}"

    return _judge(view, words, decide)


def _least(found: list[Interval], sign: int) -> Interval:
    return min(found, key=lambda one: sign * one.value)


@claim(axes=None)
def falls(
    view: View,
    words: str,
    variable: str,
    *,
    along: str,
    at: Place | None = None,
    tune: str | None = None,
    best: str = "highest",
) -> Verdict:
    """Whether a variable falls along an axis: by rank correlation, and from first to last."""
    return _trend(
        view, words, lambda: numbers(view, variable, at or {}, (along,), tune, best), along, -1
    )


@claim(axes=None)
def rises(
    view: View,
    words: str,
    variable: str,
    *,
    along: str,
    at: Place | None = None,
    tune: str | None = None,
    best: str = "highest",
) -> Verdict:
    """Whether a variable rises along an axis: by rank correlation, and from first to last."""
    return _trend(
        view, words, lambda: numbers(view, variable, at or {}, (along,), tune, best), along, 1
    )


@claim(axes=None)
def gap_grows(
    view: View,
    words: str,
    variable: str,
    *,
    more: Place,
    less: Place,
    along: str,
    at: Place | None = None,
    tune: str | None = None,
    best: str = "highest",
) -> Verdict:
    """Whether what a variable has more at one place than at another grows along an axis."""

    def gap() -> xr.DataArray:
        places = _both(at, more, less)
        return _difference(*(numbers(view, variable, p, (along,), tune, best) for p in places))

    return _trend(view, words, gap, along, 1)


@claim(axes=None)
def slope_in(
    view: View,
    words: str,
    variable: str,
    *,
    along: str,
    low: float,
    high: float,
    between: tuple[float, float] = (-np.inf, np.inf),
    at: Place | None = None,
    tune: str | None = None,
    best: str = "highest",
) -> Verdict:
    """Whether a positive variable is a power of an axis with an exponent in a range.

    The exponent is the slope of the least squares line through the logarithms, of each seed; only
    values of the axis ``between`` two count.
    """

    def decide() -> Outcome:
        runs = _logarithm(numbers(view, variable, at or {}, (along,), tune, best))
        x = runs[along].values.astype(float)
        part = np.flatnonzero((x >= between[0]) & (x <= between[1]))
        if len(part) < 3:
            raise Unfit(f"{len(part)} values of {along} lie in the range, three are needed")
        x = np.log(x[part])
        slope = (runs.isel({along: part}) * xr.DataArray(x - x.mean(), dims=along)).sum(along)
        slope = slope / np.square(x - x.mean()).sum()
        found = _intervals(slope)
        return *_within(found, low, high), f"exponent {_told(slope, found)}"

    return _judge(view, words, decide)


@claim(axes=None)
def spans(
    view: View, words: str, variable: str, *, along: str, factor: float, at: Place | None = None
) -> Verdict:
    """Whether the largest value of a positive variable along an axis is so many times the least."""

    def decide() -> Outcome:
        runs = _logarithm(numbers(view, variable, at or {}, (along,)))
        width = runs.max(along) - runs.min(along)
        found = _exponentials(width)
        return *_within(found, factor), f"largest over least {_told(width, found)}"

    return _judge(view, words, decide)


@claim(axes=None)
def best_lies_among(
    view: View,
    words: str,
    variable: str,
    *,
    along: str,
    values: tuple[Any, ...] | str,
    best: str = "highest",
    at: Place | None = None,
    tune: str | None = None,
) -> Verdict:
    """Whether the best value of an axis is one of some; ``"inner"``: neither the first nor last.

    For each seed the other seeds choose the best of those named and the best of the rest; on it the
    one must be better than the other.
    """

    def decide() -> Outcome:
        runs = numbers(view, variable, at or {}, (along,), tune, best)
        axis, sign = list(runs[along].values), 1 if best == "highest" else -1
        named = list(range(1, len(axis) - 1)) if values == "inner" else []
        if values != "inner":
            named = [i for i, v in enumerate(axis) if v in values or str(v) in map(str, values)]
        rest = [i for i in range(len(axis)) if i not in named]
        if not named or not rest:
            raise Unfit(f"the values of {along} do not include both sides")

        def lead(chosen: xr.DataArray, judged: xr.DataArray) -> Any:
            tops = []
            for side in (named, rest):
                at_best = where_best(sign * chosen.isel({along: side}), along)
                tops.append(judged.isel({along: side}).isel({along: at_best}).drop_vars(along))
            return sign * (tops[0] - tops[1])

        gap = xr.concat(each_held_out(runs, lead), SEED, coords="minimal", compat="override")
        found = _intervals(gap)
        holds, fails = all(x.low > 0 for x in found), any(x.high <= 0 for x in found)
        top = sign * runs.mean(SEED)
        where = np.unique(runs[along].values[top.argmax(along).values])
        told = ", ".join(wording.label(along, v) for v in where)
        return holds, fails, f"best at {along} {told}; better than the rest by {_told(gap, found)}"

    return _judge(view, words, decide)


# --- a number, and a law of numbers --------------------------------------------------------------


@claim(axes=None)
def lies_in(
    view: View,
    words: str,
    variable: str,
    *,
    low: float = -np.inf,
    high: float = np.inf,
    at: Place | None = None,
    tune: str | None = None,
    best: str = "highest",
) -> Verdict:
    """Whether a variable lies in a range."""

    def decide() -> Outcome:
        found = _intervals(runs := numbers(view, variable, at or {}, (), tune, best))
        return *_within(found, low, high), _told(runs, found)

    return _judge(view, words, decide)


def _over_two(
    view: View,
    variable: str,
    at: Place | None,
    axes: tuple[str, str],
    tune: str | None,
    best: str,
) -> xr.DataArray:
    """The numbers of every seed over two axes, and over no other."""
    runs = numbers(view, variable, at or {}, axes, tune, best)
    if len(rest := {SEED, *axes} ^ set(map(str, runs.dims))):
        raise Unfit(f"{', '.join(sorted(rest))} is not told by any place")
    return runs


@claim(axes=None)
def break_exponent_in(
    view: View,
    words: str,
    variable: str,
    *,
    along: str,
    across: str,
    low: float,
    high: float,
    tolerance: float = 0.1,
    at: Place | None = None,
    tune: str | None = None,
) -> Verdict:
    """Whether the value of an axis up to which nothing is lost is a power of another axis.

    Up to there a variable that should be small is at most ``1 + tolerance`` times that of every
    smaller value of ``along``, as critical batch sizes by branching are found. The exponent is the
    slope through the logarithms over ``across``, of the mean over seeds.
    """

    def decide() -> Outcome:
        runs = _over_two(view, variable, at, (along, across), tune, "lowest")
        x = np.log(runs[across].values.astype(float))
        sizes = runs[along].values.astype(float)

        def breaks(some: xr.DataArray) -> np.ndarray:
            mean = np.log(some.mean(SEED).transpose(across, along).values)
            return sizes[largest_without_loss(mean, np.log1p(tolerance))]

        def slope(some: xr.DataArray) -> float:
            return float(np.polyfit(x, np.log(breaks(some)), 1)[0])

        found, at_break = resampled(runs, slope), breaks(runs)
        if (at_break == sizes[-1]).any() or (at_break == sizes[0]).any():
            raise Unfit(f"some break lies at the end of {along}: {_list(at_break)}")
        told = f"breaks at {_list(at_break)} for {across} {_list(np.exp(x))}: exponent {found}"
        return *_within([found], low, high), told

    return _judge(view, words, decide)


@claim(axes=None)
def best_exponent_in(
    view: View,
    words: str,
    variable: str,
    *,
    along: str,
    across: str,
    low: float,
    high: float,
    best: str = "highest",
    at: Place | None = None,
    tune: str | None = None,
) -> Verdict:
    """Whether the value of an axis that is best for a positive variable is a power of another axis.

    The best lies where a parabola through the best value and its neighbours does, of the mean over
    seeds, both axes in logarithms. The exponent is the slope through the logarithms over
    ``across``.
    """

    def decide() -> Outcome:
        runs = _over_two(view, variable, at, (along, across), tune, best)
        x, y = (np.log(runs[axis].values.astype(float)) for axis in (across, along))
        sign = 1 if best == "highest" else -1

        def tops(some: xr.DataArray) -> np.ndarray:
            mean = _logarithm(some.mean(SEED)).transpose(across, along).values
            return best_positions(y, sign * mean)

        def slope(some: xr.DataArray) -> float:
            return float(np.polyfit(x, tops(some), 1)[0])

        tops_of_all = tops(runs)
        if np.isnan(tops_of_all).any():
            raise Unfit(f"the best lies at an end of {along} for some {across}")
        found = resampled(runs, slope)
        told = f"best at {_list(np.exp(tops_of_all))} for {across} {_list(np.exp(x))}"
        return *_within([found], low, high), f"{told}: exponent {found}"

    return _judge(view, words, decide)


def _list(values: Iterable[float]) -> str:
    return ", ".join(f"{v:g}" for v in values)
