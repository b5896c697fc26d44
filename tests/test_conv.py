"""The lane-friendly convolution against XLA's own operation and its gradients."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lanes import compiling

from sbt.nn import conv

CASES = [
    # size, kernel, stride, padding
    ((8, 8), (3, 3), (1, 1), "SAME"),
    ((8, 8), (3, 3), (2, 2), "SAME"),
    ((7, 9), (3, 3), (2, 2), "SAME"),
    ((8, 7), (5, 5), (1, 1), "SAME"),
    ((9, 8), (3, 3), (1, 1), "VALID"),
    ((9, 8), (3, 3), (2, 2), "VALID"),
    ((8, 8), (1, 1), (1, 1), "SAME"),
    ((8, 7), (1, 1), (2, 2), "SAME"),
    ((8, 8), (3, 3), (2, 2), ((1, 1), (1, 1))),
    ((8, 8), (2, 3), (2, 1), ((0, 2), (1, 0))),
    ((6, 6), (1, 1), (2, 2), ((1, 0), (0, 1))),
]


@pytest.mark.parametrize("size,kernel,stride,padding", CASES)
@pytest.mark.parametrize("implementation", ["direct", "packed", "im2col"])
def test_value_and_gradients_equal_xla(x64, implementation, size, kernel, stride, padding):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(3, *size, 4)), rng.normal(size=(*kernel, 4, 5))

    def reference(x, w):
        return jax.lax.conv_general_dilated(
            x, w, stride, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def ours(x, w):
        return conv.conv2d(x, w, stride, padding, implementation=implementation)

    @functools.partial(jax.jit, static_argnums=0)
    def passes(run, x, w):
        y, pull = jax.vjp(run, x, w)
        return y, *pull(jnp.cos(1.7 * jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    for found, expected in zip(passes(ours, x, w), passes(reference, x, w), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("size,kernel,stride,padding", CASES)
def test_products_with_the_hessian_equal_xla(x64, size, kernel, stride, padding):
    """Forward over reverse, of images and kernel together, in a compiled loop over directions."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(9, *size, 4)), rng.normal(size=(*kernel, 4, 5))
    along = rng.normal(size=(2, *x.shape)), rng.normal(size=(2, *w.shape))

    def product(run):
        gradient = jax.grad(lambda x, w: jnp.sum(jnp.sin(run(x, w))), (0, 1))
        return jax.lax.map(lambda v: jax.jvp(gradient, (x, w), v)[1], along)

    def reference(x, w):
        return jax.lax.conv_general_dilated(
            x, w, stride, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    kinds = ("direct", "packed", "im2col", "implicit")
    ours = [
        functools.partial(conv.conv2d, strides=stride, padding=padding, implementation=kind)
        for kind in kinds
    ]
    with compiling(quickly=True):
        products = jax.jit(lambda: [product(run) for run in (reference, *ours)])
        expected, *found = products.lower().compile()()
    for kind, of_kind in zip(kinds, found, strict=True):
        for mine, theirs in zip(of_kind, expected, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9, err_msg=kind)


PACKED = [
    # examples, size, channels in and out, kernel, stride, padding
    (1, (8, 8), (1, 8), (3, 3), 1, "SAME"),  # more columns at a time than some rows have groups
    (4, (7, 10), (3, 16), (5, 5), 1, ((2, 2), (2, 2))),  # a width that is no multiple
    (5, (6, 9), (16, 3), (3, 2), 1, "VALID"),
    (2, (9, 9), (3, 5), (3, 3), 2, ((1, 1), (1, 1))),
    (2, (9, 3), (2, 2), (3, 3), 1, "VALID"),  # a single column
    (20, (5, 5), (17, 4), (3, 3), 1, "SAME"),  # enough channels: nothing to pack
    (64, (5, 6), (4, 5), (3, 3), 1, "SAME"),  # two parts of 32 examples
    (48, (5, 6), (4, 18), (3, 3), 2, "SAME"),  # three of 16
    (37, (4, 4), (2, 3), (3, 3), 1, "SAME"),  # a prime number of examples
]


@pytest.mark.parametrize("n,size,channels,kernel,stride,padding", PACKED)
def test_packing_changes_no_number(x64, n, size, channels, kernel, stride, padding):
    rng = np.random.default_rng(2)
    x, w = rng.normal(size=(n, *size, channels[0])), rng.normal(size=(*kernel, *channels))

    @functools.partial(jax.jit, static_argnums=0)
    def passes(implementation, x, w):
        run = functools.partial(
            conv.conv2d, strides=(stride,) * 2, padding=padding, implementation=implementation
        )
        y, pull = jax.vjp(run, x, w)
        return y, *pull(jnp.cos(1.7 * jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))

    for expected, found in zip(passes("stock", x, w), passes("packed", x, w), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-11)


@pytest.mark.parametrize("implementation", conv.IMPLEMENTATIONS)
@pytest.mark.parametrize("stride", [1, 2])
def test_lanes_equal_single_convolutions(x64, implementation, stride):
    keys = jax.random.split(jax.random.key(1), 2)
    x = jax.random.normal(keys[0], (3, 2, 6, 6, 2), jnp.float64)
    w = jax.random.normal(keys[1], (3, 3, 3, 2, 4), jnp.float64)

    def loss(x, w):
        y = conv.conv2d(x, w, (stride, stride), implementation=implementation)
        return jnp.sum(jnp.sin(y))

    lanes = jax.vmap(jax.grad(loss, (0, 1)))(x, w)
    for lane in range(3):
        single = jax.grad(loss, (0, 1))(x[lane], w[lane])
        for a, b in zip(lanes, single, strict=True):
            np.testing.assert_allclose(a[lane], b, atol=1e-12)


def test_unknown_implementation_is_refused():
    with pytest.raises(ValueError, match="fft"):
        conv.conv2d(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1)), implementation="fft")  # type: ignore[arg-type]


class _Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), strides=2)(x))
        x = nn.Conv(4, (3, 3), kernel_dilation=2)(x)
        x = nn.Conv(4, (3, 3), feature_group_count=2)(x)
        return nn.Conv(3, (1, 1))(x).mean(axis=(1, 2))


@pytest.mark.parametrize("implementation", ["direct", "packed", "im2col"])
def test_interceptor_changes_the_program_not_the_numbers(implementation):
    net = _Net()
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    params = net.init(jax.random.key(1), x)

    def forward(params, x):
        with conv.lane_friendly(implementation):
            return net.apply(params, x)

    np.testing.assert_allclose(forward(params, x), net.apply(params, x), rtol=1e-5, atol=1e-6)
    text = str(jax.make_jaxpr(forward)(params, x))
    assert "custom_vjp" in text
    # Dilated and grouped convolutions keep the stock operation.
    assert text.count("custom_vjp_call") == 1


def test_interceptor_respects_a_modules_own_choice():
    calls = []

    def own(*args, **kwargs):
        calls.append(1)
        return jax.lax.conv_general_dilated(*args, **kwargs)

    net = nn.Conv(2, (3, 3), conv_general_dilated=own)
    x = jnp.ones((1, 4, 4, 1))
    with conv.lane_friendly("im2col"):
        net.init(jax.random.key(0), x)
    assert calls
