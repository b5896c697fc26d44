"""Dense layers whose gradients move the weights as little as they can, on CPU, lane after lane.

At a few examples a dense layer is bound by moving its weights. XLA:CPU adds to that: it transposes
the matrix for the gradient of the rows, and since the gradient of the matrix, and with it the
update, could come before that, it copies the matrix at every step. Here few rows are multiplied one
by one, and the gradient of the matrix waits for that of the rows, so that the update is in place.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# More rows than these, and one product for all of them is faster.
FEW_ROWS = 4


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
        pull = functools.partial(jnp.dot, matrix, precision=precision)
        few = g.shape[0] <= FEW_ROWS
        grad_rows = jnp.stack([pull(row) for row in g]) if few else pull(g.T).T
        # Adding zero of it is the only order that XLA:CPU keeps; it drops optimization barriers.
        g = g + jnp.zeros((), g.dtype) * grad_rows[:, :1]
    return grad_rows, jnp.dot(rows.T, g, precision=precision)


product.defvjp(_forward, _backward, symbolic_zeros=True)
