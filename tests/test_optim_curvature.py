"""CBLR, MCLR and the Hessian diagonal against NumPy loops, closed forms and jax.hessian."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sbt import optim
from sbt.optim.curvature import median

STEPS = 25


def test_cblr_is_one_newton_step_on_a_separable_quadratic(x64):
    """Positive and negative curvature: with gamma = 1 it lands on, or moves away as far."""
    h = jnp.array([1e-3, 5.0, 200.0, -3.0])
    w = 1e-7 * jnp.array([1.0, -2.0, 0.5, 4.0])
    rule = optim.cblr(1.0, curvature_floor=0.0)
    updates, _ = rule.update(h * w, rule.init(w), w, hessian_diagonal=h)
    np.testing.assert_allclose(w + updates, [0, 0, 0, 8e-7], atol=1e-15)


@pytest.mark.parametrize("ema, wd, momentum", [(0.0, 0.0, None), (0.6, 0.2, 0.5)])
def test_cblr_follows_the_numpy_loop(x64, ema, wd, momentum):
    """On sum of 1 - cos w, whose curvature cos w changes sign; the bias is not decayed."""
    rng = np.random.default_rng(0)
    start = {"kernel": rng.normal(size=(3, 2)), "bias": rng.normal(size=4)}
    rates, floor = np.linspace(0.05, 0.01, STEPS), 0.3
    rule = optim.cblr(
        lambda count: jnp.asarray(rates)[count],
        momentum,
        ema,
        floor,
        weight_decay=wd,
        decay_mask="kernels",
    )
    ours, w, mean, v = jax.tree.map(jnp.asarray, start), dict(start), {}, {}
    state = rule.init(ours)
    step = jax.jit(rule.update)
    for t in range(STEPS):
        h = jax.tree.map(jnp.cos, ours)
        updates, state = step(jax.tree.map(jnp.sin, ours), state, ours, hessian_diagonal=h)
        ours = optax.apply_updates(ours, updates)
        for k, old in w.items():
            decay = wd if k == "kernel" else 0.0
            g, h = np.sin(old) + decay * old, np.cos(old) + decay
            mean[k] = ema * mean.get(k, 0.0) + (1 - ema) * np.abs(h)
            size = np.maximum(mean[k] / (1 - ema ** (t + 1)), floor)
            d = rates[t] * (1 + g**2) ** 1.5 / size * g
            v[k] = (momentum or 0.0) * v.get(k, 0.0) + d
            w[k] = old - v[k]
            np.testing.assert_allclose(ours[k], w[k], rtol=1e-10)


def test_cblr_floor_and_fallback():
    g, h, w = jnp.array([0.1, 0.1, 0.1]), jnp.array([0.0, 1e-9, -2.0]), jnp.ones(3)
    arc = 1.01**1.5
    for floor, expected in ((0.5, [2, 2, 0.5]), (0.0, [0.7 / arc, 1e9, 0.5])):
        rule = optim.cblr(1.0, curvature_floor=floor, fallback_radius=0.7)
        updates, _ = rule.update(g, rule.init(w), w, hessian_diagonal=h)
        np.testing.assert_allclose(updates, -0.1 * arc * np.array(expected), rtol=1e-5)
    with pytest.raises(ValueError, match="hessian_diagonal"):
        rule.update(g, rule.init(w), w)


def net_loss(params, batch):
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["in"] + params["bias"]) @ params["out"] - y) ** 2)


def net():
    rng = np.random.default_rng(2)
    shapes = {"in": (3, 4), "bias": (4,), "out": (4, 2)}
    params = {k: jnp.asarray(rng.normal(size=s)) for k, s in shapes.items()}
    return params, (jnp.asarray(rng.normal(size=(8, 3))), jnp.asarray(rng.normal(size=(8, 2))))


def full_hessian(params, batch):
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    return np.asarray(jax.hessian(lambda w: net_loss(unravel(w), batch))(flat)), unravel


@pytest.mark.parametrize("chunk", [None, 7])
def test_exact_diagonal_is_that_of_the_full_hessian(x64, chunk):
    params, batch = net()
    hessian, unravel = full_hessian(params, batch)
    ours = optim.exact_hessian_diagonal(net_loss, params, batch, chunk=chunk)
    expected = unravel(np.diag(hessian))
    for k in params:
        np.testing.assert_allclose(ours[k], expected[k], rtol=1e-10, atol=1e-12)


def test_hutchinson_has_the_mean_and_the_variance_that_it_states(x64):
    params, batch = net()
    hessian, _ = full_hessian(params, batch)
    draws = 4000
    gradient = jax.grad(lambda params: net_loss(params, batch))

    def signs(key, params):
        return optax.tree.random_like(key, params, jax.random.rademacher)

    @jax.jit
    @jax.vmap
    def pair(key):
        samples = [
            optim.hutchinson_diagonal(gradient, params, signs(k, params))
            for k in jax.random.split(key)
        ]
        return jax.tree.map(lambda a, b: (a + b) / 2, *samples)

    estimate = pair(jax.random.split(jax.random.key(0), draws))
    leaves = [np.asarray(leaf).reshape(draws, -1) for leaf in jax.tree.leaves(estimate)]
    flat = np.concatenate(leaves, axis=1)
    variance = (np.sum(hessian**2, 1) - np.diag(hessian) ** 2) / 2
    error = np.abs(flat.mean(0) - np.diag(hessian)) / np.sqrt(variance / draws)
    assert error.max() < 4.5
    np.testing.assert_allclose(flat.var(0), variance, rtol=0.2)


def numpy_median(x, kind):
    ordered = np.sort(np.ravel(x))
    return ordered[(len(ordered) - 1) // 2] if kind == "lower" else np.median(ordered)


@pytest.mark.parametrize("kind", ["midpoint", "lower"])
@pytest.mark.parametrize("count", [1, 2, 7, 10])
def test_median(kind, count):
    x = np.random.default_rng(count).normal(size=count).astype(np.float32)
    assert float(median(jnp.asarray(x), kind)) == pytest.approx(numpy_median(x, kind), rel=1e-6)
    assert np.isnan(median(jnp.asarray(x).at[0].set(jnp.nan), kind))


@pytest.mark.parametrize("kind", ["midpoint", "lower"])
@pytest.mark.parametrize("form", ["sum", "inside"])
@pytest.mark.parametrize("reading", ["magnitudes", "ratio", "signed"])
def test_mclr_follows_the_numpy_loop(x64, reading, form, kind):
    rng = np.random.default_rng(4)
    w = rng.normal(size=(3, 4)) + 0.5
    target, wd, beta = rng.normal(size=(3, 4)) - 2.0, 0.1, 0.4
    rule = optim.mclr(
        0.002, beta, wd, reading=reading, decay_form=form, median_kind=kind, decay_mask="all"
    )
    ours, v = jnp.asarray(w), np.zeros_like(w)
    state, step = rule.init(ours), jax.jit(rule.update)
    for _ in range(STEPS):
        updates, state = step(ours - target, state, ours)
        ours = ours + updates
        g = w - target
        d = g + wd * w
        if reading == "ratio":
            radius = numpy_median(np.abs(w / d), kind)
        else:
            size = np.abs if reading == "magnitudes" else np.asarray
            above = numpy_median(size(w), kind)
            below = (
                numpy_median(size(d), kind)
                if form == "inside"
                else numpy_median(size(g), kind) + wd * above
            )
            radius = np.abs(above / below)
        v = beta * v + 0.002 * radius * d
        w = w - v
        np.testing.assert_allclose(ours, w, rtol=1e-9)


@pytest.mark.parametrize("reading", ["magnitudes", "ratio", "signed"])
def test_mclr_falls_back_where_the_radius_is_zero_or_infinite(reading):
    rule = optim.mclr(0.1, fallback_ratio=2.0, reading=reading)
    dead = jnp.array([[0.0, 0.0, 0.0, 1.0]])
    for w, g in ((jnp.ones((1, 4)), dead), (jnp.zeros((1, 4)), jnp.ones((1, 4)))):
        updates, _ = rule.update(g, rule.init(w), w)
        np.testing.assert_allclose(updates, -0.2 * g, rtol=1e-6)
    w, g = jnp.ones((1, 4)), jnp.array([[0.5, 0.5, 0.5, 0.0]])
    updates, _ = rule.update(g, rule.init(w), w)
    np.testing.assert_allclose(updates, -0.1 * 2 * g, rtol=1e-6)


def test_why_medians_of_magnitudes(x64):
    """On a symmetric Gaussian layer of true scale 50 the signed reading is far off, ours is not."""
    rng = np.random.default_rng(0)
    radii = {}
    for reading in ("magnitudes", "ratio", "signed"):
        rule = optim.mclr(1.0, reading=reading)
        found = []
        for _ in range(9):
            w, g = jnp.asarray(rng.normal(size=(2, 50, 80)))
            g = g / 50
            updates, _ = rule.update(g, rule.init(w), w)
            found.append(float(jnp.mean(-updates / g)))
        radii[reading] = np.array(found)
    np.testing.assert_allclose(radii["magnitudes"], 50, rtol=0.1)
    np.testing.assert_allclose(radii["ratio"], 50, rtol=0.1)
    assert radii["signed"].max() / radii["signed"].min() > 5
