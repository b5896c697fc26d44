"""Fig. 5, first part: small-batch training that keeps its weights after every epoch.

    sbt run experiments/keskar_2017/fig05_iterates.py

ADAM with batches of 256, 100 epochs of C1 (``:f1``, ``:c2`` ... for others, ``:small`` and
``:digits`` as everywhere). ``fig05_warm_start.py`` starts large batches from each of the weights.
"""

from keskar import (
    VARIANTS,  # noqa: F401 (what get_config takes)
    study,
)
from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """C1 with the paper's budget, another of its nets, ``small`` or ``digits``."""
    config = study("fig05_iterates", variant, "Fig. 5", "the small-batch part", net="c1")
    config.batch_size = min(config.sweep.batch_size)
    config.sweep.batch_size, config.sweep.seed = None, (0,)
    config.checkpoint.weights_every = 1
    return config
