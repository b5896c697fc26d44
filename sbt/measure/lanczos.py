r"""Lanczos tridiagonalisation with full re-orthogonalisation, compiled as one loop."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Product = Callable[[jax.Array], jax.Array]
"""``v -> M v`` for a symmetric matrix."""


class Tridiagonal(NamedTuple):
    r"""``M V^T = V^T T`` but for the last column, with orthonormal rows of ``V``."""

    diagonal: jax.Array  # shape=(m,)
    off_diagonal: jax.Array  # shape=(m,), the last entry couples to the vector that follows
    basis: jax.Array  # shape=(m, n)


class Ritz(NamedTuple):
    """Approximate eigenpairs, in ascending order."""

    values: jax.Array  # shape=(m,)
    residuals: jax.Array  # shape=(m,), |M u - value u|: an eigenvalue lies within that distance
    weights: jax.Array  # shape=(m,), squared overlap with the start vector; they sum to 1
    vectors: jax.Array  # shape=(m, m), column i holds Ritz vector i in the Lanczos basis


def lanczos(product: Product, start: jax.Array, order: int, key: jax.Array) -> Tridiagonal:
    r"""Runs ``order`` steps of Lanczos from a start vector.

    .. math::

      \beta_j v_{j+1} = M v_j - \alpha_j v_j - \beta_{j-1} v_{j-1}

    Every new vector is orthogonalised twice against all former ones, and once more after it is
    normalised, so that rounding brings back no copies of converged eigenvalues. Where
    :math:`\beta_j` vanishes (an invariant subspace, as with few distinct eigenvalues) the loop
    goes on from a random vector orthogonal to the former ones, with :math:`\beta_j = 0`: repeated
    eigenvalues are found too, and weights relative to the start vector are unaffected.

    Cost: ``order`` products, ``3 order² n`` operations besides, memory for ``order`` vectors.

    Args:
      product: of a symmetric matrix with a vector of shape ``(n,)``.
      start: any non-zero vector; sets shape and dtype.
      order: number of steps, at most ``n``.
      key: typed key for the random vectors.
    """
    rounding = float(jnp.finfo(start.dtype).eps)

    def orthogonal(basis: jax.Array, v: jax.Array, passes: int) -> jax.Array:
        for _ in range(passes):  # rows that are still empty subtract nothing
            v = v - dot(dot(basis, v), basis)
        return v

    def unit(basis: jax.Array, v: jax.Array) -> jax.Array:
        v = orthogonal(basis, v / jnp.linalg.norm(v), 1)
        return v / jnp.linalg.norm(v)

    def fresh(basis: jax.Array, j: jax.Array) -> jax.Array:
        v = jax.random.normal(jax.random.fold_in(key, j), start.shape, start.dtype)
        return unit(basis, orthogonal(basis, v, 1))

    def step(j: jax.Array, carry: tuple[Tridiagonal, jax.Array]) -> tuple[Tridiagonal, jax.Array]:
        (diagonal, off_diagonal, basis), v = carry
        basis = basis.at[j].set(v)
        w = product(v)
        alpha = dot(w, v)
        size = jnp.linalg.norm(w)
        w = orthogonal(basis, w, 2)
        beta = jnp.linalg.norm(w)
        ended = beta <= 20 * rounding * jnp.maximum(size, jnp.max(jnp.abs(diagonal)))
        v = lax.cond(ended, lambda: fresh(basis, j), lambda: unit(basis, w))
        beta = jnp.where(ended, jnp.zeros_like(beta), beta)
        filled = Tridiagonal(diagonal.at[j].set(alpha), off_diagonal.at[j].set(beta), basis)
        return filled, v

    zeros = jnp.zeros(order, start.dtype)
    empty = Tridiagonal(zeros, zeros, jnp.zeros((order, start.size), start.dtype))
    first = start / jnp.linalg.norm(start)
    return lax.fori_loop(0, order, step, (empty, first))[0]


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """Products that orthogonality rests on are never rounded to fewer bits."""
    return jnp.dot(a, b, precision=lax.Precision.HIGHEST)


def ritz(tridiagonal: Tridiagonal) -> Ritz:
    """Eigenpairs of the tridiagonal matrix, with residuals and quadrature weights."""
    beta = tridiagonal.off_diagonal
    matrix = jnp.diag(tridiagonal.diagonal) + jnp.diag(beta[:-1], 1) + jnp.diag(beta[:-1], -1)
    values, vectors = jnp.linalg.eigh(matrix)
    rounding = float(jnp.finfo(values.dtype).eps) * jnp.max(jnp.abs(values))
    residuals = jnp.abs(beta[-1] * vectors[-1]) + rounding
    return Ritz(values, residuals, jnp.square(vectors[0]), vectors)
