"""2-D convolution for lanes: same numbers as ``lax.conv_general_dilated``, none of its traps.

Training puts a convolution inside ``lax.scan`` and, for lanes, under ``vmap`` over the kernel. Both
are slow with the stock operation. Inside a loop XLA:CPU leaves the two gradient convolutions, whose
dimension numbers JAX permutes, to an unoptimised kernel (30-80x). Under ``vmap`` over kernels a
convolution becomes a grouped one, which neither CPUs nor GPUs run well.

Three implementations of one function, equal up to rounding:

``"direct"``
    Both gradients as plain NHWC/HWIO convolutions, the only form that stays fast in a loop.
``"im2col"``
    Shifted slices, concatenated, times a matrix: one batched matrix product under ``vmap``.
``"stock"``
    ``lax.conv_general_dilated`` and JAX's own gradient rules.

Flax modules get one of them from outside, without being written for it: see :func:`lane_friendly`.
"""

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Implementation = Literal["direct", "im2col", "stock"]
IMPLEMENTATIONS: tuple[Implementation, ...] = ("direct", "im2col", "stock")

Pads = tuple[tuple[int, int], tuple[int, int]]
Strides = tuple[int, int]

_NHWC = ("NHWC", "HWIO", "NHWC")


def conv2d(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int] = (1, 1),
    padding: str | Sequence[tuple[int, int]] = "SAME",
    *,
    implementation: Implementation = "direct",
    precision: Any = None,
) -> jax.Array:
    """Cross-correlates a batch of images with a bank of kernels.

    ``y[n, i, j, o] = sum_{u, v, c} x[n, s_h i + u - p_h, s_w j + v - p_w, c] kernel[u, v, c, o]``

    Args:
      x: images, shape ``(n, height, width, c_in)``.
      kernel: shape ``(k_h, k_w, c_in, c_out)``.
      strides: ``(s_h, s_w)``.
      padding: ``"SAME"`` or ``"VALID"`` as XLA defines them (at stride 2 SAME may pad only on the
        right), or explicit ``((low, high), (low, high))`` with non-negative entries.
      implementation: one of :data:`IMPLEMENTATIONS`.
      precision: as in ``jax.lax.dot_general``.

    Returns:
      Shape ``(n, out_height, out_width, c_out)``, in the dtype of ``x``.
    """
    s: Strides = (int(strides[0]), int(strides[1]))
    window: Sequence[tuple[int, int]] = (
        lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], s, padding)
        if isinstance(padding, str)
        else padding
    )
    pads: Pads = tuple((int(low), int(high)) for low, high in window)  # type: ignore[assignment]
    if implementation == "stock":
        return _stock(x, kernel, s, pads, precision)
    if kernel.shape[:2] == (1, 1):
        return _pointwise(x, kernel, s, pads, precision)
    if implementation == "direct":
        return _direct(x, kernel, s, pads, precision)
    if implementation == "im2col":
        return _im2col(x, kernel, s, pads, precision)
    raise ValueError(f"implementation must be one of {IMPLEMENTATIONS}, got {implementation!r}")


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
    *,
    implementation: Implementation = "direct",
) -> jax.Array:
    """Drop-in for ``lax.conv_general_dilated`` in ``flax.linen.Conv(conv_general_dilated=...)``.

    Two-dimensional NHWC convolutions without groups or dilation go through :func:`conv2d`; every
    other kind falls back to the stock operation.
    """
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    plain = (
        lhs.ndim == 4
        and feature_group_count == 1
        and all(d == 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
        and numbers == lax.conv_dimension_numbers(lhs.shape, rhs.shape, _NHWC)
    )
    if not plain:
        return lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=dimension_numbers,
            feature_group_count=feature_group_count,
            precision=precision,
        )
    return conv2d(
        lhs, rhs, window_strides, padding, implementation=implementation, precision=precision
    )


def lane_friendly(implementation: Implementation) -> AbstractContextManager[None]:
    """Context in which every ``flax.linen.Conv`` runs the given implementation.

    It acts while a Linen module is traced, through the hook that ``nn.Conv`` offers, so that models
    stay ordinary Flax code and a user's own module profits unchanged. A module that sets its own
    ``conv_general_dilated`` keeps it.
    """
    run = functools.partial(conv_general_dilated, implementation=implementation)

    def intercept(
        next_fun: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        module = context.module
        if (
            isinstance(module, nn.Conv)
            and context.method_name == "__call__"
            and module.conv_general_dilated is None
            and module.conv_general_dilated_cls is None
        ):
            # Linen modules are frozen dataclasses; this one was cloned for the present call alone.
            object.__setattr__(module, "conv_general_dilated", run)
        return next_fun(*args, **kwargs)

    return nn.intercept_methods(intercept)


def _stock(
    x: jax.Array, kernel: jax.Array, strides: Strides, pads: Pads, precision: Any
) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, strides, pads, dimension_numbers=_NHWC, precision=precision
    )


def _pointwise(
    x: jax.Array, kernel: jax.Array, strides: Strides, pads: Pads, precision: Any
) -> jax.Array:
    """A 1x1 convolution, a matrix product on every stride-th pixel, as are its gradients."""
    if any(p != 0 for pad in pads for p in pad):
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    x = x[:, :: strides[0], :: strides[1], :]
    return jnp.einsum("nhwi,io->nhwo", x, kernel[0, 0], precision=precision)


# --- direct: every pass as an NHWC/HWIO convolution ----------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _direct(
    x: jax.Array, kernel: jax.Array, strides: Strides, pads: Pads, precision: Any
) -> jax.Array:
    return _stock(x, kernel, strides, pads, precision)


def _direct_forward(
    x: jax.Array, kernel: jax.Array, strides: Strides, pads: Pads, precision: Any
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _stock(x, kernel, strides, pads, precision), (x, kernel)


def _direct_backward(
    strides: Strides,
    pads: Pads,
    precision: Any,
    residuals: tuple[jax.Array, jax.Array],
    g: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    dilated, turned = _spread(g, x.shape, kernel.shape, strides, pads), _turn(kernel)
    grad_x = _stock(dilated, turned, (1, 1), ((0, 0), (0, 0)), precision)

    # Sum over examples and positions = a convolution in which examples play the input channels
    # and the output gradient, spread by the stride, plays the kernel.
    window = tuple(
        (low, k - 1 + (o - 1) * s + 1 - size - low)
        for size, k, o, s, (low, _) in zip(
            x.shape[1:3], kernel.shape[:2], g.shape[1:3], strides, pads, strict=True
        )
    )
    grad_kernel = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        g.transpose(1, 2, 0, 3),
        (1, 1),
        window,
        rhs_dilation=strides,
        dimension_numbers=_NHWC,
        precision=precision,
    ).transpose(1, 2, 0, 3)
    return grad_x, grad_kernel


_direct.defvjp(_direct_forward, _direct_backward)


# --- im2col: slices and matrix products ----------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _im2col(
    x: jax.Array, kernel: jax.Array, strides: Strides, pads: Pads, precision: Any
) -> jax.Array:
    patches = _patches(x, kernel.shape, strides, pads)
    weights = kernel.reshape(-1, kernel.shape[-1])
    return jnp.einsum("nhwk,ko->nhwo", patches, weights, precision=precision)


def _im2col_forward(
    x: jax.Array, kernel: jax.Array, strides: Strides, pads: Pads, precision: Any
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # The patches, k_h k_w times larger than x, are cheaper to cut again than to keep.
    return _im2col(x, kernel, strides, pads, precision), (x, kernel)


def _im2col_backward(
    strides: Strides,
    pads: Pads,
    precision: Any,
    residuals: tuple[jax.Array, jax.Array],
    g: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    dilated, turned = _spread(g, x.shape, kernel.shape, strides, pads), _turn(kernel)
    grad_x = _im2col(dilated, turned, (1, 1), ((0, 0), (0, 0)), precision)
    patches = _patches(x, kernel.shape, strides, pads)
    grad_kernel = jnp.einsum("nhwk,nhwo->ko", patches, g, precision=precision)
    return grad_x, grad_kernel.reshape(kernel.shape)


_im2col.defvjp(_im2col_forward, _im2col_backward)


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


def _turn(kernel: jax.Array) -> jax.Array:
    """The kernel of the input gradient: rotated by half a turn, channels exchanged."""
    return kernel[::-1, ::-1].transpose(0, 1, 3, 2)


def _spread(
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
