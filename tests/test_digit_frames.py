"""The stand-in for frames of speech: rows of digits in context."""

import numpy as np
from sklearn.datasets import load_digits

from sbt.data import DATASETS, Wanted, load
from sbt.data.digit_frames import frames


def test_windows_against_a_loop():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 17, (5, 3, 2)).astype(np.uint8), np.asarray([2, 0, 1, 1, 0])
    windows, states = frames(images, labels, context=4)
    assert windows.shape == (15, 9, 2) and windows.dtype == np.uint8
    for i in range(15):
        assert states[i] == labels[i // 3] * 3 + i % 3
        for j in range(9):
            at = i + j - 4
            row = images[at // 3, at % 3] if 0 <= at < 15 else 0
            np.testing.assert_array_equal(windows[i, j], row)


def test_shapes_balance_and_determinism():
    data = load({"name": "digit_frames"})
    assert data.train_images.shape == (11520, 9, 8, 1) and data.test_images.shape == (2856, 9, 8, 1)
    assert data.num_classes == 80 and data.max_value == data.train_images.max() == 16
    for labels, examples in ((data.train_labels, 1440), (data.test_labels, 357)):
        counts = np.bincount(labels, minlength=80)
        assert np.all(np.abs(counts / (examples / 10) - 1) < 0.05)  # the digits' own balance
        assert np.all(np.ptp(counts.reshape(10, 8), 1) == 0)
    again = DATASETS["digit_frames"](Wanted("digit_frames"))
    np.testing.assert_array_equal(data.train_images, again.train_images)
    np.testing.assert_array_equal(data.test_labels, again.test_labels)
    few = load({"name": "digit_frames", "train_size": 160, "test_size": 80, "context": 1})
    assert few.train_images.shape == (160, 3, 8, 1) and set(few.train_labels) == set(range(80))


def test_frames_are_rows_of_the_digits_that_they_are_named_after():
    data = load({"name": "digit_frames"})
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8).astype(np.uint8)
    rows = {(digit, bytes(row)) for x, digit in zip(images, labels) for row in x}
    middles = data.test_images[:, 4, :, 0]
    assert all((state // 8, bytes(row)) in rows for row, state in zip(middles, data.test_labels))
    top = data.test_labels % 8 == 0
    first = data.test_images[top][:, 4:8], data.test_images[np.flatnonzero(top) + 3][:, 1:5]
    np.testing.assert_array_equal(*first)  # windows of one digit tell of the same rows


def test_no_frame_is_both_trained_and_tested_on():
    data = load({"name": "digit_frames"})
    train = {image.tobytes() for image in data.train_images}
    assert not any(image.tobytes() in train for image in data.test_images)
