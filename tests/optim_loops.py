"""Training loops for the tests of update rules: one with the rule, one in plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sbt import optim

STEPS = 25
SCALES = {"kernel": 2.0, "bias": 0.5}
LR = np.linspace(0.2, 0.05, STEPS)


def start(seed=0):
    rng = np.random.default_rng(seed)
    return {"kernel": rng.normal(size=(3, 4)), "bias": rng.normal(size=4)}


def gradient(params):
    """Of sum of scale * (1 - cos w): non-convex, bounded, different in the two leaves."""
    sin = np.sin if isinstance(params["bias"], np.ndarray) else jnp.sin
    return {k: SCALES[k] * sin(w) for k, w in params.items()}


def shifted(params):
    """A gradient that is not zero at zero weights."""
    return jax.tree.map(lambda w: jnp.sin(w - 1), params)


def train(rule, params, steps=STEPS, grad_fn=gradient, **extra):
    """All iterates of a rule, as NumPy arrays, with the gradient where the rule asks for it."""
    params = jax.tree.map(jnp.asarray, params)

    @jax.jit
    def step(params, state):
        grads = grad_fn(optim.evaluation_point(rule, params, state))
        more = {name: fn(params) for name, fn in extra.items()}
        updates, state = rule.update(grads, state, params, **more)
        return optax.apply_updates(params, updates), state

    state, out = rule.init(params), []
    for _ in range(steps):
        params, state = step(params, state)
        out.append(jax.tree.map(np.asarray, params))
    return out


def numpy_train(step, params, steps=STEPS):
    """All iterates of ``step(t, w, memory) -> w``, in plain NumPy."""
    memory: dict = {}
    out = []
    for t in range(steps):
        params = step(t, params, memory)
        out.append(params)
    return out


def assert_close(ours, reference, tol=1e-6):
    for a, b in zip(ours, reference, strict=True):
        for k in b:
            np.testing.assert_allclose(a[k], b[k], rtol=tol, atol=tol)


def schedule(count):
    return jnp.asarray(LR)[count]


def buffer(memory, k, like):
    return memory.get(k, np.zeros_like(like))


def norm(x):
    return np.sqrt(np.sum(x**2))
