"""LARS, LAMB, PercentDelta and CLARS against NumPy loops, optax and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optim_loops import (
    LR,
    assert_close,
    buffer,
    gradient,
    norm,
    numpy_train,
    schedule,
    shifted,
    start,
    train,
)

from sbt import optim


def test_lars_follows_the_numpy_loop_in_the_papers_form(x64):
    beta, wd, trust = 0.9, 0.05, 0.02

    def step(t, w, memory):
        g, new = gradient(w), {}
        for k in w:
            if k == "kernel":
                rate = trust * norm(w[k]) / (norm(g[k]) + wd * norm(w[k]))
                d = rate * (g[k] + wd * w[k])
            else:
                d = trust * 0.5 * g[k]
            memory[k] = v = beta * buffer(memory, k, d) + LR[t] * d
            new[k] = w[k] - v
        return new

    rule = optim.lars(schedule, beta, wd, trust, 0.5)
    assert_close(train(rule, start()), numpy_train(step, start()), 1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_lars_in_optax_form_is_optax_lars(x64, nesterov):
    ours = optim.lars(
        0.5,
        0.8,
        0.1,
        0.01,
        100.0,
        nesterov=nesterov,
        form="optax",
        decay_mask="all",
        ratio_mask="all",
    )
    theirs = optax.lars(0.5, 0.1, True, 0.01, momentum=0.8, nesterov=nesterov)
    params = start() | {"zero": np.zeros(3)}
    assert_close(train(ours, params, grad_fn=shifted), train(theirs, params, grad_fn=shifted), 1e-9)


def test_zero_norms_of_lars():
    """What the printed formula gives where it is defined, and optax's 1000 times longer step."""
    zero, one = jnp.zeros((2, 2)), jnp.ones((2, 2))
    rule = optim.lars(1.0, None, 0.0, 0.001)
    updates, _ = rule.update(one, rule.init(zero), zero)
    np.testing.assert_allclose(updates, -0.001 * one, rtol=1e-6)
    theirs = optax.lars(1.0, trust_coefficient=0.001, momentum=0.0)
    updates, _ = theirs.update(one, theirs.init(zero), zero)
    np.testing.assert_allclose(updates, -one)
    with_decay = optim.lars(1.0, None, 0.05, 0.001)  # rate = eta / beta, times beta w
    updates, _ = with_decay.update(zero, with_decay.init(one), 3 * one)
    np.testing.assert_allclose(updates, -0.003 * one, rtol=1e-6)
    updates, _ = rule.update(zero, rule.init(one), one)
    np.testing.assert_array_equal(updates, zero)


def test_masks_of_lars_can_be_trees_or_callables(x64):
    params, g = start(), gradient(start())
    only_bias = {"kernel": False, "bias": True}
    for mask in (only_bias, lambda p: {k: k == "bias" for k in p}):
        rule = optim.lars(1.0, None, 0.5, 0.1, decay_mask=mask, ratio_mask=mask)
        updates, _ = rule.update(g, rule.init(params), params)
        np.testing.assert_allclose(updates["kernel"], -0.1 * g["kernel"], rtol=1e-12)
        w, b = params["bias"], g["bias"]
        rate = 0.1 * norm(w) / (norm(b) + 0.5 * norm(w))
        np.testing.assert_allclose(updates["bias"], -rate * (b + 0.5 * w), rtol=1e-12)


@pytest.mark.parametrize("phi", ["identity", "clamp"])
def test_lamb_follows_the_numpy_loop(x64, phi):
    b1, b2, eps, wd, low, high = 0.8, 0.95, 1e-6, 0.1, 0.5, 2.0

    def step(t, w, memory):
        g, new = gradient(w), {}
        for k in w:
            m, v = memory.get(k, (0.0, 0.0))
            m, v = b1 * m + (1 - b1) * g[k], b2 * v + (1 - b2) * g[k] ** 2
            memory[k] = m, v
            u = m / (1 - b1 ** (t + 1)) / (np.sqrt(v / (1 - b2 ** (t + 1))) + eps)
            if k == "kernel":
                u = u + wd * w[k]
                size = norm(w[k]) if phi == "identity" else min(max(norm(w[k]), low), high)
                u = u * size / norm(u)
            new[k] = w[k] - LR[t] * u
        return new

    rule = optim.lamb(schedule, b1, b2, eps, wd, phi=phi, phi_min=low, phi_max=high)
    assert_close(train(rule, start()), numpy_train(step, start()), 1e-9)


def test_lamb_without_masks_is_optax_lamb(x64):
    ours = optim.lamb(0.05, weight_decay=0.02, decay_mask="all", ratio_mask="all")
    params = start() | {"zero": np.zeros(3)}
    with jax.numpy_dtype_promotion("standard"):
        theirs = train(optax.lamb(0.05, weight_decay=0.02), params, grad_fn=shifted)
    assert_close(train(ours, params, grad_fn=shifted), theirs, 1e-9)


# ------------------------------------------------------------------------ PercentDelta, CLARS


def test_percent_delta_changes_every_layer_by_the_same_percentage(x64):
    gamma = 0.013
    rule = optim.percent_delta(gamma, weight_floor=0.0, decay_mask="all", ratio_mask="all")
    before = start()
    for after in train(rule, before):
        for k in after:
            assert np.mean(np.abs(after[k] / before[k] - 1)) == pytest.approx(gamma, rel=1e-6)
        before = after


def test_percent_delta_follows_the_numpy_loop(x64):
    wd, floor, beta = 0.1, 1e-2, 0.5

    def step(t, w, memory):
        g, new = gradient(w), {}
        for k in w:
            d = g[k] + (wd * w[k] if k == "kernel" else 0)
            if k == "kernel":
                d = d / np.mean(np.abs(d) / (np.abs(w[k]) + floor))
            memory[k] = v = beta * buffer(memory, k, d) + LR[t] * d
            new[k] = w[k] - v
        return new

    rule = optim.percent_delta(schedule, beta, wd, floor)
    assert_close(train(rule, start()), numpy_train(step, start()), 1e-11)


def test_a_weight_of_exactly_zero_does_not_stop_its_layer():
    w, g = jnp.array([[0.0, 2.0]]), jnp.array([[1.0, 1.0]])
    literal = optim.percent_delta(0.1, weight_floor=0.0)
    np.testing.assert_allclose(literal.update(g, literal.init(w), w)[0], [[-0.1, -0.1]])
    floored = optim.percent_delta(0.1, weight_floor=1.0)
    expected = -0.1 / np.mean([1, 1 / 3])
    np.testing.assert_allclose(floored.update(g, floored.init(w), w)[0], [[expected] * 2], 1e-6)


def test_radii_of_the_layer_wise_rules_are_means_of_the_parameters_radii(x64):
    """LARS: ratio of root mean squares; PercentDelta: harmonic mean; MCLR: ratio of medians."""
    rng = np.random.default_rng(3)
    w, g = rng.normal(size=(101, 100)), rng.normal(size=(101, 100)) / 50
    rate = {}
    for name, rule in {
        "lars": optim.lars(1.0, None, trust_coefficient=1.0),
        "percent_delta": optim.percent_delta(1.0, weight_floor=0.0),
        "mclr": optim.mclr(1.0),
    }.items():
        updates = np.asarray(rule.update(jnp.asarray(g), rule.init(w), jnp.asarray(w))[0])
        rate[name] = np.mean(-updates / g)
    assert rate["lars"] == pytest.approx(np.sqrt(np.mean(w**2) / np.mean(g**2)), rel=1e-9)
    assert rate["percent_delta"] == pytest.approx(1 / np.mean(1 / np.abs(w / g)), rel=1e-9)
    assert rate["mclr"] == pytest.approx(rate["lars"], rel=0.03)
    assert rate["percent_delta"] < 0.3 * rate["lars"]


def linear_loss(params, batch):
    x, y = batch
    return 0.5 * jnp.mean(jnp.sum((x @ params["kernel"] + params["bias"] - y) ** 2, -1))


def linear_batch(size=12):
    rng = np.random.default_rng(7)
    return rng.normal(size=(size, 3)), rng.normal(size=(size, 4))


def linear_example_gradients(w, batch):
    x, y = batch
    error = x @ w["kernel"] + w["bias"] - y
    return {"kernel": x[:, :, None] * error[:, None, :], "bias": error}


@pytest.mark.parametrize("group, chunk", [(1, None), (1, 5), (3, 2), (12, None)])
def test_mean_example_norms_against_a_loop(x64, group, chunk):
    batch, w = linear_batch(), start()
    each = linear_example_gradients(w, batch)
    ours = optim.mean_example_norms(linear_loss, w, batch, micro_batch=group, chunk=chunk)
    for k in w:
        rows = each[k].reshape(12 // group, group, -1).mean(1)
        expected = np.mean([norm(row) for row in rows])
        np.testing.assert_allclose(ours[k], expected, rtol=1e-12)
    with pytest.raises(ValueError, match="divide"):
        optim.mean_example_norms(linear_loss, w, batch, micro_batch=5)


def test_clars_follows_the_numpy_loop(x64):
    batch, beta, wd, trust = linear_batch(), 0.9, 0.03, 0.05

    def step(t, w, memory):
        each, new = linear_example_gradients(w, batch), {}
        for k in w:
            d = each[k].mean(0)
            if k == "kernel":
                mean_norm = np.mean([norm(e) for e in each[k]])
                rate = norm(w[k]) / (mean_norm + wd * norm(w[k]))
                d = rate * (d + wd * w[k])
            memory[k] = v = beta * buffer(memory, k, d) + LR[t] * trust * d
            new[k] = w[k] - v
        return new

    ours = train(
        optim.clars(schedule, beta, wd, trust),
        start(),
        grad_fn=lambda w: jax.grad(linear_loss)(w, batch),
        example_norms=lambda w: optim.mean_example_norms(linear_loss, w, batch),
    )
    assert_close(ours, numpy_train(step, start()), 1e-11)


def test_clars_of_one_example_is_lars_and_never_more_than_lars(x64):
    params, lars, clars = start(), optim.lars(1.0, None, 0.1), optim.clars(1.0, None, 0.1)
    for size, equal in ((1, True), (12, False)):
        batch = linear_batch(size)
        g = jax.grad(linear_loss)(params, batch)
        norms = optim.mean_example_norms(linear_loss, params, batch)
        ours, _ = clars.update(g, clars.init(params), params, example_norms=norms)
        theirs, _ = lars.update(g, lars.init(params), params)
        ratio = norm(ours["kernel"]) / norm(theirs["kernel"])
        assert ratio == pytest.approx(1, rel=1e-12) if equal else ratio < 0.9
    with pytest.raises(ValueError, match="example_norms"):
        clars.update(g, clars.init(params), params)
