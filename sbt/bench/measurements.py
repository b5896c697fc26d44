"""How fast trained nets are measured: sbt's own side, and what peers are given.

The nets are those of a sweep after an epoch. They are measured by the very programs that a sweep
and ``sbt measure`` run, compiled once: weights come from the host, values go back there.
"""

import dataclasses
import functools
from collections.abc import Container
from typing import Any, NamedTuple

import jax
import numpy as np

from sbt.bench.lanes import Task, make_task, prepared, sbt_workload
from sbt.bench.workload import (
    MEASURED,
    NETWORKS,
    SBT,
    Cell,
    Measuring,
    Position,
    Setting,
    Skip,
    Workload,
)
from sbt.sweep.lanes import make_lanes
from sbt.sweep.observe import make_observer, nets_at_once
from sbt.sweep.problem import Placed
from sbt.sweep.strategy import Strategy, parse

MICRO_BATCH = 8  # that the nets are trained with, where their batch norm bears it


class Nets(NamedTuple):
    """Trained nets, on the host."""

    placed: Placed  # the cohort that trained them
    params: Any  # weights, stacked
    stats: Any  # running statistics, likewise
    task: Task  # the data that they are measured on, as a peer takes them


@functools.lru_cache(maxsize=2)
def trained(network: str, count: int, examples: int) -> Nets:
    """The runs of a sweep after one epoch.

    Args:
      network: key of :data:`sbt.bench.workload.NETWORKS`.
      count: how many.
      examples: of their training set.

    Raises:
      Skip: they do not fit the memory, or one diverged.
    """
    g = min(examples, max(NETWORKS[network].least, MICRO_BATCH))
    setting = Setting(network, SBT, g, count, "auto", "float32")
    training = sbt_workload(setting, examples)
    assert training is not None  # nothing is known yet
    at = training.advance(training.start(), examples // g)
    if not training.healthy(at):
        raise Skip("a lane diverged")
    nets = jax.device_get((at.state.params, at.state.stats))
    params, stats = jax.tree.map(lambda leaf: leaf[:count], nets)
    return Nets(prepared(setting, examples), params, stats, make_task(setting, examples))


def measuring_workload(
    setting: Measuring, count: int, known: Container[Measuring] = ()
) -> Workload | None:
    """Lanes that are measured as ``sbt measure`` measures the runs of a sweep.

    Args:
      setting: what to measure.
      count: nets that are trained, of which the first are measured.
      known: settings that need not be compiled again; for one of these the result is None.

    Raises:
      Skip: see :func:`trained`.
    """
    nets = trained(setting.network, count, setting.examples)
    own = nets_at_once(nets.placed, setting.measurement)
    at_once = parse(setting.strategy, "auto", Strategy(own, "direct")).at_once
    named = dataclasses.replace(setting, strategy=str(Strategy(at_once, "direct")).split("/")[0])
    if named in known:
        return None
    placed = _asked(nets.placed, setting.measurement, at_once)
    rows, last = placed.rows, setting.lanes - 1
    size = -(-setting.lanes // rows) * rows
    members = [*range(setting.lanes), *[last] * (size - setting.lanes)]
    params, stats = jax.tree.map(lambda leaf: leaf[members], (nets.params, nets.stats))
    used = np.arange(size) < setting.lanes
    lanes = make_lanes(placed.cohort, members)
    observer = make_observer(placed, size)

    def advance(at: Position, calls: int) -> Position:
        found = at.state
        for _ in range(calls):
            found = observer(params, stats, lanes, used)
        return Position(found, at.updates + calls)

    def healthy(at: Position) -> bool:
        return all(np.all(np.isfinite(one.value[: setting.lanes])) for one in at.state.values())

    cell = Cell(
        named,
        automatic=at_once == own,
        at_once=rows * (at_once or size // rows),
        compile_seconds=observer.compile_seconds,
    )
    return Workload(lambda: Position(None, 0), advance, healthy, cell)


def _asked(placed: Placed, measurement: str, at_once: int) -> Placed:
    """A cohort whose config names one measurement, as it is timed."""
    config = placed.cohort.config.copy_and_resolve_references()
    config.measure.names, config.measure.at_once = (measurement,), at_once
    for field, value in MEASURED[measurement].settings.items():
        config.measure[measurement][field] = value
    return dataclasses.replace(placed, cohort=dataclasses.replace(placed.cohort, config=config))
