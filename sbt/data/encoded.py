"""Sets too large, or too uneven in size, to lie decoded in memory: ImageNet, for one.

An `EncodedSet` gives single examples as they lie on disk, through ``tfds.data_source`` (no
TensorFlow); :mod:`sbt.data.stream` decodes them ahead of the training that needs them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from sbt.data.dataset import SampledSet, check_size, stratified_order
from sbt.data.imagenet import (
    AUGMENTATIONS,
    RESIZE,
    SIZE,
    View,
    evaluation_view,
    training_view,
    uniforms,
)
from sbt.data.registry import DATASETS
from sbt.data.tfds_reader import Images, Prepared, prepared, readable
from sbt.errors import UserError
from sbt.ranges import Range, check_number
from sbt.tasks.base import Examples

SAMPLE = 1024  # examples that the statistics for normalisation are taken from


@dataclasses.dataclass(frozen=True)
class EncodedSet:
    """A prepared set whose images are decoded when they are needed.

    Attributes:
      name: as the config calls it.
      train: the training split, its images as they are encoded.
      test: the test split.
      num_classes: K.
      view: what the network sees of an image.
    """

    name: str
    train: Images
    test: Images
    num_classes: int
    view: View

    def sample(self, size: int = SAMPLE) -> "SampledSet":
        """Evaluation views of some examples, evenly spread over the files of each split.

        Args:
          size: how many of the training split; the whole split if it has no more.
        """
        return SampledSet(
            self.name,
            self._views(self.train, size),
            self._views(self.test, 1),
            num_classes=self.num_classes,
            max_value=255.0,
            files=self,
        )

    @property
    def train_examples(self) -> int:
        """N, examples of the whole training split."""
        return len(self.train)

    @property
    def test_examples(self) -> int:
        """Examples of the whole test split."""
        return len(self.test)

    def training_example(self, example: int, seed: int, epoch: int) -> Examples:
        """A view of it: random ones depend on (seed, epoch, example) alone."""
        encoded, label = self.train[example]
        pixels = training_view(encoded, self.view, uniforms(seed, epoch, example))
        return {"x": pixels, "label": np.int32(label)}

    def test_example(self, example: int) -> Examples:
        """Its evaluation view."""
        encoded, label = self.test[example]
        return {"x": evaluation_view(encoded, self.view), "label": np.int32(label)}

    def _views(self, images: Images, size: int) -> Examples:
        size = min(size, len(images))
        chosen = [images[i * len(images) // size] for i in range(size)]
        pixels = np.stack([evaluation_view(encoded, self.view) for encoded, _ in chosen])
        return {"x": pixels, "label": np.asarray([label for _, label in chosen], np.int32)}


def open_encoded(data_config: Mapping[str, Any]) -> EncodedSet:
    """Opens the TFDS set that a config with ``data.stream = True`` names.

    Splits and subsets are those of :func:`sbt.data.source.load` (see there for the other fields).
    To choose a subset (or a test split where there is none), the labels of all examples are read
    once and kept in the cache.

    Args:
      data_config: ``name``, ``data_dir``, ``train_size``, ``test_size`` and

        * ``image_size``: side of the square that the network sees; default 224;
        * ``resize``: length of the shorter side before the central square is cut out for the
          evaluation; default 256/224 of ``image_size``;
        * ``augment``: ``resized_crop`` or ``scale_jitter`` (:mod:`sbt.data.imagenet`); anything
          else works on the central square, on the device.

    Raises:
      UserError: no TFDS set, a set that is not prepared and cannot be, no label, impossible sizes.
    """
    name = data_config.get("name")
    if not isinstance(name, str) or (not name or name in DATASETS):
        raise UserError(
            "config.data.stream",
            f"{name!r} is not a set of files to stream from",
            "Set config.data.stream = False, or choose a TFDS set.",
        )
    view = _view(data_config)
    found = prepared(name, data_config.get("data_dir"), any_size=True)
    feature = found.builder.info.features[found.image_key]
    channels = feature.shape[-1]
    if channels not in (1, 3) or feature.np_dtype != np.uint8:
        raise UserError(
            "config.data.name",
            f"the images of {name!r} have {channels} channels of {feature.np_dtype.__name__}",
            "Only 8-bit grey and colour images can be streamed: pass your own arrays.",
        )
    with readable(name, found.directory):
        train, test = found.splits(encoded=True)
        train = _subset(found, "train", train, data_config.get("train_size"))
        test = _subset(found, "test", test, data_config.get("test_size"))
    return EncodedSet(name, train, test, found.num_classes, view._replace(channels=channels))


def _view(data_config: Mapping[str, Any]) -> View:
    def pixels(field: str, default: int, least: int) -> int:
        size = data_config.get(field)
        size = default if size is None else size
        return check_number(f"config.data.{field}", size, Range(least, 2**14), whole=True)

    size = pixels("image_size", SIZE, 1)
    resize = pixels("resize", round(RESIZE * size), size)
    augment = data_config.get("augment")
    return View(size, resize, augment=augment if augment in AUGMENTATIONS else "none")


def _subset(found: Prepared, which: str, images: Images, size: int | None) -> Images:
    """The first examples of the split's fixed stratified permutation, as `dataset.subset` takes."""
    size = check_size(f"{which}_size", size, len(images))
    if size in (None, len(images)):
        return images
    every = images.chosen if images.chosen is not None else np.arange(len(images))
    labels = found.labels(images.split)[every]
    return dataclasses.replace(images, chosen=every[stratified_order(labels)[:size]])
