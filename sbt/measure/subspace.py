r"""The random matrix :math:`A` of Keskar's metric: products with it, stored or generated."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.linalg import solve_triangular
from jax.typing import ArrayLike

from sbt.errors import UserError, shown
from sbt.lapack import one_by_one
from sbt.measure.trees import checked_count, checked_key, dot
from sbt.optim.base import one_of

Distribution = Literal["normal", "uniform"]
Scale = Literal["entries", "columns"]

STORED_ELEMENTS = 2**26  # 256 MB in float32
BLOCK_ELEMENTS = 2**22


class Subspace(NamedTuple):
    """The span of a matrix's columns: the map out of it, its transpose, its pseudo-inverse."""

    directions: int  # p
    out: Callable[[jax.Array], jax.Array]  # z, shape (p,) -> A z, shape (n,)
    back: Callable[[jax.Array], jax.Array]  # x, shape (n,) -> A^T x, shape (p,)
    pinv: Callable[[jax.Array], jax.Array]  # x, shape (n,) -> A^+ x, shape (p,)


_COLUMNS = "give one direction in each column, and no more directions than parameters"


def matrix_subspace(matrix: ArrayLike) -> Subspace:
    r"""The subspace of a given :math:`A \in \mathbb R^{n \times p}`: directions of one's own.

    Args:
      matrix: :math:`A`, one direction in each column; :math:`n` in the order of
        :func:`sbt.measure.ravel`.

    Raises:
      UserError: not a matrix of finite real numbers, more columns than rows, or columns of which
        one depends on the others (there is no box along it).

    Examples:
      >>> plane = matrix_subspace(jnp.array([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
      >>> print(plane.out(jnp.array([1.0, 1.0])), plane.pinv(jnp.array([2.0, 3.0, 4.0])))
      [2. 1. 0.] [1. 3.]
    """
    try:
        a = jnp.asarray(matrix)
    except (TypeError, ValueError):
        raise UserError("matrix", f"{shown(matrix)} is not a matrix", _COLUMNS) from None
    if a.ndim != 2 or not 1 <= a.shape[1] <= a.shape[0]:
        raise UserError("matrix", f"has shape {a.shape}", _COLUMNS)
    if jnp.issubdtype(a.dtype, jnp.complexfloating):
        raise UserError("matrix", f"holds complex numbers ({a.dtype})", "give real numbers")
    if not jnp.issubdtype(a.dtype, jnp.floating):
        a = a.astype(jnp.result_type(float))
    if not isinstance(a, jax.core.Tracer):
        if not bool(jnp.all(jnp.isfinite(a))):
            raise UserError("matrix", "holds values that are not finite", "give finite numbers")
        if np.linalg.matrix_rank(np.asarray(a)) < a.shape[1]:
            problem = f"its {a.shape[1]} columns are linearly dependent"
            raise UserError("matrix", problem, "leave out directions that others span")
    # Of orthonormal columns the pseudo-inverse is exact, whatever the scale of A's.
    q, r = jnp.linalg.qr(a)

    def pinv(x: jax.Array) -> jax.Array:
        return solve_triangular(r, dot(q.T, x))

    return Subspace(a.shape[1], lambda z: dot(a, z), lambda x: dot(a.T, x), pinv)


def random_subspace(
    parameters: int,
    directions: int,
    key: jax.Array,
    *,
    distribution: Distribution = "normal",
    scale: Scale = "entries",
    stored: bool | None = None,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> Subspace:
    r"""A random :math:`A \in \mathbb R^{n \times p}` with independent entries.

    The paper gives neither distribution nor scale. The default is the one that comes nearest to its
    tables: on a narrow F1 (five layers of 128, 2000 MNIST digits, ADAM with batches of 16 and 200)
    subspace over full-space sharpness at :math:`\epsilon = 10^{-3}` and :math:`5 \cdot 10^{-4}` is
    0.20 and 0.24 (small batch), 0.07 and 0.07 (large batch) with normal entries, 0.09, 0.12, 0.004
    and 0.02 with uniform ones, and below 0.0005 with columns of norm 1, whose steps
    :math:`\|A z\| \approx 10 \epsilon` hardly move a net. The paper's F1 has 0.09, 0.08, 0.04 and
    0.21; its other nets lie between 0.03 and 0.9. As the entries average out,
    :math:`(A^+ x)_i \approx 0` for large nets: the box is about :math:`\pm\epsilon`.

    Row :math:`i` is drawn from ``key`` folded with :math:`i`, so a stored matrix and one that is
    generated anew in every product are the same. The pseudo-inverse goes through the normal
    equations, :math:`A^+ x = (A^\top A)^{-1} A^\top x`, with two steps of refinement.

    Args:
      parameters: :math:`n`.
      directions: :math:`p \le n`.
      key: typed key.
      distribution: ``'normal'``, entries N(0, 1); ``'uniform'``, entries U(-1, 1).
      scale: ``'entries'`` leaves them as drawn; ``'columns'`` divides every column by its norm.
      stored: whether to keep :math:`A` (``n p`` numbers) or to generate blocks of rows when they
        are needed; None stores up to 256 MB of float32.
      dtype: of products; the entries are always drawn in float32, and so the same.

    Raises:
      UserError: for more directions than parameters, or an unknown choice.
    """
    key = checked_key(key)
    checked_count("parameters", parameters)
    checked_count("directions", directions)
    if directions > parameters:
        raise UserError(
            "directions",
            f"a subspace of {directions} directions is larger than the {parameters} parameters",
            f"use at most {parameters}, or the full space",
        )
    one_of("distribution", distribution, get_args(Distribution))
    one_of("scale", scale, get_args(Scale))
    if stored is None:
        stored = parameters * directions <= STORED_ELEMENTS
    block = parameters if stored else max(1, min(parameters, BLOCK_ELEMENTS // directions))
    blocks = math.ceil(parameters / block)

    def row(i: jax.Array) -> jax.Array:
        row_key = jax.random.fold_in(key, i)
        if distribution == "normal":
            entries = jax.random.normal(row_key, (directions,), jnp.float32)
        else:
            entries = jax.random.uniform(row_key, (directions,), jnp.float32, minval=-1)
        return entries.astype(dtype)

    def rows(b: jax.Array | int) -> jax.Array:
        """Rows of block ``b``; those past the end are zero."""
        index = b * block + jnp.arange(block)
        return jnp.where((index < parameters)[:, None], jax.vmap(row)(index), jnp.zeros((), dtype))

    matrix = rows(0) if stored else None

    def over_blocks(
        product: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array
    ) -> jax.Array:
        """Sum over the blocks of rows of ``product(rows, part of x)``."""
        if matrix is not None:
            return product(matrix, x)
        padded = jnp.pad(x, (0, blocks * block - parameters))

        def add(b: jax.Array, total: jax.Array) -> jax.Array:
            part = lax.dynamic_slice_in_dim(padded, b * block, block)
            return total + product(rows(b), part)

        return lax.fori_loop(1, blocks, add, product(rows(0), padded[:block]))

    gram = over_blocks(lambda a, _: dot(a.T, a), jnp.zeros(parameters, dtype))
    unit = 1 / jnp.sqrt(jnp.diagonal(gram)) if scale == "columns" else jnp.ones(directions, dtype)
    # The inverse is formed once, for any number of lanes; refinement makes up for its rounding.
    inverse = one_by_one(jnp.linalg.inv)(gram * unit[:, None] * unit[None, :])

    def out(z: jax.Array) -> jax.Array:
        z = unit * z
        if matrix is not None:
            return dot(matrix, z)
        return lax.map(lambda b: dot(rows(b), z), jnp.arange(blocks)).reshape(-1)[:parameters]

    def back(x: jax.Array) -> jax.Array:
        return unit * over_blocks(lambda a, part: dot(a.T, part), x)

    def pinv(x: jax.Array) -> jax.Array:
        z = dot(inverse, back(x))
        for _ in range(2):
            z = z + dot(inverse, back(x - out(z)))
        return z

    return Subspace(directions, out, back, pinv)
