"""A user's own update rule in a sweep, under the name ``own``, for as long as the sweep lasts."""

import contextlib
import functools
import hashlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import optax

from sbt.errors import UserError
from sbt.optim import RULES, RuleSpec

NAME = "own"

MakeRule = Callable[..., optax.GradientTransformation]


def spec_of(rule: MakeRule) -> RuleSpec:
    """What the registry would say of a function ``rule(learning_rate, **hyperparameters)``.

    Its keyword parameters are the hyperparameters: those with a number as default can be swept and
    arrive as traced scalars, the others are static options.

    Raises:
      UserError: it is no such function, or a parameter has no default.
    """
    if not callable(rule):
        remedy = "pass a function learning_rate -> optax transformation, such as optax.sgd"
        raise UserError("rule", f"{rule!r} is no function", remedy)
    _, *parameters = inspect.signature(rule).parameters.values()
    numbers: dict[str, float] = {}
    options: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = parameter.default
        if default is parameter.empty:
            remedy = "give it a default; sbt supplies the learning rate alone"
            raise UserError("rule", f"parameter {parameter.name!r} has no default", remedy)
        if isinstance(default, int | float) and not isinstance(default, bool):
            numbers[parameter.name] = float(default)
        else:
            options[parameter.name] = default
    return RuleSpec(make=rule, hyperparameters=numbers, options=options, source="your own")


def section(rule_config: Mapping[str, Any]) -> dict[str, Any]:
    """A config's ``rule`` section for the rule that is known as ``own``: of its fields, its own."""
    fields = {**RULES[NAME].hyperparameters, **RULES[NAME].options}
    return {"name": NAME} | {key: rule_config[key] for key in rule_config if key in fields}


@contextlib.contextmanager
def known(rule: MakeRule | None) -> Iterator[None]:
    """Within this context ``config.rule.name = "own"`` means the given rule (if there is one)."""
    if rule is None:
        yield
        return
    RULES[NAME] = spec_of(rule)
    try:
        yield
    finally:
        del RULES[NAME]


# --- which rule it is -----------------------------------------------------------------------------


def signature_of(rule: MakeRule) -> dict[str, Any]:
    """What tells a user's rule from another one, as JSON can hold it.

    It does not read the code: the same rule from a file that was moved or reformatted has the same
    signature.

    Args:
      rule: a function ``rule(learning_rate, **hyperparameters)``.

    Returns:
      ``name`` (qualified, with its module unless that is ``__main__``), ``parameters`` (name ->
      default, as text) and ``bound`` (arguments that a ``functools.partial`` has bound already).

    >>> signature_of(functools.partial(optax.sgd, momentum=0.9))["bound"]
    {'momentum': '0.9'}
    """
    bound: dict[str, str] = {}
    inner: Any = rule
    while isinstance(inner, functools.partial):
        given = {str(i): value for i, value in enumerate(inner.args)} | inner.keywords
        bound = {name: _text(value) for name, value in given.items()} | bound
        inner = inner.func
    try:
        parameters = inspect.signature(rule).parameters.values()
    except (TypeError, ValueError):
        parameters = {}.values()
    defaults = {
        p.name: "" if p.default is p.empty else _text(p.default)
        for p in parameters
        if p.name not in bound
    }
    return {"name": _text(inner), "parameters": defaults, "bound": bound}


def _text(value: Any) -> str:
    """A default as text that is the same in every process: without addresses, arrays by content."""
    if isinstance(value, np.ndarray | jax.Array):
        if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            value = jax.random.key_data(value)
        array = np.asarray(value)
        if array.ndim == 0:
            return str(array)
        content = np.ascontiguousarray(array).tobytes()
        digest = hashlib.sha256(content).hexdigest()[:16]
        return f"{array.dtype}{list(array.shape)} {digest}"
    if isinstance(value, np.dtype) or hasattr(value, "dtype"):  # jnp.float32 is a class with one
        return str(np.dtype(value))
    if isinstance(value, type) or inspect.isroutine(value):
        module = "" if value.__module__ in (None, "__main__") else f"{value.__module__}."
        return f"{module}{value.__qualname__}"
    if isinstance(value, tuple | list) and type(value) in (tuple, list):
        return f"({', '.join(map(_text, value))})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_text(value[key])}' for key in value)}}}"
    if callable(value) and type(value).__repr__ is object.__repr__:
        return f"{type(value).__module__}.{type(value).__qualname__}"
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
