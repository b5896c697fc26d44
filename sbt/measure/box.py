r"""The box of Keskar's metric around a point, and the loss as a function of the place in it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from sbt.errors import UserError, shown
from sbt.measure.subspace import Subspace, random_subspace
from sbt.measure.trees import Loss, Where, check_finite, fast, ravel


class Box(NamedTuple):
    r"""Maximise ``height(z)`` over :math:`|z_i| \le` ``bound[i]``."""

    centre: Callable[[], jax.Array]  # f(x)
    height: Callable[[jax.Array], jax.Array]  # z -> f(x + A z)
    slope: Callable[[jax.Array], tuple[jax.Array, jax.Array]]  # z -> that and its gradient in z
    bound: jax.Array  # shape=(p,), or (n,) in the full space


def sharpness_box(
    loss_fn: Loss,
    params: Any,
    epsilon: ArrayLike,
    subspace: Subspace | int | None,
    key: jax.Array,
    where: Where,
) -> Box:
    r"""The box :math:`|z_i| \le \epsilon (|(A^+ x)_i| + 1)`; see :mod:`sbt.measure.sharpness`.

    Raises:
      UserError: for parameters that are not finite, a filter that selects nothing, a subspace
        larger than the parameters, or :math:`\epsilon \le 0`.
    """
    check_finite(params)
    if not isinstance(epsilon, jax.core.Tracer):
        width = np.asarray(epsilon)
        if width.dtype.kind not in "iuf" or not np.all(width > 0):
            problem = f"{shown(epsilon)} leaves no box"
            raise UserError("epsilon", problem, "use a positive half-width, as 1e-3")
    if not isinstance(subspace, int | Subspace | None):
        remedy = "give None for the full space, a number of random directions, or a Subspace"
        raise UserError("subspace", f"{shown(subspace)} is not a subspace", remedy)
    x, unravel = ravel(params, where)
    loss = fast(loss_fn)
    if isinstance(subspace, int):
        subspace = random_subspace(x.size, subspace, key, dtype=x.dtype)
    place = x if subspace is None else subspace.pinv(x)

    def at(displacement: jax.Array) -> jax.Array:
        return loss(unravel(x + displacement))

    def height(z: jax.Array) -> jax.Array:
        return at(z if subspace is None else subspace.out(z))

    def slope(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        if subspace is None:
            return jax.value_and_grad(at)(z)
        value, gradient = jax.value_and_grad(at)(subspace.out(z))
        return value, subspace.back(gradient)

    bound = jnp.asarray(epsilon, x.dtype) * (jnp.abs(place) + 1)
    return Box(lambda: loss(unravel(x)), height, slope, bound)
