"""Fig. 7: ResNet-32 with batch norm, CIFAR-10.

    sbt run experiments/masters_luschi_2018/fig07.py --workdir runs/fig07
    sbt report runs/fig07

Masters & Luschi (2018), section 3.3: best accuracy at m = 4 or 8; the best base LR can be used only
up to m = 16. 143 runs of 82 epochs; ``:small`` takes minutes on two CPU cores.
"""

from ml_collections import ConfigDict
from protocol import sweep

from sbt.report.claims import best_batch, best_lr_usable_to

VARIANTS = ("", "small")
CAPTION = "best at m = 4 or 8; the best base learning rate is usable only for m ≤ 16"
CLAIMS = (best_batch(4, 8), best_lr_usable_to(16))


def get_config(variant: str = "") -> ConfigDict:
    """The paper's grid and budget, or ``small``."""
    return sweep("fig07", "resnet32", variant, CAPTION, CLAIMS, norm="batch")
