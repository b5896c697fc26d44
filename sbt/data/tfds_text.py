"""Reads text sets prepared by tensorflow_datasets, without TensorFlow: as bytes, joined."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sbt.data import cache
from sbt.data.dataset import Dataset
from sbt.data.registry import Wanted
from sbt.data.text import SEPARATOR, of_bytes
from sbt.data.tfds_reader import FIELD, OWN, builder_of, readable, records_of
from sbt.errors import UserError

_BATCH = 1000  # records fetched at a time
_TEXT = "text"  # of several texts in a record this one is meant


class TextSet(NamedTuple):
    """A set of text that lies prepared on disk: its builder, and the text's name in a record."""

    builder: Any
    name: str


def find(wanted: Wanted) -> TextSet | None:
    """The set that a config names, if it is one of text; sets with an image are not.

    Raises:
      UserError: its files are damaged; several texts in a record, none of them called ``text``.
    """
    import tensorflow_datasets as tfds

    builder = builder_of(wanted.name, wanted.data_dir)
    if builder is None:
        return None
    found = builder.info.features
    features = dict(found) if isinstance(found, tfds.features.FeaturesDict) else {}
    texts = [name for name, one in features.items() if isinstance(one, tfds.features.Text)]
    if not texts or any(isinstance(one, tfds.features.Image) for one in features.values()):
        return None
    if _TEXT in texts or len(texts) == 1:
        return TextSet(builder, _TEXT if _TEXT in texts else texts[0])
    problem = f"{wanted.name!r} has several texts in each example: {', '.join(texts)}"
    raise UserError(FIELD, problem, "Write the one you want to a file (config.data.name = 'text').")


def read(wanted: Wanted, found: TextSet, seq_len: int) -> Dataset:
    """All text of a set as bytes; an empty line between its documents.

    The test split is ``test``, else ``validation``; of a set that has neither it is the end of the
    text.

    Args:
      wanted: sizes in sequences.
      found: the set.
      seq_len: T.

    Raises:
      UserError: no training split, or too little text.
    """
    builder, there = found.builder, list(found.builder.info.splits)
    if "train" not in there:
        only = ", ".join(there)
        raise UserError(FIELD, f"{wanted.name!r} has no split 'train', only {only}", OWN)
    held_out = next((which for which in ("test", "validation") if which in there), None)
    splits = ("train",) if held_out is None else ("train", held_out)
    where = Path(builder.data_path)

    def decode() -> cache.Arrays:
        return {which: _joined(wanted.name, found, which) for which in splits}

    with readable(wanted.name, where):
        arrays = cache.decoded(f"{builder.info.full_name}/{found.name}", where, decode)
    test = None if held_out is None else arrays[held_out]
    return of_bytes(arrays["train"], test, seq_len, wanted, {})


def _joined(set_name: str, found: TextSet, which: str) -> np.ndarray:
    records = records_of(set_name, found.builder, which)
    texts: list[bytes] = []
    for start in range(0, len(records), _BATCH):
        some = range(start, min(start + _BATCH, len(records)))
        texts += [_bytes(record[found.name]) for record in records.__getitems__(list(some))]
    return np.frombuffer(SEPARATOR.encode().join(texts), np.uint8)


def _bytes(text: Any) -> bytes:
    return text if isinstance(text, bytes) else str(text).encode()
