"""Spatial pooling whose gradient stays fast inside compiled loops and under ``vmap``."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Pads = tuple[tuple[int, int], tuple[int, int]]
Pair = tuple[int, int]


def max_pool(
    x: jax.Array,
    window: Sequence[int] = (2, 2),
    strides: Sequence[int] | None = None,
    padding: str | Sequence[tuple[int, int]] = "VALID",
) -> jax.Array:
    """Maximum over windows: value and gradient of ``flax.linen.max_pool``, an order faster on CPU.

    XLA:CPU runs the gradient of its own window maximum (``select_and_scatter``) as a scalar loop;
    in a scanned step the present form took a sixth to a thirtieth of the time (half of it for odd
    sizes with VALID). Value and gradient are slices, comparisons and sums of slices. The gradient
    goes to the first maximum of a window in row-major order, which is XLA's choice too; a window
    with a NaN gives NaN. Works under forward- and reverse-mode differentiation of any order.

    Args:
      x: shape ``(n, height, width, c)``.
      window: ``(height, width)`` of the window, of at most 255 elements.
      strides: its steps; None means the size of the window (in ``flax.linen.max_pool``: 1).
      padding: ``"SAME"``, ``"VALID"``, or ``((low, high), (low, high))``; padded with -inf.

    Returns:
      Shape ``(n, out_height, out_width, c)``.
    """
    size: Pair = (window[0], window[1])
    steps: Pair = size if strides is None else (strides[0], strides[1])
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], size, steps, padding)
    (top, bottom), (left, right) = padding
    return _max_pool(x, size, steps, ((top, bottom), (left, right)))


def global_mean(x: jax.Array) -> jax.Array:
    """Mean over height and width: ``(n, height, width, c)`` to ``(n, c)``."""
    return x.mean(axis=(1, 2))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: jax.Array, window: Pair, strides: Pair, pads: Pads) -> jax.Array:
    return functools.reduce(lax.max, _taps(x, window, strides, pads))


@_max_pool.defjvp
def _max_pool_jvp(
    window: Pair, strides: Pair, pads: Pads, primals: Any, tangents: Any
) -> tuple[jax.Array, jax.Array]:
    (x,), (t,) = primals, tangents
    taps = _taps(x, window, strides, pads)
    # Products with numbers, not choices among arrays of them: where such a gradient is taken in a
    # loop over a split, JAX would make these arrays once, outside, and XLA:CPU then reads them for
    # each number (the sharpness of the reduced AlexNet took 2.6 times as long).
    # Two chains, because XLA:CPU fuses one that carries both a NaN-propagating maximum and the
    # index of the winner into code ten times slower than the two.
    best, winner = taps[0], jnp.zeros(taps[0].shape, jnp.uint8)
    for i, tap in enumerate(taps[1:], start=1):
        later = tap > best
        best = jnp.where(later, tap, best)
        winner = lax.max(winner, later.astype(jnp.uint8) * jnp.uint8(i))  # the last is the highest
    tangent = jnp.zeros_like(best)
    for i, tap in enumerate(_taps_by_phase(t, window, strides, pads)):
        tangent = tangent + tap * (winner == i).astype(tap.dtype)
    return functools.reduce(lax.max, taps), tangent


def _taps(x: jax.Array, window: Pair, strides: Pair, pads: Pads) -> list[jax.Array]:
    """One strided slice of the padded input per element of the window, row by row."""
    (n, _, _, c), (height, width) = x.shape, _out_size(x.shape, window, strides, pads)
    x = lax.pad(x, jnp.array(-jnp.inf, x.dtype), _padding_config(pads))
    rows, columns = (height - 1) * strides[0] + 1, (width - 1) * strides[1] + 1
    return [
        lax.slice(x, (0, u, v, 0), (n, u + rows, v + columns, c), (1, *strides, 1))
        for u in range(window[0])
        for v in range(window[1])
    ]


def _taps_by_phase(x: jax.Array, window: Pair, strides: Pair, pads: Pads) -> list[jax.Array]:
    """The same slices (of an input padded with zeros), cut for the sake of their transpose.

    Pixels are first sorted by position modulo the stride; every tap is then a dense slice of one of
    these phases. So the reverse pass adds shifted copies per phase and interleaves the phases once,
    instead of adding ``window`` images that are mostly zeros.
    """
    (n, h, w, c), (height, width) = x.shape, _out_size(x.shape, window, strides, pads)
    fill = tuple(
        (low, high + -(size + low + high) % s)
        for size, (low, high), s in zip((h, w), pads, strides, strict=True)
    )
    x = lax.pad(x, jnp.zeros((), x.dtype), _padding_config(fill))
    x = x.reshape(n, x.shape[1] // strides[0], strides[0], x.shape[2] // strides[1], strides[1], c)
    phases = [
        [lax.squeeze(p, (2, 4)) for p in lax.split(rows, (1,) * strides[1], axis=4)]
        for rows in lax.split(x, (1,) * strides[0], axis=2)
    ]
    return [
        lax.slice(
            phases[u % strides[0]][v % strides[1]],
            (0, u // strides[0], v // strides[1], 0),
            (n, u // strides[0] + height, v // strides[1] + width, c),
        )
        for u in range(window[0])
        for v in range(window[1])
    ]


def _padding_config(pads: Any) -> list[tuple[int, int, int]]:
    return [(0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)]


def _out_size(shape: tuple[int, ...], window: Pair, strides: Pair, pads: Pads) -> Pair:
    height, width = (
        (size + low + high - k) // s + 1
        for size, (low, high), k, s in zip(shape[1:3], pads, window, strides, strict=True)
    )
    return height, width
