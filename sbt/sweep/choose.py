"""Which strategy a cohort runs with: the one asked for, the likely best one, or the fastest."""

import contextlib
import time
import warnings
from typing import Any

import jax
from jax.sharding import Mesh

from sbt.errors import UserError
from sbt.parallel.mesh import LANE_AXIS
from sbt.sweep.cohort import Cohort
from sbt.sweep.engine import Engine, make_engine
from sbt.sweep.lanes import make_lanes
from sbt.sweep.strategy import Strategy, candidates, heuristic, parse, whole_groups
from sbt.sweep.task import Task


def choose_strategy(task: Task, cohort: Cohort, mesh: Mesh, size: int, arrays: Any) -> Strategy:
    """The strategy that the config names, or the likely best one, or the fastest measured."""
    wanted = cohort.config.engine
    platform = mesh.devices.flat[0].platform
    usual = heuristic(cohort.facts, platform, size // mesh.shape[LANE_AXIS])
    if cohort.sharding.devices > 1:
        # A batch is large here, and a branch not taken spares its all-reduce: under vmap every tick
        # would wait for the gradients of all devices.
        usual = Strategy(1, usual.convolution if platform == "cpu" else "stock")
    if wanted.strategy != "measure":
        return parse(wanted.strategy, wanted.convolution, usual)
    if jax.process_count() > 1:
        raise UserError(
            "config.engine.strategy",
            "'measure' takes times, which processes do not agree on",
            "measure with one process, and name the strategy that it prints",
        )
    timings = {}
    for candidate in candidates(platform):
        if wanted.convolution in ("auto", candidate.convolution):
            try:
                lanes = whole_groups(size, mesh.shape[LANE_AXIS], candidate)
                engine = make_engine(task, cohort, mesh, lanes, arrays, candidate)
                with contextlib.closing(engine):
                    timings[candidate] = time_ticks(engine, cohort)
            except jax.errors.JaxRuntimeError as error:
                # One way of running lanes may need more memory than another, or a kernel that this
                # device's compiler does not take.
                reason = str(error).partition("\n")[0]
                warnings.warn(f"strategy {candidate} does not run here: {reason}", stacklevel=2)
    return min(timings, key=lambda s: timings[s]) if timings else usual


def time_ticks(engine: Engine, cohort: Cohort, seconds: float = 0.5) -> float:
    """Seconds per tick of a full pass, from a short run that is thrown away."""
    lanes = make_lanes(cohort, range(min(len(cohort.runs), engine.lanes)), engine.lanes)
    state, ticks = engine.train(engine.init(lanes), lanes, 0, 0, 1, False), 1  # warms up
    jax.block_until_ready(state)
    most = max(1, min(problem_ticks(cohort), engine.most_ticks))
    while True:
        started = time.perf_counter()
        state = jax.block_until_ready(engine.train(state, lanes, 0, 0, ticks, False))
        elapsed = time.perf_counter() - started
        if elapsed >= seconds or ticks == most:
            return elapsed / ticks
        ticks = min(most, max(2 * ticks, int(ticks * seconds / max(elapsed, 1e-6))))


def problem_ticks(cohort: Cohort) -> int:
    """Ticks of the first epoch."""
    return cohort.first_tick(1)
