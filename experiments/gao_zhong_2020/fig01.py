"""Fig. 1: accuracy against the batch size, AlexNet, CIFAR-10.

    sbt run experiments/gao_zhong_2020/fig01.py --workdir runs/gz01              (one learning rate)
    sbt run experiments/gao_zhong_2020/fig01.py:tuned --workdir runs/gz01_tuned
    sbt run experiments/gao_zhong_2020/fig01.py:linear --workdir runs/gz01_linear
    sbt report runs/gz01

Gao & Zhong (2020), section 1: accuracy falls at large batches. Neither learning rate nor schedule
is printed, and which rule the rate follows decides what is seen, so there are three readings: one
learning rate, 0.01, at every batch size; the best of seven for each (``tuned``); in proportion to
the batch size from the printed pair 512, 0.005 on (``linear``). See ``dynamics.py`` for the rest.

12 batch sizes of 200 epochs and three seeds: for accelerators. ``:small``, the tuned reading with
ten epochs of 1024 images, takes minutes on two CPU cores.
"""

from dynamics import PAIRS, SMALL_EXAMPLES, dynamics
from ml_collections import ConfigDict

from sbt.report.statements import exceeds, falls

VARIANTS = ("", "tuned", "linear", "small")
CAPTION = "accuracy falls at large batches"
RATES = tuple(0.01 * 2.0**k for k in range(-3, 4))
CLAIMS = (
    falls(
        "Test accuracy falls with the batch size",
        "accuracy",
        along="batch_size",
        tune="base_lr",
    ),
    exceeds(
        "The smallest batch ends more accurate than the largest",
        "accuracy",
        more={"batch_size": "first"},
        less={"batch_size": "last"},
        tune="base_lr",
    ),
)


def get_config(variant: str = "") -> ConfigDict:
    """One learning rate for all batch sizes, ``tuned``, ``linear`` or ``small``."""
    paper = "" if variant in ("tuned", "linear") else variant
    config = dynamics("fig01", paper, CAPTION, {}, CLAIMS, epochs=200)
    config.name = f"gao_zhong_2020-fig01{'-' * bool(variant)}{variant}"
    if variant in ("tuned", "small"):
        config.sweep.base_lr = RATES
    if variant == "linear":
        size, rate = min(PAIRS.items())
        config.lr_scaling, config.base_lr = "linear", rate / size
    if variant == "small":
        config.epochs, config.evaluate.every = 10, 1
        config.data.train_size = SMALL_EXAMPLES
        config.report.last_epochs = 2
    return config
