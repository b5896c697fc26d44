"""Fig. 7: loss stride in the first epoch against the batch size, AlexNet, CIFAR-10.

    sbt run experiments/gao_zhong_2020/fig07.py --workdir runs/gz07
    sbt report runs/gz07

Gao & Zhong (2020), section 2: E(ΔL)/lr, averaged over the updates of the first epoch, falls with
the batch size, equation 8: mean g² (an average over *parameters*; the prose says samples), s²/n for
gradients without a mean, with a floor in general. ``gradient_mean_square`` here; ``loss_stride`` is
the same before the division by lr, times the number of parameters what the loss should fall by.
See ``dynamics.py`` for what is chosen here.

12 runs of one epoch. For accelerators; ``:small``, the same network on 512 images and
batches of 32, 128 and 512, took 3 minutes on two CPU cores that ten processes shared.

``results/fig07_small`` (``:small`` with three seeds): the loss stride falls with the batch, and
faster than 1/m: exponent -1.35 [-1.46, -1.24]. The mean |g| of an update follows 1/sqrt(m) closely.
"""

from dynamics import dynamics
from ml_collections import ConfigDict

from sbt.report.statements import falls, slope_in

PLACE = {"epoch": "first", "layer": "all"}
VARIANTS = ("", "pairs", "dropout", "small")
CAPTION = "the loss stride E(ΔL)/lr in the first epoch falls as the batch grows"

CLAIMS = (
    falls(
        "In the first epoch the loss stride E(ΔL)/lr falls as the batch grows",
        "gradient_mean_square",
        along="batch_size",
        at=PLACE,
    ),
    slope_in(
        "It falls like 1/m, as gradients without a mean would",
        "gradient_mean_square",
        along="batch_size",
        low=-1.1,
        high=-0.9,
        at=PLACE,
    ),
)


def get_config(variant: str = "") -> ConfigDict:
    """The paper's network and data, ``pairs``, ``dropout`` or ``small``."""
    return dynamics(
        "fig07", variant, CAPTION, {"names": ("strides",)}, CLAIMS, small_model="alexnet_dropout"
    )
