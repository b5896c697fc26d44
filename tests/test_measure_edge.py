"""Curvature at the edge of stability, on quadratics whose batches can all be counted."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sbt.errors import UserError
from sbt.measure import (
    batch_sharpness,
    gradient_noise_interaction,
    preconditioned_sharpness,
    preconditioner,
)
from sbt.measure.registry import Rule

N, D = 6, 3
RNG = np.random.default_rng(0)
ROOTS = RNG.normal(size=(N, D, D))
HESSIANS = ROOTS @ ROOTS.transpose(0, 2, 1)
CENTRES = RNG.normal(size=(N, D))
POINT = np.array([0.5, -1.0, 2.0])
EXAMPLES = {"h": HESSIANS, "c": CENTRES}


def loss(w, batch):
    """Mean of (w - c)ᵀ H (w - c) / 2."""
    off = w - batch["c"]
    return 0.5 * jnp.mean(jnp.einsum("ni,nij,nj->n", off, batch["h"], off))


def enumerated(m):
    """g·Hg and |g|² of every batch of m, by hand."""
    slopes = np.einsum("nij,nj->ni", HESSIANS, POINT - CENTRES)
    chosen = [list(batch) for batch in itertools.combinations(range(N), m)]
    gradients = np.array([slopes[batch].mean(axis=0) for batch in chosen])
    bends = [g @ HESSIANS[batch].mean(axis=0) @ g for g, batch in zip(gradients, chosen)]
    return np.array(bends), np.sum(gradients**2, axis=1)


@pytest.mark.parametrize("m", [1, 2, 5])
def test_batch_sharpness_is_that_of_all_batches(m, x64):
    bends, squares = enumerated(m)
    for mean, expected in (
        ("ratios", np.mean(bends / squares)),
        ("expectations", np.sum(bends) / np.sum(squares)),
    ):
        found = batch_sharpness(loss, POINT, EXAMPLES, m, batches=4000, mean=mean)
        assert abs(found.value - expected) < 4 * found.standard_error
        assert found.standard_error < 0.03 * expected
    spread = np.std(bends / squares)
    found = batch_sharpness(loss, POINT, EXAMPLES, m, batches=4000)
    np.testing.assert_allclose(found.standard_error, spread / np.sqrt(4000), rtol=0.05)


def test_the_whole_split_is_one_batch(x64):
    bends, squares = enumerated(N)
    for mean in ("ratios", "expectations"):
        found = batch_sharpness(loss, POINT, EXAMPLES, N, batches=3, mean=mean)
        np.testing.assert_allclose(found.value, bends[0] / squares[0], rtol=1e-12)
        assert found.standard_error < 1e-12 * found.value


def test_a_batch_may_be_drawn_in_parts_whose_number_is_traced(x64):
    def in_parts(m):
        return batch_sharpness(loss, POINT, EXAMPLES, m, batches=5, micro_batch=2)

    found = jax.vmap(in_parts)(jnp.array([2, 4, 6, 50]))
    for value, m in zip(found.value, (2, 4, 6, 6)):
        whole = batch_sharpness(loss, POINT, EXAMPLES, m, batches=5)
        np.testing.assert_allclose(value, whole.value, rtol=1e-12)


def test_only_the_parameters_that_count(x64):
    def of_two(params, batch):
        return loss(params["w"], batch) + 50 * params["other"] ** 2

    params = {"w": jnp.asarray(POINT), "other": 1.0}
    found = batch_sharpness(of_two, params, EXAMPLES, 2, batches=5, where="w")
    expected = batch_sharpness(loss, POINT, EXAMPLES, 2, batches=5)
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-12)


def test_preconditioned_sharpness_is_an_eigenvalue_of_the_matrix(x64):
    diagonal = np.array([0.1, 4.0, 0.7])
    scale = np.diag(diagonal**-0.5)
    found = preconditioned_sharpness(lambda w: loss(w, EXAMPLES), jnp.asarray(POINT), diagonal)
    expected = np.linalg.eigvalsh(scale @ HESSIANS.mean(axis=0) @ scale)[-1]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


# --- the gradient-noise interaction --------------------------------------------------------------


@pytest.mark.parametrize("m", [1, 2, 5])
def test_the_interaction_is_that_of_all_batches(m, x64):
    slopes = np.einsum("nij,nj->ni", HESSIANS, POINT - CENTRES)
    chosen = [list(batch) for batch in itertools.combinations(range(N), m)]
    gradients = np.array([slopes[batch].mean(axis=0) for batch in chosen])
    bends = np.einsum("bi,ij,bj->b", gradients, HESSIANS.mean(axis=0), gradients)
    expected = bends.mean() / np.sum(slopes.mean(axis=0) ** 2)
    found = gradient_noise_interaction(
        lambda w: loss(w, EXAMPLES), loss, POINT, EXAMPLES, m, batches=4000
    )
    assert abs(found.value - expected) < 4 * found.standard_error
    assert found.standard_error < 0.03 * expected


@pytest.mark.parametrize("eta", [0.5, 0.1])
def test_a_noisy_quadratic_rests_where_the_interaction_is_2_over_eta(eta, x64):
    """Whatever its curvature: at the mean square of SGD's distance from the minimum, by hand."""
    curvature, m = 1.7, 3
    centres = RNG.normal(size=12)
    # Of the mean of m of n without replacement.
    noise = curvature**2 * np.var(centres, ddof=1) * (1 - m / len(centres)) / m
    variance = eta**2 * noise / (1 - (1 - eta * curvature) ** 2)

    def each(w, x):
        return 0.5 * curvature * jnp.mean((w - x) ** 2)

    found = gradient_noise_interaction(
        lambda w: each(w, centres), each, centres.mean() + np.sqrt(variance), centres, m,
        batches=20_000,
    )  # fmt: skip
    np.testing.assert_allclose(found.value * eta / 2, 1, atol=4 * found.standard_error * eta / 2)
    assert found.standard_error * eta / 2 < 0.02


# --- what adaptive rules feel --------------------------------------------------------------------


@pytest.fixture
def standard_promotion():
    """As users have it, and optax needs it."""
    with jax.numpy_dtype_promotion("standard"):
        yield


GRADS = [{"a": RNG.normal(size=(2, 3)), "b": RNG.normal(size=4)} for _ in range(7)]


def after_updates(rule):
    state = rule.init(GRADS[0])
    for grad in GRADS:
        _, state = rule.update(grad, state, GRADS[0])
    return state


@pytest.mark.parametrize(
    ("name", "rule", "values"),
    [
        ("adamw", optax.adamw(0.1, 0.8, 0.9, 1e-3), {"b1": 0.8, "b2": 0.9, "eps": 1e-3}),
        ("nadam", optax.chain(optax.clip(9.0), optax.nadam(0.1, 0.8, 0.9, 1e-3)),
         {"b2": 0.9, "eps": 1e-3}),
        ("rmsprop", optax.rmsprop(0.1, 0.9, 1e-3), {"decay": 0.9, "eps": 1e-3}),
        ("rmsprop", optax.rmsprop(0.1, 0.9, 1e-3, eps_in_sqrt=False, bias_correction=True),
         {"decay": 0.9, "eps": 1e-3, "eps_in_sqrt": False}),
    ],
)  # fmt: skip
def test_the_preconditioner_is_the_root_of_the_mean_square(
    name, rule, values, x64, standard_promotion
):
    corrected = name != "rmsprop" or "eps_in_sqrt" in values
    found = preconditioner(Rule(name, values, after_updates(rule)), GRADS[0])
    for leaf in ("a", "b"):
        mean = sum(0.1 * 0.9 ** (6 - t) * grad[leaf] ** 2 for t, grad in enumerate(GRADS))
        root = np.sqrt(mean / (1 - 0.9**7)) + 1e-3 if corrected else np.sqrt(mean + 1e-3)
        np.testing.assert_allclose(found[leaf], root, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "rule", "values"),
    [
        ("sgd", optax.sgd(0.1, 0.9), {"b2": 0.9, "eps": 1e-3}),
        ("optax.adamax", optax.adamax(0.1), {"b2": 0.9, "eps": 1e-3}),
        ("own", optax.adam(0.1), {"eps": 1e-3}),
        ("twice", optax.chain(optax.adam(0.1), optax.adam(0.1)), {"b2": 0.9, "eps": 1e-3}),
        ("muon", optax.contrib.muon(0.1), {"b2": 0.9, "eps": 1e-3}),
    ],
)
def test_rules_without_such_a_mean_are_refused(name, rule, values, x64):
    with pytest.raises(UserError, match=name.rpartition(".")[2]):
        preconditioner(Rule(name, values, rule.init(GRADS[0])), GRADS[0])


@pytest.mark.parametrize("b1", [0.9, 0.5])
def test_adam_arrives_at_its_edge_on_a_quadratic(b1, x64, standard_promotion):
    """λ(P⁻¹H) = (2 + 2 b1) / ((1 - b1) η), 38/η at 0.9: below it gradients shrink, and so P."""
    eta, curvature = 0.01, 3.0
    rule = optax.adam(eta, b1, 0.99, 1e-12)
    values = {"b2": 0.99, "eps": 1e-12}

    def update(carried, _):
        w, state = carried
        step, state = rule.update(curvature * w, state, w)
        divisor = preconditioner(Rule("adam", values, state), w)
        found = preconditioned_sharpness(lambda w: 0.5 * curvature * w[0] ** 2, w, divisor)
        return (optax.apply_updates(w, step), state), found

    start = jnp.ones(1)
    _, found = jax.lax.scan(update, (start, rule.init(start)), None, 6000)
    settled = np.median(found[-2000:]) * eta
    np.testing.assert_allclose(settled, (2 + 2 * b1) / (1 - b1), rtol=0.05)


@pytest.mark.parametrize("wrong", [{"batch_size": 7}, {"batches": 1}, {"mean": "median"}])
def test_batches_that_cannot_be(wrong):
    with pytest.raises(UserError):
        batch_sharpness(loss, POINT, EXAMPLES, **{"batch_size": 2, "batches": 2, **wrong})
