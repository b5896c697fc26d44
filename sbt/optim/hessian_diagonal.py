"""The diagonal of the Hessian: exactly, for small nets, or by Hutchinson's estimator."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

Loss = Callable[..., jax.Array]

CHUNK = 8  # products at a time: little memory, and enough to fill a machine


def exact_hessian_diagonal(
    loss_fn: Loss, params: Any, *args: Any, chunk: int | None = CHUNK
) -> Any:
    r"""The diagonal :math:`h_i = \partial^2 L / \partial w_i^2`, one Hessian-vector product each.

    The cost is that of :math:`2d` gradients for :math:`d` parameters: for nets of ten thousand
    parameters at most. Networks of piecewise linear layers have the curvature of their smooth
    pieces only.

    Args:
      loss_fn: ``loss_fn(params, *args)``, a scalar.
      params: the point.
      *args: passed on, a batch for example.
      chunk: products computed at a time: the memory is that of as many gradients; None for all.

    Returns:
      A tree like ``params``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt import optim
      >>> print(optim.exact_hessian_diagonal(lambda w: w[0] ** 2 * w[1], jnp.array([1.0, 3.0])))
      [6. 0.]
    """
    flat, unravel = ravel_pytree(params)
    gradient = jax.grad(lambda w: loss_fn(unravel(w), *args))

    def entry(i: jax.Array) -> jax.Array:
        basis = jnp.zeros_like(flat).at[i].set(1)
        return jax.jvp(gradient, (flat,), (basis,))[1][i]

    if flat.size == 0:
        return params
    at_once = min(chunk or flat.size, flat.size)
    return unravel(jax.lax.map(entry, jnp.arange(flat.size), batch_size=at_once))


def hutchinson_diagonal(
    loss_fn: Loss, params: Any, key: jax.Array, *args: Any, samples: int = 1
) -> Any:
    r"""Unbiased estimate :math:`\frac1S \sum_s v_s \odot H v_s`, with random signs :math:`v_s`.

    An entry's variance is :math:`\frac1S \sum_{j \ne i} H_{ij}^2`: exact for a diagonal Hessian
    with one sample, noisy where the off-diagonal entries dominate. Note that rules divide by the
    estimate's magnitude, whose average over noise is larger than that of the entry.

    Args:
      loss_fn: ``loss_fn(params, *args)``, a scalar.
      params: the point.
      key: typed key (``jax.random.key``); a fresh one per call.
      *args: passed on, a batch for example.
      samples: :math:`S`; the cost is that of :math:`2S` gradients; None for all.

    Returns:
      A tree like ``params``.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from sbt import optim
      >>> loss = lambda w: 2.0 * w[0] ** 2 - w[1] ** 2
      >>> print(optim.hutchinson_diagonal(loss, jnp.ones(2), jax.random.key(0)))
      [ 4. -2.]
    """
    leaves, structure = jax.tree.flatten(params)
    gradient = jax.grad(lambda w: loss_fn(w, *args))

    def add(total: Any, sample_key: jax.Array) -> tuple[Any, None]:
        keys = jax.random.split(sample_key, len(leaves))
        signs = [jax.random.rademacher(k, p.shape, p.dtype) for k, p in zip(keys, leaves)]
        probe = jax.tree.unflatten(structure, signs)
        product = jax.jvp(gradient, (params,), (probe,))[1]
        return jax.tree.map(lambda t, v, hv: t + v * hv, total, probe, product), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    total, _ = jax.lax.scan(add, zeros, jax.random.split(key, samples))
    return jax.tree.map(lambda t: t / samples, total)
