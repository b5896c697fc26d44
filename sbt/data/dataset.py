"""A data set in memory, and the checks of a user's own arrays."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from sbt.errors import UserError, first_line, shown
from sbt.ranges import COUNT, POSITIVE, Range, check_number
from sbt.tasks.base import Examples, Facts

MOST_CLASSES = 1 << 24  # a layer of logits beyond this fits nowhere; far below 32-bit integers' end


@dataclass(frozen=True)
class Dataset:
    """A data set in memory: for each split, arrays by name with a common leading axis of examples.

    The model is called on ``x``; what else there is, the task names: ``label`` (integers) for
    classification and next tokens, ``target`` (real numbers) for regression. ``x`` and any other
    entry may be a tree of arrays.

    Attributes:
      name: as the config calls it.
      train: the training split.
      test: the test split, of the same names, shapes and dtypes.
      validation: the split by which the best run is chosen; None: the test split.
      task: what the data are for, one of :data:`sbt.tasks.TASKS`; None: whoever trains says so.
      num_classes: K, or the size of the vocabulary; None where there is none.
      max_value: ``x`` is images: the stored value that ``normalize='unit'`` maps to 1 (255 for
        8-bit images, 16 for the digits, 1 for floating point data). None: ``x`` is taken as it is.
      tokens: per example, where they are counted.
      bytes_per_token: of text, on average over the training split; None where that is unknown.
      floor: the least expected loss of any model, where the data are made so that it is known.
      consecutive: neighbours belong together, as the sequences of a text do: parts of a split are
        pieces of it, and not drawn from all over it.
      notes: further facts, kept with the results.
    """

    name: str
    train: Examples
    test: Examples
    validation: Examples | None = None
    task: str | None = "classification"
    num_classes: int | None = None
    max_value: float | None = None
    tokens: int = 0
    bytes_per_token: float | None = None
    floor: float = math.nan
    consecutive: bool = False
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def train_images(self) -> np.ndarray:
        """``(N, *features)``, usually NHWC uint8; floating point is kept as it is."""
        return self.train["x"]

    @property
    def train_labels(self) -> np.ndarray:
        """``(N,)`` int32 in 0 .. num_classes-1."""
        return self.train["label"]

    @property
    def test_images(self) -> np.ndarray:
        """``(M, *features)``, same dtype."""
        return self.test["x"]

    @property
    def test_labels(self) -> np.ndarray:
        """``(M,)`` int32."""
        return self.test["label"]

    @property
    def train_examples(self) -> int:
        """N, examples of the training split."""
        return examples_of(self.train)

    @property
    def test_examples(self) -> int:
        """Examples of the test split."""
        return examples_of(self.test)

    @property
    def validation_examples(self) -> int:
        """Examples of the validation split; 0 where there is none."""
        return 0 if self.validation is None else examples_of(self.validation)

    @property
    def splits(self) -> dict[str, Examples]:
        """Those that there are, by name."""
        found = {"train": self.train, "test": self.test}
        return found if self.validation is None else found | {"validation": self.validation}

    @property
    def facts(self) -> Facts:
        """What a task may know."""
        return Facts(self.task, self.num_classes, self.bytes_per_token, self.splits, self.floor)


class Files(Protocol):
    """Examples that stay in files, one at a time, for :mod:`sbt.data.stream`.

    All have the same shapes and dtypes. Worker processes get a copy (pickled) of their own.
    """

    @property
    def train_examples(self) -> int:
        """N, of the training split."""

    @property
    def test_examples(self) -> int:
        """Of the test split."""

    def training_example(self, example: int, seed: int, epoch: int) -> Examples:
        """Arrays by name, as the run of a seed sees an example in an epoch."""

    def test_example(self, example: int) -> Examples:
        """Arrays by name, of the test split."""


@dataclass(frozen=True)
class SampledSet(Dataset):
    """What is in memory of a set that is not: some examples, for statistics and shapes.

    Attributes:
      files: all of it.
    """

    files: Files = dataclasses.field(kw_only=True)

    @property
    def train_examples(self) -> int:
        """N, examples of the whole training split."""
        return self.files.train_examples

    @property
    def test_examples(self) -> int:
        """Examples of the whole test split."""
        return self.files.test_examples


def examples_of(split: Examples) -> int:
    """How many examples a split holds."""
    return len(jax.tree.leaves(dict(split))[0])


def images_and_labels(
    name: str,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    num_classes: int,
    max_value: float = 255.0,
) -> Dataset:
    """A classification data set from checked arrays: of each split, images and labels."""
    first, second = ({"x": images, "label": labels} for images, labels in (train, test))
    return Dataset(name, first, second, num_classes=num_classes, max_value=max_value)


def from_examples(train: Examples, test: Examples, *, name: str = "examples") -> Dataset:
    """A data set of any examples: trees of arrays, each with a leading axis of examples.

    Integers reach model and loss as int32, and real numbers in the precision of the computation;
    nothing is normalised. What is learned of them says ``config.task.name`` or ``loss=``.

    Args:
      train: arrays by name. The model is called on ``x``; further entries are the loss's: ``label``
        for ``classification`` (integers, ``(N,)``) and ``next_token`` (integers, ``(N, T)``, with
        an optional ``mask``), ``target`` for ``regression``.
      test: the same names, with shapes and dtypes equal but for the number of examples.
      name: what results call the data set.

    Raises:
      UserError: no ``x``, an entry of another length or kind, values that are not finite, integers
        beyond 32 bits.
    """
    if not isinstance(name, str) or not name.strip():
        raise UserError("name", f"{shown(name)} is not a name", "Give a text, such as 'mine'.")
    splits = [_checked_examples("train", train), _checked_examples("test", test)]
    shapes = [
        {path: (leaf.shape[1:], leaf.dtype) for path, leaf in _leaves(split)} for split in splits
    ]
    if shapes[0] != shapes[1]:
        every = {**shapes[0], **shapes[1]}
        odd = [path for path in every if shapes[0].get(path) != shapes[1].get(path)]
        words = [
            "missing" if path is None else f"{path[1]} of shape {path[0]}"
            for path in (shape.get(odd[0]) for shape in shapes)
        ]
        raise UserError(
            f"test[{odd[0]!r}]",
            f"is {words[1]} for each example, train's is {words[0]}",
            "Give both splits the same entries, shapes and dtypes.",
        )
    classes = None
    if isinstance(label := splits[0].get("label"), np.ndarray) and label.dtype.kind in "iu":
        lowest = min(int(split["label"].min()) for split in splits)
        classes = max(int(split["label"].max()) for split in splits) + 1 if lowest >= 0 else None
    return Dataset(name, splits[0], splits[1], task=None, num_classes=classes)


def _leaves(split: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(split)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


def _checked_examples(which: str, split: Any) -> dict[str, Any]:
    if not isinstance(split, Mapping) or "x" not in split:
        got = (
            f"entries {', '.join(map(str, split))}" if isinstance(split, Mapping) else shown(split)
        )
        remedy = "Give a mapping of arrays: {'x': inputs, 'label': labels}."
        raise UserError(which, f"no entry 'x' in {got}", remedy)
    made = jax.tree_util.tree_map_with_path(
        lambda path, leaf: _checked_leaf(
            f"{which}[{jax.tree_util.keystr(path, simple=True, separator='/')!r}]", leaf
        ),
        dict(split),
        is_leaf=lambda leaf: leaf is None or isinstance(leaf, list | str),
    )
    lengths = {path: len(leaf) for path, leaf in _leaves(made)}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{path} {length}" for path, length in lengths.items())
        remedy = "Give every entry a leading axis of as many examples."
        raise UserError(which, f"entries of different lengths: {told}", remedy)
    return made


def _checked_leaf(field: str, values: Any) -> np.ndarray:
    array = _array(field, values)
    if array.ndim == 0 or array.size == 0:
        remedy = "Give an array with a leading axis of examples, at least one."
        raise UserError(field, f"has shape {array.shape}", remedy)
    if array.dtype.kind == "b":
        return array
    if array.dtype.kind in "USMm":
        remedy = "Give numbers: np.unique(texts, return_inverse=True)[1]."
        raise UserError(field, f"an array of dtype {array.dtype}, not of numbers", remedy)
    if array.dtype.kind in "iu":
        if (
            array.dtype.itemsize > 2
            and not -(2**31) <= int(array.min()) <= int(array.max()) < 2**31
        ):
            raise UserError(field, "integers beyond 32 bits", "Number them from 0 without gaps.")
        return array
    return _checked_images(field, array)


def from_arrays(
    train_images: np.ndarray,
    train_labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    *,
    name: str = "arrays",
    num_classes: int | None = None,
) -> Dataset:
    """A data set from a user's own arrays.

    Args:
      train_images: ``(N, *features)`` uint8 or floating point. Images are ``(N, H, W, C)``;
        augmentation and convolutions need that, anything else may have any shape.
      train_labels: ``(N,)`` integers in 0 .. K-1.
      test_images: ``(M, *features)``, same features and dtype.
      test_labels: ``(M,)``.
      name: what results call the data set.
      num_classes: K; default the largest label plus one.

    Raises:
      UserError: empty or mismatched arrays, a dtype that is neither, values that are not finite,
        labels that are not integers or out of range.
    """
    if not isinstance(name, str) or not name.strip():
        raise UserError("name", f"{shown(name)} is not a name", "Give a text, such as 'mine'.")
    if num_classes is not None:
        if isinstance(num_classes, np.integer):
            num_classes = int(num_classes)
        check_number("num_classes", num_classes, Range(1, MOST_CLASSES), whole=True)
    x_train, y_train = _checked_split("train", train_images, train_labels)
    x_test, y_test = _checked_split("test", test_images, test_labels)
    if x_train.shape[1:] != x_test.shape[1:] or x_train.dtype != x_test.dtype:
        raise UserError(
            "test_images",
            f"{x_test.dtype} examples of shape {x_test.shape[1:]} do not match the training "
            f"examples: {x_train.dtype} of shape {x_train.shape[1:]}",
            "Give both splits the same shape and dtype.",
        )
    largest = int(max(y_train.max(), y_test.max()))
    classes = largest + 1 if num_classes is None else int(num_classes)
    if largest >= classes:
        raise UserError(
            "num_classes",
            f"label {largest} does not exist among {classes} classes",
            f"Number the classes 0 .. {classes - 1}, or set num_classes to {largest + 1}.",
        )
    max_value = 255.0 if x_train.dtype == np.uint8 else 1.0
    return images_and_labels(name, (x_train, y_train), (x_test, y_test), classes, max_value)


def checked(dataset: Any) -> Dataset:
    """A user's data set, if it is one: `from_arrays` of what it holds.

    Raises:
      UserError: it is something else, or holds what `from_arrays` refuses.
    """
    if not isinstance(dataset, Dataset):
        kind = f"{type(dataset).__module__}.{type(dataset).__qualname__}".removeprefix("builtins.")
        call = "sbt.from_arrays(x, y, x_test, y_test)"
        if isinstance(dataset, tuple | list) and len(dataset) == 4:
            call = "sbt.from_arrays(*dataset)"
        raise UserError("dataset", f"a {kind} is not an sbt.data.Dataset", f"Give {call}.")
    if type(dataset) is not Dataset:  # a streamed set, made by this package from its files
        return dataset
    if dataset.max_value is None:
        made = from_examples(dataset.train, dataset.test, name=dataset.name)
        return replace(dataset, train=made.train, test=made.test)
    arrays = (split[part] for split in (dataset.train, dataset.test) for part in ("x", "label"))
    made = from_arrays(*arrays, name=dataset.name, num_classes=dataset.num_classes)
    check_number("dataset.max_value", dataset.max_value, POSITIVE)
    return replace(dataset, train=made.train, test=made.test)


def subset(dataset: Dataset, train_size: int | None, test_size: int | None) -> Dataset:
    """Keeps the first examples of a fixed permutation of each split.

    Subsets are nested. With class labels the permutation is stratified: it depends on nothing but
    the labels, and every prefix of length n holds each class in its proportion p to within one
    example of p·n or so. Of consecutive examples (text) the first are kept, in their order.

    Args:
      dataset: the data set to shorten.
      train_size: training examples to keep; None or all of them keeps the original order.
      test_size: the same for the test split.

    Raises:
      UserError: more examples asked for than there are.
    """
    return replace(
        dataset,
        train=_take("train_size", dataset, dataset.train, train_size),
        test=_take("test_size", dataset, dataset.test, test_size),
    )


def hold_out(dataset: Dataset, validation: float | None) -> Dataset:
    """Takes a validation split out of the training split.

    Of images it is the end of the fixed permutation that subsets begin with (within classes, if
    there are any), so that a subset of the training split does not move into it; of consecutive
    examples (text) it is the end of the training split. What is left is trained on, in its order.

    Args:
      dataset: without a validation split.
      validation: examples to hold out, or, below 1, a fraction of the training split, rounded; None
        or 0: none.

    Raises:
      UserError: no such number; it has one already, is streamed, or would have nothing left to
        train on.
    """
    where, count = "config.data.validation", dataset.train_examples
    if validation is None or not check_number(where, validation, Range(0, 2**31 - 1)):
        return dataset
    if isinstance(dataset, SampledSet):
        problem = "a streamed set holds nothing out of its training split"
        raise UserError(where, problem, "leave it out, or set config.data.stream = False")
    if dataset.validation is not None:
        raise UserError(where, f"{dataset.name!r} has a validation split", "leave it out")
    held_out = round(validation * count) if validation < 1 else int(validation)
    if validation >= 1 and validation != held_out:
        remedy = "give a whole number of examples, or a fraction below 1"
        raise UserError(where, f"{validation} examples are no number of them", remedy)
    if not 0 < held_out < count:
        raise UserError(
            where,
            f"{shown(validation)} holds {held_out:,} of {count:,} training examples out",
            f"hold out 1 to {count - 1:,} of them" if count > 1 else "give more of them",
        )
    order = _order(dataset, dataset.train)
    rest, held = np.sort(order[: count - held_out]), np.sort(order[count - held_out :])
    return replace(
        dataset,
        train=_at(dataset, dataset.train, rest),
        validation=_at(dataset, dataset.train, held),
    )


def stratified_order(labels: np.ndarray) -> np.ndarray:
    """A fixed permutation whose every prefix holds the classes in proportion.

    The j-th of the n_k members of class k, in a random order, is placed at ``(j + 1/2) / n_k``;
    ties between classes are broken at random. The seed is fixed.
    """
    shuffled = np.random.RandomState(0).permutation(len(labels))
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return shuffled[np.argsort(position[shuffled], kind="stable")]


def check_size(field: str, size: Any, most: int | None = None) -> int | None:
    """A number of examples to keep.

    Args:
      field: ``train_size`` or ``test_size``.
      size: what is asked for; None stands for all.
      most: how many there are, where that is known.

    Raises:
      UserError: it is not a number of examples, or there are not so many.
    """
    if size is None:
        return None
    where = f"config.data.{field}"
    size = check_number(where, size, COUNT, whole=True)
    if most is not None and size > most:
        raise UserError(
            where,
            f"{size} examples asked for, {most} exist",
            f"Set {where} to at most {most}, or leave it unset for all.",
        )
    return size


def _take(field: str, dataset: Dataset, split: Examples, size: int | None) -> Examples:
    count = examples_of(split)
    size = check_size(field, size, count)
    if size in (None, count):
        return split
    return _at(dataset, split, _order(dataset, split)[:size])


def _order(dataset: Dataset, split: Examples) -> np.ndarray:
    """The order in which parts of a split are taken."""
    return np.arange(examples_of(split)) if dataset.consecutive else fixed_order(split)


def _at(dataset: Dataset, split: Examples, chosen: np.ndarray) -> Examples:
    """Some of the examples; pieces of consecutive ones stay where they are, in memory or files."""
    which = slice(chosen[0], chosen[-1] + 1) if dataset.consecutive else chosen
    return jax.tree.map(lambda leaf: leaf[which], dict(split))


def fixed_order(split: Examples) -> np.ndarray:
    """The fixed permutation that subsets of a split are taken from, within classes if it can be."""
    label = split.get("label")
    if isinstance(label, np.ndarray) and label.ndim == 1 and label.dtype.kind in "iu":
        return stratified_order(label)
    return np.random.RandomState(0).permutation(examples_of(split))


_INTEGERS = "Number the classes with integers from 0"
_SINGLE = float(np.finfo(np.float32).max)
_AT_ONCE = 1 << 24  # values looked at at a time: files mapped into memory stay where they are


def _checked_split(split: str, images: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = _array(f"{split}_images", images), _array(f"{split}_labels", labels)
    if x.ndim < 2 or y.ndim != 1 or len(x) != len(y) or x.size == 0:
        remedy = "Give images of shape (N, ...) and labels of shape (N,), nothing of size 0."
        if y.ndim > 1 and x.shape == y.shape:
            remedy = (
                "Sequences of tokens with one label each are examples of another kind: "
                'sbt.from_examples({"x": tokens, "label": next_tokens}, ...) with '
                'config.task.name = "next_token".'
            )
        elif y.ndim == 2 and len(x) == len(y):
            column = y.shape[1] == 1
            remedy = "Give labels.ravel()." if column else "Give labels.argmax(axis=1) for one-hot."
        elif x.ndim == 1 and x.size:
            remedy = "Give images[:, None] if every example is a single number."
        raise UserError(
            f"{split}_images", f"images of shape {x.shape} with labels of shape {y.shape}", remedy
        )
    return _checked_images(f"{split}_images", x), _checked_labels(f"{split}_labels", y)


def _array(field: str, values: Any) -> np.ndarray:
    """The values as an array in this machine's byte order."""
    if np.ma.isMaskedArray(values) and np.ma.is_masked(values):
        raise UserError(field, "some values are masked", "Fill them: array.filled(value).")
    if hasattr(values, "toarray"):  # SciPy's sparse matrices
        raise UserError(field, f"a sparse {type(values).__name__}", "Give array.toarray().")
    try:
        array = np.asarray(values)
    except Exception as error:  # of any class that is not an array
        reason = first_line(error) or type(error).__name__
        raise UserError(
            field,
            f"cannot become an array ({reason})",
            "Give a NumPy array, or lists whose rows all have one length.",
        ) from None
    if array.dtype.kind in "OV" and not jnp.issubdtype(array.dtype, jnp.floating):
        raise UserError(
            field,
            f"an array of dtype {array.dtype} and shape {array.shape}, not of numbers",
            f"{_INTEGERS}: np.unique(labels, return_inverse=True)[1]."
            if field.endswith("labels")
            else "Give an array of numbers; rows of different lengths have to be padded or cut.",
        )
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _checked_images(field: str, x: np.ndarray) -> np.ndarray:
    if np.iscomplexobj(x):
        raise UserError(
            field,
            f"dtype {x.dtype} is complex",
            "Give np.abs(images), or the parts as channels: np.stack([x.real, x.imag], -1).",
        )
    if x.dtype == np.uint8:
        return x
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise UserError(
            field,
            f"dtype {x.dtype} is neither uint8 nor floating point",
            "Convert with .astype('uint8') (8-bit images) or .astype('float32').",
        )
    if x.dtype not in (np.float16, np.float32, np.float64):  # bfloat16, or wider than double
        x = x.astype(np.float32 if x.dtype.itemsize < 4 else np.float64)
    rows = max(1, _AT_ONCE // max(1, x[0].size))
    for start in range(0, len(x), rows):
        part = x[start : start + rows]
        if not np.isfinite(part).all():
            raise UserError(field, "values that are NaN or infinite", "Remove or replace them.")
        if x.dtype == np.float64 and np.abs(part).max() > _SINGLE:
            raise UserError(
                field,
                f"values up to {np.abs(part).max():.3g} are beyond single precision",
                f"Scale them to at most {_SINGLE:.3g}.",
            )
    return x


def _checked_labels(field: str, y: np.ndarray) -> np.ndarray:
    if y.dtype.kind in "USMm":
        raise UserError(
            field,
            f"labels of dtype {y.dtype}, such as {shown(y[0].item())}",
            f"{_INTEGERS}: np.unique(labels, return_inverse=True)[1].",
        )
    if not np.issubdtype(y.dtype, np.integer):
        whole = y.dtype.kind == "b" or (y.dtype.kind == "f" and bool(np.all(y == np.floor(y))))
        how = ": labels.astype(int)." if whole else "; fractions cannot be classes."
        raise UserError(field, f"labels of dtype {y.dtype}", _INTEGERS + how)
    if y.min() < 0:
        raise UserError(field, f"label {y.min()} is negative", f"{_INTEGERS}.")
    # Before the numbers are narrowed: beyond 32 bits they would wrap around.
    if y.max() >= MOST_CLASSES:
        raise UserError(
            field,
            f"label {y.max()} is beyond the largest class number, {MOST_CLASSES - 1}",
            f"{_INTEGERS} without gaps: np.unique(labels, return_inverse=True)[1].",
        )
    return y.astype(np.int32)
