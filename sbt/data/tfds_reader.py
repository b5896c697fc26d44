"""Reads image classification sets prepared by tensorflow_datasets, without TensorFlow."""

import contextlib
import difflib
import errno
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sbt.data import cache
from sbt.data.stratified import stratified_order
from sbt.errors import UserError
from sbt.files import directory_of

_FIELD = "config.data.name"
_OWN = "Choose another set, or pass your own arrays (sbt.data.from_arrays)."
_BATCH = 1000  # records fetched at a time: bounds the memory held as compressed bytes


def data_directory(data_dir: str | os.PathLike | None = None) -> Path:
    """The TFDS directory: the argument, else ``TFDS_DATA_DIR``, else ``~/tensorflow_datasets``.

    Raises:
      UserError: a URL, a file, or no path at all.
    """
    for field, chosen in (
        ("config.data.data_dir", data_dir),
        ("TFDS_DATA_DIR", os.environ.get("TFDS_DATA_DIR")),
    ):
        if chosen:
            return directory_of(chosen, field)
    return Path("~/tensorflow_datasets").expanduser()


def read(
    name: str, data_dir: str | os.PathLike | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    """Reads the training and test splits of a prepared set; prepares it first where it can.

    The test split is ``test``, else ``validation``; a set that has only ``train`` gives up a fifth
    of it, the last of the fixed stratified permutation (`stratified.stratified_order`).

    Args:
      name: TFDS name, optionally ``name/config:version``.
      data_dir: see `data_directory`.

    Returns:
      ``(train_images, train_labels, test_images, test_labels, num_classes)``.

    Raises:
      UserError: see `source.load`.
    """
    builder = prepared(name, data_dir)
    image_key, label_key, num_classes = features(name, builder.info)

    def decode() -> cache.Arrays:
        return _read_splits(name, builder, image_key, label_key)

    with readable(name, Path(builder.data_path)):
        arrays = cache.decoded(builder.info.full_name, Path(builder.data_path), decode)
    return (
        arrays["train_images"],
        arrays["train_labels"],
        arrays["test_images"],
        arrays["test_labels"],
        num_classes,
    )


def prepared(
    name: str, data_dir: str | os.PathLike | None = None, *, any_size: bool = False
) -> Any:
    """The TFDS builder of a set that is prepared, if need be now.

    Args:
      name: TFDS name, optionally ``name/config:version``.
      data_dir: see `data_directory`.
      any_size: whether images of varying size will do.

    Raises:
      UserError: see `source.load`; and a set whose files have to be fetched by hand.
    """
    directory = data_directory(data_dir)
    return _on_disk(name, directory) or _first_use(name, directory, any_size)


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
            raise UserError(_FIELD, f"{directory} may not be read ({reason})", remedy) from None
        raise UserError(
            _FIELD,
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
    from sbt.data.prepare import prepare_in_subprocess

    code = _code(name, directory)
    if code is not None:
        features(name, code.info, any_size=any_size)
        if code.builder_config is not None and "/" not in name:  # TFDS has a default config
            base, *version = name.split(":")
            name = ":".join([f"{base}/{code.builder_config.name}", *version])
            if (builder := _on_disk(name, directory)) is not None:
                return builder
        _refuse_manual_download(name, directory, code)
    prepare_in_subprocess(name, directory)
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
            _FIELD,
            f"{name!r} is not prepared under {directory}, and its files have to be fetched by hand",
            f"Put them into {manual} ({said}), then run\n"
            f"    python -m sbt.data.prepare {name} --data_dir={shlex.quote(str(directory))}\n"
            "  Or point config.data.data_dir (or TFDS_DATA_DIR) to a directory that holds the set.",
        )


def _code(name: str, directory: Path) -> Any | None:
    """The builder made from the set's code; None where even that needs TensorFlow."""
    import tensorflow_datasets as tfds

    base = re.split("[/:]", name)[0]
    known = [*tfds.list_builders(with_community_datasets=False), "digits", "synthetic"]
    if base not in known:
        near = difflib.get_close_matches(base, known, n=3, cutoff=0.6)
        raise UserError(
            _FIELD,
            f"unknown data set {name!r}",
            (f"Did you mean {' or '.join(map(repr, near))}? " if near else "")
            + "Choose 'digits', 'synthetic', or an image classification set of "
            "https://www.tensorflow.org/datasets/catalog.",
        )
    try:
        return tfds.builder(name, data_dir=directory)
    except ImportError:
        return None
    except (AssertionError, ValueError) as error:  # no such version, no such config
        raise UserError(
            _FIELD,
            f"tensorflow_datasets refuses {name!r}: {' '.join(str(error).split())}",
            f"Choose another version or config, or plain {base!r}.",
        ) from error


def features(name: str, info: Any, *, any_size: bool = False) -> tuple[str, str, int]:
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
    if not isinstance(label, tfds.features.ClassLabel):
        raise UserError(_FIELD, f"{name!r} has no single class label per example", _OWN)
    if not isinstance(image, tfds.features.Image):
        raise UserError(_FIELD, f"{name!r} has no single image per example", _OWN)
    if None in image.shape and not any_size:
        raise UserError(
            _FIELD,
            f"the images of {name!r} vary in size (declared shape {image.shape})",
            "Set config.data.stream = True, which resizes them while training (see "
            "sbt.data.encoded), or choose a set with images of one size.",
        )
    return pair[0], pair[1], label.num_classes


def _read_splits(name: str, builder: Any, image_key: str, label_key: str) -> cache.Arrays:
    splits = list(builder.info.splits)
    if "train" not in splits:
        raise UserError(_FIELD, f"{name!r} has no split 'train', only {', '.join(splits)}", _OWN)
    test_split = next((s for s in ("test", "validation") if s in splits), None)

    def split(which: str) -> tuple[np.ndarray, np.ndarray]:
        x, y = _decode(records(name, builder, which), image_key, label_key)
        if y.min() < 0:
            raise UserError(_FIELD, f"split {which!r} of {name!r} holds unlabelled examples", _OWN)
        return x, y

    x, y = split("train")
    if test_split is None:
        order = stratified_order(y)
        train, test = np.split(order, [len(y) - len(y) // 5])
        (x, y), (x_test, y_test) = (x[train], y[train]), (x[test], y[test])
    else:
        x_test, y_test = split(test_split)
    return {"train_images": x, "train_labels": y, "test_images": x_test, "test_labels": y_test}


def records(name: str, builder: Any, split: str, decoders: Any = None) -> Any:
    """Random access to the examples of a split, as dictionaries.

    Raises:
      UserError: a set prepared in a format without random access.
    """
    try:
        with readable(name, Path(builder.data_path)):
            return builder.as_data_source(split, decoders=decoders)
    except NotImplementedError as error:
        raise UserError(
            _FIELD,
            f"{name!r} is prepared in {builder.data_path} as "
            f"{builder.info.file_format.value}, which only TensorFlow reads",
            "Prepare it in array_record format, in another directory: "
            f"python -m sbt.data.prepare {name} --data_dir=OTHER",
        ) from error


def _decode(source: Any, image_key: str, label_key: str) -> tuple[np.ndarray, np.ndarray]:
    """All examples of a split as two arrays, in file order."""
    first = source[0][image_key]
    images = np.empty((len(source), *first.shape), first.dtype)
    labels = np.empty(len(source), np.int32)
    for start in range(0, len(source), _BATCH):
        records = list(range(start, min(start + _BATCH, len(source))))
        for i, example in zip(records, source.__getitems__(records), strict=True):
            images[i] = example[image_key]
            labels[i] = example[label_key]
    return images, labels
