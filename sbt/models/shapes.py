"""What a model makes of a batch, from shapes alone: refused before anything compiles."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import flax.errors
import jax
import jax.numpy as jnp

from sbt.errors import UserError, shown, user_code
from sbt.models.adapter import Model, Params, Stats


def check_shapes(
    model: Model, example: jax.ShapeDtypeStruct, num_classes: int, batch: int, whose: str | None
) -> tuple[Params, Stats]:
    """Refuses a model that does not make logits of a batch of examples.

    Args:
      model: the network.
      example: shape and dtype of a batch of one example.
      num_classes: K.
      batch: examples of a batch that the model can take.
      whose: the user's own module, as messages call it; None for a model that ships.

    Returns:
      Shapes of its parameters and statistics.

    Raises:
      UserError: no parameters, or none that can be trained; outputs that are not ``(n, K)``
        floating-point logits, in training and in evaluation.
      UserCodeError: the user's module itself raises.
    """
    field = f"module {whose}" if whose else "config.model.name"
    features = example.shape[1:]
    key = jax.random.key(0)
    with _running(field, whose, features):
        params, stats = jax.eval_shape(model.init, key, example)
    _check_params(field, whose, params, features)
    n = batch if batch != num_classes else 2 * batch  # an exchange of the two axes shows
    x = jax.ShapeDtypeStruct((n, *features), example.dtype)
    for train in (True, False):

        def call(params: Params, stats: Stats, x: jax.Array, train: bool = train) -> Any:
            return model.apply(params, stats, x, key if train else None, train)[0]

        with _running(field, whose, features):
            logits = jax.eval_shape(call, params, stats, x)
        _check_logits(field, logits, n, num_classes)
    return params, stats


@contextmanager
def _running(field: str, whose: str | None, features: tuple[int, ...]) -> Iterator[None]:
    """Runs the model's code, and says in plain words what usually goes wrong there."""
    try:
        if whose:
            with user_code(field):
                yield
        else:
            yield
    except UserError as error:
        cause = error.__cause__
        if isinstance(cause, flax.errors.InvalidRngError):
            raise UserError(
                field,
                "draws random numbers in evaluation, too",
                "give its __call__ an argument train, training or deterministic, and draw only in "
                "training",
            ) from cause
        if isinstance(cause, NameError) and "axis name" in str(cause):
            raise UserError(
                field,
                f"averages over an axis that does not exist here ({cause})",
                "leave axis_name out; config.bn_batch says which examples share statistics",
            ) from cause
        raise
    except Exception as error:
        raise UserError(
            field,
            f"cannot take examples of shape {features} ({type(error).__name__})",
            _IMAGES,
        ) from error


_IMAGES = (
    "give images of shape (height, width, channels), large enough for the network's poolings and "
    "strides, or choose another model (mlp takes any shape)"
)


def _check_params(field: str, whose: str | None, params: Params, features: tuple[int, ...]) -> None:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not any(leaf.size for _, leaf in leaves):
        raise UserError(field, "has no parameters", "there is nothing to train")
    for path, leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise UserError(
                field,
                f"has a parameter{jax.tree_util.keystr(path)} of dtype {leaf.dtype}",
                "make parameters floating-point numbers",
            )
        if whose is None and leaf.size == 0:
            raise UserError(field, f"shrinks examples of shape {features} to nothing", _IMAGES)


def _check_logits(field: str, logits: Any, n: int, num_classes: int) -> None:
    wanted = f"logits of shape (batch, classes), here ({n}, {num_classes})"
    if not isinstance(logits, jax.ShapeDtypeStruct):
        leaves = jax.tree.leaves(logits)
        what = f"{type(logits).__name__} of {len(leaves)} arrays" if leaves else shown(logits)
        raise UserError(field, f"returns a {what}", f"return one array, {wanted}")
    if logits.shape in ((n,), (n, 1)) and num_classes > 1:
        raise UserError(
            field,
            f"returns one number per example, shape {logits.shape}",
            f"return one number per class and example, {wanted}; two classes need two",
        )
    if logits.shape != (n, num_classes):
        if len(logits.shape) == 2 and logits.shape[0] == n:
            classes = f"the data set has {num_classes} classes (its largest label plus one)"
            problem = f"returns {logits.shape[1]} logits per example, {classes}"
        else:
            problem = f"returns an array of shape {logits.shape} for {n} examples"
        raise UserError(field, problem, f"return {wanted}")
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise UserError(
            field, f"returns logits of dtype {logits.dtype}", "return floating-point numbers"
        )
