"""The trunk of ``branching.py``: a small transformer of bytes at m = 1, kept after every epoch.

    sbt run experiments/critical_batch/trunk.py --workdir runs/trunk

AdamW at a constant learning rate after a short warm-up, so that a branch may leave at any moment
without a schedule that would fall in one and not in the other. 12 epochs of 6,144 sequences of the
language reference inside Python, four seeds: minutes on two cores.
"""

from ml_collections import ConfigDict

from sbt.config import default
from sbt.errors import UserError

VARIANTS = ("",)
EPOCHS, SEQUENCES, LENGTH, TESTED = 12, 6144, 64, 512
SEEDS = range(4)


def get_config(variant: str = "") -> ConfigDict:
    """The trunk; there is one variant."""
    if variant:
        raise UserError(f"trunk.py:{variant}", "there is no such variant", "leave it out")
    config = default()
    config.name = "trunk"
    config.data.name, config.data.seq_len = "python_docs", LENGTH
    config.data.train_size, config.data.test_size = SEQUENCES, TESTED
    config.model = {"name": "gpt", "width": 64, "depth": 2, "heads": 2}
    config.rule = {"name": "optax.adamw", "b2": 0.99, "weight_decay": 0.1}
    config.schedule = {"name": "constant", "warmup": 0.02, "warmup_start": 0.0}
    config.lr_scaling, config.base_lr, config.batch_size = "sqrt", 1e-3, 1
    config.epochs = EPOCHS
    config.report.last_epochs = 1
    config.checkpoint.weights_every = 1
    config.checkpoint.rule_state = True
    config.sweep.seed = tuple(SEEDS)
    return config
