r"""Density of the Hessian's eigenvalues by stochastic Lanczos quadrature."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sbt.errors import UserError
from sbt.measure.hessian import hessian_operator
from sbt.measure.lanczos import lanczos, ritz
from sbt.measure.trees import Loss, Where


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
      loss_fn: mean loss over the whole split, see :func:`sbt.measure.over_split`.
      params: the point, any tree.
      probes: number of random vectors.
      order: Lanczos steps from each; never more than the parameters.
      points: of the grid.
      width: :math:`\sigma` as a fraction of the spectrum's range; resolution of the picture.
      where: the parameters that count.
      key: typed key; None for ``jax.random.key(0)``.

    Raises:
      UserError: for parameters that are not finite, a filter that selects nothing, or no probe.

    Examples:
      >>> loss = lambda w: 0.5 * jnp.sum(jnp.array([1.0, 1.0, 1.0, 5.0]) * w**2)
      >>> found = spectral_density(loss, jnp.ones(4), probes=1)
      >>> print((found.nodes[0] * found.weights[0]).sum().round(4))  # mean eigenvalue
      2.0
      >>> step = found.grid[1] - found.grid[0]
      >>> print((found.density.sum() * step).round(3))
      1.0

    References:
      Ghorbani, Krishnan and Xiao, `An Investigation into Neural Net Optimization via Hessian
      Eigenvalue Density <https://arxiv.org/abs/1901.10159>`_, 2019
    """
    if probes < 1 or order < 1 or width <= 0:
        raise UserError(
            "probes, order, width",
            f"{probes}, {order}, {width}",
            "use 1 or more probes and steps, and a positive width",
        )
    operator = hessian_operator(loss_fn, params, where)
    point = operator.point
    key = jax.random.key(0) if key is None else key
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
