"""Fig. 11: Fig. 9 with gradual warm-up.

    sbt run experiments/masters_luschi_2018/fig11.py --workdir runs/fig11
    sbt report runs/fig11

Masters & Luschi (2018), section 3.4: best accuracy for m = 4 ... 16; a steeper fall at large
batches than in Fig. 10. 143 runs of 164 epochs; ``:small`` takes minutes on two CPU cores.
"""

from ml_collections import ConfigDict
from protocol import sweep

from sbt.report.claims import best_batch

VARIANTS = ("", "small")
CAPTION = "with warm-up, best for m = 4 to 16"
CLAIMS = (best_batch(4, 8, 16),)


def get_config(variant: str = "") -> ConfigDict:
    """The paper's grid and budget, or ``small``."""
    return sweep(
        "fig11",
        "resnet32",
        variant,
        CAPTION,
        CLAIMS,
        norm="batch",
        data="cifar100",
        augment=True,
        warmup=True,
    )
