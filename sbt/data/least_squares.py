"""Least squares problems of a known condition number (Dang, Babanezhad & Vaswani, 2024)."""

from typing import Annotated

import numpy as np

from sbt.data.dataset import Dataset, from_examples
from sbt.data.registry import DATASETS, Wanted
from sbt.errors import UserError
from sbt.ranges import NON_NEGATIVE, Range

EXAMPLES = 8000  # the paper's 10,000 without the fifth that it tests on


def least_squares_arrays(
    count: int, dimensions: int, condition_number: float, noise: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    r"""Rows and targets whose loss :math:`\frac{1}{2n}\|Xw - y\|^2` has a Hessian of norm about 1.

    .. math::

      X = \begin{pmatrix} Q\,\mathrm{diag}(\sqrt n\,s)\,Q^\top \\ U \end{pmatrix}
          \Big/ \sqrt{L}, \qquad s_1 \dots s_d \text{ equally spaced from } \sqrt\mu
          \text{ to } \sqrt L, \qquad y = X w^* + r\,\epsilon / \sqrt{L}

    with Q orthogonal, U uniform in [0, 1), :math:`\epsilon` standard normal, :math:`\mu = 10` and
    :math:`L = 10\kappa`, as the authors' code draws them, which does not divide by
    :math:`\sqrt L`. Divided, the step size 1/L of theory is 1 for every :math:`\kappa`. The
    uniform rows raise the Hessian's eigenvalues, the least by some percent.

    Args:
      count: n.
      dimensions: d.
      condition_number: :math:`\kappa`.
      noise: r; 0: all targets can be met (interpolation).
      seed: of NumPy's ``RandomState``, whose numbers never change.
    """
    random = np.random.RandomState(seed)
    low, high = 10.0, 10.0 * condition_number
    basis, _ = np.linalg.qr(random.normal(size=(dimensions, dimensions)))
    scales = np.linspace(np.sqrt(low * count), np.sqrt(high * count), dimensions)
    rows = np.concatenate(
        [basis * scales @ basis.T, random.random_sample((count - dimensions, dimensions))]
    )
    targets = rows @ random.normal(size=dimensions) + noise * random.normal(size=count)
    return rows / np.sqrt(high), targets / np.sqrt(high)


@DATASETS.register("least_squares", source="Dang et al. 2024, arXiv 2401.06738, synthetic data")
def least_squares(
    wanted: Wanted,
    condition_number: Annotated[float, Range(1)] = 128.0,
    noise: Annotated[float, NON_NEGATIVE] = 0.0,
    dimensions: Annotated[int, Range(1, 2**12)] = 20,
) -> Dataset:
    r"""Least squares of a known condition number, scaled so that theory's step size 1/L is 1.

    The test split is a training set of its own draw: the last fifth in the authors' experiments has
    none of the rows that make the condition number, and nothing is told of it.

    Args:
      wanted: sizes; by default 8000, the authors' training split, and as many.
      condition_number: :math:`\kappa`.
      noise: r, of the targets, before scaling.
      dimensions: d.

    Raises:
      UserError: a split has fewer examples than dimensions.
    """
    for split, size in (("train", wanted.train_size), ("test", wanted.test_size)):
        if (size or EXAMPLES) < dimensions:
            problem = f"{size} examples of {dimensions} dimensions"
            raise UserError(f"config.data.{split}_size", problem, f"give {dimensions} or more")
    parts = [
        least_squares_arrays(size or EXAMPLES, dimensions, condition_number, noise, seed)
        for seed, size in enumerate((wanted.train_size, wanted.test_size))
    ]
    splits = [{"x": x.astype(np.float32), "target": y.astype(np.float32)} for x, y in parts]
    return from_examples(*splits, name="least_squares")
