"""What a model must be for lanes to train it, found out from shapes before anything compiles."""

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from sbt.errors import UserError, shown, user_code
from sbt.models.adapter import Model
from sbt.tasks.base import Task, check_task


def whose(module: Any) -> str:
    """A user's module in messages."""
    named = module if isinstance(module, type) or inspect.isroutine(module) else type(module)
    return f"module {getattr(named, '__name__', shown(module))} (module=)"


def check_model(model: Model, example: Any, task: Task, batch: int, module: Any = None) -> None:
    """Refuses a model whose outputs its task cannot take; nothing is compiled.

    Args:
      model: to be trained.
      example: shapes and dtypes of a batch of one example.
      task: what it is trained to do.
      batch: examples to try it with, at least 2.
      module: the user's own, if the model was made of one.

    Raises:
      UserError: parameters that cannot be trained, an output of another shape or kind, or one that
        is random in evaluation; a loss or a metric that is not per example.
      UserCodeError: the module, or a loss of the user's, raised; its exception is the cause.
    """
    key = jax.random.key(0)
    examples = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype), example
    )
    x = examples["x"]
    field = "config.model.name"
    guard: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    if module is not None:
        field, guard = whose(module), functools.partial(user_code, whose(module))

    def outputs(train: bool, key: jax.Array | None) -> Any:
        def logits(params: Any, stats: Any, x: jax.Array, key: jax.Array | None) -> Any:
            return model.apply(params, stats, x, key, train)[0]

        try:
            with guard():
                return jax.eval_shape(logits, params, stats, x, key)
        except UserError as error:
            raise _explained(error, field) from error.__cause__

    with guard():
        params, stats = jax.eval_shape(model.init, key, example["x"])
    _check_parameters(field, params)
    for train in (True, False):
        check_task(task, outputs(train, key), examples, field)
    if module is None:
        return
    outputs(False, None)
    if isinstance(module, nn.Module):
        return  # flax has just refused to draw without a key

    def evaluated(key: jax.Array) -> Any:
        return model.apply(zeros(params), zeros(stats), zeros(x), key, False)[0]

    if depends_on_input(evaluated, key):
        raise _noisy(field)


def _noisy(field: str) -> UserError:
    return UserError(
        field,
        "draws random numbers in evaluation too (dropout or noise that is always on)",
        "give __call__ an argument train (or deterministic) and draw only in training",
    )


def _explained(error: UserError, field: str) -> UserError:
    """What flax says of layers that need what a sweep does not have, in words."""
    cause = error.__cause__
    if isinstance(cause, flax.errors.InvalidRngError):
        return _noisy(field)
    if isinstance(cause, NameError) and "axis name" in str(cause):
        name = str(cause).rpartition(":")[2].split(".")[0].strip() or "of a mesh"
        return UserError(
            field,
            f"computes over a mesh axis ({name}), and a run of a sweep has none of that name",
            "leave axis_name out; batch statistics over the devices of a run need a field "
            "bn_axis_name of the module, and config.parallel.data",
        )
    return error


def _check_parameters(field: str, params: Any) -> None:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not sum(leaf.size for _, leaf in leaves):
        raise UserError(field, "has no parameters", "give it layers that can be trained")
    for path, leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise UserError(
                field,
                f"parameter {name} is of dtype {leaf.dtype}",
                "make parameters real floating point numbers; what is not trained is a constant",
            )


def depends_on_input(function: Callable[[Any], Any], value: Any) -> bool:
    """Whether the result of a function needs its argument, followed back through its jaxpr."""
    jaxpr: Any = jax.make_jaxpr(function)(value).jaxpr
    needed = {v for v in jaxpr.outvars if not hasattr(v, "val")}
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars):
            needed.update(v for v in equation.invars if not hasattr(v, "val"))
    return jaxpr.invars[0] in needed


def zeros(shapes: Any) -> Any:
    """Arrays of those shapes."""
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
