"""A flat stream of tokens, cut into sequences: the examples of language models.

Example i of a stream is its tokens i·T to (i+1)·T, both ends included: the first T are the inputs
``x``, the last T the labels, each the token that follows. So sequences overlap by the one token
that is the last label of one and the first input of the next, every token but the first is a label
once, and what is left at the end, fewer than T tokens, is dropped. Training sees sequences in the
order of any other examples (:mod:`sbt.data.order`), which is permuted sequence by sequence.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, Protocol

import numpy as np

from sbt.data.dataset import MOST_CLASSES, Dataset, SampledSet, check_size
from sbt.data.registry import Wanted
from sbt.errors import UserError
from sbt.ranges import Range
from sbt.tasks.base import Examples

SeqLen = Annotated[int, Range(1, 2**20)]
DEFAULT_LENGTH = 64
HELD_OUT = 10  # one sequence in so many is evaluated on, where nothing else is said
SAMPLE = 1024  # sequences of a stream that are looked at, for shapes and a fingerprint
_AT_ONCE = 1 << 24  # tokens looked at at a time: files mapped into memory stay where they are


class Stream(Protocol):
    """Tokens by position: an array, or a file (:class:`sbt.data.token_file.TokenFile`)."""

    def __len__(self) -> int: ...

    def __getitem__(self, which: slice, /) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Consecutive examples of a stream.

    Attributes:
      tokens: the stream.
      length: T.
      first: number of the first example in the stream.
      count: how many there are.
    """

    tokens: Stream
    length: int
    first: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, example: int) -> Examples:
        at = (self.first + int(example)) * self.length
        window = np.asarray(self.tokens[at : at + self.length + 1])
        return {"x": window[:-1], "label": window[1:]}

    @property
    def flat(self) -> np.ndarray:
        """All their tokens, ``count · T + 1`` of them; a view where the stream is an array."""
        at = self.first * self.length
        return self.tokens[at : at + self.count * self.length + 1]

    @property
    def examples(self) -> Examples:
        """``x`` and ``label``, ``(count, T)``: views of :attr:`flat`, in its dtype."""
        flat, shape = self.flat, (self.count, self.length)
        return {"x": flat[:-1].reshape(shape), "label": flat[1:].reshape(shape)}

    def part(self, first: int, count: int) -> "Sequences":
        """Some of them, from the ``first`` on."""
        return dataclasses.replace(self, first=self.first + first, count=count)


def sequences(tokens: Stream, length: int, name: str = "the text") -> Sequences:
    """All examples of a stream.

    Args:
      tokens: n of them.
      length: T.
      name: whose they are, in the message.

    Returns:
      ``floor((n - 1) / T)`` examples.

    Raises:
      UserError: there is not even one.
    """
    count = (len(tokens) - 1) // length
    if count < 1:
        raise UserError(
            "config.data.seq_len",
            f"a sequence of {length} takes {length + 1:,} tokens, {name} has {len(tokens):,}",
            f"set config.data.seq_len to less than {len(tokens)}, or give more text"
            if len(tokens) > 1
            else "give more text",
        )
    return Sequences(tokens, length, 0, count)


class Splits(NamedTuple):
    """What is trained and evaluated on."""

    train: Sequences
    test: Sequences

    @property
    def dropped(self) -> int:
        """Tokens at the ends of the streams that no example holds."""
        streams = {id(part.tokens): part for part in self}.values()
        return sum((len(part.tokens) - 1) % part.length for part in streams)


def split(tokens: Stream, test_tokens: Stream | None, length: int, wanted: Wanted) -> Splits:
    """Training and test split of one stream, or of one each.

    Of one stream the last ``wanted.test_size`` sequences are the test split (a tenth of them by
    default, at least one), so that the same tokens are evaluated on whatever the training size, and
    the first ``wanted.train_size`` of what lies before are trained on. Of a stream of its own the
    first ``wanted.test_size`` sequences are.

    Args:
      tokens: the stream.
      test_tokens: to evaluate on; None: the end of ``tokens``.
      length: T.
      wanted: sizes, in sequences.

    Raises:
      UserError: fewer tokens than that takes.
    """
    rest = sequences(tokens, length)
    if test_tokens is None:
        most = len(rest) - 1
        if not most:
            raise UserError(
                "config.data.seq_len",
                f"the text makes one sequence of {length} tokens, which is trained on; "
                "none is left to evaluate on",
                "choose shorter sequences, or give more text",
            )
        held_out = check_size("test_size", wanted.test_size, most)
        held_out = max(1, len(rest) // HELD_OUT) if held_out is None else held_out
        rest, test = rest.part(0, len(rest) - held_out), rest.part(len(rest) - held_out, held_out)
    else:
        test = sequences(test_tokens, length, "the text to evaluate on")
        held_out = check_size("test_size", wanted.test_size, len(test))
        test = test.part(0, len(test) if held_out is None else held_out)
    size = check_size("train_size", wanted.train_size, len(rest))
    return Splits(rest.part(0, len(rest) if size is None else size), test)


def narrowed(tokens: np.ndarray, vocabulary: int) -> np.ndarray:
    """The tokens in the smallest unsigned type that holds the vocabulary."""
    return tokens.astype(np.min_scalar_type(max(vocabulary - 1, 0)), copy=False)


def largest(tokens: Stream) -> int:
    """The largest token; files are read piece by piece."""
    starts = range(0, len(tokens), _AT_ONCE)
    return max(int(np.max(tokens[start : start + _AT_ONCE])) for start in starts)


def check_vocabulary(splits: Splits, vocabulary: int | None) -> int:
    """The number of tokens that there are.

    Args:
      splits: every token that is trained or evaluated on is looked at.
      vocabulary: as the user says; None: the largest token plus one.

    Raises:
      UserError: a token beyond the vocabulary, or one that no vocabulary has.
    """
    found = max(largest(part.flat) for part in splits) + 1
    if vocabulary is not None and found > vocabulary:
        raise UserError(
            "config.data.vocabulary",
            f"token {found - 1} is there, beyond a vocabulary of {vocabulary}",
            f"set it to {found} or more (and the model's with it), or see that "
            "config.data.token_dtype is the type that the file was written with",
        )
    if found > MOST_CLASSES:
        raise UserError(
            "config.data.token_dtype",
            f"token {found - 1:,} is there, which belongs to no vocabulary",
            "see that this is the type that the file was written with",
        )
    return found if vocabulary is None else vocabulary


@dataclasses.dataclass(frozen=True)
class TokenFiles:
    """Splits whose tokens stay in their files: :class:`sbt.data.dataset.Files`."""

    splits: Splits

    @property
    def train_examples(self) -> int:
        return len(self.splits.train)

    @property
    def test_examples(self) -> int:
        return len(self.splits.test)

    def training_example(self, example: int, seed: int, epoch: int) -> Examples:
        del seed, epoch  # nobody sees another view of a text
        return self.splits.train[example]

    def test_example(self, example: int) -> Examples:
        return self.splits.test[example]


def text_dataset(
    splits: Splits,
    wanted: Wanted,
    vocabulary: int,
    *,
    bytes_per_token: float | None = None,
    floor: float = math.nan,
    notes: Mapping[str, Any] | None = None,
) -> Dataset:
    """A data set of sequences, for the task ``next_token``.

    Args:
      splits: their tokens all below ``vocabulary``.
      wanted: its name, and whether it is streamed.
      vocabulary: V.
      bytes_per_token: on average over the training split, where that is known.
      floor: the least expected loss of any model, where that is known.
      notes: further facts.
    """
    facts: dict[str, Any] = {
        "task": "next_token",
        "num_classes": vocabulary,
        "tokens": splits.train.length,
        "bytes_per_token": bytes_per_token,
        "floor": floor,
        "consecutive": True,
        "notes": {**(notes or {}), "tokens dropped": splits.dropped},
    }
    if not wanted.stream:
        return Dataset(wanted.name, splits.train.examples, splits.test.examples, **facts)
    train, test = (_sample(part) for part in splits)
    return SampledSet(wanted.name, train, test, **facts, files=TokenFiles(splits))


def _sample(part: Sequences) -> Examples:
    """Some of the examples, evenly spread."""
    size = min(SAMPLE, len(part))
    chosen = [part[i * len(part) // size] for i in range(size)]
    return {name: np.stack([one[name] for one in chosen]) for name in ("x", "label")}
