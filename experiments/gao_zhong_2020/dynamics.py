"""What figures 2 to 9 of Gao & Zhong (2020), arXiv 2012.08795, share: AlexNet, CIFAR-10, plain SGD.

Printed: AlexNet with a first and a second fully connected layer and dropout, CIFAR-10, SGD; two
pairs of batch size and learning rate, 512 with 0.005 and 8192 with 0.05 (``:pairs`` trains these
two, where a figure is about several batch sizes). Not printed, chosen here:
no momentum, no weight decay, no augmentation, per-channel normalisation, a learning rate of 0.01 at
every batch size (so that what changes with the batch size is the gradient), PyTorch's
initialisation, three seeds; 200 epochs where a figure shows training ("first 100 epochs" occurs in
the text). Batch sizes above 50,000, the size of the training set (figure 3 goes to 60,000), are
left out.

``:small`` is for two CPU cores and minutes: the first images of the set, and the reduced AlexNet of
Masters & Luschi (2018), 472,794 parameters instead of 23,272,266, also with two fully connected
hidden layers but without dropout, at a learning rate of 0.02. Its He initialisation begins with a
large mean gradient, where PyTorch's begins with hardly any: figures 3, 4, 7 and 9, which are about
the first updates, keep the paper's network.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from sbt.config import default
from sbt.errors import UserError

BATCH_SIZES = (*(2**k for k in range(5, 16)), 49152)  # 32 ... 32768, and what the paper adds
PAIRS = {512: 0.005, 8192: 0.05}  # batch size: learning rate, as printed
SMALL_BATCH_SIZES = (16, 64, 256, 1024)
SMALL_EXAMPLES = 1024
SEEDS = (0, 1, 2)
FIRST_FC, SECOND_FC = "Dense_0/kernel", "Dense_1/kernel"


def hold_against(config: ConfigDict, claims: Sequence[Any]) -> None:
    """Puts into a config what its results are held against: before ``small`` cuts it down."""
    config.report.claims = tuple(claims)
    config.report.protocol = (
        ("data", config.data.name),
        ("model", (config.model.name,)),
        ("epochs", config.epochs),
        ("last_epochs", 1),
    )


def dynamics(
    figure: str,
    variant: str,
    caption: str,
    measure: Mapping[str, Any],
    claims: Sequence[Any] = (),
    *,
    epochs: int = 1,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    small: Mapping[str, Any] | None = None,
    small_model: str = "alexnet",
) -> ConfigDict:
    """The config of a figure.

    Args:
      figure: its number, ``fig03``.
      variant: ``""`` (the paper's network and data), ``dropout`` (the same, measured with the masks
        of training), ``pairs`` (the same, trained with the two printed pairs of batch size and
        learning rate; for figures of several batch sizes) or ``small``.
      caption: what the paper says that the figure shows.
      measure: fields of ``config.measure``.
      claims: the caption, as functions that judge the results.
      epochs: of training.
      batch_sizes: to sweep.
      small: fields of ``config.measure`` that ``small`` changes.
      small_model: network of ``small``.

    Raises:
      UserError: another variant.
    """
    config = default()
    config.name = f"gao_zhong_2020-{figure}{'-' * bool(variant)}{variant}"
    config.report.figure = f"Gao & Zhong 2020, Fig. {int(figure.removeprefix('fig'))}"
    config.report.caption = caption
    config.data.name = "cifar10"
    config.model = {"name": "alexnet_dropout"}
    config.epochs = epochs
    config.lr_scaling = "none"
    config.base_lr = 0.01
    config.sweep.batch_size = tuple(batch_sizes)
    config.sweep.seed = SEEDS
    config.evaluate.every = 10
    config.measure.update(ConfigDict(dict(measure)))
    hold_against(config, claims)
    if variant == "small":
        config.data.train_size, config.data.test_size = SMALL_EXAMPLES, 500
        config.model = {"name": small_model}
        config.base_lr = 0.02 if small_model == "alexnet" else 0.01
        sizes = SMALL_BATCH_SIZES
        if small_model != "alexnet":  # fifty times the weights
            config.data.train_size, sizes = 512, (32, 128, 512)
        config.sweep.batch_size = sizes if len(batch_sizes) > 1 else (64,)
        config.measure.update(ConfigDict(dict(small or {})))
    elif variant == "dropout":
        config.measure.mode = "training"
    elif variant == "pairs" and len(batch_sizes) > 1:
        config.sweep.batch_size = tuple(PAIRS)
        config.follow.base_lr = ("batch_size", tuple(PAIRS.items()))
    elif variant:
        several = len(batch_sizes) > 1
        remedy = f"use :small, :dropout{', :pairs' * several}, or none"
        raise UserError(f"{figure}.py:{variant}", "there is no such variant", remedy)
    return config
