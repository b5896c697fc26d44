"""Frames in context, as of speech: a stand-in for TIMIT, made of scikit-learn's digits."""

from typing import Annotated

import numpy as np

from sbt.data.dataset import Dataset, images_and_labels
from sbt.data.registry import DATASETS, Wanted
from sbt.data.source import digits
from sbt.ranges import Range

DIGITS = 10


def frames(images: np.ndarray, labels: np.ndarray, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows of consecutive rows of images in a row, and the state of each window's middle.

    Args:
      images: ``(N, H, W)``, one below the other.
      labels: ``(N,)``, the class of each.
      context: c, rows on either side; rows beyond the ends are black.

    Returns:
      ``(N H, 2 c + 1, W)`` windows, and ``(N H,)`` states: ``label * H + row``.
    """
    count, height, width = images.shape
    rows = np.pad(images.reshape(-1, width), ((context, context), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(rows, 2 * context + 1, axis=0)
    states = labels[:, None] * height + np.arange(height)
    return np.ascontiguousarray(windows.swapaxes(1, 2)), states.reshape(count * height)


@DATASETS.register("digit_frames", source="scikit-learn, load_digits; a stand-in for TIMIT frames")
def digit_frames(wanted: Wanted, context: Annotated[int, Range(0, 64)] = 4) -> Dataset:
    """A stand-in for frames of speech: rows of digits with those around them, in 80 states.

    Of TIMIT, which is licensed, Keskar et al. (2017) take frames with the ones before and after,
    360 numbers each, and learn which of 1973 tied states of an acoustic model a frame is in: a
    sound, and where in it. Here a frame is one of the eight rows of a digit, the digits of a split
    are read one after another, top to bottom, in a random order, so that the rows around it may
    belong to the neighbours, and a state is a digit and a row of it. 11,520 frames for training
    and 2856 for testing, those of the digits that the set ``digits`` trains and tests on.

    Args:
      wanted: sizes.
      context: frames on either side; 4 gives 72 numbers.
    """
    whole = digits(wanted)
    height = whole.train_images.shape[1]

    def split(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, states = frames(images[..., 0], labels, context)
        return x[..., None], states.astype(np.int32)

    return images_and_labels(
        "digit_frames",
        split(whole.train_images, whole.train_labels),
        split(whole.test_images, whole.test_labels),
        DIGITS * height,
        whole.max_value or 1.0,
    )
