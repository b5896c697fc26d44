r"""The Hessian of a loss over a whole split: products, eigenvalues, and in full for small nets."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sbt.errors import UserError
from sbt.measure.lanczos import dot, lanczos, ritz
from sbt.measure.trees import Loss, Where, check_finite, fast, ravel
from sbt.optim.hessian_diagonal import CHUNK, exact_hessian_diagonal
from sbt.ranges import COUNT, check_number

Which = Literal["largest", "smallest", "magnitude"]


class Operator(NamedTuple):
    """The Hessian of the selected parameters as a symmetric linear map."""

    product: Callable[[jax.Array], jax.Array]  # shape (n,) -> shape (n,)
    point: jax.Array  # shape=(n,), the selected parameters
    unravel: Callable[[jax.Array], Any]  # vector -> tree like params


def hessian_operator(loss_fn: Loss, params: Any, where: Where = None) -> Operator:
    r"""The map :math:`v \mapsto H v`, :math:`H` being the Hessian of the selected parameters.

    A product is the derivative of the gradient along :math:`v` (forward over reverse), exact up to
    rounding; it costs about two gradients. With :func:`sbt.measure.over_split` it goes through the
    split batch by batch. With a filter it is the block of the selected parameters.

    Args:
      loss_fn: mean loss over the whole split, see :func:`sbt.measure.over_split`.
      params: the point, any tree.
      where: the parameters that count, see :data:`sbt.measure.Where`.

    Raises:
      UserError: for parameters that are not finite, or a filter that selects nothing.

    Examples:
      >>> h = hessian_operator(lambda w: w[0] ** 2 * w[1], jnp.array([1.0, 3.0]))
      >>> print(h.product(jnp.array([1.0, 0.0])))
      [6. 2.]
    """
    check_finite(params)
    point, unravel = ravel(params, where)
    loss = fast(loss_fn)
    gradient = jax.grad(lambda x: loss(unravel(x)))
    return Operator(lambda v: jax.jvp(gradient, (point,), (v,))[1], point, unravel)


class Eigen(NamedTuple):
    """Eigenvalues in the order asked for."""

    values: jax.Array  # shape=(k,), loss per parameter², nats if the loss is in nats
    residuals: jax.Array  # shape=(k,), |H u - value u|: an eigenvalue lies within that distance
    vectors: jax.Array  # shape=(k, n), unit vectors of the selected parameters, see ravel


def top_eigenvalues(
    loss_fn: Loss,
    params: Any,
    count: int = 1,
    *,
    which: Which = "largest",
    where: Where = None,
    order: int | None = None,
    key: jax.Array | None = None,
) -> Eigen:
    r"""Extreme eigenvalues of the Hessian by Lanczos, with error bounds.

    Converges first where eigenvalues stand apart, as the largest ones of a trained net do. The
    residual is a bound on the error: raise ``order`` until it is small enough. Eigenvalues are
    found with their multiplicity only as far as ``order`` allows; ``order = n`` gives all of them.

    Cost: ``order`` Hessian-vector products, memory for ``order`` copies of the parameters. Can be
    mapped over lanes.

    Args:
      loss_fn: mean loss over the whole split, see :func:`sbt.measure.over_split`.
      params: the point, any tree.
      count: how many.
      which: ``'largest'`` (signed), ``'smallest'`` (the most negative curvature) or
        ``'magnitude'``, each in that order.
      where: the parameters that count; the eigenvalues are those of their diagonal block.
      order: Lanczos steps; None for ``2 count + 30``, and never more than the parameters.
      key: typed key of the random start; None for ``jax.random.key(0)``.

    Raises:
      UserError: for parameters that are not finite, a filter that selects nothing, more
        eigenvalues than parameters or steps, or an unknown ``which``.

    Examples:
      >>> loss = lambda w: 3.0 * w[0] ** 2 - 2.0 * w[1] ** 2 + 0.5 * w[2] ** 2
      >>> print(top_eigenvalues(loss, jnp.ones(3), 2).values.round(4))
      [6. 1.]
      >>> print(top_eigenvalues(loss, jnp.ones(3), which='smallest').values.round(4))
      [-4.]

    References:
      Ghorbani, Krishnan and Xiao, `An Investigation into Neural Net Optimization via Hessian
      Eigenvalue Density <https://arxiv.org/abs/1901.10159>`_, 2019
    """
    operator = hessian_operator(loss_fn, params, where)
    size = operator.point.size
    check_number("count", count, COUNT, whole=True)
    steps = min(size, 2 * count + 30 if order is None else order)
    if not 1 <= count <= steps:
        raise UserError(
            "count",
            f"{count} eigenvalues from {steps} Lanczos steps on {size} parameters",
            f"ask for 1 to {steps}, or raise the order (at most {size})",
        )
    key = jax.random.key(0) if key is None else key
    start = jax.random.normal(jax.random.fold_in(key, 0), (size,), operator.point.dtype)
    tridiagonal = lanczos(operator.product, start, steps, jax.random.fold_in(key, 1))
    found = ritz(tridiagonal)
    if which == "largest":
        rank = -found.values
    elif which == "smallest":
        rank = found.values
    elif which == "magnitude":
        rank = -jnp.abs(found.values)
    else:
        raise UserError("which", f"unknown: {which!r}", "use 'largest', 'smallest' or 'magnitude'")
    best = jnp.argsort(rank)[:count]
    vectors = dot(found.vectors[:, best].T, tridiagonal.basis)
    return Eigen(found.values[best], found.residuals[best], vectors)


def explicit_hessian(
    loss_fn: Loss, params: Any, where: Where = None, *, chunk: int = 1, limit: int = 10_000
) -> jax.Array:
    r"""The Hessian of the selected parameters as a matrix, for small nets.

    Args:
      loss_fn: mean loss over the whole split.
      params: the point.
      where: the parameters that count.
      chunk: columns computed at a time.
      limit: more parameters than this are refused (10 000 take 400 MB in float32).

    Returns:
      Shape ``(n, n)``, in the order of :func:`sbt.measure.ravel`; symmetric up to rounding.

    Raises:
      UserError: for more parameters than ``limit``, or as :func:`hessian_operator`.

    Examples:
      >>> print(explicit_hessian(lambda w: w[0] ** 2 * w[1], jnp.array([1.0, 3.0])))
      [[6. 2.]
       [2. 0.]]
    """
    operator = hessian_operator(loss_fn, params, where)
    size = operator.point.size
    if size > limit:
        raise UserError(
            "params",
            f"the Hessian of {size} parameters has {size**2:,} entries",
            f"filter to at most {limit} parameters, raise limit, or use top_eigenvalues",
        )
    return lax.map(operator.product, jnp.eye(size, dtype=operator.point.dtype), batch_size=chunk)


def exact_diagonal(
    loss_fn: Loss, params: Any, where: Where = None, *, chunk: int | None = CHUNK
) -> jax.Array:
    r"""The diagonal :math:`h_i = \partial^2 L/\partial w_i^2` of the selected parameters.

    One Hessian-vector product for each of them: for small nets or single layers.

    Args:
      loss_fn: mean loss over the whole split.
      params: the point.
      where: the parameters that count.
      chunk: products computed at a time: the memory is that of as many gradients; None for all.

    Returns:
      Shape ``(n,)``, in the order of :func:`sbt.measure.ravel`.

    Examples:
      >>> print(exact_diagonal(lambda w: w[0] ** 2 * w[1], jnp.array([1.0, 3.0])))
      [6. 0.]
    """
    check_finite(params)
    point, unravel = ravel(params, where)
    loss = fast(loss_fn)
    return exact_hessian_diagonal(lambda x: loss(unravel(x)), point, chunk=chunk)
