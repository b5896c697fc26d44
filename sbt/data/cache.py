"""A cache of decoded images, for sets that take long to decode. Its loss costs time, never data."""

import hashlib
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import logging

from sbt.files import CannotWrite, directory_of, whole_file

SLOW_SECONDS = 5.0  # decoding that took less is not worth the disk space

Arrays = dict[str, np.ndarray]


def cache_directory() -> Path:
    """``SBT_CACHE_DIR``, else ``XDG_CACHE_HOME/sbt``, else ``~/.cache/sbt``."""
    if chosen := os.environ.get("SBT_CACHE_DIR"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sbt"


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


def fingerprint(directory: Path) -> str:
    """Hash of the names, sizes and modification times of the files of a prepared set."""
    files = sorted(path for path in directory.iterdir() if path.is_file())
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(stats).encode()).hexdigest()[:16]


def decoded(name: str, source: Path, decode: Callable[[], Arrays]) -> Arrays:
    """What ``decode()`` returns, from the cache where it holds that.

    The entry is named after the set, its version and `fingerprint`, so a set that was prepared
    again is decoded again. It is written to a temporary file and renamed, so that readers and
    interrupted writers do no harm; the CRC-32 of every array is checked while it is read, and a
    damaged entry is decoded and written again. A directory that cannot be written is no error.

    Args:
      name: name and version of the set, ``cifar10/3.0.2``.
      source: directory of the files that are decoded.
      decode: reads them; called only where the cache does not help.

    Returns:
      Arrays by name.
    """
    entry = cache_directory() / f"{name.replace('/', '-')}-{fingerprint(source)}.npz"
    found = _read(entry)
    if found is not None:
        return found
    start = time.monotonic()
    arrays = decode()
    if time.monotonic() - start > SLOW_SECONDS:
        _write(entry, arrays)
    return arrays


def _read(entry: Path) -> Arrays | None:
    try:
        with entry.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        logging.warning("Cache entry %s is damaged (%s): decoding again.", entry, error)
        return None


def _write(entry: Path, arrays: Arrays) -> None:
    try:
        with whole_file(entry) as file:
            np.savez(file, allow_pickle=False, **arrays)
        logging.info("Decoded images are kept in %s.", entry)
    except CannotWrite as error:
        logging.warning("Decoded images are not kept in %s: %s", entry, error)
