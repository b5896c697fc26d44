"""One SGD batch over several devices: who takes which examples, and what is averaged when.

The usual data-parallel baseline averages the gradients of D devices before every update. Local SGD
(Zhang et al. 2016; Stich 2019) lets every device update its own weights and averages the weights
every H updates; post-local SGD (Lin et al. 2020) begins so after a part of the training.

All of it runs inside ``shard_map``, where a device sees only its own examples. With one device
nothing here adds an operation.
"""

import dataclasses
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from sbt.parallel.mesh import DATA_AXIS

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Sharding:
    """How the devices of one run share its work.

    Attributes:
      devices: D, devices that share every SGD batch.
      local_steps: H, updates between averages of the weights; 1 averages gradients instead.
      local_from: progress up to which gradients are averaged nevertheless (post-local SGD).
    """

    devices: int = 1
    local_steps: int = 1
    local_from: float = 0.0

    @property
    def local(self) -> bool:
        """Whether the devices' weights differ between averages."""
        return self.devices > 1 and self.local_steps > 1

    @property
    def apart(self) -> tuple[str, ...]:
        """Fields of a ``TrainState`` that differ between the devices of a run."""
        if self.devices == 1:
            return ()
        return ("average", "params", "stats", "opt_state") if self.local else ("average",)

    def own(self, tick: jax.Array, draws: int = 1) -> jax.Array:
        """This device's part of what a tick takes: of each draw, its D-th in a row.

        The parts are consecutive, so that groups of b consecutive examples, which share batch
        statistics, are the same for any D that b divides m / D for.
        """
        if self.devices == 1:
            return tick
        parts = tick.reshape(draws, self.devices, -1)
        return jnp.take(parts, lax.axis_index(DATA_AXIS), axis=1).reshape(-1)

    def own_rows(self, rows: jax.Array) -> jax.Array:
        """This device's part of rows that any device may take."""
        if self.devices == 1:
            return rows
        return jnp.take(
            rows.reshape(-1, self.devices, *rows.shape[1:]), lax.axis_index(DATA_AXIS), axis=1
        )

    def own_key(self, key: jax.Array) -> jax.Array:
        """A key of this device's own."""
        return key if self.devices == 1 else jax.random.fold_in(key, lax.axis_index(DATA_AXIS))

    def metrics(self, loss: jax.Array, sums: T) -> tuple[jax.Array, T]:
        """Mean loss and sums of the metrics over the devices.

        At every tick, since all must agree on whether the run has diverged.
        """
        if self.devices == 1:
            return loss, sums
        loss, sums = lax.psum((loss, sums), DATA_AXIS)
        return loss / self.devices, sums

    def sum(self, tree: T) -> T:
        """Sum over the devices."""
        return tree if self.devices == 1 else lax.psum(tree, DATA_AXIS)

    def mean(self, tree: T) -> T:
        """Mean over the devices of all arrays of a tree."""
        if self.devices == 1:
            return tree
        leaves, structure = jax.tree.flatten(tree)
        arrays = lax.pmean([leaf for leaf in leaves if not callable(leaf)], DATA_AXIS)
        means = iter(arrays)
        merged = [leaf if callable(leaf) else next(means) for leaf in leaves]
        return jax.tree.unflatten(structure, merged)

    def mean_of_batch(self, average: T, progress: jax.Array) -> T:
        """Mean over the devices of what an update needs; with local SGD each keeps its own.

        Args:
          average: over the device's own examples.
          progress: at the start of the update.
        """
        if not self.local:
            return self.mean(average)
        together = progress < self.local_from
        return lax.cond(together, lambda: self.mean(average), lambda: average)

    def mean_of_models(self, models: T, updates: jax.Array) -> T:
        """The weights after an update: local SGD's average, when it is due.

        The optimizer's state stays with its device, as in Lin et al. 2020.

        Args:
          models: weights, and statistics with them.
          updates: done, the present one included.
        """
        if not self.local:
            return models
        return lax.cond(updates % self.local_steps == 0, lambda: self.mean(models), lambda: models)


ONE_DEVICE = Sharding()
