"""Plain figures of measured variables: against the batch size or a dimension of theirs, in time."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from sbt.measure.record import MARK, TIMES
from sbt.report import scales, style, wording
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

    Axes other than the batch size are fixed at the best cell, or at their first value.
    """
    fixed = view.at_best(*(axis for axis in view.axes if axis != BATCH_SIZE))
    at = {axis: value for axis, value in fixed.items() if axis in view.varying}
    part = view.ds.sel(fixed)
    return [_figure(part[name], at) for name in measured_variables(view)[:MOST_FIGURES]]


@style.styled
def _figure(values: xr.DataArray, at: dict[str, Any]) -> Drawing:
    time = next(dim for dim in values.dims if dim in TIMES)
    # Times at which this variable was measured at all; a value that overflowed has no place.
    values = values.where(np.isfinite(values)).dropna(time, how="all")
    across = _abscissa(values, str(time))
    panels = [dim for dim in (across, str(time)) if dim and values.sizes[dim] > 1]
    panels = panels or [str(time)]
    figure, drawn = style.new_figure(style.WIDE if len(panels) > 1 else style.SINGLE, len(panels))
    for panel, dim in zip(drawn, panels):
        _panel(panel, values, dim, str(time))
    words = str(values.attrs.get("long_name", values.name)).replace("_", " ")
    units = values.attrs.get("units")
    drawn[0].set_ylabel(wording.literal(f"{words} [{units}]" if units else words, wording.TITLE))
    where = ", ".join(f"{wording.plain(a)} {wording.label(a, v)}" for a, v in at.items())
    note = spread_words(values.sizes.get(SEED, 1))
    style.footnote(figure, note)
    caption = f"{values.name}: {words}" + (f", at {where}" if where else "")
    return Drawing(f"measured_{values.name}", figure, f"{caption}. {note}")


def _abscissa(values: xr.DataArray, time: str) -> str | None:
    """The variable's own numeric dimension, else the batch size, else any of its own."""
    own = [str(d) for d in values.dims if d not in (time, SEED, BATCH_SIZE)]
    numeric = [d for d in own if np.issubdtype(values[d].dtype, np.number) and values.sizes[d] > 2]
    batches = [BATCH_SIZE] if values.sizes.get(BATCH_SIZE, 1) > 1 else []
    longest = sorted(own, key=lambda dim: -values.sizes[dim])
    return next(iter([*numeric, *batches, *longest]), None)


def _panel(panel: Axes, values: xr.DataArray, x: str, time: str) -> None:
    """Curves against one dimension: one each for the longest other one that matters."""
    order = (time, BATCH_SIZE) if x not in (time, BATCH_SIZE) else (BATCH_SIZE,)
    own = [str(d) for d in values.dims if d not in (time, SEED, BATCH_SIZE, x)]
    preferred = [*reversed(order), *own] if x == time else [*own, *reversed(order)]
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
