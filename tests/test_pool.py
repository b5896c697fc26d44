"""Pooling against Flax: value, gradient (ties, padding, NaN), both modes, higher order."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from sbt.nn.pool import global_mean, max_pool

CASES = [
    ((2, 8, 8, 3), (2, 2), (2, 2), "VALID"),
    ((2, 9, 7, 3), (2, 2), (2, 2), "VALID"),
    ((2, 9, 7, 3), (2, 2), (2, 2), "SAME"),
    ((2, 8, 8, 3), (3, 3), (2, 2), "SAME"),
    ((2, 9, 6, 3), (3, 3), (2, 2), "SAME"),
    ((2, 9, 9, 3), (3, 3), (2, 2), "VALID"),
    ((2, 8, 9, 3), (3, 3), (2, 2), ((1, 1), (1, 1))),
    ((2, 7, 7, 2), (3, 2), (1, 3), ((0, 2), (1, 0))),
    ((2, 5, 6, 2), (2, 2), (3, 3), "VALID"),
    ((1, 4, 4, 1), (4, 4), (4, 4), "VALID"),
]


def with_ties(shape, dtype=np.float64):
    """Few different values, so that most windows hold their maximum more than once."""
    return jnp.asarray(np.random.default_rng(0).integers(-1, 2, shape).astype(dtype))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("shape", "window", "strides", "padding"), CASES)
@pytest.mark.parametrize("ties", [True, False])
def test_value_and_gradient_equal_flax(shape, window, strides, padding, ties):
    x = with_ties(shape) if ties else jax.random.normal(jax.random.key(0), shape, jnp.float64)
    shape_out = jax.eval_shape(lambda x: nn.max_pool(x, window, strides, padding), x).shape
    g = jax.random.normal(jax.random.key(1), shape_out, jnp.float64)

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradient(pool, x, g):
        y, pull = jax.vjp(lambda x: pool(x, window, strides, padding), x)
        return y, pull(g)[0]

    (ours, our_gradient), (theirs, their_gradient) = (
        value_and_gradient(pool, x, g) for pool in (max_pool, nn.max_pool)
    )
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(our_gradient, their_gradient, rtol=0, atol=1e-14)
    # The value alone takes another path.
    alone = jax.jit(max_pool, static_argnums=(1, 2, 3))(x, window, strides, padding)
    np.testing.assert_array_equal(alone, theirs)


@pytest.mark.usefixtures("x64")
def test_under_vmap_and_scan():
    x = with_ties((3, 2, 6, 6, 2))

    def grads(f):
        def loss(x):
            return jnp.sum(jnp.sin(f(x, (3, 3), (2, 2), "SAME")))

        def step(x, _):
            return (x - 0.1 * jax.vmap(jax.grad(loss))(x), None)

        return jax.lax.scan(step, x, None, length=3)[0]

    np.testing.assert_allclose(jax.jit(lambda: grads(max_pool))(), grads(nn.max_pool), atol=1e-13)


@pytest.mark.usefixtures("x64")
def test_derivatives_of_both_modes_and_orders():
    values = np.random.default_rng(0).permutation(2 * 6 * 6 * 2) / 100
    x = jnp.asarray(values.reshape(2, 6, 6, 2))

    def f(x):
        return jnp.sum(jnp.sin(max_pool(x, (3, 3), (2, 2), "SAME")))

    check_grads(jax.jit(f), (x,), order=2, modes=("fwd", "rev"), eps=1e-4, rtol=1e-6, atol=1e-6)


def test_nan_spreads_over_its_windows():
    x = np.random.default_rng(0).normal(size=(1, 6, 6, 1)).astype(np.float32)
    x[0, 3, 2, 0] = np.nan
    ours = jax.vjp(lambda x: max_pool(x, (3, 3), (2, 2), "SAME"), jnp.asarray(x))[0]
    theirs = nn.max_pool(jnp.asarray(x), (3, 3), (2, 2), "SAME")
    assert np.isnan(theirs).sum() == 2
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(max_pool(jnp.asarray(x), (3, 3), (2, 2), "SAME"), theirs)


def test_strides_default_to_the_window_and_dtype_is_kept():
    x = with_ties((2, 6, 6, 2), np.float32).astype(jnp.bfloat16)
    y, pull = jax.vjp(lambda x: max_pool(x, (3, 3)), x)
    assert y.shape == (2, 2, 2, 2)
    assert y.dtype == pull(y)[0].dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, nn.max_pool(x, (3, 3), (3, 3)))


def test_mean():
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(np.float32)
    np.testing.assert_allclose(global_mean(jnp.asarray(x)), x.mean((1, 2)), rtol=1e-5, atol=1e-6)
