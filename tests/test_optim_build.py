"""From a config's rule section to a transformation: defaults, traced values, refusals."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sbt.errors import UserError
from sbt.optim import RULES


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_spec_is_consistent_with_its_function(name):
    spec = RULES[name]
    parameters = inspect.signature(spec.make).parameters
    assert next(iter(parameters)) == "learning_rate"
    named = set(spec.numbers) | set(spec.options)
    assert named <= set(parameters)
    assert not set(spec.numbers) & set(spec.options)
    assert all(isinstance(v, float) and v >= 0 for v in spec.numbers.values())
    assert set(spec.choices) <= set(spec.options)
    assert all(spec.options[k] in values for k, values in spec.choices.items())
    assert all(
        name in spec.numbers or value is None
        for name, value in spec.values.items()
        if spec.fields[name].optional
    )
    assert "arXiv" in spec.source or "http" in spec.source
    assert ("weight_decay" in spec.numbers) <= ("decay_mask" in spec.options)


def test_configured_values_and_overrides_reach_the_rule():
    make = spec = RULES.configured({"name": "sgd", "momentum": 0.5, "weight_decay": 1})
    assert spec.numbers == {"momentum": 0.5, "weight_decay": 1.0}
    w, g = jnp.array([[2.0]]), jnp.array([[1.0]])
    for overrides, expected in (({}, -0.3), ({"weight_decay": jnp.float32(0.0)}, -0.1)):
        rule = make(0.1, **overrides)
        updates, _ = rule.update(g, rule.init(w), w)
        np.testing.assert_allclose(updates, [[expected]], rtol=1e-6)


def test_decay_mask_by_name():
    for mask, bias in (("all", -0.2), ("kernels", -0.1)):
        make = RULES.configured({"name": "sgd", "weight_decay": 1.0, "decay_mask": mask})
        params = {"kernel": jnp.ones((1, 1)), "bias": jnp.ones(1)}
        rule = make(0.1)
        updates, _ = rule.update(params, rule.init(params), params)
        np.testing.assert_allclose(updates["kernel"], [[-0.2]], rtol=1e-6)
        np.testing.assert_allclose(updates["bias"], [bias], rtol=1e-6)


def test_none_leaves_the_buffer_out():
    make = spec = RULES.configured({"name": "sgd", "momentum": None})
    assert "momentum" not in spec.numbers and spec.options["momentum"] is None
    assert not jax.tree.leaves(make(0.1).init(jnp.ones(3)))
    with pytest.raises(UserError, match="momentum"):
        make(0.1, momentum=0.9)


@pytest.mark.parametrize(
    "config, field, hint",
    [
        ({}, "rule.name", "sngm"),
        ({"name": "sgmn"}, "rule.name", "sngm"),
        ({"name": "sgd", "momentun": 0.9}, "rule.momentun", "momentum"),
        ({"name": "sgd", "momentum": -0.1}, "rule.momentum", "at least 0"),
        ({"name": "sgd", "weight_decay": float("nan")}, "rule.weight_decay", "at least 0"),
        ({"name": "sgd", "momentum": "0.9"}, "rule.momentum", "number"),
        ({"name": "sgd", "momentum": True}, "rule.momentum", "number"),
        ({"name": "lamb", "b1": None}, "rule.b1", "number"),
        ({"name": "sngm", "norm": "l1"}, "rule.norm", "layer"),
        ({"name": "lars", "decay_mask": "weights"}, "rule.decay_mask", "kernels"),
    ],
)
def test_mistakes_are_refused_with_a_remedy(config, field, hint):
    with pytest.raises(UserError) as error:
        RULES.configured(config)
    assert field in error.value.field
    assert hint in error.value.remedy


def test_unknown_overrides_are_refused():
    make = RULES.configured({"name": "sngm"})
    with pytest.raises(UserError, match="weight_decay"):
        make(0.1, weight_deca=0.1)
    with pytest.raises(UserError):
        make(0.1, norm=1.0)
