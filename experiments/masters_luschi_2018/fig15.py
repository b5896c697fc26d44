"""Fig. 15: the best accuracy over base learning rates against the batch size, all architectures.

    sbt run experiments/masters_luschi_2018/fig15.py --workdir runs/fig15
    sbt report runs/fig15

Masters & Luschi (2018), section 4: the best accuracy is always at m <= 32 (Fig. 5 names m = 64 as
well, for the AlexNet with batch norm); without batch norm the curves still rise down to m = 2. All
sweeps of Figs. 1-3, 5-8 and 10 in one: 1144 runs of 82 epochs. Where those figures have been run,
``sbt report runs/fig01 runs/fig02 ...`` draws the same summary from them. ``:small`` takes minutes
on two CPU cores.
"""

from architectures import CIFAR10, side_by_side
from ml_collections import ConfigDict

from sbt.report.claims import best_batch

VARIANTS = ("", "small")
CAPTION = (
    "best at m ≤ 32 for every network (Fig. 5 names m = 8 to 64 for the AlexNet with batch norm)"
)
CLAIMS = (best_batch(2, 4, 8, 16, 32, case={"AlexNet BN": (64,)}),)


def get_config(variant: str = "") -> ConfigDict:
    """The paper's grid and budget, or ``small``."""
    return side_by_side("fig15", CIFAR10, variant, CAPTION, CLAIMS)
