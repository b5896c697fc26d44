"""Fields set on the command line: ``--config.field=value``, as text."""

import ast
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from sbt.config import (
    FIELDS,
    LONGEST_TEXT,
    OPEN_SECTIONS,
    SECTIONS,
    Config,
    complete,
    fields_of,
    of_data,
    unknown_field,
)
from sbt.errors import UserError


def apply_overrides(config: Any, overrides: Sequence[str]) -> Config:
    """A complete config with fields set as the command line says; of several, the last holds.

    Args:
      config: what :func:`sbt.config.complete` takes.
      overrides: ``--config.field=value`` arguments. ``--config.measure=a,b`` is short for
        ``--config.measure.names=a,b``.

    Raises:
      UserError: a field that does not exist, or a value that it does not take.
    """
    given: dict[str, str] = {}
    for argument in overrides:
        name, equals, text = argument.lstrip("-").partition("=")
        path = name.partition(".")[2]
        if not equals or not path:
            raise UserError(argument, "sets no field", "write --config.FIELD=VALUE")
        if len(text) > LONGEST_TEXT:
            remedy = f"give at most {LONGEST_TEXT:,} characters"
            raise UserError(f"--{name}", f"a text of {len(text):,} characters", remedy)
        path = "measure.names" if path == "measure" else path
        given.pop(path, None)
        given[path] = text
    full = complete(config)
    # Another model, rule or schedule has other fields: its name comes before them.
    for path, text in sorted(given.items(), key=lambda item: not item[0].endswith(".name")):
        _set(full, path, text)
    return complete(full)


def _set(config: Config, path: str, text: str) -> None:
    section: Any = config
    *parents, leaf = path.split(".")
    for depth, parent in enumerate(parents):
        inside = section.get(parent)
        if not isinstance(inside, ConfigDict):
            raise unknown_field(f"--config.{'.'.join(parents[: depth + 1])}", parent, section)
        section = inside
    name = parents[0] if parents else ""
    if name in ("sweep", "follow"):
        section[leaf] = axis(text)
    elif path in FIELDS:
        value = _of_kind(text, FIELDS[path].kind)
        if name in SECTIONS and value != section[leaf]:
            config[name] = {"name": value, **fields_of(name, value)}
        elif path == "data.name" and value != section[leaf]:
            config[name] = {**fields_of(name, value), **of_data(config[name], value)}
        else:
            section[leaf] = value
    elif leaf in section and isinstance(section[leaf], ConfigDict):
        field = f"--config.{path}.{next(iter(section[leaf]), 'FIELD')}"
        raise UserError(f"--config.{path}", "is a section", f"set its fields: {field}=VALUE")
    elif leaf in section:
        section[leaf] = _of_kind(text, type(section[leaf]))
    elif name in OPEN_SECTIONS:  # checked with the data, or the names of a sweep
        if name in SECTIONS and not _swept(config, name):
            raise unknown_field(f"--config.{path}", leaf, section)
        section[leaf] = value_of(text)
    else:
        raise unknown_field(f"--config.{path}", leaf, section)


def _swept(config: Config, section: str) -> bool:
    return config.sweep.get(section) is not None or section in config.follow


def _of_kind(text: str, kind: type) -> Any:
    """What a text says where a value of a kind is wanted; the text itself if it says no such."""
    if text == "None":
        return None
    if kind is str:
        return text[1:-1] if re.fullmatch(r"""(['"]).*\1""", text, re.DOTALL) else text
    if kind is tuple:
        return axis(text)
    lower = text.lower()
    if kind is bool and lower in ("true", "false", "1", "0"):
        return lower in ("true", "1")
    return value_of(text)


def axis(text: str) -> Any:
    """Several values: ``(0, 1)``, ``0,1`` or ``sgd,sngm``; one alone is a tuple of one.

    >>> axis("sgd,sngm"), axis("(0., .9)"), axis("2**-8"), axis("None")
    (('sgd', 'sngm'), (0.0, 0.9), (0.00390625,), None)
    """
    value = value_of(text)
    if isinstance(value, str) and text.strip() == value:  # not written as Python would
        inner = text.strip().removeprefix("(").removesuffix(")")
        value = tuple(value_of(part.strip()) for part in inner.split(",") if part.strip())
    return value if value is None or isinstance(value, tuple | range) else (value,)


def value_of(text: str) -> Any:
    """The value that a text says in Python's way, with arithmetic; else the text itself.

    Numbers with + - * / ** (``2**-8``), truth values (also ``true``), None, texts in quotes or
    bare, tuples and lists (as tuples), mappings (as pairs) and ``range``.

    >>> value_of("2**-8"), value_of("(1e-3, 0x10, sgd)"), value_of("true"), value_of("map:4")
    (0.00390625, (0.001, 16, 'sgd'), True, 'map:4')
    >>> value_of("10**10**10")
    '10**10**10'
    """
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ArithmeticError, TypeError, RecursionError, MemoryError):
        return text


_WORDS = {"true": True, "false": False, "inf": float("inf"), "nan": float("nan")}
_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_MOST_BITS = 4096  # of a whole number on the way to a value


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None):
            return node.value
        case ast.Name(id=name):
            return _WORDS.get(name.lower(), name)
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return tuple(map(_value, items))
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return tuple((_value(k), _value(v)) for k, v in zip(keys, values, strict=True) if k)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            number = _number(operand)
            return -number if isinstance(node.op, ast.USub) else number
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _arithmetic(_number(left), op, _number(right))
        case ast.Call(func=ast.Name(id="range"), args=arguments, keywords=[]):
            return range(*map(_value, arguments))
    raise ValueError("not a value")


def _number(node: ast.expr) -> int | float:
    value = _value(node)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("not a number")
    return value


def _arithmetic(left: int | float, op: ast.operator, right: int | float) -> int | float:
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * max(1, abs(right) if isinstance(op, ast.Pow) else 1)
        if bits + right.bit_length() > _MOST_BITS:
            raise ValueError("too many digits")
    result = _OPERATORS[type(op)](left, right)
    if isinstance(result, complex):
        raise ValueError("not a real number")
    return result
