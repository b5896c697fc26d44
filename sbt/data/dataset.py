"""A classification data set in memory, and the checks of a user's own arrays."""

from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from sbt.errors import UserError, shown
from sbt.ranges import COUNT, POSITIVE, Range, check_number

MOST_CLASSES = 1 << 24  # a layer of logits beyond this fits nowhere; far below 32-bit integers' end


@dataclass(frozen=True)
class Dataset:
    """A classification data set in memory.

    Attributes:
      name: as the config calls it.
      train_images: ``(N, *features)``, usually NHWC uint8; floating point is kept as it is.
      train_labels: ``(N,)`` int32 in 0 .. num_classes-1.
      test_images: ``(M, *features)``, same dtype.
      test_labels: ``(M,)`` int32.
      num_classes: K.
      max_value: the stored value that ``normalize='unit'`` maps to 1: 255 for 8-bit images, 16 for
        the digits, 1 for floating point data.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    num_classes: int
    max_value: float = 255.0

    @property
    def train_examples(self) -> int:
        """N, examples of the training split."""
        return len(self.train_labels)

    @property
    def test_examples(self) -> int:
        """Examples of the test split."""
        return len(self.test_labels)


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
    return Dataset(name, x_train, y_train, x_test, y_test, classes, max_value)


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
    arrays = (getattr(dataset, f"{s}_{p}") for s in ("train", "test") for p in ("images", "labels"))
    made = from_arrays(*arrays, name=dataset.name, num_classes=dataset.num_classes)
    check_number("dataset.max_value", dataset.max_value, POSITIVE)
    return replace(made, max_value=dataset.max_value)


def subset(dataset: Dataset, train_size: int | None, test_size: int | None) -> Dataset:
    """Keeps the first examples of a fixed stratified permutation of each split.

    The permutation depends on nothing but the labels, subsets are nested, and every prefix of
    length n holds each class in its proportion p to within one example of p·n or so.

    Args:
      dataset: the data set to shorten.
      train_size: training examples to keep; None or all of them keeps the original order.
      test_size: the same for the test split.

    Raises:
      UserError: more examples asked for than there are.
    """
    x_train, y_train = _take("train_size", dataset.train_images, dataset.train_labels, train_size)
    x_test, y_test = _take("test_size", dataset.test_images, dataset.test_labels, test_size)
    return replace(
        dataset,
        train_images=x_train,
        train_labels=y_train,
        test_images=x_test,
        test_labels=y_test,
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


def _take(
    field: str, images: np.ndarray, labels: np.ndarray, size: int | None
) -> tuple[np.ndarray, np.ndarray]:
    size = check_size(field, size, len(labels))
    if size in (None, len(labels)):
        return images, labels
    keep = stratified_order(labels)[:size]
    return images[keep], labels[keep]


_INTEGERS = "Number the classes with integers from 0"
_SINGLE = float(np.finfo(np.float32).max)
_AT_ONCE = 1 << 24  # values looked at at a time: files mapped into memory stay where they are


def _checked_split(split: str, images: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = _array(f"{split}_images", images), _array(f"{split}_labels", labels)
    if x.ndim < 2 or y.ndim != 1 or len(x) != len(y) or x.size == 0:
        remedy = "Give images of shape (N, ...) and labels of shape (N,), nothing of size 0."
        if y.ndim == 2 and len(x) == len(y):
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
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
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
