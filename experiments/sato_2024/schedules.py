"""Schedules of the degree of smoothing δ: by learning rate, batch size or momentum, CIFAR-100.

    sbt run experiments/sato_2024/schedules.py --workdir runs/sato
    sbt report runs/sato

Sato & Iiduka (2024), arXiv 2402.02325, section 5: the noise of SGD with momentum smooths the loss
to a degree δ that learning rate, batch size and momentum determine; lowering δ in training, along
one polynomial (power 0.9), ends more accurate than leaving it where it is, whichever of the three
lowers it. ResNet-18, η = 0.1, β = 0.9, b = 256, 200 epochs, C² = 25.318 and K = 1.77 as in the
authors' code, whose ``lr-batch`` never changes the rate by a slip; no weight decay. Augmentation
with rotations is left out. Their later version says that momentum does not reduce the noise (its
title), against which ``beta`` is the control.

5 schedules x 3 seeds = 15 runs: for accelerators. ``:small`` is a net of three convolutions on
scikit-learn's digits, 20 epochs, b = 32 and η = 0.05, minutes on two CPU cores; its C² and K are
those of the other net, so that ``beta`` and ``lr-batch`` follow another δ than the net's.

``results/schedules_small`` has 30 seeds (five decided nothing): lowering δ by any of the four means
gains 1.1 to 1.2 points [0.4, 1.9], and rate alone and rate with batch differ by 0.03 [-0.3, 0.3]:
all claims hold. ``beta``, the control, gains as much as the others. Most of it is gained by the
worst tenth of the seeds, 91 % without and 96 to 97 % with a schedule; medians differ by 0.3 at
most.
"""

from ml_collections import ConfigDict
from training import (
    VARIANTS,  # noqa: F401 (what get_config takes)
    training,
)

from sbt.report.statements import exceeds, nearly_equal

CAPTION = "lowering the degree of smoothing ends more accurate than keeping it, by any means"
MEANS = ("lr", "lr-batch", "beta", "lr-beta")
CONSTANT = {"noise": "none"}
CLAIMS = (
    *(
        exceeds(
            f"Lowering δ by {means} ends more accurate than keeping it",
            "accuracy",
            more={"noise": means},
            less=CONSTANT,
        )
        for means in MEANS
    ),
    nearly_equal(
        "By learning rate alone or with the batch size it ends equally accurate, within a point",
        "accuracy",
        one={"noise": "lr"},
        other={"noise": "lr-batch"},
        margin=0.01,
    ),
)


def get_config(variant: str = "") -> ConfigDict:
    """CIFAR-100, or ``small``."""
    config = training("schedules", variant, CAPTION, CLAIMS)
    config.batch_size = config.bn_batch = 256
    config.sweep.noise = ("none", *MEANS)
    constants = {"variance": 25.318, "gradient_bound": 1.77, "power": 0.9}
    if variant == "small":
        config.epochs, config.batch_size, config.base_lr = 20, 32, 0.05
        config.bn_batch = None
        config.sweep.seed = tuple(range(5))
    for field, value in {**constants, "epochs": float(config.epochs)}.items():
        config.follow[f"noise__{field}"] = ("noise", tuple((means, value) for means in MEANS))
    return config
