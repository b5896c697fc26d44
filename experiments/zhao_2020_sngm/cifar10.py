"""SNGM and its baselines on CIFAR-10 against the batch size, with and without warm-up.

    sbt run experiments/zhao_2020_sngm/cifar10.py             (ResNet-20)
    sbt run experiments/zhao_2020_sngm/cifar10.py:resnet56    (or :vgg16)
    sbt report runs/zhao_2020_sngm/cifar10

Zhao, Shi, Xie & Li, *Stochastic Normalized Gradient Descent with Momentum for Large-Batch
Training* (arXiv 2007.13985). The question: up to which batch size does each method keep its
accuracy, and does it need warm-up? The paper's answer: SNGM keeps it at large batches, without
warm-up.

Of the protocol this is known: ResNet-20 (and others) on CIFAR-10, 160 epochs, weight decay 1e-4,
momentum 0.9, batches of 128 for MSGD and 4096 for SNGM and LARS, a polynomial learning rate (MSGD:
0.1, / 10 at epochs 80 and 120), and the baselines MSGD, LARS, LAMB, CLARS and EXTRAP-SGD. The other
learning rates, power, length of warm-up and accuracies were not available to us: nothing here is to
be compared with the paper's tables.

Chosen here: power 1.1 (``--config.schedule.power=2`` is the value of LARS), 5 epochs of warm-up
from 0, batch norm over 128 examples for every batch size (as accumulation with micro-batches of 128
does), pad-and-crop with flips, three seeds, and for every method the same grid of nine learning
rates, per update (η = η̃). Trust coefficients of LARS and CLARS are 1, so that their rate is a
relative change per step, as in LAMB. EXTRAP-SGD extrapolates over 128/m of its learning rate, that
of one worker of m/128. The reported accuracy is the median of the last five epochs. With batch norm
an example has no gradient of its own: CLARS then averages the gradient norms of the micro-batches
of 128.

6 methods x 2 x 4 batch sizes x 9 learning rates x 3 seeds = 1296 runs of 160 epochs, one compiled
program per method: for accelerators. ``:small`` is a net of three convolutions without batch norm,
on 1024 images for 10 epochs, with workers of 32, minutes on two CPU cores. It shows tendencies.
"""

from typing import Any

from ml_collections import ConfigDict

from sbt.config import default
from sbt.errors import UserError
from sbt.report.statements import exceeds, nearly_equal

METHODS = {"MSGD": "sgd", "LARS": "lars", "LAMB": "lamb", "CLARS": "clars",
           "EXTRAP-SGD": "extrap_sgd", "SNGM": "sngm"}  # fmt: skip
EPOCHS, WARMUP_EPOCHS = 160, 5
WORKER_BATCH = 128
NETS = {"": "resnet20", "resnet56": "resnet56", "vgg16": "vgg16", "small": "resnet20"}
VARIANTS = tuple(NETS)
CAPTION = "SNGM keeps its accuracy at large batch sizes, without warm-up"
TUNED = {"tune": "base_lr", "best": "highest"}
COLD, WARM = {"schedule__warmup": "first"}, {"schedule__warmup": "last"}
MSGD, SNGM = {"rule": "sgd"}, {"rule": "sngm"}
POINT = 0.01


def claims(large: int) -> tuple[Any, ...]:
    """What the paper says of a large batch, each method at its best learning rate."""
    small, large = {"batch_size": "first"}, {"batch_size": large}
    return (
        exceeds(
            "SNGM with large batches, without warm-up, is within a point of MSGD with small ones",
            "accuracy",
            more={**SNGM, **large},
            less={**MSGD, **small},
            at=COLD,
            margin=-POINT,
            **TUNED,
        ),
        exceeds(
            "MSGD loses a point or more with large batches",
            "accuracy",
            more={**MSGD, **small},
            less={**MSGD, **large},
            at=COLD,
            margin=POINT,
            **TUNED,
        ),
        exceeds(
            "With large batches, without warm-up, SNGM is more accurate than LARS",
            "accuracy",
            more=SNGM,
            less={"rule": "lars"},
            at={**COLD, **large},
            **TUNED,
        ),
        nearly_equal(
            "Warm-up does not help SNGM with large batches, within a point",
            "accuracy",
            one=WARM,
            other=COLD,
            margin=POINT,
            at={**SNGM, **large},
            **TUNED,
        ),
    )


def get_config(variant: str = "") -> ConfigDict:
    """The grid for accelerators, of ResNet-20 or another net, or ``small``."""
    config = default()
    config.name = "zhao_2020_sngm-cifar10" + f"-{variant}" * (variant in ("resnet56", "vgg16"))
    if variant not in NETS:
        known = ", ".join(f":{name}" for name in VARIANTS[1:])
        raise UserError(f"cifar10.py:{variant}", "there is no such variant", f"use {known} or none")
    config.report.figure, config.report.caption = "Zhao et al. 2020 (SNGM)", CAPTION
    config.report.claims = claims(256 if variant == "small" else 4096)
    config.report.protocol = (
        ("model", (NETS[variant],)),
        ("rule", "sngm"),
        ("momentum", 0.9),
        ("epochs", EPOCHS),
        ("seeds", 3),
    )
    config.data.name = "cifar10"
    config.data.augment = "crop_flip"
    config.model = {"name": NETS[variant], "norm": "batch"}
    config.epochs = EPOCHS
    config.bn_batch = WORKER_BATCH
    config.batch_size = WORKER_BATCH
    config.lr_scaling = "none"
    config.schedule = {"name": "poly", "power": 1.1, "warmup_start": 0.0}
    rules = tuple(METHODS.values())
    config.sweep.rule = rules
    config.sweep.schedule__warmup = (0.0, WARMUP_EPOCHS / EPOCHS)
    config.sweep.batch_size = (128, 1024, 4096, 8192)
    config.sweep.base_lr = tuple(2.0**k for k in range(-7, 2))  # 2^-7 ... 2
    config.sweep.seed = (0, 1, 2)
    config.follow.rule__momentum = ("rule", tuple((r, 0.9) for r in rules if r != "lamb"))
    decay = 5e-4 if variant == "vgg16" else 1e-4  # the paper's is for the ResNets
    config.follow.rule__weight_decay = ("rule", tuple((r, decay) for r in rules))
    config.follow.rule__trust_coefficient = ("rule", (("lars", 1.0), ("clars", 1.0)))
    # MSGD drops its learning rate at 50 % and 75 %, the default of "steps".
    schedules = {rule: "steps" if rule == "sgd" else "poly" for rule in rules}
    config.follow.schedule = ("rule", tuple(schedules.items()))
    if variant == "small":
        config.name += "-small"
        config.data.train_size, config.data.test_size = 1024, 1000
        config.data.augment = "none"
        config.model = {"name": "convnet", "channels": (8, 16, 32)}
        config.bn_batch = None
        config.epochs = 10
        config.sweep.schedule__warmup = (0.0, 0.1)
        config.sweep.batch_size = (32, 256)
        config.sweep.base_lr = (2.0**-9, 2.0**-7, 2.0**-5, 2.0**-3)
        config.sweep.seed = (0, 1, 2)
        config.report.last_epochs = 2
    worker = min(config.sweep.batch_size)
    extrapolation = tuple((m, worker / m) for m in config.sweep.batch_size)
    config.follow.rule__extrapolation = ("batch_size", extrapolation)
    return config
