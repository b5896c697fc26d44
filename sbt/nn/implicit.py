"""Implicit matrix multiplication on GPU: a convolution whose patches exist in registers alone.

im2col writes each pixel ``k_h k_w`` times to memory and reads it back; a convolution per lane is
then bound by that traffic. These kernels (Pallas, through Triton) fetch the pixels of one tap at a
time, which after the first tap lie in the cache, and multiply them at once. Under ``vmap`` over
weights the grid gets one more axis, so that nothing is grouped: every lane is a plain product.

All three passes gather rows of channels by computed position; a position outside the image, or
between the pixels of a stride, is masked, so that nothing is padded or spread in memory either.
Away from NVIDIA GPUs the same numbers come from :func:`sbt.nn.passes.im2col`. :data:`BLOCKS` are
not tuned: the kernels' speed has not been measured (:mod:`sbt.bench.kernels` does that).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from sbt.nn.norm import accumulation_dtype
from sbt.nn.passes import (
    Gradients,
    Product,
    Strides,
    Window,
    bilinear,
    slices_input_gradient,
    slices_kernel_gradient,
    slices_product,
    with_gradients,
)

LEAST_SIDE = 16  # of a block of channels; tensor cores take no fewer


class Blocks(NamedTuple):
    """How a pass is cut up, which changes its speed, and of its results the rounding alone.

    Attributes:
      positions: of the output, in one program or one step of a sum; a power of two.
      side: most channels of a block; a power of two.
      parts: most parts that a sum over positions is cut into.
      warps: of 32 threads, that work on a block.
      stages: of loads that are under way at a time.
    """

    positions: int = 64
    side: int = 64
    parts: int = 16
    warps: int = 4
    stages: int = 2

    @property
    def compiled(self) -> Any:
        """For Triton."""
        return plgpu.CompilerParams(num_warps=self.warps, num_stages=self.stages)

    def side_of(self, channels: int) -> int:
        """Channels of a block of so many."""
        return max(LEAST_SIDE, min(self.side, pl.next_power_of_2(channels)))


BLOCKS = Blocks()


class Plan(NamedTuple):
    """Where a tap finds its pixels: ``source = (scale * target + offset + sign * tap) / divisor``.

    Attributes:
      taps: ``(k_h, k_w)``.
      source: height and width of what is read.
      target: height and width of what is written.
      scale: 1, or the stride of the convolution.
      offset: minus the padding on the left, or plus it.
      sign: 1, or -1 for the input gradient.
      divisor: 1, or the stride; a source that is no whole number does not exist.
    """

    taps: tuple[int, int]
    source: tuple[int, int]
    target: tuple[int, int]
    scale: Strides
    offset: tuple[int, int]
    sign: int
    divisor: Strides

    def rows(self, at: jax.Array, tap: Any, examples: int) -> tuple[jax.Array, jax.Array]:
        """Of output positions, the row to read of an ``(examples h w, channels)`` array, if any."""
        (h, w), (out_h, out_w) = self.source, self.target
        example, place = at // (out_h * out_w), at % (out_h * out_w)
        row, exists = example, at < examples * out_h * out_w
        for axis, (size, i) in enumerate(zip((h, w), (place // out_w, place % out_w), strict=True)):
            moved = i * self.scale[axis] + self.offset[axis] + self.sign * tap[axis]
            whole = moved // self.divisor[axis]
            exists &= (moved >= 0) & (whole * self.divisor[axis] == moved) & (whole < size)
            row = row * size + whole
        return jnp.where(exists, row, 0), exists


def forward_plan(x: jax.Array, kernel: jax.Array, window: Window) -> Plan:
    """Of the convolution itself."""
    strides, pads, _ = window
    source, taps = x.shape[1:3], kernel.shape[:2]
    target = tuple(
        (size + sum(pad) - k) // s + 1
        for size, k, s, pad in zip(source, taps, strides, pads, strict=True)
    )
    offset = (-pads[0][0], -pads[1][0])
    return Plan(taps, source, target, strides, offset, 1, (1, 1))  # type: ignore[arg-type]


def _transposed(plan: Plan) -> Plan:
    """Of the input gradient: who wrote a pixel now reads it."""
    back = (-plan.offset[0], -plan.offset[1])
    return Plan(plan.taps, plan.target, plan.source, (1, 1), back, -1, plan.scale)


def _load(ref: Any, rows: jax.Array, columns: jax.Array, mask: jax.Array) -> jax.Array:
    at = ref.at[rows[:, None], columns[None, :]]
    return plgpu.load(at, mask=mask & (columns < ref.shape[1])[None, :], other=0.0)


def correlate(
    x: jax.Array,
    kernel: jax.Array,
    plan: Plan,
    precision: Any,
    interpret: bool = False,
    blocks: Blocks = BLOCKS,
) -> jax.Array:
    """The sum over taps and c of ``x[n, source(i, j, tap), c] kernel[tap, c, o]``."""
    n, c_in, c_out = x.shape[0], x.shape[3], kernel.shape[3]
    positions = n * plan.target[0] * plan.target[1]
    side, out_side, block = blocks.side_of(c_in), blocks.side_of(c_out), blocks.positions

    def body(x_ref: Any, kernel_ref: Any, y_ref: Any) -> None:
        at = pl.program_id(0) * block + jnp.arange(block, dtype=jnp.int32)
        out = pl.program_id(1) * out_side + jnp.arange(out_side, dtype=jnp.int32)
        total = jnp.zeros((block, out_side), accumulation_dtype(x.dtype))
        for tap, (u, v) in enumerate(_all_taps(plan)):
            rows, exists = plan.rows(at, (u, v), n)
            for start in range(0, c_in, side):
                channel = start + jnp.arange(side, dtype=jnp.int32)
                pixels = _load(x_ref, rows, channel, exists[:, None])
                known = (channel < c_in)[:, None]
                weights = _load(kernel_ref, tap * c_in + channel, out, known)
                total += plgpu.dot(pixels, weights, precision=precision).astype(total.dtype)
        mask = (at < positions)[:, None] & (out < c_out)[None, :]
        plgpu.store(y_ref.at[at[:, None], out[None, :]], total.astype(x.dtype), mask=mask)

    y = pl.pallas_call(
        body,
        out_shape=jax.ShapeDtypeStruct((positions, c_out), x.dtype),
        grid=(pl.cdiv(positions, block), pl.cdiv(c_out, out_side)),
        compiler_params=blocks.compiled,
        interpret=interpret,
        name="sbt_correlate",
    )(x.reshape(-1, c_in), kernel.reshape(-1, c_out))
    return y.reshape(n, *plan.target, c_out)


def kernel_gradient(
    x: jax.Array,
    g: jax.Array,
    plan: Plan,
    precision: Any,
    interpret: bool = False,
    blocks: Blocks = BLOCKS,
) -> jax.Array:
    """The sum over n, i, j of ``x[n, source(i, j, tap), c] g[n, i, j, o]``."""
    n, c_in, c_out = x.shape[0], x.shape[3], g.shape[3]
    positions = n * plan.target[0] * plan.target[1]
    block = blocks.positions
    steps = pl.cdiv(positions, block)
    parts = min(blocks.parts, steps)
    per_part = pl.cdiv(steps, parts)
    side, out_side = blocks.side_of(c_in), blocks.side_of(c_out)
    in_tiles, (k_h, k_w) = pl.cdiv(c_in, side), plan.taps

    def body(x_ref: Any, g_ref: Any, sums_ref: Any) -> None:
        part, out = (
            pl.program_id(0),
            pl.program_id(2) * out_side + jnp.arange(out_side, dtype=jnp.int32),
        )
        tap, tile = pl.program_id(1) // in_tiles, pl.program_id(1) % in_tiles
        channel = tile * side + jnp.arange(side, dtype=jnp.int32)

        def add(i: jax.Array, total: jax.Array) -> jax.Array:
            at = (part * per_part + i) * block + jnp.arange(block, dtype=jnp.int32)
            rows, exists = plan.rows(at, (tap // k_w, tap % k_w), n)
            pixels = _load(x_ref, rows, channel, exists[:, None])
            known = (at < positions)[:, None]
            gradients = _load(g_ref, jnp.where(at < positions, at, 0), out, known)
            product = plgpu.dot(pixels, gradients, trans_a=True, precision=precision)
            return total + product.astype(total.dtype)

        total = jnp.zeros((side, out_side), accumulation_dtype(x.dtype))
        total = lax.fori_loop(0, per_part, add, total)
        rows = (part * k_h * k_w + tap) * c_in + channel
        mask = (channel < c_in)[:, None] & (out < c_out)[None, :]
        plgpu.store(sums_ref.at[rows[:, None], out[None, :]], total, mask=mask)

    dtype = accumulation_dtype(x.dtype)
    sums = pl.pallas_call(
        body,
        out_shape=jax.ShapeDtypeStruct((parts * k_h * k_w * c_in, c_out), dtype),
        grid=(parts, k_h * k_w * in_tiles, pl.cdiv(c_out, out_side)),
        compiler_params=blocks.compiled,
        interpret=interpret,
        name="sbt_kernel_gradient",
    )(x.reshape(-1, c_in), g.reshape(-1, c_out))
    return sums.reshape(parts, k_h, k_w, c_in, c_out).sum(0).astype(x.dtype)


def _all_taps(plan: Plan) -> list[tuple[int, int]]:
    return [(u, v) for u in range(plan.taps[0]) for v in range(plan.taps[1])]


def on_gpu(gpu: Product, elsewhere: Product, a: jax.Array, b: jax.Array) -> jax.Array:
    """``gpu(a, b)`` where the program is compiled for an NVIDIA GPU, else ``elsewhere(a, b)``.

    The kernels have no forward mode; being products they need none.
    """
    run = bilinear(lambda a, b: lax.platform_dependent(a, b, cuda=gpu, default=elsewhere))
    return run(a, b)


def input_gradient(
    kernel: jax.Array,
    g: jax.Array,
    plan: Plan,
    precision: Any,
    interpret: bool = False,
    blocks: Blocks = BLOCKS,
) -> jax.Array:
    """The gradient of the images: the same sum, along the plan of who wrote where."""
    turned = kernel.transpose(0, 1, 3, 2)
    return correlate(g, turned, _transposed(plan), precision, interpret, blocks)


def _implicit(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    plan = forward_plan(x, kernel, window)
    return on_gpu(
        lambda x, kernel: correlate(x, kernel, plan, window.precision),
        lambda x, kernel: slices_product(x, kernel, window),
        x,
        kernel,
    )


def _gradients(x: jax.Array, kernel: jax.Array, g: jax.Array, window: Window) -> Gradients:
    plan = forward_plan(x, kernel, window)
    grad_x = on_gpu(
        lambda kernel, g: input_gradient(kernel, g, plan, window.precision),
        lambda kernel, g: slices_input_gradient(x.shape, kernel, g, window),
        kernel,
        g,
    )
    grad_kernel = on_gpu(
        lambda x, g: kernel_gradient(x, g, plan, window.precision),
        lambda x, g: slices_kernel_gradient(x, kernel.shape, g, window),
        x,
        g,
    )
    return grad_x, grad_kernel


# The convolution; arguments as of `sbt.nn.passes.stock`.
implicit = with_gradients(_implicit, _gradients)
