"""Draws ``kernels.py``: the squared gradient that each method ends with, against the batch.

    python experiments/dang_2024/draw_kernels.py runs/dang_kernels kernels.png

Takes a work directory (or a ``results.nc``); geometric means over seeds, and the range of the
seeds.
"""

import sys

import numpy as np
from matplotlib.figure import Figure

import sbt


def draw(source: str, target: str) -> None:
    """Draws what a directory's results hold."""
    ds = sbt.load(source)
    # A run is measured once, after its own last epoch; those of other runs are empty.
    ends = np.log(ds["gradient_square"].max("measured_epoch"))
    cases = [str(case).split(", ") for case in ds["case"].values]
    origins, batches = (list(dict.fromkeys(part)) for part in zip(*cases, strict=True))
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    panels = figure.subplots(1, len(origins), squeeze=False)[0]
    for panel, origin in zip(panels, origins, strict=True):
        for number, rule in enumerate(ds["rule"].values):
            row = ends.sel(rule=rule, case=[f"{origin}, {batch}" for batch in batches])
            at = np.arange(len(batches)) + 0.06 * (number - 2)
            mid = np.exp(row.mean("seed"))
            reach = abs(np.exp([row.min("seed"), row.max("seed")]) - mid.values)
            panel.errorbar(at, mid, reach, fmt=".-", capsize=2, linewidth=1, label=str(rule))
        panel.set(yscale="log", xlabel="batch", title=origin)
        panel.set_xticks(range(len(batches)), batches)
    panels[0].set_ylabel("‖∇f‖² at the end")
    panels[-1].legend(frameon=False, fontsize=8)
    figure.savefig(target, dpi=130)


if __name__ == "__main__":
    draw(sys.argv[1], sys.argv[2])
