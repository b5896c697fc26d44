"""A split batch by batch is the split at once; parameters to a vector and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from measure_nets import dense_loss, dense_params, digits

from sbt.errors import UserError
from sbt.measure.split import average_over_split, over_split
from sbt.measure.trees import check_finite, ravel, unravel_by_leaf


@pytest.mark.parametrize("batch_size", [1, 7, 20, 60, 99])
def test_value_gradient_and_curvature_of_a_split(x64, batch_size):
    """60 examples: batches that divide them, that leave a rest, and that exceed them."""
    x, y = digits(60)

    def whole(p):
        return dense_loss(p, x, y)

    params = dense_params(jax.random.key(0), hidden=3)
    batched = over_split(lambda p, batch: dense_loss(p, *batch), (x, y), batch_size)
    direction = jax.tree.map(jnp.ones_like, params)

    @jax.jit
    def derivatives(params):
        value, gradient = jax.value_and_grad(batched)(params)
        slope = jax.jvp(batched, (params,), (direction,))[1]
        return value, gradient, slope, jax.jvp(jax.grad(batched), (params,), (direction,))[1]

    value, gradient, slope, product = derivatives(params)
    expected, expected_product = jax.jvp(jax.value_and_grad(whole), (params,), (direction,))
    np.testing.assert_allclose(value, expected[0], rtol=1e-12)
    np.testing.assert_allclose(
        slope, sum(jnp.sum(g) for g in jax.tree.leaves(expected[1])), rtol=1e-9
    )

    def compare(a, b):
        return np.testing.assert_allclose(a, b, atol=1e-12)

    jax.tree.map(compare, gradient, expected[1])
    jax.tree.map(compare, product, expected_product[1])


def test_lanes_and_means_of_any_tree():
    x = np.arange(5, dtype=np.float32)

    def moments(w, batch):
        return {"loss": jnp.mean((w - batch) ** 2), "correct": jnp.mean(batch > w, dtype=x.dtype)}

    average = average_over_split(moments, x, 2)(jnp.float32(1))
    np.testing.assert_allclose(average["loss"], 3)
    np.testing.assert_allclose(average["correct"], 0.6)
    loss = over_split(lambda w, batch: moments(w, batch)["loss"], x, 2)
    np.testing.assert_allclose(jax.vmap(jax.grad(loss))(jnp.array([0.0, 2.0])), [-4, 0])


def test_counters_in_the_tree_are_left_alone():
    params = {"w": jnp.ones(2), "step": jnp.array(3)}
    loss = over_split(
        lambda p, batch: jnp.mean(p["w"][0] * p["step"].astype(float) + batch), jnp.zeros(4), 2
    )
    vector, unravel = ravel(params)
    np.testing.assert_allclose(jax.grad(lambda v: loss(unravel(v)))(vector), [3, 0])
    assert unravel(vector)["step"] == 3


@pytest.mark.parametrize("arrays", [(), (np.zeros(3), np.zeros(4)), np.zeros(0), np.float32(1)])
def test_arrays_that_are_no_split(arrays):
    with pytest.raises(UserError, match="arrays"):
        over_split(lambda w, batch: w, arrays, 2)


def test_batch_size_below_one():
    with pytest.raises(UserError, match="batch_size"):
        over_split(lambda w, batch: w, np.zeros(3), 0)


def test_vector_and_tree():
    params = {
        "a": {"bias": jnp.zeros(2, jnp.bfloat16), "kernel": jnp.arange(6.0).reshape(2, 3)},
        "n": 3,
    }
    vector, unravel = ravel(params, r"^a/")
    assert vector.dtype == jnp.float32 and vector.shape == (8,)
    tree = unravel(vector + 1)
    np.testing.assert_array_equal(tree["a"]["kernel"], params["a"]["kernel"] + 1)
    assert tree["a"]["bias"].dtype == jnp.float32 and tree["n"] == 3
    parts = unravel_by_leaf(params, vector, "kernel|bias")
    assert list(parts) == ["a/bias", "a/kernel"] and parts["a/kernel"].shape == (2, 3)
    only, back = ravel(params, lambda path: path.endswith("bias"))
    assert only.shape == (2,) and back(only)["a"]["kernel"] is params["a"]["kernel"]


def test_filters_and_values_that_cannot_be_measured():
    with pytest.raises(UserError, match="a/w") as error:
        ravel({"a": {"w": jnp.ones(1)}}, "nothing")
    assert error.value.field == "where"
    with pytest.raises(UserError, match="no weights"):
        ravel({"step": 3})
    with pytest.raises(UserError, match="2 of 3 values"):
        check_finite([jnp.ones(2), jnp.array([1.0, jnp.nan, jnp.inf])])
    jax.vmap(lambda w: check_finite(w) or w)(jnp.array([jnp.nan]))
