"""Fig. 1a: optimizers, each tuned, are alike at small batch sizes and part at large ones.

    sbt run experiments/marek_2025/fig01a.py:small --workdir runs/marek01a
    sbt report runs/marek01a

Marek et al. (2025), section 4.1: 30M parameters, FineWeb-Edu. Every optimizer has its best loss at
the smallest batch size, and the gap between them grows with it. Losses at B 1, 64, 1024: Adam 3.69,
3.74, 3.94; Adafactor 3.69, 3.82, 4.57; Muon 3.66, 3.71, 3.82; SGD 3.82 (1) and above 4.9 (64).

One variant for each optimizer, as the paper has a grid for each, 3110 runs: Adam over beta1 and
beta2 (``""``), ``adafactor``, ``sgd`` without momentum, ``muon``. Adafactor's "beta2" is handed to
optax's decay_rate, beta2(t) = 1 - (t+1)^-value, in the paper's code: with 0.9999 that is the plain
mean of all squared gradients, not a half-life. ``adafactor`` is the grid of the code;
``constant_decay`` the other reading, whose nearest in optax is RMSprop, its average not factored.
The paper's Muon works per head, with Adam on both embeddings; ``optax.contrib.muon`` takes all
matrices, embeddings too, and leaves 4-dimensional kernels of attention to Adam.

``:small`` trains all four over the same wide grid of rates: 4 x 4 x 6 x 3 = 288 runs.
"""

from language import BATCH_SIZES, SMALL_BATCH_SIZES, factors, language_model
from ml_collections import ConfigDict

from sbt.report.claims import best_batch
from sbt.report.tuning import optimizers_part

VARIANTS = ("", "adafactor", "constant_decay", "sgd", "muon", "small")
CAPTION = "optimizers are alike at small batch sizes and part at large ones"
CLAIMS = (optimizers_part(), best_batch(1, 4))
RULES = {
    "": "adam",
    "adafactor": "optax.adafactor",
    "constant_decay": "optax.rmsprop",
    "sgd": "sgd",
    "muon": "optax.contrib.muon",
    "small": "adam",
}
OPTIMIZERS = ("optax.adam", "optax.adafactor", "optax.contrib.muon", "optax.sgd")
GRIDS = {
    "": {
        "batch_size": BATCH_SIZES,
        "base_lr": factors(1e-4, 5e-1, 3.5),
        "rule__b1": (0, 0.5, 0.74655, 0.88403, 0.94935, 0.97832, 0.9908, 0.99611, 0.99836, 0.99931),
        "rule__b2": (0.9, 0.96, 0.99, 0.999, 0.9999),
        "seed": (0,),
    },
    "adafactor": {
        "batch_size": BATCH_SIZES,
        "base_lr": factors(1e-4, 5e-1, 3.5),
        "rule__decay_rate": (0.23, 0.5, 0.8, 0.99, 0.9999),
        "seed": (0,),
    },
    "constant_decay": {
        "batch_size": BATCH_SIZES,
        "base_lr": factors(1e-4, 5e-1, 3.5),
        "rule__decay": (0.9, 0.96, 0.99, 0.999, 0.9999),
        "seed": (0,),
    },
    "sgd": {
        "batch_size": (1, 4, 16, 64, 256),
        "base_lr": factors(0.05, 5.0, 100 ** (1 / 19)),
        "seed": (0,),
    },
    "muon": {
        "batch_size": BATCH_SIZES,
        "base_lr": factors(1e-4, 0.1, 10 ** (1 / 3)),
        "rule__beta": (0, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.9993),
        "seed": (0,),
    },
    "small": {
        "batch_size": SMALL_BATCH_SIZES,
        "base_lr": factors(1e-3, 1.1, 4.0),
        "rule": OPTIMIZERS,
        "seed": range(3),
    },
}


def get_config(variant: str = "") -> ConfigDict:
    """The grid of one optimizer, or ``small``: all of them."""
    rule = RULES.get(variant, "adam")
    return language_model("fig01a", variant, CAPTION, CLAIMS, grids=GRIDS, rule=rule)
