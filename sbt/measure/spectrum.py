r"""The Hessian of a loss over a whole split: products, eigenvalues, density, trace and diagonal.

References:
  Ghorbani, Krishnan and Xiao, `An Investigation into Neural Net Optimization via Hessian Eigenvalue
  Density <https://arxiv.org/abs/1901.10159>`_, 2019
"""

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax

from sbt.errors import UserError
from sbt.lapack import one_by_one
from sbt.measure.registry import MEASUREMENTS, STEPS, Found, Labelled, Subject
from sbt.measure.trees import Loss, Where, checked_count, checked_key, dot, surface
from sbt.optim.base import one_of
from sbt.optim.curvature import CHUNK, exact_hessian_diagonal, hutchinson_diagonal
from sbt.ranges import POSITIVE, Range, check_number

Which = Literal["largest", "smallest", "magnitude"]
SAMPLES = Range(2, 2**31 - 1)  # of an average with a standard error

Product = Callable[[jax.Array], jax.Array]
"""``v -> M v`` for a symmetric matrix."""


class Operator(NamedTuple):
    """The Hessian of the selected parameters as a symmetric linear map."""

    product: Product  # shape (n,) -> shape (n,)
    point: jax.Array  # shape=(n,), the selected parameters
    unravel: Callable[[jax.Array], Any]  # vector -> tree like params


def hessian_operator(loss_fn: Loss, params: Any, where: Where = None) -> Operator:
    r"""The map :math:`v \mapsto H v`, :math:`H` being the Hessian of the selected parameters.

    A product is the derivative of the gradient along :math:`v` (forward over reverse), exact up to
    rounding; it costs about two gradients. With :func:`sbt.measure.over_split` it goes through the
    split batch by batch. With a filter it is the block of the selected parameters.

    Examples:
      >>> h = hessian_operator(lambda w: w[0] ** 2 * w[1], jnp.array([1.0, 3.0]))
      >>> print(h.product(jnp.array([1.0, 0.0])))
      [6. 2.]
    """
    at = surface(loss_fn, params, where)
    gradient = jax.grad(at.loss)
    return Operator(lambda v: jax.jvp(gradient, (at.point,), (v,))[1], at.point, at.unravel)


# --- Lanczos --------------------------------------------------------------------------------------


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


def ritz(tridiagonal: Tridiagonal) -> Ritz:
    """Eigenpairs of the tridiagonal matrix, with residuals and quadrature weights."""
    beta = tridiagonal.off_diagonal
    matrix = jnp.diag(tridiagonal.diagonal) + jnp.diag(beta[:-1], 1) + jnp.diag(beta[:-1], -1)
    values, vectors = one_by_one(jnp.linalg.eigh)(matrix)
    rounding = float(jnp.finfo(values.dtype).eps) * jnp.max(jnp.abs(values))
    residuals = jnp.abs(beta[-1] * vectors[-1]) + rounding
    return Ritz(values, residuals, jnp.square(vectors[0]), vectors)


# --- eigenvalues and their density ----------------------------------------------------------------


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
      count: how many.
      which: ``'largest'`` (signed), ``'smallest'`` (the most negative curvature) or
        ``'magnitude'``, each in that order.
      where: the parameters that count; the eigenvalues are those of their diagonal block.
      order: Lanczos steps; None for ``2 count + 30``, and never more than the parameters.
      key: typed key of the random start; None for ``jax.random.key(0)``.

    Raises:
      UserError: for more eigenvalues than parameters or steps, or an unknown ``which``.

    Examples:
      >>> loss = lambda w: 3.0 * w[0] ** 2 - 2.0 * w[1] ** 2 + 0.5 * w[2] ** 2
      >>> print(top_eigenvalues(loss, jnp.ones(3), 2).values.round(4))
      [6. 1.]
      >>> print(top_eigenvalues(loss, jnp.ones(3), which='smallest').values.round(4))
      [-4.]
    """
    one_of("which", which, get_args(Which))
    operator = hessian_operator(loss_fn, params, where)
    size = operator.point.size
    checked_count("count", count)
    steps = min(size, 2 * count + 30 if order is None else checked_count("order", order))
    if not 1 <= count <= steps:
        raise UserError(
            "count",
            f"{count} eigenvalues from {steps} Lanczos steps on {size} parameters",
            f"ask for 1 to {steps}, or raise the order (at most {size})",
        )
    key = checked_key(key)
    start = jax.random.normal(jax.random.fold_in(key, 0), (size,), operator.point.dtype)
    tridiagonal = lanczos(operator.product, start, steps, jax.random.fold_in(key, 1))
    found = ritz(tridiagonal)
    size_of = {"largest": -found.values, "smallest": found.values}
    best = jnp.argsort(size_of.get(which, -jnp.abs(found.values)))[:count]
    vectors = dot(found.vectors[:, best].T, tridiagonal.basis)
    return Eigen(found.values[best], found.residuals[best], vectors)


class SpectralDensity(NamedTuple):
    """A quadrature of the spectrum, and its smooth picture."""

    nodes: jax.Array  # shape=(probes, m), eigenvalues of the tridiagonal matrices
    weights: jax.Array  # shape=(probes, m), share of the spectrum; each row sums to 1
    grid: jax.Array  # shape=(points,), eigenvalues, loss per parameter²
    density: jax.Array  # shape=(points,), share of the spectrum per unit of eigenvalue
    width: jax.Array  # shape=(), standard deviation of the Gaussians that stand for the nodes


def spectral_density(
    loss_fn: Loss,
    params: Any,
    *,
    probes: int = 10,
    order: int = 80,
    points: int = 1000,
    width: float = 0.01,
    where: Where = None,
    key: jax.Array | None = None,
) -> SpectralDensity:
    r"""Density of the Hessian's eigenvalues, by Gauss quadrature from random vectors.

    With the Ritz values :math:`\theta_j` and first components :math:`\tau_j` of ``order`` Lanczos
    steps from a random vector of signs,

    .. math::

      \frac1n \operatorname{tr} f(H) \approx \frac1S \sum_{s=1}^{S} \sum_j \tau_{sj}^2
        f(\theta_{sj}), \qquad
      \rho(t) \approx \frac1S \sum_{s,j} \tau_{sj}^2\, \mathcal N(t;\ \theta_{sj}, \sigma^2)

    For one probe the quadrature is exact for polynomials of degree ``2 order - 1``; what remains is
    the scatter between probes, which shrinks with the number of parameters as well. Outlying
    eigenvalues show as a peak of height ``1 / n``: draw the density on a logarithmic axis.

    Cost: ``probes * order`` Hessian-vector products, memory for ``order`` copies of the parameters.

    Args:
      probes: number of random vectors.
      order: Lanczos steps from each; never more than the parameters.
      points: of the grid.
      width: :math:`\sigma` as a fraction of the spectrum's range; resolution of the picture.

    Raises:
      UserError: for no probe.

    Examples:
      >>> loss = lambda w: 0.5 * jnp.sum(jnp.array([1.0, 1.0, 1.0, 5.0]) * w**2)
      >>> found = spectral_density(loss, jnp.ones(4), probes=1)
      >>> print((found.nodes[0] * found.weights[0]).sum().round(4))  # mean eigenvalue
      2.0
      >>> step = found.grid[1] - found.grid[0]
      >>> print((found.density.sum() * step).round(3))
      1.0
    """
    for name, value in (("probes", probes), ("order", order), ("points", points)):
        checked_count(name, value)
    check_number("width", width, POSITIVE)
    operator = hessian_operator(loss_fn, params, where)
    point = operator.point
    key = checked_key(key)
    steps = min(order, point.size)

    def probe(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        start_key, key_i = jax.random.split(jax.random.fold_in(key, i))
        start = jax.random.rademacher(start_key, point.shape, point.dtype)
        found = ritz(lanczos(operator.product, start, steps, key_i))
        return found.values, found.weights

    nodes, weights = lax.map(probe, jnp.arange(probes))
    low, high = jnp.min(nodes), jnp.max(nodes)
    size = jnp.maximum(jnp.abs(low), jnp.abs(high))
    # A spectrum of one value has no range: its size, or 1 for a zero Hessian, stands in.
    spread = jnp.where(high - low > 1e-6 * size, high - low, jnp.where(size > 0, size, 1))
    sigma = width * spread
    grid = jnp.linspace(low - 5 * sigma, high + 5 * sigma, points)

    def height(t: jax.Array) -> jax.Array:
        bells = jnp.exp(-0.5 * jnp.square((t - nodes) / sigma))
        return jnp.sum(weights * bells) / (probes * sigma * math.sqrt(2 * math.pi))

    return SpectralDensity(nodes, weights, grid, lax.map(height, grid, batch_size=100), sigma)


# --- trace and diagonal ---------------------------------------------------------------------------


class Estimate(NamedTuple):
    """Mean of independent samples, and the standard deviation of that mean."""

    value: jax.Array
    standard_error: jax.Array  # of the same shape; sqrt(sample variance / samples)


def _signs(point: jax.Array, key: jax.Array, i: jax.Array) -> jax.Array:
    return jax.random.rademacher(jax.random.fold_in(key, i), point.shape, point.dtype)


def hessian_trace(
    loss_fn: Loss,
    params: Any,
    *,
    samples: int = 100,
    where: Where = None,
    key: jax.Array | None = None,
    chunk: int = 1,
) -> Estimate:
    r"""Trace of the Hessian, :math:`E[v^\top H v]` over random signs :math:`v`.

    The variance of one sample is :math:`2 \sum_{i \ne j} H_{ij}^2`: a diagonal Hessian needs no
    average. The returned standard error is estimated from the samples themselves.

    Cost: ``samples`` Hessian-vector products.

    Args:
      samples: number of random vectors, 2 or more.
      where: the parameters that count; the trace is that of their diagonal block.

    Raises:
      UserError: for fewer than two samples.

    Examples:
      >>> estimate = hessian_trace(lambda w: 3.0 * w[0] ** 2 - w[1] ** 2, jnp.ones(2))
      >>> print(estimate.value, estimate.standard_error)
      4.0 0.0
    """
    check_number("samples", samples, SAMPLES, whole=True)
    operator, key = hessian_operator(loss_fn, params, where), checked_key(key)
    chunk = checked_count("chunk", chunk)

    def sample(i: jax.Array) -> jax.Array:
        v = _signs(operator.point, key, i)
        return jnp.vdot(v, operator.product(v))

    found = lax.map(sample, jnp.arange(samples), batch_size=chunk)
    return Estimate(jnp.mean(found), jnp.std(found, ddof=1) / math.sqrt(samples))


def diagonal_estimate(
    loss_fn: Loss,
    params: Any,
    *,
    samples: int = 100,
    where: Where = None,
    key: jax.Array | None = None,
) -> Estimate:
    r"""Diagonal of the Hessian, :math:`E[v \odot H v]` over random signs :math:`v`.

    An entry's variance is :math:`\frac1S \sum_{j \ne i} H_{ij}^2`, often larger than the entry:
    mind the standard error before dividing by it.

    Cost: ``samples`` Hessian-vector products; memory for two vectors, whatever the samples.

    Args:
      samples: number of random vectors, 2 or more.

    Returns:
      Vectors of shape ``(n,)``, in the order of :func:`sbt.measure.ravel`.

    Examples:
      >>> print(diagonal_estimate(lambda w: 3.0 * w[0] ** 2 - w[1] ** 2, jnp.ones(2)).value)
      [ 6. -2.]
    """
    check_number("samples", samples, SAMPLES, whole=True)
    at, key = surface(loss_fn, params, where), checked_key(key)
    gradient = jax.grad(at.loss)

    def add(i: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        mean, squares = state  # Welford: no difference of large sums
        entry = hutchinson_diagonal(gradient, at.point, _signs(at.point, key, i))
        step = entry - mean
        mean = mean + step / (i + 1).astype(mean.dtype)
        return mean, squares + step * (entry - mean)

    zeros = jnp.zeros_like(at.point)
    mean, squares = lax.fori_loop(0, samples, add, (zeros, zeros))
    return Estimate(mean, jnp.sqrt(squares / (samples * (samples - 1))))


def exact_diagonal(
    loss_fn: Loss, params: Any, where: Where = None, *, chunk: int | None = CHUNK
) -> jax.Array:
    r"""The diagonal :math:`h_i = \partial^2 L/\partial w_i^2` of the selected parameters.

    One Hessian-vector product for each of them: for small nets or single layers.

    Args:
      chunk: products computed at a time: the memory is that of as many gradients; None for all.

    Returns:
      Shape ``(n,)``, in the order of :func:`sbt.measure.ravel`.

    Examples:
      >>> print(exact_diagonal(lambda w: w[0] ** 2 * w[1], jnp.array([1.0, 3.0])))
      [6. 0.]
    """
    at = surface(loss_fn, params, where)
    if chunk is not None:
        checked_count("chunk", chunk)
    return exact_hessian_diagonal(at.loss, at.point, chunk=chunk)


# --- measured on a run ----------------------------------------------------------------------------


@MEASUREMENTS.register("hessian_eigenvalues", cost="heavy", source="Ghorbani et al. 2019")
def hessian_eigenvalues(
    run: Subject,
    *,
    count: Annotated[int, STEPS] = 1,
    which: Which = "largest",
    order: Annotated[int, STEPS] = 30,
) -> Found:
    """Extreme eigenvalues of the Hessian, and bounds of their errors.

    Args:
      run: what is measured.
      count: how many.
      which: ``largest``, ``smallest`` or ``magnitude``.
      order: Lanczos steps, a Hessian-vector product over the split each.
    """
    found = top_eigenvalues(
        run.loss, run.params, count, which=which, where=run.where, order=order, key=run.key
    )
    dims = (("rank", tuple(range(1, count + 1))),)
    return {
        "hessian_eigenvalue": Labelled(found.values, dims, "", f"{which} Hessian eigenvalues"),
        "hessian_eigenvalue_residual": Labelled(found.residuals, dims, "", "bound of their error"),
    }


@MEASUREMENTS.register("hessian_trace", cost="heavy", source="Hutchinson 1990")
def trace_of(run: Subject, *, samples: Annotated[int, SAMPLES] = 30) -> Found:
    """Trace of the Hessian by Hutchinson's estimator, with its standard error.

    Args:
      run: what is measured.
      samples: random vectors, a Hessian-vector product over the split each.
    """
    found = hessian_trace(run.loss, run.params, samples=samples, where=run.where, key=run.key)
    return {
        "hessian_trace": Labelled(found.value, (), "", "trace of the Hessian"),
        "hessian_trace_error": Labelled(found.standard_error, (), "", "its standard error"),
    }


@MEASUREMENTS.register("hessian_density", cost="heavy", source="Ghorbani et al. 2019")
def hessian_density(
    run: Subject,
    *,
    probes: Annotated[int, STEPS] = 1,
    order: Annotated[int, STEPS] = 30,
    points: Annotated[int, Range(2, 10**5)] = 200,
) -> Found:
    """Density of the Hessian's eigenvalues, and moments of it that need no picture.

    Args:
      run: what is measured.
      probes: random vectors.
      order: Lanczos steps from each, a Hessian-vector product over the split each.
      points: of the picture.
    """
    found = spectral_density(
        run.loss,
        run.params,
        probes=probes,
        order=order,
        points=points,
        where=run.where,
        key=run.key,
    )
    dims = (("point", tuple(range(points))),)
    mean = jnp.sum(found.weights * found.nodes) / probes
    square = jnp.sum(found.weights * jnp.square(found.nodes)) / probes
    negative = jnp.sum(jnp.where(found.nodes < 0, found.weights, 0)) / probes
    return {
        "hessian_density": Labelled(found.density, dims, "", "density of Hessian eigenvalues"),
        "hessian_density_at": Labelled(found.grid, dims, "", "eigenvalue"),
        "hessian_mean_eigenvalue": Labelled(mean, (), "", "mean Hessian eigenvalue"),
        "hessian_rms_eigenvalue": Labelled(
            jnp.sqrt(square), (), "", "root mean square Hessian eigenvalue"
        ),
        "hessian_negative_share": Labelled(
            negative, (), "", "share of negative Hessian eigenvalues"
        ),
    }
