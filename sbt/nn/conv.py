"""2-D convolution for lanes: same numbers as ``lax.conv_general_dilated``, none of its traps.

Training puts a convolution inside ``lax.scan`` and, for lanes, under ``vmap`` over the kernel. Both
are slow with the stock operation. Inside a loop XLA:CPU leaves the two gradient convolutions, whose
dimension numbers JAX permutes, to an unoptimised kernel (30-80x). Under ``vmap`` over kernels a
convolution becomes a grouped one, which neither CPUs nor GPUs run well.

Implementations of one function, equal up to rounding:

``"direct"``
    Both gradients as plain NHWC/HWIO convolutions, the only form that stays fast in a loop.
``"packed"``
    The same for CPU: few channels are filled up with neighbouring columns, :mod:`sbt.nn.packed`.
``"im2col"``
    Shifted slices, concatenated, times a matrix: one batched matrix product under ``vmap``.
``"implicit"``
    The same on NVIDIA GPUs without the slices in memory, :mod:`sbt.nn.implicit`; elsewhere im2col.
``"stock"``
    ``lax.conv_general_dilated`` and JAX's own gradient rules.

Flax modules get one of them from outside, without being written for it: see :func:`lane_friendly`.
"""

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
from jax import lax

from sbt.nn import dense
from sbt.nn.implicit import implicit
from sbt.nn.packed import packed
from sbt.nn.passes import NHWC, Convolution, Strides, Window, direct, im2col, pointwise, stock

Implementation = Literal["direct", "packed", "im2col", "implicit", "stock"]
IMPLEMENTATIONS: tuple[Implementation, ...] = get_args(Implementation)

_RUN: dict[str, Convolution] = {
    "stock": stock,
    "direct": direct,
    "packed": packed,
    "im2col": im2col,
    "implicit": implicit,
}


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
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation must be one of {IMPLEMENTATIONS}, got {implementation!r}")
    steps: Strides = (int(strides[0]), int(strides[1]))
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], steps, padding)
    (top, bottom), (left, right) = padding
    pads = (int(top), int(bottom)), (int(left), int(right))
    single = kernel.shape[:2] == (1, 1) and implementation != "stock"
    run = pointwise if single else _RUN[implementation]
    return run(x, kernel, Window(steps, pads, precision))


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
        and numbers == lax.conv_dimension_numbers(lhs.shape, rhs.shape, NHWC)
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

    With ``"packed"``, made for one lane at a time on CPU, every ``flax.linen.Dense`` has the
    gradients of :mod:`sbt.nn.dense`, too.

    It acts while a Linen module is traced, through the hooks that these modules offer, so that
    models stay ordinary Flax code and a user's own module profits unchanged. A module that sets its
    own ``conv_general_dilated`` or ``dot_general`` keeps it.
    """
    hooks: dict[type[nn.Module], tuple[str, Any]] = {
        nn.Conv: (
            "conv_general_dilated",
            functools.partial(conv_general_dilated, implementation=implementation),
        )
    }
    if implementation == "packed":
        hooks[nn.Dense] = ("dot_general", dense.dot_general)

    def intercept(
        next_fun: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        module = context.module
        for kind, (field, run) in hooks.items():
            if (
                isinstance(module, kind)
                and context.method_name == "__call__"
                and getattr(module, field) is None
                and getattr(module, f"{field}_cls") is None
            ):
                # Linen modules are frozen dataclasses; this one was cloned for this call alone.
                object.__setattr__(module, field, run)
        return next_fun(*args, **kwargs)

    return nn.intercept_methods(intercept)
