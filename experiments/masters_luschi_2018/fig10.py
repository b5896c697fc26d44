"""Fig. 10: Fig. 8 with gradual warm-up.

    sbt run experiments/masters_luschi_2018/fig10.py --workdir runs/fig10
    sbt report runs/fig10

Masters & Luschi (2018), section 3.4: best accuracy at m = 4 and 8, quite good up to m = 128. 143
runs of 82 epochs; ``:small`` takes minutes on two CPU cores.
"""

from ml_collections import ConfigDict
from protocol import sweep

from sbt.report.claims import best_batch, good_at

VARIANTS = ("", "small")
CAPTION = "with warm-up, best at m = 4 or 8, good up to m = 128"
CLAIMS = (best_batch(4, 8), good_at(128))


def get_config(variant: str = "") -> ConfigDict:
    """The paper's grid and budget, or ``small``."""
    return sweep(
        "fig10", "resnet32", variant, CAPTION, CLAIMS, norm="batch", augment=True, warmup=True
    )
