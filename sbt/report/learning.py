"""Learning curves: accuracy and loss after every epoch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from sbt.errors import UserError
from sbt.report import dataset, scales, style, summary
from sbt.report.dataset import BASE_LR, BATCH_SIZE, EPOCH
from sbt.report.style import Drawing


@style.styled
def learning_curves(
    ds: xr.Dataset,
    base_lr: float | None = None,
    curves: str | None = None,
    title: str = "",
    name: str = "learning_curves",
) -> Drawing:
    """Test accuracy and training loss after every epoch (Masters & Luschi, Fig. 4).

    Args:
      ds: results of a grid.
      base_lr: the base LR to show, one of the grid's; by default the one with the highest accuracy
        averaged over the other axes, so that most batch sizes train.
      curves: the axis whose values get a curve each: by default the batch size, else the first
        axis that varies. Other axes are fixed at the best cell.
      title: a heading.
      name: file stem.

    Raises:
      UserError: the grid has no such base LR.
    """
    ds, curves, fixed = _selected(dataset.prepared(ds), base_lr, curves)
    figure, panels = style.new_figure(style.WIDE, columns=2)
    values = ds[curves].values if curves else np.array([np.nan])
    few = values.size <= 3
    both = ["test_accuracy", "train_accuracy"], ["test_loss", "train_loss"]
    for panel, variables in zip(panels, both if few else (["test_accuracy"], ["train_loss"])):
        _curve_panel(panel, ds, curves, variables)
    style.accuracy_axis(panels[0], ds.attrs.get("chance"), "accuracy" if few else "test accuracy")
    panels[1].set_ylabel("loss [nats]" if few else "training loss [nats]")
    losses = np.concatenate([line.get_ydata() for line in panels[1].lines])
    finite = losses[np.isfinite(losses)]
    if finite.size and finite.min() > 0 and finite.max() / finite.min() > 10:
        panels[1].set_yscale("log")
    if curves or few:
        style.legend(panels[1], scales.title(curves) if curves else "")
    at = ", ".join(f"{scales.plain(a)} {scales.label(a, v)}" for a, v in fixed.items())
    shown = [f"{scales.title(a)} = {scales.label(a, v, math=True)}" for a, v in fixed.items()]
    words = style.literal(title, style.HEADING) if title else ""
    heading = "; ".join(part for part in (words, ", ".join(shown)) if part)
    if heading:
        figure.suptitle(heading, fontsize=9.5)
    note = summary.spread_words(ds)
    if few:
        note += " Training curves (faint) are running means over the epoch."
    if bool(ds["diverged"].any()):
        note += " Cross: a seed diverged (its accuracy counts as chance, its loss ends)."
    style.footnote(figure, note)
    words = f"{title}. " if title else ""
    words += (
        f"{'Accuracy and loss' if few else 'Test accuracy and training loss'} against the epoch"
    )
    words += f", one curve per {scales.plain(curves)}" if curves else ""
    words += f", at {at}" if at else ""
    return Drawing(name, figure, f"{words}. {note}")


def _selected(
    ds: xr.Dataset, base_lr: float | None, curves: str | None
) -> tuple[xr.Dataset, str | None, dict[str, Any]]:
    """The dataset with only the axis of the curves left, that axis, and what was fixed."""
    free = dataset.varying(ds)
    if curves is None:
        curves = BATCH_SIZE if BATCH_SIZE in free else next(iter(free), None)
    fixed: dict[str, Any] = {}
    if BASE_LR in dataset.axes(ds) and curves != BASE_LR:
        rates = ds[BASE_LR].values.astype(float)
        wanted = summary.shared_base_lr(ds) if base_lr is None else float(base_lr)
        near = np.flatnonzero(np.isclose(rates, wanted, rtol=1e-6))
        if near.size == 0:
            have = ", ".join(scales.label(BASE_LR, r) for r in rates)
            raise UserError("base_lr", f"{wanted:g} is not in the grid", f"choose one of: {have}")
        fixed[BASE_LR] = float(rates[near[0]])
        ds = ds.isel({BASE_LR: int(near[0])})
    best = summary.best_cell(ds)
    for axis in dataset.axes(ds):
        if axis != curves:
            value = best.get(axis, ds[axis].values[0].item())
            if ds.sizes[axis] > 1:
                fixed[axis] = value
            ds = ds.sel({axis: value})
    return ds, curves, fixed


def _curve_panel(panel: Axes, ds: xr.Dataset, curves: str | None, names: Sequence[str]) -> None:
    """Curves over epochs; the second variable of ``names``, if any, is drawn faint."""
    values = ds[curves].values if curves else np.array([np.nan])
    ordered = curves is not None and np.issubdtype(values.dtype, np.number)
    every = max(1, ds.sizes[EPOCH] // 8)
    for i, look in enumerate(style.looks(values.size, ordered)):
        run = ds.isel({curves: i}) if curves else ds
        for faint, variable in enumerate(names):
            text = scales.label(curves, values[i].item(), math=True) if curves else ""
            if len(names) > 1:
                part = variable.split("_")[0]
                text = f"{text} {part}" if text else part
            # Evaluations may be several epochs apart: the line joins those that there are.
            # A loss that overflowed has no place on the axis.
            row = summary.spread(run[variable].where(np.isfinite(run[variable])))
            row = row.isel({EPOCH: np.flatnonzero(row["median"].notnull().values)})
            extra = {"alpha": 0.5, "marker": ""} if faint else {"markevery": (i % every, every)}
            style.banded(panel, row[EPOCH].values, row, look, text, **extra)
            if not faint:
                _crosses(panel, run, row["median"], look["color"])
    panel.set_xlabel("epoch")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))


def _crosses(panel: Axes, run: xr.Dataset, median: xr.DataArray, colour: str) -> None:
    # A run diverges inside an epoch; the curves have values at its end.
    at = np.unique(np.ceil(np.ravel(run["diverged_epoch"].values)))
    for epoch in at[np.isfinite(at)]:
        # The loss has no value from there on: the mark stands at the last one before.
        before = median.where(median[EPOCH] <= epoch).dropna(EPOCH)
        if before.size:
            x, y = max(float(epoch), 1.0), float(before[-1])
            panel.plot(x, y, marker="x", markersize=6, color=colour, zorder=4)
