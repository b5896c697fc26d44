"""A user's own update rule in a sweep: what it may be, and what tells it from another."""

import functools
import json

import jax.numpy as jnp
import optax
import pytest

from sbt.sweep import own


def decayed(learning_rate, decay=0.5, dtype=jnp.bfloat16, mask=lambda p: p, table=None):
    del decay, dtype, mask, table
    return optax.sgd(learning_rate)


@pytest.mark.parametrize(
    "rule",
    [
        optax.sgd,
        optax.adafactor,
        decayed,
        lambda learning_rate: optax.sgd(learning_rate, 0.9),
        functools.partial(decayed, table=jnp.arange(3.0)),
        optax.inject_hyperparams(optax.sgd),
    ],
)
def test_the_signature_of_a_rule_fits_json_and_holds_no_address(rule):
    text = json.dumps(own.signature_of(rule))
    assert own.signature_of(rule) == json.loads(text)
    assert "0x" not in text


def test_the_signature_tells_rules_apart():
    rules = [
        optax.sgd,
        optax.adam,
        functools.partial(optax.sgd, momentum=0.9),
        functools.partial(optax.sgd, momentum=0.5),
        functools.partial(decayed, table=jnp.arange(3.0)),
        functools.partial(decayed, table=jnp.ones(3)),
    ]
    assert len({json.dumps(own.signature_of(rule)) for rule in rules}) == len(rules)
