"""Steps to a result against the batch size: Simple CNN on MNIST and Fashion MNIST.

    sbt run experiments/critical_batch/simple_cnn.py --workdir runs/simple_cnn
    sbt advise runs/simple_cnn --target 0.99

Shallue et al. (2019), Fig. 1: a test error of 0.01 on MNIST, of 0.1 on Fashion MNIST (``:fashion``,
``--target 0.9``). m = 1 ... 16384, 98 points each, 40 epochs or 5,000 updates (chosen here): 1,470
runs for an accelerator. ``:small``: 2,048 images, channels (8, 16), m = 4 ... 1024, 6 rates of one
momentum, 2 seeds: 60 runs, 20 epochs, minutes on two cores.
"""

from ml_collections import ConfigDict
from shallue import at_least, study

from sbt.errors import UserError

VARIANTS = ("", "fashion", "small")
SIZES = tuple(2**k for k in range(15))
EXAMPLES, EPOCHS, UPDATES = 60_000, 40, 5_000
SMALL = {"name": "simple_cnn", "channels": (8, 16), "hidden": 64, "dropout": 0.0}


def get_config(variant: str = "") -> ConfigDict:
    """The whole study on MNIST, that on Fashion MNIST, or ``small``."""
    if variant not in VARIANTS:
        remedy = "use :fashion or :small, or leave it out"
        raise UserError(f"simple_cnn.py:{variant}", "there is no such variant", remedy)
    if variant == "small":
        config = study("simple_cnn-small", "mnist", SMALL, (4, 16, 64, 256, 1024), 20)
        config.data.train_size, config.data.test_size = 2048, 1000
        config.sweep.base_lr = tuple(2.0**k for k in range(-12, 0, 2))
        config.sweep.rule__momentum = None
        config.sweep.seed = (0, 1)
        return config
    name, data = {"": ("simple_cnn", "mnist"), "fashion": ("simple_cnn-fashion", "fashion_mnist")}[
        variant
    ]
    config = study(name, data, {"name": "simple_cnn"}, SIZES, EPOCHS)
    at_least(config, UPDATES, EXAMPLES)
    return config
