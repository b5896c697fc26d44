"""Fig. 4: learning curves of ResNet-32 with batch norm at base LR 2^-8, CIFAR-10.

    sbt run experiments/masters_luschi_2018/fig04.py --workdir runs/fig04
    sbt report runs/fig04

Masters & Luschi (2018), section 3.3: at a fixed base LR the curves nearly coincide for 4 <= m <= 64
and are worse for larger batches. 11 runs of 82 epochs, a column of Fig. 7's grid; ``:small`` takes
minutes on two CPU cores.
"""

from ml_collections import ConfigDict
from protocol import sweep

VARIANTS = ("", "small")


def get_config(variant: str = "") -> ConfigDict:
    """The paper's grid and budget, or ``small``."""
    config = sweep("fig04", "resnet32", variant, norm="batch")
    config.sweep.base_lr = (2.0**-8,)
    config.report.curves_base_lr = 2.0**-8
    config.evaluate.every = 1
    return config
