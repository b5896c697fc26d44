"""The passes of a convolution in forms that stay fast: value, input gradient, kernel gradient.

Everything here is two-dimensional, NHWC with HWIO kernels, and padded explicitly;
:func:`sbt.nn.conv.conv2d` is the door to it. Where nothing else is said, ``x`` is ``(n, height,
width, c_in)`` and ``kernel`` ``(k_h, k_w, c_in, c_out)``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Pads = tuple[tuple[int, int], tuple[int, int]]
Strides = tuple[int, int]
Gradients = tuple[jax.Array, jax.Array]

NHWC = ("NHWC", "HWIO", "NHWC")


class Window(NamedTuple):
    """How a kernel moves over the images, and how it is multiplied; known before compilation.

    Attributes:
      strides: ``(s_h, s_w)``.
      pads: ``((low, high), (low, high))``.
      precision: as in ``jax.lax.dot_general``.
    """

    strides: Strides = (1, 1)
    pads: Pads = ((0, 0), (0, 0))
    precision: Any = None


Convolution = Callable[[jax.Array, jax.Array, Window], jax.Array]
Product = Callable[[jax.Array, jax.Array], jax.Array]


def with_gradients(
    convolution: Convolution,
    gradients: Callable[[jax.Array, jax.Array, jax.Array, Window], Gradients],
) -> Convolution:
    """The convolution whose gradients are ``gradients(x, kernel, g, window)``, ``g`` its output's.

    Both functions consist of operations that JAX differentiates itself: so forward mode goes over
    the gradients and stays among convolutions of the same kinds, which is what products with the
    Hessian need (forward over reverse). The operands are what backward keeps.
    """
    run: Any = jax.custom_vjp(convolution, nondiff_argnums=(2,))
    run.defvjp(
        # Not `run`: a function with a gradient rule of its own has no forward mode.
        lambda x, kernel, window: (convolution(x, kernel, window), (x, kernel)),
        lambda window, kept, g: gradients(kept[0], kept[1], g, window),
    )
    return run


def bilinear(product: Product) -> Product:
    """The same product with the forward mode that follows from its being linear in each factor.

    For products made of operations without a forward mode, as a kernel written by hand.
    """
    run: Any = jax.custom_jvp(product)

    @run.defjvp
    def derivative(factors: Any, changes: Any) -> tuple[jax.Array, jax.Array]:
        (a, b), (da, db) = factors, changes
        return run(a, b), run(da, b) + run(a, db)

    return run


def stock(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """XLA's convolution and JAX's own gradient rules."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window.strides,
        window.pads,
        dimension_numbers=NHWC,
        precision=window.precision,
    )


def pointwise(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """A 1x1 convolution, a matrix product on every stride-th pixel, as are its gradients."""
    x = padded(x, window.pads)[:, :: window.strides[0], :: window.strides[1], :]
    return jnp.einsum("nhwi,io->nhwo", x, kernel[0, 0], precision=window.precision)


def padded(x: jax.Array, pads: Pads) -> jax.Array:
    """Images with zeros around them, the same ones where there are none to add."""
    if not any(p for pad in pads for p in pad):
        return x
    return jnp.pad(x, ((0, 0), *pads, (0, 0)))


# --- direct: every pass as an NHWC/HWIO convolution ----------------------------------------------


def _direct_gradients(x: jax.Array, kernel: jax.Array, g: jax.Array, window: Window) -> Gradients:
    grad_x = input_gradient(stock, x.shape, kernel, g, window)
    return grad_x, kernel_gradient(x, g, kernel.shape, window)


def kernel_gradient(
    x: jax.Array,
    g: jax.Array,
    kernel_shape: tuple[int, ...],
    window: Window,
    shifts: int = 1,
) -> jax.Array:
    """Sum over examples and positions, as one convolution.

    Examples play the input channels, and the output gradient, spread by the stride, the kernel.

    Args:
      x: images ``(n, height, width, c_in)``.
      g: gradient of the output, ``(n, out_height, out_width, c_out)``.
      kernel_shape: ``(k_h, k_w, c_in, c_out)``.
      window: of the convolution.
      shifts: copies of ``g`` side by side in the channels, each one column further to the right,
        so that one position of the result holds ``shifts`` neighbouring taps; only at stride 1.

    Returns:
      Like the kernel.
    """
    k_h, k_w, _, c_out = kernel_shape
    strides, pads, precision = window
    steps = -(-k_w // shifts)
    if shifts > 1:
        g = _side_by_side(g, shifts, precision)
        # Padded by hand: XLA:CPU's fast kernels refuse a kernel wider than its input.
        pads, x = ((0, 0), (0, 0)), padded(x, pads)
    around = tuple(
        (low, k - 1 + (o - 1) * s + 1 - size - low)
        for size, k, o, s, (low, _) in zip(
            x.shape[1:3], (k_h, shifts * (steps - 1) + 1), g.shape[1:3], strides, pads, strict=True
        )
    )
    taps = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        g.transpose(1, 2, 0, 3),
        (1, shifts),
        around,
        rhs_dilation=strides,
        dimension_numbers=NHWC,
        precision=precision,
    ).transpose(1, 2, 0, 3)
    if shifts == 1:
        return taps
    taps = taps.reshape(k_h, steps, -1, shifts, c_out).transpose(0, 1, 3, 2, 4)
    return taps.reshape(k_h, steps * shifts, -1, c_out)[:, :k_w]


# XLA's convolution, both gradients written as convolutions of the same kind.
direct = with_gradients(stock, _direct_gradients)


def _side_by_side(g: jax.Array, shifts: int, precision: Any) -> jax.Array:
    """Copies of ``g`` in the channels, each one column further to the right than the one before.

    By a convolution with ones and zeros, because XLA would melt copying with whatever computes
    ``g``, and compute it anew for every element of every copy.
    """
    eye, far = jnp.eye(g.shape[-1], dtype=g.dtype), shifts - 1
    kernel = jnp.stack(
        [jnp.pad(eye, ((0, 0), (i * len(eye), (far - i) * len(eye)))) for i in range(far, -1, -1)]
    )
    wide = padded(g, ((0, 0), (far, far)))
    return stock(wide, kernel[None], Window(precision=precision))


# --- im2col: slices and matrix products ----------------------------------------------------------


def slices_product(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """The windows of all positions, next to one another in memory, times the kernel."""
    patches = _patches(x, kernel.shape, window)
    weights = kernel.reshape(-1, kernel.shape[-1])
    return jnp.einsum("nhwk,ko->nhwo", patches, weights, precision=window.precision)


def slices_input_gradient(
    x_shape: tuple[int, ...], kernel: jax.Array, g: jax.Array, window: Window
) -> jax.Array:
    """The gradient of the images, by slices and a product as well."""
    return input_gradient(slices_product, x_shape, kernel, g, window)


def slices_kernel_gradient(
    x: jax.Array, kernel_shape: tuple[int, ...], g: jax.Array, window: Window
) -> jax.Array:
    """The gradient of the kernel, likewise."""
    # The patches, k_h k_w times larger than x, are cheaper to cut again than to keep.
    patches = _patches(x, kernel_shape, window)
    grad_kernel = jnp.einsum("nhwk,nhwo->ko", patches, g, precision=window.precision)
    return grad_kernel.reshape(kernel_shape)


def _slices_gradients(x: jax.Array, kernel: jax.Array, g: jax.Array, window: Window) -> Gradients:
    return (
        slices_input_gradient(x.shape, kernel, g, window),
        slices_kernel_gradient(x, kernel.shape, g, window),
    )


# A batched matrix product under `vmap` over kernels.
im2col = with_gradients(slices_product, _slices_gradients)


def _patches(x: jax.Array, kernel_shape: tuple[int, ...], window: Window) -> jax.Array:
    """Windows of ``x``, taps in the order of a flattened kernel: ``(n, h, w, k_h k_w c)``."""
    strides, x = window.strides, padded(x, window.pads)
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


# --- the input gradient --------------------------------------------------------------------------


def input_gradient(
    run: Convolution, x_shape: tuple[int, ...], kernel: jax.Array, g: jax.Array, window: Window
) -> jax.Array:
    """The spread output gradient, convolved by ``run`` with the turned kernel.

    Turned: rotated by half a turn, channels exchanged.
    """
    turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    spread = _spread(g, x_shape, kernel.shape, window)
    return run(spread, turned, Window(precision=window.precision))


def _spread(
    g: jax.Array, x_shape: tuple[int, ...], kernel_shape: tuple[int, ...], window: Window
) -> jax.Array:
    """Output gradient, ``stride - 1`` zeros between its pixels, padded for a VALID convolution.

    Output pixel ``o`` saw input pixels ``s o + u - low``; so input pixel ``i`` collects taps
    ``u = i + low - s o``. With the kernel turned that is a stride-1 convolution of the spread
    gradient, padded by ``k - 1 - low`` on the left and by what completes the input size.
    """
    config = [(0, 0, 0)]
    for size, k, o, s, (low, _) in zip(
        x_shape[1:3], kernel_shape[:2], g.shape[1:3], window.strides, window.pads, strict=True
    ):
        left = k - 1 - low
        config.append((left, size + k - 1 - ((o - 1) * s + 1) - left, s - 1))
    config.append((0, 0, 0))
    return lax.pad(g, jnp.zeros((), g.dtype), config)
