"""Fig. 3: the smaller the batch, the wider the range of good learning rates.

    sbt run experiments/marek_2025/fig03.py:small --workdir runs/marek03
    sbt report runs/marek03

Marek et al. (2025), section 4.2: Adam, 30M parameters, FineWeb-Edu. An eighth of the best learning
rate costs 0.03 nats at B = 1 and 0.31 at B = 256; eight times of it 0.03 and 0.11 (0.39 at 4096).
13 factors of sqrt(2) around the optimum of each B, 7 seeds; the same for both decays.

Here the learning rate alone, on one grid for all batch sizes (7 x 18 x 7 = 882 runs).
``:small``: 4 x 13 x 4 = 208 runs.
"""

from language import BATCH_SIZES, SMALL_BATCH_SIZES, factors, language_model
from ml_collections import ConfigDict

from sbt.report.tuning import basin_narrows

VARIANTS = ("", "small")
CAPTION = "the range of good learning rates narrows as the batch grows"
CLAIMS = (basin_narrows("base_lr", 0.02),)
GRIDS = {
    "": {
        "batch_size": BATCH_SIZES,
        "base_lr": factors(1.5e-4, 5e-2, 2**0.5),
        "seed": range(7),
    },
    "small": {
        "batch_size": SMALL_BATCH_SIZES,
        "base_lr": factors(5e-4, 3.3e-2, 2**0.5),
        "seed": range(4),
    },
}


def get_config(variant: str = "") -> ConfigDict:
    """The paper's grid and budget, or ``small``."""
    config = language_model("fig03", variant, CAPTION, CLAIMS, grids=GRIDS)
    config.rule.b2 = 0.996
    return config
