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
from sbt.report.statements import exceeds

VARIANTS = ("", "small")
CAPTION = (
    "best at m ≤ 32 for every network (Fig. 5 names m = 8 to 64 for the AlexNet with batch norm)"
)
TUNED = {"tune": "base_lr", "best": "highest"}
WARM_UP = {"case": "ResNet-32 BN Aug WU"}
COLD = {"case": "ResNet-32 BN Aug"}
CLAIMS = (
    best_batch(2, 4, 8, 16, 32, case={"AlexNet BN": (64,)}),
    exceeds(
        "Batch norm makes the AlexNet more accurate at m = 128 (Figs 1 and 5)",
        "accuracy",
        more={"case": "AlexNet BN"},
        less={"case": "AlexNet"},
        at={"batch_size": 128},
        **TUNED,
    ),
    exceeds(
        "Batch norm on dense layers hurts at m = 2 (Figs 5 and 6)",
        "accuracy",
        more={"case": "AlexNet BN conv"},
        less={"case": "AlexNet BN"},
        at={"batch_size": 2},
        **TUNED,
    ),
    exceeds(
        "At m = 2 twenty layers without batch norm are no worse than eight (Figs 2 and 3)",
        "accuracy",
        more={"case": "ResNet-20"},
        less={"case": "ResNet-8"},
        at={"batch_size": 2},
        margin=-0.01,
        **TUNED,
    ),
    exceeds(
        "Warm-up gains at m = 512 (Figs 8 and 10)",
        "accuracy",
        more=WARM_UP,
        less=COLD,
        at={"batch_size": 512},
        **TUNED,
    ),
    exceeds(
        "With warm-up m = 2048 stays below m = 8 without (Figs 8 and 10)",
        "accuracy",
        more={**COLD, "batch_size": 8},
        less={**WARM_UP, "batch_size": 2048},
        **TUNED,
    ),
)


def get_config(variant: str = "") -> ConfigDict:
    """The paper's grid and budget, or ``small``."""
    return side_by_side("fig15", CIFAR10, variant, CAPTION, CLAIMS)
