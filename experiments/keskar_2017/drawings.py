"""The figures of Keskar et al. as they print them: loss in blue on the left, accuracy in red."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from sbt.report import style
from sbt.report.style import Drawing

LOSS, ACCURACY = "#0072B2", "#B03030"
EPSILONS = {1e-3: ("-", "o"), 5e-4: ("--", "s")}
SPLITS = {"train": "-", "test": "--"}
PAPER_KEYS = {1e-3: "1e-3", 5e-4: "5e-4"}
FAINT = {"linewidth": 0.8, "alpha": 0.45}
THIN = "Thin: the paper (its net at full width, its data)."
DOTS = "Small dots: the paper (its net at full width, its data)."


def paper_paths(net: str) -> dict[str, Any]:
    """The paper's curves of Figs 3 and 7 for a network, by curve; empty if they are not here."""
    file = Path(__file__).with_name("fig03_fig07_paper.json")
    return json.loads(file.read_text()).get(net.upper(), {})


def path_panel(panel: Axes, path: xr.Dataset, paper: Mapping[str, Any] | None = None) -> None:
    """One curve through two solutions, with twin axes.

    Args:
      panel: where to draw.
      path: ``loss`` and ``accuracy`` over ``split`` and ``alpha``.
      paper: curves of the paper to draw beneath, thin: ``alpha`` and ``train_loss``,
        ``test_loss``, ``train_accuracy``, ``test_accuracy`` (fractions).
    """
    right = panel.twinx()
    right.grid(False)
    right.spines["right"].set_visible(True)
    for split, line in SPLITS.items():
        one = path.sel(split=split)
        panel.plot(one.alpha, one.loss, color=LOSS, linestyle=line, label=f"{split} loss")
        right.plot(one.alpha, 100 * one.accuracy, color=ACCURACY, linestyle=line)
        panel.plot([], [], color=ACCURACY, linestyle=line, label=f"{split} accuracy")
        if paper is not None:
            faint = {"linestyle": line, "linewidth": 0.8, "alpha": 0.45}
            panel.plot(paper["alpha"], paper[f"{split}_loss"], color=LOSS, **faint)
            right.plot(
                paper["alpha"],
                100 * np.asarray(paper[f"{split}_accuracy"]),
                color=ACCURACY,
                **faint,
            )
    panel.set_xlabel(r"$\alpha$")
    panel.set_ylabel("cross entropy [nats]", color=LOSS)
    right.set_ylabel("accuracy [%]", color=ACCURACY)
    panel.set_ylim(bottom=0)
    right.set_ylim(0, 100)
    for alpha, name in ((0, "SB"), (1, "LB")):
        panel.axvline(alpha, color=style.QUIET, linewidth=0.6)
        panel.annotate(name, (alpha, 1.01), xycoords=("data", "axes fraction"), ha="center")


@style.styled
def paths(
    path: xr.Dataset, name: str, title: str = "", paper: Mapping[str, Any] | None = None
) -> Drawing:
    """The linear and the curvilinear path side by side (Figs 3 and 7).

    Args:
      path: from :func:`solutions.paths_between`, of one pair.
      name: stem of the files.
      title: a heading.
      paper: curve -> what :func:`path_panel` takes.
    """
    figure, panels = style.new_figure((9.6, 3.6), columns=2)
    for panel, curve in zip(panels, path.curve.values):
        path_panel(panel, path.sel(curve=curve), (paper or {}).get(str(curve)))
        panel.set_title(str(curve), pad=14)
    panels[0].legend(loc="center left")
    if title:
        figure.suptitle(title, fontsize=9.5)
    note = (
        "Solid: training set, dashed: test set."
        + " Thin: the paper (its net at full width, its data)." * bool(paper)
    )
    style.footnote(figure, note)
    words = "Cross entropy and accuracy along the linear and the curvilinear path from the "
    return Drawing(name, figure, f"{title}. {words}small-batch to the large-batch solution. {note}")


@style.styled
def against_batch_size(
    ds: xr.Dataset, name: str = "fig04", paper: Mapping[str, Any] | None = None
) -> Drawing:
    """Test accuracy and full-space sharpness of the last iterate (Fig. 4), means over trials.

    Args:
      ds: the sweep.
      name: stem of the file.
      paper: the paper's curves over ``batch_size``, to draw beneath, thin.
    """
    figure, (panel,) = style.new_figure(style.SINGLE)
    right = panel.twinx()
    right.grid(False)
    right.spines["right"].set_visible(True)
    last = ds.isel(measured_epoch=-1).sel(space="full")
    panel.plot(ds.batch_size, 100 * ds.accuracy.mean("seed"), color=LOSS, marker=".")
    for epsilon, (line, mark) in EPSILONS.items():
        values = last.sharpness.sel(epsilon=epsilon).mean("seed")
        right.plot(ds.batch_size, values, color=ACCURACY, linestyle=line, marker=mark)
        panel.plot([], [], color=ACCURACY, linestyle=line, marker=mark, label=f"ε = {epsilon:g}")
        if paper is not None:
            right.plot(
                paper["batch_size"],
                paper[PAPER_KEYS[epsilon]],
                color=ACCURACY,
                linestyle=line,
                **FAINT,
            )
    if paper is not None:
        panel.plot(paper["batch_size"], paper["test_accuracy"], color=LOSS, **FAINT)
        style.footnote(figure, THIN)
    panel.set_xlabel("batch size")
    panel.set_ylabel("test accuracy [%]", color=LOSS)
    right.set_ylabel("sharpness [%]", color=ACCURACY)
    right.set_ylim(bottom=0)
    panel.legend(title="sharpness", loc="center right")
    words = "Test accuracy and sharpness against the batch size." + f" {THIN}" * bool(paper)
    return Drawing(name, figure, words)


@style.styled
def sharpness_and_loss(
    ds: xr.Dataset, name: str = "fig06", paper: Mapping[str, Any] | None = None
) -> Drawing:
    """Sharpness against cross entropy, a marker for every epoch of one trial (Fig. 6).

    The cross entropy is f(x) of the metric, at the weights that the sharpness is of.

    Args:
      ds: the sweep.
      name: stem of the file.
      paper: the paper's pairs of cross entropy and sharpness, to draw beneath, small.
    """
    figure, (panel,) = style.new_figure(style.SINGLE)
    one = ds.isel(seed=0).sel(space="full")
    epochs = [e for e in one.measured_epoch.values if e > 0]
    if at_weights := "sharpness_loss" in one:
        loss = one.sharpness_loss.sel(measured_epoch=epochs)
    else:  # results from before it was kept
        loss = one.train_loss.sel(epoch=epochs)
    pairs = zip(_pair(ds).items(), (LOSS, ACCURACY), ("sb", "lb"), strict=True)
    for (batch_size, word), colour, short in pairs:
        for epsilon, (_, mark) in EPSILONS.items():
            if paper is not None:
                x, y = np.transpose(paper[f"{short}_{PAPER_KEYS[epsilon]}"])
                panel.plot(x, y, ".", color=colour, markersize=2, alpha=0.45)
            values = one.sharpness.sel(batch_size=batch_size, epsilon=epsilon)
            values = values.sel(measured_epoch=epochs)
            text = f"{word}, ε = {epsilon:g}"
            face = colour if mark == "o" else "none"
            x = loss.sel(batch_size=batch_size)
            panel.plot(x, values, mark, color=colour, markerfacecolor=face, label=text)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.invert_xaxis()
    words = "cross entropy f(x)" if at_weights else "cross entropy, mean of the epoch"
    panel.set_xlabel(f"{words} [nats], training proceeds to the right")
    panel.set_ylabel("sharpness [%]")
    panel.legend()
    words = "Sharpness against cross entropy during one trial."
    if paper is not None:
        style.footnote(figure, DOTS)
        words += f" {DOTS}"
    return Drawing(name, figure, words)


@style.styled
def warm_start(
    ds: xr.Dataset,
    iterates: xr.Dataset,
    name: str = "fig05",
    paper: Mapping[str, Any] | None = None,
) -> Drawing:
    """Accuracy and sharpness of large-batch runs from small-batch iterates (Fig. 5).

    Args:
      ds: the large-batch runs, over ``start_epoch``.
      iterates: the small-batch run.
      name: stem of the file.
      paper: the paper's curves by the place of the iterate, to draw beneath, thin.
    """
    figure, panels = style.new_figure(style.WIDE, columns=2)
    ds, small = ds.isel(seed=0), iterates.isel(seed=0).test_accuracy
    large = ds.test_accuracy.isel(epoch=-1)
    panels[0].plot(small.epoch, 100 * small, color=LOSS, label="SB iterate")
    panels[0].plot(ds.start_epoch, 100 * large, color=ACCURACY, label="LB from there")
    panels[0].set_ylabel("test accuracy [%]")
    last = ds.sharpness.isel(measured_epoch=-1).sel(space="full")
    for epsilon, (line, mark) in EPSILONS.items():
        values = last.sel(epsilon=epsilon)
        panels[1].plot(ds.start_epoch, values, color=ACCURACY, linestyle=line, marker=mark, ms=3,
                       label=f"ε = {epsilon:g}")  # fmt: skip
    if paper is not None:
        places = 1 + np.arange(len(paper["small"]))
        panels[0].plot(places, paper["small"], color=LOSS, **FAINT)
        panels[0].plot(places, paper["large"], color=ACCURACY, **FAINT)
        for epsilon, (line, _) in EPSILONS.items():
            curve = paper[PAPER_KEYS[epsilon]]
            panels[1].plot(places, curve, color=ACCURACY, linestyle=line, **FAINT)
        style.footnote(figure, THIN)
    panels[1].set_yscale("log")
    panels[1].set_ylabel("sharpness of the LB solution [%]")
    for panel in panels:
        panel.set_xlabel("epochs of small batches before")
        panel.legend()
    words = "Large-batch training from the iterates of small-batch training."
    return Drawing(name, figure, words + f" {THIN}" * bool(paper))


def table(
    ds: xr.Dataset,
    training_accuracy: xr.DataArray,
    paper: Mapping[str, tuple[Any, Any]] | None = None,
) -> str:
    """Accuracies and sharpness, mean ± standard deviation over the trials, as plain text.

    Args:
      ds: the sweep.
      training_accuracy: of its solutions, from :func:`solutions.training_accuracy`.
      paper: what the paper prints, pairs of mean and standard deviation for both batch sizes, by
        the end of the row's name.
    """
    last = ds.isel(measured_epoch=-1)
    heads = [f"paper's {size}" for size in ("SB", "LB")] if paper else []
    rows: list[Sequence[str]] = [("", *_pair(ds).values(), *heads)]

    def row(words: str, values: xr.DataArray, scale: float = 1.0) -> None:
        mean, std = scale * values.mean("seed"), scale * values.std("seed")
        cells = [f"{m:.4g} ± {s:.2g}" for m, s in zip(mean.values, std.values)]
        for ending, pair in (paper or {}).items():
            if words.removesuffix(" [%]").endswith(ending):
                cells += [f"{m:g} ± {s:g}" for m, s in pair]
        rows.append((words, *cells, *[""] * (len(rows[0]) - 1 - len(cells))))

    row("training accuracy [%]", training_accuracy, 100)
    row("test accuracy [%]", ds.test_accuracy.isel(epoch=-1), 100)
    for space in last.space.values:
        for epsilon in EPSILONS:
            values = last.sharpness.sel(space=space, epsilon=epsilon)
            row(f"sharpness [%], {space}, ε = {epsilon:g}", values)
    if "distance_from_start" in last:
        row("distance from the start", last.distance_from_start)
    widths = [max(len(line[i]) for line in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths)) for line in rows)


def _pair(ds: xr.Dataset) -> dict[int, str]:
    sizes = sorted(int(m) for m in ds.batch_size.values)
    return {sizes[0]: f"SB {sizes[0]}", sizes[-1]: f"LB {sizes[-1]}"}


@style.styled
def accuracies(
    ds: xr.Dataset, name: str = "fig02", paper: Mapping[str, Any] | None = None
) -> Drawing:
    """Training and test accuracy over the epochs (Fig. 2), means over trials.

    Args:
      ds: the sweep.
      name: stem of the file.
      paper: the paper's curves of one trial, to draw beneath, thin.
    """
    figure, (panel,) = style.new_figure(style.SINGLE)
    pairs = zip(_pair(ds).items(), (LOSS, ACCURACY), ("sb", "lb"), strict=True)
    for (batch_size, word), colour, short in pairs:
        for split, line in SPLITS.items():
            mean = ds[f"{split}_accuracy"].sel(batch_size=batch_size).mean("seed")
            label = f"{word}, {split}"
            panel.plot(ds.epoch, 100 * mean, color=colour, linestyle=line, label=label)
            if paper is not None:
                curve = paper[f"{short}_{split}"]
                epochs = 1 + np.arange(len(curve))
                panel.plot(epochs, curve, color=colour, linestyle=line, **FAINT)
    panel.set_xlabel("epoch")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_ylabel("accuracy [%]")
    panel.legend(loc="lower right")
    words = "Training and test accuracy over the epochs, for small and large batches."
    if paper is not None:
        style.footnote(figure, THIN)
        words += f" {THIN}"
    return Drawing(name, figure, words)
