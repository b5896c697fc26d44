"""Values of rules and schedules that nobody means: refused in plain words, whatever their type."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest

from sbt import optim, schedules
from sbt.checks import check_section
from sbt.config import SECTIONS
from sbt.errors import UserError
from sbt.optim import RULES
from sbt.ranges import ANY
from sbt.schedules import SCHEDULES
from sbt.sweep.grid import make_grid

ODD = (
    "x", "", b"1", None, True, (), (1.0,), ("a", 2), [0.5, "b"], {}, {"a": 1}, object(), 1j,
    float("nan"), float("inf"), -float("inf"), -1, -0.5, 10**30, 10**400, -(10**400), 1e300,
    np.ones(3), np.asarray("a"), np.datetime64("2020"), lambda x: x,
)  # fmt: skip


def sections():
    """Every named section with every name that it takes and each of its fields."""
    for section, registry in SECTIONS.items():
        if section != "model":  # whose networks are built: see test_models
            for name, choice in registry.items():
                yield section, name, tuple(choice.fields)


@pytest.mark.parametrize("section, name, fields", list(sections()))
def test_an_odd_value_is_taken_or_refused_in_words(section, name, fields):
    for field in (*fields, "no_such_field"):
        for value in ODD:
            try:
                check_section(section, {"name": name, field: value})
            except UserError as error:
                assert error.field.startswith(f"config.{section}.{field}"), error
                assert error.remedy and "\n" not in error.problem
            else:
                assert value is None or isinstance(value, int | float | str | tuple | np.ndarray)


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("section", [section for section in SECTIONS if section != "model"])
def test_an_odd_name_is_refused_in_words(section, value):
    with pytest.raises(UserError, match=rf"config\.{section}\.name"):
        check_section(section, {"name": value})


REFUSED = [
    ("rule", {"name": "sgd", "momentum": 1.0}),
    ("rule", {"name": "adam", "b1": 1.5}),
    ("rule", {"name": "adam", "b2": 1}),
    ("rule", {"name": "adam", "eps": 0.0}),
    ("rule", {"name": "lars", "trust_coefficient": 0}),
    ("rule", {"name": "sgd", "weight_decay": -1e-4}),
    ("rule", {"name": "sgd", "nesterov": 1}),
    ("rule", {"name": "svag", "amplification": 0.5}),
    ("rule", {"name": "hoffer_sgd", "max_norm": 0}),
    ("rule", {"name": "multistage_shb", "first_fraction": 1.5}),
    ("rule", {"name": "exponential_shb", "relative_step": 0.7}),
    ("rule", {"name": "conservative", "iterations": 0}),
    ("rule", {"name": "conservative", "iterations": 2.5}),
    ("rule", {"name": "randomly_scaled_sgdm", "average_decay": 1.5}),
    ("rule", {"name": "cblr", "radius_ceiling": 0}),
    ("rule", {"name": "lamb", "phi": "clamp", "phi_min": 20.0}),
    ("rule", {"name": "lamb", "phi": "clamp", "phi_max": 1.0, "phi_min": 2.0}),
    ("schedule", {"name": "steps", "drops": (0.75, 0.5)}),
    ("schedule", {"name": "steps", "drops": (0.5, 0.5)}),
    ("schedule", {"name": "steps", "drops": (0.5, 1.5)}),
    ("schedule", {"name": "steps", "drops": (0.5, "a")}),
    ("schedule", {"name": "steps", "factor": 1.5}),
    ("schedule", {"name": "steps", "factor": (0.1, 0.1, 0.1)}),
    ("schedule", {"name": "poly", "power": (1.0, 2.0)}),
    ("schedule", {"name": "constant", "after_warmup": 1}),
    ("schedule", {"name": "constant", "warmup_batch": 2.5}),
    ("schedule", {"name": "onecycle", "rise": 0.9, "fall": 0.5}),
    ("batch_schedule", {"name": "small_first", "until": 1.5}),
    ("batch_schedule", {"name": "smith", "drops": (0.6, 0.3)}),
    ("batch_schedule", {"name": "smith", "factor": 0.5}),
    ("batch_schedule", {"name": "smith", "largest": 0.5}),
    ("batch_schedule", {"name": "adabatch", "every": 0}),
    ("momentum_schedule", {"name": "onecycle", "high": 1.0}),
    ("momentum_schedule", {"name": "onecycle", "rise": 0.9, "fall": 0.5}),
    ("noise", {"name": "lr", "variance": 0}),
    ("noise", {"name": "lr-batch", "largest_batch": 1e30}),
    ("noise", {"name": "exp", "epochs": 0}),
    ("objective", {"name": "adversarial", "clean_weight": 1.5}),
]


@pytest.mark.parametrize("section, fields", REFUSED)
def test_what_no_training_could_use_is_refused_with_its_field(section, fields):
    with pytest.raises(UserError) as caught:
        check_section(section, fields)
    assert caught.value.field.removeprefix(f"config.{section}.") in fields


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_number_of_a_rule_states_its_range(name):
    rule = RULES[name]
    for key, value in rule.numbers.items():
        assert rule.fields[key].allowed not in (None, ANY) and value in rule.fields[key].allowed


def test_scalars_of_numpy_and_jax_are_numbers():
    for number in (np.float64(0.5), np.float32(0.5), np.asarray(0.5), jnp.asarray(0.5)):
        spec = RULES.configured({"name": "sgd", "momentum": number})
        assert spec.numbers["momentum"] == 0.5
        assert SCHEDULES.configured({"name": "poly", "end": number}).values["end"] == 0.5
    drops = np.asarray([0.25, 0.5])
    assert SCHEDULES.configured({"name": "steps", "drops": drops}).values["drops"] == (0.25, 0.5)


def test_a_swept_value_is_checked_like_any_other():
    from sbt import default_config

    config = default_config()
    config.sweep.momentum = (0.0, 1.0)
    with pytest.raises(UserError, match="momentum"):
        make_grid(config)


def test_a_ceiling_that_a_config_sets_is_a_number_like_the_others():
    make = spec = RULES.configured({"name": "cblr", "radius_ceiling": 2})
    assert spec.numbers["radius_ceiling"] == 2.0 and "radius_ceiling" not in spec.options
    make(0.1, radius_ceiling=jnp.float32(3.0))


@pytest.mark.parametrize("value", ["a", None, (0.1,), {}, True])
def test_a_rule_called_with_what_is_not_a_number_says_so(value):
    for call in (
        lambda: optim.sgd(value),
        lambda: optim.sgd(0.1, weight_decay=(value,)),
        lambda: optim.sngm(0.1, momentum=[value]),
        lambda: optim.adam(0.1, b1=[value]),
    ):
        with pytest.raises(UserError, match="is not a number"):
            call()


def test_what_the_papers_name_is_public():
    for name in (
        "legw", "onecycle_momentum", "multistage_coefficients", "multistage_boundaries",
        "exponential_coefficients", "mix_coefficients", "accelerated_momentum",
    ):  # fmt: skip
        assert (
            inspect.getdoc(getattr(optim, name, None) or getattr(schedules, name)).count("Args:")
            == 1
        )
