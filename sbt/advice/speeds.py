"""How long the examples to a target take here: of one run by itself, and as one of many lanes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sbt.advice.targets import Reached


@dataclass(frozen=True)
class Speeds:
    """What was measured, for the best cell of every batch size; NaN where it was not.

    Attributes:
      sizes: the batch sizes.
      alone: examples a second of one run that has its device to itself.
      lanes: of all lanes of the program that trained the cell, together.
      at_once: how many lanes those were.
      micro_batch: examples of a gradient evaluation of the lanes.
      device: of the run by itself.
      lanes_device: of the lanes.
    """

    sizes: np.ndarray
    alone: np.ndarray
    lanes: np.ndarray
    at_once: np.ndarray
    micro_batch: np.ndarray
    device: str
    lanes_device: str

    @classmethod
    def of(cls, found: Reached, meta: Mapping[str, Any] | None) -> "Speeds":
        """What ``meta.json`` says."""
        meta = meta or {}
        cohorts, alone = meta.get("cohorts") or [], meta.get("alone") or {}
        if len(cohorts) == 1 and "examples" not in cohorts[0]:  # as it was kept before
            rate = meta.get("examples_lanes_per_s") or 0.0
            cohorts = [{**cohorts[0], "examples": rate, "train_seconds": 1.0}]
        each = zip(found.best_cells, found.sizes, strict=True)
        rows = [_of(cell, int(m), cohorts, alone.get("runs", ())) for cell, m in each]
        count, kind = meta.get("devices"), meta.get("device_kind")
        lanes_device = f"{count} × {kind}" if count and kind else "the device"
        by_itself, in_lanes, at_once, micro_batch = np.asarray(rows, float).reshape(-1, 4).T
        device = alone.get("device", "the device")
        return cls(found.sizes, by_itself, in_lanes, at_once, micro_batch, device, lanes_device)

    @property
    def known(self) -> bool:
        """Whether runs by themselves were timed."""
        return bool(np.isfinite(self.alone).any())

    def update_seconds(self, m: np.ndarray) -> np.ndarray:
        """Of a run by itself, at any batch size: between those measured in log-log lines.

        Below the smallest nothing gets faster; above the largest an example takes as long as there.
        """
        there = np.isfinite(self.alone)
        x, y = np.log(self.sizes[there]), np.log(self.sizes[there] / self.alone[there])
        at = np.log(np.asarray(m, float))
        return np.exp(np.interp(at, x, y) + np.maximum(at - x[-1], 0.0))


def points(found: Reached) -> list[dict[str, Any]]:
    """The best cell of every batch size that reaches the target: what is worth timing."""
    pairs = zip(found.sizes, found.best_cells, strict=True)
    return [{"batch_size": int(m), **cell} for m, cell in pairs if cell is not None]


def _of(
    cell: Mapping[str, Any] | None,
    m: int,
    cohorts: Sequence[Mapping[str, Any]],
    runs: Sequence[Mapping[str, Any]],
) -> tuple[float, float, float, float]:
    """Rates alone and in lanes, lanes at once, their micro-batch."""
    alone = lanes = at_once = micro_batch = np.nan
    if cell is None:
        return alone, lanes, at_once, micro_batch

    def fits(fixed: Mapping[str, Any]) -> bool:
        return all(cell.get(axis, value) == value for axis, value in fixed.items())

    for one in runs:
        if one["batch_size"] == m and fits(one["fixed"]):
            alone = one["examples_per_s"]
    for one in cohorts:
        if m in one.get("batch_sizes", (m,)) and fits(one.get("fixed", {})):
            at_once, micro_batch = one.get("lanes_per_pass", np.nan), one.get("micro_batch", np.nan)
            if one.get("train_seconds"):
                lanes = one["examples"] / one["train_seconds"]
    return alone, lanes or np.nan, at_once, micro_batch
