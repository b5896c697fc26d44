"""Fig. 4: normalised parameter stride in the first epoch against the batch size, AlexNet, CIFAR-10.

    sbt run experiments/gao_zhong_2020/fig04.py --workdir runs/gz04
    sbt report runs/gz04

Gao & Zhong (2020), section 2: E|Δw|/lr, averaged over the updates of the first epoch, shrinks with
the batch size. ``normalised_stride`` here, by ``layer`` and over ``all`` of them; the figure's
layer is not printed (the text speaks of the first fully connected one, ``Dense_0/kernel``). Without
momentum it is ``gradient_magnitude``, mean |g|. See ``dynamics.py`` for what is chosen here.

12 runs of one epoch. For accelerators; ``:small``, the same network on 512 images and
batches of 32, 128 and 512, took 3 minutes on two CPU cores that ten processes shared.
"""

from dynamics import FIRST_FC, dynamics
from ml_collections import ConfigDict

from sbt.report.statements import falls, slope_in

FIRST_EPOCH = {"epoch": "first"}
VARIANTS = ("", "pairs", "dropout", "small")
CAPTION = "the stride E|Δw|/lr in the first epoch shrinks as the batch grows"

CLAIMS = (
    falls(
        "In the first epoch the stride E|Δw|/lr falls as the batch grows",
        "normalised_stride",
        along="batch_size",
        at={**FIRST_EPOCH, "layer": FIRST_FC},
    ),
    slope_in(
        "It falls like 1/√m",
        "normalised_stride",
        along="batch_size",
        low=-0.55,
        high=-0.45,
        at={**FIRST_EPOCH, "layer": FIRST_FC},
    ),
)


def get_config(variant: str = "") -> ConfigDict:
    """The paper's network and data, ``pairs``, ``dropout`` or ``small``."""
    return dynamics(
        "fig04", variant, CAPTION, {"names": ("strides",)}, CLAIMS, small_model="alexnet_dropout"
    )
