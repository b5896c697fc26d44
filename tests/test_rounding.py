"""Weights in bfloat16: rounding without bias, any rule, alone and in lanes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sbt import optim
from sbt.errors import UserError

QUARTER = 1 + 2.0**-9  # a quarter of the way from 1 to the next bfloat16, 1 + 2^-7


@pytest.mark.parametrize("x", [QUARTER, -QUARTER, 3.0e-5, 1e-40, 1234.567])
def test_the_mean_is_the_number_and_only_its_neighbours_are_drawn(x):
    n = 100_000
    drawn = optim.round_stochastically(jnp.full(n, x, jnp.float32), jax.random.key(1))
    drawn = np.asarray(drawn.astype(jnp.float32), np.float64)
    values = np.unique(drawn)
    exact = float(np.float32(x))
    low = float((np.float32(x).view(np.uint32) & 0xFFFF0000).view(np.float32))
    high = float(((np.float32(x).view(np.uint32) & 0xFFFF0000) + 0x10000).view(np.float32))
    assert sorted(values) == sorted([low, high])
    chance = (exact - low) / (high - low)
    error = abs(high - low) * np.sqrt(chance * (1 - chance) / n)
    assert abs(drawn.mean() - exact) < 4 * error


def test_the_published_example():
    drawn = optim.round_stochastically(jnp.full(100_000, QUARTER), jax.random.key(0))
    assert set(np.asarray(drawn, np.float64)) == {1.0, 1.0078125}
    assert np.asarray(drawn, np.float64).mean() == pytest.approx(1.001953, abs=3e-5)


def test_what_bfloat16_holds_stays():
    held = jnp.array([0.0, -0.0, 1.0, -1.5, 2.0**-126, jnp.inf, -jnp.inf, 3.3895314e38])
    for seed in range(20):
        drawn = optim.round_stochastically(held, jax.random.key(seed)).astype(jnp.float32)
        np.testing.assert_array_equal(drawn, held)
        assert jnp.isnan(optim.round_stochastically(jnp.array([jnp.nan]), jax.random.key(seed)))


def test_small_updates_arrive_by_chance_and_never_by_the_nearest():
    """From 1, 256 updates of 2^-10, an eighth of the distance to the next number."""
    w = jnp.ones(2000, jnp.bfloat16)

    def trained(rounding):
        rule = optim.bfloat16_weights(optax.sgd(1.0), rounding)
        grads = jnp.full(w.shape, -(2.0**-10))

        def update(t, carried):
            after, state = carried
            key = jax.random.fold_in(jax.random.key(0), t)
            step, state = rule.update(grads, state, after, key=key)
            return optax.apply_updates(after, step), state

        after, _ = jax.lax.fori_loop(0, 256, update, (w, rule.init(w)))
        return np.asarray(after, np.float64)

    with jax.numpy_dtype_promotion("standard"):
        assert (trained("nearest") == 1).all()
        moved = trained("stochastic")
    assert moved.mean() == pytest.approx(1.25, abs=4 * moved.std() / np.sqrt(len(moved)))
    assert moved.std() > 0


RULES = {
    "adamw": lambda: optax.adamw(0.01),
    "adafactor": lambda: optax.adafactor(0.01),
    "muon": lambda: optax.contrib.muon(0.01),
    "sgd": lambda: optim.sgd(0.01, 0.9),
}


@pytest.mark.parametrize(
    "name", ["adamw", "adafactor", "sgd", pytest.param("muon", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("rounding", ["stochastic", "nearest"])
def test_lanes_are_the_plain_loop_bit_by_bit(name, rounding):
    """Against the arithmetic written out: float32 weights from bfloat16, a step, a rounding."""
    inner = RULES[name]()
    rule = optim.bfloat16_weights(inner, rounding)
    keys = jax.random.split(jax.random.key(3), 3)
    start = jax.random.normal(jax.random.key(4), (3, 8, 6)).astype(jnp.bfloat16)

    def gradient(w, t):
        return jnp.sin(w.astype(jnp.float32) * 3 + t)

    def lane(w, key):
        params = {"kernel": w}
        state = rule.init(params)
        for t in range(3):
            grads = jax.tree.map(lambda x, t=t: gradient(x, t), params)
            step, state = rule.update(grads, state, params, key=jax.random.fold_in(key, t))
            params = optax.apply_updates(params, step)
        return params["kernel"]

    with jax.numpy_dtype_promotion("standard"):
        lanes = jax.vmap(lane)(start, keys)
        alone = lane(start[1], keys[1])
        assert lanes.dtype == jnp.bfloat16
        np.testing.assert_array_equal(lanes[1].astype(jnp.float32), alone.astype(jnp.float32))
        if rounding == "nearest":
            params = {"kernel": start[1].astype(jnp.float32)}
            state = inner.init(params)
            for t in range(3):
                grads = {"kernel": gradient(params["kernel"], t)}
                step, state = inner.update(grads, state, params)
                params = optax.apply_updates(params, step)
                params = {"kernel": params["kernel"].astype(jnp.bfloat16).astype(jnp.float32)}
            np.testing.assert_array_equal(alone.astype(jnp.float32), params["kernel"])


def test_other_leaves_and_the_state_are_the_rules_own():
    params = {"a": jnp.ones(3, jnp.bfloat16), "b": jnp.ones(3)}
    rule = optim.bfloat16_weights(optax.adam(0.1), "nearest")
    state = rule.init(params)
    assert {x.dtype for x in jax.tree.leaves(state[0].mu)} == {jnp.dtype("float32")}
    with jax.numpy_dtype_promotion("standard"):
        step, _ = rule.update({"a": jnp.ones(3), "b": jnp.ones(3)}, state, params)
        plain, wide = optax.adam(0.1), {"a": jnp.ones(3), "b": jnp.ones(3)}
        expected, _ = plain.update(wide, plain.init(wide), wide)
    np.testing.assert_array_equal(step["b"], expected["b"])


def test_what_is_refused():
    with pytest.raises(UserError, match="rounding"):
        optim.bfloat16_weights(optax.sgd(0.1), "up")
    rule = optim.bfloat16_weights(optax.sgd(0.1))
    w = jnp.ones(2, jnp.bfloat16)
    with pytest.raises(ValueError, match="needs a key"):
        rule.update(w, rule.init(w), w)
