"""Where examples come from: TFDS, scikit-learn's digits, a synthetic problem, text.

Everything ends as a `Dataset`. Nothing here runs on a device, and importing this module imports
neither tensorflow_datasets nor scikit-learn (both are slow).
"""

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from ml_collections import ConfigDict

from sbt.choice import Choice
from sbt.data.cache import data_directory
from sbt.data.dataset import (
    Dataset,
    SampledSet,
    check_size,
    hold_out,
    images_and_labels,
    stratified_order,
    subset,
)
from sbt.data.registry import DATASETS, Wanted
from sbt.data.tokens import DEFAULT_LENGTH, SeqLen
from sbt.errors import UserError, nearest, shown
from sbt.ranges import Range

# scikit-learn's digits have no official split. 1440 of the 1797 (80 %) is a multiple of every power
# of two up to 32, which keeps small studies tidy.
_DIGITS_TRAIN = 1440

_FIELDS = (*Wanted._fields, "normalize", "cutout", "validation")
_STREAMED = ("image_size", "resize")
_MOST_VALUES = 2**31  # of a synthetic set, which is made as a whole


def load(data_config: Mapping[str, Any]) -> Dataset:
    """Loads the data set that a config names.

    Args:
      data_config: fields (all but ``name`` optional)

        * ``name``: one of :data:`sbt.data.registry.DATASETS` (``sbt list data`` shows them), and
          its fields; or any image classification set of TFDS with images of one size (``cifar10``,
          ``cifar100``, ``mnist``, ``fashion_mnist``, …), or a text set of TFDS, with ``seq_len``;
          ``name/config:version`` as TFDS writes it;
        * ``data_dir``: TFDS directory; default the environment's ``TFDS_DATA_DIR``, else
          ``~/tensorflow_datasets``;
        * ``train_size``, ``test_size``: number of examples to keep (`dataset.subset`); default all;
        * ``validation``: of the training examples to hold out (`dataset.hold_out`); default none;
        * ``normalize``, ``augment``, ``cutout``: see `pipeline.make_pipeline`;
        * ``stream``: whether the examples stay in their files and are read while training, for
          sets that do not fit in memory; of images see `encoded.open_encoded` for further fields.

    Returns:
      The data set; of a streamed one a sample, `dataset.SampledSet`.

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
    choice = configured(data_config)
    given = {field: data_config.get(field) for field in Wanted._fields}
    wanted = Wanted(**{field: value for field, value in given.items() if value is not None})
    for size in ("train_size", "test_size"):
        check_size(size, getattr(wanted, size))
    made = choice(wanted)
    if not isinstance(made, SampledSet):  # whose sizes are those of its files
        made = subset(made, wanted.train_size, wanted.test_size)
    return hold_out(made, data_config.get("validation"))


def check_section(field: str, section: Any) -> None:
    """Refuses what is not a section of a config.

    Raises:
      UserError: it is not a mapping from the names of fields to their values.
    """
    if not isinstance(section, Mapping | ConfigDict):
        remedy = "give a mapping of its fields, such as {'name': 'digits'}"
        raise UserError(field, f"{shown(section)} is not a section", remedy)


def named(name: str) -> Choice:
    """The data set of that name; whatever is not one of ours is one of TFDS."""
    return DATASETS[name] if name in DATASETS else _TFDS["tfds"]


def configured(data_config: Mapping[str, Any]) -> Choice:
    """The data set of a section of a config, with the values that this gives its own fields.

    Raises:
      UserError: a field that it does not have, or does not have where nothing is streamed, or a
        value that a field does not take; a set that cannot be streamed.
    """
    name = data_config["name"]
    choice = named(name)
    known = (*(field for field in _FIELDS if field not in _STREAMED), *choice.fields)
    stream, images = bool(data_config.get("stream")), choice.name == "tfds"
    if stream and images:
        known += _STREAMED
    own = {}
    for field, value in data_config.items():
        if field in choice.fields:
            if value is not None or not choice.fields[field].optional:
                own[field] = choice.fields[field].default if value is None else value
        elif field not in known and value is not None:
            where = f"config.data.{field}"
            if field in _STREAMED:
                remedy = "Leave it unset, or set config.data.stream = True."
                raise UserError(where, "only data that is streamed from files has it", remedy)
            raise UserError(where, f"is not a field of data set {name!r}", nearest(field, known))
    if stream and not choice.facts.get("streams"):
        raise UserError(
            "config.data.stream",
            f"{name!r} is not a set of files to stream from",
            "Set config.data.stream = False, or choose a set of TFDS or files of your own.",
        )
    return choice.configured(own)


_TFDS = DATASETS.alike()


@_TFDS.register("tfds", streams=True, source="https://www.tensorflow.org/datasets/catalog")
def tfds(wanted: Wanted, seq_len: SeqLen | None = None) -> Dataset:
    """A set of tensorflow_datasets: images of classes, or text.

    Args:
      wanted: its name, as TFDS writes it.
      seq_len: T, of text; None: 64.

    Raises:
      UserError: see :func:`load`.
    """
    from sbt.data import tfds_reader, tfds_text

    where = data_directory(wanted.data_dir) / wanted.name
    if not wanted.stream:
        if text := tfds_text.find(wanted):
            return tfds_text.read(wanted, text, DEFAULT_LENGTH if seq_len is None else seq_len)
        _refuse_length(wanted, seq_len)
        return tfds_reader.read(wanted.name, wanted.data_dir)
    from sbt.data.encoded import open_encoded

    _refuse_length(wanted, seq_len)
    encoded = open_encoded(wanted._asdict())
    with tfds_reader.readable(wanted.name, where):
        return encoded.sample()


def _refuse_length(wanted: Wanted, seq_len: int | None) -> None:
    if seq_len is not None:
        from sbt.data.tfds_reader import prepared

        prepared(wanted.name, wanted.data_dir, any_size=True)  # refuses what is no set of images
        problem = f"{wanted.name!r} is a set of images, which are not cut into sequences"
        raise UserError("config.data.seq_len", problem, "leave it out")


def _digit_rows() -> np.ndarray:
    """64 pixels and a label a row, from the file that ``load_digits`` reads.

    scikit-learn is not imported for that, which takes most of a second; but where a version of it
    keeps the file elsewhere, it is asked.
    """
    found = importlib.util.find_spec("sklearn")
    if found is not None and found.origin:
        path = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return np.loadtxt(path, np.uint8, delimiter=",")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target])


@DATASETS.register("digits", source="scikit-learn, load_digits")
def digits(wanted: Wanted) -> Dataset:
    """1797 images of 8×8×1 with values 0 .. 16, split 1440/357 at random within classes."""
    del wanted
    rows = _digit_rows()
    images = rows[:, :-1].reshape(-1, 8, 8, 1).astype(np.uint8)  # integers 0 .. 16
    labels = rows[:, -1].astype(np.int32)
    order = stratified_order(labels)
    train, test = order[:_DIGITS_TRAIN], order[_DIGITS_TRAIN:]
    splits = [(images[part], labels[part]) for part in (train, test)]
    return images_and_labels("digits", splits[0], splits[1], 10, 16.0)


def _check_shape(where: str, values: Mapping[str, Any]) -> None:
    if len(values["image_shape"]) > 4:
        problem = f"{shown(values['image_shape'])} is not the shape of an image"
        remedy = "give a tuple of one to four sizes, such as (8, 8, 1)"
        raise UserError(f"{where}.image_shape", problem, remedy)


@DATASETS.register("synthetic", source="class patterns under noise", check=_check_shape)
def patterns(
    wanted: Wanted,
    num_classes: Annotated[int, Range(2, 10**5)] = 10,
    image_shape: Annotated[tuple[int, ...], Range(1, 2**14)] = (8, 8, 1),
    noise: Annotated[float, Range(0, 1e6)] = 1.0,
) -> Dataset:
    """Class patterns under Gaussian noise: :func:`synthetic`, by default 1024 and 256 of them."""
    sizes = {size: getattr(wanted, size) for size in ("train_size", "test_size")}
    given = {size: value for size, value in sizes.items() if value is not None}
    return synthetic(num_classes, image_shape, noise, **given)


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
    if (train_size + test_size) * math.prod(shape) > _MOST_VALUES:
        problem = f"{train_size + test_size:,} images of shape {shape} do not fit in memory"
        raise UserError("config.data", problem, "choose smaller sizes")
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
