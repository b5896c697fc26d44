"""Critical batch sizes along a training, by branches of every batch size from its checkpoints.

    sbt run experiments/critical_batch/trunk.py --workdir runs/trunk
    sbt run experiments/critical_batch/branching.py --workdir runs/branching
    sbt report runs/branching

Merrill et al. (2025, arXiv:2505.23971, section 3): from a checkpoint at batch size m and rate η,
branches at k m and √k η (Adam) train on the same number of tokens; the largest k whose loss is no
more than a tolerance above that of every smaller one gives the critical batch size at that moment.
Theirs rises early, then stays; the gradient noise scale, measured at the same checkpoints, is far
below it. Here all k of all checkpoints are lanes of one program, which go on with the state of
their rule.

12 checkpoints x 8 batch sizes x 4 seeds on 192 sequences each: a quarter of the trunk's examples.
The sequences are drawn at random from those of the trunk and are the same for all branches, as is
their order. Losses are those of the test split at the end of a branch (the paper: a smoothed
training loss). A branch at a larger batch has less noise at its end, and is rewarded for that: √k η
at k m has 1/√k of the noise of η at m (``--config.lr_scaling=linear`` keeps it the same).

``results/branching``: the border lies between 8 and 16 until epoch 8 and between 4 and 8 after it,
with no trend that four seeds decide (rank correlation -0.8 [-0.8, 0.6]); after the first epoch the
rise, if there is one, is over. The noise scale, 17 to 27, is near it here, not far below. All
branches at 2 to 8 end *below* those at 1, by up to 0.05 nats: the reward just named.
"""

import dataclasses

import numpy as np
from ml_collections import ConfigDict
from trunk import EPOCHS, LENGTH, SEQUENCES, TESTED
from trunk import get_config as trunk

from sbt.data import Dataset, load
from sbt.report.branching import critical_batch_rises

VARIANTS = ("",)
CAPTION = "the critical batch size rises early, then stays"
CLAIMS = (critical_batch_rises(0.01),)
WINDOW = 192  # sequences of a branch
SIZES = tuple(2**k for k in range(8))


def dataset() -> Dataset:
    """What branches train on: some of the trunk's sequences, and all that it is tested on."""
    sizes = {"train_size": SEQUENCES, "test_size": TESTED}
    whole = load({"name": "python_docs", "seq_len": LENGTH, **sizes})
    chosen = np.sort(np.random.default_rng(0).permutation(SEQUENCES)[:WINDOW])
    train = {name: values[chosen] for name, values in whole.train.items()}
    return dataclasses.replace(whole, name="python_docs, a window", train=train)


def get_config(variant: str = "") -> ConfigDict:
    """The branches; there is one variant."""
    config = trunk(variant)
    config.name = "branching"
    config.start, config.start_rule = "runs/trunk", True
    config.schedule = {"name": "constant"}
    config.data.train_size = WINDOW
    config.epochs = 1
    config.checkpoint.weights_every, config.checkpoint.rule_state = None, False
    config.measure.names, config.measure.at_start = ("noise_scale",), True
    config.measure.examples, config.measure.every = 64, 1
    config.measure.noise_scale = {"micro_batch": 1, "count": 8, "repeats": 8}
    config.report.figure = "Merrill et al. 2025, section 3"
    config.report.caption, config.report.claims = CAPTION, CLAIMS
    config.sweep.start_epoch = tuple(range(1, EPOCHS + 1))
    config.sweep.batch_size = SIZES
    return config
