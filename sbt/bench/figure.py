"""The figure of a benchmark: time per example against the micro-batch, a panel per network."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sbt.bench.record import Record
from sbt.bench.tables import TORCH, bound, fastest
from sbt.bench.workload import SBT, SHARED, Cell
from sbt.report.style import QUIET, Drawing, footnote, looks, styled

COLUMNS = 3
PANEL = (3.1, 2.7)
CURVES: dict[str, tuple[str, ...]] = {
    "sbt": (SBT,),
    "flax, jitted loop": ("flax",),
    "torch, best": TORCH,
    "torch.func": ("torch_func",),
    "data-parallel": (SHARED,),
}


@styled
def draw(record: Record) -> Drawing:
    """µs per example·lane over m; sbt and torch.func at their largest number of lanes."""
    panels = dict.fromkeys((c.setting.network, c.setting.precision) for c in record.timed)
    many = len({precision for _, precision in panels}) > 1
    columns = max(1, min(COLUMNS, len(panels)))
    height = max(1, math.ceil(len(panels) / columns))
    figure = Figure(figsize=(PANEL[0] * columns + 0.6, PANEL[1] * height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(height, columns, squeeze=False).ravel()
    for panel, (network, precision) in zip(axes, panels):
        cells = [
            c
            for c in record.timed
            if (c.setting.network, c.setting.precision) == (network, precision)
        ]
        _panel(panel, record, cells)
        panel.set_title(f"{network}, {precision}" if many else network)
    for panel in axes[len(panels) :]:
        panel.set_visible(False)
    for panel in axes[::columns]:
        panel.set_ylabel("µs per example·lane")
    if panels:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    caption = (
        "Time to train one example of one run against the batch size m. "
        "sbt: fastest strategy at the largest number of lanes. "
        "Median; band: all repeats; dotted: the binding measured ceiling."
    )
    footnote(figure, "median, band: min to max of the repeats; dotted: binding measured ceiling")
    return Drawing("bench", figure, caption)


def _panel(panel: Axes, record: Record, cells: Sequence[Cell]) -> None:
    for (name, methods), look in zip(
        CURVES.items(), looks(len(CURVES), ordered=False), strict=True
    ):
        curve = _curve([c for c in cells if c.setting.method in methods])
        if not curve:
            continue
        m = [c.setting.batch_size for c in curve]
        low = [min(c.microseconds) for c in curve]
        high = [max(c.microseconds) for c in curve]
        panel.fill_between(m, low, high, color=look["color"], alpha=0.13, linewidth=0)
        panel.plot(m, [c.median for c in curve], label=name, **look)
        if methods == (SBT,):
            least = [bound(record, c)[0] for c in curve]
            panel.plot(m, least, color=QUIET, linewidth=0.9, linestyle=(0, (1, 1.5)))
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    sizes = sorted({c.setting.batch_size for c in cells})
    panel.set_xticks(sizes, [str(m) for m in sizes])
    panel.set_xlabel("m")


def _curve(cells: Sequence[Cell]) -> list[Cell]:
    """For every m the fastest cell among those of the most lanes."""
    curve = []
    for m in sorted({c.setting.batch_size for c in cells}):
        here = [c for c in cells if c.setting.batch_size == m]
        most = max(c.setting.lanes for c in here)
        best = fastest(c for c in here if c.setting.lanes == most)
        if best is not None:
            curve.append(best)
    return curve
