"""Quickstart: what batch size does to a small convnet on scikit-learn's digits, in a minute.

    make demo        (or: sbt run experiments/quickstart.py && sbt report runs/quickstart)

8 batch sizes x 9 base learning rates x 3 seeds = 216 runs of 10 epochs, one compiled program. The
figure shows the main finding of Masters & Luschi (2018): the range of stable base learning rates
shrinks as the batch grows, and the best accuracy falls at large batches.

``results/quickstart`` has ten seeds: with a margin of 10 points a base learning rate may be one of
seven at m = 2 to 16, and of six, five, three and none at 32 to 256; the best accuracy falls from
98.5 % at m = 2 to 85.9 % at 256. All three claims hold.
"""

from ml_collections import ConfigDict

from sbt.config import default
from sbt.errors import UserError

VARIANTS = ("", "tiny")


def get_config(variant: str = "") -> ConfigDict:
    """The quickstart grid; ``:tiny`` is a 12-run version of it for trying things out."""
    config = default()
    config.name = "quickstart"
    config.data.name = "digits"
    config.model.name = "convnet"
    config.epochs = 10
    config.schedule.name = "steps"  # LR / 10 at 50 % and again at 75 % of the budget
    config.sweep.batch_size = tuple(2**k for k in range(1, 9))  # 2 ... 256
    config.sweep.base_lr = tuple(2.0**k for k in range(-12, -3))  # 2^-12 ... 2^-4
    config.sweep.seed = (0, 1, 2)
    if variant == "tiny":
        config.name = "quickstart-tiny"
        config.epochs = 3
        config.sweep.batch_size = (2, 16, 128)
        config.sweep.base_lr = (2.0**-8, 2.0**-6, 2.0**-4, 2.0**-2)
        config.sweep.seed = (0,)
    elif variant:
        raise UserError(f"quickstart.py:{variant}", "there is no such variant", "use :tiny")
    return config
