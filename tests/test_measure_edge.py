"""Curvature at the edge of stability, on quadratics whose batches can all be counted."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sbt.errors import UserError
from sbt.measure import batch_sharpness, preconditioned_sharpness

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


@pytest.mark.parametrize("wrong", [{"batch_size": 7}, {"batches": 1}, {"mean": "median"}])
def test_batches_that_cannot_be(wrong):
    with pytest.raises(UserError):
        batch_sharpness(loss, POINT, EXAMPLES, **{"batch_size": 2, "batches": 2, **wrong})
