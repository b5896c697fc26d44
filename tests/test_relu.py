"""The stored rectifier against jax.nn.relu, and what it is for: it is not computed anew."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from sbt.nn.relu import relu

X = jnp.asarray([-np.inf, -2.0, -0.0, 0.0, 1e-30, 3.0, np.inf, np.nan], jnp.float32)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_equals_jax(dtype):
    x = X.astype(dtype)
    y = relu(x)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y.astype(np.float32), jax.nn.relu(x).astype(np.float32))
    # A gradient at NaN is nobody's: jax.nn.relu has 0 there as well.
    slopes, expected = (jax.vmap(jax.grad(f))(x) for f in (relu, jax.nn.relu))
    assert slopes.dtype == dtype
    np.testing.assert_array_equal(slopes, expected)


@pytest.mark.usefixtures("x64")
def test_derivatives_of_both_orders_and_modes():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)))
    x += jnp.sign(x) / 10  # finite differences must not cross the kink
    check_grads(lambda x: jnp.sum(jnp.sin(x * relu(x))), (x,), order=2, eps=1e-4, atol=1e-5)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="what XLA's CPU compiler fuses")
def test_a_chain_of_sums_is_added_up_once():
    """Each block's value is read by a product and by the next sum; with jax's it is recomputed."""

    def chain(activation, x, weights):
        for w in weights:
            x = activation(x + jnp.tanh(x @ w))
        return x

    def additions(activation):
        x, weights = jnp.ones((64, 64)), jnp.ones((5, 64, 64))
        compiled = jax.jit(lambda x, w: chain(activation, x, w)).lower(x, weights).compile()
        return compiled.as_text().count(" add(")

    assert additions(relu) == 5
    assert additions(jax.nn.relu) > 5
