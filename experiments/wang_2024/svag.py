"""SVAG(ℓ) with and without momentum: in the diffusion limit both are the same, CIFAR-10.

    sbt run experiments/wang_2024/svag.py --workdir runs/wang_svag
    sbt report runs/wang_svag

Wang et al. (2024), section 5: SVAG takes ℓ times as many steps of η/ℓ with ℓ times the gradient
noise, and tends to the stochastic differential equation of SGD as ℓ grows. The test curves of SGD
and SGDM (ResNet-32, B = 512, η = 0.2 for SGDM, β = 0.9) come together with ℓ. Here: at the largest
ℓ they end within a point of each other, over seeds. η = 0.2 with the rate outside the buffer is 2
without momentum. Each update takes two batches, so that ℓ costs 2ℓ times the epochs: 2 x 4
values of ℓ x 3 seeds = 24 runs of 328 to 2624 epochs: for accelerators. ``:small``, B = 32 and
SGDM's η = 0.02: see ``momentum.py``.

``results/svag_small`` (digits, five seeds): at ℓ = 8 the two end 0.3 points [-0.5, 1.1] apart,
which leaves a point undecided, and 0.004 nats [-0.019, 0.011], which is within 0.02. They are as
near at ℓ = 1 already: on this net there is little to come together.
"""

from ml_collections import ConfigDict
from momentum import MOMENTUM, SGD, SGDM, pairs

from sbt.report.statements import nearly_equal

VARIANTS = ("", "small")
CAPTION = "the test curves of SGD and SGDM come together as ℓ grows"
AMPLIFICATIONS = (1, 2, 4, 8)
CLAIMS = (
    nearly_equal(
        "At the largest ℓ SGD and SGDM end equally good, within a point",
        "accuracy",
        one=SGDM,
        other=SGD,
        margin=0.01,
        at={"rule__amplification": "last"},
    ),
    nearly_equal(
        "At the largest ℓ they end with the same test loss, within 0.02 nats",
        "test_loss",
        one=SGDM,
        other=SGD,
        margin=0.02,
        at={"rule__amplification": "last"},
    ),
)


def get_config(variant: str = "") -> ConfigDict:
    """CIFAR-10, or ``small``."""
    config = pairs("svag", variant, "section 5", CAPTION, CLAIMS, rule="svag")
    rate, config.batch_size = (0.02, 32) if variant else (0.2, 512)
    matched = ((0.0, rate / (1 - MOMENTUM)), (MOMENTUM, rate))
    config.follow.base_lr = ("rule__momentum", matched)
    config.sweep.rule__amplification = tuple(map(float, AMPLIFICATIONS))
    lengths = tuple((float(a), 2 * a * config.epochs) for a in AMPLIFICATIONS)
    config.follow.epochs = ("rule__amplification", lengths)
    config.evaluate.every = 2
    return config
