"""Fig. 17: Fig. 8 with half the budget.

    sbt run experiments/masters_luschi_2018/fig17.py --workdir runs/fig17
    sbt report runs/fig17

Masters & Luschi (2018), appendix A: 41 epochs instead of 82. 143 runs of 41 epochs; ``:small``
takes minutes on two CPU cores.
"""

from ml_collections import ConfigDict
from protocol import sweep

from sbt.report.statements import exceeds

VARIANTS = ("", "small")
CAPTION = "half the epochs of Fig. 8; compared with Figs 8 and 18"
CLAIMS = (
    exceeds(
        "Large batches stay below small ones: m = 2048 below m = 8",
        "accuracy",
        more={"batch_size": 8},
        less={"batch_size": 2048},
        tune="base_lr",
    ),
)


def get_config(variant: str = "") -> ConfigDict:
    """The paper's grid and budget, or ``small``."""
    return sweep(
        "fig17", "resnet32", variant, CAPTION, CLAIMS, norm="batch", augment=True, epochs=41
    )
