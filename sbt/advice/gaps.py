"""What a grid cannot say, and the values of its axes that would."""

from collections.abc import Iterable, Sequence

import numpy as np

from sbt.advice import words
from sbt.advice.critical import NONE, PERFECT, Critical, local_slopes, region
from sbt.advice.optimum import Optima
from sbt.advice.speeds import Speeds
from sbt.advice.targets import Reached, left_out
from sbt.report.tuning import is_decay, octaves
from sbt.report.view import BASE_LR, BATCH_SIZE, SEED, View

ENOUGH_SEEDS = 5
VAGUE = 0.5  # octaves on either side, from which on an optimum is sought on a finer grid


def beyond(axis: str, values: Sequence[float], ends: Iterable[float]) -> list[float]:
    """One more value beyond ends of an axis, as far off as the last two are apart in octaves.

    Nothing lies below 0, and where all values are within [0, 1] nothing above 1.

    >>> beyond("base_lr", [0.5, 1.0, 4.0], [4.0])
    [16.0]
    >>> [round(v, 5) for v in beyond("rule__b2", [0.9, 0.99, 0.999], [0.999])]
    [0.9999]
    """
    x = octaves(axis, values)
    found = []
    for end in ends:
        at, inner = (0, 1) if end == values[0] else (-1, -2)
        new = 2 * x[at] - x[inner]
        if np.isfinite(new):
            value = _value(axis, values, new)
            if is_decay(axis, np.asarray(values)) or not values[-1] <= 1 < value or axis == BASE_LR:
                found.append(value)
    return found


def between(axis: str, values: Sequence[float], cells: Iterable[float]) -> list[float]:
    """The middles, in octaves, on either side of cells, where neighbours are far enough apart.

    >>> between("base_lr", [0.25, 1.0, 4.0, 16.0], [0.0])  # beside 2^0
    [0.5, 2.0]
    """
    x = octaves(axis, values)
    order = np.sort(x[np.isfinite(x)])
    found = set()
    for cell in cells:
        i = int(np.argmin(np.abs(order - cell)))
        for low, high in zip(order[max(i - 1, 0) : i + 1], order[max(i - 1, 0) + 1 : i + 2]):
            if high - low > VAGUE + 1e-9:
                found.add(_value(axis, values, (low + high) / 2))
    return sorted(found)


def _apart(axis: str, values: Sequence[float]) -> str:
    """How many times neighbours on an axis differ, at most."""
    x = np.sort(octaves(axis, values))
    return f"{2 ** float(np.diff(x[np.isfinite(x)]).max()):.2g}"


def _value(axis: str, values: Sequence[float], position: float) -> float:
    """The inverse of :func:`sbt.report.tuning.octaves`, whole where all of the axis are."""
    value = float(2.0 ** round(position, 9))  # 2, not 2.0000000000000004
    if is_decay(axis, np.asarray(values)):
        return float(0.5 ** (1 / value))
    return round(value) if all(isinstance(v, int) for v in values) else value


def _slopes(found: Reached) -> np.ndarray:
    """Between batch sizes whose updates are numbers, not bounds."""
    return local_slopes(found.sizes, np.where(found.resolved, found.updates, np.nan))


def gaps(
    view: View,
    found: Reached,
    curve: Critical | None,
    axes: Sequence[Optima],
    speeds: Speeds,
) -> tuple[list[str], dict[str, tuple[float, ...]]]:
    """What the grid cannot say, and the values of its axes that would."""
    told: list[str] = []
    wanted: dict[str, tuple[float, ...]] = {}
    sizes, seeds = found.sizes, found.seeds
    if seeds < 2:
        told.append("One seed: nothing says how much of a difference is chance.")
    elif seeds < ENOUGH_SEEDS:
        told.append(f"{seeds} seeds: intervals carry Student's factor and are wide.")
    if seeds < ENOUGH_SEEDS and (SEED in view.ds.coords or seeds < 2):
        known = [0]
        if SEED in view.ds.coords:
            known = [int(s) for s in np.ravel(view.ds[SEED].values)]
        others = [s for s in range(max(known) + 1 + ENOUGH_SEEDS) if s not in known]
        wanted[SEED] = tuple([*known, *others[: ENOUGH_SEEDS - len(known)]])
    if left := int(left_out(view).sum()):
        begun = int((left_out(view) & (view.ds["epochs_done"] > 0)).sum())
        gap = f"{view.setting('search.name')} stopped {begun} runs and never began {left - begun}"
        if found.open.any():
            named, count = words.listed(sizes[found.open.any(-1)]), int(found.open.sum())
            gap += (
                f", among them {count} cells (at m = {named}) that could still be the fastest: "
                "examples are at most those told, and the best base LR is the best of what was "
                "trained"
            )
        told.append(f"{gap}.")
    for axis in sorted({axis for flags in found.at_end for axis in flags}):
        at = [i for i, flags in enumerate(found.at_end) if axis in flags]
        named = words.listed(sizes[at])
        told.append(f"The best {axis} stands at the grid's end at m = {named}: a bound.")
        values = sorted({cell[axis] for cell in found.cells})
        chosen = {found.cells[found.best[i]][axis] for i in at}
        if more := beyond(axis, values, {values[0], values[-1]} & chosen):
            wanted[axis] = (*values, *more)
    for one in axes:
        vague = [
            i
            for i, place in enumerate(one.positions)
            if place.high - place.low > 2 * VAGUE or (found.resolved[i] and one.beside_failure[i])
        ]
        values = sorted({cell[one.axis] for cell in found.cells})
        if more := between(one.axis, values, [one.at[i].cell for i in vague]):
            told.append(
                f"The best {one.axis} lies inside the grid, but may be anywhere up to its "
                f"neighbours, which are {_apart(one.axis, values)} times away, at m = "
                f"{words.listed(sizes[vague])}."
            )
            wanted[one.axis] = (*wanted.get(one.axis, values), *more)
    wanted |= {axis: tuple(sorted(wanted[axis])) for axis in wanted if axis != SEED}
    if not any(BASE_LR in cell for cell in found.cells) or BASE_LR not in view.varying:
        told.append("Base learning rates were not swept: each m may need another one.")
    slopes = _slopes(found)
    marks = [region(s) for s in slopes]
    smaller: list[int] = []
    larger: list[int] = []
    if PERFECT not in marks:
        told.append(f"No perfect scaling seen: m = {sizes[0]:g} may already waste examples.")
        half = int(sizes[0]) // 2
        smaller = [half] if half and 2 * half == int(sizes[0]) else []
    if NONE not in marks and np.isfinite(found.fewest[-1]):
        told.append(f"Updates still fall at m = {sizes[-1]:g}: how far m can grow is not seen.")
        larger = [2 * int(sizes[-1])]
    data = int(view.ds.attrs.get("train_examples", 0))
    larger = [m for m in larger if not data or m <= data]
    if smaller or larger:
        wanted[BATCH_SIZE] = tuple([*smaller, *map(int, sizes), *larger])
    if found.bounded.any():
        named = words.listed(sizes[found.bounded])
        told.append(f"m = {named}: reached by the first evaluation, so that examples are a bound.")
    schedule = view.setting("schedule.name", "constant")
    if schedule != "constant":
        told.append(
            f"The learning rate follows the budget ({schedule}): a run that is to end at the "
            "target would drop its rate earlier, and could reach it sooner."
        )
    if not speeds.known:
        lanes = "" if np.isfinite(speeds.lanes).any() else ", nor was that of lanes kept"
        told.append(f"The time of a run by itself was not measured{lanes}.")
    if curve is None:
        told.append(
            "Fewer than three batch sizes reach it after an evaluation: no critical batch size."
        )
    return told, wanted
