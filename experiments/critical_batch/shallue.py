"""The protocol of Shallue et al. (2019), arXiv 1811.03600: what its figures here share.

At every batch size learning rate and momentum are tuned anew, and what counts is the fewest updates
to a goal. Theirs: 100 quasi-random points for every batch size, the learning rate log-uniform in
[1e-4, 1] and one minus the momentum in [1e-4, 0.1] (Lee et al. 2021, who follow their protocol);
here a grid of 14 x 7 = 98 over the same ranges, the same at all batch sizes, with Nesterov's
momentum. Rates are of the mean gradient. Goals are of the test split, theirs of a validation set;
evaluated after every epoch. Their budgets are numbers of updates for large batches and of epochs
for small ones: here a number of epochs for all, and for large batches a number of updates where
that is more.

    sbt advise runs/simple_cnn --target 0.99

``:small`` is for two CPU cores and minutes: fewer images, a narrow network, fewer points.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from sbt.config import default
from sbt.report.tuning import rate_grows_slower

PAPER = "Shallue et al. 2019"
CAPTION = "fewer updates at larger batches, in three regions"
# That best rates follow m in proportion is what they find not to hold.
CLAIMS = (rate_grows_slower(1.0),)
BASE_LRS = tuple(2.0**k for k in range(-13, 1))
MOMENTA = tuple(round(1 - 10 ** (-k / 2), 6) for k in range(2, 9))  # 0.9 ... 0.9999


def study(
    name: str, data: str, model: Mapping[str, Any], sizes: Sequence[int], epochs: int
) -> ConfigDict:
    """The config of a study: rates and momenta at every batch size.

    Args:
      name: of the sweep.
      data: TFDS name.
      model: fields of ``config.model``.
      sizes: batch sizes.
      epochs: budget of all of them.
    """
    config = default()
    config.name, config.epochs = name, epochs
    config.data.name = data
    config.model = dict(model)
    config.rule = {"name": "sgd", "momentum": 0.9, "nesterov": True}
    config.lr_scaling = "none"
    config.report.figure, config.report.caption = f"{PAPER}, Fig. 1", CAPTION
    config.report.claims, config.report.last_epochs = CLAIMS, 1
    config.sweep.batch_size = tuple(sizes)
    config.sweep.base_lr = BASE_LRS
    config.sweep.rule__momentum = MOMENTA
    config.sweep.seed = (0,)
    return config


def at_least(config: ConfigDict, updates: int, examples: int) -> None:
    """Gives large batches so many updates, where those are more epochs than the config has."""
    longer = {m: math.ceil(updates * m / examples) for m in config.sweep.batch_size}
    config.follow.epochs = (
        "batch_size",
        tuple((m, max(config.epochs, n)) for m, n in longer.items()),
    )
