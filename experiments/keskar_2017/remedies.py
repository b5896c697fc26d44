"""What Tables 6 and 7 and appendix E share: a remedy for large batches, beside plain training."""

from collections.abc import Sequence
from typing import Any

from keskar import study
from ml_collections import ConfigDict

PLAIN, REMEDY = {"case": "plain"}, {"case": "remedy"}
SMALL, LARGE = {"batch_size": "first"}, {"batch_size": "last"}


def remedy(
    figure: str,
    variant: str,
    where: str,
    caption: str,
    claims: Sequence[Any],
    *,
    net: str,
    cases: Sequence[str] = ("plain", "remedy"),
    **fields: Sequence[Any],
) -> ConfigDict:
    """The config of one remedy: small and large batches, each with it and without.

    Args:
      figure, variant, where, caption, claims, net: as for :func:`keskar.study`.
      cases: plain training, and what is compared with it.
      **fields: what the cases change: a field, with its value for each.
    """
    config = study(figure, variant, where, caption, claims, net=net)
    config.sweep.case = tuple(cases)
    for field, values in fields.items():
        config.follow[field] = ("case", tuple(zip(cases, values, strict=True)))
    config.measure.names = ("sharpness", "training_set")
    config.measure.sharpness.spaces = ("full",)
    config.measure.every = config.epochs  # only the solutions
    config.checkpoint.final_weights = False
    return config
