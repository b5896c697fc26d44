r"""How many examples it takes until gradients are small on average: the cost of being stationary.

With :math:`g_t` the gradient of the batch of update t, of :math:`b` examples, and a tolerance
:math:`\epsilon`, the *cost* is

.. math::

  E_\epsilon = \sum_{t \le T} b_t, \qquad
  T = \min \Bigl\{ T : \frac1T \sum_{t \le T} \|g_t\| \le \epsilon \Bigr\}

(gradient evaluations; "stochastic first-order oracle complexity"). As a function of the batch size
it has a minimum, the critical batch size :math:`b^\star`, from which
:func:`sbt.schedules.variance_from_critical_batch` estimates the variance of gradients.

References:
  Sato and Iiduka, `Role of Momentum in Smoothing Objective Function and Generalizability of Deep
  Neural Networks <https://arxiv.org/abs/2402.02325>`_, 2024 (section 5 and the authors' code)
"""

from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from sbt.measure.noise import square_norm
from sbt.measure.online import Kept, Online, Setting, Update
from sbt.measure.registry import MEASUREMENTS, Found, Labelled
from sbt.ranges import NON_NEGATIVE, POSITIVE

ZERO = np.zeros((), np.float32)


class Course(NamedTuple):
    """Since the start of a run."""

    updates: Any  # shape=()
    mean: Any  # shape=(), of the gradient norms
    examples: Any  # shape=()
    cost: Any  # shape=(tolerances,), examples until the mean was within each; NaN before


def followed(course: Course, norm: Any, batch_size: Any, tolerances: Any, after: Any = 0) -> Course:
    """The course after one more update.

    Args:
      course: before it.
      norm: of the gradient of its batch.
      batch_size: b.
      tolerances: ε, an array.
      after: examples that must have been seen before a mean counts.
    """
    updates, examples = course.updates + 1, course.examples + batch_size
    mean = course.mean + (norm - course.mean) / updates
    reached = (mean <= tolerances) & (examples > after)
    cost = jnp.where(jnp.isnan(course.cost) & reached, examples, course.cost)
    return Course(updates, mean, examples, cost)


@MEASUREMENTS.register(
    "stationarity", cost="free", source="Sato and Iiduka 2024, arXiv 2402.02325, section 5"
)
def stationarity(
    setting: Setting,
    *,
    tolerances: tuple[Annotated[float, POSITIVE], ...] = (1.0, 0.7, 0.5),
    after: Annotated[float, NON_NEGATIVE] = 0.0,
) -> Online:
    """Examples until the mean norm of the batches' gradients is within tolerances.

    Args:
      setting: of the program.
      tolerances: ε of the running mean since the start.
      after: epochs that must be over before a mean counts; the authors' code takes 10.
    """
    levels = np.asarray(tolerances, np.float32)
    start = Course(ZERO, ZERO, ZERO, np.full(levels.shape, np.nan, np.float32))

    def update(kept: Kept, seen: Update) -> Kept:
        norm = jnp.sqrt(setting.mean(square_norm(seen.grads, setting.where).astype(jnp.float32)))
        batch = seen.batch_size.astype(jnp.float32)
        course = followed(kept.pending, norm, batch, levels, after * setting.num_examples)
        return Kept(course, (course.mean, course.cost))

    def summary(sums: Any) -> Found:
        mean, cost = sums
        dims = (("norm_tolerance", tolerances),)
        return {
            "mean_gradient_norm": Labelled(mean, (), "", "mean norm of batch gradients so far"),
            "examples_to_tolerance": Labelled(
                cost, dims, "examples", "training until mean ‖g‖ ≤ ε"
            ),
        }

    empty = np.full((), np.nan, np.float32), start.cost
    return Online(Kept(start, empty), update, summary)
