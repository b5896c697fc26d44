"""The passes of a convolution in forms that stay fast: value, input gradient, kernel gradient.

Everything here is two-dimensional, NHWC with HWIO kernels, and padded explicitly;
:func:`sbt.nn.conv.conv2d` is the door to it. Where nothing else is said, ``x`` is ``(n, height,
width, c_in)``, ``kernel`` ``(k_h, k_w, c_in, c_out)``, ``pads`` ``((low, high), (low, high))``, and
``precision`` as in ``jax.lax.dot_general``.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Pads = tuple[tuple[int, int], tuple[int, int]]
Strides = tuple[int, int]

NHWC = ("NHWC", "HWIO", "NHWC")


def stock(
    x: jax.Array, kernel: jax.Array, strides: Strides, pads: Pads, precision: Any
) -> jax.Array:
    """XLA's convolution and JAX's own gradient rules."""
    return lax.conv_general_dilated(
        x, kernel, strides, pads, dimension_numbers=NHWC, precision=precision
    )


def pointwise(
    x: jax.Array, kernel: jax.Array, strides: Strides, pads: Pads, precision: Any
) -> jax.Array:
    """A 1x1 convolution, a matrix product on every stride-th pixel, as are its gradients."""
    if any(p != 0 for pad in pads for p in pad):
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    x = x[:, :: strides[0], :: strides[1], :]
    return jnp.einsum("nhwi,io->nhwo", x, kernel[0, 0], precision=precision)


# --- direct: every pass as an NHWC/HWIO convolution ----------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def direct(
    x: jax.Array, kernel: jax.Array, strides: Strides, pads: Pads, precision: Any
) -> jax.Array:
    """XLA's convolution, both gradients written as convolutions of the same kind."""
    return stock(x, kernel, strides, pads, precision)


def _direct_forward(
    x: jax.Array, kernel: jax.Array, strides: Strides, pads: Pads, precision: Any
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return stock(x, kernel, strides, pads, precision), (x, kernel)


def _direct_backward(
    strides: Strides,
    pads: Pads,
    precision: Any,
    residuals: tuple[jax.Array, jax.Array],
    g: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    dilated, turned = spread(g, x.shape, kernel.shape, strides, pads), turn(kernel)
    grad_x = stock(dilated, turned, (1, 1), ((0, 0), (0, 0)), precision)
    return grad_x, kernel_gradient(x, g, kernel.shape, strides, pads, precision)


direct.defvjp(_direct_forward, _direct_backward)


def kernel_gradient(
    x: jax.Array,
    g: jax.Array,
    kernel_shape: tuple[int, ...],
    strides: Strides,
    pads: Pads,
    precision: Any,
    shifts: int = 1,
) -> jax.Array:
    """Sum over examples and positions, as one convolution.

    Examples play the input channels, and the output gradient, spread by the stride, the kernel.

    Args:
      x: images ``(n, height, width, c_in)``.
      g: gradient of the output, ``(n, out_height, out_width, c_out)``.
      kernel_shape: ``(k_h, k_w, c_in, c_out)``.
      strides: of the convolution.
      pads: of the convolution.
      precision: as in ``jax.lax.dot_general``.
      shifts: copies of ``g`` side by side in the channels, each one column further to the right,
        so that one position of the result holds ``shifts`` neighbouring taps; only at stride 1.

    Returns:
      Like the kernel.
    """
    k_h, k_w, _, c_out = kernel_shape
    steps = -(-k_w // shifts)
    if shifts > 1:
        g = _side_by_side(g, shifts, precision)
        # Padded by hand: XLA:CPU's fast kernels refuse a kernel wider than its input.
        pads, x = ((0, 0), (0, 0)), jnp.pad(x, ((0, 0), *pads, (0, 0)))
    window = tuple(
        (low, k - 1 + (o - 1) * s + 1 - size - low)
        for size, k, o, s, (low, _) in zip(
            x.shape[1:3], (k_h, shifts * (steps - 1) + 1), g.shape[1:3], strides, pads, strict=True
        )
    )
    taps = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        g.transpose(1, 2, 0, 3),
        (1, shifts),
        window,
        rhs_dilation=strides,
        dimension_numbers=NHWC,
        precision=precision,
    ).transpose(1, 2, 0, 3)
    if shifts == 1:
        return taps
    taps = taps.reshape(k_h, steps, -1, shifts, c_out).transpose(0, 1, 3, 2, 4)
    return taps.reshape(k_h, steps * shifts, -1, c_out)[:, :k_w]


def _side_by_side(g: jax.Array, shifts: int, precision: Any) -> jax.Array:
    """Copies of ``g`` in the channels, each one column further to the right than the one before.

    By a convolution with ones and zeros, because XLA would melt copying with whatever computes
    ``g``, and compute it anew for every element of every copy.
    """
    eye, far = jnp.eye(g.shape[-1], dtype=g.dtype), shifts - 1
    kernel = jnp.stack(
        [jnp.pad(eye, ((0, 0), (i * len(eye), (far - i) * len(eye)))) for i in range(far, -1, -1)]
    )
    padded = jnp.pad(g, ((0, 0), (0, 0), (far, far), (0, 0)))
    return stock(padded, kernel[None], (1, 1), ((0, 0), (0, 0)), precision)


# --- im2col: slices and matrix products ----------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def im2col(
    x: jax.Array, kernel: jax.Array, strides: Strides, pads: Pads, precision: Any
) -> jax.Array:
    """The windows of all positions, next to one another in memory, times the kernel."""
    patches = _patches(x, kernel.shape, strides, pads)
    weights = kernel.reshape(-1, kernel.shape[-1])
    return jnp.einsum("nhwk,ko->nhwo", patches, weights, precision=precision)


def _im2col_forward(
    x: jax.Array, kernel: jax.Array, strides: Strides, pads: Pads, precision: Any
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # The patches, k_h k_w times larger than x, are cheaper to cut again than to keep.
    return im2col(x, kernel, strides, pads, precision), (x, kernel)


def _im2col_backward(
    strides: Strides,
    pads: Pads,
    precision: Any,
    residuals: tuple[jax.Array, jax.Array],
    g: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    dilated, turned = spread(g, x.shape, kernel.shape, strides, pads), turn(kernel)
    grad_x = im2col(dilated, turned, (1, 1), ((0, 0), (0, 0)), precision)
    patches = _patches(x, kernel.shape, strides, pads)
    grad_kernel = jnp.einsum("nhwk,nhwo->ko", patches, g, precision=precision)
    return grad_x, grad_kernel.reshape(kernel.shape)


im2col.defvjp(_im2col_forward, _im2col_backward)


def _patches(
    x: jax.Array, kernel_shape: tuple[int, ...], strides: Strides, pads: Pads
) -> jax.Array:
    """Windows of ``x``, taps in the order of a flattened kernel: ``(n, h, w, k_h k_w c)``."""
    if any(p != 0 for pad in pads for p in pad):
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    out = [
        (size - k) // s + 1
        for size, k, s in zip(x.shape[1:3], kernel_shape[:2], strides, strict=True)
    ]
    taps = [
        lax.slice(
            x,
            (0, u, v, 0),
            (
                x.shape[0],
                u + (out[0] - 1) * strides[0] + 1,
                v + (out[1] - 1) * strides[1] + 1,
                x.shape[3],
            ),
            (1, *strides, 1),
        )
        for u in range(kernel_shape[0])
        for v in range(kernel_shape[1])
    ]
    return jnp.concatenate(taps, axis=-1)


def turn(kernel: jax.Array) -> jax.Array:
    """The kernel of the input gradient: rotated by half a turn, channels exchanged."""
    return kernel[::-1, ::-1].transpose(0, 1, 3, 2)


def spread(
    g: jax.Array,
    x_shape: tuple[int, ...],
    kernel_shape: tuple[int, ...],
    strides: Strides,
    pads: Pads,
) -> jax.Array:
    """Output gradient, ``stride - 1`` zeros between its pixels, padded for a VALID convolution.

    Output pixel ``o`` saw input pixels ``s o + u - low``; so input pixel ``i`` collects taps
    ``u = i + low - s o``. With the kernel turned that is a stride-1 convolution of the spread
    gradient, padded by ``k - 1 - low`` on the left and by what completes the input size.
    """
    config = [(0, 0, 0)]
    for size, k, o, s, (low, _) in zip(
        x_shape[1:3], kernel_shape[:2], g.shape[1:3], strides, pads, strict=True
    ):
        left = k - 1 - low
        config.append((left, size + k - 1 - ((o - 1) * s + 1) - left, s - 1))
    config.append((0, 0, 0))
    return lax.pad(g, jnp.zeros((), g.dtype), config)
