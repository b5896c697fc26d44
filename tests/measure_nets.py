"""Small nets on the digits for the tests of measurements, written without sbt."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits


def digits(examples, dtype=np.float64):
    """The first images, scaled to [0, 1], and their labels."""
    x, y = load_digits(return_X_y=True)
    return jnp.asarray((x[:examples] / 16).astype(dtype)), jnp.asarray(y[:examples])


def dense_params(key, dtype=jnp.float64, hidden=8):
    first, second = jax.random.split(key)
    return {
        "hidden": {
            "kernel": jax.random.normal(first, (64, hidden), dtype) / 8,
            "bias": jnp.zeros(hidden, dtype),
        },
        "logits": {
            "kernel": jax.random.normal(second, (hidden, 10), dtype) / 3,
            "bias": jnp.zeros(10, dtype),
        },
    }


def dense_logits(params, x, norm=False):
    h = x @ params["hidden"]["kernel"] + params["hidden"]["bias"]
    if norm:
        h = (h - h.mean(0)) / jnp.sqrt(h.var(0) + 1e-6)
    return jnp.tanh(h) @ params["logits"]["kernel"] + params["logits"]["bias"]


def dense_losses(params, x, y, norm=False):
    """Loss of each example."""
    return optax.softmax_cross_entropy_with_integer_labels(dense_logits(params, x, norm), y)


def dense_loss(params, x, y, norm=False):
    return dense_losses(params, x, y, norm).mean()


def trained(x, y, norm=False, lanes=4, hidden=8):
    """Nets after 10 to 300 full-batch steps with momentum, stacked."""

    def train(key, steps):
        params = dense_params(key, x.dtype, hidden)

        def step(i, carry):
            params, speed = carry
            gradient = jax.grad(dense_loss)(params, x, y, norm)
            on = jnp.where(i < steps, 1.0, 0.0).astype(x.dtype)
            speed = jax.tree.map(lambda s, g: on * (0.9 * s - 0.2 * g), speed, gradient)
            return jax.tree.map(jnp.add, params, speed), speed

        speed = jax.tree.map(jnp.zeros_like, params)
        return jax.lax.fori_loop(0, 300, step, (params, speed))[0]

    keys = jax.random.split(jax.random.key(0), lanes)
    return jax.jit(jax.vmap(train))(keys, jnp.linspace(10, 300, lanes).astype(int))


def lane(lanes, i):
    """One net of a stack."""
    return jax.tree.map(lambda leaf: leaf[i], lanes)
