"""The input pipeline: a data set on the device and the pure function that reads its batches."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from sbt.data import imagenet
from sbt.data.augment import (
    augment_keys,
    normalize,
    pad_crop_flip,
    random_affine,
    random_cutout,
    standardize_each,
)
from sbt.data.dataset import Dataset
from sbt.data.order import purpose_key
from sbt.data.source import check_section
from sbt.errors import UserError, shown
from sbt.ranges import COUNT, check_name, check_number
from sbt.tasks.base import Examples

NORMALIZATIONS = ("channel", "pixel", "image", "unit", "none")
_AUGMENT = {"none": None, "crop_flip": pad_crop_flip, "affine": random_affine}
AUGMENTATIONS = tuple(_AUGMENT)


class Split(NamedTuple):
    """Examples as stored: images in their own dtype (usually uint8), labels int32."""

    examples: Examples  # arrays by name, (N, ...)
    numbers: jax.Array | np.ndarray | None = None  # (N,) int32, in the whole set; None: 0 .. N-1


class Arrays(NamedTuple):
    """All that batches are made of: a pytree to place on the device once and pass to every step."""

    train: Split
    test: Split
    mean: jax.Array | np.ndarray  # broadcastable against one example
    std: jax.Array | np.ndarray
    validation: Split | None = None

    def tested_on(self, split: str) -> "Arrays":
        """The same, with another split in the place of the test split."""
        return self if split == "test" else self._replace(test=getattr(self, split))


Batches = Callable[..., Examples]


def make_pipeline(
    dataset: Dataset, data_config: Mapping[str, Any], dtype: DTypeLike = jnp.float32
) -> tuple[Arrays, Batches]:
    """Splits a data set into arrays for the device and a pure function that makes batches of them.

    Images are normalised. Statistics are those of the *training* split (as loaded, after
    ``train_size``) and are applied to all splits. ``data_config.normalize`` is one of

    * ``channel``: minus the mean, divided by the standard deviation, per channel (last axis);
    * ``pixel``: minus the mean image, divided by nothing but the scale that maps the largest
      possible value to 1 (He et al. 2015 subtract the mean image and say nothing of a scale);
    * ``image``: every image to mean 0 and variance 1 on its own;
    * ``unit``: divided by the largest possible value (255 for 8-bit images);
    * ``none``: the stored values, as floating point numbers.

    Augmentation comes after normalisation (see `augment.pad_crop_flip`), and cutout last.

    Args:
      dataset: from `source.load` or `dataset.from_arrays`.
      data_config: fields ``normalize`` (default ``channel``) and ``augment``: ``none`` (default),
        ``crop_flip`` or ``affine``; or what streamed examples have had done to them already
        (:mod:`sbt.data.imagenet`); ``cutout``: side of the square that `augment.random_cutout`
        blanks in every training image, None for none.
      dtype: dtype of real inputs that the function returns; other real numbers (targets) have the
        precision of the process.

    Returns:
      ``(arrays, batch_fn)``. ``batch_fn(arrays, indices, epochs, key, train, augmented=None)``
      returns examples: arrays by name, ``x`` of shape ``(*indices.shape, *features)`` and
      ``label``, int32 of shape ``indices.shape``, or whatever the data set has; integers are int32
      there. ``indices`` are positions in the training split (``train=True``) or the
      test split; ``epochs`` (same shape or scalar) and ``key`` (typed key of the run's seed) only
      matter to augmentation. Training batches are augmented and test batches are not;
      ``augmented=False`` reads training examples as they are, to measure on them. It is pure and
      may be jitted (``train`` and ``augmented`` static) and vmapped over indices, epochs and key.

    Raises:
      UserError: an unknown name, or crops of examples that are no images.
    """
    if not isinstance(dataset, Dataset):
        remedy = "give what sbt.data.load or sbt.from_arrays made"
        raise UserError("dataset", f"{shown(dataset)} is not a data set", remedy)
    check_section("config.data", data_config)
    scheme = data_config.get("normalize") or "channel"
    augmentation = data_config.get("augment") or "none"
    check_name("config.data.normalize", scheme, NORMALIZATIONS)
    check_name("config.data.augment", augmentation, AUGMENTATIONS + imagenet.AUGMENTATIONS)
    if augmentation in imagenet.AUGMENTATIONS and not data_config.get("stream"):
        raise UserError(
            "config.data.augment",
            f"{augmentation!r} cuts its views out of the files of a streamed set",
            f"Set config.data.stream = True, or choose one of {', '.join(AUGMENTATIONS)}.",
        )
    side = data_config.get("cutout")
    images = dataset.max_value is not None
    if not images and (scheme != "channel" or augmentation != "none"):
        field = "augment" if augmentation != "none" else "normalize"
        problem = f"{data_config[field]!r} is for images; {dataset.name!r} gives x as it is"
        raise UserError(f"config.data.{field}", problem, "leave it out")
    if augmentation != "none" and dataset.train_images.ndim != 4:
        raise UserError(
            "config.data.augment",
            f"{augmentation!r} moves pixels, but the examples of {dataset.name!r} have shape "
            f"{dataset.train_images.shape[1:]}, not (height, width, channels)",
            "Set config.data.augment to 'none'.",
        )
    if side is not None:
        _check_cutout(dataset, side)
    moves = [move for move in (_AUGMENT.get(augmentation),) if move is not None]
    if side is not None:
        moves.append(functools.partial(random_cutout, side=side))
    mean, std = _statistics(dataset, scheme if images else "none")

    def input_of(x, arrays):
        if not images:
            return jax.tree.map(lambda leaf: _computed_in(leaf, dtype), x)
        if scheme == "image":
            return standardize_each(x, dtype)
        return normalize(x, arrays.mean, arrays.std, dtype)

    def batch_fn(arrays, indices, epochs, key, train: bool, *, augmented: bool | None = None):
        split = arrays.train if train else arrays.test
        flat = indices.reshape(-1)
        taken = jax.tree.map(lambda leaf: jnp.take(leaf, flat, axis=0), dict(split.examples))
        x = input_of(taken.pop("x"), arrays)
        if moves and (train if augmented is None else augmented):
            epochs = jnp.broadcast_to(epochs, indices.shape).reshape(-1)
            numbers = flat if split.numbers is None else jnp.take(split.numbers, flat)
            keys = augment_keys(purpose_key(key, "augment"), epochs, numbers)
            for move in moves:
                x = move(x, keys)
        real = jnp.result_type(float)
        others = jax.tree.map(lambda leaf: _computed_in(leaf, real), taken)
        return jax.tree.map(
            lambda leaf: leaf.reshape(*indices.shape, *leaf.shape[1:]), {"x": x, **others}
        )

    arrays = Arrays(
        train=Split(dataset.train),
        test=Split(dataset.test),
        mean=mean,
        std=std,
        validation=None if dataset.validation is None else Split(dataset.validation),
    )
    return arrays, batch_fn


def _check_cutout(dataset: Dataset, side: Any) -> None:
    """Refuses a square in what is no image, or one that covers it from any place.

    Raises:
      UserError: as said.
    """
    check_number("config.data.cutout", side, COUNT, whole=True)
    shape = dataset.train_images.shape[1:]
    if dataset.max_value is None or len(shape) != 3:
        problem = f"blanks squares of images; the examples of {dataset.name!r} have shape {shape}"
        raise UserError("config.data.cutout", problem, "leave it out")
    if side > min(shape[:2]):
        problem = f"{side} pixels are more than the {min(shape[:2])} of the shorter side"
        raise UserError("config.data.cutout", problem, "give half of that, for a start")


def _computed_in(leaf: jax.Array, real: DTypeLike) -> jax.Array:
    """An entry of an example as models and losses take it."""
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf.astype(real)
    return leaf.astype(jnp.int32) if jnp.issubdtype(leaf.dtype, jnp.integer) else leaf


def with_copies(batches: Batches, copies: int) -> Batches:
    """Batch augmentation (Hoffer et al. 2019): several copies of each training example.

    Every copy is augmented on its own. The gradient is then averaged over all inputs, while
    learning rate, schedule and number of updates stay those of the batch: m counts its examples.
    Copies follow each other batch by batch (all examples, then all again), so that any m
    consecutive inputs, such as a micro-batch that shares batch statistics, are of different
    examples.

    Args:
      batches: from :func:`make_pipeline`.
      copies: M, inputs made of each example; 1 changes nothing.
    """
    if copies == 1:
        return batches

    def copied(arrays, indices, epochs, key, train: bool, *, augmented: bool | None = None):
        if not train or augmented is False:
            return batches(arrays, indices, epochs, key, train, augmented=augmented)
        made = [
            batches(arrays, indices, epochs, jax.random.fold_in(key, copy), True)
            for copy in range(copies)
        ]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *made)

    return copied


def eval_batches(num_examples: int, batch: int, multiple: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Index batches that cover 0 .. num_examples-1 once; the last is filled up with weight 0.

    Args:
      num_examples: size of the split, at least 1.
      batch: examples per batch, at least 1.
      multiple: the number of batches is filled up to a multiple of this, for as many devices.

    Returns:
      ``indices`` int32 and ``weights`` float32, both ``(ceil(num_examples / batch), batch)``.
      The last batch is filled up with the first examples, at weight 0: then
      ``(weights * values).sum() / weights.sum()`` is the mean over the split, and batch statistics
      are those of different examples.

    Raises:
      ValueError: a size below 1.
    """
    if num_examples < 1 or batch < 1:
        raise ValueError(f"sizes must be positive, got {num_examples=}, {batch=}")
    batches = -(-num_examples // (batch * multiple)) * multiple
    positions = np.arange(batches * batch, dtype=np.int32)
    weights = (positions < num_examples).astype(np.float32)
    indices = positions % np.int32(num_examples)
    return indices.reshape(-1, batch), weights.reshape(-1, batch)


def _statistics(dataset: Dataset, scheme: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and divisor as float32, each broadcastable against one example."""
    images = dataset.train_images
    scale = np.full((), dataset.max_value, np.float32)
    if scheme == "unit":
        return np.zeros((), np.float32), scale
    if scheme == "pixel":
        return images.mean(axis=0, dtype=np.float64).astype(np.float32), scale
    if scheme == "channel":
        mean, std = _channel_moments(images)
        return mean.astype(np.float32), np.where(std > 0, std, 1.0).astype(np.float32)
    return np.zeros((), np.float32), np.ones((), np.float32)


def _channel_moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Float64 mean and (population) standard deviation over all axes but the last."""
    if images.dtype == np.uint8:  # a histogram per channel is exact and needs no float64 copy
        values = np.arange(256, dtype=np.float64)
        counts = np.stack(
            [np.bincount(images[..., c].ravel(), minlength=256) for c in range(images.shape[-1])]
        )
        total = counts.sum(axis=1)
        mean = counts @ values / total
        variance = (counts * (values - mean[:, None]) ** 2).sum(axis=1) / total
        return mean, np.sqrt(variance)
    axes = tuple(range(images.ndim - 1))
    return images.mean(axis=axes, dtype=np.float64), images.std(axis=axes, dtype=np.float64)
