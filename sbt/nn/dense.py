"""Dense layers whose gradients move the weights as little as they can, on CPU, lane after lane.

At a few examples a dense layer is bound by moving its weights. XLA:CPU adds to that: it transposes
the matrix for the gradient of the rows, and since the gradient of the matrix, and with it the
update, could come before that, it copies the matrix at every step. Here the gradient of the matrix
waits for that of the rows, so that the update is in place. Of few rows it is a sum of outer
products, element by element, which XLA computes inside the update and never stores: F1's five
hidden layers at two examples read their weights three times and write them once.

Microseconds of one layer of 512 x 512 on one core of an AMD EPYC, six of them taking turns in a
loop, for 2 / 4 / 8 / 32 / 128 rows:

=====================  ===============================
gradient of the rows
---------------------  -------------------------------
matrix, transposed     35 / 38 / 46 / 106 / 327
row by row             19 / 43 / 71
as a sum               17 / 17 / 24 / 76 / 305
=====================  ===============================
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# A matrix of fewer numbers stays in a cache close by: rows are cheap to take one by one.
NEAR_NUMBERS = 2**17
# Most rows that are multiplied one by one with such a matrix (True), and with a larger one; most
# that are as a sum with a larger one: of more, whole networks gain nothing.
SINGLE_ROWS = {True: 8, False: 2}
SUMMED_ROWS = 8
# Most rows whose outer products are added up within the update of a larger matrix.
OUTER_ROWS = 4


def dot_general(
    lhs: jax.Array,
    rhs: jax.Array,
    dimension_numbers: Any,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """Drop-in for ``lax.dot_general`` in ``flax.linen.Dense(dot_general=...)``.

    Rows times a matrix go through :func:`product`; anything else is the stock operation.
    """
    plain = dimension_numbers == (((1,), (0,)), ((), ())) and lhs.ndim == rhs.ndim == 2
    if plain and lhs.dtype == rhs.dtype and preferred_element_type in (None, lhs.dtype):
        return product(lhs, rhs, precision)
    return lax.dot_general(lhs, rhs, dimension_numbers, precision, preferred_element_type)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(rows: jax.Array, matrix: jax.Array, precision: Any = None) -> jax.Array:
    """``rows @ matrix`` with the gradients described above, over which forward mode can go.

    Where the gradient of the rows is not finite, neither is that of the matrix.

    Args:
      rows: ``(n, c_in)``.
      matrix: ``(c_in, c_out)``.
      precision: as in ``jax.lax.dot_general``.
    """
    return jnp.dot(rows, matrix, precision=precision)


def _forward(rows: Any, matrix: Any, precision: Any) -> tuple[jax.Array, Any]:
    # Of a first layer's input nobody wants the gradient; None stands for that, statically.
    wanted = True if rows.perturbed else None
    # Not `product`, which has no forward mode: products with the Hessian are forward over reverse.
    y = jnp.dot(rows.value, matrix.value, precision=precision)
    return y, (rows.value, matrix.value, wanted)


def _backward(precision: Any, residuals: Any, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    rows, matrix, wanted = residuals
    if wanted is None:
        grad_rows = jnp.zeros_like(rows)
    else:
        grad_rows = _pulled(matrix, g, precision)
        # Adding zero of it is the only order that XLA:CPU keeps; it drops optimization barriers.
        g = g + jnp.zeros((), g.dtype) * grad_rows[:, :1]
    if len(g) <= OUTER_ROWS and not _near(matrix) and _exact(g):
        rows, g = _stored(rows), _stored(g)
        outer = (row[:, None] * of_row for row, of_row in zip(rows, g, strict=True))
        return grad_rows, functools.reduce(jnp.add, outer)
    return grad_rows, jnp.dot(rows.T, g, precision=precision)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _pulled(matrix: jax.Array, g: jax.Array, precision: Any) -> jax.Array:
    """``g @ matrix.T``."""
    if len(g) <= SINGLE_ROWS[_near(matrix)]:
        return jnp.stack([jnp.dot(matrix, row, precision=precision) for row in g])
    if len(g) <= SUMMED_ROWS and not _near(matrix) and _exact(g):
        return jnp.sum(matrix * g[:, None], axis=2)  # a loop over the matrix: nothing is stored
    return _transposed(matrix, g, precision)


@_pulled.defjvp
def _pulled_and_tangent(precision: Any, primals: Any, tangents: Any) -> tuple[Any, Any]:
    # In products with the Hessian XLA:CPU makes a slow loop of the sum.
    (matrix, g), (matrix_dot, g_dot) = primals, tangents
    along = _transposed(matrix_dot, g, precision) + _transposed(matrix, g_dot, precision)
    return _transposed(matrix, g, precision), along


def _transposed(matrix: jax.Array, g: jax.Array, precision: Any) -> jax.Array:
    return jnp.dot(matrix, g.T, precision=precision).T


def _near(matrix: jax.Array) -> bool:
    return matrix.size < NEAR_NUMBERS


def _stored(rows: jax.Array) -> jax.Array:
    """The same, as the result of an operation that XLA:CPU does not repeat in every reader.

    What made them, a batch norm say, would otherwise be computed anew for each number of the
    matrix.
    """
    return jnp.dot(jnp.eye(len(rows), dtype=rows.dtype), rows, precision="highest")


def _exact(g: jax.Array) -> bool:
    """Whether element by element is as precise as a matrix product."""
    return jnp.finfo(g.dtype).bits >= 32


product.defvjp(_forward, _backward, symbolic_zeros=True)
