"""Fig. 3: ResNet-20 without batch norm, CIFAR-10.

    sbt run experiments/masters_luschi_2018/fig03.py --workdir runs/fig03
    sbt report runs/fig03

Masters & Luschi (2018), section 3.2: best accuracy at m = 4 and m = 2; small batches also take the
added difficulty of depth away. 143 runs of 82 epochs; ``:small`` takes minutes on two CPU cores.
"""

from ml_collections import ConfigDict
from protocol import sweep

from sbt.report.claims import best_batch

VARIANTS = ("", "small")
CAPTION = "best at m = 2 and m = 4"
CLAIMS = (best_batch(2, 4),)


def get_config(variant: str = "") -> ConfigDict:
    """The paper's grid and budget, or ``small``."""
    return sweep("fig03", "resnet20", variant, CAPTION, CLAIMS)
