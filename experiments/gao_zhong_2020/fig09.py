"""Fig. 9: mean gradient against the discarded fraction of a batch, AlexNet, CIFAR-10.

    sbt run experiments/gao_zhong_2020/fig09.py --workdir runs/gz09
    sbt report runs/gz09

Gao & Zhong (2020), section 3.1: mean |g| of the second fully connected layer, for a batch of 8192
at the first update without its p % smallest losses, rises with p = 10 ... 90 %. Fewer examples
alone make a gradient noisier and so larger, by up to 1/sqrt(1-p): the control that leaves out as
many random examples says how much of the rise that is (``randomly_discarded_gradient``).
``discarded_gradient`` divides by the examples that are kept;
``--config.measure.discarded_gradient.average=batch`` divides by the whole batch. See
``dynamics.py`` for what is chosen here.

Three seeds, one epoch; ``measured_epoch`` 0 is the first update. For accelerators; ``:small`` (all
of 512 images as one batch) takes minutes on two CPU cores.
"""

from dynamics import SECOND_FC, dynamics
from ml_collections import ConfigDict

from sbt.report.statements import ratio_at_least, rises

START = {"measured_epoch": "first"}
VARIANTS = ("", "dropout", "small")
CAPTION = "mean |g| of a batch rises with the share of smallest losses that is left out"

CLAIMS = (
    rises(
        "Mean |g| rises with the share of smallest losses that is left out",
        "discarded_gradient",
        along="fraction",
        at=START,
    ),
    ratio_at_least(
        "Without nine tenths of the losses it rises more than without as many random ones",
        "discarded_gradient",
        more={},
        less={"variable": "randomly_discarded_gradient"},
        at={**START, "fraction": 0.9},
    ),
)


def get_config(variant: str = "") -> ConfigDict:
    """The paper's network and data, ``dropout`` or ``small``."""
    measure = {
        "names": ("discarded_gradient",),
        "at_start": True,
        "where": SECOND_FC,
        "discarded_gradient": {"fractions": tuple(p / 10 for p in range(1, 10)), "examples": 8192},
    }
    return dynamics(
        "fig09",
        variant,
        CAPTION,
        measure,
        CLAIMS,
        batch_sizes=(8192,),
        small_model="alexnet_dropout",
    )
