r"""Batch sizes that change during training, as functions of progress.

The batch is counted in micro-batches: a schedule maps progress and the run's own accumulation
count :math:`k = m/g` to the number of micro-batches of the next update, an integer of at least 1.
Lanes of different :math:`k` share a program, so growth is stated as a ratio of :math:`k`.

A change of batch size comes with a change of learning rate: a factor on the *mean-form* rate
:math:`\eta` of the nominal batch :math:`m` (a step is :math:`\eta` times the mean gradient of
whatever batch is current). Per example it is the factor over the growth.

Evaluate a schedule at the start of an update, with the progress made until then.

>>> schedule = BATCH_SCHEDULES.configured({"name": "smith", "largest": 25})
>>> now = schedule(jnp.asarray([0.0, 0.3, 0.6, 0.8]))
>>> print(micro_batches(4, now.batch), now.learning_rate)
[  4  20 100 100] [1.  1.  1.  0.2]
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from sbt.choice import Registry
from sbt.errors import UserError
from sbt.ranges import NON_NEGATIVE, Range
from sbt.schedules.lr import PART, Part, Positive, as_progress, check_drops, reached, steps


class Growth(NamedTuple):
    """What a batch schedule says of the next update."""

    batch: jax.Array  # wanted batch over the nominal one
    learning_rate: jax.Array  # mean-form rate over the one that the run has without it


class Feedback(NamedTuple):
    """What a batch schedule is told of its run in training: its fact ``feedback``.

    Such a schedule has a state, in the state of the run. It is called with it, ``told=state``, and
    without it where nothing is known of the run: then it gives the largest batch that there may be.

    Attributes:
      measurement: its name, which ``config.measure.names`` must hold; it is told when measured.
      variable: which of its numbers; of several the first.
      start: the state of a run that has not been told anything: a tree of floats.
      hear: ``(state, value, **numbers) -> state`` with the schedule's numbers, entry by entry: it
        is called for all lanes at a time, with NumPy arrays. The value is NaN for a run that has
        diverged.
    """

    measurement: str
    variable: str
    start: Any
    hear: Callable[..., Any]


def limited(
    growth: Callable[..., Growth],
    progress: ArrayLike,
    *,
    largest: Annotated[ArrayLike, NON_NEGATIVE] = 0.0,
    **parameters: Any,
) -> Growth:
    """A batch schedule up to a largest batch.

    Growth that is cut off is taken from the learning rate instead, so that learning rate over batch
    size (the noise scale of Smith et al.) follows the same course.

    Args:
      growth: the schedule without a limit.
      progress: fraction of the budget.
      largest: the largest multiple of the nominal batch, 0 for no limit.
      **parameters: of the schedule.
    """
    progress = as_progress(progress)
    largest = jnp.asarray(largest, progress.dtype)
    wanted, factor = growth(progress, **parameters)
    batch = jnp.where(largest > 0, jnp.minimum(wanted, largest), wanted)
    return Growth(batch, factor * batch / wanted)


def micro_batches(nominal: ArrayLike, growth: jax.Array) -> jax.Array:
    """Micro-batches of an update: int32, at least 1.

    Args:
      nominal: :math:`k`, micro-batches in the run's own batch; int, may be traced.
      growth: the wanted batch over the run's own.
    """
    count = jnp.round(jnp.asarray(nominal).astype(growth.dtype) * growth)
    return jnp.maximum(count.astype(jnp.int32), 1)


BATCH_SCHEDULES = Registry("batch_schedule", shared=limited, default="constant")


def check_largest(where: str, values: Mapping[str, Any]) -> None:
    """Refuses a limit below the nominal batch."""
    if 0 < values["largest"] < 1:
        raise UserError(
            f"{where}.largest",
            f"{values['largest']!r} is less than the nominal batch",
            "give a multiple of the nominal batch of at least 1, or 0 for no limit",
        )


def check_growth(where: str, values: Mapping[str, Any]) -> None:
    """Refuses drops that do not rise, and what :func:`check_largest` refuses."""
    check_drops(where, values)
    check_largest(where, values)


@BATCH_SCHEDULES.register("constant", check=check_largest)
def constant(progress: ArrayLike) -> Growth:
    """The nominal batch throughout."""
    one = jnp.ones_like(as_progress(progress))
    return Growth(one, one)


@BATCH_SCHEDULES.register(
    "small_first", source="Gao and Zhong 2020, arXiv 2012.08795, section 3.2", check=check_largest
)
def small_first(
    progress: ArrayLike,
    until: Part = 0.01,
    ratio: Part = 1 / 16,
    factor: Positive = 0.1,
) -> Growth:
    r"""A smaller batch at the start (Gao & Zhong, 2020, section 3.2), then the nominal one.

    .. math:: m(p) = r\,m, \quad \eta(p) = f\,\eta \qquad \text{for } p < \text{until}

    with :math:`r` for ``ratio`` and :math:`f` for ``factor``.

    The paper trains the first epoch with 512 examples at learning rate 0.005 and the others with
    8192 at 0.05: ``until = 1 / epochs``, ``ratio = 1/16``, ``factor = 0.1``.

    Args:
      progress: fraction of the budget.
      until: progress at which the nominal batch begins.
      ratio: small batch over nominal batch.
      factor: mean-form learning rate of the small batch over the nominal one's.
    """
    progress = as_progress(progress)
    small = ~reached(progress, until)
    ratio, factor = (jnp.asarray(x, progress.dtype) for x in (ratio, factor))
    one = jnp.ones_like(progress)
    return Growth(jnp.where(small, ratio, one), jnp.where(small, factor, one))


@BATCH_SCHEDULES.register(
    "adabatch", source="Devarakonda, Naumov and Garland 2017, arXiv 1712.02029", check=check_largest
)
def adabatch(
    progress: ArrayLike,
    every: Part = 0.2,
    ratio: Positive = 2.0,
    factor: Positive = 0.75,
) -> Growth:
    r"""AdaBatch (Devarakonda, Naumov & Garland, 2017): batch times ``ratio`` in regular stairs.

    .. math:: m(p) = r^{\,k} m, \quad \eta(p) = f^{\,k} \eta, \qquad
              k = \lfloor p / \text{every} \rfloor

    with :math:`r` for ``ratio`` and :math:`f` for ``factor``.

    The paper's CIFAR arm doubles the batch and multiplies the learning rate by 0.75 every 20 of 100
    epochs, where the fixed-batch arm multiplies it by 0.375: the learning rate per example is the
    same in both.

    Args:
      progress: fraction of the budget.
      every: length of a stair, a fraction of the budget.
      ratio: growth of the batch at each stair.
      factor: factor on the mean-form learning rate at each stair.
    """
    progress = as_progress(progress)
    every, ratio, factor = (jnp.asarray(x, progress.dtype) for x in (every, ratio, factor))
    # The stair that ``progress`` is on, or is about to reach, whichever has begun.
    following = jnp.round(progress / every)
    stairs = following - jnp.where(reached(progress, following * every), 0, 1)
    return Growth(ratio**stairs, factor**stairs)


@BATCH_SCHEDULES.register(
    "smith", source="Smith, Kindermans, Ying and Le 2018, arXiv 1711.00489", check=check_growth
)
def smith(
    progress: ArrayLike,
    drops: Annotated[ArrayLike | Sequence[ArrayLike], PART] = (0.3, 0.6, 0.8),
    factor: Annotated[ArrayLike | Sequence[ArrayLike], Range(1)] = 5.0,
) -> Growth:
    r"""Smith, Kindermans, Ying & Le (2018): grow the batch where others lower the learning rate.

    .. math:: m(p) = m \prod_{i\,:\,d_i \le p} f_i

    with drops :math:`d_i` and factors :math:`f_i`.

    The defaults are the CIFAR-10 run of the paper: times 5 at epochs 60, 120 and 160 of 200, at
    constant learning rate. With ``largest``, growth stops there and the learning rate is divided
    instead, as the paper does near a tenth of the training set.

    Args:
      progress: fraction of the budget.
      drops: progress at which each growth happens.
      factor: growth at each; one number, or one per drop.
    """
    growth = steps(progress, drops, factor)
    return Growth(growth, jnp.ones_like(growth))
