"""SNGM's theory: the largest batch that costs nothing, against the smoothness of the function.

    sbt run experiments/zhao_2020_sngm/theory.py --workdir runs/sngm_theory
    sbt report runs/sngm_theory

Zhao, Shi, Xie & Li (2020), arXiv 2007.13985, section 4: with C gradients of examples to spend, the
mean norm of the gradient over the iterates is O(C^(-1/4)) for SNGM with batches up to O(√C), in
which the smoothness L enters as 1/√L; for SGD with momentum (MSGD), whose step must stay below
O(1/L), with batches up to O(min(√C/L, C^(1/4))). The paper shows no experiment of this; here is
one. f(w) = Σ (1 - cos(√L wⱼ + φⱼ)) in ten dimensions is L-smooth and bounded for every L; examples
add noise to its gradient (``sbt.data.cosines``), 65,536 of them are used once, and both methods
take the best of 17 learning rates for each batch size: ``train_gradient_norm`` is then what the
theorems bound. The break is the largest batch whose mean norm is at most half as much again as the
best of all smaller ones.

What bounds say of their worst case need not be so for one function. With its rate tuned for the
noise, MSGD's step is η ∝ B/√L until it meets 1/L, which it does at B ∝ 1/√L: from the bounds
themselves one expects both methods to break alike, unless an ε that does not depend on L is asked
for.

2 methods x 5 smoothnesses x 11 batch sizes x 17 rates x 5 seeds = 9350 runs of one epoch, minutes
on two CPU cores. ``:small`` has a quarter of the examples and four smoothnesses: six minutes on two
cores that ten processes shared. ``results/theory_small`` is one: MSGD breaks at 256, 128, 64, 64
for L = 1, 4, 16, 64, an exponent of -0.35 [-0.5, -0.35], so that 1/L does not hold; SNGM at 256,
128, 64, 32, -0.5 [-0.55, -0.35], so that 1/√L does. Up to its break MSGD loses nothing, where SNGM
loses a little from the smallest batch on, the more, the larger L; beyond it both are alike.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from sbt.config import default
from sbt.errors import UserError
from sbt.report.statements import break_exponent_in, ratio_at_least

VARIANTS = ("", "small")
CAPTION = "MSGD breaks at batches in proportion to 1/L, SNGM at 1/√L"
DIMENSIONS, BUDGET = 10, 2**16
SMOOTHNESS = (1.0, 4.0, 16.0, 64.0, 256.0)
NORM = "train_gradient_norm"
BREAK = {"along": "batch_size", "across": "data__smoothness", "tune": "base_lr", "tolerance": 0.5}
CLAIMS = (
    break_exponent_in(
        "The batch at which MSGD breaks falls like 1/L",
        NORM,
        low=-1.25,
        high=-0.75,
        at={"rule": "sgd"},
        **BREAK,
    ),
    break_exponent_in(
        "The batch at which SNGM breaks falls like 1/√L",
        NORM,
        low=-0.75,
        high=-0.25,
        at={"rule": "sngm"},
        **BREAK,
    ),
    ratio_at_least(
        "At the largest batch MSGD's mean gradient is larger than SNGM's",
        NORM,
        more={"rule": "sgd"},
        less={"rule": "sngm"},
        at={"batch_size": "last"},
        tune="base_lr",
        best="lowest",
    ),
)


class Cosines(nn.Module):
    """An example's value, and the norm of the gradient of the mean of all."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        noise, root = x[:, :-1], x[:, -1:]
        w = self.param("w", nn.initializers.zeros, noise.shape[-1:])
        # Training begins between a quarter and three quarters of the way to the top.
        phase = jnp.pi * jnp.linspace(0.25, 0.75, w.size, dtype=w.dtype)
        angle = root * w + phase
        value = jnp.sum(1 - jnp.cos(angle), axis=1) + noise @ w
        norm = root[:, 0] * jnp.linalg.norm(jnp.sin(angle), axis=1)
        return jnp.stack([value, jax.lax.stop_gradient(norm)], axis=1)


def module() -> nn.Module:
    """The function, evaluated at its weights."""
    return Cosines()


def loss(outputs: jax.Array, examples: dict[str, jax.Array]) -> jax.Array:
    """The example's value."""
    return outputs[:, 0]


def metrics() -> dict[str, Callable[[Any, Any], jax.Array]]:
    """The norm of the gradient, told of every iterate."""
    return {"gradient_norm": lambda outputs, examples: outputs[:, 1]}


def get_config(variant: str = "") -> ConfigDict:
    """All of it, or ``small``."""
    if variant not in VARIANTS:
        raise UserError(f"theory.py:{variant}", "there is no such variant", "use :small, or none")
    config = default()
    config.name = "zhao_2020_sngm-theory" + "-small" * bool(variant)
    config.report.figure, config.report.caption = "Zhao et al. 2020 (SNGM), section 4", CAPTION
    config.report.claims, config.report.last_epochs = CLAIMS, 1
    config.report.protocol = (
        ("data", "cosines"),
        ("model", ("Cosines (own module)",)),
        ("epochs", 1),
        ("last_epochs", 1),
        ("test_examples", 0),
        ("score", "loss"),
        ("momentum", 0.9),
        ("seeds", 5),
    )
    config.data.name, config.data.smoothness, config.data.noise = "cosines", 1.0, 10.0
    config.epochs, config.lr_scaling = 1, "none"
    config.sweep.rule = ("sgd", "sngm")
    config.follow.rule__momentum = ("rule", (("sgd", 0.9), ("sngm", 0.9)))
    config.sweep.data__smoothness = SMOOTHNESS
    config.sweep.batch_size = tuple(2**k for k in range(2, 13))  # 4 ... 4096
    config.sweep.base_lr = tuple(2.0**k for k in range(-16, 1))
    config.sweep.seed = tuple(range(5))
    if variant == "small":
        config.data.train_size = BUDGET // 4
        config.sweep.data__smoothness = SMOOTHNESS[:4]
        config.sweep.batch_size = config.sweep.batch_size[:-2]
    return config
