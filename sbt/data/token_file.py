"""Tokens in files: flat, without a header, as nanoGPT and its descendants write them."""

import functools
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from sbt.data.dataset import MOST_CLASSES, Dataset
from sbt.data.registry import DATASETS, Wanted
from sbt.data.tokens import DEFAULT_LENGTH, SeqLen, check_vocabulary, split, text_dataset
from sbt.errors import UserError, shown
from sbt.files import path_of
from sbt.ranges import POSITIVE, Range

# What files of tokens begin with that are not flat, and how to make them so.
_HEADERS = {
    b"\x93NUMPY": ("NumPy's .npy format", "write it flat: numpy.load(path).tofile('tokens.bin')"),
    (20240520).to_bytes(4, "little"): (
        "a header of 1024 bytes (modded-nanogpt, llm.c)",
        "cut it off: tail -c +1025 FILE > tokens.bin",
    ),
    b"\x1f\x8b": ("compressed data (gzip)", "unpack it: gunzip FILE"),
    b"PK\x03\x04": ("a zip archive", "unpack it"),
}
_MOST_TOKENS = 1 << 20  # no vocabulary is so large
_LOOKED_AT = 1 << 16  # tokens at the beginning, to see whether they were written as another type


class TokenFile:
    """A file of numbers, mapped into memory where it is read; pickled, it is its path.

    Args:
      path: of the file.
      dtype: of its numbers.
    """

    def __init__(self, path: Path, dtype: Any):
        self.path, self.dtype = path, np.dtype(dtype).newbyteorder("<")

    @functools.cached_property
    def _mapped(self) -> np.ndarray:
        return np.memmap(self.path, self.dtype, mode="r")

    def __len__(self) -> int:
        return len(self._mapped)

    def __getitem__(self, which: slice) -> np.ndarray:
        return self._mapped[which]

    def __reduce__(self) -> Any:
        return TokenFile, (self.path, self.dtype)


def existing(path: str, field: str = "config.data.path") -> Path:
    """The path of a file that holds something.

    Args:
      path: ``~`` is the home directory.
      field: that gave it.

    Raises:
      UserError: a URL, a directory, no such file, an empty or unreadable one.
    """
    if not path:
        raise UserError(field, "names no file", "give the path of one")
    found = path_of(path, field)
    try:
        found.stat()
    except FileNotFoundError:
        pass
    except OSError as error:  # too long a name, a directory that may not be read
        problem = f"{shown(path)} cannot be read ({error.strerror})"
        raise UserError(field, problem, "give a file that you may read") from None
    if not found.exists():
        remedy = "prepare it first, or correct the path (relative ones begin where sbt is started)"
        raise UserError(field, f"there is no file {found}", remedy)
    if found.is_dir():
        raise UserError(field, f"{found} is a directory", "give a file in it")
    if not found.is_file() or not os.access(found, os.R_OK):
        raise UserError(field, f"{found} cannot be read", "give a file that you may read")
    if not found.stat().st_size:
        raise UserError(field, f"{found} is empty", "prepare it again")
    return found


def open_tokens(path: str, dtype: str, field: str = "config.data.path") -> TokenFile:
    """Opens a flat file of tokens.

    Args:
      path: of the file.
      dtype: ``uint8``, ``uint16`` or ``uint32``; little endian.
      field: that gave the path.

    Raises:
      UserError: see :func:`existing`; a file with a header, or one that looks written as another
        type.
    """
    found = existing(path, field)
    with found.open("rb") as file:
        begins = file.read(16)
    for magic, (what, remedy) in _HEADERS.items():
        if begins.startswith(magic):
            raise UserError(field, f"{found} is not a flat file of tokens: it has {what}", remedy)
    size, each = found.stat().st_size, np.dtype(dtype).itemsize
    where = "config.data.token_dtype"
    if size % each:
        other = "uint16" if size % 2 == 0 else "uint8"
        raise UserError(
            where,
            f"{found} has {size:,} bytes, which is no whole number of {dtype}",
            f"set it to {other} if that is what the file was written with, or prepare it again",
        )
    tokens = TokenFile(found, dtype)
    some = tokens[: 2 * _LOOKED_AT]
    if dtype == "uint16" and len(some) > 8 and len(some) % 2 == 0 and not some[1::2].any():
        raise UserError(
            where, f"every other number of {found} is 0, as in a file of uint32", "set it to uint32"
        )
    if dtype == "uint32" and (typical := int(np.median(some))) > _MOST_TOKENS:
        problem = f"{found} holds numbers such as {typical:,}, as a file of uint16 read by pairs"
        raise UserError(where, problem, "set it to uint16")
    return tokens


@DATASETS.register(
    "tokens", streams=True, source="flat files of token numbers, as nanoGPT prepares them"
)
def tokens(
    wanted: Wanted,
    path: str = "",
    test_path: str = "",
    token_dtype: Literal["uint16", "uint32", "uint8"] = "uint16",
    vocabulary: Annotated[int, Range(1, MOST_CLASSES)] | None = None,
    bytes_per_token: Annotated[float, POSITIVE] | None = None,
    seq_len: SeqLen = DEFAULT_LENGTH,
) -> Dataset:
    """Text that was turned into numbers before, one after the other in a file.

    The file is mapped into memory and never copied as a whole on the host; with
    ``config.data.stream`` the devices hold windows of it only.

    Args:
      wanted: sizes in sequences.
      path: of the file (``train.bin``).
      test_path: to evaluate on (``val.bin``); empty: the end of ``path``.
      token_dtype: of its numbers.
      vocabulary: V; None: the largest token plus one. Say it: padded vocabularies are larger.
      bytes_per_token: of the tokeniser on this text, for bits per byte; None: not told.
      seq_len: T.

    Raises:
      UserError: a file that is none, of another type, too short, or with tokens beyond V.
    """
    train = open_tokens(path, token_dtype)
    test = open_tokens(test_path, token_dtype, "config.data.test_path") if test_path else None
    splits = split(train, test, seq_len, wanted)
    count = check_vocabulary(splits, vocabulary)
    return text_dataset(splits, wanted, count, bytes_per_token=bytes_per_token)
