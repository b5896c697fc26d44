"""Sweeps whose weights are rounded to bfloat16 after every update, against plain loops."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from lanes import CLASSES, dataset, trainer, unit
from sweeps import Watch, same, shorten_windows

import sbt
from sbt import optim
from sbt.data import purpose_key
from sbt.errors import UserError
from sbt.sweep.run import Interrupted, run

RATE, UPDATES = 2.0**-9, 30
RUNS = [{"batch_size": m, "base_lr": RATE, "seed": seed} for m, seed in ((4, 0), (8, 1), (2, 0))]
MODEL = {"name": "mlp", "hidden": (6,)}


def bits_below(params):
    """The bits of float32 weights that a bfloat16 has not."""
    leaves = jax.tree.leaves(params)
    return [np.asarray(x, np.float32).view(np.uint32) & 0xFFFF for x in leaves]


def by_hand(rounding, m, seed, dtype, updates=UPDATES):
    """Adam as optax has it; after every update the weights are rounded, in plain words."""
    data = dataset()
    images, labels = unit(data.train["x"], dtype), data.train["label"]
    module = reference.MLP(classes=CLASSES, hidden=(6,), dtype=dtype)
    weights = reference.start(module, np.uint32(seed), jnp.asarray(images[:1]))
    rule = optax.adam(m * RATE)

    @functools.partial(jax.jit, compiler_options=reference.QUICKLY)
    def update(grads, state, params, key):
        step, state = rule.update(grads, state, params)
        return kept(optax.apply_updates(params, step), key), state

    def kept(params, key):
        leaves, structure = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.fold_in(key, 0x5B7), len(leaves))
        held = []
        for x, own in zip(leaves, keys):
            if rounding == "stochastic":
                y = optim.round_stochastically(x, own)
            else:
                fraction, exponent = jnp.frexp(x)
                y = jnp.ldexp(jnp.round(fraction * 2**8) / 2**8, exponent)
            held.append(y.astype(x.dtype))
        return jax.tree.unflatten(structure, held)

    params = kept(weights.params, purpose_key(jax.random.key(seed), "init"))
    state, order = rule.init(params), reference.stream(seed, len(labels))
    rule_key = purpose_key(jax.random.key(seed), "rule")
    for t in range(updates):
        batch = np.asarray([next(order) for _ in range(m)], np.int32)[:, 1]
        now = reference.Weights(params, weights.stats)
        grads, _ = reference.gradient(module, now, images[batch], labels[batch])
        params, state = update(grads, state, params, jax.random.fold_in(rule_key, t))
    return params


@pytest.mark.parametrize(
    ("rounding", "strategy"),
    [("stochastic", "vmap/im2col"), ("nearest", "map/direct")],
)
def test_lanes_are_the_plain_loop(rounding, strategy, x64):
    """Of every batch size, with and without accumulation."""
    config = {"model": MODEL, "rule": {"name": "optax.adam"}, "rounding": {"name": rounding}}
    with jax.numpy_dtype_promotion("standard"):
        lanes = trainer(RUNS, {**config, "lr_scaling": "linear"}, 2, strategy)
        for i, run in enumerate(RUNS):
            state = lanes.engine.init(lanes.lanes)
            assert not np.any(np.concatenate([b.ravel() for b in bits_below(state.params)]))
            ticks = UPDATES * run["batch_size"] // 2
            found = lanes.lane(lanes.train(state, 0, ticks), i).params
            assert not np.any(np.concatenate([b.ravel() for b in bits_below(found)]))
            expected = by_hand(rounding, run["batch_size"], run["seed"], np.float64)
            assert reference.distance(found, expected) < 1e-9


def test_a_lane_is_the_loop_of_a_wrapped_rule():
    """Weights of dtype bfloat16, ``bfloat16_weights``, the engine's keys: the same draws.

    In float32 the last bit of a sum may decide one; with other keys half of them would differ.
    """
    module = reference.MLP(classes=CLASSES, hidden=(6,))
    data, m, seed = dataset(), 4, 0
    images, labels = unit(data.train["x"], np.float32), data.train["label"]
    run = {"batch_size": m, "base_lr": RATE, "seed": seed}
    config = {"model": MODEL, "rule": {"name": "optax.sgd"}, "rounding": {"name": "stochastic"}}
    updates = 10
    with jax.numpy_dtype_promotion("standard"):
        lanes = trainer([run], config, m, "map/direct")
        start = lanes.engine.init(lanes.lanes)
        found = lanes.lane(lanes.train(start, 0, updates), 0).params
        pieces = lanes.train(lanes.engine.init(lanes.lanes), 0, updates, window=3)
        jax.tree.map(np.testing.assert_array_equal, lanes.lane(pieces, 0).params, found)

        rule = optim.bfloat16_weights(optax.sgd(m * RATE))
        start = lanes.lane(lanes.engine.init(lanes.lanes), 0).params
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), start)
        state, order = rule.init(params), reference.stream(seed, len(labels))

        @jax.jit
        def update(grads, state, params, key):
            step, state = rule.update(grads, state, params, key=key)
            return optax.apply_updates(params, step), state

        for t in range(updates):
            batch = np.asarray([next(order) for _ in range(m)], np.int32)[:, 1]
            wide = jax.tree.map(lambda w: w.astype(jnp.float32), params)
            now = reference.Weights(wide, {})
            grads, _ = reference.gradient(module, now, images[batch], labels[batch])
            key = jax.random.fold_in(purpose_key(jax.random.key(seed), "rule"), t)
            params, state = update(grads, state, params, key)
    wide = jax.tree.map(lambda w: np.asarray(w, np.float32), params)
    other = jax.tree.map(lambda a, b, c: (np.mean(a != b), np.mean(b != c)), found, wide, start)
    shares = np.asarray(jax.tree.leaves(other)).reshape(-1, 2)
    assert (shares[:, 0] < 0.01).all() and (shares[:, 1] > 0.2).all()


CONFIG = {
    "data": {"name": "synthetic", "train_size": 64, "test_size": 16, "num_classes": 3,
             "image_shape": (3, 3, 1)},
    "model": {"name": "mlp", "hidden": (5,)},
    "epochs": 2,
    "batch_size": 4,
    "base_lr": 2.0**-12,
    "rule": {"name": "adam"},
}  # fmt: skip


def test_rounding_is_an_axis_and_the_rest_stays_to_the_bit(tmp_path):
    """Tiny updates are lost to the nearest, and to chance on average not."""
    axes = {"rounding": ("none", "nearest", "stochastic"), "seed": range(3)}
    kept = {"final_weights": True}
    told = sbt.run({**CONFIG, "base_lr": 1e-6, "sweep": axes, "checkpoint": kept}, tmp_path)
    plain = sbt.run({**CONFIG, "base_lr": 1e-6, "sweep": {"seed": range(3)}})
    for name in plain.data_vars:
        np.testing.assert_array_equal(told[name].sel(rounding="none"), plain[name])
    for name in ("nearest", "stochastic"):
        params = sbt.load_weights(tmp_path, rounding=name, seed=0).params
        assert not np.any(np.concatenate([b.ravel() for b in bits_below(params)]))
    assert np.any(bits_below(sbt.load_weights(tmp_path, rounding="none", seed=0).params)[0])
    moved = {n: told["test_loss"].sel(rounding=n).diff("epoch").values for n in axes["rounding"]}
    assert (moved["stochastic"] != 0).all()
    assert np.abs(moved["nearest"]).max() < 0.3 * np.abs(moved["none"]).min()


@pytest.mark.parametrize("name", ["stochastic", "nearest"])
def test_an_interrupted_sweep_is_the_same_to_the_bit(name, tmp_path, monkeypatch):
    """The draws of the rounding go on where they were, in the middle of an epoch as well."""
    kept = {"final_weights": True, "minutes": 1e6}
    axes = {"batch_size": (4, 8), "seed": range(2)}
    config = {**CONFIG, "rounding": {"name": name}, "sweep": axes, "checkpoint": kept}
    config |= {"parallel": {"data": 1}}
    whole = sbt.run(config, tmp_path / "whole")
    shorten_windows(monkeypatch, 3)
    for windows in (2, 5):
        with pytest.raises(Interrupted):
            run(config, tmp_path / "parts", progress=Watch(windows))
    same(sbt.run(config, tmp_path / "parts"), whole)
    for m in axes["batch_size"]:
        point = {"batch_size": m, "seed": 1}
        found, other = (sbt.load_weights(tmp_path / d, **point).params for d in ("whole", "parts"))
        jax.tree.map(np.testing.assert_array_equal, found, other)


class Half(nn.Module):
    """Its weights are bfloat16 already."""

    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1).astype(jnp.bfloat16)
        return nn.Dense(3, param_dtype=jnp.bfloat16)(x).astype(jnp.float32)


def test_what_is_refused():
    rounding = {"name": "stochastic"}
    with pytest.raises(UserError, match="is bfloat16"):
        sbt.run({**CONFIG, "rounding": rounding}, module=Half())
    with pytest.raises(UserError, match="nearest"):
        sbt.run({**CONFIG, "rounding": {"name": "neerest"}})
    local = {"data": 2, "local_steps": 2}
    with pytest.raises(UserError, match="local_steps"):
        sbt.run({**CONFIG, "rounding": rounding, "parallel": local})
