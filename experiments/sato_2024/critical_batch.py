"""The critical batch size of SGD with momentum, and the variance of gradients that it tells.

    sbt run experiments/sato_2024/critical_batch.py --workdir runs/sato_critical
    python experiments/sato_2024/critical_batch.py runs/sato_critical     (prints b* and C²)
    sbt report runs/sato_critical

Sato & Iiduka (2024), arXiv 2402.02325, section 5: the examples that training takes until the mean
norm of its batches' gradients is within ε are fewest at a batch size b*, neither the smallest nor
the largest, and b*ε² is the same for every ε (their figure: b* = 2^10, 2^9, 2^8 for ε = 0.5, 0.7,
1), so that it tells the variance C² of gradients (``sbt.schedules.variance_from_critical_batch``),
which the degree of smoothing in ``schedules.py`` is made of. ResNet-18 on CIFAR-100, η = 0.1,
β = 0.9; a mean counts after 10 epochs, as in the authors' code. The batch sizes 2^4 ... 2^13 and
200 epochs are ours: how long they train is not stated, and neither is their grid.

10 batch sizes x 3 seeds = 30 runs: for accelerators. ``:small`` is a net of three convolutions on
scikit-learn's digits, η = 0.01, 150 epochs; its C² is that of the small net. There a mean counts
from the first update on.

In ``results/critical_batch_small`` (three seeds) batches of 4 never come within any ε, batches of 8
and 16 need about equally few examples at each (38,000, 26,000 and 18,000 for ε = 0.5, 0.7 and 1),
and larger ones need more, 256 two to four times as many. So there is a critical batch, and octaves
are too coarse to say how it moves with ε. Both verdicts are open: a run that never gets there has
no number.
"""

import sys

import numpy as np
import xarray as xr
from ml_collections import ConfigDict
from training import (
    VARIANTS,  # noqa: F401 (what get_config takes)
    training,
)

import sbt
from sbt.config import from_json
from sbt.parabola import best_positions
from sbt.report.statements import best_exponent_in, best_lies_among
from sbt.schedules import variance_from_critical_batch

CAPTION = "fewest examples at a critical batch size, which grows like 1/ε²"
COST, LEVEL = "examples_to_tolerance", "norm_tolerance"
TOLERANCES = (0.5, 0.7, 1.0)
CLAIMS = (
    best_lies_among(
        "Neither the smallest nor the largest batch needs the fewest examples",
        COST,
        along="batch_size",
        values="inner",
        best="lowest",
    ),
    best_exponent_in(
        "The critical batch size grows like 1/ε²",
        COST,
        along="batch_size",
        across=LEVEL,
        best="lowest",
        low=-2.5,
        high=-1.5,
    ),
)


def get_config(variant: str = "") -> ConfigDict:
    """CIFAR-100, or ``small``."""
    config = training("critical_batch", variant, CAPTION, CLAIMS)
    config.measure.names = ("stationarity",)
    config.measure.stationarity = {"tolerances": TOLERANCES, "after": 10.0}
    config.sweep.batch_size = tuple(2**k for k in range(4, 14))
    if variant == "small":
        config.epochs, config.base_lr = 150, 0.01
        config.measure.stationarity = {"tolerances": TOLERANCES, "after": 0.0}
        config.sweep.batch_size = tuple(2**k for k in range(2, 9))
    return config


def variances(ds: xr.Dataset) -> xr.Dataset:
    """The critical batch size and C² of every tolerance, of the mean cost over seeds.

    NaN where the fewest examples lie at an end of the batch sizes, or not all runs came so far.
    """
    config = from_json(ds.attrs["config"])
    cost = ds[COST].isel(epoch=-1).mean("seed", skipna=False).transpose(LEVEL, "batch_size")
    sizes = np.log(ds["batch_size"].values)
    critical = np.exp(best_positions(sizes, -np.log(cost.values)))
    variance = variance_from_critical_batch(
        critical, cost[LEVEL].values, config.base_lr, config.rule.momentum, form="shb"
    )
    found = {"critical_batch": (LEVEL, critical), "variance": (LEVEL, np.asarray(variance))}
    return xr.Dataset(found, {LEVEL: cost[LEVEL]})


if __name__ == "__main__":
    print(variances(sbt.load(sys.argv[1])).to_dataframe().to_string())
