"""Whether the cost of a training is linear in lanes, examples and epochs, over two decades."""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from sbt.bench.lanes import sbt_workload
from sbt.bench.record import Scaling
from sbt.bench.workload import Setting, Workload

EXTENTS = {
    "lanes": (2, 6, 20, 60, 200),
    "examples": (128, 384, 1280, 3840, 12800),
    "epochs": (1, 3, 10, 30, 100),
}
LANES, EXAMPLES, EPOCHS = 16, 128, 1  # of the axes that stand still


def measure_scaling(
    network: str,
    micro_batch: int,
    precision: str,
    repeats: int,
    note: Callable[[str], None],
    extents: dict[str, tuple[int, ...]] | None = None,
) -> tuple[Scaling, ...]:
    """Trains whole runs of growing extent, interleaved; compilation is left out.

    Args:
      network: which.
      micro_batch: g = m.
      precision: of the arithmetic.
      repeats: the median of so many counts.
      note: is told what goes on.
      extents: axis to its values.
    """
    setting = Setting(network, "sbt", micro_batch, LANES, "auto", precision)
    compile = functools.cache(sbt_workload)  # epochs share a program
    results = []
    for axis, values in (extents or EXTENTS).items():
        note(f"scaling: {axis} {', '.join(map(str, values))}")
        runs: list[tuple[Any, int]] = []
        for value in values:
            size = {"lanes": LANES, "examples": EXAMPLES, "epochs": EPOCHS, axis: value}
            workload = compile(dataclasses.replace(setting, lanes=size["lanes"]), size["examples"])
            runs.append((workload, size["examples"] * size["epochs"] // micro_batch))
        times: list[list[float]] = [[] for _ in values]
        for _ in range(repeats):
            for own, (workload, updates) in zip(times, runs, strict=True):
                own.append(_seconds(workload, updates))
        seconds = tuple(statistics.median(own) for own in times)
        slope = float(np.polyfit(np.log(values), np.log(seconds), 1)[0])
        results.append(Scaling(axis, setting, tuple(values), seconds, slope))
    return tuple(results)


def _seconds(workload: Workload, updates: int) -> float:
    workload.advance(workload.start(), 1)
    state = workload.start()
    began = time.perf_counter()
    workload.advance(state, updates)
    return time.perf_counter() - began
