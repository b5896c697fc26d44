"""SGD, SNGM and EXTRAP-SGD against NumPy loops and closed forms; what all rules share."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optim_loops import (
    LR,
    STEPS,
    assert_close,
    buffer,
    gradient,
    norm,
    numpy_train,
    schedule,
    start,
    train,
)

from sbt import optim
from sbt.errors import UserError
from sbt.optim import base
from sbt.schedules import scaled_learning_rate


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("mask", [None, "all", "kernels"])
def test_sgd_follows_the_numpy_loop(x64, nesterov, mask):
    beta, wd = 0.8, 0.03

    def step(t, w, memory):
        g = gradient(w)
        new = {}
        for k in w:
            d = g[k] + (wd * w[k] if mask != "kernels" or w[k].ndim > 1 else 0)
            memory[k] = u = beta * buffer(memory, k, d) + d
            new[k] = w[k] - LR[t] * (d + beta * u if nesterov else u)
        return new

    rule = optim.sgd(schedule, beta, nesterov, wd, mask)
    assert_close(train(rule, start()), numpy_train(step, start()), 1e-12)


def test_sgd_without_buffer_is_sgd_with_momentum_zero(x64):
    plain = optim.sgd(0.1, momentum=None, weight_decay=None)
    assert not jax.tree.leaves(plain.init(start()))
    assert_close(train(plain, start()), train(optim.sgd(0.1), start()), 0)


def test_sum_form_has_one_learning_rate_for_all_batch_sizes(x64):
    rng = np.random.default_rng(1)
    x, y, base_lr, wd = rng.normal(size=(60, 3)), rng.normal(size=60), 2e-3, 0.1
    for m in (4, 20):
        w = np.zeros(3)
        rule = optim.sgd(scaled_learning_rate(base_lr, m), momentum=None, weight_decay=wd)
        ours = jnp.zeros(3)
        state = rule.init(ours)
        for i in range(0, 60, m):
            xb, yb = x[i : i + m], y[i : i + m]
            w = w - base_lr * (sum((a @ w - b) * a for a, b in zip(xb, yb)) + m * wd * w)
            mean_gradient = jax.grad(lambda w, x, y: 0.5 * jnp.mean((x @ w - y) ** 2))
            updates, state = rule.update(mean_gradient(ours, xb, yb), state, ours)
            ours = optax.apply_updates(ours, updates)
        np.testing.assert_allclose(ours, w, rtol=1e-12)


def test_scaling_rules_and_conversions():
    assert scaled_learning_rate(2**-10, 512) == 0.5
    assert scaled_learning_rate(0.5, 1, reference_batch=512) == 2**-10
    assert scaled_learning_rate(0.1, 8192, reference_batch=256) == pytest.approx(3.2)
    assert float(scaled_learning_rate(0.1, 8192, "sqrt", 128)) == pytest.approx(0.8)
    assert scaled_learning_rate(0.1, 8192, "none") == 0.1
    sizes = jnp.array([64, 256])
    np.testing.assert_allclose(
        scaled_learning_rate(0.1, sizes, "linear", 256), [0.025, 0.1], rtol=1e-6
    )
    np.testing.assert_allclose(
        scaled_learning_rate(jnp.float32(0.1), sizes, "sqrt", 256), [0.05, 0.1], 1e-6
    )
    with pytest.raises(UserError, match="cubic"):
        scaled_learning_rate(0.1, 2, "cubic")


# --------------------------------------------------------------------------------------- SNGM


@pytest.mark.parametrize("kind", ["global", "layer"])
@pytest.mark.parametrize("decay", ["coupled", "decoupled"])
def test_sngm_follows_the_numpy_loop(x64, kind, decay):
    beta, wd = 0.7, 0.05

    def step(t, w, memory):
        g = gradient(w)
        if decay == "coupled":
            g = {k: g[k] + wd * w[k] for k in w}
        whole = np.sqrt(sum(norm(g[k]) ** 2 for k in w))
        new = {}
        for k in w:
            memory[k] = u = beta * buffer(memory, k, g[k]) + g[k] / (
                whole if kind == "global" else norm(g[k])
            )
            new[k] = w[k] - LR[t] * (u + (wd * w[k] if decay == "decoupled" else 0))
        return new

    rule = optim.sngm(schedule, beta, wd, decay=decay, norm=kind)
    assert_close(train(rule, start()), numpy_train(step, start()), 1e-11)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 7.0, 1e30])
@pytest.mark.parametrize("kind", ["global", "layer"])
def test_sngm_does_not_see_the_scale_of_the_loss(scale, kind):
    rule = optim.sngm(0.1, norm=kind)
    params = jax.tree.map(np.float32, start())

    def scaled(p):
        return jax.tree.map(lambda g: g * scale, gradient(p))

    assert_close(train(rule, params, grad_fn=scaled), train(rule, params), 1e-5)


def test_sngm_buffer_and_steps_are_bounded(x64):
    beta, eta = 0.9, 0.3
    rule = optim.sngm(eta, beta)
    rng = np.random.default_rng(0)
    w = jnp.asarray(rng.normal(size=7))
    state = rule.init(w)
    for t in range(1, 60):
        g = jnp.asarray(rng.normal(size=7) * 10.0 ** rng.integers(-9, 9))
        updates, state = rule.update(g, state, w)
        u = next(s for s in state if isinstance(s, optax.TraceState)).trace
        assert norm(u) <= (1 - beta**t) / (1 - beta) * (1 + 1e-12)
        assert norm(updates) <= eta / (1 - beta)
    assert norm(updates) > 0


def test_sngm_meets_its_bound_on_the_average_gradient(x64):
    """(1 - beta) dF / (eta T) + L kappa eta / 2 + 2 sigma / sqrt(B) on sum of 1 - cos w, L = 1."""
    d, T = 10, 400
    for beta, eta, batch, sigma in ((0.9, 0.01, 16, 1.0), (0.0, 0.1, 64, 1.0), (0.5, 0.05, 4, 0.3)):
        rule = optim.sngm(eta, beta)
        rng = np.random.default_rng(5)
        w = jnp.asarray(rng.uniform(-2, 2, size=d))
        noise = rng.normal(size=(T, d)) * sigma / np.sqrt(d * batch)
        gap = float(jnp.sum(1 - jnp.cos(w)))

        def step(carry, e, rule=rule):
            w, state = carry
            updates, state = rule.update(jnp.sin(w) + e, state, w)
            return (w + updates, state), jnp.linalg.norm(jnp.sin(w))

        _, norms = jax.lax.scan(step, (w, rule.init(w)), jnp.asarray(noise))
        kappa = (1 + beta) / (1 - beta) ** 2
        bound = (1 - beta) * gap / (eta * T) + kappa * eta / 2 + 2 * sigma / np.sqrt(batch)
        assert 0 < float(norms.mean()) < bound


def test_a_zero_gradient_gives_a_zero_update_that_lets_the_buffer_decay():
    rule = optim.sngm(1.0, 0.5)
    state = rule.init(jnp.ones(3))
    updates, state = rule.update(jnp.zeros(3), state, jnp.ones(3))
    np.testing.assert_array_equal(updates, np.zeros(3))
    updates, state = rule.update(jnp.array([0.0, 3.0, 4.0]), state, jnp.ones(3))
    updates, state = rule.update(jnp.zeros(3), state, jnp.ones(3))
    np.testing.assert_allclose(updates, [0, -0.3, -0.4], rtol=1e-6)


def test_static_choices_are_refused_by_name():
    for call in (
        lambda: optim.sngm(0.1, decay="outside"),
        lambda: optim.sngm(0.1, norm="l1"),
        lambda: optim.lars(0.1, form="apex"),
        lambda: optim.lamb(0.1, phi="sqrt"),
        lambda: optim.lamb(0.1, phi="clamp", phi_min=2.0, phi_max=1.0),
        lambda: optim.mclr(0.1, reading="mean"),
        lambda: optim.sgd(0.1, decay_mask="weights"),
    ):
        with pytest.raises(UserError):
            call()


# --------------------------------------------------------------------------------- EXTRAP-SGD


@pytest.mark.parametrize("nesterov", [True, False])
def test_extrap_sgd_follows_the_numpy_loop(x64, nesterov):
    beta, wd, ratio = 0.6, 0.02, 0.7

    def step(t, w, memory):
        last = memory.get("g", {k: 0 * v for k, v in w.items()})
        half = {k: w[k] - ratio * LR[t] * last[k] for k in w}
        memory["g"] = g = {k: v + wd * half[k] for k, v in gradient(half).items()}
        new = {}
        for k in w:
            memory[k] = u = beta * buffer(memory, k, w[k]) + g[k]
            new[k] = w[k] - LR[t] * (g[k] + beta * u if nesterov else u)
        return new

    rule = optim.extrap_sgd(schedule, beta, wd, ratio, nesterov=nesterov)
    assert_close(train(rule, start()), numpy_train(step, start()), 1e-12)


def test_extrap_sgd_without_extrapolation_is_nesterov_sgd(x64):
    ours = train(optim.extrap_sgd(0.1, 0.9, 0.01, 0.0), start())
    assert_close(ours, train(optim.sgd(0.1, 0.9, True, 0.01), start()), 1e-14)


def test_extrap_sgd_workers_extrapolate_with_their_own_gradient(x64):
    shifts, gamma, ratio = np.array([-1.0, 0.2, 2.0]), 0.3, 1 / 3
    rule = optim.extrap_sgd(gamma, None, extrapolation=ratio, axis_name="workers")

    @jax.jit
    @jax.vmap
    def init(w):
        return rule.init(w)

    def worker(w, state, shift):
        point = rule.evaluate_at(w, state)
        updates, state = rule.update(jnp.sin(point - shift), state, w)
        return w + updates, state

    step = jax.jit(jax.vmap(worker, axis_name="workers"))
    ours = jnp.zeros((3, 2)) + jnp.array([0.5, -0.4])
    state = init(ours)
    w, last = np.array([0.5, -0.4]), np.zeros((3, 2))
    for _ in range(STEPS):
        ours, state = step(ours, state, jnp.asarray(shifts))
        last = np.sin(w - ratio * gamma * last - shifts[:, None])
        w = w - gamma * last.mean(0)
        np.testing.assert_allclose(ours, np.tile(w, (3, 1)), rtol=1e-12)


# --------------------------------------------------------------------------- shared pieces


def test_norm_survives_what_its_square_does_not():
    for scale in (1e-37, 1e-30, 1.0, 1e37):
        tree = {"a": jnp.array([3.0 * scale]), "b": jnp.array([[4.0 * scale]])}
        assert float(base.l2_norm(tree)) == pytest.approx(5 * scale, rel=1e-6)
    assert float(base.l2_norm({"a": jnp.zeros(3), "b": jnp.zeros((0,))})) == 0
    assert float(base.l2_norm({})) == 0
    assert np.isnan(base.l2_norm(jnp.array([1.0, jnp.nan])))
    assert base.l2_norm(jnp.ones(4, jnp.bfloat16)).dtype == jnp.float32


def test_a_chain_keeps_and_composes_the_points_of_evaluation():
    def shift(by):
        def evaluate_at(params, state, key=None):
            noise = 0.0 if key is None else jax.random.normal(key)
            return params + by + noise

        return optim.Rule(
            lambda p: optax.EmptyState(), lambda g, s, p=None, **_: (g, s), evaluate_at
        )

    rule = optim.chain(shift(1.0), optax.clip(1.0), shift(10.0))
    w = jnp.array(0.0)
    state = rule.init(w)
    assert float(optim.evaluation_point(rule, w, state)) == 11.0
    key = jax.random.key(3)
    noise = [float(jax.random.normal(jax.random.fold_in(key, i))) for i in (0, 2)]
    assert float(rule.evaluate_at(w, state, key)) == pytest.approx(11 + sum(noise), rel=1e-6)
    assert noise[0] != noise[1]
    plain = optax.sgd(0.1)
    assert optim.evaluation_point(plain, w, plain.init(w), key) is w
    inside = optax.chain(rule, optax.scale(2.0))
    assert float(inside.update(jnp.array(5.0), inside.init(w), w)[0]) == 2.0


def test_rules_that_read_params_say_so():
    for rule in (optim.sgd(0.1), optim.lars(0.1), optim.lamb(0.1), optim.extrap_sgd(0.1)):
        with pytest.raises(ValueError, match="needs the parameters"):
            rule.update(jnp.ones(2), rule.init(jnp.ones(2)))
