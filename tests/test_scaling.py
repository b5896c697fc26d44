"""Learning rate, decays and weight decay as functions of the batch size."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sbt
from sbt.errors import UserError
from sbt.optim import RULES
from sbt.optim.base import ignores_scale
from sbt.schedules import (
    LAWS,
    POWERS,
    decay_of_half_life,
    half_life_of_decay,
    rescaled_decay,
    scaled_learning_rate,
    sde_decay,
)
from sbt.schedules.scaling import Scaled, Size
from sbt.sweep.prepare import prepare
from sbt.sweep.problem import Parts

# Marek et al. 2025: tokens of a half-life, tokens of a sequence, batch size, and the decay.
HALF_LIVES = [
    (1e7, 512, 1, 0.99996451149),
    (1e7, 512, 1024, 0.96431152786),
    (1e7, 512, 4096, 0.86470791499),
]
DECAYS = [(0.95, 512, 1024, 7_084_917.3), (0.9999, 1, 1024, 7_097_472.2)]


@pytest.mark.parametrize("half_life, length, m, decay", HALF_LIVES)
def test_decays_of_a_half_life(x64, half_life, length, m, decay):
    assert decay_of_half_life(half_life, m * length) == pytest.approx(decay, rel=1e-11)


@pytest.mark.parametrize("decay, m, length, half_life", [*DECAYS, (0.997, 1, 1024, 236_239.17)])
def test_half_lives_of_a_decay(x64, decay, m, length, half_life):
    assert half_life_of_decay(decay, m * length) == pytest.approx(half_life, rel=1e-8)


def test_two_rules_for_a_decay_agree_to_first_order(x64):
    assert rescaled_decay(0.95, 1 / 512) == pytest.approx(0.9998998228, rel=1e-10)
    assert sde_decay(0.95, 1 / 512) == pytest.approx(0.99990234375, rel=1e-14)
    assert rescaled_decay(0.95, 1 / 16) == pytest.approx(0.9967993023, rel=1e-10)
    assert sde_decay(0.95, 1 / 16) == pytest.approx(0.996875, rel=1e-14)
    for off in (1e-2, 1e-3):
        gap = abs(rescaled_decay(1 - off, 0.5) - sde_decay(1 - off, 0.5))
        assert gap < off**2 / 4


def law(name, rule, m, tokens=0, budget=1000.0, rate=0.1, **fields):
    made = LAWS.configured({"name": name, **fields})
    numbers = {k: v for k, v in fields.items() if v is not None}
    return made(Scaled(rate, rule), Size(m, tokens, budget), "none", **numbers)


def test_the_weight_decay_of_a_timescale():
    """tau = m / (eta lambda D) of GPT-2 at batch size 512: Bergsma et al. 2025."""
    rule = law("fixed", {"weight_decay": 0.0}, 512.0, budget=2_412_735.0, rate=0.0048,
               timescale=0.44).rule  # fmt: skip
    assert 512 / (0.0048 * rule["weight_decay"] * 2_412_735) == pytest.approx(0.44)


def test_the_exponent_of_the_rate():
    for power in (0.0, 0.3, 0.5, 1.0):
        found = law("fixed", {}, 16.0, power=power)
        assert found.learning_rate == pytest.approx(0.1 * 16**power)
    for name, power in POWERS.items():
        named, number = (scaled_learning_rate(0.1, 16.0, each) for each in (name, power))
        assert named == pytest.approx(number)


def test_laws_leave_what_they_do_not_know():
    rule = {"b1": 0.9, "b2": 0.95, "eps": 1e-8, "gain": 2.0}
    assert law("fixed", rule, 4.0).rule == rule
    found = law("half_life", rule, 4.0, tokens=8, b2_tokens=64.0).rule
    assert found == {**rule, "b2": 2**-0.5}
    grown = law("half_life", rule, 4.0, b2_examples=8.0, b2_growth=1.0).rule
    assert grown == {**rule, "b2": 2**-0.125}  # whatever m
    assert law(
        "half_life", {"beta": 0.9, "decay": 0.9}, 4.0, b1_examples=4.0, b2_examples=2.0
    ).rule == {"beta": 0.5, "decay": 0.25}  # of Muon, of RMSprop
    found = law("rescaled", rule, 4.0, reference=8.0).rule
    assert found == pytest.approx({**rule, "b1": 0.9**0.5, "b2": 0.95**0.5})
    found = law("sde", rule, 4.0, reference=16.0).rule
    assert found == pytest.approx({"b1": 0.975, "b2": 0.9875, "eps": 2e-8, "gain": 2.0})


@pytest.mark.parametrize(
    "name, ignores",
    [
        ("sgd", False),
        ("adam", True),
        ("sngm", True),
        ("optax.lion", True),
        ("optax.sgd", False),
        ("optax.contrib.muon", True),
        ("optax.adafactor", True),
        ("optax.rmsprop", True),
    ],
)
def test_rules_that_do_not_see_the_gradients_scale(name, ignores):
    assert ignores_scale(RULES.configured({"name": name})) == ignores


def test_a_linear_rate_of_such_a_rule_is_remarked_on():
    config = {**BASE, "rule": {"name": "adam"}, "sweep": {"batch_size": (4, 8)}}
    (remark,) = prepare({**config, "lr_scaling": "linear"}, Parts()).remarks
    assert "adam" in remark and "'sqrt'" in remark
    assert prepare(config, Parts()).remarks == ()
    assert (
        prepare({**config, "lr_scaling": "linear", "rule": {"name": "sgd"}}, Parts()).remarks == ()
    )
    for name, told in (("optax.adamw", 1), ("optax.sgd", 0)):
        theirs = {**config, "lr_scaling": "linear", "rule": {"name": name}}
        with jax.numpy_dtype_promotion("standard"):  # as users have it
            assert len(prepare(theirs, Parts()).remarks) == told


# --- in lanes ------------------------------------------------------------------------------------

DATA = {"name": "synthetic", "train_size": 64, "test_size": 16, "num_classes": 3,
        "image_shape": (3, 3, 1)}  # fmt: skip
BASE = {
    "data": DATA,
    "model": {"name": "mlp", "hidden": (5,)},
    "epochs": 2,
    "lr_scaling": "none",
    "base_lr": 0.01,
}


@pytest.fixture
def standard_promotion():
    """As users have it, and optax needs it."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize("rule", ["adam", "optax.adamw"])
def test_a_lane_has_the_decay_of_its_batch_size(x64, standard_promotion, rule):
    """One program for all batch sizes and half-lives is as many sweeps with a decay each."""
    lives = (20.0, 200.0)
    scaling = {"name": "half_life", "b1_examples": 12.0}
    together = sbt.run(
        {**BASE, "rule": {"name": rule}, "scaling": scaling,
         "sweep": {"batch_size": (2, 8), "scaling__b2_examples": lives}}
    )  # fmt: skip
    for m in (2, 8):
        for life in lives:
            decays = {"b1": 2 ** (-m / 12), "b2": 2 ** (-m / life)}
            alone = sbt.run({**BASE, "batch_size": m, "rule": {"name": rule, **decays}})
            cell = together.sel(batch_size=m, scaling__b2_examples=life)
            np.testing.assert_allclose(cell["train_loss"], alone["train_loss"], rtol=1e-6)
    spread = together["train_loss"].isel(epoch=-1).std("scaling__b2_examples")
    assert (spread > 1e-4).all()


def test_an_exponent_is_an_axis(x64):
    config = {**BASE, "lr_scaling": "linear", "base_lr": 2.0**-8}
    powers = sbt.run({**config, "sweep": {"batch_size": (4, 16), "scaling__power": (0.0, 0.5)}})
    for power, name in ((0.0, "none"), (0.5, "sqrt")):
        plain = sbt.run({**config, "lr_scaling": name, "sweep": {"batch_size": (4, 16)}})
        found = powers["train_loss"].sel(scaling__power=power)
        np.testing.assert_allclose(found, plain["train_loss"], rtol=1e-6)


def test_adafactor_as_optax_has_it(x64):
    """Marek et al. hand what they call beta2 to ``decay_rate``: an exponent, 1 - (t+1)^-value."""
    rule = optax.scale_by_factored_rms(decay_rate=0.9999, min_dim_size_to_factor=128)
    params, found = jnp.zeros(1), {}
    state = rule.init(params)
    for step in range(10):
        before = state.v[0]
        grad = jnp.asarray([2.0 if step % 2 else 1.0])
        with jax.numpy_dtype_promotion("standard"):
            _, state = rule.update(grad, state, params)
        square = float(grad[0]) ** 2
        found[step] = float((state.v[0] - square) / (before - square)) if step else 0.0
    assert found[9] == pytest.approx(1 - 10**-0.9999, rel=1e-6)
    assert found[9] == pytest.approx(0.89998, abs=1e-5)
    assert pytest.approx(0.998999, abs=1e-6) == 1 - 1000**-0.9999


@pytest.mark.parametrize(
    "config, message",
    [
        ({"scaling": {"name": "half_life", "b2_examples": 10.0}}, "no number 'b2'"),
        ({"rule": {"name": "adam"}, "scaling": {"name": "half_life", "b2_tokens": 10.0}},
         "counts no tokens"),
        ({"scaling": {"timescale": 0.1}, "rule": {"name": "optax.sgd"}}, "weight decay"),
        ({"scaling": {"power": 0.5}}, "lr_scaling"),
        ({"scaling": {"name": "half_life", "b2_growth": 0.5}, "rule": {"name": "adam"}},
         "half-life, which nothing says"),
        ({"scaling": {"name": "half_life", "momentum_examples": 9.0},
          "momentum_schedule": {"name": "onecycle"}}, "onecycle"),
        ({"scaling": {"name": "rescaled"}, "noise": {"name": "lr-batch"}}, "lr-batch"),
        ({"scaling": {"name": "sde", "reference": 4.0}, "rule": {"name": "adam", "b1": 0.9},
          "batch_size": 16, "batch_schedule": {"name": "smith"}}, "at m = 2000"),
        ({"scaling": {"name": "sde", "reference": 1.0}, "rule": {"name": "adam"}}, "negative"),
        ({"scaling": {"name": "halflife"}}, "half_life"),
        ({"scaling": {"name": "half_life", "b2_examples": -1.0}}, "b2_examples"),
    ],
)  # fmt: skip
def test_laws_that_do_not_fit(config, message):
    with pytest.raises(UserError, match=message):
        prepare({**BASE, "batch_size": 16, **config}, Parts())
