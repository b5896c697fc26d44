"""Plain figures of measured variables: against the batch size or a dimension of theirs, in time."""

import textwrap

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from sbt.measure.record import MARK, TIMES
from sbt.report import scales, style, wording
from sbt.report.seeds import best_at
from sbt.report.style import Drawing
from sbt.report.view import BATCH_SIZE, SEED, View, spread, spread_words

# Bounds, spreads and abscissas of other variables have no figures of their own.
COMPANIONS = ("_error", "_residual", "_std", "_excluded", "_at")
MOST_CURVES, MOST_FIGURES = 12, 16


def measured_variables(view: View) -> list[str]:
    """Names of the measured variables that have a figure."""
    return [
        str(name)
        for name, variable in view.ds.data_vars.items()
        if MARK in variable.attrs
        and variable.dtype.kind in "biuf"
        and set(view.axes) <= set(variable.dims)
        and set(TIMES) & set(variable.dims)
        and not str(name).endswith(COMPANIONS)
        and bool(np.isfinite(variable).any())
    ]


def measured_figures(view: View) -> list[Drawing]:
    """A figure for each of the first measured variables, in the order of the file.

    Axes other than the batch size are fixed at the best cell, or at their first value. An axis of
    names is compared: each of its values at its own best cell.
    """
    others = [axis for axis in view.axes if axis != BATCH_SIZE]
    compared = _compared(view)
    if compared is None:
        fixed = view.at_best(*others)
        where = wording.place({axis: v for axis, v in fixed.items() if axis in view.varying})
        part = view.ds.sel(fixed)
    else:
        rows = []
        for value in view.ds[compared].values.tolist():
            cell = (
                view.at_best(*others) | {compared: value} | (best_at(view, compared, value) or {})
            )
            rows.append(view.ds.sel({axis: cell[axis] for axis in others}))
        part = xr.concat(rows, compared, coords="different", compat="equals", join="outer")
        tuned = [axis for axis in others if axis in view.varying and axis != compared]
        where = f"the best {' and '.join(map(wording.plain, tuned))} of each" if tuned else ""
    names = measured_variables(view)[:MOST_FIGURES]
    return [_figure(part[name], where, compared) for name in names]


def _compared(view: View) -> str | None:
    """The axis of names, if there is one whose values make curves enough."""
    named = (axis for axis in view.varying if axis != BATCH_SIZE and not view.is_numeric(axis))
    return next((axis for axis in named if view.ds.sizes[axis] <= MOST_CURVES), None)


@style.styled
def _figure(values: xr.DataArray, where: str, compared: str | None) -> Drawing:
    time = next(dim for dim in values.dims if dim in TIMES)
    # Times at which this variable was measured at all; a value that overflowed has no place.
    values = values.where(np.isfinite(values)).dropna(time, how="all")
    across = _abscissa(values, str(time), compared)
    panels = [dim for dim in (across, str(time)) if dim and values.sizes[dim] > 1]
    panels = panels or [str(time)]
    figure, drawn = style.new_figure(style.WIDE if len(panels) > 1 else style.SINGLE, len(panels))
    for panel, dim in zip(drawn, panels):
        _panel(panel, values, dim, str(time), compared)
    words = str(values.attrs.get("long_name", values.name)).replace("_", " ")
    units = values.attrs.get("units")
    label = wording.literal(f"{words} [{units}]" if units else words, wording.HEADING)
    drawn[0].set_ylabel(textwrap.fill(label, wording.TITLE))
    note = spread_words(values.sizes.get(SEED, 1))
    style.footnote(figure, note)
    caption = f"{values.name}: {words}" + (f", at {where}" if where else "")
    return Drawing(f"measured_{values.name}", figure, f"{caption}. {note}")


def _abscissa(values: xr.DataArray, time: str, compared: str | None) -> str | None:
    """The variable's own numeric dimension, else the batch size, else any of its own."""
    own = [str(d) for d in values.dims if d not in (time, SEED, BATCH_SIZE, compared)]
    numeric = [d for d in own if np.issubdtype(values[d].dtype, np.number) and values.sizes[d] > 2]
    batches = [BATCH_SIZE] if values.sizes.get(BATCH_SIZE, 1) > 1 else []
    longest = sorted(own, key=lambda dim: -values.sizes[dim])
    return next(iter([*numeric, *batches, *longest]), None)


def _panel(panel: Axes, values: xr.DataArray, x: str, time: str, compared: str | None) -> None:
    """Curves against one dimension: one each for what is compared, or what else matters most."""
    order = (time, BATCH_SIZE) if x not in (time, BATCH_SIZE) else (BATCH_SIZE,)
    own = [str(d) for d in values.dims if d not in (time, SEED, BATCH_SIZE, x)]
    preferred = [*reversed(order), *own] if x == time else [*own, *reversed(order)]
    preferred = [*([compared] if compared else []), *preferred]
    curves = next((d for d in preferred if d != x and values.sizes.get(d, 1) > 1), None)
    rest = {d: -1 if d == time else 0 for d in values.dims if d not in (x, curves, SEED)}
    fixed = {str(d): values[d].values[i] for d, i in rest.items() if values.sizes[d] > 1}
    shown = ", ".join(f"{wording.title(d)} {wording.literal(v)}" for d, v in fixed.items())
    values = values.isel(rest)
    if shown:
        panel.set_title(shown, fontsize=8)
    names = values[curves].values[:MOST_CURVES] if curves else np.array([np.nan])
    ordered = curves is not None and np.issubdtype(names.dtype, np.number)
    places = scales.positions(x, values[x].values)
    for i, look in enumerate(style.looks(names.size, ordered)):
        row = spread(values.isel({curves: i}) if curves else values)
        text = wording.label(str(curves), names.tolist()[i], math=True) if curves else None
        style.banded(panel, places, row, look, text)
    scales.set_scale(panel.xaxis, panel, x, values[x].values)
    scales.log_if_wide(panel, values.values, scales.WIDE)
    if curves:
        style.legend(panel, wording.title(str(curves)))
