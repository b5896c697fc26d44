"""Fig. 16: MCLR against LARS, ResNet-18, CIFAR-10.

    sbt run experiments/gao_zhong_2020/fig16.py --workdir runs/gz16
    python experiments/gao_zhong_2020/draw.py runs/gz16 gz16.png
    sbt report runs/gz16

Gao & Zhong (2020), arXiv 2012.08795, section 4.2: the training accuracy of the median-curvature
learning rate (equation 22) and of LARS is nearly equal at a batch of 1024; MCLR works below 8192
and degrades faster than LARS beyond. ``draw.py`` draws that: training accuracy over the epochs at
1024 and at the end against the batch size, each at the learning rate whose training accuracy ends
highest, median and range of the seeds. The report is about test accuracy.

Learning rates, schedule, momentum, weight decay, augmentation and epochs are not printed. Chosen
here: 100 epochs, momentum 0.9 for both, weight decay 5e-4, pad-and-crop with flips, learning rate
decaying with power 2 as in LARS, and for both the same grid of the relative change per step (LARS
with a trust coefficient of 1). Batch norm takes its statistics over 128 examples at every batch
size. MCLR reads "median" as the median of magnitudes; ``--config.rule.median_kind=lower`` is
PyTorch's median.

2 rules x 7 batch sizes x 7 learning rates x 3 seeds = 294 runs of 100 epochs, a compiled program
for each rule: for accelerators. ``:small`` is a net of three convolutions without batch norm, on
2048 images for 10 epochs, minutes on two CPU cores. It shows tendencies.
"""

from ml_collections import ConfigDict

from sbt.config import default
from sbt.errors import UserError
from sbt.report.statements import gap_grows, nearly_equal

VARIANTS = ("", "small")
CAPTION = "MCLR trains as accurately as LARS at m = 1024, and degrades faster beyond m = 8192"
TUNED = {"tune": "base_lr", "best": "highest"}
CLAIMS = (
    nearly_equal(
        "At m = 1024 both end with the same training accuracy, within a point",
        "train_accuracy",
        one={"rule": "mclr"},
        other={"rule": "lars"},
        margin=0.01,
        at={"batch_size": 1024},
        **TUNED,
    ),
    gap_grows(
        "MCLR falls behind LARS as the batch grows",
        "train_accuracy",
        more={"rule": "lars"},
        less={"rule": "mclr"},
        along="batch_size",
        **TUNED,
    ),
)


def get_config(variant: str = "") -> ConfigDict:
    """The grid for accelerators, or ``small``."""
    config = default()
    config.name = "gao_zhong_2020-fig16"
    config.report.figure = "Gao & Zhong 2020, Fig. 16"
    config.report.caption, config.report.claims = CAPTION, CLAIMS
    config.report.protocol = (
        ("model", ("resnet18",)),
        ("rule", "mclr"),
        ("momentum", 0.9),
        ("epochs", 100),
        ("seeds", 3),
    )
    config.data.name = "cifar10"
    config.data.augment = "crop_flip"
    config.model = {"name": "resnet18", "norm": "batch"}
    config.epochs = 100
    config.bn_batch = 128
    config.batch_size = 1024
    config.lr_scaling = "none"
    config.rule = {"name": "mclr", "momentum": 0.9, "weight_decay": 5e-4}
    config.schedule = {"name": "poly", "power": 2.0}
    config.sweep.rule = ("mclr", "lars")
    config.sweep.batch_size = tuple(2**k for k in range(8, 15))  # 256 ... 16384
    config.sweep.base_lr = tuple(2.0**k for k in range(-13, 0, 2))  # 2^-13 ... 2^-1
    config.sweep.seed = (0, 1, 2)
    config.follow.rule__trust_coefficient = ("rule", (("lars", 1.0),))
    if variant == "small":
        config.name += "-small"
        config.data.train_size, config.data.test_size = 2048, 1000
        config.data.augment = "none"
        config.model = {"name": "convnet", "channels": (8, 16, 32)}
        config.bn_batch = None
        config.epochs = 10
        config.sweep.batch_size = (16, 64, 256)
        config.sweep.base_lr = tuple(2.0**k for k in range(-13, -2, 2))
        config.report.last_epochs = 2
    elif variant:
        raise UserError(f"fig16.py:{variant}", "there is no such variant", "use :small, or none")
    return config
