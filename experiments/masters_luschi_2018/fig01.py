"""Fig. 1: reduced AlexNet without batch norm, CIFAR-10.

    sbt run experiments/masters_luschi_2018/fig01.py --workdir runs/fig01
    sbt report runs/fig01

Masters & Luschi (2018), section 3.2: best accuracy for batch sizes of 8 and below. 143 runs of 82
epochs; ``:small`` takes minutes on two CPU cores.

``results/fig01_small`` has it with three seeds (6 minutes on two idle cores). m = 2 is best with
47.4 %, and 8 within the noise of it; 32 comes to 41 %, and 128 to 29 %, at the smallest base
learning rate alone. The larger the batch, the fewer rates it learns at: all five at 2 and 8, three
at 32.
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
