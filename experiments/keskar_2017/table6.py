"""Table 6: data augmentation for large batches.

    sbt run experiments/keskar_2017/table6.py:c1 --workdir runs/table6
    sbt report runs/table6

Keskar et al. (2017), appendix E: flips, rotations of up to 10 degrees and shifts of up to a fifth
of the side, for both batch sizes. Augmented large batches come near to augmented small ones (C1:
82.50 against 83.63 %, where without it is 77.26 against 80.04), but end as sharp minima as before,
or nearly (C1, ε = 1e-3: 232, where without it is 707). Here every net is trained with and without,
so that both columns come from one program. How a shifted image is filled up is not printed; see
``sbt.data.augment``. ``:small`` is the reduced F1 on MNIST, 20 epochs, flips included (which digits
do not forgive): for the machinery, not for the claim.
"""

from as_published import rows
from keskar import (
    VARIANTS,  # noqa: F401 (what get_config takes)
)
from ml_collections import ConfigDict
from remedies import LARGE, PLAIN, REMEDY, SMALL, remedy

from sbt.report.statements import exceeds, ratio_at_least

CAPTION = (
    "augmentation brings the accuracy of large batches near to that of small ones; they stay sharp"
)
CLAIMS = (
    exceeds(
        "Augmentation makes large batches more accurate",
        "test_accuracy",
        more=REMEDY,
        less=PLAIN,
        at=LARGE,
    ),
    ratio_at_least(
        "Augmented large batches end sharper than augmented small ones, at both ε",
        "sharpness",
        more=LARGE,
        less=SMALL,
        at=REMEDY,
    ),
)


ROWS = {
    "test accuracy": ("6", "test_{}"),
    "full, ε = 0.001": ("6", "{}_1e-3"),
    "full, ε = 0.0005": ("6", "{}_5e-4"),
}


def get_config(variant: str = "") -> ConfigDict:
    """C1 with the paper's budget, another of its nets, ``small`` or ``digits``."""
    return remedy(
        "table6", variant, "Table 6", CAPTION, CLAIMS, net="c1", data__augment=("none", "affine")
    )


def as_published(config: ConfigDict) -> list[list[str]]:
    """The paper's rows for the same net, or for C1 where it has none."""
    return rows(config.model.name, ROWS)
