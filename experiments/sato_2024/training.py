"""What the experiments of Sato & Iiduka (2024), arXiv 2402.02325, section 5 share.

ResNet-18 on CIFAR-100, η = 0.1, β = 0.9, 200 epochs; no weight decay. Augmentation with rotations
is left out. ``:small`` is a net of three convolutions on scikit-learn's digits.
"""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from sbt.config import default
from sbt.errors import UserError

VARIANTS = ("", "small")
EPOCHS, RATE, MOMENTUM = 200, 0.1, 0.9


def training(figure: str, variant: str, caption: str, claims: Sequence[Any]) -> ConfigDict:
    """The config of an experiment, but for what it varies and how long ``small`` trains.

    Args:
      figure: name of the file.
      variant: ``""`` or ``small``.
      caption, claims: what the paper says.
    """
    if variant not in VARIANTS:
        raise UserError(f"{figure}.py:{variant}", "there is no such variant", "use :small, or none")
    config = default()
    config.name = f"sato_2024-{figure}" + "-small" * bool(variant)
    config.report.figure, config.report.caption = "Sato & Iiduka 2024, section 5", caption
    config.report.claims = claims
    config.report.protocol = (
        ("data", "cifar100"),
        ("model", ("resnet18",)),
        ("momentum", MOMENTUM),
        ("epochs", EPOCHS),
        ("seeds", 3),
    )
    config.data.name, config.data.augment = "cifar100", "crop_flip"
    config.model = {"name": "resnet18", "norm": "batch"}
    config.epochs, config.lr_scaling, config.base_lr = EPOCHS, "none", RATE
    config.rule = {"name": "sgd", "momentum": MOMENTUM}
    config.sweep.seed = (0, 1, 2)
    if variant == "small":
        config.data.name, config.data.augment = "digits", "none"
        config.model = {"name": "convnet"}
    return config
