"""What tells the lanes of a pass apart, and how their states lie on the mesh."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sbt.config import SECTIONS
from sbt.parallel.mesh import DATA_AXIS, LANE_AXIS
from sbt.sweep.cohort import Cohort, settings_array
from sbt.train.shards import Sharding
from sbt.train.state import Hyper, TrainState


@dataclasses.dataclass(frozen=True, eq=False)
class Lanes:
    """What tells the lanes of one pass apart; every leaf has a leading lane axis.

    Compared by identity: an engine keeps the hyperparameters of the last ones on its devices.
    """

    hyper: Hyper
    seed_slot: jax.Array | np.ndarray  # int32, which of the cohort's seeds
    members: np.ndarray  # int, the position of the run in its cohort; -1: the lane trains nothing

    @property
    def used(self) -> np.ndarray:
        """Which lanes train a run."""
        return self.members >= 0


def make_lanes(cohort: Cohort, runs: np.ndarray | Sequence[int], size: int = 0) -> Lanes:
    """What the lanes of a program train.

    Args:
      cohort: their cohort.
      runs: of each lane, the position of its run in ``cohort.runs``; -1 for a lane that trains
        nothing.
      size: lanes of the program; those beyond ``runs`` train nothing.
    """
    members = np.asarray([*runs, *[-1] * (size - len(runs))])
    chosen = np.where(members < 0, 0, members).tolist()
    config, dtype = cohort.config, np.dtype(jnp.result_type(float))

    def values(path: str, default: Any, kind: Any) -> np.ndarray:
        return np.asarray(settings_array(cohort, path, default, chosen), kind)

    numbers = {
        section: {
            name: values(f"{section}.{name}", value, dtype)
            for name, value in registry.configured(config[section]).numbers.items()
        }
        for section, registry in SECTIONS.items()
    }
    seeds = values("seed", config.seed, np.uint32)
    slots = np.searchsorted(np.asarray(cohort.seeds), seeds).astype(np.int32)
    sizes = values("batch_size", config.batch_size, np.int32)
    if "total_updates" in numbers["rule"] and "rule.total_updates" not in cohort.runs[0].settings:
        # Multi-stage rules divide a number of updates; in a sweep it is the budget's.
        updates = cohort.total_examples // (sizes * cohort.draws)
        numbers["rule"]["total_updates"] = updates.astype(dtype)
    hyper = Hyper(
        key=jax.vmap(jax.random.key)(seeds),
        batch_size=sizes,
        base_lr=values("base_lr", config.base_lr, dtype),
        **{section: found for section, found in numbers.items() if section in Hyper._fields},
    )
    return Lanes(hyper, slots, members)


def state_specs(sharing: Sharding) -> TrainState:
    """Where the parts of a state lie: what differs between a run's devices has an axis of them."""
    both, lane = P(LANE_AXIS, DATA_AXIS), P(LANE_AXIS)
    specs: Any = [both if field in sharing.apart else lane for field in TrainState._fields]
    return TrainState(*specs)


def own_state(state: TrainState, sharing: Sharding) -> TrainState:
    """A device's part of a state, without the axis of a run's devices."""
    own = {f: jax.tree.map(lambda leaf: leaf[:, 0], getattr(state, f)) for f in sharing.apart}
    return state._replace(**own)


def stacked_state(state: TrainState, sharing: Sharding) -> TrainState:
    """The inverse of :func:`own_state`."""
    stacked = {
        f: jax.tree.map(lambda leaf: leaf[:, None], getattr(state, f)) for f in sharing.apart
    }
    return state._replace(**stacked)


def state_shapes(shapes: TrainState, specs: TrainState, mesh: Mesh) -> TrainState:
    """Shapes of a state with their shardings."""

    def field(shapes: Any, spec: P) -> Any:
        def placed(leaf: Any) -> jax.ShapeDtypeStruct:
            # Programs return arrays without entries on every device, whatever they are told.
            sharding = NamedSharding(mesh, spec if leaf.size else P())
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        return jax.tree.map(placed, shapes)

    return TrainState(*map(field, shapes, specs))
