"""A fixed order of examples whose every prefix is a fair sample of the classes."""

import numpy as np


def stratified_order(labels: np.ndarray) -> np.ndarray:
    """A fixed permutation whose every prefix holds the classes in proportion.

    The j-th of the n_k members of class k, in a random order, is placed at ``(j + 1/2) / n_k``;
    ties between classes are broken at random. The seed is fixed.
    """
    shuffled = np.random.RandomState(0).permutation(len(labels))
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return shuffled[np.argsort(position[shuffled], kind="stable")]
