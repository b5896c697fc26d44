"""Reads image classification sets prepared by tensorflow_datasets, without TensorFlow."""

import contextlib
import dataclasses
import errno
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sbt.data import cache, prepare
from sbt.data.dataset import Dataset, images_and_labels, stratified_order
from sbt.data.registry import DATASETS
from sbt.errors import UserError, did_you_mean

FIELD = "config.data.name"
OWN = "Choose another set, or pass your own arrays (sbt.data.from_arrays)."
_BATCH = 1000  # records fetched at a time: bounds the memory held as compressed bytes


@dataclasses.dataclass(frozen=True)
class Images:
    """One split in its files. Picklable: worker processes open the files anew.

    Attributes:
      records: random access to the examples of the files; images decoded, or left as they are.
      image_key: name of the image in a record.
      label_key: name of the label.
      chosen: positions in the files of the examples that belong to the split; None: all.
      split: its name in the files.
    """

    records: Any
    image_key: str
    label_key: str
    chosen: np.ndarray | None = None
    split: str = ""

    def __len__(self) -> int:
        return len(self.records) if self.chosen is None else len(self.chosen)

    def __getitem__(self, example: int) -> tuple[Any, int]:
        """The image (its pixels, or the content of its file), and its label."""
        at = int(example if self.chosen is None else self.chosen[example])
        record = self.records[at]
        return record[self.image_key], int(record[self.label_key])

    def every(self) -> Iterator[dict[str, Any]]:
        """All records, in order."""
        at = np.arange(len(self)) if self.chosen is None else self.chosen
        for start in range(0, len(at), _BATCH):
            yield from self.records.__getitems__(at[start : start + _BATCH].tolist())


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A set that lies prepared on disk.

    Attributes:
      name: TFDS name, optionally ``name/config:version``.
      builder: of TFDS.
      image_key: name of the image in a record.
      label_key: name of the label.
      num_classes: K.
    """

    name: str
    builder: Any
    image_key: str
    label_key: str
    num_classes: int

    @property
    def directory(self) -> Path:
        """Where its files lie."""
        return Path(self.builder.data_path)

    def splits(self, encoded: bool) -> tuple[Images, Images]:
        """The training and the test split.

        The test split is ``test``, else ``validation``, whichever has labels; a set that has only
        ``train`` gives up a fifth of it, the last of the fixed stratified permutation
        (`dataset.stratified_order`).

        Args:
          encoded: whether images are left as they are encoded.

        Raises:
          UserError: a set without training split or without labels.
        """
        there = list(self.builder.info.splits)
        if "train" not in there:
            only = ", ".join(there)
            raise UserError(FIELD, f"{self.name!r} has no split 'train', only {only}", OWN)
        train = self.split("train", encoded)
        held_out = [which for which in ("test", "validation") if which in there]
        for which in held_out:
            if (images := self.split(which, encoded))[0][1] >= 0:
                return train, images
        if held_out:
            raise self.unlabelled(held_out[0])
        order = stratified_order(self.labels("train"))
        kept, rest = np.split(order, [len(order) - len(order) // 5])
        return dataclasses.replace(train, chosen=kept), dataclasses.replace(train, chosen=rest)

    def split(self, which: str, encoded: bool) -> Images:
        """All examples of one split of the files.

        Raises:
          UserError: a set prepared in a format without random access.
        """
        import tensorflow_datasets as tfds

        decoders = {self.image_key: tfds.decode.SkipDecoding()} if encoded else None
        records = records_of(self.name, self.builder, which, decoders)
        return Images(records, self.image_key, self.label_key, split=which)

    def labels(self, which: str) -> np.ndarray:
        """All labels of a split of the files; from the cache where reading them is slow."""

        def read() -> cache.Arrays:
            found = [record[self.label_key] for record in self.split(which, encoded=True).every()]
            return {"labels": np.asarray(found, np.int32)}

        name = f"{self.builder.info.full_name}/{which}-labels"
        return cache.decoded(name, self.directory, read)["labels"]

    def unlabelled(self, which: str) -> UserError:
        """What is wrong with a split whose labels are missing."""
        return UserError(FIELD, f"split {which!r} of {self.name!r} has unlabelled examples", OWN)


def builder_of(name: str, data_dir: str | os.PathLike | None = None) -> Any | None:
    """The builder of a set that lies prepared on disk, else None.

    Args:
      name: TFDS name, optionally ``name/config:version``.
      data_dir: see `cache.data_directory`.

    Raises:
      UserError: its files are damaged.
    """
    return _on_disk(name, cache.data_directory(data_dir))


def records_of(name: str, builder: Any, which: str, decoders: Any = None) -> Any:
    """Random access to the examples of one split of the files.

    Args:
      name: TFDS name.
      builder: of the set.
      which: split.
      decoders: of TFDS.

    Raises:
      UserError: a set prepared in a format without random access.
    """
    directory = Path(builder.data_path)
    try:
        with readable(name, directory):
            return builder.as_data_source(which, decoders=decoders)
    except NotImplementedError as error:
        raise UserError(
            FIELD,
            f"{name!r} is prepared in {directory} as "
            f"{builder.info.file_format.value}, which only TensorFlow reads",
            "Prepare it in array_record format, in another directory: "
            f"python -m sbt.data.prepare {name} --data_dir=OTHER",
        ) from error


def read(name: str, data_dir: str | os.PathLike | None = None) -> Dataset:
    """Reads a prepared set into memory; prepares it first where it can.

    Args:
      name: TFDS name, optionally ``name/config:version``.
      data_dir: see `cache.data_directory`.

    Raises:
      UserError: see `source.load`.
    """
    found = prepared(name, data_dir)

    def decode() -> cache.Arrays:
        arrays: cache.Arrays = {}
        for which, images in zip(("train", "test"), found.splits(encoded=False), strict=True):
            x, y = _decode(images)
            if y.min() < 0:
                raise found.unlabelled(which)
            arrays |= {f"{which}_images": x, f"{which}_labels": y}
        return arrays

    with readable(name, found.directory):
        arrays = cache.decoded(found.builder.info.full_name, found.directory, decode)
    floating = np.issubdtype(arrays["train_images"].dtype, np.floating)
    max_value = 1.0 if floating else 255.0
    train, test = (
        (arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in ("train", "test")
    )
    return images_and_labels(name, train, test, found.num_classes, max_value)


def prepared(
    name: str, data_dir: str | os.PathLike | None = None, *, any_size: bool = False
) -> Prepared:
    """A set that is prepared, if need be now.

    Args:
      name: TFDS name, optionally ``name/config:version``.
      data_dir: see `cache.data_directory`.
      any_size: whether images of varying size will do.

    Raises:
      UserError: see `source.load`; and a set whose files have to be fetched by hand.
    """
    directory = cache.data_directory(data_dir)
    builder = _on_disk(name, directory) or _first_use(name, directory, any_size)
    return Prepared(name, builder, *_features(name, builder.info, any_size=any_size))


@contextlib.contextmanager
def readable(name: str, directory: Path) -> Iterator[None]:
    """Says which prepared set is damaged where reading its files raises.

    Args:
      name: TFDS name.
      directory: where its files lie.

    Raises:
      UserError: for whatever a library says about files that it cannot read.
    """
    try:
        yield
    except (UserError, MemoryError, ImportError, NotImplementedError):
        raise
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        reason = (str(reason or "").strip().splitlines() or [type(error).__name__])[0][:200]
        if isinstance(error, PermissionError):
            remedy = "make its files readable, or point config.data.data_dir elsewhere"
            raise UserError(FIELD, f"{directory} may not be read ({reason})", remedy) from None
        raise UserError(
            FIELD,
            f"the files of {name!r} in {directory} are damaged or incomplete ({reason})",
            "restore them from a copy, or remove that directory and prepare the set again: "
            f"python -m sbt.data.prepare {name} --data_dir=DIR",
        ) from None


def _on_disk(name: str, directory: Path) -> Any | None:
    """The builder of a prepared set, else None. Needs no code of the set itself."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import naming

    try:
        parsed, kwargs = naming.parse_builder_name_kwargs(name, data_dir=directory)
    except ValueError:  # not a TFDS name at all
        return None
    where = directory / str(parsed)
    try:
        with readable(name, where):
            try:
                return tfds.core.read_only_builder.builder_from_files(str(parsed), **kwargs)
            except tfds.core.DatasetNotFoundError:
                if _without_info(where):
                    raise FileNotFoundError(errno.ENOENT, "no dataset_info.json") from None
                return None
    except UserError:
        if where.exists():
            raise
        return None


def _without_info(directory: Path) -> bool:
    """Whether a version of a set has its records, and not the file that describes them."""
    versions = [where for where in directory.glob("*.*.*") if where.is_dir()]
    return any(
        any(version.glob("*record-*")) and not (version / "dataset_info.json").exists()
        for version in versions
    )


def _first_use(name: str, directory: Path, any_size: bool) -> Any:
    """The builder of a set that has yet to be prepared. Unsuitable sets are refused first."""
    code = _code(name, directory)
    if code is not None:
        _features(name, code.info, any_size=any_size)
        if code.builder_config is not None and "/" not in name:  # TFDS has a default config
            base, *version = name.split(":")
            name = ":".join([f"{base}/{code.builder_config.name}", *version])
            if (builder := _on_disk(name, directory)) is not None:
                return builder
        _refuse_manual_download(name, directory, code)
    prepare.prepare_in_subprocess(name, directory)
    builder = _on_disk(name, directory)
    if builder is None:
        raise RuntimeError(f"{name} was prepared under {directory}, but is not there")
    return builder


def _refuse_manual_download(name: str, directory: Path, code: Any) -> None:
    """ImageNet, for one, cannot be downloaded by a program."""
    manual = directory / "downloads" / "manual"
    if code.MANUAL_DOWNLOAD_INSTRUCTIONS and not manual.is_dir():
        said = " ".join(code.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
        raise UserError(
            FIELD,
            f"{name!r} is not prepared under {directory}, and its files have to be fetched by hand",
            f"Put them into {manual} ({said}), then run\n"
            f"    python -m sbt.data.prepare {name} --data_dir={shlex.quote(str(directory))}\n"
            "  Or point config.data.data_dir (or TFDS_DATA_DIR) to a directory that holds the set.",
        )


def _code(name: str, directory: Path) -> Any | None:
    """The builder made from the set's code; None where even that needs TensorFlow."""
    import tensorflow_datasets as tfds

    base = re.split("[/:]", name)[0]
    known = [*tfds.list_builders(with_community_datasets=False), *DATASETS]
    if base not in known:
        raise UserError(
            FIELD,
            f"unknown data set {name!r}",
            f"{did_you_mean(base, known)}Choose one of {', '.join(DATASETS)}, or an image "
            "classification set of https://www.tensorflow.org/datasets/catalog.",
        )
    try:
        return tfds.builder(name, data_dir=directory)
    except ImportError:
        return None
    except (AssertionError, ValueError) as error:  # no such version, no such config
        raise UserError(
            FIELD,
            f"tensorflow_datasets refuses {name!r}: {' '.join(str(error).split())}",
            f"Choose another version or config, or plain {base!r}.",
        ) from error


def _features(name: str, info: Any, *, any_size: bool = False) -> tuple[str, str, int]:
    """Names of the image and the label, and the number of classes.

    Raises:
      UserError: no single image or label, or images of varying size (without ``any_size``).
    """
    import tensorflow_datasets as tfds

    features = dict(info.features) if isinstance(info.features, tfds.features.FeaturesDict) else {}
    pair = info.supervised_keys
    if not (isinstance(pair, tuple) and len(pair) == 2 and all(k in features for k in pair)):
        images = [k for k, f in features.items() if isinstance(f, tfds.features.Image)]
        labels = [k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
        pair = (images[0], labels[0]) if len(images) == len(labels) == 1 else (None, None)
    image, label = (features.get(k) for k in pair)
    texts = [k for k, f in features.items() if isinstance(f, tfds.features.Text)]
    if texts and not any(isinstance(f, tfds.features.Image) for f in features.values()):
        raise UserError(
            FIELD,
            f"{name!r} is a set of text, which is read into memory from prepared files",
            f"Prepare it first (python -m sbt.data.prepare {name} --data_dir=DIR), and do not "
            "stream it.",
        )
    if not isinstance(label, tfds.features.ClassLabel):
        raise UserError(FIELD, f"{name!r} has no single class label per example", OWN)
    if not isinstance(image, tfds.features.Image):
        raise UserError(FIELD, f"{name!r} has no single image per example", OWN)
    if None in image.shape and not any_size:
        raise UserError(
            FIELD,
            f"the images of {name!r} vary in size (declared shape {image.shape})",
            "Set config.data.stream = True, which resizes them while training (see "
            "sbt.data.encoded), or choose a set with images of one size.",
        )
    return pair[0], pair[1], label.num_classes


def _decode(images: Images) -> tuple[np.ndarray, np.ndarray]:
    """All examples of a split as two arrays."""
    first, _ = images[0]
    pixels = np.empty((len(images), *first.shape), first.dtype)
    labels = np.empty(len(images), np.int32)
    for i, record in enumerate(images.every()):
        pixels[i], labels[i] = record[images.image_key], record[images.label_key]
    return pixels, labels
