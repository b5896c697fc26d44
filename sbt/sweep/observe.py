"""Measures the lanes of a cohort: a compiled program for each measurement, apart from training.

The programs only read: weights and statistics as they are after an epoch, or as they were saved.
Training is compiled without a trace of them, and so is bit for bit the same with and without.
"""

import dataclasses
import functools
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sbt.measure.registry import Found, separate_in
from sbt.measure.trees import is_float
from sbt.parallel.mesh import LANE_AXIS, fetch, put
from sbt.sweep.strategy import Strategy, over_lanes
from sbt.sweep.subject import measure_run, state_shapes
from sbt.sweep.task import Placed
from sbt.train.state import Hyper


@dataclasses.dataclass
class Observer:
    """Compiled measurements for some lanes of one cohort.

    Attributes:
      programs: by measurement.
      variables: by measurement, what each gives.
      mesh: of the lanes.
      arrays: the data on it.
      key: of the measurements' own randomness.
      compile_seconds: spent compiling.
      seconds: spent measuring, by measurement.
    """

    programs: Mapping[str, Any]
    variables: Mapping[str, Found]
    mesh: Mesh
    arrays: Any
    key: jax.Array
    compile_seconds: float
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    def __call__(self, params: Any, stats: Any, hyper: Hyper, used: np.ndarray) -> Found:
        """Measures all lanes.

        Args:
          params: weights, stacked, on the mesh (with one process, anywhere).
          stats: running statistics, likewise.
          hyper: of the lanes, on the host.
          used: which lanes are runs.

        Returns:
          Values on the host, with a leading axis of lanes; NaN for a lane that is no run, or whose
          weights are not finite.
        """
        sharded = NamedSharding(self.mesh, P(LANE_AXIS))
        weights = (params, stats)
        if jax.process_count() == 1:
            weights = put(weights, sharded)
        rest = put((hyper, used), sharded)
        found: Found = {}
        for name, program in self.programs.items():
            began = time.perf_counter()
            values = fetch(program(*weights, *rest, self.arrays, self.key))
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
            for variable, value in values.items():
                labels = self.variables[name][variable]
                found[variable] = dataclasses.replace(labels, value=value)
        return found


def make_observer(placed: Placed, size: int) -> Observer:
    """Compiles the measurements of a cohort's config.

    Args:
      placed: whose runs are measured.
      size: lanes of a call, a multiple of ``placed.rows``.
    """
    cohort, task, mesh, arrays = placed.cohort, placed.task, placed.mesh, placed.arrays
    config = cohort.config.measure
    on_cpu = placed.platform == "cpu"
    sharded, replicated = placed.by_lane, placed.everywhere
    shapes = state_shapes(task, cohort)
    stacked = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype, sharding=sharded),
        (*shapes, jax.ShapeDtypeStruct((), jnp.bool_)),
    )
    key = put(jax.random.key(config.seed), replicated)
    started = time.perf_counter()
    programs, variables = {}, {}
    for name in separate_in(cohort.config):
        measured = functools.partial(measure_run, task, cohort, on_cpu, name)
        variables[name] = jax.eval_shape(measured, *shapes, task.arrays, key)
        program = jax.shard_map(
            functools.partial(_measure_lanes, measured, config.at_once),
            mesh=mesh,
            in_specs=(*[P(LANE_AXIS)] * 4, P(), P()),
            out_specs=P(LANE_AXIS),
            check_vma=False,  # as in sbt.sweep.engine
        )
        programs[name] = jax.jit(program).lower(*stacked, arrays, key).compile()
    seconds = time.perf_counter() - started
    return Observer(programs, variables, mesh, arrays, key, seconds)


def _measure_lanes(measured: Any, at_once: int, *arguments: Any) -> dict[str, jax.Array]:
    """A device's lanes, ``at_once`` at a time."""
    *lanes, arrays, key = arguments

    def lane(*lane: Any) -> dict[str, jax.Array]:
        return _where_sound(lambda *state: measured(*state, arrays, key), *lane)

    return over_lanes(Strategy(at_once, "direct"), lane)(*lanes)


def _where_sound(
    measured: Any, params: Any, stats: Any, hyper: Hyper, used: jax.Array
) -> dict[str, jax.Array]:
    """Values of one lane by variable; NaN where it is no run, or its weights are not finite."""
    leaves = [leaf for leaf in jax.tree.leaves((params, stats)) if is_float(leaf)]
    sound = used & jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))

    def values() -> dict[str, jax.Array]:
        found = measured(params, stats, hyper)
        kind = jnp.result_type(float)
        return {variable: labelled.value.astype(kind) for variable, labelled in found.items()}

    def nothing() -> dict[str, jax.Array]:
        shapes = jax.eval_shape(values)
        return jax.tree.map(lambda s: jnp.full(s.shape, jnp.nan, s.dtype), shapes)

    return lax.cond(sound, values, nothing)
