"""Fig. 1b: at batch size 1 a wide range of learning rates and beta1 is good, at 512 a narrow one.

    sbt run experiments/marek_2025/fig01b.py:small --workdir runs/marek01b
    sbt report runs/marek01b

Marek et al. (2025), section 4.2: GPT-2, FineWeb, Adam; the best losses at B = 1 and 512 are alike
(3.38 and 3.43). 13 learning rates, sqrt(2) apart around 2^-11 and 2^-8 (a power of 1/3), 12 beta1,
both with the beta2 of a half-life of 10M tokens (0.99993 and 0.9643), weight decay 0.1 at B = 512
alone: 2 x 13 x 12 = 312 runs of 2.5 billion tokens, as in the paper.

``:small``: B 1 and 64, 2 x 9 x 4 x 3 = 216 runs.
"""

from language import SECOND, SMALL_SECOND, around, factors, language_model
from ml_collections import ConfigDict

from sbt.report.tuning import small_batches_forgive

VARIANTS = ("", "small")
CAPTION = "small batches forgive a bad learning rate or beta1, large ones do not"
CLAIMS = (small_batches_forgive(0.02),)
B1 = (
    *(0, 0.5, 0.68913, 0.81873, 0.89814, 0.94393, 0.96948, 0.98349, 0.9911, 0.99521),
    *(0.99742, 0.99861),
)
GRIDS = {
    "": {
        "batch_size": (1, 512),
        "base_lr": around(2.0**-11),
        "rule__b1": B1,
        "seed": (0,),
    },
    "small": {
        "batch_size": (1, 64),
        "base_lr": factors(2.5e-4, 6.5e-2),
        "rule__b1": (0.0, 0.5, 0.9, 0.98),
        "seed": range(3),
    },
}


def get_config(variant: str = "") -> ConfigDict:
    """The paper's grid and budget, or ``small``."""
    second = SMALL_SECOND if variant else SECOND
    config = language_model(
        "fig01b",
        variant,
        CAPTION,
        CLAIMS,
        grids=GRIDS,
        model="gpt_124m",
        rule="optax.adamw",
        scaling={"name": "half_life", "power": 1 / 3, "b2_tokens": second},
    )
    config.rule.weight_decay = 0.0
    if not variant:
        config.follow.rule__weight_decay = ("batch_size", ((1, 0.0), (512, 0.1)))
    return config
