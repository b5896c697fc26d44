"""Fig. 4: the best learning rate grows slowly with the batch, and beta1 = 0.9 is good at any.

    sbt run experiments/marek_2025/fig04.py:small --workdir runs/marek04
    sbt report runs/marek04

Marek et al. (2025), section 4.3: Adam, 30M parameters, FineWeb-Edu. From B = 1 to 1024 the best
learning rate grows 3 times (exponent 0.18, by the sheet of its optima), not 32; beta1 = 0.9 is near
the best everywhere; beta2 is not, and its half-life of 10M tokens is.

A variant for each of the figure's panels, in which one of learning rate (``""``), ``b1``, ``b2``
and the half-life of beta2 (``t2``) takes 13 values, the others being at the optimum of each B:
7 x 13 x 5 = 455 runs each, together 1820. That is what the authors' files hold; their table 2 says
6500, which neither explains.

``:small``: learning rates and beta1 together, 4 x 6 x 3 x 3 = 216 runs.
"""

from language import (
    BATCH_SIZES,
    FIRST,
    RATES,
    SECOND,
    SMALL_BATCH_SIZES,
    SMALL_SECOND,
    factors,
    language_model,
    through,
)
from ml_collections import ConfigDict

from sbt.report.tuning import fixed_decay_fails, fixed_value_suffices, rate_grows_slower

VARIANTS = ("", "b1", "b2", "t2", "small")
CAPTION = "square-root scaling fails; beta1 = 0.9 is good at every batch size"
SLOWLY, ONE_B1 = rate_grows_slower(0.5), fixed_value_suffices("rule__b1", 0.9, 0.02)
CLAIMS = {
    "": (SLOWLY,),
    "b1": (ONE_B1,),
    "b2": (fixed_decay_fails("rule__b2", 0.96946, 0.02),),
    "t2": (fixed_value_suffices("scaling__b2_tokens", SECOND, 0.02),),
    "small": (SLOWLY, ONE_B1),
}
DECAYS = (
    *(0, 0.5, 0.68911, 0.8187, 0.89811, 0.94391, 0.96946, 0.98348, 0.99109, 0.9952),
    *(0.99742, 0.99861, 0.99925),
)
AXES = {
    "": (
        "base_lr",
        (
            *(2e-4, 3e-4, 4.6e-4, 7e-4, 1.06e-3, 1.61e-3, 2.45e-3, 3.72e-3, 5.65e-3, 8.57e-3),
            *(1.301e-2, 1.976e-2, 3e-2),
        ),
    ),
    "b1": ("rule__b1", DECAYS),
    "b2": ("rule__b2", DECAYS),
    "t2": ("scaling__b2_tokens", factors(1e5, 1e8, 10**0.25)),
}
GRIDS = {
    name: {"batch_size": BATCH_SIZES, axis: values, "seed": range(5)}
    for name, (axis, values) in AXES.items()
} | {
    "small": {
        "batch_size": SMALL_BATCH_SIZES,
        "base_lr": factors(5e-4, 1.6e-2),
        "rule__b1": (0.0, 0.9, 0.98),
        "seed": range(3),
    },
}


def get_config(variant: str = "") -> ConfigDict:
    """The paper's grid of one hyperparameter, or ``small``."""
    small = variant == "small"
    scaling = {"name": "half_life", "power": 0.0}
    if variant != "b2":
        scaling["b2_tokens"] = SMALL_SECOND if small else SECOND
    claims = CLAIMS.get(variant, ())
    config = language_model("fig04", variant, CAPTION, claims, grids=GRIDS, scaling=scaling)
    if small:
        return config
    if variant != "b1":
        config.scaling.b1_tokens = FIRST[1]
        config.follow.scaling__b1_growth = through(FIRST)
    if variant:
        config.base_lr = RATES[1]
        config.follow.scaling__power = through(RATES)
    return config
