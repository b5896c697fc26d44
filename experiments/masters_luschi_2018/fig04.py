"""Fig. 4: learning curves of ResNet-32 with batch norm at base LR 2^-8, CIFAR-10.

    sbt run experiments/masters_luschi_2018/fig04.py --workdir runs/fig04
    sbt report runs/fig04

Masters & Luschi (2018), section 3.3: at a fixed base LR the curves nearly coincide for 4 <= m <= 64
and are worse for larger batches. 11 runs of 82 epochs, a column of Fig. 7's grid; ``:small`` takes
minutes on two CPU cores.
"""

from ml_collections import ConfigDict
from protocol import sweep

from sbt.report.claims import curves_coincide

VARIANTS = ("", "small")
BASE_LR = 2.0**-8
CAPTION = (
    "at one base learning rate the learning curves nearly coincide for 4 ≤ m ≤ 64; "
    "larger m are worse"
)
CLAIMS = (curves_coincide(4, 64, BASE_LR),)


def get_config(variant: str = "") -> ConfigDict:
    """The paper's grid and budget, or ``small``."""
    config = sweep("fig04", "resnet32", variant, CAPTION, CLAIMS, norm="batch", base_lrs=(BASE_LR,))
    config.report.curves_base_lr = BASE_LR
    config.evaluate.every = 1
    return config
