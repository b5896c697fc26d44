"""Fig. 5: reduced AlexNet, batch norm on convolutions and dense layers, CIFAR-10.

    sbt run experiments/masters_luschi_2018/fig05.py --workdir runs/fig05
    sbt report runs/fig05

Masters & Luschi (2018), section 3.3: best accuracy for m = 8 ... 64; above Fig. 1 for many batch
sizes. 143 runs of 82 epochs; ``:small`` takes minutes on two CPU cores.
"""

from ml_collections import ConfigDict
from protocol import sweep

from sbt.report.claims import best_batch

VARIANTS = ("", "small")
CAPTION = "best for m = 8 to 64"
CLAIMS = (best_batch(8, 16, 32, 64),)


def get_config(variant: str = "") -> ConfigDict:
    """The paper's grid and budget, or ``small``."""
    return sweep("fig05", "alexnet", variant, CAPTION, CLAIMS, norm="batch")
