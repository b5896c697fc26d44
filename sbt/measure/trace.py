r"""Trace and diagonal of the Hessian by Hutchinson's estimator, with its standard error."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sbt.measure.hessian import Operator, hessian_operator
from sbt.measure.trees import Loss, Where, selected
from sbt.ranges import Range, check_number

SAMPLES = Range(2, 2**31 - 1)  # of an average with a standard error


class Estimate(NamedTuple):
    """Mean of independent samples, and the standard deviation of that mean."""

    value: jax.Array
    standard_error: jax.Array  # of the same shape; sqrt(sample variance / samples)


def _probes(operator: Operator, key: jax.Array, samples: int, chunk: int, measure: Any) -> Any:
    """``measure(v, H v)`` for random signs ``v``, stacked over the samples."""
    check_number("samples", samples, SAMPLES, whole=True)

    def sample(i: jax.Array) -> Any:
        point = operator.point
        v = jax.random.rademacher(jax.random.fold_in(key, i), point.shape, point.dtype)
        return measure(v, operator.product(v))

    return lax.map(sample, jnp.arange(samples), batch_size=chunk)


def _mean(samples: jax.Array) -> Estimate:
    deviation = jnp.std(samples, axis=0, ddof=1)
    return Estimate(jnp.mean(samples, axis=0), deviation / math.sqrt(len(samples)))


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
      loss_fn: mean loss over the whole split, see :func:`sbt.measure.over_split`.
      params: the point, any tree.
      samples: number of random vectors, 2 or more.
      where: the parameters that count; the trace is that of their diagonal block.
      key: typed key; None for ``jax.random.key(0)``.
      chunk: products computed at a time.

    Raises:
      UserError: for parameters that are not finite, a filter that selects nothing, or fewer than
        two samples.

    Examples:
      >>> estimate = hessian_trace(lambda w: 3.0 * w[0] ** 2 - w[1] ** 2, jnp.ones(2))
      >>> print(estimate.value, estimate.standard_error)
      4.0 0.0
    """
    operator = hessian_operator(loss_fn, params, where)
    key = jax.random.key(0) if key is None else key
    return _mean(_probes(operator, key, samples, chunk, jnp.vdot))


def layer_traces(
    loss_fn: Loss,
    params: Any,
    *,
    samples: int = 100,
    where: Where = None,
    key: jax.Array | None = None,
    chunk: int = 1,
) -> dict[str, Estimate]:
    r"""Trace of every leaf's diagonal block, from the same products.

    :math:`\sum_{i \in l} v_i (Hv)_i` is unbiased for the trace of block :math:`l`; its variance has
    the off-diagonal entries of all rows in :math:`l`, so a layer measured alone (with ``where``) is
    somewhat less noisy. The values sum to the estimate of :func:`hessian_trace` with the same key.

    Args:
      loss_fn: mean loss over the whole split.
      params: the point.
      samples: number of random vectors, 2 or more.
      where: the leaves that count.
      key: typed key; None for ``jax.random.key(0)``.
      chunk: products computed at a time.

    Returns:
      Path of the leaf -> estimate.

    Raises:
      UserError: as :func:`hessian_trace`.

    Examples:
      >>> loss = lambda p: p['a'] ** 2 + 2.0 * p['b'] ** 2
      >>> traces = layer_traces(loss, {'a': jnp.ones(()), 'b': jnp.ones(())})
      >>> print({path: float(estimate.value) for path, estimate in traces.items()})
      {'a': 2.0, 'b': 4.0}
    """
    operator = hessian_operator(loss_fn, params, where)
    key = jax.random.key(0) if key is None else key
    sizes = [
        jnp.size(leaf)
        for (_, chosen), leaf in zip(selected(params, where), jax.tree.leaves(params))
        if chosen
    ]
    paths = [path for path, chosen in selected(params, where) if chosen]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]

    def by_leaf(v: jax.Array, product: jax.Array) -> list[jax.Array]:
        return [jnp.vdot(v[e - s : e], product[e - s : e]) for s, e in zip(sizes, ends)]

    sums = _probes(operator, key, samples, chunk, by_leaf)
    return {path: _mean(values) for path, values in zip(paths, sums)}


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
      loss_fn: mean loss over the whole split.
      params: the point.
      samples: number of random vectors, 2 or more.
      where: the parameters that count.
      key: typed key; None for ``jax.random.key(0)``.

    Returns:
      Vectors of shape ``(n,)``, in the order of :func:`sbt.measure.ravel`.

    Raises:
      UserError: as :func:`hessian_trace`.

    Examples:
      >>> print(diagonal_estimate(lambda w: 3.0 * w[0] ** 2 - w[1] ** 2, jnp.ones(2)).value)
      [ 6. -2.]
    """
    check_number("samples", samples, SAMPLES, whole=True)
    operator = hessian_operator(loss_fn, params, where)
    key = jax.random.key(0) if key is None else key
    point = operator.point

    def add(i: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        mean, squares = state  # Welford: no difference of large sums
        v = jax.random.rademacher(jax.random.fold_in(key, i), point.shape, point.dtype)
        entry = v * operator.product(v)
        step = entry - mean
        mean = mean + step / (i + 1).astype(point.dtype)
        return mean, squares + step * (entry - mean)

    zeros = jnp.zeros_like(point)
    mean, squares = lax.fori_loop(0, samples, add, (zeros, zeros))
    return Estimate(mean, jnp.sqrt(squares / (samples * (samples - 1))))
