"""Fig. 18: Fig. 8 with twice the budget.

    sbt run experiments/masters_luschi_2018/fig18.py --workdir runs/fig18
    sbt report runs/fig18

Masters & Luschi (2018), appendix A: 164 epochs instead of 82; at the best base LR longer training
helps mainly large batches, which stay below small ones. 143 runs of 164 epochs; ``:small`` takes
minutes on two CPU cores.
"""

from ml_collections import ConfigDict
from protocol import sweep

from sbt.report.statements import exceeds

VARIANTS = ("", "small")
CAPTION = (
    "twice the epochs of Fig. 8: longer training helps, mainly large m, which stay below small m"
)
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
        "fig18", "resnet32", variant, CAPTION, CLAIMS, norm="batch", augment=True, epochs=164
    )
