"""The architectures that Figs. 15 and 16 of Masters & Luschi (2018) put side by side."""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict
from protocol import sweep

# label: model, norm, data set, augmentation, warm-up, epochs
CIFAR10 = {
    "AlexNet": ("alexnet", "none", "cifar10", "none", 0.0, 82),
    "AlexNet BN": ("alexnet", "batch", "cifar10", "none", 0.0, 82),
    "AlexNet BN conv": ("alexnet", "batch_conv", "cifar10", "none", 0.0, 82),
    "ResNet-8": ("resnet8", "none", "cifar10", "none", 0.0, 82),
    "ResNet-20": ("resnet20", "none", "cifar10", "none", 0.0, 82),
    "ResNet-32 BN": ("resnet32", "batch", "cifar10", "none", 0.0, 82),
    "ResNet-32 BN Aug": ("resnet32", "batch", "cifar10", "crop_flip", 0.0, 82),
    "ResNet-32 BN Aug WU": ("resnet32", "batch", "cifar10", "crop_flip", 0.05, 82),
}
CIFAR100 = {
    "CIFAR-100 ResNet-32 BN Aug": ("resnet32", "batch", "cifar100", "crop_flip", 0.0, 164),
    "CIFAR-100 ResNet-32 BN Aug WU": ("resnet32", "batch", "cifar100", "crop_flip", 0.05, 164),
}
FIELDS = (
    "model__name",
    "model__norm",
    "data__name",
    "data__augment",
    "schedule__warmup",
    "epochs",
)


def side_by_side(
    figure: str, cases: dict[str, tuple], variant: str, caption: str, claims: Sequence[Any] = ()
) -> ConfigDict:
    """All cases in one sweep: an axis ``case``, the other fields following it."""
    config = sweep(figure, "alexnet", variant, caption, claims)
    if variant == "small":
        small = ("AlexNet", "AlexNet BN", "ResNet-8")
        cases = {name: (*cases[name][:-1], config.epochs) for name in small}
        config.data.train_size //= 2
    config.sweep.case = tuple(cases)
    for position, field in enumerate(FIELDS):
        values = tuple((name, case[position]) for name, case in cases.items())
        config.follow[field] = ("case", values)
    decays = {name: 5e-4 if case[0] == "alexnet" else 1e-4 for name, case in cases.items()}
    config.follow.rule__weight_decay = ("case", tuple(decays.items()))
    config.schedule.warmup_start = 1 / 32
    return config
