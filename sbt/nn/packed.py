"""The direct convolution, shaped for the kernels that XLA has on CPU.

XLA:CPU gives a convolution to YNNPACK, which reaches the processor's arithmetic limit, if its input
or its output has more than 16 channels; else to Eigen, which then reaches half of it or, with three
input channels, an eighth (jaxlib 0.10: ``xla/backends/cpu/ynn_support.cc``). First layers and
networks that start with 16 channels are such. Here several neighbouring output columns are computed
as channels of one: the kernel is repeated, each time one stride further to the right, over a window
that is a little wider. It multiplies more, partly by zero, and takes less time.

Measured on one core of an AMD EPYC, 32 examples of 32x32, in microseconds per example: 3x3 kernels,
16 to 16 channels: 92 direct, 60 in pairs of columns; 3 to 16 channels: 67 and 18, in fours; 5x5
kernels, 3 to 16 channels: 124 and 37.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from sbt.nn.passes import (
    Gradients,
    Window,
    input_gradient,
    kernel_gradient,
    stock,
    with_gradients,
)

# More channels than these, in or out, and XLA:CPU takes its fast kernels.
FEW_CHANNELS = 16
# Fewer examples than these, and the others are worth avoiding in the kernel's gradient, too.
FEW_EXAMPLES = 8


def _columns(c_in: int, c_out: int) -> int:
    """How many output columns to compute as one."""
    if c_in > FEW_CHANNELS:
        return 1
    wanted = 64 if 1 < c_in < 8 else 32
    return max(1, wanted // c_out)


def _packed(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """The convolution, several output columns as one."""
    _, k_w, c_in, c_out = kernel.shape
    low, high = window.pads[1]
    stride = window.strides[1]
    width = (x.shape[2] + low + high - k_w) // stride + 1
    columns = min(_columns(c_in, c_out), width)
    if columns == 1:
        return stock(x, kernel, window)
    shifts = [
        jnp.pad(kernel, ((0, 0), (stride * i, stride * (columns - 1 - i)), (0, 0), (0, 0)))
        for i in range(columns)
    ]
    wide = jnp.concatenate(shifts, axis=-1)
    groups = -(-width // columns)
    right = (groups - 1) * stride * columns + wide.shape[1] - x.shape[2] - low
    strides, pads = (window.strides[0], stride * columns), (window.pads[0], (low, max(right, 0)))
    y = stock(x, wide, window._replace(strides=strides, pads=pads))
    y = y.reshape(*y.shape[:2], groups * columns, c_out)
    return lax.slice_in_dim(y, 0, width, axis=2)


def _kernel_gradient(
    x: jax.Array, g: jax.Array, kernel_shape: tuple[int, ...], window: Window
) -> jax.Array:
    """Here examples are the input channels: few of them are packed, many taken in turn."""
    n, c_out = x.shape[0], kernel_shape[-1]
    few = n < FEW_EXAMPLES and window.strides == (1, 1)
    shifts = min(FEW_CHANNELS // c_out + 1, kernel_shape[1]) if few else 1
    at_once = _examples_at_once(n, c_out)
    gradient = functools.partial(
        kernel_gradient, kernel_shape=kernel_shape, window=window, shifts=shifts
    )
    if at_once == n:
        return gradient(x, g)

    def add(sum_: jax.Array, start: jax.Array) -> tuple[jax.Array, None]:
        piece = (lax.dynamic_slice_in_dim(a, start, at_once) for a in (x, g))
        return sum_ + gradient(*piece), None

    zero = jnp.zeros(kernel_shape, jnp.result_type(x, g))
    return lax.scan(add, zero, jnp.arange(0, n, at_once))[0]


def _examples_at_once(n: int, c_out: int) -> int:
    """The largest part of ``n`` that fast kernels take and whose transposes stay in the cache."""
    most = 8 if c_out > FEW_CHANNELS else 32
    parts = [part for part in range(most // 2 + 1, most + 1) if n % part == 0]
    return max(parts, default=n) if n > most else n


def _gradients(x: jax.Array, kernel: jax.Array, g: jax.Array, window: Window) -> Gradients:
    # XLA joins the zeros between pixels with the convolution, which packing would prevent.
    run = _packed if window.strides == (1, 1) else stock
    grad_x = input_gradient(run, x.shape, kernel, g, window)
    return grad_x, _kernel_gradient(x, g, kernel.shape, window)


# The convolution with its gradients; arguments as of `passes.stock`.
packed = with_gradients(_packed, _gradients)
