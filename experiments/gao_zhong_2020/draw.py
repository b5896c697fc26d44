"""Draws what figures 2-5, 7, 9 and 16 of Gao & Zhong (2020) show, measurement beside prediction.

    python experiments/gao_zhong_2020/draw.py runs/gz03 gz03.png

Takes a work directory of one of these figures (or a ``results.nc``) and draws what it finds there,
the median over seeds. ``sbt report`` draws every measured variable by itself.
"""

import sys

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import sbt


def radii(panel: Axes, ds: xr.Dataset) -> None:
    """Fig. 2: curvature radius of every layer, by both equations."""
    layers = ds["layer"].values
    for form, marker in zip(ds["radius_form"].values, "os"):
        for epoch, colour in zip(ds["measured_epoch"].values, ("C0", "C1")):
            row = ds["curvature_radius"].sel(radius_form=form, measured_epoch=epoch)
            label = f"{form}, {epoch} epochs"
            panel.plot(layers, row, marker, color=colour, mfc="none", label=label)
    panel.set(yscale="log", ylabel="curvature radius, median of the layer")
    panel.tick_params("x", rotation=90)


def sizes(panel: Axes, ds: xr.Dataset) -> None:
    """Fig. 3: mean |g| against the batch size, with predictions and floor."""
    for epoch, colour in zip(ds["measured_epoch"].values, ("C0", "C1")):
        at = ds.sel(measured_epoch=epoch)
        n = at["gradient_batch"]
        panel.plot(n, at["mean_abs_gradient"], "o", color=colour, label=f"{epoch} epochs: measured")
        panel.plot(n, at["predicted_mean_abs_gradient"], "-", color=colour, label="folded normal")
        panel.plot(n[:-1], at["zero_mean_prediction"][:-1], "--", color=colour, label="0.798 σ/√n")
        panel.axhline(
            float(at["gradient_floor"]), ls=":", color=colour, label="mean |full gradient|"
        )
    panel.set(xscale="log", yscale="log", xlabel="batch size n", ylabel="mean |g|")


def strides(panel: Axes, ds: xr.Dataset, name: str, power: float) -> None:
    """Figs. 4 and 7: a stride in the first epoch against the batch size."""
    here = ds[name].isel(epoch=0)
    m = here["batch_size"].values.astype(float)
    for layer in ("all", "Dense_0/kernel", "Dense_1/kernel"):
        panel.plot(m, here.sel(layer=layer), "o-", label=layer)
    first = float(here.sel(layer="all")[0])
    panel.plot(m, first * (m / m[0]) ** power, "k:", label=f"m^{power:g}")
    words = ds[name].attrs.get("long_name", name)
    panel.set(xscale="log", yscale="log", xlabel="batch size m", ylabel=f"{words}, epoch 1")
    panel.set_xticks(m, [f"{size:g}" for size in m])
    panel.set_xticks([], minor=True)


def paths(panel: Axes, ds: xr.Dataset) -> None:
    """Fig. 5: path length of every epoch by batch size, with the area under the curve."""
    for m in ds["batch_size"].values:
        row = ds["path_length"].sel(layer="all", batch_size=m)
        panel.plot(row["epoch"], row, "o-", label=f"m = {m}, area {float(row.sum()):.2g}")
    panel.set(yscale="log", xlabel="epoch", ylabel=ds["path_length"].attrs["long_name"])


def discarded(panel: Axes, ds: xr.Dataset) -> None:
    """Fig. 9: gradient without a fraction of the batch, relative to the whole batch's."""
    p = ds["fraction"].values
    for epoch, colour in zip(ds["measured_epoch"].values, ("C0", "C1")):
        for name, style, words in (
            ("discarded_gradient", "o-", "smallest losses"),
            ("randomly_discarded_gradient", "s--", "random"),
        ):
            row = ds[name].sel(measured_epoch=epoch)
            panel.plot(p, row / row[0], style, color=colour, label=f"{epoch} epochs: {words}")
    panel.plot(p, 1 / np.sqrt(1 - p), "k:", label="1/√(1-p), pure noise")
    panel.set(xlabel="discarded fraction p", ylabel="mean |g| over that of the whole batch")


def best_training(ds: xr.Dataset) -> xr.DataArray:
    """Training accuracy at the learning rate at which it ends highest (median over seeds)."""
    last = ds["train_accuracy"].isel(epoch=-1, drop=True).median("seed").fillna(-1.0)
    return ds["train_accuracy"].isel(base_lr=last.argmax("base_lr"))


def training_accuracy(panel: Axes, ds: xr.Dataset, batch_size: int = 1024) -> None:
    """Fig. 16: training accuracy of the rules over the epochs at a batch size (or the nearest)."""
    m = ds["batch_size"].sel(batch_size=batch_size, method="nearest").item()
    for rule in ds["rule"].values:
        curve = best_training(ds).sel(rule=rule, batch_size=m)
        _band(panel, ds["epoch"], 100 * curve, str(rule))
    panel.set(xlabel="epoch", ylabel="training accuracy [%]", title=f"m = {m}")


def training_accuracy_at_the_end(panel: Axes, ds: xr.Dataset) -> None:
    """Fig. 16's text: training accuracy of the last epoch against the batch size."""
    for rule in ds["rule"].values:
        end = best_training(ds).sel(rule=rule).isel(epoch=-1)
        _band(panel, ds["batch_size"], 100 * end, str(rule))
    panel.set(xscale="log", xlabel="batch size m", ylabel="training accuracy, last epoch [%]")


def _band(panel: Axes, x: xr.DataArray, values: xr.DataArray, label: str) -> None:
    """Median and range over the seeds."""
    (line,) = panel.plot(x, values.median("seed"), ".-", label=label)
    low, high = values.min("seed"), values.max("seed")
    panel.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)


def draw(source: str, target: str) -> None:
    """Draws what a directory's results hold."""
    runs = sbt.load(source)
    ds = runs.median("seed", keep_attrs=True)
    single = [dim for dim in ds.dims if ds.sizes[dim] == 1 and dim not in ("epoch", "layer")]
    ds = ds.squeeze(single)
    panels = []
    if "curvature_radius" in ds:
        panels.append(lambda panel: radii(panel, ds))
    if "mean_abs_gradient" in ds:
        panels.append(lambda panel: sizes(panel, ds))
    if "gradient_mean_square" in ds and ds.sizes["epoch"] > 1:
        panels.append(lambda panel: paths(panel, ds))
    elif "gradient_mean_square" in ds:
        panels.append(lambda panel: strides(panel, ds, "normalised_stride", -0.5))
        panels.append(lambda panel: strides(panel, ds, "gradient_mean_square", -1.0))
    if "discarded_gradient" in ds:
        panels.append(lambda panel: discarded(panel, ds))
    if {"rule", "batch_size", "base_lr"} <= set(runs.dims):
        panels.append(lambda panel: training_accuracy(panel, runs))
        panels.append(lambda panel: training_accuracy_at_the_end(panel, runs))
    figure = Figure(figsize=(5.5 * len(panels), 4), layout="constrained")
    for panel, fill in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        fill(panel)
        panel.legend(frameon=False, fontsize=7)
    figure.savefig(target, dpi=130)


if __name__ == "__main__":
    draw(sys.argv[1], sys.argv[2])
