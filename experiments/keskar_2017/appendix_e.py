"""Appendix E: adversarial and stability training for large batches, in the text without a table.

    sbt run experiments/keskar_2017/appendix_e.py:c1 --workdir runs/appendix_e
    sbt report runs/appendix_e

Keskar et al. (2017): neither adversarial training (Goodfellow et al. 2015) nor stability training
(Zheng et al. 2016) helps: accuracy and sharpness stay those of large batches alone. No numbers and
no hyperparameters are printed; those here are the sources': ε = 0.1 and half of the clean loss
(chosen there for digits), noise of 0.04 and weight 0.01. "Stay" is ours: within half a point of
accuracy, and sharper than plain small batches. ``:small`` is the reduced F1 on MNIST, 20 epochs.
"""

from keskar import (
    VARIANTS,  # noqa: F401 (what get_config takes)
)
from ml_collections import ConfigDict
from remedies import LARGE, PLAIN, SMALL, remedy

from sbt.report.statements import nearly_equal, ratio_at_least

CAPTION = (
    "neither adversarial nor stability training makes large batches more accurate or less sharp"
)
HALF_A_POINT = 0.005
CLAIMS = tuple(
    claim
    for case in ("adversarial", "stability")
    for claim in (
        nearly_equal(
            f"{case.capitalize()} training leaves the accuracy of large batches as it is",
            "test_accuracy",
            one={"case": case},
            other=PLAIN,
            margin=HALF_A_POINT,
            at=LARGE,
        ),
        ratio_at_least(
            f"Large batches with {case} training end sharper than plain small ones, at both ε",
            "sharpness",
            more={**LARGE, "case": case},
            less={**SMALL, **PLAIN},
        ),
    )
)


def get_config(variant: str = "") -> ConfigDict:
    """F1 with the paper's budget, another of its nets, ``small`` or ``digits``."""
    cases = ("plain", "adversarial", "stability")
    objectives = ("standard", *cases[1:])
    return remedy(
        "appendix_e",
        variant,
        "appendix E",
        CAPTION,
        CLAIMS,
        net="f1",
        cases=cases,
        objective__name=objectives,
    )
