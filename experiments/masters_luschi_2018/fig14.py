"""Fig. 14: SGD batch and BN batch apart, ResNet-50 on ImageNet.

    sbt run experiments/masters_luschi_2018/fig14.py --workdir runs/fig14
    sbt report runs/fig14

Masters & Luschi (2018), section 3.6: smaller SGD batches are better, and a BN batch of 16 to 64 is
best for every SGD batch. 56 runs (BN batch <= SGD batch) of 90 epochs of 1.28 million images, each
BN batch one compiled program: for many accelerators (``experiments/launch``). ``:small`` trains a
ResNet-8 on CIFAR-10 in place of all that (see ``imagenet.py``), minutes on two CPU cores.

Base LRs: for SGD batches above 128 the paper prints "10^-10" (256, 512, 1024) and "10^-9" (2048).
These must be misprints of 2^-10 and 2^-9, which stand here: at 10^-10 nothing would train, and all
its other base LRs are powers of two. Up to 128 the paper takes the best of Fig. 12, which is an
image that prints no numbers; our choice is 2^-8 up to m = 64 (the usual 0.1 per 256 examples with
momentum 0.9 comes to as much) and 2^-9 for 128. After running fig12, take its own best values:

    sbt run experiments/masters_luschi_2018/fig14.py:from=runs/fig12 --workdir runs/fig14
"""

from imagenet import SMALL_BATCH_SIZES, imagenet
from ml_collections import ConfigDict
from protocol import best_base_lrs, split_source

from sbt.report.claims import best_bn_batch, smaller_batches_better

BEST_BASE_LR = {
    **{2**k: 2.0**-8 for k in range(1, 7)},  # 2 ... 64
    128: 2.0**-9,
    **{2**k: 2.0**-10 for k in range(8, 11)},  # 256, 512, 1024
    2048: 2.0**-9,
}
LARGEST_IN_FIG12 = 128
BATCH_SIZES = tuple(BEST_BASE_LR)
BN_BATCHES = tuple(2**k for k in range(1, 8))  # 2 ... 128

VARIANTS = ("", "small")
CAPTION = "BN batch 16 to 64 is best for every SGD batch size, and smaller SGD batches are better"
CLAIMS = (best_bn_batch(16, 32, 64), smaller_batches_better())


def get_config(variant: str = "") -> ConfigDict:
    """The paper's grid and budget, or ``small``; followed by ``from=DIR``, after a comma.

    That takes the base LRs up to m = 128 from the sweep in a directory.
    """
    variant, source = split_source(variant)
    config = imagenet("fig14", variant, CAPTION, CLAIMS)
    small = variant == "small"
    sizes = SMALL_BATCH_SIZES if small else BATCH_SIZES
    config.sweep.batch_size = sizes
    config.sweep.bn_batch = SMALL_BATCH_SIZES if small else BN_BATCHES
    best = {m: BEST_BASE_LR[m] for m in sizes}
    if source:
        best |= best_base_lrs(source, [m for m in sizes if m <= LARGEST_IN_FIG12], config.data.name)
    config.follow.base_lr = ("batch_size", tuple(best.items()))
    config.skip_impossible = True  # BN batches larger than the SGD batch
    return config
