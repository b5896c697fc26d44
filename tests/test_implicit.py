"""The GPU's convolution kernels, interpreted on CPU, against XLA's own convolution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sbt.bench import kernels
from sbt.nn import implicit, passes

CASES = [
    # examples, size, channels in and out, kernel, strides, pads
    (2, (8, 8), (3, 5), (3, 3), (1, 1), ((1, 1), (1, 1))),
    (3, (7, 9), (4, 20), (3, 3), (2, 2), ((1, 1), (0, 1))),
    (1, (6, 6), (17, 4), (2, 3), (2, 1), ((0, 2), (1, 0))),
    (2, (5, 6), (70, 3), (3, 3), (1, 1), ((0, 0), (0, 0))),  # several blocks of channels
    (5, (9, 8), (2, 66), (5, 5), (1, 1), ((2, 2), (2, 2))),  # several of output channels
    (2, (2, 2), (3, 3), (3, 3), (1, 1), ((1, 1), (1, 1))),  # fewer positions than a block
    (20, (8, 8), (3, 4), (3, 3), (3, 3), ((1, 1), (1, 1))),  # pixels that no tap reads
]


@pytest.mark.parametrize("n,size,channels,kernel,strides,pads", CASES)
def test_all_passes_equal_xla(x64, n, size, channels, kernel, strides, pads):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(n, *size, channels[0])), rng.normal(size=(*kernel, *channels))
    window = passes.Window(strides, pads)
    y, pull = jax.vjp(lambda x, w: passes.stock(x, w, window), x, w)
    g = rng.normal(size=y.shape)
    plan = implicit.forward_plan(x, w, window)
    found = implicit.correlate(x, w, plan, None, interpret=True)
    np.testing.assert_allclose(found, y, atol=1e-12)
    both = (
        implicit.input_gradient(jnp.asarray(w), jnp.asarray(g), plan, None, interpret=True),
        implicit.kernel_gradient(jnp.asarray(x), jnp.asarray(g), plan, None, interpret=True),
    )
    for found, expected in zip(both, pull(g), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_lanes_are_one_more_axis_of_the_grid(x64):
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=(3, 2, 6, 6, 4)), rng.normal(size=(3, 3, 3, 4, 5))
    window = passes.Window(pads=((1, 1), (1, 1)))
    plan = implicit.forward_plan(x[0], w[0], window)
    run = functools.partial(implicit.correlate, plan=plan, precision=None, interpret=True)
    for lane, found in enumerate(jax.vmap(run)(x, w)):
        expected = passes.stock(x[lane], w[lane], window)
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_lowers_for_a_gpu_without_a_grouped_convolution(dtype):
    """As far as this goes without one: Triton takes the kernels, and nothing else convolves."""

    def loss(x, w):
        y = implicit.implicit(x, w, passes.Window(pads=((1, 1), (1, 1))))
        return jnp.sum(jnp.sin(y))

    lanes = jax.jit(jax.vmap(jax.grad(loss, (0, 1))))
    x = jax.ShapeDtypeStruct((4, 8, 16, 16, 16), dtype)
    w = jax.ShapeDtypeStruct((4, 3, 3, 16, 32), dtype)
    text = lanes.trace(x, w).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("xla.gpu.triton") == 3
    assert "stablehlo.convolution" not in text


@pytest.mark.parametrize("cut", [*kernels.blocks()[1:9:3], kernels.blocks()[-1]])
def test_blocks_change_nothing_but_the_speed(x64, cut):
    """Sums of whole numbers, which no order rounds."""
    rng = np.random.default_rng(2)
    x, w = rng.integers(-3, 4, (5, 6, 6, 20)), rng.integers(-3, 4, (3, 3, 20, 40))
    x, w = x.astype(np.float64), w.astype(np.float64)
    window = passes.Window(pads=((1, 1), (1, 1)))
    y, pull = jax.vjp(lambda x, w: passes.stock(x, w, window), x, w)
    plan = implicit.forward_plan(x, w, window)
    g = jnp.round(y / 10)
    run = {"precision": None, "interpret": True, "blocks": cut}
    np.testing.assert_array_equal(implicit.correlate(x, w, plan, **run), y)
    grad_x, grad_w = pull(g)
    np.testing.assert_array_equal(implicit.input_gradient(w, g, plan, **run), grad_x)
    np.testing.assert_array_equal(implicit.kernel_gradient(x, g, plan, **run), grad_w)


@pytest.mark.parametrize("cut", kernels.blocks())
def test_all_blocks_lower_for_a_gpu(cut):
    shape = jax.ShapeDtypeStruct((4, 2, 8, 8, 64), jnp.float32)
    weights = jax.ShapeDtypeStruct((4, 3, 3, 64, 64), jnp.float32)
    lanes = jax.jit(jax.vmap(functools.partial(kernels._in_blocks, cut)))
    text = lanes.trace(shape, weights, shape).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("xla.gpu.triton") == 3
