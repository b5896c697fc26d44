"""Least squares with an RBF kernel on data that scikit-learn ships, of a known condition number."""

from typing import Annotated, Literal

import numpy as np

from sbt.data.dataset import Dataset, from_examples
from sbt.data.registry import DATASETS, Wanted
from sbt.errors import UserError
from sbt.ranges import POSITIVE, Range

Origin = Literal["breast_cancer", "wine", "digits", "diabetes"]
MULTIPLE = 8  # of the training examples: an eighth of them makes a batch
SHARE = 0.8  # of the examples that are trained on, as in the authors' experiments


def standardised(origin: Origin) -> tuple[np.ndarray, np.ndarray]:
    """Features of mean 0 and variance 1, in a fixed random order, and targets.

    Targets are -1 or 1, for the first class or any other (digits: even or odd); those of diabetes
    are real numbers of mean 0 and variance 1.
    """
    from sklearn import datasets

    x, y = getattr(datasets, f"load_{origin}")(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(x))
    x, y = np.asarray(x, float)[order], np.asarray(y, float)[order]
    spread = x.std(0)
    x = (x - x.mean(0)) / np.where(spread > 0, spread, 1)
    if origin == "diabetes":
        return x, (y - y.mean()) / y.std()
    return x, np.where((y % 2 if origin == "digits" else y) > 0, 1.0, -1.0)


def kernel(a: np.ndarray, b: np.ndarray, bandwidth: float) -> np.ndarray:
    r""":math:`\exp(-\|a_i - b_j\|^2 / (2 d \sigma^2))`, d being the number of features."""
    square = np.sum(a * a, 1)[:, None] + np.sum(b * b, 1) - 2 * a @ b.T
    return np.exp(-np.maximum(square, 0) / (2 * a.shape[1] * bandwidth**2))


@DATASETS.register(
    "kernel_least_squares",
    source="scikit-learn; a stand-in for the LIBSVM problems of Dang et al. 2024, arXiv 2401.06738",
)
def kernel_least_squares(
    wanted: Wanted,
    origin: Origin = "breast_cancer",
    bandwidth: Annotated[float, POSITIVE] = 0.5,
    condition_number: Annotated[float, Range(1)] = 100.0,
) -> Dataset:
    r"""Kernel least squares on shipped data: a stand-in for sets of LIBSVM, which are not.

    Dang et al. (2024) train kernel models on mushrooms, ijcnn and rcv1 with bandwidths 0.5, 0.05
    and 0.25, and squared loss; the condition number of such a problem has no bound. Here the rows
    of the kernel matrix K of the training examples are taken in the directions in which the
    Hessian's eigenvalues are at least :math:`L/\kappa`,

    .. math::

      \tfrac1n K^2 = V \operatorname{diag}(\lambda) V^\top, \quad L = \lambda_1, \qquad
      x_i = (K_i V_{:,j} / \sqrt L)_{j:\ \lambda_j \ge L/\kappa}

    so that the loss :math:`\frac1{2n}\|Xw - y/\sqrt L\|^2` has a Hessian of norm 1 and a condition
    number of at most :math:`\kappa`: the step size 1/L of theory is 1. Not all targets can be met:
    gradients have noise at the minimum.

    Args:
      wanted: sizes; there are four fifths of the examples, a multiple of eight, and the rest.
      origin: the data set, see :func:`standardised`.
      bandwidth: :math:`\sigma`, of standardised features, over the root of their number.
      condition_number: :math:`\kappa`, its bound.

    Raises:
      UserError: more examples than there are.
    """
    x, y = standardised(origin)
    count = int(SHARE * len(x)) // MULTIPLE * MULTIPLE
    have = {"train_size": count, "test_size": len(x) - count}
    for name, most in have.items():
        if (getattr(wanted, name) or 0) > most:
            problem = f"{origin!r} has {most}"
            raise UserError(f"config.data.{name}", problem, f"ask for {most} or fewer")
    rest = slice(count, None)
    trained = slice(wanted.train_size or count)
    gram = kernel(x[trained], x[trained], bandwidth)
    values, vectors = np.linalg.eigh(gram @ gram / len(gram))
    basis, scale = vectors[:, values >= values[-1] / condition_number], np.sqrt(values[-1])

    def split(part: slice) -> dict[str, np.ndarray]:
        rows = kernel(x[part], x[trained], bandwidth) @ basis / scale
        return {"x": rows.astype(np.float32), "target": (y[part] / scale).astype(np.float32)}

    return from_examples(split(trained), split(rest), name="kernel_least_squares")
