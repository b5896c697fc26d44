"""Fig. 11: Fig. 9 with gradual warm-up.

    sbt run experiments/masters_luschi_2018/fig11.py --workdir runs/fig11
    sbt report runs/fig11

Masters & Luschi (2018), section 3.4: best accuracy for m = 4 ... 16; a steeper fall at large
batches than in Fig. 10. 143 runs of 164 epochs; ``:small`` takes minutes on two CPU cores.
"""

from ml_collections import ConfigDict
from protocol import sweep

VARIANTS = ("", "small")


def get_config(variant: str = "") -> ConfigDict:
    """The paper's grid and budget, or ``small``."""
    return sweep(
        "fig11", "resnet32", variant, norm="batch", data="cifar100", augment=True, warmup=True
    )
