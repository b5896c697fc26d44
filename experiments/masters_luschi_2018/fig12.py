"""Fig. 12: ResNet-50 on ImageNet, batch size against base learning rate.

    sbt run experiments/masters_luschi_2018/fig12.py --workdir runs/fig12
    sbt report runs/fig12

Masters & Luschi (2018), section 3.5, the mean of two runs: best for m = 16 to 64; m = 16 and 32
hold over a range of base LRs, m = 64 is sensitive to it, larger batches collapse at the base LRs
that are best overall, and m <= 8 suffers from the noise of batch statistics. The grid's ends are
not printed; 2 ... 128 is what sections 3.5 and 3.6 speak of. 182 runs of 90 epochs of 1.28 million
images: for many accelerators (``experiments/launch``). ``:small`` trains a ResNet-8 on CIFAR-10 in
place of all that (see ``imagenet.py``), minutes on two CPU cores.
"""

from imagenet import SMALL_BATCH_SIZES, imagenet
from ml_collections import ConfigDict
from protocol import BASE_LRS, SMALL_BASE_LRS_BN

from sbt.report.claims import best_batch

BATCH_SIZES = tuple(2**k for k in range(1, 8))  # 2 ... 128

VARIANTS = ("", "small")
CAPTION = "best for m = 16 to 64"
CLAIMS = (best_batch(16, 32, 64),)


def get_config(variant: str = "") -> ConfigDict:
    """The paper's grid and budget, or ``small``."""
    config = imagenet("fig12", variant, CAPTION, CLAIMS)
    small = variant == "small"
    config.sweep.batch_size = SMALL_BATCH_SIZES if small else BATCH_SIZES
    config.sweep.base_lr = SMALL_BASE_LRS_BN[1:3] if small else BASE_LRS
    config.sweep.seed = (0, 1)
    return config
