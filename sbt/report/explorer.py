"""The part of a page that one explores: the runs of a grid, compactly, for ``explorer.js``.

The views are a few hundred lines of plain JavaScript and not Vega's: they add 45 kB to a page
instead of 0.9 MB and no dependency, a cell is a button that a keyboard and a screen reader reach,
and ten thousand runs stay fluid because only what is looked at is drawn.
"""

import base64
import json
from collections.abc import Iterator
from importlib import resources
from typing import Any

import numpy as np
import xarray as xr

from sbt.measure.record import MARK, TIMES
from sbt.report import scales, wording
from sbt.report.figures import plane
from sbt.report.markup import Markup
from sbt.report.scales import Ordinate
from sbt.report.view import EPOCH, SEED, View
from sbt.results import LOSS, TEST, TRAIN, VALIDATION, VALIDATION_SCORE, curve

MOST_VALUES = 1_000_000  # of all curves together: 2.7 MB of text
MOST_POINTS, LEAST_POINTS = 200, 8  # of a curve: what a panel can show, and what a shape needs
MOST_METRICS = 24
# Codes of numbers: 16 bits between the least and the largest finite value, then these.
TOP, WORSE, INFINITE, MISSING = 65_532, 65_533, 65_534, 65_535
WIDE = 20  # codes are spaced logarithmically from this ratio on


def script() -> Markup:
    """The script that draws the views; it holds nothing of a grid."""
    source = (resources.files("sbt.report") / "explorer.js").read_text(encoding="utf-8")
    return Markup(f"<script>\n{source}</script>")


def embedded(view: View) -> Markup:
    """The data of a grid as an element of a page; empty where no run has begun.

    Names and settings may hold any text: what could end the element is escaped.
    """
    if not (known := data(view)):
        return Markup()
    text = json.dumps(known, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Markup(f'<script type="application/json" id="data">{text}</script>')


def data(view: View) -> dict[str, Any]:
    """What the script is given.

    Runs are numbered in the order of the varying axes, the seed last; those that have not begun
    are left out.
    """
    ds = view.ds.isel({axis: 0 for axis in view.axes if axis not in view.varying}, drop=True)
    if SEED not in ds[view.score.name].dims:
        ds = ds.expand_dims(SEED) if SEED in ds.coords else ds.expand_dims({SEED: [0]})
    order = (*view.varying, SEED)
    found = [_metric(view, ds, name) for name in _curves(view, ds, order)]
    metrics = [metric for metric in found if metric]
    begun = ds[view.score.name].notnull().transpose(*order)
    for _, values in metrics:
        begun |= values.notnull().any([values.dims[-1]]).transpose(*order)
    rows = np.flatnonzero(begun.values)
    if not rows.size:
        return {}
    most = MOST_VALUES // (rows.size * max(len(metrics), 1))
    points = min(max(most, LEAST_POINTS), MOST_POINTS)
    # A seed of a part of a grid is a coordinate without a dimension.
    seeds = [f"{seed}" for seed in np.ravel(ds[SEED].values).tolist()]
    return {
        "axes": [_axis(view, axis) for axis in view.varying],
        "plane": [view.varying.index(axis) for axis in plane(view)],
        "seeds": seeds,
        "score": _score(view),
        "best": _best(view),
        "runs": None if rows.size == begun.size else rows.tolist(),
        "columns": [_column(*one, order, rows) for one in _columns(view, ds)],
        "curves": [_sampled(about, values, order, rows, points) for about, values in metrics],
    }


def _score(view: View) -> dict[str, Any]:
    score, cells = view.score, view.cells
    ends = Ordinate.of(score, (cells[name].values for name in ("median", "low", "high")))
    return {
        "name": score.long_name,
        "higher": score.higher_is_better,
        "validated": view.validated,
        "guess": float(score.guess) if np.isfinite(score.guess) else None,
        "worst": float(ends.worst),
        "best": float(ends.best),
    }


def _axis(view: View, axis: str) -> dict[str, Any]:
    values = view.ds[axis].values
    scale = scales.scale_of(axis, values)
    return {
        "name": wording.plain(axis),
        "symbol": wording.PLAIN_SYMBOLS.get(axis, axis.rpartition("__")[2].replace("_", " ")),
        "labels": [wording.label(axis, value) for value in values.tolist()],
        "places": scales.positions(axis, values).tolist(),
        "scale": scale,
        "ordered": view.is_numeric(axis),
    }


def _best(view: View) -> int | None:
    best = view.best_so_far
    if best is None:
        return None
    shape = [view.ds.sizes[axis] for axis in view.varying]
    at = [view.ds[axis].values.tolist().index(best.where[axis]) for axis in view.varying]
    return int(np.ravel_multi_index(at, shape)) if shape else 0


def _columns(view: View, ds: xr.Dataset) -> Iterator[tuple[dict[str, Any], xr.DataArray]]:
    """What is told of every run by itself, the score first."""
    score = view.score
    about = {
        "percent": score.percent,
        "units": score.units,
        "better": 1 if score.higher_is_better else -1,
    }
    yield {"label": f"test {score.long_name}", **about}, ds[score.name]
    if view.validated:
        yield {"label": f"validation {score.long_name}", **about}, ds[VALIDATION_SCORE]
    yield {"label": "diverged", "flag": True}, ds["diverged"].fillna(0).astype(float)
    if "epochs_done" in ds:
        yield {"label": "epochs trained", "whole": True}, ds["epochs_done"].astype(float)


def _curves(view: View, ds: xr.Dataset, order: tuple[str, ...]) -> list[str]:
    """Names of the variables over the epochs of every run, those that are told first."""
    of = view.score.name
    first = [curve(split, of) for split in (TEST, VALIDATION, TRAIN)]
    first += [curve(split, LOSS) for split in (TEST, VALIDATION, TRAIN)]
    names = [n for n, v in ds.data_vars.items() if v.dtype.kind in "biuf" and _over(v, order)]
    known = [name for name in dict.fromkeys(first) if name in names]
    return [*known, *(str(n) for n in names if n not in known)][:MOST_METRICS]


def _over(values: xr.DataArray, order: tuple[str, ...]) -> str | None:
    """The time along which a variable has one number for each run."""
    times = TIMES if MARK in values.attrs else (EPOCH,)
    rest = [str(dim) for dim in values.dims if dim not in order]
    return rest[0] if len(rest) == 1 and rest[0] in times and values.ndim > len(order) else None


def _metric(view: View, ds: xr.Dataset, name: str) -> tuple[dict[str, Any], xr.DataArray] | None:
    """A curve at the times at which it was evaluated, with its words."""
    values = ds[name].astype(float)
    time = _over(values, (*view.varying, SEED))
    kept = np.flatnonzero(values.notnull().any([d for d in values.dims if d != time]).values)
    if not kept.size:
        return None
    of_score = name.partition("_")[2] == view.score.name
    better = (1 if view.score.higher_is_better else -1) if of_score else -name.endswith(f"_{LOSS}")
    words = str(values.attrs.get("long_name", name)).replace("_", " ").partition(",")[0]
    about = {
        "label": words,
        "percent": bool(view.score.percent and of_score),
        "units": str(values.attrs.get("units", "")),
        "better": int(better),
    }
    return about, values.isel({time: kept}).transpose(..., time)


def _column(
    about: dict[str, Any], values: xr.DataArray, order: tuple[str, ...], rows: np.ndarray
) -> dict[str, Any]:
    return {**about, **coded(values.transpose(*order).values.reshape(-1)[rows])}


def _sampled(
    about: dict[str, Any],
    values: xr.DataArray,
    order: tuple[str, ...],
    rows: np.ndarray,
    points: int,
) -> dict[str, Any]:
    time = str(values.dims[-1])
    at = thinned(values.sizes[time], points)
    flat = values.transpose(*order, time).values.reshape(-1, values.sizes[time])[rows]
    about = {**about, "time": wording.plain(time)}
    return {**about, "at": values[time].values[at].tolist(), **coded(flat[:, at])}


def thinned(count: int, most: int) -> np.ndarray:
    """Positions of at most so many of some points, the first and last among them.

    Half of them are spaced evenly and half by ratios, for axes of either kind.

    >>> thinned(4, 8), thinned(1000, 8)
    (array([0, 1, 2, 3]), array([  0,   9,  99, 333, 666, 999]))
    """
    if count <= most:
        return np.arange(count)
    even = np.linspace(1, count, most // 2)
    return (
        np.unique(np.concatenate([even, np.geomspace(1, count, most - most // 2)]).astype(int)) - 1
    )


def coded(values: np.ndarray) -> dict[str, Any]:
    """Numbers as 16 bits each, in base64; infinite and missing ones have codes of their own.

    Spaced evenly between the ends, or evenly in the logarithm where positive values span a wide
    range: fine enough for a screen. ``tables`` have the numbers in full.
    """
    finite = np.isfinite(values)
    some = values[finite] if finite.any() else np.zeros(1)
    low, high = float(some.min()), float(some.max())
    log = bool(low > 0 and high > WIDE * low)
    a, b = (np.log(low), np.log(high)) if log else (low, high)
    codes = np.full(values.shape, MISSING, "<u2")
    inside = np.log(some) if log else some
    if finite.any():
        codes[finite] = np.rint((inside / 2 - a / 2) / ((b / 2 - a / 2) or 1) * TOP).astype("<u2")
    codes[values == np.inf], codes[values == -np.inf] = INFINITE, WORSE
    text = base64.b64encode(codes.tobytes()).decode()
    return {"low": low, "high": high, "log": log, "codes": text}
