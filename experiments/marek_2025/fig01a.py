"""Fig. 1a: optimizers, each tuned, are alike at small batch sizes and part at large ones.

    sbt run experiments/marek_2025/fig01a.py:small --workdir runs/marek01a
    sbt report runs/marek01a

Marek et al. (2025), section 4.1: 30M parameters, FineWeb-Edu. Every optimizer has its best loss at
the smallest batch size, and the gap between them grows with it. Losses at B 1, 64, 1024: Adam 3.69,
3.74, 3.94; Adafactor 3.69, 3.82, 4.57; Muon 3.66, 3.71, 3.82; SGD 3.82 (1) and above 4.9 (64).

A variant for each optimizer, with the paper's grid: Adam over rate, beta1 and the half-life of
beta2 (``""``, 2100 runs), ``adafactor`` (210), ``sgd`` without momentum (100), ``muon`` (700),
together its 3110. Rates are those of B = 1, times B^0.3 for Adam and Adafactor.

The paper's code hands the "beta2" of Adafactor to optax's decay_rate, an exponent: beta2(t) = 1 -
(t+1)^-value. With 0.9999 that is the mean of all squared gradients, not a half-life. ``adafactor``
is the grid of that code; ``constant_decay`` (210 runs more) the other reading, whose nearest in
optax is RMSprop, an average that is not factored. Muon works per head, Adam trains both embeddings
(``sbt list rules``: muon); its rate is Muon's own here, and Adam's optimum in the paper.

``:small`` trains all four over one grid of rates: 4 x 4 x 5 x 3 = 240 runs of 65,536 tokens. In
``results/fig01a_small`` every optimizer is best at B = 1 and worst at 64 (Adam 2.67 to 3.46,
Adafactor 2.65 to 3.27, Muon 2.48 to 3.23, SGD 2.91 to 3.68), which is the paper's first statement;
the second is open: they differ by 0.42, 0.34, 0.38 and 0.45 nats at 1, 4, 16 and 64 (rank
correlation 0.4 [-0.8, 0.8]). After so few tokens SGD is behind at every batch size.
"""

from language import (
    BATCH_SIZES,
    FIRST,
    SECOND,
    SMALL_BATCH_SIZES,
    SMALL_SECOND,
    factors,
    language_model,
)
from ml_collections import ConfigDict

from sbt.report.claims import best_batch
from sbt.report.tuning import optimizers_part
from sbt.schedules import decay_of_half_life

VARIANTS = ("", "adafactor", "constant_decay", "sgd", "muon", "small")
CAPTION = "optimizers are alike at small batch sizes and part at large ones"
CLAIMS = (optimizers_part(), best_batch(1, 4))
RULES = {
    "": "adam",
    "adafactor": "optax.adafactor",
    "constant_decay": "optax.rmsprop",
    "sgd": "sgd",
    "muon": "muon",
}
HALF_LIFE, POWER = {"name": "half_life"}, {"power": 0.3}
SCALING = {
    "": HALF_LIFE | POWER,
    "adafactor": HALF_LIFE | POWER,
    "constant_decay": HALF_LIFE | POWER,
    "muon": HALF_LIFE | {"b2_tokens": SECOND},
    "small": POWER,
}
RATES = (1e-4, 3.5e-4, 1.2e-3, 4.16e-3, 1.443e-2, 5e-2)
HALF_LIVES = (1e6, 3.16e6, 1e7, 3.16e7, 1e8)  # tokens
GRIDS = {
    "": {
        "batch_size": BATCH_SIZES,
        "base_lr": RATES,
        "rule__b1": (0, 0.5, 0.74655, 0.88403, 0.94935, 0.97832, 0.9908, 0.99611, 0.99836, 0.99931),
        "scaling__b2_tokens": HALF_LIVES,
        "seed": (0,),
    },
    "adafactor": {
        "batch_size": BATCH_SIZES,
        "base_lr": RATES,
        "scaling__decay_rate_tokens": HALF_LIVES,
        "seed": (0,),
    },
    "constant_decay": {
        "batch_size": BATCH_SIZES,
        "base_lr": RATES,
        "scaling__b2_tokens": HALF_LIVES,
        "seed": (0,),
    },
    "sgd": {
        "batch_size": (1, 4, 16, 64, 256),
        "base_lr": factors(0.05, 5.0, 100 ** (1 / 19)),
        "seed": (0,),
    },
    "muon": {
        "batch_size": BATCH_SIZES,
        "base_lr": (1e-4, 2e-4, 5e-4, 1e-3, 2.2e-3, 4.6e-3, 1e-2, 2.15e-2, 4.64e-2, 0.1),
        "scaling__b1_tokens": factors(1e3, 1e7, 10 ** (4 / 9)),
        "seed": (0,),
    },
    "small": {
        "batch_size": SMALL_BATCH_SIZES,
        "base_lr": factors(3e-3, 0.8, 4.0),
        "rule": ("optax.adam", "optax.adafactor", "muon", "optax.sgd"),
        "seed": range(3),
    },
}
BETA2 = {"optax.adam": "half_life", "muon": "half_life"}  # which of :small have one by half-life


def get_config(variant: str = "") -> ConfigDict:
    """The grid of one optimizer, or ``small``: all of them."""
    rule, scaling = RULES.get(variant, "adam"), SCALING.get(variant)
    config = language_model(
        "fig01a", variant, CAPTION, CLAIMS, grids=GRIDS, rule=rule, scaling=scaling
    )
    if variant == "muon":
        b1 = {m: decay_of_half_life(life, 512 * m) for m, life in FIRST.items()}
        config.follow.rule__adam_b1 = ("batch_size", tuple(b1.items()))
    if variant == "small":
        config.data.train_size = 1024
        rules = config.sweep.rule
        config.follow.scaling = ("rule", tuple((r, BETA2.get(r, "fixed")) for r in rules))
        config.follow.scaling__b2_tokens = ("rule", tuple((r, SMALL_SECOND) for r in rules))
    return config
