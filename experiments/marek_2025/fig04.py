"""Fig. 4: the best learning rate grows slowly with the batch, and beta1 = 0.9 is good at any.

    sbt run experiments/marek_2025/fig04.py:small --workdir runs/marek04
    sbt report runs/marek04

Marek et al. (2025), section 4.3: Adam, 30M parameters, FineWeb-Edu. From B = 1 to 1024 the best
learning rate grows 3 times (exponent 0.18, by the sheet of its optima), not 32; beta1 = 0.9 is near
the best everywhere; beta2 is not (see ``fig05.py``). 13 values of each, 7 batch sizes, 5 seeds.

``""`` sweeps learning rates and beta1 together, 7 x 13 x 13 x 5 = 5915 runs, where the paper keeps
one at its optimum. ``:small``: 4 x 6 x 3 x 3 = 216 runs.
"""

from language import BATCH_SIZES, SMALL_BATCH_SIZES, factors, language_model
from ml_collections import ConfigDict

from sbt.report.tuning import fixed_value_suffices, rate_grows_slower

VARIANTS = ("", "small")
CAPTION = "square-root scaling fails; beta1 = 0.9 is good at every batch size"
CLAIMS = (rate_grows_slower(0.5), fixed_value_suffices("rule__b1", 0.9, 0.02))
B1 = (
    *(0, 0.5, 0.68911, 0.8187, 0.9, 0.94391, 0.96946, 0.98348, 0.99109, 0.9952),
    *(0.99742, 0.99861, 0.99925),
)
RATES = (
    *(2e-4, 3e-4, 4.6e-4, 7e-4, 1.06e-3, 1.61e-3, 2.45e-3, 3.72e-3, 5.65e-3, 8.57e-3),
    *(1.301e-2, 1.976e-2, 3e-2),
)
GRIDS = {
    "": {
        "batch_size": BATCH_SIZES,
        "base_lr": RATES,
        "rule__b1": B1,
        "seed": range(5),
    },
    "small": {
        "batch_size": SMALL_BATCH_SIZES,
        "base_lr": factors(5e-4, 1.6e-2),
        "rule__b1": (0.0, 0.9, 0.98),
        "seed": range(3),
    },
}


def get_config(variant: str = "") -> ConfigDict:
    """The paper's grid and budget, or ``small``."""
    config = language_model("fig04", variant, CAPTION, CLAIMS, grids=GRIDS)
    config.rule.b2 = 0.996
    return config
