"""Fig. 3: size of the gradient against the batch size at the first update, AlexNet, CIFAR-10.

    sbt run experiments/gao_zhong_2020/fig03.py --workdir runs/gz03
    sbt report runs/gz03

Gao & Zhong (2020), section 2: mean |g| of the first fully connected layer's weights falls with the
batch size like 1/sqrt(n), equation 4. The printed constant is sqrt(2) too large (0.798 s/sqrt(n) is
right), and the gradient does not vanish: it ends at mean |full gradient|. Measured here on 20
random batches of each size, without replacement, at the initial weights
(``mean_abs_gradient``), beside the folded normal of every parameter's own mean and variance
(``predicted_mean_abs_gradient``), the equation with the right constant (``zero_mean_prediction``)
and the floor (``gradient_floor``). Sizes end at 50,000, all images (the paper's 60,000 do not
exist). ``:dropout`` measures with dropout masks. See ``dynamics.py`` for the rest.

Three seeds; training is one epoch that nobody looks at, the measurement is at ``measured_epoch``
0 (and 1). For accelerators; ``:small``, the same network on 512 images, five batches each of 4 to
512, takes minutes on two CPU cores.
"""

from typing import Any

from dynamics import FIRST_FC, dynamics
from ml_collections import ConfigDict

from sbt.report.statements import slope_in

VARIANTS = ("", "dropout", "small")
CAPTION = "mean |g| of the first fully connected layer falls with the batch size like 1/√n"
LARGEST = {"small": 256}  # of the sizes that the claim is about; "small" has 512 images


def claims(variant: str) -> tuple[Any, ...]:
    """What the caption says, up to half of the training set: the last size is all of it."""
    return (
        slope_in(
            "At the first update mean |g| falls with the batch size like 1/√n",
            "mean_abs_gradient",
            along="gradient_batch",
            low=-0.55,
            high=-0.45,
            between=(4, LARGEST.get(variant, 16384)),
            at={"measured_epoch": "first"},
        ),
    )


def get_config(variant: str = "") -> ConfigDict:
    """The paper's network and data, ``dropout`` or ``small``."""
    measure = {
        "names": ("gradient_size",),
        "at_start": True,
        "where": FIRST_FC,
        "gradient_size": {"batch_sizes": (*(2**k for k in range(5, 16)), 50_000), "repeats": 20},
    }
    sizes = tuple(2**k for k in range(2, 10))
    small = {"gradient_size": {"batch_sizes": sizes, "repeats": 5}}
    return dynamics(
        "fig03",
        variant,
        CAPTION,
        measure,
        claims(variant),
        batch_sizes=(8192,),
        small=small,
        small_model="alexnet_dropout",
    )
