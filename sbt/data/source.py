"""Where examples come from: TFDS, scikit-learn's digits, or a synthetic problem.

Everything ends as a `Dataset`. Nothing here runs on a device, and importing this module imports
neither tensorflow_datasets nor scikit-learn (both are slow).
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sbt.data.cache import data_directory
from sbt.data.dataset import Dataset, check_size, images_and_labels, stratified_order, subset
from sbt.errors import UserError, nearest, shown

# scikit-learn's digits have no official split. 1440 of the 1797 (80 %) is a multiple of every power
# of two up to 32, which keeps small studies tidy.
_DIGITS_TRAIN = 1440

_FIELDS = ("name", "data_dir", "train_size", "test_size", "normalize", "augment", "stream")
_STREAMED = ("image_size", "resize")
SYNTHETIC = ("num_classes", "image_shape", "noise")


def load(data_config: Mapping[str, Any]) -> Dataset:
    """Loads the data set that a config names.

    Args:
      data_config: fields (all but ``name`` optional)

        * ``name``: ``digits`` (1797 images of 8×8×1 with values 0 .. 16, embedded in scikit-learn,
          split 1440/357 at random within classes), ``synthetic`` (`synthetic`), or any
          image classification set of TFDS with images of one size: ``cifar10``, ``cifar100``,
          ``mnist``, ``fashion_mnist``, …; ``name/config:version`` as TFDS writes it;
        * ``data_dir``: TFDS directory; default the environment's ``TFDS_DATA_DIR``, else
          ``~/tensorflow_datasets``;
        * ``train_size``, ``test_size``: number of examples to keep (`dataset.subset`); default all;
        * ``num_classes``, ``image_shape``, ``noise``: of ``synthetic``;
        * ``normalize``, ``augment``: see `pipeline.make_pipeline`;
        * ``stream``: whether the images stay in their files and are decoded while training, for
          sets that do not fit in memory; then see `encoded.open_encoded` for further fields.

    Returns:
      The data set; of a streamed one a sample, `encoded.SampledSet`.

    Raises:
      UserError: unknown name; set not prepared and no means to prepare it; images of varying size;
        no label; a size below 1 or beyond the data; an unknown field.
    """
    check_section("config.data", data_config)
    name = data_config.get("name")
    if not isinstance(name, str) or not name:
        raise UserError(
            "config.data.name", f"not a name: {name!r}", "Name a data set, such as 'digits'."
        )
    _check_fields(data_config)
    if data_config.get("stream"):
        from sbt.data.encoded import open_encoded
        from sbt.data.tfds_reader import readable

        encoded = open_encoded(data_config)
        with readable(name, data_directory(data_config.get("data_dir")) / name):
            return encoded.sample()
    sizes = {size: check_size(size, data_config.get(size)) for size in ("train_size", "test_size")}
    if name == "synthetic":
        options = {field: data_config.get(field) for field in SYNTHETIC} | sizes
        return synthetic(**{k: v for k, v in options.items() if v is not None})
    if name == "digits":
        return subset(_digits(), **sizes)
    from sbt.data.tfds_reader import read

    return subset(read(name, data_config.get("data_dir")), **sizes)


def check_section(field: str, section: Any) -> None:
    """Refuses what is not a section of a config.

    Raises:
      UserError: it is not a mapping from the names of fields to their values.
    """
    if not isinstance(section, Mapping | ConfigDict):
        remedy = "give a mapping of its fields, such as {'name': 'digits'}"
        raise UserError(field, f"{shown(section)} is not a section", remedy)


def _check_fields(data_config: Mapping[str, Any]) -> None:
    name = data_config["name"]
    known = _FIELDS + (SYNTHETIC if name == "synthetic" else ())
    known += _STREAMED if data_config.get("stream") else ()
    for field, value in data_config.items():
        if field in known or value is None:
            continue
        where = f"config.data.{field}"
        if field in _STREAMED:
            remedy = "Leave it unset, or set config.data.stream = True."
            raise UserError(where, "only data that is streamed from files has it", remedy)
        raise UserError(where, f"is not a field of data set {name!r}", nearest(field, known))


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[..., None]  # integers 0 .. 16 stored as floats: exact
    labels = bunch.target.astype(np.int32)
    order = stratified_order(labels)
    train, test = order[:_DIGITS_TRAIN], order[_DIGITS_TRAIN:]
    splits = [(images[part], labels[part]) for part in (train, test)]
    return images_and_labels("digits", splits[0], splits[1], 10, 16.0)


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
    blocks = len(shape) == 3
    coarse = (math.ceil(shape[0] / 2), math.ceil(shape[1] / 2), shape[2]) if blocks else shape
    patterns = np.random.RandomState(0).standard_normal((num_classes, *coarse))
    if blocks:
        patterns = patterns.repeat(2, axis=1).repeat(2, axis=2)[:, : shape[0], : shape[1]]

    def split(size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        labels = (np.arange(size) % num_classes).astype(np.int32)
        eps = np.random.RandomState(seed).standard_normal((size, *shape))
        values = 127.5 + 40.0 * (patterns[labels] + noise * eps) / math.sqrt(1 + noise**2)
        return np.clip(np.rint(values), 0, 255).astype(np.uint8), labels

    return images_and_labels("synthetic", split(train_size, 1), split(test_size, 2), num_classes)
