"""The protocol of Masters & Luschi (2018), arXiv 1804.07612: what all of its figures share.

Section 3.1: plain SGD without momentum, base learning rates 2^-12 ... 2^0, batch sizes 2 ... 2048,
LR / 10 at 50 % and 75 % of training, weight decay 5e-4 (AlexNet) or 1e-4 (ResNets), He
initialisation, the median accuracy of the last five epochs. 82 epochs for CIFAR-10, 164 for
CIFAR-100. Not printed in the paper, chosen here: per-channel normalisation, batch norm decay 0.97
with epsilon 1e-5, weight decay on every parameter, SAME padding in the AlexNet, no biases in
convolutions that batch norm follows, no partial batches dropped (batches go on over the end of an
epoch). The number of seeds is not stated; ``--config.sweep.seed='(0, 1, 2)'`` sets it.

``:small`` is for two CPU cores and minutes: fewer images, epochs and grid points, and accuracies
over fewer last epochs, those after the last drop; the same protocol otherwise. It shows tendencies
and is not to be compared with the paper's numbers.
"""

import math
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from sbt.config import default
from sbt.errors import UserError

PAPER = "Masters & Luschi 2018"
BATCH_SIZES = tuple(2**k for k in range(1, 12))  # 2 ... 2048
BASE_LRS = tuple(2.0**k for k in range(-12, 1))  # 2^-12 ... 2^0
EPOCHS = {"cifar10": 82, "cifar100": 164}

SMALL_EXAMPLES, SMALL_TEST, SMALL_EPOCHS = 2048, 1000, 8
SMALL_BATCH_SIZES = (2, 8, 32, 128)
# Batch norm shifts the useful base LRs up.
SMALL_BASE_LRS = (2.0**-12, 2.0**-11, 2.0**-10, 2.0**-9, 2.0**-8)
SMALL_BASE_LRS_BN = (2.0**-11, 2.0**-9, 2.0**-7, 2.0**-5)


def sweep(
    figure: str,
    model: str,
    variant: str,
    caption: str,
    claims: Sequence[Any] = (),
    *,
    norm: str = "none",
    data: str = "cifar10",
    augment: bool = False,
    warmup: bool = False,
    epochs: int | None = None,
    base_lrs: Sequence[float] = BASE_LRS,
) -> ConfigDict:
    """The config of one sweep figure.

    Args:
      figure: its number, ``fig01``.
      model: key of ``sbt list``.
      variant: ``""`` (the paper's grid and budget) or ``small``.
      caption: what the paper says that the figure shows.
      claims: the same, as functions of ``sbt.report.claims`` that judge the results.
      norm: of the model.
      data: ``cifar10`` or ``cifar100``.
      augment: pad 4, random crop, random flip.
      warmup: LR from η/32 to η over the first 5 % (section 3.4).
      epochs: other than the paper's usual budget.
      base_lrs: other than the paper's usual grid; empty: none is swept.
    """
    config = default()
    config.name = figure
    config.data.name = data
    config.data.augment = "crop_flip" if augment else "none"
    config.model = {"name": model, "norm": norm}
    config.epochs = epochs or EPOCHS[data]
    decay = 5e-4 if model == "alexnet" else 1e-4
    config.rule = {"name": "sgd", "momentum": None, "weight_decay": decay}
    config.schedule = {"name": "steps", "drops": (0.5, 0.75), "factor": 0.1}
    if warmup:
        config.schedule.warmup = 0.05
        config.schedule.warmup_start = 1 / 32
    config.sweep.batch_size = BATCH_SIZES
    config.sweep.base_lr = tuple(base_lrs) or None
    config.sweep.seed = (0,)
    trained = {"batch_size": BATCH_SIZES, "base_lr": tuple(base_lrs)}
    reproduce(config, figure, caption, claims, **trained)
    if variant == "small":
        make_small(config)
    elif variant:
        raise UserError(f"{figure}.py:{variant}", "there is no such variant", "use :small, or none")
    return config


def reproduce(
    config: ConfigDict, figure: str, caption: str, claims: Sequence[Any], **trained: Any
) -> None:
    """Puts into a config what its results are held against: before ``small`` cuts it down.

    Args:
      config: the paper's.
      figure, caption, claims: as for :func:`sweep`.
      **trained: further fields of ``sbt.report.claims.Protocol``, with what the paper trained.
    """
    number = figure.removeprefix("fig")
    where = f"Fig. {int(number)}" if number.isdigit() else "section 3.2"
    trained |= {"data": config.data.name, "model": (config.model.name,), "epochs": config.epochs}
    config.report.figure = f"{PAPER}, {where}"
    config.report.caption = caption
    config.report.claims = tuple(claims)
    config.report.protocol = tuple(trained.items())


def make_small(config: ConfigDict) -> None:
    """Cuts a config down to what two CPU cores train in minutes."""
    config.name += "-small"
    config.data.train_size = SMALL_EXAMPLES
    config.data.test_size = SMALL_TEST
    config.epochs = max(1, round(SMALL_EPOCHS * config.epochs / EPOCHS[config.data.name]))
    config.sweep.batch_size = SMALL_BATCH_SIZES
    if config.sweep.base_lr == BASE_LRS:
        plain = config.model.norm == "none"
        config.sweep.base_lr = SMALL_BASE_LRS if plain else SMALL_BASE_LRS_BN
    config.report.last_epochs = after_last_drop(config)
    if config.model.name.startswith("resnet"):
        # A ResNet-32 example costs six times an AlexNet one: the first network of the family does.
        config.model.name = "resnet8"
        config.data.train_size = SMALL_EXAMPLES // 2


def split_source(variant: str) -> tuple[str, str]:
    """``small,from=runs/fig08`` -> ``small`` and ``runs/fig08``."""
    name, _, source = variant.rpartition("from=") if "from=" in variant else (variant, "", "")
    return name.rstrip(","), source


def best_base_lrs(directory: str, batch_sizes: Sequence[int], data: str) -> dict[int, float]:
    """The best base LR of every batch size in a sweep that has been run.

    Args:
      directory: work directory of a sweep over batch sizes and base LRs.
      batch_sizes: wanted.
      data: name of the data set that it must have been trained on.

    Raises:
      UserError: another data set, no such sweep, or a batch size that has not finished.
    """
    from sbt.report import View
    from sbt.results import load

    view, field = View(load(directory)), f"from={directory}"
    if (used := view.setting("data.name")) != data:
        raise UserError(field, f"was trained on {used}, not on {data}", "name another sweep")
    if not {"batch_size", "base_lr"} <= set(view.axes):
        remedy = "name a sweep over both, such as that of fig08.py"
        raise UserError(field, "is not a sweep over batch sizes and base learning rates", remedy)
    best = view.bare("batch_size", "base_lr").rows
    if best.score.dims != ("batch_size",):
        extra = ", ".join(str(d) for d in best.score.dims if d != "batch_size")
        raise UserError(field, f"sweeps {extra} too", "name a sweep over these two alone")
    finished = set(best.batch_size.values[best.complete.values].tolist())
    if missing := [m for m in batch_sizes if m not in finished]:
        remedy = "finish it (the same sbt run again), or extend it"
        raise UserError(field, f"has not finished batch sizes {missing}", remedy)
    return {m: float(best.best_base_lr.sel(batch_size=m)) for m in batch_sizes}


def after_last_drop(config: ConfigDict) -> int:
    """How many of the last five epochs end at the lowest learning rate; at least one.

    The last five of 82 epochs all do. Of eight, five would reach back before the last drop.
    """
    return max(1, min(5, math.floor(config.epochs * (1 - config.schedule.drops[-1]))))
