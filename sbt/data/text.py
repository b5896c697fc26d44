"""Text, as bytes or as characters: any file, and the language reference inside every Python."""

import platform
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from sbt.data.dataset import Dataset
from sbt.data.registry import DATASETS, Wanted
from sbt.data.token_file import TokenFile, existing
from sbt.data.tokens import (
    DEFAULT_LENGTH,
    SeqLen,
    Stream,
    narrowed,
    split,
    text_dataset,
)
from sbt.errors import UserError

BYTES = 256
SEPARATOR = "\n\n"  # between the documents of a text
_Unit = Literal["bytes", "characters"]


class Alphabet(NamedTuple):
    """The characters of a text as tokens 0 to n-1, sorted; n stands for any other character."""

    codes: np.ndarray  # uint32 code points, ascending

    @property
    def vocabulary(self) -> int:
        """V = n + 1."""
        return len(self.codes) + 1

    def encode(self, codes: np.ndarray) -> np.ndarray:
        """Code points to tokens, in the smallest type."""
        at = np.searchsorted(self.codes, codes)
        known = self.codes[np.minimum(at, len(self.codes) - 1)] == codes
        return narrowed(np.where(known, at, len(self.codes)), self.vocabulary)


def code_points(data: bytes, where: str) -> np.ndarray:
    """The characters of UTF-8, as numbers; uint32.

    Raises:
      UserError: it is none, naming the first wrong byte.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            "config.data.unit",
            f"{where} is not UTF-8: byte {error.start:,} is 0x{data[error.start]:02x}",
            "convert it (iconv -f latin1 -t utf-8), or set config.data.unit to 'bytes'",
        ) from None
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


def of_bytes(
    data: Stream, test: Stream | None, length: int, wanted: Wanted, notes: Mapping[str, Any]
) -> Dataset:
    """Every byte is a token, of 256."""
    splits = split(data, test, length, wanted)
    return text_dataset(splits, wanted, BYTES, bytes_per_token=1.0, notes=notes)


def of_characters(
    data: bytes, test: bytes | None, length: int, wanted: Wanted, notes: Mapping[str, Any]
) -> Dataset:
    """Every character is a token.

    The vocabulary is that of the training part of the text, whatever ``wanted.train_size`` takes of
    it, and one token more, the last: it stands for characters that only the test part has. Nothing
    is learned of it but that it does not come.
    """
    codes = code_points(data, "the text")
    test_codes = None if test is None else code_points(test, "the text to evaluate on")
    splits = split(codes, test_codes, length, wanted._replace(train_size=None))
    alphabet = Alphabet(np.unique(splits.train.flat if test is None else codes))

    def encoded(part: np.ndarray | None) -> np.ndarray | None:
        return None if part is None else alphabet.encode(part)

    tokens = alphabet.encode(codes)
    splits = split(tokens, encoded(test_codes), length, wanted)
    seen = codes[: len(splits.train.flat)]
    # Of UTF-8: one byte, and one more from each of these code points on.
    size = len(seen) + sum(int(np.sum(seen >= start)) for start in (0x80, 0x800, 0x10000))
    unknown = int(np.sum(splits.test.flat == alphabet.vocabulary - 1))
    return text_dataset(
        splits,
        wanted,
        alphabet.vocabulary,
        bytes_per_token=size / len(seen),
        notes={**notes, "unknown characters": unknown},
    )


@DATASETS.register("text", streams=True, source="any file of text")
def text(
    wanted: Wanted,
    path: str = "",
    test_path: str = "",
    unit: _Unit = "bytes",
    seq_len: SeqLen = DEFAULT_LENGTH,
) -> Dataset:
    """A file of text as it is.

    Args:
      wanted: sizes in sequences; bytes can be streamed.
      path: of the file.
      test_path: to evaluate on; empty: the end of ``path``.
      unit: what a token is; ``bytes``: any file, V = 256; ``characters`` of UTF-8: V is the number
        of those in the training part plus one for all others (:func:`of_characters`).
      seq_len: T.

    Raises:
      UserError: a file that is none, too short, or not UTF-8.
    """
    files = [existing(path)]
    if test_path:
        files.append(existing(test_path, "config.data.test_path"))
    if unit == "bytes":
        train, *test = (TokenFile(file, np.uint8) for file in files)
        return of_bytes(train, test[0] if test else None, seq_len, wanted, {})
    if wanted.stream:
        raise UserError(
            "config.data.stream",
            "characters are made tokens in memory",
            "set config.data.unit to 'bytes', or write their numbers to a file (name 'tokens')",
        )
    read = [file.read_bytes() for file in files]
    return of_characters(read[0], read[1] if test_path else None, seq_len, wanted, {})


@DATASETS.register("python_docs", source="pydoc_data.topics of the Python that runs")
def python_docs(wanted: Wanted, unit: _Unit = "bytes", seq_len: SeqLen = DEFAULT_LENGTH) -> Dataset:
    """The language reference inside every CPython: 0.46 MB of English, nothing to download.

    Its topics stand in alphabetical order, an empty line between them. The text differs from one
    version of Python to the next, and so may results: the version is kept with them.

    Args:
      wanted: sizes in sequences.
      unit: as for :func:`text`.
      seq_len: T.

    Raises:
      UserError: a Python without it.
    """
    data, notes = python_reference().encode(), {"python": platform.python_version()}
    if unit == "bytes":
        return of_bytes(np.frombuffer(data, np.uint8), None, seq_len, wanted, notes)
    return of_characters(data, None, seq_len, wanted, notes)


def python_reference() -> str:
    """The text of ``python_docs``.

    Raises:
      UserError: this Python was installed without it.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise UserError(
            "config.data.name",
            "this Python was installed without its reference (the module pydoc_data)",
            "install all of it (Debian: libpython3-stdlib), or choose 'markov' or a file of text",
        ) from None
    return SEPARATOR.join(topics[name] for name in sorted(topics))
