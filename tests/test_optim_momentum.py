"""The momentum family against plain NumPy loops in float64, and its identities."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from sbt import optim
from sbt.errors import UserError
from sbt.optim.shb import (
    accelerated_momentum,
    exponential_coefficients,
    mix_coefficients,
    multistage_boundaries,
    multistage_coefficients,
)

STEPS = 30
HESSIAN = np.array([1.0, 0.3, 2.0])
OFFSETS = np.random.default_rng(0).normal(size=(STEPS, 3))
START = np.array([1.0, -2.0, 0.5])


def gradients(k, x):
    """Stochastic gradient of step k: a quadratic whose minimum jumps."""
    return HESSIAN * (x - OFFSETS[k])


def path(rule, steps=STEPS, start=START):
    """Iterates after each update, params as a tree of two leaves."""
    params = {"a": jnp.asarray(start[:2]), "b": jnp.asarray(start[2:])}
    state, points = rule.init(params), []
    for k in range(steps):
        x = np.concatenate([params["a"], params["b"]])
        g = jnp.asarray(gradients(k, x))
        updates, state = rule.update({"a": g[:2], "b": g[2:]}, state, params)
        params = optax.apply_updates(params, updates)
        points.append(np.concatenate([params["a"], params["b"]]))
    return np.array(points), state


def heavy_ball_path(alphas, betas, steps=STEPS, scales=None):
    """x_{k+1} = x_k - alpha_k g_k + beta_k (x_k - x_{k-1}), the buffer kept unscaled."""
    x, delta, points = START.copy(), np.zeros(3), []
    for k in range(steps):
        delta = betas[k] * delta - alphas[k] * gradients(k, x)
        x = x + (1.0 if scales is None else scales[k]) * delta
        points.append(x)
    return np.array(points)


def falling(rate):
    """A schedule of the update count, for rules and for plain loops."""
    return lambda k: rate / (jnp.asarray(k).astype(float) + 1)


def same(ours, theirs, tolerance=1e-10):
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


# --- heavy ball -----------------------------------------------------------------------------------


def test_shb_with_constant_coefficients_is_optax_sgd(x64):
    same(path(optim.shb(0.1, 0.8))[0], path(optax.sgd(0.1, 0.8))[0])


def test_shb_with_varying_coefficients(x64):
    alpha, beta = falling(0.3), (lambda k: 0.9 - falling(0.5)(k))
    ours = path(optim.shb(alpha, beta))[0]
    alphas, betas = zip(*((alpha(k), beta(k)) for k in range(STEPS)))
    same(ours, heavy_ball_path(alphas, betas))
    # ... and there it is no longer SGD with the learning rate outside the buffer.
    outside = path(optax.inject_hyperparams(optax.sgd)(alpha, beta))[0]
    assert np.max(np.abs(ours - outside)) > 0.01


def test_shb_weight_decay_enters_the_buffer(x64):
    ours = path(optim.shb(0.1, 0.8, 0.05))[0]
    x, delta = START.copy(), np.zeros(3)
    for k in range(STEPS):
        delta = 0.8 * delta - 0.1 * (gradients(k, x) + 0.05 * x)
        x = x + delta
    same(ours[-1], x)


def test_normalized_shb_is_the_undebiased_average(x64):
    ours = path(optim.normalized_shb(falling(0.3), 0.8))[0]
    x, u = START.copy(), np.zeros(3)
    for k in range(STEPS):
        u = 0.8 * u + 0.2 * gradients(k, x)
        x = x - 0.3 / (k + 1) * u
    same(ours[-1], x)
    ema = optax.chain(optax.ema(0.8, debias=False), optax.scale(-0.3))
    same(path(optim.normalized_shb(0.3, 0.8))[0], path(ema)[0])


def test_matched_pair(x64):
    """eta = gamma / (1 - beta): SGDM at gamma is the damped form at eta, and matches SGD at eta."""
    decay = optax.add_decayed_weights(0.01)
    plain = optim.sgd(0.2, None, weight_decay=0.01)
    same(path(plain)[0], path(optax.chain(decay, optax.sgd(0.2)))[0])
    damped = optim.normalized_shb(0.2, 0.75, 0.01)
    same(path(damped)[0], path(optax.chain(decay, optax.sgd(0.05, 0.75)))[0])
    slower = optim.normalized_shb(falling(0.2), 0.75)
    same(path(slower)[0], path(optax.sgd(falling(0.05), 0.75))[0])


def test_matched_pair_agrees_for_small_learning_rates(x64):
    """Same gradient flow: the distance of the two shrinks in proportion to the learning rate."""

    def distance(rate):
        finals = []
        for rule in (optim.sgd(rate), optim.normalized_shb(rate, 0.9)):
            x = jnp.asarray(START)
            state = rule.init(x)
            for _ in range(round(2 / rate)):
                updates, state = rule.update(jnp.asarray(HESSIAN) * x, state, x)
                x = x + updates
            finals.append(np.asarray(x))
        return np.linalg.norm(finals[0] - finals[1])

    assert distance(0.01) < 0.15 * distance(0.08)


# --- noise-adaptive heavy ball --------------------------------------------------------------------


def stage_lengths(total, kappa, fraction):
    """Plain loop: lengths rounded up, the last stage cut off at the end of training."""
    w = scipy.special.lambertw(total * math.log(2) / (2 * math.sqrt(kappa))).real
    last = math.floor(w / math.log(math.sqrt(2)))
    weights = [2 ** (i / 2) for i in range(1, last + 1)]
    lengths = [math.ceil(round(fraction * total, 9))]
    for weight in weights:
        lengths.append(math.ceil((total - lengths[0]) * weight / sum(weights)))
    lengths[-1] = total - sum(lengths[:-1])
    return lengths


@pytest.mark.parametrize(
    "total, kappa", [(40, 1.0), (999, 1.0), (999, 64.0), (7000, 1000.0), (1_000_000, 64.0)]
)
def test_multistage_lengths_and_coefficients(total, kappa, x64):
    lengths = stage_lengths(total, kappa, 0.4)
    ends, last = multistage_boundaries(total, kappa)
    assert last == len(lengths) - 1
    np.testing.assert_array_equal(ends[:last], np.cumsum(lengths)[:-1])
    assert sum(lengths) == total and all(length > 0 for length in lengths)
    at = jax.jit(lambda count: multistage_coefficients(count, total, kappa))
    betas = []
    for i, end in enumerate(np.cumsum(lengths)):
        for count in (end - lengths[i], end - 1):
            step, beta = at(count)
            same(step, 2.0**-i)
            same(beta, (1 - 0.5 * math.sqrt(2.0**-i / kappa)) ** 2)
        betas.append(float(beta))
    assert betas == sorted(betas) and betas[-1] < 1
    _, constant = multistage_coefficients(total - 1, total, kappa, momentum="constant")
    same(constant, betas[0])


def test_multistage_lengths_in_float32():
    for total in (250, 1000, 7000, 60_000):
        ends, last = multistage_boundaries(jnp.float32(total), jnp.float32(100.0))
        lengths = stage_lengths(total, 100.0, 0.4)
        assert last == len(lengths) - 1
        assert np.max(np.abs(ends[:last] - np.cumsum(lengths)[:-1])) <= 1


def test_multistage_path(x64):
    total, kappa = STEPS, 4.0
    ours = path(optim.multistage_shb(0.2, total, kappa))[0]
    stage = np.repeat(np.arange(20), [*stage_lengths(total, kappa, 0.4), *[0] * 20][:20])
    alphas = 0.2 * 2.0**-stage
    betas = (1 - 0.5 * np.sqrt(2.0**-stage / kappa)) ** 2
    assert stage[-1] > 1
    same(ours, heavy_ball_path(alphas, betas))


def test_accelerated_shb(x64):
    beta = (1 - 0.5 * math.sqrt(0.7 / 25)) ** 2
    same(accelerated_momentum(25.0, 0.7), beta)
    same(path(optim.accelerated_shb(0.1, 25.0, 0.7))[0], path(optax.sgd(0.1, beta))[0])


def exponential_by_hand(total, gamma, smooth, mu, final=None):
    nu = (1 / total if final is None else final) ** (1 / total)

    def eta(k):
        return gamma * nu**k

    def lamb(k):
        return (1 - 2 * eta(1) * smooth) / (eta(k) * mu) * (1 - (1 - eta(k) * mu) ** k)

    counts = np.arange(total)
    alphas = [eta(k) / (1 + lamb(k + 1)) for k in counts]
    return alphas, [lamb(k) * (1 - eta(k) * mu) / (1 + lamb(k + 1)) for k in counts]


@pytest.mark.parametrize("relative", [0.5, 0.25])
@pytest.mark.parametrize("mu", [0.1, 1.0, 2.0])
def test_exponential_shb(mu, relative, x64):
    """mu other than 1 tells dividing by it from multiplying by it."""
    smooth = 2.0
    gamma = relative / smooth
    alphas, betas = exponential_by_hand(STEPS, gamma, smooth, mu)
    ours = path(optim.exponential_shb(gamma, STEPS, smooth / mu, relative))[0]
    same(ours, heavy_ball_path(alphas, betas))
    assert max(betas) > 0


def test_constant_steps_solve_the_recursion_of_lambda(x64):
    """lambda_{k+1} = (1 - eta mu) lambda_k + 1 - 2 eta L, which no closed form enters."""
    relative, kappa = 0.25, 10.0
    lamb = [0.0]
    for _ in range(50):
        lamb.append((1 - relative / kappa) * lamb[-1] + 1 - 2 * relative)
    for k in (0, 1, 7, 49):
        step, beta = exponential_coefficients(k, 50, kappa, relative, final=1.0)
        same(step, 1 / (1 + lamb[k + 1]))
        same(beta, lamb[k] * (1 - relative / kappa) / (1 + lamb[k + 1]))


def test_constant_steps_of_half_the_smoothness_are_plain_sgd(x64):
    ours = path(optim.exponential_shb(0.25, STEPS, 10.0, 0.5, final=1.0))[0]
    same(ours, path(optax.sgd(0.25))[0])


@pytest.mark.parametrize("momentum, half", [("full", 1.0), ("half", 0.5)])
def test_mix_shb(momentum, half, x64):
    smooth, mu, total = 2.0, 0.1, STEPS
    gamma = 1 / (2 * smooth)
    first = math.ceil(0.4 * total)
    alphas, betas = exponential_by_hand(total - first, gamma, smooth, mu)
    alphas = [gamma] * first + alphas
    betas = [(1 - half * math.sqrt(gamma * mu)) ** 2] * first + betas
    rule = optim.mix_shb(gamma, total, smooth / mu, 0.4, momentum=momentum)
    same(path(rule)[0], heavy_ball_path(alphas, betas))
    assert betas[first] == 0  # the second phase starts with an empty buffer


def test_horizons_may_differ_between_lanes():
    """Traced budgets, as lanes of different batch size have them."""
    totals = jnp.array([40.0, 400.0])
    for coefficients in (multistage_coefficients, exponential_coefficients, mix_coefficients):
        lanes = jax.jit(jax.vmap(lambda t, f=coefficients: f(jnp.int32(30), t, 9.0)))(totals)
        for lane, total in enumerate((40, 400)):
            single = coefficients(30, total, 9.0)
            np.testing.assert_allclose([x[lane] for x in lanes], single, rtol=1e-5)
        assert lanes[0][0] != lanes[0][1]


@pytest.mark.parametrize("rule", [optim.multistage_shb, optim.mix_shb])
def test_unknown_momentum_is_refused(rule):
    with pytest.raises(UserError, match="nesterov"):
        rule(0.1, 10, momentum="nesterov").update(jnp.ones(1), rule(0.1, 10).init(jnp.ones(1)))


# --- random scaling -------------------------------------------------------------------------------


def test_no_scaling_is_sgdm_exactly():
    ours = optim.randomly_scaled_sgdm(0.1, 0.8, distribution="none", average_decay=0.9)
    np.testing.assert_array_equal(path(ours)[0], path(optim.sgd(0.1, 0.8))[0])


def scales_of(rule, steps=STEPS):
    params = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
    state, scales = rule.init(params), []
    for _ in range(steps):
        _, state = rule.update(params, state, params)
        scales.append(float(state.scale))
    return scales


def test_one_scale_for_all_leaves_outside_the_buffer(x64):
    rule = optim.randomly_scaled_sgdm(0.1, 0.8, seed=3)
    scales = scales_of(rule)
    assert len(set(scales)) == STEPS
    x, u = START.copy(), np.zeros(3)
    for k in range(STEPS):
        u = 0.8 * u + gradients(k, x)
        x = x - 0.1 * scales[k] * u
    same(path(rule)[0][-1], x)


@pytest.mark.parametrize("distribution, variance", [("exponential", 1.0), ("uniform", 1 / 3)])
def test_moments_of_the_scale(distribution, variance):
    def scale(seed):
        rule = optim.random_scaling(optax.identity(), seed, distribution)
        return rule.update(jnp.ones(()), rule.init(jnp.ones(())))[1].scale

    scales = np.asarray(jax.jit(jax.vmap(scale))(jnp.arange(40_000)))
    assert abs(scales.mean() - 1) < 4 * math.sqrt(variance / scales.size)
    assert abs(scales.var() - variance) < 0.05 * variance
    assert scales.min() >= 0


@pytest.mark.parametrize("distribution", ["exponential", "uniform"])
def test_the_next_gradient_is_unbiased_for_the_change_along_the_step(distribution):
    """On a kinked function: E[F(x + s D) - F(x)] = E[<weighted gradient, D>]."""
    x, displacement = jnp.float32(-0.7), jnp.float32(1.1)

    def sample(seed):
        rule = optim.random_scaling(optax.identity(), seed, distribution)
        step, state = rule.update(displacement, rule.init(x), x)
        point = x + step
        slope = jnp.where(point > 0, 3.0, -1.0)  # of F = max(3x, -x)
        passed, state = rule.update(slope, state, point)
        change = jnp.maximum(3 * point, -point) - jnp.maximum(3 * x, -x)
        return change, passed / state.scale * displacement

    change, product = jax.jit(jax.vmap(sample))(jnp.arange(100_000))
    spread = float(jnp.std(change - product)) / math.sqrt(change.size)
    assert abs(float(jnp.mean(change - product))) < 4 * spread
    assert abs(float(jnp.mean(change))) > 20 * spread


def test_exponentiated_o2nc(x64):
    """x_n = x_{n-1} + s_n D_n, D_{n+1} = b / (1 + eta mu) (D_n - eta g_n), D_1 = 0; the average."""
    eta, beta, mu = 0.1, 0.9, 0.5
    rule = optim.exponentiated_o2nc(eta, beta, mu, seed=5)
    points, state = path(rule)
    scales = [1.0, *scales_of(rule)]  # s_1 multiplies D_1 = 0
    x, delta, average = START.copy(), np.zeros(3), np.zeros(3)
    for n in range(1, STEPS + 1):
        x = x + scales[n - 1] * delta
        average = (beta - beta**n) / (1 - beta**n) * average + (1 - beta) / (1 - beta**n) * x
        if n > 1:
            same(points[n - 2], x)
        delta = beta / (1 + eta * mu) * (delta - eta * gradients(n - 1, x))
    ours = optim.averaged_iterate(state)
    same(np.concatenate([ours["a"], ours["b"]]), average)


def test_o2nc_is_sgdm(x64):
    beta = 0.9 / (1 + 0.1 * 0.5)
    alpha = 0.1 * beta / (1 - beta)
    ours = optim.exponentiated_o2nc(0.1, 0.9, 0.5, distribution="none")
    same(path(ours)[0], path(optim.normalized_shb(alpha, beta))[0])


def test_average_is_optax_ema_fed_with_the_points_of_the_gradients(x64):
    rule = optim.random_scaling(optax.sgd(0.1), average_decay=0.7)
    ema = optax.ema(0.7, debias=True)
    x = jnp.asarray(START)
    state, ema_state = rule.init(x), ema.init(x)
    for k in range(STEPS):
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power
            expected, ema_state = ema.update(x, ema_state)
        updates, state = rule.update(jnp.asarray(gradients(k, x)), state, x)
        x = x + updates
        same(optim.averaged_iterate(state), expected)
        if k == 0:
            same(expected, START)


def test_plain_mean_and_half_precision_average():
    rule = optim.random_scaling(optax.sgd(0.5), distribution="none", average_decay=1.0)
    x = jnp.asarray([1.0], jnp.bfloat16)
    state = rule.init(x)
    for _ in range(4):
        updates, state = rule.update(jnp.ones_like(x), state, x)
        x = optax.apply_updates(x, updates)
    assert x.dtype == updates.dtype == jnp.bfloat16 and state.average.dtype == jnp.float32
    np.testing.assert_allclose(state.average, [np.mean([1, 0.5, 0, -0.5])])


def test_seeds_and_keys():
    assert scales_of(optim.randomly_scaled_sgdm(0.1, seed=1)) == scales_of(
        optim.randomly_scaled_sgdm(0.1, seed=jax.random.key(1))
    )
    assert scales_of(optim.randomly_scaled_sgdm(0.1, seed=1))[0] != pytest.approx(
        scales_of(optim.randomly_scaled_sgdm(0.1, seed=2))[0]
    )
    rule = optim.random_scaling(optax.sgd(1.0))
    chained = optax.chain(optax.identity(), rule)  # extra arguments pass through chains
    for key in jax.random.split(jax.random.key(9), 3):
        out, _ = chained.update(jnp.ones(()), chained.init(jnp.ones(())), key=key)
        np.testing.assert_allclose(-out, jax.random.exponential(key), rtol=1e-6)


def test_wrapping_keeps_the_inner_evaluation_point():
    inner = optim.extrap_sgd(0.1, extrapolation=0.5)
    rule = optim.random_scaling(inner, distribution="none")
    x = jnp.ones(2)
    state, inner_state = rule.init(x), inner.init(x)
    _, state = rule.update(x, state, x)
    _, inner_state = inner.update(x, inner_state, x)
    point = rule.evaluate_at(x, state)
    np.testing.assert_array_equal(point, inner.evaluate_at(x, inner_state))
    assert not np.allclose(point, x)
    with pytest.raises(UserError, match="normal"):
        optim.random_scaling(inner, distribution="normal")


# --- SVAG -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ell", [1, 2, 4, 8, 2.5, 64])
def test_svag_coefficients(ell, x64):
    plus, minus = optim.svag_coefficients(ell)
    same([plus + minus, plus**2 + minus**2], [1, ell])
    same(plus, (1 + math.sqrt(2 * ell - 1)) / 2)


def test_svag_of_one_is_sgd(x64):
    rule = optim.svag(0.1, 0.8, amplification=1.0)
    x = jnp.asarray(START)
    state = rule.init(x)
    for k in range(STEPS):
        g = jnp.asarray(gradients(k, x))
        updates, state = rule.update(g, state, x, second_gradient=100 * g)
        x = x + updates
    same(x, path(optax.sgd(0.1, 0.8))[0][-1])


def test_svag_path(x64):
    ell, beta = 3.0, 0.8
    rule = optim.svag(falling(0.2), beta, 0.01, ell)
    plus, minus = (1 + math.sqrt(5)) / 2, (1 - math.sqrt(5)) / 2
    x, state = jnp.asarray(START), rule.init(jnp.asarray(START))
    y, u = START.copy(), np.zeros(3)
    for k in range(STEPS):
        one, two = jnp.asarray(gradients(k, x)), jnp.asarray(gradients(STEPS - 1 - k, x))
        updates, state = rule.update(one, state, x, second_gradient=two)
        x = x + updates
        u = beta * u + plus * gradients(k, y) + minus * gradients(STEPS - 1 - k, y) + 0.01 * y
        y = y - 0.2 / (k + 1) / ell * u
    same(x, y)


def test_svag_keeps_the_mean_and_amplifies_the_covariance():
    ell, n = 4.0, 200_000
    noise = jax.random.normal(jax.random.key(0), (2, n, 2)) @ jnp.array([[1.0, 0.5], [0.0, 2.0]])
    combined = optim.svag_gradient(3 + noise[0], 3 + noise[1], ell)
    np.testing.assert_allclose(jnp.mean(combined, 0), [3, 3], atol=0.05)
    cov = np.array([[1.0, 0.5], [0.5, 4.25]])
    np.testing.assert_allclose(jnp.cov(combined, rowvar=False), ell * cov, rtol=0.03)


def test_svag_asks_for_its_second_batch():
    rule = optim.svag(0.1)
    with pytest.raises(ValueError, match="second_gradient"):
        rule.update(jnp.ones(1), rule.init(jnp.ones(1)), jnp.ones(1))


# --- registry -------------------------------------------------------------------------------------


def test_every_rule_of_the_family_is_registered():
    for name in (
        "shb", "normalized_shb", "accelerated_shb", "multistage_shb", "exponential_shb", "mix_shb",
        "randomly_scaled_sgdm", "exponentiated_o2nc", "svag",
    ):  # fmt: skip
        assert "arXiv" in optim.RULES[name].source, name
    make = spec = optim.RULES.configured({"name": "multistage_shb", "total_updates": STEPS})
    assert spec.numbers["total_updates"] == STEPS
    points, _ = path(make(0.2, condition_number=4.0))
    np.testing.assert_allclose(points, path(optim.multistage_shb(0.2, STEPS, 4.0))[0])
