"""Learning-rate range test: the largest learning rate that trains, against the batch size.

    sbt run experiments/range_test.py
    sbt report runs/range_test

Smith (2017, arXiv 1506.01186, section 3.3): train once, for a few epochs, while the learning rate
rises, and see where the loss is lowest and where it is lost. One run per batch size and seed tells
what a grid of learning rates tells, roughly: the rate is held nowhere, so a rate that loses only
after many updates still looks good, and small batches, which make more updates in the same epochs,
are judged more strictly.

Digits, a small convolutional net, plain SGD, five epochs; η rises from 2^-14 m to 2^2 m, every
octave as long. 25 runs, one compiled program: seconds on two CPU cores. The variables
``range_test_best_lr`` and ``range_test_largest_lr`` are the readings, η in mean form.
"""

from ml_collections import ConfigDict

from sbt.config import default
from sbt.errors import UserError

VARIANTS = ("",)
LOWEST, HIGHEST = 2.0**-14, 2.0**2  # per example


def get_config(variant: str = "") -> ConfigDict:
    """The only variant."""
    if variant:
        raise UserError(f"range_test.py:{variant}", "there is no such variant", "use none")
    config = default()
    config.name = "range_test"
    config.report.caption = "the largest learning rate before the loss is lost, by batch size"
    config.epochs = 5
    config.base_lr = HIGHEST
    config.schedule = {"name": "range_test", "rise": "exponential", "low": LOWEST / HIGHEST}
    config.measure.names = ("range_test",)
    config.sweep.batch_size = (4, 8, 16, 32, 64)
    config.sweep.seed = (0, 1, 2, 3, 4)
    return config
