"""Gradient statistics: NumPy loops, closed forms, simulation, the rules they belong to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from measure_nets import dense_losses, dense_params, digits, lane, trained

from sbt import optim
from sbt.errors import UserError
from sbt.measure.gradients import (
    Moments,
    example_gradient_moments,
    folded_normal_mean,
    gradient_by_discarded_fraction,
    measure_gradient_size,
    predict_mean_abs_gradient,
)
from sbt.measure.layers import average_radius, curvature_radii, curvature_radius, layer_radii
from sbt.measure.online import Setting, Update, strides, strides_of
from sbt.measure.registry import Subject
from sbt.measure.spectrum import diagonal_estimate, exact_diagonal


def example_loss(params, example):
    x, y = example
    return dense_losses(params, x[None], y[None])[0]


def gradients_one_by_one(params, x, y):
    """``(N, n)`` gradients by a plain loop."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    gradient = jax.jit(jax.grad(lambda w, x, y: dense_losses(unravel(w), x, y)[0]))
    return np.stack([gradient(flat, x[i : i + 1], y[i : i + 1]) for i in range(len(y))])


@pytest.mark.parametrize("chunk", [6, 20, 64])
def test_moments_against_a_loop(x64, chunk):
    x, y = digits(20)
    params = dense_params(jax.random.key(0), hidden=3)
    gradients = gradients_one_by_one(params, x, y)
    found = example_gradient_moments(example_loss, params, (x, y), chunk=chunk)
    np.testing.assert_allclose(found.mean, gradients.mean(axis=0), atol=1e-14)
    np.testing.assert_allclose(found.variance, gradients.var(axis=0), atol=1e-14)
    assert found.examples == 20
    part = example_gradient_moments(example_loss, params, (x, y), where="^logits")
    np.testing.assert_allclose(part.variance, gradients.var(axis=0)[-40:], atol=1e-14)


def test_variance_survives_a_large_mean():
    """E[g²] − E[g]² in float32 would have no correct digit here."""
    examples = jnp.asarray(np.random.default_rng(0).normal(size=2000), jnp.float32)
    found = example_gradient_moments(lambda w, x: w * (1e4 + x), jnp.float32(0), examples, chunk=50)
    np.testing.assert_allclose(found.variance, np.var(examples), rtol=1e-2)


@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (0.5, 1.0), (-3.0, 0.7), (2.0, 0.0), (0.0, 0.0)])
def test_folded_normal_by_integration(x64, mean, std):
    t = np.linspace(-12, 12, 200_001)
    density = np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)
    expected = np.sum(np.abs(mean + std * t) * density) * (t[1] - t[0])
    np.testing.assert_allclose(folded_normal_mean(mean, std), expected, rtol=1e-6, atol=1e-12)


def test_prediction_against_simulation_with_and_without_replacement():
    """Normal per-example gradients: the folded normal is exact, at all n."""
    rng = np.random.default_rng(0)
    population = rng.normal(size=(400, 30)) * rng.uniform(0.5, 2, 30) + 0.2 * rng.normal(size=30)
    moments = Moments(
        jnp.asarray(population.mean(axis=0), jnp.float32),
        jnp.asarray(population.var(axis=0), jnp.float32),
        jnp.float32(400),
    )
    sizes = [1, 16, 200, 400]
    for replacement in (False, True):
        found = predict_mean_abs_gradient(moments, jnp.array(sizes), replacement=replacement)
        for n, predicted in zip(sizes, found.folded):
            draws = [
                np.abs(population[rng.choice(400, n, replacement)].mean(axis=0)).mean()
                for _ in range(600)
            ]
            np.testing.assert_allclose(predicted, np.mean(draws), rtol=0.03)
        floor = np.abs(population.mean(axis=0)).mean()
        np.testing.assert_allclose(found.floor, floor, rtol=1e-5)
        upper = np.sqrt(2 / np.pi / np.array(sizes)) * population.std(axis=0).mean()
        shrink = np.sqrt([(400 - n) / 399 for n in sizes]) if not replacement else 1
        np.testing.assert_allclose(found.zero_mean, upper * shrink, rtol=1e-5, atol=1e-7)
    assert predict_mean_abs_gradient(moments, 400).folded == pytest.approx(floor, rel=1e-5)


def test_measured_size_has_the_expected_mean_and_ends_at_the_full_gradient(x64):
    """E[mean g²] = mean(mu² + sigma²/n) with replacement, a closed form for any distribution."""
    x, y = digits(30)
    params = dense_params(jax.random.key(0), hidden=2)
    gradients = gradients_one_by_one(params, x, y)

    def batch_loss(p, batch):
        return dense_losses(p, *batch).mean()

    draw = {"repeats": 300, "replacement": True, "key": jax.random.key(1)}
    found = measure_gradient_size(batch_loss, params, (x, y), (1, 7), **draw)
    for n, squares in zip((1, 7), found.mean_square):
        expected = np.mean(gradients.mean(axis=0) ** 2 + gradients.var(axis=0) / n)
        error = np.std(squares) / np.sqrt(300)
        assert abs(np.mean(squares) - expected) < 4 * error
    whole = measure_gradient_size(batch_loss, params, (x, y), (30,), repeats=2, chunk=8)
    full = np.abs(gradients.mean(axis=0)).mean()
    np.testing.assert_allclose(whole.mean_abs, [[full, full]], rtol=1e-10)


def test_strides_of_a_training_run(x64):
    """Three steps of SGD with momentum on a quadratic, by hand."""
    h = np.array([1.0, 4.0])
    w, speed, rates = np.array([1.0, -2.0]), np.zeros(2), (0.1, 0.05, 0.0)
    online = strides_of(Setting(jnp.asarray(w), 1, 1))
    kept, weights, expected = online.empty, [w], np.zeros(3)
    for rate in rates:
        g = h * w
        speed = 0.9 * speed + g
        step = -rate * speed
        seen = (jnp.asarray(x) for x in (g, w, w + step, rate, 1))
        kept = online.update(kept, Update(*seen))
        found = strides(jnp.asarray(g), jnp.asarray(step), rate)
        np.testing.assert_allclose(found.loss * 2, -(g @ step))

        def loss(w):
            return 0.5 * jnp.sum(h * w**2)

        realised = loss(w) - loss(w + step)
        total = 2 * found.loss[0]
        np.testing.assert_allclose(realised, total - 0.5 * step @ (h * step), atol=1e-12)
        stride = np.abs(step).mean()
        np.testing.assert_allclose(found.stride, stride)
        expected += [stride, 0, -(g * step).mean()]
        if rate:
            expected[1] += stride / rate
        w = w + step
        weights.append(w)
    sums = kept.sums
    assert sums.updates == 3
    whole = [sums.of.stride[0], sums.of.normalised[0], sums.of.loss[0]]
    np.testing.assert_allclose(whole, expected, rtol=1e-6)
    path = online.summary(sums)["path_length"].value[0]
    np.testing.assert_allclose(path, np.abs(np.diff(weights, axis=0)).mean(1).sum(), rtol=1e-6)


def test_discarded_fractions_against_a_loop(x64):
    x, y = digits(24)
    params = dense_params(jax.random.key(2), hidden=3)
    gradients = gradients_one_by_one(params, x, y)
    losses = np.asarray(dense_losses(params, x, y))
    fractions = (0.0, 0.3, 0.5, 0.9)
    for average in ("kept", "batch"):
        found = gradient_by_discarded_fraction(
            example_loss, params, (x, y), fractions, average=average, chunk=10
        )
        for p, value in zip(fractions, found.smallest):
            kept = np.argsort(losses)[int(p * 24) :]
            divisor = len(kept) if average == "kept" else 24
            expected = np.abs(gradients[kept].sum(axis=0) / divisor).mean()
            np.testing.assert_allclose(value, expected, rtol=1e-9)
        np.testing.assert_allclose(found.random[0], found.smallest[0])
        assert np.all(np.abs(found.random[1:] / found.smallest[1:] - 1) > 1e-3)
    layer = gradient_by_discarded_fraction(
        example_loss, params, (x, y), (0.5,), where="^logits/kernel"
    )
    kept = np.argsort(losses)[12:]
    np.testing.assert_allclose(
        layer.smallest[0], np.abs(gradients[kept, -30:].mean(axis=0)).mean(), rtol=1e-6
    )


def test_radius_of_a_circle(x64):
    """The lower half of a circle of radius r has that curvature radius everywhere."""
    r = 2.5
    w = jnp.array([-2.0, 0.0, 1.3])

    def loss(w):
        return -jnp.sum(jnp.sqrt(r**2 - w**2))

    diagonal = exact_diagonal(loss, w)
    radii = curvature_radii(w, jax.grad(loss)(w), diagonal)
    np.testing.assert_allclose(radii, r, rtol=1e-10)


def test_estimate_without_curvature_is_the_radius_of_a_flat_parabola_about_zero(x64):
    a, w = np.array([1e-4, 3e-4]), np.array([1.0, -0.5])
    g, h = jnp.asarray(2 * a * w), jnp.asarray(2 * a)
    np.testing.assert_allclose(
        curvature_radii(jnp.asarray(w), g), curvature_radii(jnp.asarray(w), g, h), rtol=1e-6
    )


def test_layer_radii_count_what_they_leave_out():
    rng = np.random.default_rng(0)
    weights, gradients = rng.normal(size=101), rng.normal(size=101)
    gradients[:11] = 0
    weights[0] = 0
    params = {"a": jnp.asarray(weights, jnp.float32), "b": jnp.zeros(3)}
    slopes = {"a": jnp.asarray(gradients, jnp.float32), "b": jnp.zeros(3)}
    left = np.sort(np.abs(weights[11:] / gradients[11:]))
    for statistic, value, excluded in (
        ("median", np.median(left), 11),
        ("mean", np.mean(left), 11),
        ("trimmed", np.mean(left[9:-9]), 29),
    ):
        found = layer_radii(params, slopes, statistic=statistic)
        np.testing.assert_allclose(found["a"].value, value, rtol=1e-5)
        assert found["a"].excluded == excluded and found["a"].size == 101
        assert np.isnan(found["b"].value) and found["b"].excluded == 3
    only = layer_radii(params, slopes, where="b")
    assert list(only) == ["b"]


def test_error_and_bias_of_a_radius_are_a_plain_jackknife_over_groups_of_random_vectors(x64):
    rng = np.random.default_rng(3)
    x, y = jnp.asarray(rng.normal(size=(12, 5))), jnp.asarray(rng.normal(size=12))
    params = {"a": jnp.asarray(rng.normal(size=(5, 3))), "b": jnp.asarray(rng.normal(size=3))}

    def batch_loss(p, batch):
        return jnp.mean((jnp.tanh(x[batch] @ p["a"]) @ p["b"] - y[batch]) ** 2)

    run = Subject(
        params=params,
        stats=(),
        initial=lambda: params,
        key=jax.random.key(7),
        batch_loss=batch_loss,
        example_loss=lambda p, example: batch_loss(p, example[None]),
        batch_metrics=lambda batch: {"loss": batch_loss(params, batch)},
        told={},
        split=jnp.arange(12),
        batch=12,
    )
    found = curvature_radius(run, forms=("hutchinson",), samples=20)
    whole = jax.tree.map(np.asarray, jax.grad(lambda p: batch_loss(p, jnp.arange(12)))(params))
    slopes = np.concatenate([whole["a"].ravel(), whole["b"]])
    # Five groups of four random vectors each.
    diagonals = [
        diagonal_estimate(
            lambda p: batch_loss(p, jnp.arange(12)),
            params,
            samples=4,
            key=jax.random.fold_in(jax.random.key(7), group),
        ).value
        for group in range(5)
    ]

    def radius(chosen):
        curvature = np.mean([diagonals[i] for i in chosen], axis=0)
        radii = (1 + slopes**2) ** 1.5 / np.abs(curvature)
        return np.array([np.median(radii[:15]), np.median(radii[15:])])

    without = np.array([radius([i for i in range(5) if i != j]) for j in range(5)])
    error = np.sqrt(4 / 5 * np.sum((without - without.mean(axis=0)) ** 2, axis=0))
    bias = 4 * (without.mean(axis=0) - radius(range(5)))
    assert found["curvature_radius"].dims[1] == ("layer", ("a", "b"))
    for name, expected in (("", radius(range(5))), ("_error", error), ("_bias", bias)):
        value = found[f"curvature_radius{name}"].value[0]
        np.testing.assert_allclose(value, expected, rtol=1e-9)


def test_harmonic_mean_of_radii_is_percent_delta(x64):
    """The rule's step for a layer is its learning rate times the harmonic mean."""
    rng = np.random.default_rng(1)
    w, g = jnp.asarray(rng.normal(size=(4, 5))), jnp.asarray(rng.normal(size=(4, 5)))
    radius = average_radius(curvature_radii(w, g), "harmonic")
    rule = optim.percent_delta(0.01)
    step = rule.update(g, rule.init(w), w)[0]
    # The rule adds a guard to |w|.
    np.testing.assert_allclose(step, -0.01 * radius.value * g, rtol=1e-4)


def test_lanes_at_once_equal_lanes_alone(x64):
    x, y = digits(25)
    lanes = trained(x, y, lanes=3, hidden=2)
    lanes = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), lanes)

    def measure(p):
        moments = example_gradient_moments(example_loss, p, (x, y), chunk=10)
        dropped = gradient_by_discarded_fraction(example_loss, p, (x, y), (0.5,), chunk=10)
        size = measure_gradient_size(
            lambda p, batch: dense_losses(p, *batch).mean(), p, (x, y), (5,), repeats=2
        )
        return predict_mean_abs_gradient(moments, 5), dropped, size

    together = jax.jit(jax.vmap(measure))(lanes)
    for i in (0, 2):
        alone = jax.jit(measure)(lane(lanes, i))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), lane(together, i), alone
        )
    assert all(np.all(np.isnan(leaf[1])) for leaf in jax.tree.leaves(together))


def test_mistakes():
    x, y = digits(6, np.float32)
    params = dense_params(jax.random.key(0), jnp.float32, hidden=2)
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, params)

    def batch_loss(p, batch):
        return dense_losses(p, *batch).mean()

    for call in (
        lambda p, **o: example_gradient_moments(example_loss, p, (x, y), **o),
        lambda p, **o: gradient_by_discarded_fraction(example_loss, p, (x, y), (0.1,), **o),
        lambda p, **o: measure_gradient_size(batch_loss, p, (x, y), (2,), **o),
    ):
        with pytest.raises(UserError, match="not finite"):
            call(broken)
        with pytest.raises(UserError, match="where"):
            call(params, where="conv")
        with pytest.raises(UserError, match="chunk"):
            call(params, chunk=0)
    for size in (0, 7):
        with pytest.raises(UserError, match="batch_sizes"):
            measure_gradient_size(batch_loss, params, (x, y), (size,))
    with pytest.raises(UserError, match="fraction"):
        gradient_by_discarded_fraction(example_loss, params, (x, y), (1.0,))
    with pytest.raises(UserError, match="statistic"):
        average_radius(jnp.ones(3), "mode")
    with pytest.raises(UserError, match="trim"):
        average_radius(jnp.ones(3), "trimmed", 0.5)
