"""What Wang, Malladi, Wang, Lyu & Li (2024), arXiv 2307.15196, share: SGD and SGDM at one rate.

SGDM in the form u = β u + (1 - β) g, w = w - η u, is SGD at the same η in the limit of small
learning rates; SGD itself is β = 0. So an axis over momentum, 0 and 0.9, holds matched pairs at
every value of the other axes. Protocol of the paper's CIFAR-10 experiments: ResNet-32 with batch
norm, augmentation, 164 epochs (the drops at 80 and 120 are printed, the end is not), weight decay
1e-4, a tenth of the learning rate after each drop.

``:small`` is a net of three convolutions without batch norm on scikit-learn's digits, 20 epochs:
minutes on two CPU cores.
"""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from sbt.config import default
from sbt.errors import UserError

MOMENTUM = 0.9
SGD, SGDM = {"rule__momentum": 0.0}, {"rule__momentum": MOMENTUM}
EPOCHS, SMALL_EPOCHS = 164, 20
DROPS = (80 / EPOCHS, 120 / EPOCHS)


def pairs(
    figure: str, variant: str, where: str, caption: str, claims: Sequence[Any], *, rule: str
) -> ConfigDict:
    """The config of matched runs.

    Args:
      figure: name of the file.
      variant: ``""`` or ``small``.
      where, caption, claims: what the paper says, and where.
      rule: with a momentum.
    """
    if variant not in ("", "small"):
        raise UserError(f"{figure}.py:{variant}", "there is no such variant", "use :small, or none")
    config = default()
    config.name = f"wang_2024-{figure}" + "-small" * bool(variant)
    config.report.figure, config.report.caption = f"Wang et al. 2024, {where}", caption
    config.report.claims = tuple(claims)
    config.report.protocol = (
        ("model", ("resnet32",)),
        ("rule", rule),
        ("epochs", EPOCHS),
        ("seeds", 3),
    )
    config.data.name, config.data.augment = "cifar10", "crop_flip"
    config.model = {"name": "resnet32", "norm": "batch"}
    config.epochs, config.lr_scaling = EPOCHS, "none"
    config.schedule = {"name": "steps", "drops": DROPS, "factor": 0.1}
    config.rule = {"name": rule, "weight_decay": 1e-4}
    config.sweep.rule__momentum = (0.0, MOMENTUM)
    config.sweep.seed = (0, 1, 2)
    if variant == "small":
        config.data.name, config.data.augment = "digits", "none"
        config.model = {"name": "convnet"}
        config.epochs = SMALL_EPOCHS
        config.sweep.seed = tuple(range(5))
    return config
