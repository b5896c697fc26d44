"""What tells a user's module, rule, data and start from others, in words that JSON can hold.

A work directory keeps the fingerprints of what it trained beside its config (``parts.json``, and
the attribute ``parts`` of the results), so that no other module, data set, rule or start goes on
with its runs or passes for them. They do not read source code: a module that was moved or
reformatted is still the same.
"""

import collections
import dataclasses
import functools
import hashlib
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sbt.data import Dataset, source
from sbt.data.dataset import SampledSet
from sbt.models.adapter import Model
from sbt.tasks.base import Examples

_TELLING = ("name", "train_size", "test_size", "validation")  # of config.data
_AT_ONCE = 1 << 26  # bytes hashed at a time
_MOST_TEXT = 1 << 14


# --- data ----------------------------------------------------------------------------------------


def own_parts(parts: Mapping[str, Any]) -> list[str]:
    """What of a sweep no config holds, by the names of ``sbt.run``'s arguments.

    Args:
      parts: the fingerprint of what the sweep trains.
    """
    found = [name for name in ("module", "rule", "loss", "schedule") if parts.get(name)]
    data = (parts.get("data") or {}).values()
    return [*found, *(["dataset"] if any(one.get("own") for one in data) else [])]


def of_data(datasets: Mapping[str, Dataset], *, own: bool) -> dict[str, Any]:
    """Of every data set of a sweep, by name and sizes.

    Args:
      datasets: by its section of the config as JSON.
      own: whether the user gave it.
    """
    found = {}
    for section, dataset in datasets.items():
        # Where the files lie, and what is done to the images afterwards, are the config's matter.
        named = json.loads(section)
        fields = [*_TELLING, *source.named(str(named["name"])).fields]
        names = (field for field in fields if named.get(field))
        label = ", ".join(f"{field} {named[field]}" for field in names)
        found[label] = of_dataset(dataset, own=own)
    return found


def of_dataset(dataset: Dataset, *, own: bool) -> dict[str, Any]:
    """The fingerprint of a data set: its sizes, a hash of each split, what it notes.

    Of a streamed set the labels of its sample are hashed: its files take hours to read, and how
    their images decode is a matter of library versions.

    Args:
      dataset: as it is trained on.
      own: whether the user gave it.
    """
    streamed = isinstance(dataset, SampledSet)

    def split(examples: Examples) -> str:
        hasher = hashlib.blake2b(digest_size=8)
        others = {name: entry for name, entry in examples.items() if name != "x"}
        for leaf in jax.tree.leaves((() if streamed else examples["x"], others)):
            of_array(leaf, hasher)
        return hasher.hexdigest()

    first, *more = jax.tree.leaves(dataset.train["x"])
    found = {
        "own": own,
        "name": dataset.name,
        "training examples": dataset.train_examples,
        "test examples": dataset.test_examples,
        "shape of an example": list(first.shape[1:]),
        "dtype": str(first.dtype),
        "classes": dataset.num_classes,
        "training data": split(dataset.train),
        "test data": split(dataset.test),
        **dataset.notes,
    }
    if more:
        found["further inputs"] = [f"{leaf.dtype}{leaf.shape[1:]}" for leaf in more]
    if dataset.max_value is not None:
        found["largest value"] = float(dataset.max_value)
    if dataset.validation is not None:
        found["validation data"] = split(dataset.validation)
    return found


def of_array(array: np.ndarray, hasher: Any = None) -> str:
    """A hash of every byte of an array (and of its shape and dtype), 16 hex digits.

    Args:
      array: of any layout; files mapped into memory are read piece by piece.
      hasher: goes on with this one.
    """
    hasher = hashlib.blake2b(digest_size=8) if hasher is None else hasher
    hasher.update(f"{array.dtype.str}{array.shape}".encode())
    rows = max(1, _AT_ONCE // max(1, array.nbytes // max(1, len(array)))) if array.ndim else 1
    pieces = (
        [array]
        if array.ndim == 0
        else (array[start : start + rows] for start in range(0, len(array), rows))
    )
    for piece in pieces:
        hasher.update(np.ascontiguousarray(piece).view(np.uint8).data if piece.size else b"")
    return hasher.hexdigest()


# --- a module ------------------------------------------------------------------------------------


def of_module(module: Any, model: Model, example: jax.ShapeDtypeStruct) -> dict[str, Any]:
    """Of a user's module: its name, its fields, its parameters, and what it computes of them.

    Args:
      module: as the user gave it.
      model: made of it.
      example: shapes and dtypes of an input batch.
    """
    key = jax.random.key(0)
    params, stats = jax.eval_shape(model.init, key, example)
    linen = isinstance(module, nn.Module)
    named = type(module) if linen and not isinstance(module, type) else module
    fields = dataclasses.fields(module) if linen else ()
    found: dict[str, Any] = {
        "name": model.name or getattr(named, "__name__", type(module).__name__),
        "fields": {
            field.name: _short_text(text_of(getattr(module, field.name, None)))
            for field in fields
            if field.name not in ("parent", "name")
        },
        "parameters": _of_parameters(params),
        "statistics": _of_parameters(stats),
    }
    if isinstance(module, nnx.Module):  # all seeds start from what it holds
        held = model.init(key, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), example))
        found["values"] = of_values(held)

    def logits(params: Any, stats: Any, x: Any) -> Any:
        return model.apply(params, stats, x, None, False)[0]

    x = jax.tree.map(lambda s: jax.ShapeDtypeStruct((2, *s.shape[1:]), s.dtype), example)
    found["computation"] = _of_computation(jax.make_jaxpr(logits)(params, stats, x))
    return found


def of_values(tree: Any) -> str:
    """A hash of every leaf of a tree of arrays."""
    hashes = [of_array(np.asarray(leaf)) for leaf in jax.tree.leaves(tree)]
    return of_array(np.asarray(hashes, "S16"))


def _of_parameters(params: Any) -> dict[str, str]:
    """Path -> dtype and shape of every leaf: ``{"Dense_0/bias": "float32(3,)"}``."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    found = {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{leaf.shape}"
        for path, leaf in leaves
    }
    return _kept_short(found)


def _kept_short(found: dict[str, str]) -> dict[str, str]:
    """Texts by name, or a hash of them where they are many."""
    text = repr(sorted(found.items()))
    if len(text) < _MOST_TEXT:  # an attribute of a netCDF file holds 64 kB
        return found
    return {"arrays": str(len(found)), "hash": _hash(text)}


def _of_computation(closed: Any) -> dict[str, Any]:
    """A hash of what a function computes, from its jaxpr, and the versions it holds for.

    It tells ``tanh`` from ``relu``. Counted are operations with the shapes of their results and
    the constants that go in, wherever they stand; another version of jax or flax may compute the
    same by others, and then nothing is compared.
    """
    lines = collections.Counter(_operations(closed.jaxpr, closed.consts))
    text = "\n".join(f"{count} {line}" for line, count in sorted(lines.items()))
    return {
        "hash": _hash(text),
        "versions": [
            *(f"{name} {metadata.version(name)}" for name in ("jax", "flax")),
            jax.default_backend(),
            str(jax.numpy.result_type(float)),
        ],
    }


def _operations(jaxpr: Any, consts: Any) -> Iterator[str]:
    for const in consts:
        numbers = isinstance(const, np.ndarray | jax.Array)
        if numbers and not jax.dtypes.issubdtype(const.dtype, jax.dtypes.prng_key):
            yield f"constant {of_array(np.asarray(const))}"
    for equation in jaxpr.eqns:
        results = [
            f"{getattr(v.aval, 'dtype', '')}{getattr(v.aval, 'shape', '')}"
            for v in equation.outvars
        ]
        literals = [str(v.val) for v in equation.invars if hasattr(v, "val")]
        yield f"{equation.primitive.name} {results} {literals}"
        for inner in jax.tree.leaves(
            tuple(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")
        ):
            if hasattr(inner, "eqns"):
                closed = hasattr(inner, "jaxpr")
                yield from _operations(
                    inner.jaxpr if closed else inner, inner.consts if closed else ()
                )


def of_start(hashes: Mapping[str, str]) -> dict[str, str]:
    """Of the weights that runs start from: their hashes, by where they come from."""
    return _kept_short(dict(hashes))


# --- a rule --------------------------------------------------------------------------------------


def of_rule(rule: Callable[..., Any]) -> dict[str, Any]:
    """What tells a user's rule from another one.

    It does not read the code: the same rule from a file that was moved or reformatted has the same
    fingerprint. A lambda has no name to be told by, so the names and numbers in its body are.

    Args:
      rule: a function ``rule(learning_rate, **hyperparameters)``.

    Returns:
      ``name`` (qualified, with its module unless that is ``__main__``), ``parameters`` (name ->
      default, as text) and ``bound`` (arguments that a ``functools.partial`` has bound already); of
      a lambda also ``body``.

    >>> of_rule(functools.partial(optax.sgd, momentum=0.9))["bound"]
    {'momentum': '0.9'}
    """
    bound: dict[str, str] = {}
    inner: Any = rule
    while isinstance(inner, functools.partial):
        given = {str(i): value for i, value in enumerate(inner.args)} | inner.keywords
        bound = {name: text_of(value) for name, value in given.items()} | bound
        inner = inner.func
    try:
        parameters = inspect.signature(rule).parameters.values()
    except (TypeError, ValueError):
        parameters = {}.values()
    defaults = {
        p.name: "" if p.default is p.empty else text_of(p.default)
        for p in parameters
        if p.name not in bound
    }
    found: dict[str, Any] = {"name": text_of(inner), "parameters": defaults, "bound": bound}
    if getattr(inner, "__name__", "") == "<lambda>":
        code = inner.__code__
        numbers = [repr(value) for value in code.co_consts if isinstance(value, int | float)]
        found["body"] = [*code.co_names, *numbers]
    return found


def text_of(value: Any) -> str:
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
    if isinstance(getattr(value, "dtype", value), np.dtype):  # jnp.float32 is a class with one
        return str(np.dtype(value))
    if isinstance(value, type) or inspect.isroutine(value):
        module = "" if value.__module__ in (None, "__main__") else f"{value.__module__}."
        return f"{module}{value.__qualname__}"
    if isinstance(value, tuple | list) and type(value) in (tuple, list):
        return f"({', '.join(map(text_of, value))})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {text_of(value[key])}' for key in value)}}}"
    if callable(value) and type(value).__repr__ is object.__repr__:
        return f"{type(value).__module__}.{type(value).__qualname__}"
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _short_text(text: str) -> str:
    """A text on one line, of which no more than its beginning is kept if it is long."""
    text = " ".join(text.split())
    return text if len(text) <= 200 else f"{text[:160]}... {_hash(text)}"


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


# --- comparing -----------------------------------------------------------------------------------


def differences(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """What differs between the parts that a directory was made with and those given now, in words.

    Args:
      stored: ``module``, ``rule``, ``loss`` and ``schedule``, each a fingerprint or None (or left
        out) for one that the config names; ``data``: a fingerprint for each data set; and
        ``start``, where runs start from given weights.
      given: likewise. Data sets that only one of the two has are not compared: more values of an
        axis bring more data.
    """
    found = []
    for part in ("module", "rule", "loss", "schedule"):
        a, b = stored.get(part), given.get(part)
        if (a is None) != (b is None):
            found.append(f"{part} ({_whose(a)} there, {_whose(b)} now)")
        elif a is not None and b is not None and (words := _first_difference(a, b)):
            found.append(f"{part} ({words})")
    start_a, start_b = stored.get("start"), given.get("start")
    if (start_a is None) != (start_b is None):
        there, now = (
            "random weights" if s is None else "given weights" for s in (start_a, start_b)
        )
        found.append(f"start ({there} there, {now} now)")
    elif start_a is not None and start_b is not None:
        shared = start_a.keys() & start_b.keys()
        if not shared or any(start_a[name] != start_b[name] for name in shared):
            found.append("start (other weights)")
    data_a, data_b = stored.get("data") or {}, given.get("data") or {}
    own = [any(d.get("own") for d in data.values()) for data in (data_a, data_b)]
    if data_a and data_b and own[0] != own[1]:
        there, now = ("own arrays" if mine else "a set that ships" for mine in own)
        found.append(f"data ({there} there, {now} now)")
        return found
    for name in data_a.keys() & data_b.keys():
        if words := _first_difference(data_a[name], data_b[name]):
            found.append(f"data ({words})")
            break
    return found


def _whose(part: Mapping[str, Any] | None) -> str:
    return "the config's own" if part is None else str(part.get("name"))


def _first_difference(a: Mapping[str, Any], b: Mapping[str, Any], at: str = "") -> str:
    """The first entry that differs: ``training examples 24 there, 12 now``."""
    for key in {**a, **b}:
        one, other = a.get(key), b.get(key)
        where = f"{at} {key}".strip()
        if key == "computation":
            if one and other and _computes_otherwise(one, other):
                return "other operations between the same parameters"
        elif isinstance(one, Mapping) and isinstance(other, Mapping):
            if words := _first_difference(one, other, where):
                return words
        elif one != other:
            if key in ("training data", "test data", "validation data", "values"):
                return f"{key} of the same shape, other content"
            return f"{where}: {_short(one)} there, {_short(other)} now"
    return ""


def _computes_otherwise(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return bool(a["versions"] == b["versions"] and a["hash"] != b["hash"])


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
