"""Fig. 9: weights in bfloat16 train as well as in float32, if they are rounded by chance.

    sbt run experiments/marek_2025/fig09.py:small --workdir runs/marek09
    sbt report runs/marek09

Marek et al. (2025): with weights in bfloat16 small batches do no worse than with float32, if every
update is rounded stochastically; rounded to the nearest they lose, and the more, the smaller the
batch: updates are smaller than half of what separates two numbers. Adam, 30M parameters,
FineWeb-Edu; only the weights are bfloat16, the state and the arithmetic float32.

The grid is not told; here it is three roundings at a quarter to four times the best learning rate
of each batch size (an axis is that of B = 1): 3 x 7 x 5 x 3 = 315 runs. ``:small``:
3 x 4 x 5 x 4 = 240 runs.
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

from sbt.report.tuning import nearest_rounding_hurts_small_batches, stochastic_rounding_suffices

VARIANTS = ("", "small")
CAPTION = "weights in bfloat16 lose nothing when rounded by chance, much to the nearest at small B"
CLAIMS = (stochastic_rounding_suffices(0.02), nearest_rounding_hurts_small_batches())
ROUNDINGS = ("none", "stochastic", "nearest")
GRIDS = {
    "": {
        "rounding": ROUNDINGS,
        "batch_size": BATCH_SIZES,
        "base_lr": around(RATES[1])[2:11:2],
        "seed": range(3),
    },
    "small": {
        "rounding": ROUNDINGS,
        "batch_size": SMALL_BATCH_SIZES,
        "base_lr": around(SMALL_RATES[1])[2:11:2],
        "seed": range(4),
    },
}


def get_config(variant: str = "") -> ConfigDict:
    """The paper's budget, or ``small``."""
    small = variant == "small"
    scaling = {"name": "half_life", "power": 0.0, "b2_tokens": SMALL_SECOND if small else SECOND}
    config = language_model("fig09", variant, CAPTION, CLAIMS, grids=GRIDS, scaling=scaling)
    config.follow.scaling__power = through(SMALL_RATES if small else RATES)
    if not small:
        config.scaling.b1_tokens = FIRST[1]
        config.follow.scaling__b1_growth = through(FIRST)
    return config
