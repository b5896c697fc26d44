"""Gradient noise, its convolution, elastic averaging and Entropy-SGD against plain loops.

Lanes equal one plain run each in float64 (see ``plain_loop``); what is random is held against its
distribution, and special cases against SGD.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from plain_loop import (
    NET,
    both,
    check,
    dataset,
    descend,
    each,
    example_gradients,
    grad,
    heavy_ball,
    runs_of,
    sgd,
    zeros,
)

import sbt
from sbt import optim
from sbt.data import purpose_key
from sbt.errors import UserError
from sbt.sweep.prepare import prepare
from sbt.sweep.problem import Parts


def fields(*rows):
    return [{f"rule__{name}": value for name, value in row.items()} for row in rows]


def normal(step, w):
    """The standard normal numbers of an update."""
    key = jax.random.fold_in(purpose_key(step.seed, "rule"), step.t)
    return jax.device_get(optax.tree.random_like(key, w, jax.random.normal))


# --- noise that is added --------------------------------------------------------------------------


def isotropic(step, w, memory, run):
    deviation = np.sqrt(run["rule__variance"] / (1 + step.t) ** run["rule__noise_decay"])
    g = each(lambda g, n: g + deviation * n, grad(w, *step.xy()), normal(step, w))
    return heavy_ball(w, g, memory, run, step.rate)


@both
def test_isotropic_noise(x64, strategy):
    one, two = fields(
        {"momentum": 0.5, "variance": 0.3, "noise_decay": 0.55},
        {"momentum": 0.9, "variance": 0.01, "noise_decay": 0.0},
    )
    runs = runs_of((0.02, one), (0.004, two))
    check(runs, isotropic, strategy, config={"rule": {"name": "gradient_noise_sgd"}})


def covariance(diagonal):
    def rule(step, w, memory, run):
        del memory
        x, y = step.xy()
        m, small = len(y), run["rule__small_batch"]
        every = jax.device_get(example_gradients(w, x, y))
        spread = each(
            lambda g: np.var(g, 0, ddof=1) if diagonal == "variance" else np.mean(g**2, 0), every
        )
        lacking = max(m - small, 0) / (m * small)
        noisy = each(
            lambda g, v, n: np.mean(g, 0) + np.sqrt(lacking * v) * n,
            every,
            spread,
            normal(step, w),
        )
        return descend(w, noisy, step.rate)

    return rule


@both
@pytest.mark.parametrize("diagonal", ["variance", "fisher"])
def test_covariance_noise(x64, diagonal, strategy):
    """Accumulated over ticks of 4 of batches of 12 and 24; a batch below the small one has none."""
    one, two = fields({"small_batch": 2.0}, {"small_batch": 7.0})
    runs = runs_of((0.05, one), (0.02, two), sizes=(12, 24))
    rule = {"name": "covariance_noise_sgd", "diagonal": diagonal}
    config = {"rule": rule, "micro_batch": 4, "epochs": 3}
    check(runs, covariance(diagonal), strategy, config=config)
    if diagonal == "variance" and strategy == "vmap":
        none = [{**run, "rule__small_batch": 32.0} for run in runs]
        check(none, sgd, strategy, config=config)


def test_the_noise_makes_the_gradient_of_a_large_batch_vary_as_that_of_a_small_one(x64):
    """Over batches drawn from the same data, entry by entry: mean and variance agree."""
    rng = np.random.default_rng(0)
    data = jnp.asarray(rng.normal(size=(1000, 3)) * [1.0, 3.0, 0.2] + [1.0, 0.0, -2.0])
    rule = optim.covariance_noise_sgd(1.0, None, small_batch=5.0)
    w = jnp.zeros(3)

    def large(key):
        draw, noise = jax.random.split(key)
        g = data[jax.random.randint(draw, (50,), 0, 1000)]  # per-example gradients
        known = {"example_squares": jnp.mean(g**2, 0), "batch_size": 50}
        step, _ = rule.update(jnp.mean(g, 0), rule.init(w), w, key=noise, **known)
        return -step

    found = jax.jit(jax.vmap(large))(jax.random.split(jax.random.key(1), 40_000))
    wanted = np.var(np.asarray(data), 0) / 5
    np.testing.assert_allclose(np.var(found, 0), wanted, rtol=0.03)  # 4 standard errors
    np.testing.assert_allclose(
        np.mean(found, 0), data.mean(0), atol=5 * np.sqrt(wanted.max() / 4e4)
    )


def test_covariance_noise_refuses_what_ties_examples_together():
    config = {"rule": {"name": "covariance_noise_sgd"}, "batch_size": 8, "epochs": 1}
    normed = {"model": {"name": "convnet", "norm": "batch"}}
    for other, words in ((normed, "batch norm"), ({"copies": 2}, "copies")):
        with pytest.raises(UserError, match=words):
            sbt.run(config | other, progress=False)
    local = {"parallel": {"data": 2, "local_steps": 2}}
    with pytest.raises(UserError, match=r"config\.parallel\.local_steps"):
        sbt.run(config | local, progress=False)


# --- workers that share a batch -------------------------------------------------------------------


def parts(step, count):
    """The examples of a batch, dealt out in turn."""
    x, y = step.xy()
    return [(x[k::count], y[k::count]) for k in range(count)]


def convolved(step, w, memory, run):
    noise = memory.get("noise", [zeros(w)] * 4)
    length = run["rule__scale"] * step.rate
    grads = [
        grad(descend(w, n, length), *part) for n, part in zip(noise, parts(step, 4), strict=True)
    ]
    mean = each(lambda *g: np.mean(g, 0), *grads)
    memory["noise"] = [each(np.subtract, g, mean) for g in grads]
    return heavy_ball(w, mean, memory, run, step.rate)


@both
def test_gradient_noise_convolution(x64, strategy):
    one, two = fields({"scale": 1.0, "momentum": 0.5}, {"scale": 5.0, "momentum": 0.9})
    runs = runs_of((0.02, one), (0.004, two))
    config = {"rule": {"name": "gradient_noise_convolution"}}
    check(runs, convolved, strategy, config=config)


def test_without_scale_it_is_sgd(x64):
    one, two = fields({"scale": 0.0}, {"scale": 0.0})
    config = {"rule": {"name": "gradient_noise_convolution", "workers": 2}}
    check(runs_of((0.05, one), (0.02, two)), sgd, "vmap", config=config)


def test_the_noise_smooths_sharp_directions_most(x64):
    """Quadratics of fluctuating minima: workers stray in proportion to the curvature."""
    curvature = jnp.asarray([0.1, 1.0])
    rule, w = optim.gradient_noise_convolution(0.1, None, workers=4), jnp.zeros(2)
    targets = jax.random.normal(jax.random.key(0), (200, 4, 2))
    state, strayed = rule.init(w), []
    for now in targets:
        step, state = rule.update(
            w, state, w, part_gradient=lambda p, k, n, now=now: curvature * (p - now[k])
        )
        w = w + step
        strayed.append(np.std(state[0].noise, 0))
    np.testing.assert_allclose(np.mean(strayed, 0)[1] / np.mean(strayed, 0)[0], 10, rtol=0.2)


def elastic(step, w, memory, run):
    beta, theta, wd = (run[f"rule__{k}"] for k in ("momentum", "elasticity", "weight_decay"))
    workers = memory.get("x", [w] * 4)
    speeds = memory.get("v", [zeros(w)] * 4)
    pull = theta / 4 if step.t % run["period"] == 0 else 0.0
    centre = each(lambda c, *x: c + pull * sum(x - c for x in x), w, *workers)
    memory["x"], memory["v"] = [], []
    for x, v, part in zip(workers, speeds, parts(step, 4), strict=True):
        y = each(lambda x, v: x + beta * v, x, v)
        g = grad(y, *part)
        memory["v"].append(each(lambda v, g, y: beta * v - step.rate * (g + wd * y), v, g, y))
        memory["x"].append(each(lambda x, v, c: x + v - pull * (x - c), x, memory["v"][-1], w))
    return centre


@both
@pytest.mark.parametrize("period", [1, 3])
def test_elastic_averaging(x64, period, strategy):
    one, two = fields(
        {"momentum": 0.5, "elasticity": 0.9, "weight_decay": 0.01},
        {"momentum": 0.0, "elasticity": 0.4, "weight_decay": 0.1},
    )
    runs = runs_of((0.02, one), (0.01, two))

    def rule(step, w, memory, run):
        return elastic(step, w, memory, run | {"period": period})

    config = {"rule": {"name": "elastic_averaging", "period": period}}
    check(runs, rule, strategy, config=config)


def test_elastic_averaging_finds_the_minimum_of_quadratics():
    """Workers with minima of their own: the centre rests where the mean gradient vanishes."""
    targets = jnp.asarray([1.0, 3.0, -2.0, 6.0])
    rule, w = optim.elastic_averaging(0.1, 0.5, elasticity=0.9), jnp.asarray(0.0)
    state = rule.init(w)
    for _ in range(400):
        step, state = rule.update(w, state, w, part_gradient=lambda p, k, n: p - targets[k])
        w = w + step
    np.testing.assert_allclose(w, 2.0, rtol=1e-4)
    # A worker rests where its velocity v = s (x - w), s = theta / K, is what its spring takes back,
    # and (1 - beta) v = -eta (x + beta v - t) keeps it.
    spring = 0.9 / 4 * (0.5 + (1 - 0.5) / 0.1)
    np.testing.assert_allclose(state.workers, (targets + spring * 2) / (1 + spring), rtol=1e-4)


def entropy(step, w, memory, run):
    names = ("scope", "scope_growth", "inner_rate", "thermal_noise", "averaging", "weight_decay")
    scope, growth, rate, heat, alpha, wd = (run[f"rule__{name}"] for name in names)
    gamma = scope * (1 + growth) ** step.t
    key = jax.random.fold_in(purpose_key(step.seed, "rule"), step.t)
    x = mu = w
    for i, part in enumerate(parts(step, 2)):
        noise = jax.device_get(
            optax.tree.random_like(jax.random.fold_in(key, i), w, jax.random.normal)
        )
        x = each(
            lambda x, g, w, n: x - rate * (g + wd * x - gamma * (w - x)) + np.sqrt(rate) * heat * n,
            x,
            grad(x, *part),
            w,
            noise,
        )
        mu = each(lambda mu, x: (1 - alpha) * mu + alpha * x, mu, x)
    return heavy_ball(w, each(lambda w, mu: gamma * (w - mu), w, mu), memory, run, step.rate)


@both
def test_entropy_sgd(x64, strategy):
    one, two = fields(
        {"momentum": 0.5, "scope": 0.5, "scope_growth": 0.1, "inner_rate": 0.2,
         "thermal_noise": 0.01, "averaging": 0.75, "weight_decay": 0.01},
        {"momentum": 0.0, "scope": 2.0, "scope_growth": 0.0, "inner_rate": 0.1,
         "thermal_noise": 1e-4, "averaging": 0.5, "weight_decay": 0.0},
    )  # fmt: skip
    runs = runs_of((0.1, one), (0.05, two))
    check(runs, entropy, strategy, config={"rule": {"name": "entropy_sgd", "langevin_steps": 2}})


def test_the_walk_samples_the_local_gibbs_density(x64):
    """A long walk on h x^2 / 2: variance eps^2 / 2 (h + gamma), mean gamma w / (h + gamma)."""
    h, gamma, rate, heat, w = 2.0, 1.0, 0.01, 0.3, 1.5
    rule = optim.entropy_sgd(
        1.0, None, scope=gamma, inner_rate=rate, thermal_noise=heat, averaging=1.0,
        langevin_steps=1000,
    )  # fmt: skip

    def end(key):
        at = jnp.asarray(w)
        step, _ = rule.update(
            at, rule.init(at), at, key=key, part_gradient=lambda x, part, parts: h * x
        )
        return w + step / gamma  # the last iterate, of averaging 1

    ends = jax.jit(jax.vmap(end))(jax.random.split(jax.random.key(0), 4000))
    np.testing.assert_allclose(np.mean(ends), gamma * w / (h + gamma), atol=0.01)
    exact = heat**2 / (2 * (h + gamma) - rate * (h + gamma) ** 2)  # of the discrete walk
    np.testing.assert_allclose(np.var(ends), exact, rtol=0.1)


@pytest.mark.parametrize(
    ("rule", "devices"),
    [
        ({"name": "entropy_sgd", "langevin_steps": 5}, 1),
        ({"name": "elastic_averaging", "workers": 8}, 1),
        ({"name": "gradient_noise_convolution", "workers": 4}, 2),
    ],
)
def test_a_batch_without_equal_parts_is_refused(rule, devices):
    config = {"rule": rule, "batch_size": 12, "parallel": {"data": devices}}
    with pytest.raises(UserError, match=r"config\.batch_size.*equal parts"):
        prepare(config, Parts(NET, dataset()))


def test_parts_at_their_default_are_checked_where_rules_are_swept():
    config = {"sweep": {"rule": ("sgd", "elastic_averaging")}, "batch_size": 8}
    assert prepare(config, Parts(NET, dataset())).runs == 2
    with pytest.raises(UserError, match=r"config\.batch_size.*6 examples .* 4 equal parts"):
        prepare(config | {"batch_size": 6}, Parts(NET, dataset()))


def test_parts_are_the_same_on_any_number_of_devices(x64):
    """Two devices take parts of their own halves, and find what one device finds."""
    found = []
    for devices in (1, 2):
        config = {
            "data": {"normalize": "unit"},
            "batch_size": 8,
            "epochs": 2,
            "rule": {"name": "elastic_averaging", "elasticity": 0.5, "momentum": 0.5},
            "parallel": {"data": devices},
            "sweep": {"base_lr": (0.01, 0.02)},
        }
        found.append(sbt.run(config, module=NET, dataset=dataset(), progress=False))
    np.testing.assert_allclose(found[0].train_loss, found[1].train_loss, rtol=1e-6)
