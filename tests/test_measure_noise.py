"""Noise scale, critical batch, search-direction noise: enumeration, simulation, closed forms."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from measure_nets import dense_losses, dense_params, digits

from sbt.errors import UserError
from sbt.measure.gradients import Moments, example_gradient_moments
from sbt.measure.noise import (
    NORMS,
    fit_critical_batch,
    measure_noise_scale,
    noise_scale_from_examples,
    noise_scale_from_two,
    norm_noise_scale,
)
from sbt.measure.online import Setting, Tick, Update, accumulated_noise_scale

POPULATION = np.random.default_rng(0).normal(size=(6, 4)) + np.array([1.0, 0.5, 0.0, -0.3])


def moments_of(gradients):
    return Moments(
        jnp.asarray(gradients.mean(axis=0)),
        jnp.asarray(gradients.var(axis=0)),
        jnp.asarray(float(len(gradients))),
    )


def mean_squares(n, replacement):
    """Exact mean of |mean of n gradients|² over all ways to draw them."""
    draw = itertools.product if replacement else itertools.combinations
    draws = draw(range(6), repeat=n) if replacement else draw(range(6), n)
    return np.mean([np.sum(POPULATION[list(d)].mean(axis=0) ** 2) for d in draws])


def test_two_batch_sizes_are_unbiased_with_replacement(x64):
    found = noise_scale_from_two(mean_squares(1, True), mean_squares(4, True), 1, 4)
    mean = POPULATION.mean(axis=0)
    np.testing.assert_allclose(found.gradient_square, mean @ mean, rtol=1e-12)
    np.testing.assert_allclose(found.covariance_trace, POPULATION.var(axis=0).sum(), rtol=1e-12)
    exact = noise_scale_from_examples(moments_of(POPULATION))
    np.testing.assert_allclose(found.value, exact.value, rtol=1e-12)


def test_two_batch_sizes_are_unbiased_without_replacement(x64):
    found = noise_scale_from_two(mean_squares(2, False), mean_squares(5, False), 2, 5, population=6)
    mean = POPULATION.mean(axis=0)
    np.testing.assert_allclose(found.gradient_square, mean @ mean, rtol=1e-12)
    trace = POPULATION.var(axis=0, ddof=1).sum()
    np.testing.assert_allclose(found.covariance_trace, trace, rtol=1e-12)


def test_per_example_form_is_unbiased_for_a_sample(x64):
    """All samples of three of the population, with replacement: their mean is the truth."""
    samples = [
        noise_scale_from_examples(moments_of(POPULATION[list(d)]), population=False)
        for d in itertools.product(range(6), repeat=3)
    ]
    mean = POPULATION.mean(axis=0)
    squares = np.mean([s.gradient_square for s in samples])
    traces = np.mean([s.covariance_trace for s in samples])
    np.testing.assert_allclose(squares, mean @ mean, rtol=1e-10)
    np.testing.assert_allclose(traces, POPULATION.var(axis=0).sum(), rtol=1e-10)


def online(gradients, micro_batch, population=10**9):
    """The noise scale that training adds up over updates of some micro-batch gradients each."""
    zero = jnp.zeros(gradients.shape[-1])
    measured = accumulated_noise_scale(Setting(zero, population, micro_batch))
    m = gradients.shape[1] * micro_batch

    def update(kept, micro):
        def tick(pending, grads):
            return measured.tick(pending, Tick(grads, jnp.zeros(()))), None

        pending, _ = jax.lax.scan(tick, jax.tree.map(jnp.asarray, kept.pending), micro)
        kept = kept._replace(pending=pending)
        seen = Update(jnp.mean(micro, axis=0), zero, zero, jnp.ones(()), jnp.asarray(m))
        return jax.tree.map(jnp.asarray, measured.update(kept, seen)), None

    start = jax.tree.map(jnp.asarray, measured.empty)
    kept = jax.jit(lambda steps: jax.lax.scan(update, start, steps)[0])(jnp.asarray(gradients))
    names = ("noise_scale", "gradient_square", "covariance_trace")
    summary = measured.summary(kept.sums)
    return [float(summary[f"accumulated_{name}"].value) for name in names]


def test_accumulation_is_the_two_batch_form(x64):
    micro = POPULATION.reshape(3, 2, 4).mean(axis=1)
    squares, whole = np.sum(micro**2, axis=1), np.sum(micro.mean(axis=0) ** 2)
    expected = noise_scale_from_two(squares.mean(), whole, 2, 6, population=40)
    assert expected.standard_error is None  # one batch tells none
    np.testing.assert_allclose(online(micro[None], 2, 40), expected[:3], rtol=1e-6)
    assert all(np.isnan(online(micro[None, :1], 2, 40)))
    # Three micro-batches of 4, by hand: |g|² of 5, 1, 2 and of their mean 2.
    by_hand = [[[2.0, 1.0], [0.0, 1.0], [1.0, 1.0]]]
    np.testing.assert_allclose(online(np.array(by_hand), 4), [2.4, 5 / 3, 4], rtol=1e-6)


def test_a_negative_estimate_has_no_ratio_but_counts_in_the_average(x64):
    estimates = [(2.0, 8.0), (-0.5, 9.0), (1.0, 7.0)]
    steps = []
    for square, trace in estimates:
        small, large = square + trace / 2, square + trace / 8
        single = noise_scale_from_two(small, large, 2, 8)
        np.testing.assert_allclose([single[1], single[2]], [square, trace])
        assert np.isnan(single.value) == (square < 0)
        # Four micro-batches of that mean square, whose mean has the other.
        spread = np.sqrt(small - large) * np.array([1, 1, -1, -1])
        steps.append(np.stack([np.full(4, np.sqrt(large)), spread], axis=1))
    found = online(np.stack(steps), 2)
    np.testing.assert_allclose(found, [24 / 2.5, 2.5 / 3, 24 / 3], rtol=1e-5)
    below = online(np.stack(steps)[1:2], 2)
    assert np.isnan(below[0])
    np.testing.assert_allclose(below[1:], [-0.5, 9], rtol=1e-5)


def test_average_over_training_steps_approaches_the_truth(x64):
    """Gaussian per-example gradients; the mean of single ratios would not converge to it."""
    mean, std = jnp.array([0.2, -0.1, 0.05]), jnp.array([1.0, 2.0, 0.5])
    noise = jax.random.normal(jax.random.key(0), (20_000, 4, 8, 3)).mean(axis=2)
    found = online(mean + std * noise, 8)
    exact = float(jnp.sum(std**2) / jnp.sum(mean**2))
    np.testing.assert_allclose(found[0], exact, rtol=0.1)
    np.testing.assert_allclose(found[2], jnp.sum(std**2), rtol=0.01)


def test_measured_at_a_point_against_every_example(x64):
    x, y = digits(64)
    params = dense_params(jax.random.key(0), hidden=3)

    def batch_loss(p, batch):
        return dense_losses(p, *batch).mean()

    exact = noise_scale_from_examples(
        example_gradient_moments(
            lambda p, e: dense_losses(p, e[0][None], e[1][None])[0], params, (x, y)
        ),
        population=False,
    )
    found = measure_noise_scale(
        batch_loss, params, (x, y), micro_batch=4, count=8, repeats=400, where=None
    )
    np.testing.assert_allclose(found.covariance_trace, exact.covariance_trace, rtol=0.03)
    # The population's own |mean|² is what a subset without replacement estimates.
    square = exact.gradient_square + exact.covariance_trace / 64
    np.testing.assert_allclose(found.gradient_square, square, rtol=0.05)
    broken = jax.tree.map(lambda leaf: leaf.at[...].set(jnp.inf), params)
    with pytest.raises(UserError, match="not finite"):
        measure_noise_scale(batch_loss, broken, (x, y), micro_batch=4)
    with pytest.raises(UserError, match="where"):
        measure_noise_scale(batch_loss, params, (x, y), micro_batch=4, where=lambda p: "conv" in p)


@pytest.mark.parametrize("micro_batch, count, repeats", [(4, 1, 2), (40, 2, 2), (4, 2, 0)])
def test_batches_that_cannot_be_drawn(micro_batch, count, repeats):
    with pytest.raises(UserError, match="micro_batch"):
        measure_noise_scale(
            lambda w, batch: jnp.mean(w * batch),
            1.0,
            np.zeros(64, np.float32),
            micro_batch=micro_batch,
            count=count,
            repeats=repeats,
        )


def test_fit_recovers_the_hyperbola_and_its_error():
    batch = 2.0 ** np.arange(3, 13)
    exact = 300 * (1 + 150 / batch)
    fit = fit_critical_batch(batch, np.where(batch == 64, np.nan, exact))
    np.testing.assert_allclose(fit.critical_batch, 150, rtol=1e-6)
    np.testing.assert_allclose((fit.min_steps, fit.min_examples), (300, 45_000), rtol=1e-6)
    product = (exact / fit.min_steps - 1) * (batch * exact / fit.min_examples - 1)
    np.testing.assert_allclose(product, 1, rtol=1e-4)
    np.testing.assert_allclose(exact / (1 + fit.critical_batch / batch), fit.min_steps, rtol=1e-5)
    assert fit.used == 9 and fit.residual < 1e-6
    rng = np.random.default_rng(0)
    noisy = [exact * np.exp(0.1 * rng.normal(size=10)) for _ in range(200)]
    fits = [fit_critical_batch(batch, steps) for steps in noisy]
    scores = [(np.log(f.critical_batch / 150)) / f.relative_error for f in fits]
    assert 0.8 < np.std(scores) < 1.4 and abs(np.mean(scores)) < 0.3
    np.testing.assert_allclose(np.median([f.residual for f in fits]), 0.1 * np.sqrt(0.8), rtol=0.1)


def test_fit_at_the_ends_and_with_two_points():
    batch = np.array([8.0, 16.0, 32.0])
    perfect = fit_critical_batch(batch, 6400 / batch * np.array([1, 1.01, 1.03]) ** -1)
    assert perfect.critical_batch == np.inf and perfect.min_steps == 0
    flat = fit_critical_batch(batch, [100, 103, 107])
    assert flat.critical_batch == 0 and flat.min_examples == 0
    two = fit_critical_batch([10, 1000], [1100, 110])
    np.testing.assert_allclose(two.critical_batch, 100, rtol=1e-6)
    assert np.isnan(two.relative_error)


@pytest.mark.parametrize(
    "batch, steps", [([8, 16], [10, np.nan]), ([8, 8], [10, 11]), ([8], [1, 2]), ([0, 8], [3, 2])]
)
def test_fits_that_cannot_be_made(batch, steps):
    with pytest.raises(UserError, match="steps"):
        fit_critical_batch(batch, steps)


# --- normalisation layers ------------------------------------------------------------------------


def test_norm_layers_tell_the_noise_scale_of_their_parameters(x64):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(9, 5, 4)))  # examples of 5 places
    norm = {"scale": jnp.asarray(rng.normal(size=4)), "bias": jnp.asarray(rng.normal(size=4))}
    params = {"kernel": jnp.asarray(rng.normal(size=(4, 2))), "LayerNorm_0": norm}

    def loss(params, example):
        hat = example - example.mean(axis=-1, keepdims=True)
        hat = hat / jnp.sqrt(jnp.mean(hat**2, axis=-1, keepdims=True))
        y = hat * params["LayerNorm_0"]["scale"] + params["LayerNorm_0"]["bias"]
        return jnp.mean(jnp.square(jnp.tanh(y) @ params["kernel"]))

    found = norm_noise_scale(loss, params, x, chunk=4)
    gradients = [jax.grad(loss)(params, example)["LayerNorm_0"] for example in x]
    single = np.array([np.concatenate([g["bias"], g["scale"]]) for g in gradients])
    squares, mean = np.mean(np.sum(single**2, axis=1)), np.sum(single.mean(axis=0) ** 2)
    np.testing.assert_allclose(found.gradient_square, (9 * mean - squares) / 8, rtol=1e-10)
    np.testing.assert_allclose(found.covariance_trace, (squares - mean) / (1 - 1 / 9), rtol=1e-10)
    both = norm_noise_scale(loss, params, x, where="scale")
    assert both.covariance_trace < found.covariance_trace


def test_single_gradients_of_norm_layers_in_closed_form(x64):
    """Gradients (1,0), (0,1), (2,1), (1,2): |G|² 5/3, tr Σ 4/3, ratio 0.8."""
    examples = jnp.array([[1.0, 0], [0, 1], [2, 1], [1, 2]])
    params = {"RMSNorm_0": {"scale": jnp.ones(2)}, "kernel": jnp.ones(2)}

    def loss(params, example):
        return params["RMSNorm_0"]["scale"] @ example + 9 * params["kernel"] @ example**2

    found = norm_noise_scale(loss, params, examples)
    np.testing.assert_allclose(found.gradient_square, 5 / 3)
    np.testing.assert_allclose(found.covariance_trace, 4 / 3)
    np.testing.assert_allclose(found.value, 0.8)
    with pytest.raises(UserError, match="no parameters of normalisation layers"):
        norm_noise_scale(loss, params, examples, where="kernel")


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("params/GroupNorm_0/scale", True),
        ("params/GroupNorm_0/bias", True),
        ("Attention_0/q_scale", True),
        ("params/scale_0_attention", True),
        ("params/final_norm/scale", True),
        ("params/Dense_0/bias", False),
        ("params/logits", False),
        ("params/upscale/kernel", False),
    ],
)
def test_parameters_of_norms_by_name(path, counts):
    assert bool(re.search(NORMS, path)) == counts
