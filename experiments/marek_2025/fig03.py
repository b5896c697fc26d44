"""Fig. 3: the smaller the batch, the wider the range of good hyperparameters.

    sbt run experiments/marek_2025/fig03.py:small --workdir runs/marek03
    sbt report runs/marek03

Marek et al. (2025), section 4.2: Adam, 30M parameters, FineWeb-Edu. An eighth of the best learning
rate costs 0.03 nats at B = 1 and 0.31 at B = 256; eight times of it 0.03 and 0.11 (0.39 at 4096).
Half-lives do alike: twice that of beta1 costs 0.22 at B = 1024.

A variant for each of the figure's panels, in which one of learning rate (``""``), half-life of
beta1 (``t1``) and of beta2 (``t2``) takes 13 values, sqrt(2) apart around the optimum of each B,
the others being there: 7 x 13 x 7 = 637 runs each, together the paper's 1911. An axis is that of
B = 1.

``:small``: learning rates alone, 4 x 13 x 4 = 208 runs.
"""

from language import (
    BATCH_SIZES,
    FIRST,
    RATES,
    SECOND,
    SMALL_BATCH_SIZES,
    SMALL_RATES,
    SMALL_SECOND,
    around,
    language_model,
    through,
)
from ml_collections import ConfigDict

from sbt.report.tuning import basin_narrows

VARIANTS = ("", "t1", "t2", "small")
CAPTION = "the range of good hyperparameters narrows as the batch grows"
AXES = {
    "": ("base_lr", around(RATES[1])),
    "t1": ("scaling__b1_tokens", around(FIRST[1])),
    "t2": ("scaling__b2_tokens", around(SECOND)),
}
GRIDS = {
    name: {"batch_size": BATCH_SIZES, axis: values, "seed": range(7)}
    for name, (axis, values) in AXES.items()
} | {
    "small": {
        "batch_size": SMALL_BATCH_SIZES,
        "base_lr": around(SMALL_RATES[1]),
        "seed": range(4),
    },
}


def get_config(variant: str = "") -> ConfigDict:
    """The paper's grid of one hyperparameter, or ``small``."""
    small = variant == "small"
    scaling = {"name": "half_life", "power": 0.0, "b2_tokens": SMALL_SECOND if small else SECOND}
    axis, _ = AXES.get(variant, AXES[""])
    config = language_model(
        "fig03", variant, CAPTION, (basin_narrows(axis, 0.02),), grids=GRIDS, scaling=scaling
    )
    config.follow.scaling__power = through(SMALL_RATES if small else RATES)
    if not small:
        config.base_lr, config.scaling.b1_tokens = RATES[1], FIRST[1]
        config.follow.scaling__b1_growth = through(FIRST)
    return config
