"""The networks that are timed, each with data of its shape and a learning rate it survives."""

import dataclasses
from collections.abc import Mapping
from typing import Any

TRAIN_SIZE = 2048
CLASSES = 10
WEIGHT_DECAY = 1e-4


@dataclasses.dataclass(frozen=True)
class Network:
    """One model of the benchmark.

    Attributes:
      model: a config's ``model`` section.
      shape: ``(height, width, channels)`` of its images.
      base_lr: largest learning rate per example of its lanes. No lane may diverge, since a frozen
        lane costs nothing where lanes run one after another: residual networks without batch norm
        start with huge logits and bear only tiny steps.
      least: smallest micro-batch it trains on.
    """

    model: Mapping[str, Any]
    shape: tuple[int, int, int]
    base_lr: float
    least: int = 1

    @property
    def batch_norm(self) -> bool:
        return self.model.get("norm") == "batch"


def _resnet(depth: int, norm: str, base_lr: float) -> Network:
    return Network({"name": f"resnet{depth}", "norm": norm}, (32, 32, 3), base_lr)


NETWORKS: dict[str, Network] = {
    "convnet": Network({"name": "convnet", "norm": "none"}, (8, 8, 1), 2.0**-10),
    "alexnet": Network({"name": "alexnet", "norm": "none"}, (32, 32, 3), 2.0**-13),
    "alexnet-bn": Network({"name": "alexnet", "norm": "batch"}, (32, 32, 3), 2.0**-11, least=2),
    "resnet8": _resnet(8, "none", 2.0**-15),
    "resnet8-bn": _resnet(8, "batch", 2.0**-11),
    "resnet20": _resnet(20, "none", 2.0**-19),
    "resnet20-bn": _resnet(20, "batch", 2.0**-11),
    "resnet32": _resnet(32, "none", 2.0**-24),
    "resnet32-bn": _resnet(32, "batch", 2.0**-11),
    # One value per feature has no variance: dense layers with batch norm need two examples.
    "f1": Network({"name": "f1", "norm": "batch"}, (28, 28, 1), 2.0**-11, least=2),
}
"""Stem of a name: the network; ``-bn``: with batch norm, where its sibling has none."""
