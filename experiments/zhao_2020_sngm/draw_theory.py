"""Draws ``theory.py``: the mean gradient against the batch size, and where each method breaks.

    python experiments/zhao_2020_sngm/draw_theory.py runs/sngm_theory sngm_theory.png

Takes a work directory (or a ``results.nc``); means over seeds, at the best learning rate of
each cell.
"""

import sys

import numpy as np
from matplotlib.figure import Figure

import sbt
from sbt.report.branching import largest_without_loss

TOLERANCE = 0.5  # that of the claims
NAMES = {"sgd": "MSGD", "sngm": "SNGM"}


def draw(source: str, target: str) -> None:
    """Draws what a directory's results hold."""
    norm = sbt.load(source)["train_gradient_norm"].isel(epoch=-1).mean("seed").min("base_lr")
    sizes, smooth = (norm[axis].values for axis in ("batch_size", "data__smoothness"))
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    *panels, last = figure.subplots(1, 3)
    for (rule, name), panel, mark in zip(NAMES.items(), panels, "os", strict=True):
        breaks = []
        for level in smooth:
            row = norm.sel(rule=rule, data__smoothness=level).values
            at = int(largest_without_loss(np.log(row), np.log1p(TOLERANCE)))
            breaks.append(sizes[at])
            (line,) = panel.plot(sizes, row / np.sqrt(level), ".-", label=f"L = {level:g}")
            panel.plot(sizes[at], row[at] / np.sqrt(level), mark, color=line.get_color())
        panel.set(xscale="log", yscale="log", xlabel="batch size B", title=name)
        panel.set_ylabel("mean gradient norm over √L")
        last.plot(smooth, breaks, f"{mark}-", label=name)
    for power, style in ((-0.5, "k:"), (-1.0, "k--")):
        last.plot(smooth, breaks[0] * smooth**power, style, label=f"L^{power:g}", linewidth=0.8)
    last.set(xscale="log", yscale="log", xlabel="smoothness L", ylabel="batch size at the break")
    for panel in (*panels, last):
        panel.legend(frameon=False, fontsize=8)
    figure.savefig(target, dpi=130)


if __name__ == "__main__":
    draw(sys.argv[1], sys.argv[2])
