"""A learnable problem that needs no file."""

import math

import numpy as np

from sbt.data.source import Dataset
from sbt.errors import UserError


def synthetic(
    num_classes: int = 10,
    image_shape: tuple[int, ...] = (8, 8, 1),
    noise: float = 1.0,
    train_size: int = 1024,
    test_size: int = 256,
) -> Dataset:
    """A learnable problem that needs no file: class patterns under Gaussian pixel noise.

    Class k has a fixed pattern p_k of standard normal values, constant over blocks of 2×2 pixels;
    an example of it is ``127.5 + 40 (p_k + noise ε) / sqrt(1 + noise²)`` with ε standard normal,
    rounded and clipped to 0 .. 255. Two patterns of d pixels lie about ``sqrt(2 d) / noise`` noise
    standard deviations apart. Label of example i is ``i mod num_classes``. Examples are always the
    same, and a larger set begins with the examples of a smaller one.

    Args:
      num_classes: K, at least 2.
      image_shape: shape of one example; ``(H, W, C)``, or anything else (then no blocks).
      noise: standard deviation of the noise in units of that of the pattern.
      train_size: number of training examples.
      test_size: number of test examples.

    Raises:
      UserError: impossible parameters.
    """
    shape = tuple(int(n) for n in image_shape)
    if num_classes < 2 or not shape or min(shape) < 1 or noise < 0:
        raise UserError(
            "config.data",
            f"no synthetic problem with {num_classes=}, image_shape={shape}, {noise=}",
            "Ask for at least 2 classes, positive sizes and noise >= 0.",
        )
    # RandomState is the generator whose numbers NumPy promises never to change (NEP 19).
    coarse = (
        (math.ceil(shape[0] / 2), math.ceil(shape[1] / 2), shape[2]) if len(shape) == 3 else shape
    )
    patterns = np.random.RandomState(0).standard_normal((num_classes, *coarse))
    if len(shape) == 3:
        patterns = patterns.repeat(2, axis=1).repeat(2, axis=2)[:, : shape[0], : shape[1]]

    def split(size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        labels = (np.arange(size) % num_classes).astype(np.int32)
        eps = np.random.RandomState(seed).standard_normal((size, *shape))
        values = 127.5 + 40.0 * (patterns[labels] + noise * eps) / math.sqrt(1 + noise**2)
        return np.clip(np.rint(values), 0, 255).astype(np.uint8), labels

    return Dataset("synthetic", *split(train_size, 1), *split(test_size, 2), num_classes)
