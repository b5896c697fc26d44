"""Accuracy of one grid along its axes, and along the BN batch.

The pair of ``sweep_figure`` is the layout of Masters & Luschi (2018), Figs 1-3 and 5-11: accuracy
against the batch size with one curve per base LR, beside accuracy against the base LR with one
curve per batch size. Learning curves are in ``sbt.report.learning``, figures that compare grids in
``sbt.report.comparisons``.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from sbt.errors import UserError
from sbt.report import dataset, scales, style, summary
from sbt.report.dataset import BASE_LR, BATCH_SIZE, BN_BATCH
from sbt.report.style import Drawing

HOLLOW = "Hollow marker: at least one seed diverged (counted at chance)."


@style.styled
def accuracy_vs(
    ds: xr.Dataset, x: str, curves: str | None = None, title: str = "", name: str = ""
) -> Drawing:
    """Accuracy against one axis, one curve per value of another.

    Args:
      ds: results of a grid; its varying axes must be ``x`` and ``curves`` (select first otherwise).
      x: the axis along the abscissa.
      curves: the axis whose values get a curve each; None for a single curve.
      title: a heading, for instance the values at which other axes were fixed.
      name: file stem, ``accuracy_vs_<x>`` by default.

    Raises:
      UserError: an axis is missing, or another axis still varies.
    """
    ds = _checked(ds, x, curves)
    figure, (panel,) = style.new_figure(style.SINGLE)
    _sweep_panel(panel, ds, x, curves)
    if title:
        panel.set_title(style.literal(title, style.TITLE))
    note = _note(ds)
    style.footnote(figure, note)
    words = f"{title}. " if title else ""
    words += f"Test accuracy against {scales.plain(x)}"
    words += f", one curve per {scales.plain(curves)}" if curves else ""
    return Drawing(name or f"accuracy_vs_{x}", figure, f"{words}. {note}")


def accuracy_vs_batch_size(ds: xr.Dataset) -> Drawing:
    """Accuracy against the batch size, one curve per base LR (both log₂)."""
    return accuracy_vs(ds, BATCH_SIZE, BASE_LR if BASE_LR in dataset.axes(ds) else None)


def accuracy_vs_base_lr(ds: xr.Dataset) -> Drawing:
    """Accuracy against the base LR, one curve per batch size (both log₂)."""
    return accuracy_vs(ds, BASE_LR, BATCH_SIZE if BATCH_SIZE in dataset.axes(ds) else None)


@style.styled
def sweep_figure(
    ds: xr.Dataset,
    axes: tuple[str, str] = (BATCH_SIZE, BASE_LR),
    title: str = "",
    name: str = "sweep",
) -> Drawing:
    """Both views of a two-axis grid side by side; the best cell carries a ring in each.

    Args:
      ds: results of a grid whose varying axes are at most the two of ``axes``.
      axes: the two axes; the first is the abscissa on the left.
      title: a heading, for instance the values at which other axes were fixed.
      name: file stem.
    """
    first, second = axes
    ds = _checked(ds, first, second)
    figure, panels = style.new_figure(style.WIDE, columns=2)
    _sweep_panel(panels[0], ds, first, second, ticks=9)
    _sweep_panel(panels[1], ds, second, first, ticks=9)
    panels[1].sharey(panels[0])
    for letter, panel in zip("ab", panels):
        panel.set_title(letter, loc="left", fontweight="bold")
    if title:
        figure.suptitle(style.literal(title, style.HEADING), fontsize=9.5)
    note = _note(ds)
    style.footnote(figure, note)
    best = summary.best_cell(ds)
    left, right = scales.plain(first), scales.plain(second)
    caption = (
        f"Test accuracy (a) against {left}, one curve per {right}, and "
        f"(b) against {right}, one curve per {left}. {note}"
    )
    if best:
        at = ", ".join(f"{scales.plain(a)} {scales.label(a, best[a])}" for a in axes)
        caption += f" Ring: best cell, {100 * best['accuracy']:.1f} % at {at}."
    return Drawing(name, figure, f"{title}. {caption}" if title else caption)


@style.styled
def bn_batch_figure(ds: xr.Dataset, title: str = "", name: str = "bn_batch") -> Drawing:
    """Accuracy against the BN batch, one curve per SGD batch (Masters & Luschi, Fig. 13).

    Where base LRs were swept too, every point is the best base LR of its pair of batches.
    """
    swept = BASE_LR in dataset.varying(ds)
    ds = _checked(ds, BN_BATCH, BATCH_SIZE, also=(BASE_LR,))
    figure, (panel,) = style.new_figure(style.SINGLE)
    _sweep_panel(panel, ds, BN_BATCH, BATCH_SIZE, best_lr=True)
    if title:
        panel.set_title(style.literal(title, style.TITLE))
    note = _note(ds)
    style.footnote(figure, note)
    words = f"{title}. " if title else ""
    words += "Test accuracy against the number of examples that share batch statistics, one curve "
    words += "per SGD batch size"
    words += ", each point at its best base learning rate" if swept else ""
    return Drawing(name, figure, f"{words}. {note}")


def _note(ds: xr.Dataset) -> str:
    note = summary.spread_words(ds)
    return f"{note} {HOLLOW}" if bool(ds["diverged"].any()) else note


def _checked(ds: xr.Dataset, x: str, curves: str | None, also: Sequence[str] = ()) -> xr.Dataset:
    """The dataset with exactly the wanted axes left, ascending; complains about any other."""
    for axis in (x, curves):
        if axis is not None and axis not in dataset.axes(ds):
            have = ", ".join(dataset.axes(ds)) or "none"
            raise UserError(axis, "is not an axis of this grid", f"axes that were swept: {have}")
    for axis in dataset.axes(ds):
        if axis in (x, curves, *also):
            continue
        if ds.sizes[axis] > 1:
            remedy = f"select one value first: ds.sel({axis}=...)"
            raise UserError(axis, f"has {ds.sizes[axis]} values; a figure shows two axes", remedy)
        ds = ds.isel({axis: 0})
    return dataset.prepared(ds)


def _sweep_panel(
    panel: Axes,
    ds: xr.Dataset,
    x: str,
    curves: str | None,
    *,
    best_lr: bool = False,
    ticks: int = 13,
) -> None:
    cell = summary.cells(ds)
    if best_lr and BASE_LR in cell.dims:
        at = cell["median"].fillna(-np.inf).argmax(BASE_LR)
        cell = cell.isel({BASE_LR: at}).drop_vars(BASE_LR)
    places = scales.positions(x, ds[x].values)
    values = ds[curves].values if curves else np.array([np.nan])
    ordered = curves is not None and np.issubdtype(values.dtype, np.number)
    for i, look in enumerate(style.looks(values.size, ordered)):
        row = cell.isel({curves: i}) if curves else cell
        text = scales.label(curves, values[i].item(), math=True) if curves else None
        style.banded(panel, places, row, look, text)
        hollow = (row["diverged"] > 0).values & row["median"].notnull().values
        panel.plot(
            places[hollow],
            row["median"].values[hollow],
            linestyle="none",
            marker=look["marker"],
            color=look["color"],
            markerfacecolor="white",
            zorder=3,
        )
    best = summary.best_cell(ds)
    if best:
        where = places[int(np.flatnonzero(ds[x].values == best[x])[0])]
        panel.plot(
            where, best["accuracy"], marker="o", markersize=10, mfc="none", mec=style.INK, zorder=4
        )
    style.accuracy_axis(panel, ds.attrs.get("chance"))
    scales.set_scale(panel.xaxis, panel, x, ds[x].values, ticks)
    if curves:
        style.legend(panel, scales.SYMBOLS.get(curves, scales.title(curves)))
