"""Figures that compare grids: best accuracy and stable range (Masters & Luschi, Figs 15, 16)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from sbt.report import dataset, scales, style, summary
from sbt.report.dataset import BATCH_SIZE
from sbt.report.style import Drawing

# More curves than markers could not be told apart: then they spread over panels of so many.
MOST_CURVES = 13
CURVES_PER_PANEL = 8


@style.styled
def best_accuracy_summary(
    datasets: Mapping[str, xr.Dataset], name: str = "best_accuracy"
) -> Drawing:
    """Accuracy at the best base LR against the batch size, one curve per grid (Fig. 15).

    More than ``MOST_CURVES`` grids spread over panels, each with the others behind it in grey.

    Args:
      datasets: grids by label; each needs the axis ``batch_size`` and may have ``base_lr``.
      name: file stem.
    """
    best = {text: summary.best_over_lr(ds) for text, ds in datasets.items()}
    count = -(-len(best) // CURVES_PER_PANEL) if len(best) > MOST_CURVES else 1
    size = style.SINGLE if count == 1 else (3.1 * count, 4.4)
    figure, panels = style.new_figure(size, columns=count)
    sizes = np.unique(
        np.concatenate([row[BATCH_SIZE].values.astype(float) for row in best.values()])
    )
    share = -(-len(best) // count)
    texts = list(best)
    prefix = _common_words(texts) if count > 1 else ""
    for i, panel in enumerate(panels):
        mine = texts[i * share : (i + 1) * share]
        for text in texts:
            if text not in mine:
                row = best[text]
                panel.plot(row[BATCH_SIZE], row["accuracy"], color="#cccccc", lw=0.7, zorder=1.5)
        for text, look in zip(mine, style.looks(len(mine), ordered=False)):
            label = style.literal(text.removeprefix(prefix))
            _best_curve(panel, best[text], look, label or None)
        style.accuracy_axis(panel, None, "best test accuracy")
        scales.set_scale(panel.xaxis, panel, BATCH_SIZE, sizes)
        if count > 1:
            # Below the panel: several panels have no room beside them.
            panel.legend(
                title=style.literal(prefix),
                loc="upper center",
                bbox_to_anchor=(0.5, -0.16),
                ncols=2,
            )
        if i > 0:
            panel.sharey(panels[0])
            panel.set_ylabel("")
    if len(datasets) > 1 and count == 1:
        style.legend(panels[0], "")
    note = summary.spread_words(next(iter(datasets.values())))
    note += " Hollow: best at the end of the base LR grid, or runs missing."
    style.footnote(figure, note)
    caption = f"Test accuracy at the best base learning rate of every batch size. {note}"
    if count > 1:
        caption += " Grey: the curves of the other panels."
    chances = {float(ds.attrs["chance"]) for ds in datasets.values() if "chance" in ds.attrs}
    if len(chances) == 1:
        caption += f" Chance: {100 * chances.pop():g} %."
    return Drawing(name, figure, caption)


def _best_curve(panel: Axes, best: xr.Dataset, look: dict[str, Any], text: str | None) -> None:
    m, accuracy = best[BATCH_SIZE].values.astype(float), best["accuracy"].values
    panel.fill_between(
        m, best["low"].values, best["high"].values, color=look["color"], alpha=0.13, linewidth=0
    )
    panel.plot(m, accuracy, label=text, **look)
    edge = (best["edge"] | ~best["complete"]).values & np.isfinite(accuracy)
    panel.plot(
        m[edge],
        accuracy[edge],
        linestyle="none",
        marker=look["marker"],
        color=look["color"],
        markerfacecolor="white",
    )


def _common_words(texts: list[str]) -> str:
    """The words that all labels begin with, the space after them included."""
    words = [text.split(" ")[:-1] for text in texts]
    common = [first for first, *others in zip(*words) if set(others) <= {first}]
    prefix = "".join(f"{word} " for word in common)
    return prefix if all(text.startswith(prefix) for text in texts) else ""


@style.styled
def stable_range_summary(
    datasets: Mapping[str, xr.Dataset], margin: float | None = None, name: str = "stable_range"
) -> Drawing:
    """The interval of base LRs that train reliably against the batch size (Fig. 16).

    Args:
      datasets: grids by label, each with the axes ``batch_size`` and ``base_lr``. "Best cell" is
        taken per grid.
      margin: accuracy margin below the best cell, as a fraction; by default that of each config.
      name: file stem. See ``summary.stable_range`` for the rule.
    """
    # Bars of several grids stand side by side, and need the room.
    figure, (panel,) = style.new_figure(style.SINGLE if len(datasets) == 1 else style.WIDE)
    sizes: set[float] = set()
    rates: set[float] = set()
    margins: set[float] = set()
    count = len(datasets)
    shifts = (np.arange(count) - (count - 1) / 2) * min(0.14, 0.6 / max(count - 1, 1))
    for shift, (text, ds), look in zip(shifts, datasets.items(), style.looks(count, ordered=False)):
        used = dataset.margin_of(ds) if margin is None else margin
        margins.add(used)
        span = summary.stable_range(ds, used)
        best = summary.best_over_lr(ds)
        m = span[BATCH_SIZE].values.astype(float)
        sizes |= set(m)
        rates |= set(ds[dataset.BASE_LR].values.astype(float))
        x = m * 2.0**shift
        low, high = span["low"].values, span["high"].values
        colour, marker = look["color"], look["marker"]
        dots: dict[str, Any] = {"linestyle": "none", "color": colour}
        thick = 5.0 if count == 1 else 3.5
        panel.vlines(x, low, high, color=style.pale(colour), linewidth=thick)
        # Arrows stand just outside the interval, so that they do not hide its best point.
        for end, edge, arrow, out in (("low", low, "v", -0.2), ("high", high, "^", 0.2)):
            cut = span[f"{end}_open"].values & (span["count"].values > 0)
            panel.plot(x[~cut], edge[~cut], marker="_", markersize=thick + 2, **dots)
            panel.plot(x[cut], edge[cut] * 2.0**out, marker=arrow, mfc="white", **dots)
        inside = span["count"].values > 0
        rate = best["best_base_lr"].values
        panel.plot(
            x[inside], rate[inside], marker=marker, label=style.literal(text) or None, **dots
        )
        none = ~inside & span["complete"].values
        if none.any():
            floor = np.full(int(none.sum()), 0.02)
            panel.plot(x[none], floor, marker="x", transform=panel.get_xaxis_transform(), **dots)
    scales.set_scale(panel.xaxis, panel, BATCH_SIZE, np.array(sorted(sizes)))
    scales.set_scale(panel.yaxis, panel, dataset.BASE_LR, np.array(sorted(rates)))
    if count > 1:
        panel.set_xlim(min(sizes) / 2**0.5, max(sizes) * 2**0.5)
    if count > 1:
        style.legend(panel, "")
    points = " or ".join(f"{100 * value:g}" for value in sorted(margins))
    style.footnote(
        figure, "Bar: reliable base LRs; point: the best; arrow: the grid ends there; cross: none."
    )
    caption = (
        f"Base learning rates that train reliably: every seed's loss finite and median accuracy "
        f"within {points} points of the best cell of the grid, contiguous around the best base "
        f"learning rate (point). Open arrows: the range reaches the end of the grid or a cell "
        f"that has not finished, and may be wider. Cross on the axis: none is reliable."
    )
    return Drawing(name, figure, caption)
