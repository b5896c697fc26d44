r"""Keskar's sharpness by SciPy's L-BFGS-B: the paper's inexact maximiser, as a reference."""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from sbt.errors import UserError
from sbt.measure.box import sharpness_box
from sbt.measure.sharpness import Sharpness, as_sharpness, random_corner
from sbt.measure.subspace import Subspace, random_subspace
from sbt.measure.trees import Loss, Where, is_float, ravel

Start = Literal["centre", "corner", "sign"]


def sharpness_scipy(
    loss_fn: Loss,
    params: Any,
    epsilon: float = 1e-3,
    *,
    subspace: Subspace | int | None = None,
    where: Where = None,
    iterations: int = 10,
    start: Start = "centre",
    key: jax.Array | None = None,
) -> Sharpness:
    r"""Keskar's sharpness :math:`\phi` by ten iterations of L-BFGS-B, in double precision.

    Both tolerances are zero: with SciPy's defaults the solver stops at once where
    :math:`\max_i |\partial f/\partial z_i| < 10^{-5}`, and reports a sharpness of exactly 0 at flat
    minima. At an exactly stationary point it cannot move from the centre at all: choose another
    ``start``. It is a lower bound of the maximum, often a few per cent and at times a factor of two
    below :func:`sbt.measure.sharpness`. One point at a time, on the host.

    Args:
      loss_fn: mean loss over the whole split. It is called with float64 parameters; data that it
        holds in float32 is promoted by JAX's usual rules.
      params: the point, any tree of numbers (no tracers).
      epsilon: half-width of the box, relative to :math:`|x_i| + 1`.
      subspace: see :func:`sbt.measure.sharpness`; with the same key an integer gives the same
        :math:`A`.
      where: the leaves that may move.
      iterations: of L-BFGS-B.
      start: ``'centre'``, :math:`z = 0`; ``'corner'``, a random corner; ``'sign'``, the corner that
        the gradient at the centre points to.
      key: typed key; None for ``jax.random.key(0)``.

    Returns:
      As :func:`sbt.measure.sharpness`, NumPy arrays of float64. The maximum is taken with
      :math:`f(x)`.

    Raises:
      UserError: as :func:`sbt.measure.sharpness`, or for an unknown ``start``.

    Examples:
      >>> loss = lambda w: w[0] ** 2 + 10 * w[1] ** 2
      >>> w = jnp.array([1.0, 0.0])
      >>> print(f'{sharpness_scipy(loss, w, 0.01).value:.5f}')  # z_2 = 0 is stationary
      2.02000
      >>> print(f'{sharpness_scipy(loss, w, 0.01, start="corner").value:.5f}')
      2.07000

    References:
      Byrd et al., `A Limited Memory Algorithm for Bound Constrained Optimization
      <https://doi.org/10.1137/0916069>`_, 1995
    """
    key = jax.random.key(0) if key is None else key
    with jax.enable_x64(True):
        params = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float64) if is_float(leaf) else leaf, params
        )
        if isinstance(subspace, int):
            size = ravel(params, where)[0].size
            subspace = random_subspace(
                size, subspace, jax.random.fold_in(key, 0), dtype=jnp.float64
            )
        box = sharpness_box(loss_fn, params, epsilon, subspace, key, where)
        bound = np.asarray(box.bound)

        def descend(z: np.ndarray) -> tuple[float, np.ndarray]:
            move = jnp.asarray(z) if subspace is None else subspace.out(jnp.asarray(z))
            value, gradient = _value_and_gradient(loss_fn, params, move, where)
            back = gradient if subspace is None else subspace.back(gradient)
            return -float(value), -np.asarray(back)

        centre = np.zeros_like(bound)
        loss, downhill = descend(centre)
        if start == "centre":
            first = centre
        elif start == "corner":
            first = np.asarray(random_corner(box, jax.random.fold_in(key, 1)))
        elif start == "sign":
            first = -bound * np.sign(downhill)
        else:
            raise UserError("start", f"unknown: {start!r}", "use 'centre', 'corner' or 'sign'")
        found = scipy.optimize.minimize(
            descend,
            first,
            jac=True,
            method="L-BFGS-B",
            bounds=np.stack([-bound, bound], axis=1),
            options={"maxiter": iterations, "ftol": 0.0, "gtol": 0.0},
        )
    highest, point = (-found.fun, found.x) if found.fun < loss else (-loss, centre)
    return as_sharpness(np.asarray(-loss), np.asarray(highest), np.asarray(point))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _value_and_gradient(
    loss_fn: Loss, params: Any, move: jax.Array, where: Where
) -> tuple[jax.Array, jax.Array]:
    """Compiled once for all points that are measured with one ``loss_fn``."""
    x, unravel = ravel(params, where)
    return jax.value_and_grad(lambda move: loss_fn(unravel(x + move)))(move)
