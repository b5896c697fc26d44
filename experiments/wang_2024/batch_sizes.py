"""SGD and SGDM at matched learning rates against the batch size, CIFAR-10.

    sbt run experiments/wang_2024/batch_sizes.py --workdir runs/wang_batches
    sbt report runs/wang_batches

Wang et al. (2024), section 5: at small and medium batches SGD is as good as SGDM at the matched
learning rate; momentum helps at large batches alone, where curvature limits the step. (Theirs is
ResNet-50 on ImageNet, 90 epochs; sizes and accuracies are in figures that print no numbers.) The
margin of a point is ours. 2 x 8 batch sizes x 9 learning rates x 3 seeds = 432 runs: for
accelerators. ``:small``: see ``momentum.py``.

``results/batch_sizes_small`` (digits, five seeds): at m = 8 the best SGD and the best SGDM differ
by 0 [-0.4, 0.4] points. What momentum gains at m = 512 is not decided, since its seeds lie between
48 and 94 %. Matched runs part by 0.11 nats in the first epoch, where a momentum that starts at
zero has yet to fill, and by no more than 0.02 from the third on.
"""

from ml_collections import ConfigDict
from momentum import SGD, SGDM, pairs

from sbt.report.statements import exceeds, gap_grows, nearly_equal

VARIANTS = ("", "small")
CAPTION = "momentum does not help at small batches, and does at large ones"
TUNED = {"tune": "base_lr", "best": "highest"}
POINT = 0.01
CLAIMS = (
    nearly_equal(
        "At the smallest batch the best SGD and the best SGDM are equally good, within a point",
        "accuracy",
        one=SGDM,
        other=SGD,
        margin=POINT,
        at={"batch_size": "first"},
        **TUNED,
    ),
    exceeds(
        "At the largest batch the best SGDM is better than the best SGD",
        "accuracy",
        more=SGDM,
        less=SGD,
        at={"batch_size": "last"},
        **TUNED,
    ),
    gap_grows(
        "What momentum gains grows with the batch",
        "accuracy",
        more=SGDM,
        less=SGD,
        along="batch_size",
        **TUNED,
    ),
    nearly_equal(
        "At the smallest batch and learning rate both have the same training loss at every epoch",
        "train_loss",
        one=SGDM,
        other=SGD,
        margin=0.02,
        at={"batch_size": "first", "base_lr": "first", "epoch": "all"},
    ),
)


def get_config(variant: str = "") -> ConfigDict:
    """CIFAR-10, or ``small``."""
    config = pairs("batch_sizes", variant, "section 5", CAPTION, CLAIMS, rule="normalized_shb")
    config.sweep.batch_size = tuple(2**k for k in range(6, 14))  # 64 ... 8192
    config.bn_batch = 64
    config.sweep.base_lr = tuple(2.0**k for k in range(-5, 4))
    if variant == "small":
        config.bn_batch = None
        config.sweep.batch_size = (8, 32, 128, 512)
        config.sweep.base_lr = tuple(2.0**k for k in range(-7, 2))
    return config
