"""Steps to a result against the batch size: ResNet-8 without batch norm on CIFAR-10.

    sbt run experiments/critical_batch/resnet8.py --workdir runs/resnet8
    sbt advise runs/resnet8 --target 0.7

Shallue et al. (2019), Fig. 1: a test error of 0.3, m = 2 ... 8192, 98 points each, 100 epochs or
10,000 updates (chosen here): 1,274 runs for an accelerator. The rate falls linearly, as theirs, to
1 % at the end of training (theirs, tuned: to 0.01 to 10 % in the second half of it). With momentum
perfect scaling ends near m = 256, without it earlier. ``:small``: 2,048 images, 8 channels, m = 4
... 256, 5 rates, 2 seeds: 40 runs of 20 epochs, a quarter of an hour on two cores.
"""

from ml_collections import ConfigDict
from shallue import at_least, study

from sbt.errors import UserError

VARIANTS = ("", "small")
SIZES = tuple(2**k for k in range(1, 14))
EXAMPLES, EPOCHS, UPDATES = 50_000, 100, 10_000
DECAY = {"name": "poly", "power": 1.0, "end": 0.01}


def get_config(variant: str = "") -> ConfigDict:
    """The whole study, or ``small``."""
    if variant not in VARIANTS:
        remedy = "use :small, or leave it out"
        raise UserError(f"resnet8.py:{variant}", "there is no such variant", remedy)
    if variant == "small":
        model = {"name": "resnet8_preact", "width": 8}
        config = study("resnet8-small", "cifar10", model, (4, 16, 64, 256), 20)
        config.data.train_size, config.data.test_size = 2048, 1000
        config.sweep.base_lr = tuple(2.0**k for k in range(-9, 1, 2))
        config.sweep.rule__momentum = None
        config.sweep.seed = (0, 1)
    else:
        config = study("resnet8", "cifar10", {"name": "resnet8_preact"}, SIZES, EPOCHS)
        at_least(config, UPDATES, EXAMPLES)
    config.schedule = dict(DECAY)
    return config
