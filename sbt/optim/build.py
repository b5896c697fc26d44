"""From the ``rule`` section of a config to a function that builds the transformation."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import optax

from sbt.errors import UserError, nearest, shown
from sbt.optim.registry import RULES
from sbt.optim.spec import RuleSpec
from sbt.ranges import ANY, check_number, plain

MakeTransform = Callable[..., optax.GradientTransformation]


def _unknown(field: str, name: object, known: Mapping[str, Any]) -> UserError:
    return UserError(field, f"{shown(name)} is unknown", nearest(str(name), known))


def _option(spec: RuleSpec, key: str, value: Any) -> Any:
    """The value of a static option, if it takes it."""
    field, choices, default = f"config.rule.{key}", spec.choices.get(key), spec.options[key]
    value = plain(value)
    if choices is not None:
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            remedy = f"use one of {', '.join(map(repr, choices))}"
            raise UserError(field, f"unknown value {shown(value)}", remedy)
    elif value is not None and (key in spec.ranges or isinstance(default, int | float)):
        whole = key in spec.ranges and isinstance(default, int)
        check_number(field, value, spec.ranges.get(key, ANY), whole=whole)
    elif isinstance(default, int | float):
        raise UserError(field, "None is not a number", "give a number")
    return value


def make_rule(rule_config: Mapping[str, Any]) -> tuple[RuleSpec, MakeTransform]:
    """Checks a config's ``rule`` section and binds its static options.

    Args:
      rule_config: ``name`` and any of that rule's hyperparameters and options; what is left out
        takes the registry's default.

    Returns:
      ``(spec, make)``. ``spec`` is the registry's entry with the *configured* values in place of
      the defaults; a hyperparameter that the config sets to None has moved from
      ``spec.hyperparameters`` to ``spec.options``, an option that is off by default and that it
      sets to a number the other way. ``make(learning_rate, hyperparameters={})`` builds the
      transformation; ``hyperparameters`` maps names from ``spec.hyperparameters`` to numbers or
      traced scalars, and overrides the configured values.

    Raises:
      UserError: for an unknown rule, hyperparameter or option (with the nearest names), a value
        that is not a number or out of its range, and an option outside its choices. ``make``
        raises it for a name that is no numeric hyperparameter of the configured rule.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from sbt.optim import make_rule
      >>> spec, make = make_rule({'name': 'sgd', 'momentum': 0.9, 'decay_mask': 'kernels'})
      >>> dict(spec.hyperparameters)
      {'momentum': 0.9, 'weight_decay': 0.0}
      >>> def step(learning_rate, decay):
      ...     rule = make(learning_rate, {'weight_decay': decay})
      ...     w = jnp.ones((2, 2))
      ...     return rule.update(jnp.ones((2, 2)), rule.init(w), w)[0][0, 0]
      >>> print(jax.vmap(step)(jnp.array([0.1, 0.2]), jnp.array([0.0, 1.0])))
      [-0.1 -0.4]
    """
    config = dict(rule_config)
    name = config.pop("name", None)
    if name is None:
        raise UserError("config.rule.name", "no rule is named", f"choose from {sorted(RULES)}")
    if not isinstance(name, str) or name not in RULES:
        raise _unknown("config.rule.name", name, RULES)
    spec = RULES[name]
    hyperparameters, options = dict(spec.hyperparameters), dict(spec.options)
    for key, value in config.items():
        field = f"config.rule.{key}"
        if key in hyperparameters and value is None and key in spec.optional:
            del hyperparameters[key]
            options[key] = None
        elif key in hyperparameters:
            allowed = spec.ranges.get(key, ANY)
            hyperparameters[key] = float(check_number(field, value, allowed))
        elif key in options:
            options[key] = _option(spec, key, value)
            if spec.options[key] is None and key in spec.ranges and value is not None:
                hyperparameters[key] = float(options.pop(key))  # switched on: one like the others
        else:
            raise _unknown(field, key, {**spec.hyperparameters, **spec.options})
    configured = dataclasses.replace(spec, hyperparameters=hyperparameters, options=options)

    def make(
        learning_rate: Any, hyperparameters: Mapping[str, Any] | None = None
    ) -> optax.GradientTransformation:
        overrides = dict(hyperparameters or {})
        for key in overrides:
            if key not in configured.hyperparameters:
                raise _unknown(f"config.sweep.{key}", key, configured.hyperparameters)
        return spec.make(learning_rate, **{**configured.hyperparameters, **options, **overrides})

    return configured, make
