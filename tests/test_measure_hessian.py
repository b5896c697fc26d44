"""Hessian by products: known spectra, explicit Hessians, finite differences, ARPACK."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg as sparse
from measure_nets import dense_loss, dense_params, digits, lane, trained

from sbt.errors import UserError
from sbt.measure.spectrum import (
    diagonal_estimate,
    exact_diagonal,
    hessian_operator,
    hessian_trace,
    lanczos,
    ritz,
    spectral_density,
    top_eigenvalues,
)
from sbt.measure.split import over_split
from sbt.measure.trees import ravel


def quadratic(spectrum, seed=0):
    """A loss whose Hessian has this spectrum, in a random basis."""
    n = len(spectrum)
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]
    hessian = (basis * spectrum) @ basis.T
    matrix = jnp.asarray(hessian)
    return lambda w: 0.5 * w @ matrix.astype(w.dtype) @ w, hessian


@pytest.fixture(scope="module")
def net():
    """A trained net in float32 and its Hessian in float64, by jax.hessian and NumPy."""
    x, y = digits(60, np.float32)
    params = lane(trained(x, y, hidden=4), 1)

    def loss(p):
        return dense_loss(p, x, y)

    with jax.enable_x64(True):
        doubles = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
        flat, unravel = jax.flatten_util.ravel_pytree(doubles)
        x64, y64 = digits(60)
        hessian = np.asarray(jax.hessian(lambda v: dense_loss(unravel(v), x64, y64))(flat))
    return loss, params, hessian


def test_known_spectrum_in_single_precision():
    spectrum = np.concatenate([[50.0, 20.0, -8.0], np.linspace(-1, 1, 60)])
    loss, _ = quadratic(spectrum)
    w = jnp.ones(63)
    for which, expected in {
        "smallest": [-8, -1],
        "magnitude": [50, 20, -8],
    }.items():
        found = top_eigenvalues(loss, w, len(expected), which=which, order=63)
        np.testing.assert_allclose(found.values, expected, rtol=1e-4)
        for value, vector in zip(expected, found.vectors):
            np.testing.assert_allclose(jnp.linalg.norm(vector), 1, rtol=1e-5)
            product = hessian_operator(loss, w).product(vector)
            np.testing.assert_allclose(product, value * vector, atol=2e-4)


def test_residuals_bound_the_error_before_convergence(x64):
    loss, hessian = quadratic(np.random.default_rng(1).normal(size=80))
    exact = np.linalg.eigvalsh(hessian)
    for order in (5, 20):
        found = top_eigenvalues(loss, jnp.ones(80), 5, order=order)
        distance = np.min(np.abs(exact[:, None] - np.asarray(found.values)), axis=0)
        assert np.all(distance <= np.asarray(found.residuals) + 1e-14)


@pytest.mark.parametrize(
    "spectrum",
    [np.ones(12), np.zeros(12), np.array([3.0] * 4 + [1.0] * 3 + [0.0] * 5), np.arange(12.0)],
)
def test_invariant_subspaces_and_repeated_eigenvalues(spectrum):
    loss, _ = quadratic(spectrum)
    found = top_eigenvalues(loss, jnp.ones(12), 12)
    np.testing.assert_allclose(found.values, np.sort(spectrum)[::-1], atol=2e-5)
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(12), atol=1e-5)


def test_weights_after_a_breakdown_are_those_of_the_start_vector():
    """Start inside an eigenspace: the rest of the spectrum has no weight."""
    d = jnp.array([2.0, 2.0, 5.0, 7.0])
    start = jnp.array([1.0, 1.0, 0.0, 0.0])
    found = ritz(lanczos(lambda v: d * v, start, 4, jax.random.key(0)))
    np.testing.assert_allclose(found.values, [2, 2, 5, 7], rtol=1e-5)
    np.testing.assert_allclose(found.weights.sum(where=found.values < 3), 1, rtol=1e-5)


def test_product_against_finite_differences(x64):
    x, y = digits(50)
    params = dense_params(jax.random.key(0), hidden=3)
    loss = over_split(lambda p, batch: dense_loss(p, *batch), (x, y), 25)
    operator = hessian_operator(loss, params)
    v = jax.random.normal(jax.random.key(1), operator.point.shape)
    gradient = jax.jit(jax.grad(lambda w: loss(operator.unravel(w))))
    h = 1e-5
    differences = (gradient(operator.point + h * v) - gradient(operator.point - h * v)) / (2 * h)
    np.testing.assert_allclose(operator.product(v), differences, atol=1e-8)


def test_eigenvalues_of_a_net_against_its_hessian_and_arpack(net):
    loss, params, hessian = net
    exact = np.linalg.eigvalsh(hessian)
    found = jax.jit(lambda p: top_eigenvalues(loss, p, 6))(params)
    np.testing.assert_allclose(found.values, exact[::-1][:6], rtol=1e-4)
    lowest = top_eigenvalues(loss, params, 1, which="smallest", order=150)
    np.testing.assert_allclose(lowest.values, exact[:1], rtol=1e-3)
    operator = hessian_operator(loss, params)
    product = jax.jit(operator.product)
    linear = sparse.LinearOperator(
        hessian.shape, matvec=lambda v: np.asarray(product(jnp.asarray(v, jnp.float32)))
    )
    arpack = sparse.eigsh(linear, 6, which="LA", return_eigenvectors=False, tol=1e-6)
    np.testing.assert_allclose(found.values, np.sort(arpack)[::-1], rtol=1e-4)


def columns(loss, params, where=None):
    """The Hessian, a product at a time."""
    operator = hessian_operator(loss, params, where)
    return jax.lax.map(operator.product, jnp.eye(operator.point.size), batch_size=100)


def test_products_give_the_whole_hessian_and_its_diagonal(net):
    loss, params, hessian = net
    found = columns(loss, params)
    np.testing.assert_allclose(found, hessian, atol=2e-6)
    diagonal = exact_diagonal(loss, params, chunk=100)
    np.testing.assert_allclose(diagonal, np.diagonal(hessian), atol=2e-6)


def test_filters_give_the_block_of_a_layer(net):
    loss, params, hessian = net
    # Leaves in order: hidden/bias 4, hidden/kernel 256, logits/bias 10, logits/kernel 40.
    block = hessian[260:, 260:]
    for where in ("^logits", lambda path: "logits" in path):
        found = columns(loss, params, where)
        np.testing.assert_allclose(found, block, atol=2e-6)
    top = top_eigenvalues(loss, params, 3, where="^logits")
    np.testing.assert_allclose(top.values, np.linalg.eigvalsh(block)[::-1][:3], rtol=1e-4)
    trace = hessian_trace(loss, params, samples=400, where="^logits", chunk=400)
    assert abs(trace.value - np.trace(block)) < 4 * trace.standard_error


def test_trace_lies_within_its_stated_error(net):
    loss, params, hessian = net
    samples = 300
    run = jax.jit(lambda key: hessian_trace(loss, params, samples=samples, key=key, chunk=samples))
    scores = []
    for seed in range(8):
        found = run(jax.random.key(seed))
        scores.append((found.value - np.trace(hessian)) / found.standard_error)
    assert np.max(np.abs(scores)) < 4
    off = hessian - np.diag(np.diagonal(hessian))
    np.testing.assert_allclose(
        found.standard_error, np.sqrt(2 * np.sum(off**2) / samples), rtol=0.25
    )


def test_diagonal_scores_are_standard(net):
    loss, params, hessian = net
    samples = 200
    found = jax.jit(lambda p: diagonal_estimate(loss, p, samples=samples))(params)
    exact = np.diagonal(hessian)
    off = hessian - np.diag(exact)
    expected = np.sqrt(np.sum(off**2, axis=1) / samples)
    live = expected > 1e-6  # weights of pixels that are always black have no curvature
    np.testing.assert_allclose(found.standard_error[live], expected[live], rtol=0.4)
    scores = (np.asarray(found.value) - exact)[live] / expected[live]
    assert 0.8 < np.sqrt(np.mean(scores**2)) < 1.25


def test_density_has_the_moments_and_the_shape_of_the_spectrum():
    """Signs as probes meet a diagonal Hessian's moments exactly: v_i² = 1."""
    spectrum = np.concatenate([np.linspace(0, 1, 90), np.full(10, 6.0)]).astype(np.float32)
    diagonal = jnp.asarray(spectrum)
    found = spectral_density(
        lambda w: 0.5 * jnp.sum(diagonal * w**2), jnp.ones(100), probes=3, order=12
    )
    for power in range(4):
        moments = jnp.sum(found.weights * found.nodes**power, axis=1)
        np.testing.assert_allclose(moments, np.mean(spectrum**power), rtol=1e-4)
    step = found.grid[1] - found.grid[0]
    np.testing.assert_allclose(jnp.sum(found.density) * step, 1, rtol=1e-3)
    outliers = jnp.sum(found.density, where=found.grid > 4) * step
    np.testing.assert_allclose(outliers, 0.1, rtol=1e-2)


def test_density_of_a_constant_spectrum_is_finite():
    for scale in (0.0, 2.0):
        loss, _ = quadratic(np.full(5, scale))
        found = spectral_density(loss, jnp.ones(5), probes=1)
        assert np.all(np.isfinite(found.density))
        np.testing.assert_allclose(found.nodes, scale, atol=1e-5)


def test_lanes_at_once_equal_lanes_alone(x64):
    x, y = digits(60)
    lanes = trained(x, y, lanes=3, hidden=3)
    lanes = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), lanes)

    @jax.jit
    def measure(p):
        def loss(p):
            return dense_loss(p, x, y)

        top = top_eigenvalues(loss, p, 2, order=15)
        return top.values, hessian_trace(loss, p, samples=5).value

    together = jax.vmap(measure)(lanes)
    for i in (0, 2):
        alone = measure(lane(lanes, i))
        np.testing.assert_allclose(together[0][i], alone[0], rtol=1e-9)
        np.testing.assert_allclose(together[1][i], alone[1], rtol=1e-9)
    assert np.all(np.isnan(together[0][1])) and np.isnan(together[1][1])


def test_mistakes():
    def loss(p):
        return jnp.sum(p["w"] ** 2)

    good, bad = {"w": jnp.ones(3)}, {"w": jnp.array([1.0, jnp.nan, 0.0])}
    for measure in (hessian_operator, top_eigenvalues, exact_diagonal, hessian_trace,
                    diagonal_estimate, spectral_density):  # fmt: skip
        with pytest.raises(UserError, match=r"params\.w"):
            measure(loss, bad)
        with pytest.raises(UserError, match="where"):
            measure(loss, good, where="conv")
    with pytest.raises(UserError, match="4 eigenvalues"):
        top_eigenvalues(loss, good, 4)
    with pytest.raises(UserError, match="which"):
        top_eigenvalues(loss, good, which="middle")
    for measure in (hessian_trace, diagonal_estimate):
        with pytest.raises(UserError, match="samples"):
            measure(loss, good, samples=1)
    with pytest.raises(UserError, match="probes"):
        spectral_density(loss, good, probes=0)


def test_agrees_with_matfree(net):
    """One independent public library, where it is installed."""
    matfree = pytest.importorskip("matfree")
    from matfree import decomp, funm, stochtrace

    loss, params, hessian = net
    assert matfree.__name__ == "matfree"
    operator = hessian_operator(loss, params)
    start = jax.random.normal(jax.random.key(9), operator.point.shape)
    with jax.numpy_dtype_promotion("standard"):
        theirs = decomp.tridiag_sym(20)(operator.product, start)
        ours = lanczos(operator.product, start, 20, jax.random.key(0))
        np.testing.assert_allclose(jnp.diagonal(theirs.J_small), ours.diagonal, atol=1e-3)
        np.testing.assert_allclose(
            jnp.diagonal(theirs.J_small, 1), ours.off_diagonal[:-1], atol=1e-3
        )
        sampler = stochtrace.sampler_signs(operator.point, num=200)
        estimate = stochtrace.estimator_monte_carlo(stochtrace.monte_carlo_trace(), sampler)
        their_trace = estimate(operator.product, jax.random.key(1))
        trace = hessian_trace(loss, params, samples=200, chunk=200)
        assert abs(their_trace - trace.value) < 4 * np.sqrt(2) * trace.standard_error
        quadrature = funm.monte_carlo_funm_sym(
            funm.dense_funm_sym_eigh(jnp.square), decomp.tridiag_sym(20)
        )
        theirs = stochtrace.estimator_monte_carlo(quadrature, sampler)
        squares = theirs(operator.product, jax.random.key(2))
    found = spectral_density(loss, params, probes=30, order=20)
    ours = ravel(params)[0].size * jnp.mean(jnp.sum(found.weights * found.nodes**2, axis=1))
    np.testing.assert_allclose(ours, squares, rtol=0.2)
    np.testing.assert_allclose(ours, np.sum(hessian**2), rtol=0.2)
