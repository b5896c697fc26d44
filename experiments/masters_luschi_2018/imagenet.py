"""The ImageNet protocol of Masters & Luschi (2018), arXiv 1804.07612: what Figs. 12 and 14 share.

Section 3.5: ResNet-50, 90 epochs, LR / 10 at epochs 30, 60 and 80, weight decay 1e-4, plain SGD, He
initialisation; images prepared as by Simonyan & Zisserman (2014) and He et al. (2015): shorter side
256 ... 480 at random, a random square of 224 pixels, mirrored half of the time; the median top-1
validation accuracy of the last five epochs. Not printed in the paper, chosen here: evaluation on
the central 224 of 256, normalisation per channel by the statistics of 1024 training images, no
colour augmentation, batch norm decay and epsilon as everywhere in this folder.

The images are streamed from files (``config.data.stream``). ImageNet cannot be downloaded by a
program: put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into ``downloads/manual`` of the
TFDS directory, then run ``python -m sbt.data.prepare imagenet2012``, once.

``:small`` trains something else along the same path: CIFAR-10 streamed from its files at 32 pixels,
a ResNet-8, fewer images, epochs and grid points, for minutes on two CPU cores. It shows that all
parts work together, not what the paper measured.
"""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict
from protocol import after_last_drop, reproduce

from sbt.config import default
from sbt.errors import UserError

SMALL_BATCH_SIZES = (4, 16, 64)


def imagenet(figure: str, variant: str, caption: str, claims: Sequence[Any]) -> ConfigDict:
    """The config of one figure, without its axes.

    Args:
      figure: its number, ``fig12``.
      variant: ``""`` (the paper's protocol) or ``small``.
      caption, claims: what the paper says that it shows, in words and as functions that judge it.
    """
    if variant not in ("", "small"):
        raise UserError(f"{figure}.py:{variant}", "there is no such variant", "use :small, or none")
    config = default()
    config.name = figure
    config.data.name = "imagenet2012"
    config.data.stream = True
    config.data.image_size = 224
    config.data.augment = "scale_jitter"
    config.model = {"name": "resnet50", "norm": "batch"}
    config.epochs = 90
    config.rule = {"name": "sgd", "momentum": None, "weight_decay": 1e-4}
    config.schedule = {"name": "steps", "drops": (30 / 90, 60 / 90, 80 / 90), "factor": 0.1}
    reproduce(config, figure, caption, claims, test_examples=50_000)
    if variant == "small":
        config.name += "-small"
        config.data.name = "cifar10"
        config.data.image_size = 32
        config.data.train_size, config.data.test_size = 1024, 500
        config.model.name = "resnet8"
        config.epochs = 6
        config.report.last_epochs = after_last_drop(config)
    return config
