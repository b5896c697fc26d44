"""A user's own update rule in a sweep, under the name ``own``, for as long as the sweep lasts."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

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
