"""Fig. 1: reduced AlexNet without batch norm, CIFAR-10.

    sbt run experiments/masters_luschi_2018/fig01.py --workdir runs/fig01
    sbt report runs/fig01

Masters & Luschi (2018), section 3.2: best accuracy for batch sizes of 8 and below. 143 runs of 82
epochs; ``:small`` takes minutes on two CPU cores.
"""

from ml_collections import ConfigDict
from protocol import sweep

from sbt.report.claims import best_batch

VARIANTS = ("", "small")
CAPTION = "best for m ≤ 8"
CLAIMS = (best_batch(2, 4, 8),)


def get_config(variant: str = "") -> ConfigDict:
    """The paper's grid and budget, or ``small``."""
    return sweep("fig01", "alexnet", variant, CAPTION, CLAIMS)
