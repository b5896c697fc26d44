"""How far a grid goes: a hundred to a million runs of a tiny network.

    sbt run experiments/many_runs.py:1000000 --workdir runs/many
    sbt report runs/many

The variant is the number of runs, a thousand without one: 5 batch sizes × 20 learning rates ×
seeds, of a network of 1,316 parameters on 64 synthetic images, two epochs. It asks what a run costs
beside its arithmetic: memory of the host, files, and whether it resumes. ``docs/speed.md`` tells
what it took on two CPU cores.
"""

from ml_collections import ConfigDict

from sbt.config import default
from sbt.errors import UserError

VARIANTS = ("", "100", "10000", "100000", "1000000")
BATCH_SIZES, RATES = (1, 2, 4, 8, 16), tuple(2.0 ** (-k / 4) for k in range(20))


def get_config(variant: str = "") -> ConfigDict:
    """So many runs; a thousand by default."""
    if variant not in VARIANTS:
        known = ", ".join(VARIANTS[1:])
        raise UserError(
            f"many_runs.py:{variant}", "there is no such variant", f"use one of {known}"
        )
    runs = int(variant or 1000)
    config = default()
    config.name = f"many_runs-{runs}"
    config.data = {
        "name": "synthetic",
        "image_shape": (4, 4, 1),
        "num_classes": 4,
        "train_size": 64,
        "test_size": 64,
    }
    config.model = {"name": "convnet", "norm": "none"}
    config.epochs = 2
    config.report.last_epochs = 1
    config.sweep.batch_size = BATCH_SIZES
    config.sweep.base_lr = RATES
    config.sweep.seed = tuple(range(runs // 100))
    return config
