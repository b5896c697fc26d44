"""One run at one moment: what a measurement may look at."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sbt.measure import Where, average_over_split, over_split
from sbt.measure.trees import Loss, selected

# Per-example gradients that are held at a time, as numbers (256 MB in float32).
EXAMPLE_GRADIENT_NUMBERS = 2**26


@dataclasses.dataclass(frozen=True)
class Subject:
    """Weights of a run, and its loss on the training split, as functions of the weights.

    A *batch* is an int32 array of positions in the split, an *example* one position: the data stay
    as they are stored, and what measures cuts the positions into batches.

    Attributes:
      params: the weights.
      stats: running statistics of batch norm at these weights.
      initial: ``() -> `` the weights that the run started from, made anew from its seed.
      key: typed key for the measurement's own randomness, the same in every run and at every epoch:
        all meet the same random directions and batches, so that they can be compared.
      batch_loss: ``(params, batch) -> `` mean loss in nats.
      example_loss: ``(params, example) -> `` loss in nats.
      batch_metrics: ``batch -> `` mean loss in nats and accuracy, as at test time.
      split: ``(N,)`` positions measured on.
      batch: examples held at a time.
      where: the parameters that count, see :data:`sbt.measure.Where`.
    """

    params: Any
    stats: Any
    initial: Callable[[], Any]
    key: jax.Array
    batch_loss: Callable[[Any, jax.Array], jax.Array]
    example_loss: Callable[[Any, jax.Array], jax.Array]
    batch_metrics: Callable[[jax.Array], tuple[jax.Array, jax.Array]]
    split: jax.Array
    batch: int
    where: Where = None

    @property
    def loss(self) -> Loss:
        """Mean loss over the split, differentiable to any order."""
        return over_split(self.batch_loss, self.split, self.batch)

    def evaluated(self) -> tuple[jax.Array, jax.Array]:
        """Mean loss and accuracy over the split, as at test time."""
        average = average_over_split(
            lambda _, batch: self.batch_metrics(batch), self.split, self.batch
        )
        return average(None)

    @property
    def leaf_sizes(self) -> dict[str, int]:
        """Path of every leaf that counts -> its number of entries."""
        leaves = zip(selected(self.params, self.where), jax.tree.leaves(self.params))
        return {path: math.prod(jnp.shape(leaf)) for (path, chosen), leaf in leaves if chosen}

    @property
    def size(self) -> int:
        """Number of parameters that count."""
        return sum(self.leaf_sizes.values())

    @property
    def chunk(self) -> int:
        """Examples whose single gradients are held at a time."""
        return max(1, min(self.batch, 64, EXAMPLE_GRADIENT_NUMBERS // max(1, self.size)))
