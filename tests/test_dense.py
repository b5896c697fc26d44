"""The dense product for one lane at a time, against ``jnp.dot`` and its gradients."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sbt.nn import dense
from sbt.nn.conv import lane_friendly


def arrays(n, c_in=5, c_out=4):
    rng = np.random.default_rng(n)
    return jnp.asarray(rng.normal(size=(n, c_in))), jnp.asarray(rng.normal(size=(c_in, c_out)))


def loss_of(product):
    return lambda rows, matrix: jnp.sum(jnp.sin(product(rows, matrix)))


@pytest.mark.parametrize(
    "n", [1, 2, 3, dense.OUTER_ROWS, dense.OUTER_ROWS + 1, 9, dense.SUMMED_ROWS + 1]
)
@pytest.mark.parametrize("near", [True, False])
def test_gradients_equal_those_of_the_plain_product(x64, monkeypatch, n, near):
    monkeypatch.setattr(dense, "NEAR_NUMBERS", dense.NEAR_NUMBERS if near else 0)
    rows, matrix = arrays(n)
    for which in ((0, 1), 0, 1):  # with the gradient of both, of the rows, of the matrix alone
        found, expected = (
            jax.jit(jax.grad(loss_of(product), which))(rows, matrix)
            for product in (dense.product, jnp.dot)
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), found, expected)


@pytest.mark.parametrize("near", [True, False])
def test_second_derivatives_equal_those_of_the_plain_product(x64, monkeypatch, near):
    monkeypatch.setattr(dense, "NEAR_NUMBERS", dense.NEAR_NUMBERS if near else 0)
    rows, matrix = arrays(3, 4, 4)

    def along(product):
        def loss(matrix):
            return loss_of(product)(jnp.tanh(product(rows, matrix)), matrix)

        return jax.jit(jax.grad(lambda m: jnp.sum(jax.grad(loss)(m) * jnp.cos(m))))(matrix)

    np.testing.assert_allclose(along(dense.product), along(jnp.dot), atol=1e-12)


def test_products_with_the_hessian_form_no_sums_over_all_of_the_matrix(monkeypatch):
    monkeypatch.setattr(dense, "NEAR_NUMBERS", 0)
    rows, matrix = arrays(dense.SUMMED_ROWS)
    gradient = jax.grad(loss_of(dense.product), (0, 1))

    def product(rows, matrix):
        return jax.jvp(gradient, (rows, matrix), (rows, matrix))

    three_axes = r"tensor<\d+x\d+x\d+xf32>"
    texts = [jax.jit(f).lower(rows, matrix).as_text() for f in (gradient, product)]
    assert [bool(re.search(three_axes, text)) for text in texts] == [True, False]


def test_half_precision_is_left_to_matrix_products(monkeypatch):
    monkeypatch.setattr(dense, "NEAR_NUMBERS", 0)
    rows, matrix = (a.astype(jnp.bfloat16) for a in arrays(3))
    run = jax.jit(jax.grad(loss_of(dense.product), (0, 1))).lower(rows, matrix)
    assert run.as_text().count("stablehlo.dot_general") == 3


def test_lanes_equal_single_products(x64):
    lanes = [arrays(n)[::-1] for n in (2, 2)]
    matrices, rows = (jnp.stack(parts) for parts in zip(*lanes, strict=True))
    gradient = jax.grad(loss_of(dense.product), 1)
    for lane, found in enumerate(jax.vmap(gradient)(rows, matrices)):
        np.testing.assert_allclose(found, gradient(rows[lane], matrices[lane]), atol=1e-13)


class _Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(nn.Dense(7)(x)))


@pytest.mark.parametrize("implementation,used", [("packed", 2), ("direct", 0), ("im2col", 0)])
def test_dense_layers_take_it_where_lanes_run_one_by_one(monkeypatch, implementation, used):
    calls = []
    monkeypatch.setattr(
        dense, "product", lambda a, b, precision: calls.append(a.shape) or jnp.dot(a, b)
    )
    net, x = _Net(), jnp.ones((2, 6))
    params = net.init(jax.random.key(0), x)
    with lane_friendly(implementation):
        jax.eval_shape(net.apply, params, x)
    assert len(calls) == used


def test_other_products_are_left_alone():
    """Three-dimensional inputs, other contractions, another type of the result."""
    rows, matrix = arrays(2)
    plain = (((1,), (0,)), ((), ()))
    for lhs, rhs, numbers, result in (
        (jnp.stack([rows] * 2), matrix, (((2,), (0,)), ((), ())), None),
        (rows, matrix.T, (((1,), (1,)), ((), ())), None),
        (rows.astype(jnp.bfloat16), matrix.astype(jnp.bfloat16), plain, jnp.float32),
    ):
        run = jax.make_jaxpr(
            lambda a, b, numbers=numbers, result=result: dense.dot_general(
                a, b, numbers, preferred_element_type=result
            )
        )
        assert [equation.primitive.name for equation in run(lhs, rhs).eqns] == ["dot_general"]
