"""SGD with momentum, with and without random scaling of the updates, CIFAR-10.

    sbt run experiments/zhang_2024/random_scaling.py --workdir runs/random_scaling
    sbt report runs/random_scaling

Zhang & Cutkosky (2024), arXiv 2405.09742, section 5: multiplying each update of SGDM by one
exponential random number, which its theory for functions without smoothness needs, changes nothing
that can be seen: ResNet-18 trains and generalises as well with it as without. Hyperparameters were
not available to us; here momentum 0.9, weight decay 5e-4, batches of 128, a cosine over 200 epochs,
five learning rates, and the uniform distribution on [0, 2] as well. Margin, ours: a point.

3 distributions x 5 rates x 3 seeds = 45 runs: for accelerators. ``:small`` is a net of three
convolutions on scikit-learn's digits, 20 epochs, minutes on two CPU cores. ``results/
random_scaling_small`` is one: training accuracy with exponential scaling is that without (-0.06
points [-0.2, 0.1]); test accuracy, -0.9 points [-2.1, 0.3], five seeds do not decide. Both scalings
diverge at learning rates that SGDM without bears (2^-4 and above).
"""

from ml_collections import ConfigDict

from sbt.config import default
from sbt.errors import UserError
from sbt.report.statements import nearly_equal

VARIANTS = ("", "small")
CAPTION = "random scaling of the updates makes no difference to SGDM"
DISTRIBUTION = "rule__distribution"
TUNED = {"tune": "base_lr", "best": "highest"}
EPOCHS = 200
CLAIMS = tuple(
    nearly_equal(
        f"With {name} scaling {words} accuracy is that without, within a point",
        accuracy,
        one={DISTRIBUTION: name},
        other={DISTRIBUTION: "none"},
        margin=0.01,
        **TUNED,
    )
    for name in ("exponential", "uniform")
    for words, accuracy in (("test", "accuracy"), ("training", "train_accuracy"))
)


def get_config(variant: str = "") -> ConfigDict:
    """CIFAR-10, or ``small``."""
    if variant not in VARIANTS:
        problem = "there is no such variant"
        raise UserError(f"random_scaling.py:{variant}", problem, "use :small, or none")
    config = default()
    config.name = "zhang_2024-random_scaling" + "-small" * bool(variant)
    config.report.figure, config.report.caption = "Zhang & Cutkosky 2024, section 5", CAPTION
    config.report.claims = CLAIMS
    config.report.protocol = (
        ("model", ("resnet18",)),
        ("rule", "randomly_scaled_sgdm"),
        ("momentum", 0.9),
        ("epochs", EPOCHS),
        ("seeds", 3),
    )
    config.data.name, config.data.augment = "cifar10", "crop_flip"
    config.model = {"name": "resnet18", "norm": "batch"}
    config.epochs, config.batch_size, config.lr_scaling = EPOCHS, 128, "none"
    config.schedule.name = "cosine"
    config.rule = {"name": "randomly_scaled_sgdm", "momentum": 0.9, "weight_decay": 5e-4}
    config.sweep[DISTRIBUTION] = ("none", "exponential", "uniform")
    config.sweep.base_lr = tuple(2.0**k for k in range(-7, -2))
    config.sweep.seed = (0, 1, 2)
    if variant == "small":
        config.data.name, config.data.augment = "digits", "none"
        config.model = {"name": "convnet"}
        config.epochs, config.batch_size = 20, 32
        config.sweep.seed = tuple(range(5))
    return config
