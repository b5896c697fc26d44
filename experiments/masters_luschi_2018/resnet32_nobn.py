"""ResNet-32 without batch norm, CIFAR-10: an experiment that the paper describes without a figure.

    sbt run experiments/masters_luschi_2018/resnet32_nobn.py --workdir runs/resnet32_nobn
    sbt report runs/resnet32_nobn

Masters & Luschi (2018), section 3.2: m = 2, 4 and 8 learn, at best 76 %; larger batches fail at
every base learning rate. 143 runs of 82 epochs; ``:small`` takes minutes on two CPU cores.
"""

from ml_collections import ConfigDict
from protocol import sweep

from sbt.report.claims import best_batch, learns_only_below

VARIANTS = ("", "small")
CAPTION = "m ≥ 16 fails at every base learning rate; m = 2, 4, 8 learn, at best 76 %"
CLAIMS = (best_batch(2, 4, 8), learns_only_below(16))


def get_config(variant: str = "") -> ConfigDict:
    """The paper's grid and budget, or ``small``."""
    return sweep("resnet32_nobn", "resnet32", variant, CAPTION, CLAIMS)
