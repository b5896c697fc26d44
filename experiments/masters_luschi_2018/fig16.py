"""Fig. 16: the range of base learning rates that train reliably against the batch size.

    sbt run experiments/masters_luschi_2018/fig16.py --workdir runs/fig16
    sbt report runs/fig16

Masters & Luschi (2018), section 4: the range shrinks monotonically as the batch grows. The paper
gives no rule for "reliable"; here a cell is, if it did not diverge and is within ``report.margin``
(default 5 points) of the figure's best. All sweeps of Figs. 1-3 and 5-11 in one: 1430 runs. Where
those figures have been run, ``sbt report runs/fig01 runs/fig02 ...`` draws the same summary from
them. ``:small`` takes minutes on two CPU cores.
"""

from architectures import CIFAR10, CIFAR100, side_by_side
from ml_collections import ConfigDict

from sbt.report.claims import range_shrinks

VARIANTS = ("", "small")
CAPTION = "the range of stable base learning rates shrinks steadily as m grows"
CLAIMS = (range_shrinks(0.2),)  # and at margins of 0.05 and 0.1, as on every grid


def get_config(variant: str = "") -> ConfigDict:
    """The paper's grid and budget, or ``small``."""
    return side_by_side("fig16", CIFAR10 | CIFAR100, variant, CAPTION, CLAIMS)
