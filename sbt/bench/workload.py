"""What is timed, and how: a setting, the thing to run, and the clock."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

SBT = "sbt"


class Skip(Exception):
    """A setting that cannot or should not be timed here; the message says why."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One row of the benchmark.

    Attributes:
      network: key of :data:`sbt.bench.networks.NETWORKS`.
      method: ``sbt`` or the name of a peer.
      micro_batch: g, which is the batch size m here.
      lanes: runs at a time; 1 where runs are trained one after another.
      strategy: of sbt (``vmap/im2col``, ``auto``, ...), empty for peers.
      precision: ``float32`` or ``bfloat16``.
    """

    network: str
    method: str
    micro_batch: int
    lanes: int
    strategy: str
    precision: str

    def __str__(self) -> str:
        strategy = f" {self.strategy}" if self.strategy else ""
        lanes = f" x {self.lanes}" if self.method in (SBT, "torch_func") else ""
        return f"{self.network} {self.method}{strategy} g={self.micro_batch}{lanes}"


@dataclasses.dataclass(frozen=True)
class Workload:
    """A training that can be started afresh and moved on.

    Attributes:
      start: ``() -> state`` with fresh weights.
      advance: ``(state, updates) -> state``; returns when the updates are done. The old state is
        consumed.
      healthy: ``state -> bool``, whether every lane still trains.
      setting: what it is, with the strategy that ``auto`` stands for.
      chunk: ``updates`` must be a multiple of it.
      automatic: whether the engine itself would choose this strategy.
      at_once: lanes whose weights are in use at the same time, on all devices together.
      detail: choices that were made for a peer (threads, memory format).
      compile_seconds: spent before the first update; None where nothing compiles.
      memory_bytes: of all devices together; None where that is not known.
      bytes_accessed: XLA's count for one update of one run, after fusion; None elsewhere.
    """

    start: Callable[[], Any]
    advance: Callable[[Any, int], Any]
    healthy: Callable[[Any], bool]
    setting: Setting
    chunk: int = 1
    automatic: bool = False
    at_once: int = 1
    detail: str = ""
    compile_seconds: float | None = None
    memory_bytes: int | None = None
    bytes_accessed: float | None = None


def calibrate(workload: Workload, seconds: float, most: float) -> int:
    """How many updates take about so many seconds.

    Args:
      workload: what to run.
      seconds: aimed at.
      most: seconds that the smallest possible window may take.

    Raises:
      Skip: it takes longer.
    """
    state, count = workload.advance(workload.start(), workload.chunk), workload.chunk
    while True:
        began = time.perf_counter()
        state = workload.advance(state, count)
        elapsed = time.perf_counter() - began
        if elapsed > most:
            raise Skip(f"{count} updates take {elapsed:.1f} s")
        # A call costs something before its first update (lanes are moved in and out), so that a
        # short one says little of a long one: grow until the window itself has been seen.
        if elapsed >= 0.8 * seconds:
            return count
        grow = min(16.0, max(1.2, seconds / max(elapsed, 1e-6)))
        count = max(count // workload.chunk + 1, round(count / workload.chunk * grow))
        count *= workload.chunk


def microseconds(workload: Workload, updates: int) -> float:
    """µs per example and lane, from one window after a warm-up.

    Raises:
      Skip: a lane diverged: it may have stopped working, so the time means nothing.
    """
    state = workload.advance(workload.start(), workload.chunk)
    began = time.perf_counter()
    state = workload.advance(state, updates)
    elapsed = time.perf_counter() - began
    if not workload.healthy(state):
        raise Skip("a lane diverged")
    setting = workload.setting
    return 1e6 * elapsed / (updates * setting.micro_batch * setting.lanes)
