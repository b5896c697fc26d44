"""Fig. 6: reduced AlexNet, batch norm on convolutions only, CIFAR-10.

    sbt run experiments/masters_luschi_2018/fig06.py --workdir runs/fig06
    sbt report runs/fig06

Masters & Luschi (2018), section 3.3: best accuracy for m = 4 ... 32. 143 runs of 82 epochs;
``:small`` takes minutes on two CPU cores.
"""

from ml_collections import ConfigDict
from protocol import sweep

from sbt.report.claims import best_batch

VARIANTS = ("", "small")
CAPTION = "best for m = 4 to 32"
CLAIMS = (best_batch(4, 8, 16, 32),)


def get_config(variant: str = "") -> ConfigDict:
    """The paper's grid and budget, or ``small``."""
    return sweep("fig06", "alexnet", variant, CAPTION, CLAIMS, norm="batch_conv")
