"""A smooth function without convexity, and gradients with noise: a testing ground for theory."""

from typing import Annotated

import numpy as np

from sbt.data.dataset import Dataset, from_examples
from sbt.data.registry import DATASETS, Wanted
from sbt.ranges import NON_NEGATIVE, POSITIVE, Range

EXAMPLES = 2**16


@DATASETS.register("cosines", source="noise for the stochastic oracle of Zhao et al. 2020")
def cosines(
    wanted: Wanted,
    smoothness: Annotated[float, POSITIVE] = 1.0,
    noise: Annotated[float, NON_NEGATIVE] = 3.0,
    dimensions: Annotated[int, Range(1, 2**12)] = 10,
) -> Dataset:
    r"""Noise whose inner product with w makes examples of :math:`\sum_j (1 - \cos\sqrt L w_j)`.

    An example is :math:`(\sigma\xi_1, \dots, \sigma\xi_d, \sqrt L)`, the :math:`\xi` standard
    normal with mean 0 over the split, so that the mean of
    :math:`f_i(w) = \sum_j (1 - \cos\sqrt L w_j) + \sigma\,\xi_i \cdot w` is the sum alone. It is
    L-smooth, its values lie in [0, 2d] for every L, and its gradients have the norm
    :math:`\sqrt L\,\|\sin\sqrt L w\|`.

    Args:
      wanted: sizes; by default 65,536, and 64 for the test split, which needs no noise.
      smoothness: L.
      noise: :math:`\sigma`, standard deviation of a component of an example's gradient.
      dimensions: d.
    """
    random = np.random.RandomState(0)
    splits = []
    for size in (wanted.train_size or EXAMPLES, wanted.test_size or 64):
        xi = noise * random.normal(size=(size, dimensions))
        xi -= xi.mean(0)
        root = np.full((size, 1), np.sqrt(smoothness))
        splits.append({"x": np.concatenate([xi, root], axis=1).astype(np.float32)})
    return from_examples(*splits, name="cosines")
