"""Keskar's sharpness: closed forms, brute force over corners, SciPy, lanes, errors."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from measure_nets import dense_loss, dense_params, digits, lane, trained

from sbt.errors import UserError
from sbt.measure.sharpness import sharpness, sharpness_scipy
from sbt.measure.subspace import random_subspace


def matrix_of(subspace):
    return jax.vmap(subspace.out, out_axes=1)(jnp.eye(subspace.directions))


def test_rise_of_a_separable_quadratic_is_that_of_its_best_corner(x64):
    h = np.array([0.0, 1.0, 30.0, 4.0])
    w = np.array([2.0, -1.0, 0.5, 0.0])

    def loss(p):
        return 0.5 * jnp.sum(h * p["w"] ** 2)

    d = 1e-2 * (np.abs(w) + 1)
    rise = np.sum(h * (np.abs(w) * d + d**2 / 2))
    at = 0.5 * np.sum(h * w**2)
    found = sharpness(loss, {"w": jnp.array(w)}, 1e-2)
    np.testing.assert_allclose(found.value, 100 * rise / (1 + at), rtol=1e-9)
    np.testing.assert_allclose(found.loss, at)


def test_rise_of_a_linear_loss_in_a_subspace(x64):
    n, p = 40, 7
    slope = np.random.default_rng(0).normal(size=n)
    x = np.random.default_rng(1).normal(size=n)
    subspace = random_subspace(n, p, jax.random.key(5), dtype=jnp.float64)
    a = np.asarray(matrix_of(subspace))
    d = 1e-3 * (np.abs(np.linalg.pinv(a) @ x) + 1)
    rise = np.sum(np.abs(a.T @ slope) * d)

    def loss(w):
        return jnp.dot(jnp.asarray(slope), w) + 50.0

    found = sharpness(loss, jnp.asarray(x), 1e-3, subspace=subspace)
    np.testing.assert_allclose(found.value, 100 * rise / (1 + 50 + slope @ x), rtol=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_convex_maximum_over_all_corners_is_found(x64, seed):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(9, 9))
    hessian, slope = root @ root.T, 0.01 * rng.normal(size=9)

    def loss(w):
        return 0.5 * w @ jnp.asarray(hessian) @ w + jnp.asarray(slope) @ w

    corners = np.array(list(itertools.product([-0.1, 0.1], repeat=9)))
    best = np.max(0.5 * np.sum(corners @ hessian * corners, axis=1) + corners @ slope)
    many = sharpness(loss, jnp.zeros(9), 0.1, starts=100)
    np.testing.assert_allclose(many.value, 100 * best, rtol=1e-9)
    few = sharpness(loss, jnp.zeros(9), 0.1)
    assert 0.9 * 100 * best <= few.value <= 100 * best * (1 + 1e-9)


def test_stationary_points(x64):
    """A minimum where the gradient is exactly 0 is left; a maximum has no sharpness, not less."""

    def loss(w):
        return jnp.sum(jnp.array([1.0, 5.0]) * w**2)

    np.testing.assert_allclose(sharpness(loss, jnp.zeros(2), 1e-3).value, 100 * 6e-6, rtol=1e-9)
    assert sharpness_scipy(loss, jnp.zeros(2), 1e-3).value == 0
    corner = sharpness_scipy(loss, jnp.zeros(2), 1e-3, start="corner")
    np.testing.assert_allclose(corner.value, 100 * 6e-6, rtol=1e-9)
    top = sharpness(lambda w: -loss(w), jnp.zeros(2), 1e-3)
    assert top.value == 0 and not np.any(top.point)


def test_flat_float32_minimum_has_sharpness():
    """Gradients whose squares underflow still point uphill."""

    def loss(w):
        return 1e-21 * jnp.sum(w)

    found = sharpness(loss, jnp.array([1.0, 2.0]), 1e-3, starts=1)
    np.testing.assert_allclose(found.highest / found.loss - 1, 5e-3 / 3, rtol=1e-3)


@pytest.mark.parametrize("norm, subspace", [(False, None), (True, 30)])
def test_trained_nets_against_scipy(x64, norm, subspace):
    """At least SciPy's value less 1 %, at a feasible point that a separate evaluation confirms."""
    x, y = digits(200)
    lanes = trained(x, y, norm=norm)

    def loss(p):
        return dense_loss(p, x, y, norm)

    if subspace:
        size = sum(leaf[0].size for leaf in jax.tree.leaves(lanes))
        key = jax.random.key(3)
        subspace = random_subspace(size, subspace, key, dtype=jnp.float64)
        a = np.asarray(matrix_of(subspace))
    run = jax.jit(jax.vmap(lambda p, eps: sharpness(loss, p, eps, subspace=subspace), (0, None)))
    for epsilon in (1e-3, 5e-4):
        found = run(lanes, epsilon)
        for i in range(found.value.size):
            point = lane(lanes, i)
            reference = sharpness_scipy(loss, point, epsilon, subspace=subspace)
            assert found.value[i] >= 0.99 * reference.value
            flat, unravel = jax.flatten_util.ravel_pytree(point)
            moved, centre = found.point[i], flat
            if subspace:
                moved, centre = a @ np.asarray(moved), np.linalg.pinv(a) @ np.asarray(flat)
            bound = epsilon * (np.abs(centre) + 1)
            assert np.all(np.abs(found.point[i]) <= bound * (1 + 1e-9))
            np.testing.assert_allclose(loss(unravel(flat + moved)), found.highest[i], rtol=1e-9)


@pytest.mark.parametrize("subspace", [None, 100])
def test_single_precision_keeps_up_with_scipy_in_double(subspace):
    x, y = digits(150, np.float32)
    lanes = trained(x, y, norm=True)

    def loss(p):
        return dense_loss(p, x.astype(p["hidden"]["bias"].dtype), y, True)

    measure = jax.vmap(lambda p, e: sharpness(loss, p, e, subspace=subspace).value, (0, None))
    for epsilon in (1e-3, 5e-4):
        found = jax.jit(measure)(lanes, epsilon)
        for i in range(4):
            reference = sharpness_scipy(loss, lane(lanes, i), epsilon, subspace=subspace)
            assert found[i] >= 0.99 * reference.value


def test_equals_scipy_where_scipy_is_well_behaved(x64):
    """Far from a minimum the gradient decides, and both find the same corner."""
    x, y = digits(200)

    def loss(p):
        return dense_loss(p, x, y, False)

    run = jax.jit(lambda p: sharpness(loss, p, 1e-3).value)
    for seed in range(3):
        params = dense_params(jax.random.key(seed))
        reference = sharpness_scipy(loss, params, 1e-3, start="sign").value
        np.testing.assert_allclose(run(params), reference, rtol=0.01)


def test_lanes_at_once_equal_lanes_alone_and_a_diverged_lane_is_nan(x64):
    x, y = digits(150)
    lanes = trained(x, y, norm=False)
    broken = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), lanes)

    def loss(p):
        return dense_loss(p, x, y, False)

    one = jax.jit(lambda p: sharpness(loss, p, 1e-3, subspace=20).value)
    together = jax.vmap(one)(broken)
    for i in (0, 2, 3):
        alone = one(lane(lanes, i))
        np.testing.assert_allclose(together[i], alone, rtol=1e-9)
    assert np.isnan(together[1])


def test_both_epsilons_of_the_paper_as_an_axis(x64):
    def loss(w):
        return jnp.sum(w**2)

    values = jax.vmap(lambda e: sharpness(loss, jnp.zeros(3), e).value)(jnp.array([1e-3, 5e-4]))
    np.testing.assert_allclose(values[0] / values[1], 4)


def test_filter_holds_the_other_leaves_still(x64):
    def loss(p):
        return jnp.sum(p["a"]["kernel"] ** 2) + 7 * jnp.sum(p["b"] ** 2)

    params = {"a": {"kernel": jnp.array([1.0, 0.0])}, "b": jnp.array([3.0])}
    expected = 100 * (1.02**2 + 0.01**2 - 1) / (1 + 1 + 63)
    for where in ("^a/kernel$", lambda path: path.startswith("a/")):
        found = sharpness(loss, params, 1e-2, where=where)
        np.testing.assert_allclose(found.value, expected)
        assert found.point.shape == (2,)
        np.testing.assert_allclose(
            sharpness_scipy(loss, params, 1e-2, where=where, start="corner").value, expected
        )


def test_half_precision_weights_are_moved_in_single_precision():
    """In bfloat16 a perturbation of 1e-3 would be rounded away."""

    def loss(w):
        return jnp.sum(w.astype(jnp.float32) ** 2)

    found = sharpness(loss, jnp.ones(2, jnp.bfloat16), 1e-3)
    np.testing.assert_allclose(found.value, 100 * 2 * (1.002**2 - 1) / 3, rtol=1e-4)


def products(subspace, x):
    return matrix_of(subspace), subspace.back(x), subspace.pinv(x)


@pytest.mark.parametrize(
    "n, p, choice",
    [
        (300, 10, {"distribution": "normal", "scale": "entries"}),
        (31, 30, {"distribution": "uniform", "scale": "entries"}),
        (20, 20, {"distribution": "normal", "scale": "columns"}),
    ],
)
def test_generated_subspace_is_the_stored_one(monkeypatch, n, p, choice):
    def build(stored):
        return jax.jit(
            lambda x: products(random_subspace(n, p, jax.random.key(2), stored=stored, **choice), x)
        )

    x = np.random.default_rng(0).normal(size=n).astype(np.float32)
    stored = build(True)(x)
    monkeypatch.setattr("sbt.measure.subspace.BLOCK_ELEMENTS", 7 * p)
    generated = build(False)(x)
    a = np.asarray(stored[0], np.float64)
    expected = np.linalg.pinv(a) @ x
    for matrix, back, pinv in (stored, generated):
        np.testing.assert_allclose(matrix, a, atol=1e-6)
        np.testing.assert_allclose(back, a.T @ x, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(pinv, expected, atol=1e-5 * np.abs(expected).max())
    if choice["scale"] == "columns":
        np.testing.assert_allclose(np.linalg.norm(a, axis=0), 1, rtol=1e-5)
    else:
        variance = {"normal": 1, "uniform": 1 / 3}[choice["distribution"]]
        assert abs(a.var() / variance - 1) < 6 / np.sqrt(a.size)


def test_subspace_drawn_in_double_precision_is_the_same_one(x64):
    single = random_subspace(50, 5, jax.random.key(0), dtype=jnp.float32)
    double = random_subspace(50, 5, jax.random.key(0), dtype=jnp.float64)
    z = np.array([0.0, 0.0, 1.0, 0.0, 0.0])
    column = single.out(jnp.asarray(z, jnp.float32))
    np.testing.assert_array_equal(column, double.out(jnp.asarray(z)))


@pytest.mark.parametrize(
    "change, field",
    [
        ({"params": {"w": jnp.array([1.0, jnp.inf])}}, "params.w"),
        ({"subspace": 3}, "directions"),
        ({"subspace": 0}, "directions"),
        ({"where": "conv"}, "where"),
        ({"epsilon": 0.0}, "epsilon"),
    ],
)
def test_mistakes_name_the_field(change, field):
    given = {"params": {"w": jnp.ones(2)}, "epsilon": 1e-3, "subspace": None, "where": None}
    given |= change
    params, epsilon = given.pop("params"), given.pop("epsilon")
    for measure in (sharpness, sharpness_scipy):
        with pytest.raises(UserError) as error:
            measure(lambda p: jnp.sum(p["w"] ** 2), params, epsilon, **given)
        assert error.value.field == field and error.value.remedy


def test_unknown_choices():
    loss, w = lambda w: jnp.sum(w**2), jnp.ones(3)
    with pytest.raises(UserError, match="start"):
        sharpness_scipy(loss, w, start="elsewhere")
    with pytest.raises(UserError, match="starts"):
        sharpness(loss, w, starts=0)
    with pytest.raises(UserError, match="distribution"):
        random_subspace(4, 2, jax.random.key(0), distribution="cauchy")
    with pytest.raises(UserError, match="scale"):
        random_subspace(4, 2, jax.random.key(0), scale="rows")


@pytest.mark.slow
def test_many_small_nets_at_once_are_faster_than_the_scipy_loop(capsys):
    """Prints the figures; 64 nets, the same number of gradients for both, compilation apart."""
    import time

    x, y = digits(250)
    x = x.astype(jnp.float32)
    lanes = jax.vmap(lambda k: dense_params(k, jnp.float32))(
        jax.random.split(jax.random.key(0), 64)
    )

    def loss(p):
        return dense_loss(p, x, y, False)

    run = jax.jit(jax.vmap(lambda p: sharpness(loss, p, 1e-3, starts=1).value))
    jax.block_until_ready(run(lanes))
    begin = time.perf_counter()
    values = jax.block_until_ready(run(lanes))
    at_once = time.perf_counter() - begin
    each = [lane(lanes, i) for i in range(64)]
    with jax.numpy_dtype_promotion("standard"):
        sharpness_scipy(loss, each[0])
        begin = time.perf_counter()
        reference = np.array([sharpness_scipy(loss, p).value for p in each])
        loop = time.perf_counter() - begin
    with capsys.disabled():
        print(f"\nsharpness of 64 nets: {at_once:.3f} s at once, SciPy loop {loop:.3f} s")
    assert np.all(values >= 0.99 * reference)
