r"""A batch that grows where the loss has become flat: by the Hessian's largest eigenvalue.

The reference :math:`\lambda^\star` is the first eigenvalue :math:`\lambda` that a run is told. From
then on, at every measurement,

.. math::

  \lambda \le \lambda^\star / \alpha: \quad m \leftarrow \beta m, \;
    \eta \leftarrow \beta\eta, \; \lambda^\star \leftarrow \lambda

and the batch grows as well, without a new reference, at the :math:`\kappa`-th measurement since it
last grew: there the loss is taken for a bowl whose curvature falls no further. The batch stops at
``largest`` times the nominal one.

This is the adaptive batch size of ABSA, which trains with adversarial examples besides
(``config.objective.name = "adversarial"`` is a relative: the authors perturb a share of the batch
that falls as the batch grows). The constants are those of their code, which takes the eigenvalue
from one batch of 128 after every epoch, by ten steps of the power method; here it is that of
``config.measure``: by Lanczos, over the training set or its first ``config.measure.examples``,
every ``config.measure.every`` epochs. A batch that the end of an epoch cuts through grows, too.

References:
  Yao, Gholami, Keutzer and Mahoney, `Large batch size training of neural networks with adversarial
  training and second-order information <https://arxiv.org/abs/1810.01021>`_, 2018
"""

from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from sbt.ranges import Range
from sbt.schedules.batch import BATCH_SCHEDULES, Feedback, Growth
from sbt.schedules.lr import as_progress

Factor = Annotated[ArrayLike, Range(1)]


class Curvature(NamedTuple):
    """What a run has been told."""

    growth: Any  # of the batch, over the nominal one
    reference: Any  # the eigenvalue that it last grew at, or the first; NaN before
    waited: Any  # measurements since it last grew


START = Curvature(1.0, np.nan, 0.0)


def hear(
    before: Curvature,
    eigenvalue: Any,
    *,
    drop: Any = 2.0,
    ratio: Any = 2.0,
    patience: Any = 10.0,
    largest: Any = 16.0,
) -> Curvature:
    r"""The state after one measurement, of one run or of several: numbers or NumPy arrays.

    Args:
      before: it.
      eigenvalue: :math:`\lambda`; where it is NaN, time alone passes.
      drop: :math:`\alpha`.
      ratio: :math:`\beta`.
      patience: :math:`\kappa`.
      largest: growth at which the batch stops.

    Examples:
      >>> state = START
      >>> for eigenvalue in (8.0, 5.0, 4.0, 3.0, 1.0):
      ...     state = hear(state, eigenvalue)
      ...     print(state.growth, state.reference)
      1.0 8.0
      1.0 8.0
      2.0 4.0
      2.0 4.0
      4.0 1.0
    """
    flatter = eigenvalue <= before.reference / drop
    waited = before.waited + 1
    grows = flatter | (waited >= patience)
    return Curvature(
        np.where(grows, np.minimum(before.growth * ratio, largest), before.growth),
        np.where(np.isnan(before.reference) | flatter, eigenvalue, before.reference),
        np.where(grows, 0, waited),
    )


@BATCH_SCHEDULES.register(
    "absa",
    source="Yao et al. 2018, arXiv 1810.01021",
    alone=True,
    feedback=Feedback("hessian_eigenvalues", "hessian_eigenvalue", START, hear),
)
def absa(
    progress: ArrayLike,
    drop: Factor = 2.0,
    ratio: Factor = 2.0,
    patience: Factor = 10.0,
    largest: Factor = 16.0,
    *,
    told: Curvature | None = None,
) -> Growth:
    """Grows with the learning rate when the Hessian's top eigenvalue has fallen (ABSA).

    Args:
      progress: fraction of the budget; the state alone counts.
      drop: by what factor the eigenvalue falls for the batch to grow.
      ratio: growth of batch and mean-form learning rate at each time.
      patience: measurements without growth after which the batch grows as well.
      largest: the largest multiple of the nominal batch.
      told: the state, see :func:`hear`; None: as large a batch as there may be.
    """
    del drop, ratio, patience  # they act in what is heard
    one = jnp.ones_like(as_progress(progress))
    growth = one * jnp.asarray(largest if told is None else told.growth).astype(one.dtype)
    return Growth(growth, growth)
