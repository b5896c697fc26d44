"""Measurements by name: what they look at, what they give, what they cost.

The other modules of this package measure any loss at any parameters. Here their functions meet a
run of a sweep: a *measurement* is a function of a :class:`Subject` that gives named, labelled
arrays, and its keywords are the fields of ``config.measure.<its name>``:

    @MEASUREMENTS.register("weight_norm", cost="passes over the data", source="...")
    def weight_norm(run: Subject, *, power: Annotated[float, POSITIVE] = 2.0) -> Found:
        '''First line of what ``sbt list measurements`` says.'''
        ...

``config.measure.names`` chooses among them. One of cost ``"free"`` is made for training to carry
along instead, see :mod:`sbt.measure.online`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from sbt.choice import Registry
from sbt.measure.split import average_over_split, over_split
from sbt.measure.trees import Loss, Where, leaves_of
from sbt.ranges import Range
from sbt.tasks.base import Metric

Dimension = tuple[str, tuple[Any, ...]]  # its name, and the label of each position


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Labelled:
    """Numbers, and what a results file has to say about them.

    A tree with one leaf: it goes through ``jit``, ``vmap`` and ``lax.map``, and ``jax.eval_shape``
    tells the labels of what a function would measure.

    Attributes:
      value: the numbers; the *last* axes are those of ``dims`` (maps add axes in front).
      dims: the dimensions in order; none for a number.
      units: of the numbers, empty for what has none.
      long_name: what it is, in a few words.

    Examples:
      >>> found = jax.vmap(lambda w: Labelled(w[:2], (('rank', (1, 2)),), 'nats'))(np.ones((5, 3)))
      >>> print(found.value.shape, found.dims)
      (5, 2) (('rank', (1, 2)),)
    """

    value: jax.Array
    dims: tuple[Dimension, ...] = dataclasses.field(default=(), metadata={"static": True})
    units: str = dataclasses.field(default="", metadata={"static": True})
    long_name: str = dataclasses.field(default="", metadata={"static": True})


Found = dict[str, Labelled]  # by variable


# Per-example gradients that are held at a time, as numbers, on a CPU and elsewhere (256 MB in
# float32). What leaves a CPU's cache costs it more than it saves: 64 examples of the digits convnet
# at a time, but one of the reduced AlexNet, where 64 at a time took nine times as long.
EXAMPLE_GRADIENT_NUMBERS = {True: 2**17, False: 2**26}


class Rule(NamedTuple):
    """The update rule of a run as it stands.

    Attributes:
      name: in the config.
      values: its hyperparameters at the last update, by name.
      state: an optax state.
    """

    name: str
    values: Mapping[str, Any]
    state: Any


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
      batch_loss: ``(params, batch) -> `` mean loss.
      example_loss: ``(params, example) -> `` loss.
      batch_metrics: ``batch -> `` means of loss and metrics by name, as at test time.
      told: what ``batch_metrics`` gives, by name.
      split: ``(N,)`` positions measured on.
      batch: examples held at a time.
      batch_size: m of the run, may be traced.
      micro_batch: g, examples of a gradient of its training; m is a multiple.
      where: the parameters that count, see :data:`sbt.measure.Where`.
      on_cpu: whether the run is measured on one.
      rule: of the run in training; None for a measurement that does not register
        ``needs=(RULE_STATE,)``.
    """

    params: Any
    stats: Any
    initial: Callable[[], Any]
    key: jax.Array
    batch_loss: Callable[[Any, jax.Array], jax.Array]
    example_loss: Callable[[Any, jax.Array], jax.Array]
    batch_metrics: Callable[[jax.Array], dict[str, jax.Array]]
    told: Mapping[str, Metric]
    split: jax.Array
    batch: int
    batch_size: Any = 1
    micro_batch: int = 1
    where: Where = None
    on_cpu: bool = False
    rule: Rule | None = None

    @property
    def loss(self) -> Loss:
        """Mean loss over the split, differentiable to any order."""
        return over_split(self.batch_loss, self.split, self.batch)

    def evaluated(self) -> dict[str, jax.Array]:
        """Means of loss and metrics over the split, as at test time."""
        average = average_over_split(
            lambda _, batch: self.batch_metrics(batch), self.split, self.batch
        )
        return average(None)

    @property
    def size(self) -> int:
        """Number of parameters that count."""
        return sum(np.size(leaf) for leaf in leaves_of(self.params, self.where))

    @property
    def chunk(self) -> int:
        """Examples whose single gradients are held at a time."""
        numbers = EXAMPLE_GRADIENT_NUMBERS[self.on_cpu]
        return max(1, min(self.batch, 64, numbers // max(1, self.size)))


# --- the registry --------------------------------------------------------------------------------

STEPS = Range(1, 10**4)
RULE_STATE = "the state of the update rule"  # a need; weights that are kept come without it
MEASUREMENTS = Registry("measure", static=True)
"""By name. Each states its ``cost``:

``free``                 sums that training carries along, recorded every epoch
``passes over the data`` tens of gradients of the split
``heavy``                hundreds, or products with the Hessian
"""


def online_in(config: Any) -> list[str]:
    """Names of the measurements of a config that training carries along, in their order."""
    return [name for name in config.measure.names if MEASUREMENTS[name].facts.get("cost") == "free"]


def separate_in(config: Any) -> list[str]:
    """Names of the measurements of a config that have programs of their own."""
    return [name for name in config.measure.names if MEASUREMENTS[name].facts.get("cost") != "free"]
