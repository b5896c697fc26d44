"""Muon: singular values, heads, and optax's own where the two agree."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sbt import optim
from sbt.models.registry import build_model
from sbt.optim.muon import orthogonal


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (2, 3, 7, 4)])
def test_singular_values_are_near_one_and_directions_are_kept(x64, shape):
    x = random(*shape)
    u, _, v = jnp.linalg.svd(x, full_matrices=False)
    along = jnp.diagonal(u.mT @ orthogonal(x) @ v.mT, axis1=-2, axis2=-1)
    assert float(along.min()) > 0.6 and float(along.max()) < 1.3
    np.testing.assert_allclose(orthogonal(1e3 * x), orthogonal(x), atol=1e-6)
    assert not np.any(orthogonal(jnp.zeros(shape)))


def test_as_optax_has_it_for_matrices_and_for_heads(x64):
    """The rule of Marek et al.: no Nesterov, Adam for embeddings, a matrix for each head."""
    model = build_model({"name": "gpt", "width": 8, "depth": 1, "heads": 2}, num_classes=5)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32), False)
    params = jax.tree.map(lambda s: random(*s.shape, seed=sum(s.shape)), shapes["params"])
    matrix = optax.contrib.MuonDimensionNumbers
    dims = dict.fromkeys(params, matrix()) | {"embedding": None, "logits": None}
    (attention,) = (name for name in params if name.startswith("Attention"))
    dims[attention] = {"qkv": matrix(2, 3), "out": matrix(1, 2)}
    numbers = {"beta": 0.8, "adam_b1": 0.7, "adam_b2": 0.9}
    theirs = optax.contrib.muon(
        0.1, nesterov=False, adam_learning_rate=0.05, muon_weight_dimension_numbers=dims, **numbers
    )
    ours = optim.muon(0.1, adam_ratio=0.5, **numbers)
    ends = []
    for rule in (ours, theirs):
        weights, state = params, rule.init(params)
        for step in range(5):
            grads = jax.tree.map(lambda x, step=step: jnp.sin(3 * x + step), weights)
            with jax.numpy_dtype_promotion("standard"):
                updates, state = rule.update(grads, state, weights)
            weights = optax.apply_updates(weights, updates)
        ends.append(jax.tree.leaves(weights))
    for a, b in zip(*ends, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
