"""From the ``rule`` section of a config to a function that builds the transformation."""

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any

import optax

from sbt.errors import UserError
from sbt.optim.registry import RULES
from sbt.optim.spec import RuleSpec

MakeTransform = Callable[..., optax.GradientTransformation]


def _unknown(field: str, name: object, known: Mapping[str, Any]) -> UserError:
    near = difflib.get_close_matches(str(name), list(known), n=3)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    names = ", ".join(sorted(known)) or "none"
    return UserError(field, f"{name!r} is unknown", f"{hint}Known: {names}.")


def _check_number(field: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(field, f"{value!r} is no number", "give a number of 0 or more")
    if not (value >= 0 and math.isfinite(value)):
        raise UserError(field, f"{value!r} is out of range", "give a finite number of 0 or more")
    return float(value)


def make_rule(rule_config: Mapping[str, Any]) -> tuple[RuleSpec, MakeTransform]:
    """Checks a config's ``rule`` section and binds its static options.

    Args:
      rule_config: ``name`` and any of that rule's hyperparameters and options; what is left out
        takes the registry's default.

    Returns:
      ``(spec, make)``. ``spec`` is the registry's entry with the *configured* values in place of
      the defaults; a hyperparameter that the config sets to None has moved from
      ``spec.hyperparameters`` to ``spec.options``. ``make(learning_rate, hyperparameters={})``
      builds the transformation; ``hyperparameters`` maps names from ``spec.hyperparameters`` to
      numbers or traced scalars, and overrides the configured values.

    Raises:
      UserError: for an unknown rule, hyperparameter or option (with the nearest names), a value
        that is no number, negative or not finite, and an option outside its choices. ``make``
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
    if name not in RULES:
        raise _unknown("config.rule.name", name, RULES)
    spec = RULES[name]
    hyperparameters, options = dict(spec.hyperparameters), dict(spec.options)
    for key, value in config.items():
        field = f"config.rule.{key}"
        if key in hyperparameters and value is None and key in spec.optional:
            del hyperparameters[key]
            options[key] = None
        elif key in hyperparameters:
            hyperparameters[key] = _check_number(field, value)
        elif key in options:
            choices = spec.choices.get(key)
            if choices is not None and value not in choices:
                raise UserError(
                    field, f"{value!r} is no choice", f"use one of {', '.join(map(repr, choices))}"
                )
            options[key] = value
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
