"""Sets too large, or too uneven in size, to lie decoded in memory: ImageNet, for one.

An `EncodedSet` gives single examples as they lie on disk, through ``tfds.data_source`` (no
TensorFlow); :mod:`sbt.data.stream` decodes them ahead of the training that needs them.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sbt.data import cache, tfds_reader
from sbt.data.imagenet import AUGMENTATIONS, RESIZE, SIZE, View, evaluation_view
from sbt.data.source import Dataset
from sbt.data.stratified import stratified_order
from sbt.errors import UserError

SAMPLE = 1024  # examples that the statistics for normalisation are taken from
_BATCH = 256  # records fetched at a time


@dataclasses.dataclass(frozen=True)
class Images:
    """One split, undecoded. Picklable: worker processes open the files anew.

    Attributes:
      records: random access to the examples of the files, with images left as they are encoded.
      image_key: name of the image in a record.
      label_key: name of the label.
      chosen: positions in the files of the examples that belong to the split; None: all.
    """

    records: Any
    image_key: str
    label_key: str
    chosen: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.records) if self.chosen is None else len(self.chosen)

    def __getitem__(self, example: int) -> tuple[bytes, int]:
        """File content of the image, and its label."""
        at = int(example if self.chosen is None else self.chosen[example])
        record = self.records[at]
        return record[self.image_key], int(record[self.label_key])


@dataclasses.dataclass(frozen=True)
class EncodedSet:
    """A prepared set whose images are decoded when they are needed.

    Attributes:
      name: as the config calls it.
      train: the training split.
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
        train, test = (self._views(split, n) for split, n in ((self.train, size), (self.test, 1)))
        return SampledSet(self.name, *train, *test, self.num_classes, encoded=self)

    def _views(self, images: Images, size: int) -> tuple[np.ndarray, np.ndarray]:
        size = min(size, len(images))
        chosen = [images[i * len(images) // size] for i in range(size)]
        pixels = np.stack([evaluation_view(encoded, self.view) for encoded, _ in chosen])
        return pixels, np.asarray([label for _, label in chosen], np.int32)


@dataclasses.dataclass(frozen=True)
class SampledSet(Dataset):
    """What is in memory of a set that is not: some examples, for statistics and shapes.

    Attributes:
      encoded: all of it.
    """

    encoded: EncodedSet = dataclasses.field(kw_only=True)

    @property
    def train_examples(self) -> int:
        """N, examples of the whole training split."""
        return len(self.encoded.train)

    @property
    def test_examples(self) -> int:
        """Examples of the whole test split."""
        return len(self.encoded.test)


def open_encoded(data_config: Mapping[str, Any]) -> EncodedSet:
    """Opens the TFDS set that a config with ``data.stream = True`` names.

    Splits and subsets are those of :func:`sbt.data.source.load` (which see for the other fields),
    with one exception: a ``test`` split without labels, as ImageNet's, makes way for
    ``validation``. To choose a subset (or a test split where there is none), the labels of all
    examples are read once and kept in the cache.

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
    if not isinstance(name, str) or name in ("", "digits", "synthetic"):
        raise UserError(
            "config.data.stream",
            f"{name!r} is no set of files to stream from",
            "Set config.data.stream = False, or choose a TFDS set.",
        )
    view = _view(data_config)
    builder = tfds_reader.prepared(name, data_config.get("data_dir"), any_size=True)
    image_key, label_key, classes = tfds_reader.features(name, builder.info, any_size=True)
    feature = builder.info.features[image_key]
    channels = feature.shape[-1]
    if channels not in (1, 3) or feature.np_dtype != np.uint8:
        raise UserError(
            "config.data.name",
            f"the images of {name!r} have {channels} channels of {feature.np_dtype.__name__}",
            "Only 8-bit grey and colour images can be streamed: pass your own arrays.",
        )

    def split(which: str) -> Images:
        import tensorflow_datasets as tfds

        decoders = {image_key: tfds.decode.SkipDecoding()}
        records = tfds_reader.records(name, builder, which, decoders)
        return Images(records, image_key, label_key)

    with tfds_reader.readable(name, Path(builder.data_path)):
        train, test = _splits(name, builder, split)
        return EncodedSet(
            name=name,
            train=_subset(name, builder, "train", train, data_config.get("train_size")),
            test=_subset(name, builder, "test", test, data_config.get("test_size")),
            num_classes=classes,
            view=view._replace(channels=channels),
        )


def _view(data_config: Mapping[str, Any]) -> View:
    size, resize = (data_config.get(field) for field in ("image_size", "resize"))
    size = _whole("image_size", SIZE if size is None else size, 1)
    resize = _whole("resize", round(RESIZE * size) if resize is None else resize, size)
    augment = data_config.get("augment")
    return View(size, resize, augment=augment if augment in AUGMENTATIONS else "none")


def _whole(field: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(
            f"config.data.{field}", f"not possible: {value!r}", f"Give a whole number >= {least}."
        )
    return value


def _splits(name: str, builder: Any, split: Any) -> tuple[Images, Images]:
    """The training and the test split."""
    there = list(builder.info.splits)
    if "train" not in there:
        raise UserError(
            "config.data.name",
            f"{name!r} has no split 'train', only {', '.join(there)}",
            "Choose another set.",
        )
    train = split("train")
    for which in ("test", "validation"):
        if which in there and (images := split(which))[0][1] >= 0:
            return train, images
    if {"test", "validation"} & set(there):
        raise UserError("config.data.name", f"{name!r} has no labelled test split", "Use another.")
    order = stratified_order(_labels(builder, "train", train))
    kept, held_out = np.split(order, [len(order) - len(order) // 5])
    return (dataclasses.replace(train, chosen=part) for part in (kept, held_out))  # type: ignore


def _subset(name: str, builder: Any, which: str, images: Images, size: int | None) -> Images:
    """The first examples of the split's fixed stratified permutation, as `source.subset` has it."""
    if size is None or _whole(f"{which}_size", size, 1) == len(images):
        return images
    if size > len(images):
        raise UserError(
            f"config.data.{which}_size",
            f"{size} examples asked for, {len(images)} exist in {name!r}",
            f"Set it to at most {len(images)}, or leave it unset for all.",
        )
    every = images.chosen if images.chosen is not None else np.arange(len(images))
    labels = _labels(builder, which, dataclasses.replace(images, chosen=None))[every]
    return dataclasses.replace(images, chosen=every[stratified_order(labels)[:size]])


def _labels(builder: Any, which: str, images: Images) -> np.ndarray:
    """All labels of a split, in the order of the files; from the cache where reading is slow."""

    def read() -> cache.Arrays:
        labels = np.empty(len(images), np.int32)
        for start in range(0, len(images), _BATCH):
            at = list(range(start, min(start + _BATCH, len(images))))
            labels[at] = [record[images.label_key] for record in images.records.__getitems__(at)]
        return {"labels": labels}

    name = f"{builder.info.full_name}/{which}-labels"
    return cache.decoded(name, Path(builder.data_path), read)["labels"]
