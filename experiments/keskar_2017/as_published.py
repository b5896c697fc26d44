"""What the paper prints and draws, in the form of our results, so that the same functions draw it.

``published.json`` and ``fig03_fig07_paper.json`` hold the numbers. Figs 2, 4, 5 and 6 are there for
C1 alone. Each function takes the config of a figure's experiment and gives the paper's side of it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import drawings
import numpy as np
import xarray as xr
from keskar import batch_pair, published
from ml_collections import ConfigDict

from sbt.report.style import Drawing

SIZES = batch_pair("cifar10")
EPSILONS = (1e-3, 5e-4)
SHARPNESS = [drawings.PAPER_KEYS[epsilon] for epsilon in EPSILONS]


def accuracies(_: ConfigDict) -> Drawing:
    """Fig. 2."""
    numbers = published()["fig2"]["c1"]
    curves = {
        f"{split}_accuracy": (
            ("batch_size", "seed", "epoch"),
            [[np.divide(numbers[f"{size}_{split}"], 100)] for size in ("sb", "lb")],
        )
        for split in drawings.SPLITS
    }
    epochs = 1 + np.arange(len(numbers["sb_train"]))
    ds = xr.Dataset(curves, {"batch_size": list(SIZES), "seed": [0], "epoch": epochs})
    return _of_c1(drawings.accuracies(ds))


def against_batch_size(_: ConfigDict) -> Drawing:
    """Fig. 4."""
    numbers = published()["fig4"]["c1"]
    sharpness = np.transpose([numbers[key] for key in SHARPNESS])
    ds = xr.Dataset(
        {
            "accuracy": (("batch_size", "seed"), np.divide(numbers["test_accuracy"], 100)[:, None]),
            "sharpness": (
                ("batch_size", "seed", "measured_epoch", "space", "epsilon"),
                sharpness[:, None, None, None],
            ),
        },
        {"batch_size": numbers["batch_size"], "space": ["full"], "epsilon": list(EPSILONS)},
    )
    return _of_c1(drawings.against_batch_size(ds))


def warm_start(_: ConfigDict) -> Drawing:
    """Fig. 5."""
    numbers = published()["fig5"]["c1"]
    places = 1 + np.arange(len(numbers["small"]))
    large, small = (np.divide(numbers[name], 100) for name in ("large", "small"))
    sharpness = np.transpose([numbers[key] for key in SHARPNESS])
    ds = xr.Dataset(
        {
            "test_accuracy": (("start_epoch", "seed", "epoch"), large[:, None, None]),
            "sharpness": (
                ("start_epoch", "seed", "measured_epoch", "space", "epsilon"),
                sharpness[:, None, None, None],
            ),
        },
        {"start_epoch": places, "space": ["full"], "epsilon": list(EPSILONS)},
    )
    iterates = xr.Dataset({"test_accuracy": (("seed", "epoch"), [small])}, {"epoch": places})
    return _of_c1(drawings.warm_start(ds, iterates))


def sharpness_and_loss(_: ConfigDict) -> Drawing:
    """Fig. 6."""
    numbers = published()["fig6"]["c1"]
    # (size, ε, epoch, 2): the losses are the same for both ε
    pairs = np.asarray([[numbers[f"{size}_{key}"] for key in SHARPNESS] for size in ("sb", "lb")])
    ds = xr.Dataset(
        {
            "sharpness_loss": (("batch_size", "seed", "measured_epoch"), pairs[:, None, 0, :, 0]),
            "sharpness": (
                ("batch_size", "seed", "epsilon", "measured_epoch", "space"),
                pairs[:, None, :, :, 1, None],
            ),
        },
        {
            "batch_size": list(SIZES),
            "epsilon": list(EPSILONS),
            "space": ["full"],
            "measured_epoch": 1 + np.arange(pairs.shape[2]),
        },
    )
    return _of_c1(drawings.sharpness_and_loss(ds))


def paths(config: ConfigDict) -> Drawing:
    """Figs 3 and 7, of F1 or C1."""
    net = config.model.name if drawings.paper_paths(config.model.name) else "c1"
    numbers = drawings.paper_paths(net)
    dims = ("curve", "split", "alpha")
    values = {
        name: (dims, [[one[f"{split}_{name}"] for split in drawings.SPLITS] for one in
                      numbers.values()])
        for name in ("loss", "accuracy")
    }  # fmt: skip
    alpha = next(iter(numbers.values()))["alpha"]
    coords = {"curve": list(numbers), "split": list(drawings.SPLITS), "alpha": alpha}
    title = f"The paper's {net.upper()}"
    return drawings.paths(xr.Dataset(values, coords), "fig03_fig07", title)


def pairs(net: str, lines: Mapping[str, tuple[str, str]]) -> dict[str, tuple[Any, Any]]:
    """Mean and standard deviation of the paper's small and large batches; None: not printed.

    Args:
      net: the network, ``f1``.
      lines: what a row is called -> number of the table, and key, ``{}`` standing for the size.
    """
    tables = published()["tables"]
    found = {}
    for words, (table, key) in lines.items():
        small, large = (tables[table][net].get(key.format(size)) for size in ("small", "large"))
        found[words] = (small, large)
    return found


def rows(net: str, lines: Mapping[str, tuple[str, str]]) -> list[list[str]]:
    """The same as a table, of C1 where the net has none; its first row names the columns."""
    ((table, _), *_) = lines.values()
    net = net if net in published()["tables"][table] else "c1"
    found = [[f"The paper's {net.upper()} [%]", "small batch", "large batch"]]
    for words, pair in pairs(net, lines).items():
        found.append(
            [
                words if "accuracy" in words else f"sharpness, {words}",
                *("" if p is None else f"{p[0]:g} ± {p[1]:g}" for p in pair),
            ]
        )
    return found


def _of_c1(drawing: Drawing) -> Drawing:
    return dataclasses.replace(drawing, caption=f"The paper's C1 on CIFAR-10. {drawing.caption}")
