"""Fig. 13: SGD batch and BN batch apart, ResNet-32, CIFAR with augmentation.

    sbt run experiments/masters_luschi_2018/fig13.py --workdir runs/fig13            (CIFAR-10)
    sbt run experiments/masters_luschi_2018/fig13.py:cifar100 --workdir runs/fig13b  (CIFAR-100)
    sbt report runs/fig13

Masters & Luschi (2018), section 3.6: the SGD batch is cut into BN batches that each normalise on
their own, as workers of a data-parallel run do. Smaller SGD batches are better; a BN batch of 4 or
8 is best for every SGD batch. 66 runs (BN batch <= SGD batch), each BN batch one compiled program;
``:small`` and ``:small_cifar100`` take minutes on two CPU cores.

The paper uses for each SGD batch the base LR that was best for it in Fig. 8 (or 9). Those values
are in images that print no numbers, so the default below is one rule for all: 2^-8 up to m = 16
(CIFAR-100: up to m = 8), where Fig. 8 (Fig. 9) says that the best base LR is no longer usable, then
halved with every doubling (a constant LR for the large batches, as the stable range demands). After
running fig08 (fig09), take its own best values:

    sbt run experiments/masters_luschi_2018/fig13.py:from=runs/fig08 --workdir runs/fig13
    sbt run experiments/masters_luschi_2018/fig13.py:cifar100,from=runs/fig09 --workdir runs/fig13b
"""

from ml_collections import ConfigDict
from protocol import BATCH_SIZES, SMALL_BATCH_SIZES, best_base_lrs, split_source, sweep

from sbt.errors import UserError
from sbt.report.claims import best_bn_batch, bn_batch_below_batch, smaller_batches_better

LARGEST_AT_THE_BEST = {"cifar10": 16, "cifar100": 8}  # Figs 8 and 9
VARIANTS = ("", "cifar100", "small", "small_cifar100")
CAPTION = "BN batch 4 or 8 is best for every SGD batch size, and smaller SGD batches are better"
CLAIMS = (best_bn_batch(4, 8), smaller_batches_better())


def get_config(variant: str = "") -> ConfigDict:
    """The paper's grid on CIFAR-10 or ``cifar100``; ``small`` or ``small_cifar100``.

    Followed by ``from=DIR``, after a comma, with the best base LRs of the sweep in a directory.
    """
    variant, source = split_source(variant)
    if variant not in VARIANTS:
        known = ", ".join(f":{name}" for name in VARIANTS[1:])
        remedy = f"use {known} or none; ,from=DIR takes base LRs from a sweep"
        raise UserError(f"fig13.py:{variant}", "there is no such variant", remedy)
    data = "cifar100" if "cifar100" in variant else "cifar10"
    small = "small" if "small" in variant else ""
    claims = (*CLAIMS, bn_batch_below_batch()) if data == "cifar100" else CLAIMS
    config = sweep(
        "fig13", "resnet32", small, CAPTION, claims,
        norm="batch", data=data, augment=True, base_lrs=(),
    )  # fmt: skip
    sizes = SMALL_BATCH_SIZES if small else BATCH_SIZES
    config.sweep.batch_size = sizes
    config.sweep.bn_batch = sizes
    limit = LARGEST_AT_THE_BEST[data]
    best = {m: 2.0**-8 * min(1.0, limit / m) for m in sizes}
    if source:
        best = best_base_lrs(source, sizes, data)
    config.follow.base_lr = ("batch_size", tuple(best.items()))
    config.skip_impossible = True  # BN batches larger than the SGD batch
    if data == "cifar100":
        config.name += "-cifar100"
    return config
