"""Rules that are not of this package: a user's own, and every optimizer of optax by name.

``config.rule.name = "optax.adamw"`` (or ``"optax.contrib.muon"``) is that function of optax, its
keywords the fields of ``config.rule``. A user's own function goes by the name ``own`` for as long
as its sweep lasts.

What a rule wants is found out by tracing it with shapes, before anything compiles: which of its
numbers have to be known then, which further arguments its ``update`` takes, and which parts of its
state are copies of hyperparameters (``optax.inject_hyperparams``), to be renewed at every update.
"""

import contextlib
import dataclasses
import functools
import inspect
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from sbt.choice import Choice, Field, fields_of
from sbt.errors import UserError, nearest, shown, user_code
from sbt.optim import base
from sbt.optim.base import RULES
from sbt.ranges import ANY

NAME = "own"
DEFAULT = "sgd"  # the name that a config has where nobody gives one
FIELD = "rule (your own)"

MakeRule = Callable[..., optax.GradientTransformation]
# The learning rate and the numbers that are traced to the transformation.
Build = Callable[[Any, Mapping[str, Any]], optax.GradientTransformation]

# What the engine computes for an update beyond the gradient, first what costs nothing: the mean
# loss of the batch, or functions of the params that a rule may call on the same batch.
_FREE = frozenset({"value"})
_NEEDS = (
    _FREE,
    _FREE | {"value_fn"},
    _FREE | {"grad_fn"},
    _FREE | {"example_norms"},
    _FREE | {"hessian_diagonal"},
    _FREE | {"second_gradient"},
    _FREE | {"part_gradient"},
    _FREE | {"example_squares", "batch_size"},
)
_UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.UnexpectedTracerError,
)


# --- from a function to what the registry knows of rules ------------------------------------------


def choice_of(rule: MakeRule, name: str = NAME, source: str = "your own") -> Choice:
    """What the registry would say of a function ``rule(learning_rate, **hyperparameters)``.

    Parameters with a fractional number as default are hyperparameters: they can be swept and arrive
    as traced scalars, unless the rule has to know them. Those with whole numbers, truth values,
    names or None are static options. What JSON cannot hold (dtypes, callables, arrays) stays at its
    default.

    Raises:
      UserError: it is not such a function, or a parameter has no default.
    """
    choice = Choice("rule", name, rule, _fields(rule), source)
    # A net of two layers shows what most rules want; those that are made for one network (masks,
    # labels) fail on it, and are judged on that network.
    static, needs = _wants(choice)
    make = functools.partial(_made, rule, needs)
    return dataclasses.replace(choice, make=make, needs=needs, static=static)


def _fields(rule: MakeRule) -> dict[str, Field]:
    """What a config can set of a rule's function."""
    fields: dict[str, Field] = {}
    parameters = _parameters(rule)
    ranges = {name: field.allowed for name, field in fields_of(rule).items()}
    for parameter in parameters[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        name, default = parameter.name, parameter.default
        if default is parameter.empty:
            remedy = "give it a default; sbt supplies the learning rate alone"
            raise UserError(FIELD, f"parameter {name!r} has no default", remedy)
        if isinstance(default, np.ndarray | np.generic | jax.Array) and np.ndim(default) == 0:
            with contextlib.suppress(TypeError, ValueError):
                default = np.asarray(default).item()
        if isinstance(default, float) and abs(default) < float(jnp.finfo(jnp.float32).max):
            fields[name] = Field(default, float, ranges.get(name) or ANY)
        elif isinstance(default, bool | int) and _fits_json(default):
            fields[name] = Field(default, type(default), ranges.get(name))
        elif _fits_json(default):
            fields[name] = Field(default, object, optional=True)
    return fields


# --- every optimizer of optax ---------------------------------------------------------------------

_RATES = ("learning_rate", "max_learning_rate")


@functools.cache
def optax_rules() -> dict[str, MakeRule]:
    """Every function of optax that makes an optimizer from a learning rate, by its name here."""
    found: dict[str, MakeRule] = {}
    for prefix, module in (("optax.", optax), ("optax.contrib.", optax.contrib)):
        for name, rule in sorted(vars(module).items()):
            kind = types.FunctionType | functools.partial
            if name.startswith(("_", "scale_by_")) or not isinstance(rule, kind):
                continue
            parameters = list(inspect.signature(rule).parameters.values())
            whole = all(p.default is not p.empty for p in parameters[1:])
            if parameters and parameters[0].name in _RATES and whole:
                found[f"{prefix}{name}"] = rule
    return found


def optax_fields(name: str) -> dict[str, Any]:
    """The fields, with defaults, of an optimizer of optax: no tracing, for lists."""
    return {key: field.default for key, field in _fields(optax_rules()[name]).items()}


RULES.extend(
    optax_rules(), lambda name: choice_of(optax_rules()[name], name, f"optax {optax.__version__}")
)


# --- a user's own ---------------------------------------------------------------------------------


def _parameters(rule: Any) -> list[inspect.Parameter]:
    """The parameters of a rule's function; the first is the learning rate."""
    remedy = "pass a function learning_rate -> optax transformation, such as optax.sgd"
    if isinstance(rule, optax.GradientTransformation):
        raise UserError(FIELD, "is a transformation, with its learning rate bound", remedy)
    if not callable(rule):
        raise UserError(FIELD, f"{shown(rule)} is not a function", remedy)
    try:
        parameters = list(inspect.signature(rule).parameters.values())
    except (TypeError, ValueError):
        raise UserError(FIELD, f"{shown(rule)} does not tell its parameters", remedy) from None
    if not parameters or parameters[0].kind in (
        inspect.Parameter.KEYWORD_ONLY,
        inspect.Parameter.VAR_KEYWORD,
    ):
        raise UserError(FIELD, "takes no learning rate as its first argument", remedy)
    return parameters


def _fits_json(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return type(value) in (tuple, list) and all(map(_fits_json, value))
    if isinstance(value, float):
        return bool(np.isfinite(value))
    return value is None or isinstance(value, bool | str | int)


def section(rule_config: Mapping[str, Any]) -> dict[str, Any]:
    """A config's ``rule`` section for the rule that is known as ``own``.

    Fields of the registered rule that the section named, at their defaults, are left out: a config
    that was completed once holds them all.

    Raises:
      UserError: a field that the rule does not have (with the nearest names), or another's name.
    """
    if not isinstance(rule_config, Mapping | ConfigDict):
        raise UserError("config.rule", f"{shown(rule_config)} is not a section", "give a mapping")
    fields = RULES[NAME].fields
    named = rule_config.get("name", NAME)
    if named not in (NAME, DEFAULT):
        problem = f"{shown(named)} has no effect: your own rule is given"
        raise UserError("config.rule.name", problem, "leave one of the two out")
    other = RULES[named] if isinstance(named, str) and named in RULES else None
    defaults = other.values if other else {}
    found = {"name": NAME}
    for key in rule_config:
        if key in fields:
            found[key] = rule_config[key]
        elif key != "name" and not (key in defaults and defaults[key] == rule_config[key]):
            raise UserError(
                f"config.rule.{key}", "your own rule has no such parameter", nearest(key, fields)
            )
    return found


@contextlib.contextmanager
def known(rule: MakeRule | None) -> Iterator[None]:
    """Within this context ``config.rule.name = "own"`` means the given rule (if there is one)."""
    if rule is None:
        yield
        return
    before = RULES.get(NAME)  # of a call around this one
    RULES[NAME] = choice_of(rule)
    try:
        yield
    finally:
        del RULES[NAME]
        if before is not None:
            RULES[NAME] = before


# --- the transformation, as the engine calls it ---------------------------------------------------


def _made(rule: MakeRule, needs: frozenset[str], learning_rate: Any, **fields: Any) -> base.Rule:
    """The user's transformation, given what it takes and with its hyperparameters up to date."""
    inner = _build(rule, learning_rate, fields)
    traced = {k: v for k, v in fields.items() if isinstance(v, jax.Array)}
    build = _builder(rule, {k: v for k, v in fields.items() if k not in traced})

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        fresh = inner.init(params)
        renewed = _roles(build, needs, traced, jax.tree.map(_shape, params)).renewed
        leaves = [
            new if again else old
            for new, old, again in zip(
                jax.tree.leaves(fresh), jax.tree.leaves(state), renewed, strict=True
            )
        ]
        state = jax.tree.unflatten(jax.tree.structure(state), leaves)
        return _call(inner, updates, state, params, extra)

    return base.Rule(inner.init, update, getattr(inner, "evaluate_at", base.at_params))


def _builder(rule: MakeRule, fixed: Mapping[str, Any]) -> Build:
    """The rule as a function of what is traced."""
    return lambda learning_rate, numbers: _build(rule, learning_rate, {**fixed, **numbers})


def _build(rule: MakeRule, learning_rate: Any, fields: Mapping[str, Any]) -> Any:
    inner = rule(learning_rate, **fields)
    if isinstance(inner, optax.MultiSteps):
        inner = inner.gradient_transformation()
    if not isinstance(inner, optax.GradientTransformation):
        raise UserError(
            FIELD,
            f"returns {shown(inner)}, which is not an optax transformation",
            "return one, such as optax.sgd(learning_rate)",
        )
    return inner


def _call(inner: Any, updates: Any, state: Any, params: Any, extra: Mapping[str, Any]) -> Any:
    """``inner.update`` with those of the extra arguments that it takes."""
    if not isinstance(inner, optax.GradientTransformationExtraArgs):
        return inner.update(updates, state, params)
    given = dict(extra) | {"grad": updates}
    if "value_fn" in given:
        given["obj_fn"] = given["value_fn"]  # its name in optax.contrib.sophia
    while True:
        try:
            return inner.update(updates, state, params, **given)
        except TypeError as error:
            # Not every link takes arguments that are meant for others; it says which.
            refused = [name for name in given if f"'{name}'" in str(error)]
            if "nexpected keyword argument" not in str(error) or not refused:
                raise
            given = {k: v for k, v in given.items() if k not in refused}


# --- what a rule wants, found out by tracing ------------------------------------------------------


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _two_layers() -> Any:
    dtype = jnp.result_type(float)
    return {
        "kernel": jax.ShapeDtypeStruct((3, 2), dtype),
        "bias": jax.ShapeDtypeStruct((2,), dtype),
    }


def _extras(needs: frozenset[str], params: Any) -> dict[str, Any]:
    """Arguments of an update, for tracing."""
    leaves = [jnp.sum(jnp.real(leaf)) for leaf in jax.tree.leaves(params)]
    total = jnp.sum(jnp.stack(leaves)).astype(jnp.result_type(float))
    made = {
        "value": total,
        "value_fn": lambda params, *_: jnp.sum(
            jnp.stack([jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(params)])
        ).astype(total.dtype),
        "grad_fn": lambda params, *_: params,
        "example_norms": jax.tree.map(lambda leaf: jnp.sum(jnp.real(leaf)), params),
        "hessian_diagonal": params,
        "second_gradient": params,
        "part_gradient": lambda params, part, parts: params,
        "example_squares": params,
        "batch_size": jnp.ones((), total.dtype),
    }
    return {"key": jax.random.key(0)} | {name: made[name] for name in needs}


def _arguments(numbers: Iterable[str], params: Any) -> tuple[Any, dict[str, Any], Any]:
    """Shapes of a learning rate, the traced numbers and the weights."""
    scalar = jax.ShapeDtypeStruct((), jnp.result_type(float))
    return scalar, dict.fromkeys(numbers, scalar), params


def _trace(build: Build, needs: frozenset[str], numbers: Iterable[str], params: Any) -> Any:
    """Shapes of ``(state, updates, next state)`` of one update; whether it takes more arguments."""
    takes = False

    def one(learning_rate: Any, numbers: Any, params: Any) -> Any:
        nonlocal takes
        inner = build(learning_rate, numbers)
        takes = isinstance(inner, optax.GradientTransformationExtraArgs)
        state = inner.init(params)
        result = _call(inner, params, state, params, _extras(needs, params))
        if not isinstance(result, tuple) or len(result) != 2:
            raise UserError(
                FIELD,
                f"its update returns {shown(result)}",
                "return a pair: the updates and the next state",
            )
        return state, *result

    return jax.eval_shape(one, *_arguments(numbers, params)), takes


def _wants(rule: Choice) -> tuple[frozenset[str], frozenset[str]]:
    """Numbers that have to be known when tracing, and the extra arguments that an update needs."""
    numbers, params = rule.numbers, _two_layers()

    takes = True

    def works(needs: frozenset[str], static: frozenset[str]) -> Any:
        nonlocal takes
        fixed = rule.options | {k: v for k, v in numbers.items() if k in static}
        try:
            build = _builder(rule.make, fixed)
            _, takes = _trace(build, needs, numbers.keys() - static, params)
        except _UNTRACEABLE:
            return None
        except Exception:  # of any kind, in the user's code: told when the network is known
            return False
        return True

    for needs in _NEEDS:
        found = works(needs, frozenset())
        if found:
            return frozenset(), needs if takes else frozenset()
        if found is None and works(needs, frozenset(numbers)):
            static = frozenset(numbers)
            for name in numbers:
                if works(needs, static - {name}):
                    static = static - {name}
            return static, needs if takes else frozenset()
    return frozenset(), _FREE


class _Roles:
    """How the leaves of a rule's state depend on its hyperparameters.

    Attributes:
      renewed: a flag for each leaf: a copy of hyperparameters, which updates leave as it is.
      starts_from_rate: whether another leaf starts from the learning rate, and then changes.
    """

    def __init__(self, renewed: tuple[bool, ...], starts_from_rate: bool):
        self.renewed, self.starts_from_rate = renewed, starts_from_rate


def _roles(build: Build, needs: frozenset[str], numbers: Iterable[str], params: Any) -> _Roles:
    """The roles of the leaves of a rule's state, from how its functions trace."""
    args = _arguments(numbers, params)

    def init(learning_rate: Any, numbers: Any, params: Any) -> Any:
        return build(learning_rate, numbers).init(params)

    start, shapes = jax.make_jaxpr(init, return_shape=True)(*args)
    count = 1 + len(args[1])
    inputs = start.jaxpr.invars
    from_rate = _reached(start.jaxpr, inputs[:1])
    from_numbers = _reached(start.jaxpr, inputs[:count])
    from_params = _reached(start.jaxpr, inputs[count:])
    if not any(from_numbers):
        return _Roles((False,) * len(from_numbers), False)

    def update(state: Any, learning_rate: Any, numbers: Any, params: Any) -> Any:
        inner = build(learning_rate, numbers)
        return _call(inner, params, state, params, _extras(needs, params))[1]

    after = jax.make_jaxpr(update)(shapes, *args).jaxpr
    unchanged = [given is out for given, out in zip(after.invars, after.outvars, strict=False)]
    injected = [
        any(getattr(key, "name", None) == "hyperparams" for key in path)
        for path, _ in jax.tree_util.tree_leaves_with_path(shapes)
    ]
    renewed = tuple(
        number and not weights and (same or named)
        for number, weights, same, named in zip(
            from_numbers, from_params, unchanged, injected, strict=True
        )
    )
    starts = any(rate and not again for rate, again in zip(from_rate, renewed, strict=True))
    return _Roles(renewed, starts)


def _reached(jaxpr: Any, sources: Any) -> list[bool]:
    """Which results of a jaxpr depend on some of its arguments."""
    reached = set(sources)
    for equation in jaxpr.eqns:
        if any(not hasattr(v, "val") and v in reached for v in equation.invars):
            reached.update(equation.outvars)
    return [not hasattr(v, "val") and v in reached for v in jaxpr.outvars]


def check(rule_config: Mapping[str, Any], params: Any, varied: str = "") -> None:
    """Refuses a rule, if it is none of this package's, that cannot train the given network.

    Args:
      rule_config: the section ``rule`` of a cohort.
      params: shapes of the weights.
      varied: what moves the learning rate during training (``config.schedule.name``), if anything.

    Raises:
      UserError: naming what is wrong with the rule, and UserCodeError where its own code raises.
    """
    choice = RULES.configured(rule_config)
    if getattr(choice.make, "func", None) is not _made:
        return
    rule, needs = choice.make.args  # type: ignore[attr-defined]
    build = _builder(rule, choice.options)
    try:
        with user_code(FIELD if choice.name == NAME else f"config.rule ({choice.name})"):
            (state, updates, after), _ = _trace(build, needs, choice.numbers, params)
    except UserError as error:
        raise _explained(error) from error.__cause__
    _check_tree("the updates", updates, params)
    _check_tree("the next state", after, state)
    if varied and _roles(build, needs, choice.numbers, params).starts_from_rate:
        raise UserError(
            varied,
            "changes the learning rate, and your own rule keeps its first one in the state",
            "leave the learning rate constant, or write a rule that takes it at every update",
        )


def _explained(error: UserError) -> UserError:
    """What an exception in a user's rule says about the arguments that it was given."""
    cause = error.__cause__
    if isinstance(cause, _UNTRACEABLE):
        return UserError(
            FIELD,
            "has to know its learning rate as a number, and in a sweep every run has its own",
            "compute with jax.numpy (jnp.where for if, no float())",
        )
    missing = re.search(r"missing \d+ required .*arguments?: (.*)", str(cause))
    if isinstance(cause, TypeError) and missing:
        return UserError(
            FIELD,
            f"its update needs {missing[1]}",
            "sbt gives value, grad, value_fn, grad_fn, key and nothing else by name",
        )
    return error


def _check_tree(what: str, found: Any, wanted: Any) -> None:
    """Refuses a result of ``update`` that differs from what it was given."""
    remedy = f"return a tree like {'the params' if what == 'the updates' else 'what init returns'}"
    structures: list[Any] = [jax.tree.structure(tree) for tree in (found, wanted)]
    if structures[0] != structures[1]:
        raise UserError(FIELD, f"{what} of its update have another structure", remedy)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True
    ):
        kinds = [jnp.issubdtype(x.dtype, jnp.inexact) for x in (a, b)]
        if a.shape != b.shape or (a.dtype != b.dtype and not all(kinds)):
            raise UserError(
                FIELD,
                f"{what} of its update have {a.dtype}{list(a.shape)} at "
                f"{jax.tree_util.keystr(path) or 'their only leaf'}, not {b.dtype}{list(b.shape)}",
                remedy,
            )
