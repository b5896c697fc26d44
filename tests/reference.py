"""The plain way to train one run: a Flax module, an optax chain and a Python loop.

Tests of the engine compare with this file, so it shares nothing with the engine: no ``sbt.train``,
no ``sbt.sweep``, no ``vmap``, no ``scan``, and Flax's own layers. Only the definitions of the order
of the examples and of the random streams are those of ``sbt.data``.
"""

import dataclasses
import functools
import itertools
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from sbt.data import epoch_order

# --- the networks, written with Flax's own layers ------------------------------------------------

HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class Net(nn.Module):
    """What the networks share. ``norm`` puts a batch norm after each hidden layer."""

    classes: int = 10
    norm: bool = False
    dtype: Any = jnp.float32

    def conv(self, x, width, kernel, strides=1, padding="SAME"):
        shape, steps = (kernel, kernel), (strides, strides)
        return nn.Conv(width, shape, steps, padding, **self.common, use_bias=not self.norm)(x)

    def dense(self, x, width, use_bias=True):
        return nn.Dense(width, **self.common, use_bias=use_bias)(x)

    def bn(self, x, train):
        if not self.norm:
            return x
        return nn.BatchNorm(
            use_running_average=not train,
            momentum=0.97,
            epsilon=1e-5,
            dtype=self.dtype,
            param_dtype=self.dtype,
            use_fast_variance=False,
        )(x)

    @property
    def common(self):
        return {"kernel_init": HE_NORMAL, "dtype": self.dtype, "param_dtype": self.dtype}


class ConvNet(Net):
    """The model ``convnet``: convolution, norm, ReLU, 2x2 max-pool per width; dense."""

    channels: tuple[int, ...] = (8, 16)

    @nn.compact
    def __call__(self, x, train):
        for width in self.channels:
            x = nn.relu(self.bn(self.conv(x, width, 3), train))
            x = nn.max_pool(x, (2, 2), (2, 2))
        return self.dense(x.reshape(len(x), -1), self.classes)


class AlexNet(Net):
    """The reduced AlexNet; with fewer and narrower layers a net for tests."""

    widths: tuple[int, ...] = (16, 48, 96, 64, 64)
    kernels: tuple[int, ...] = (5, 3, 3, 3, 3)
    pooled: tuple[int, ...] = (0, 1, 4)
    hidden: tuple[int, ...] = (256, 256)

    @nn.compact
    def __call__(self, x, train):
        for i, (width, kernel) in enumerate(zip(self.widths, self.kernels, strict=True)):
            x = nn.relu(self.bn(self.conv(x, width, kernel), train))
            if i in self.pooled:
                x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        x = x.reshape(len(x), -1)
        for width in self.hidden:
            x = nn.relu(self.bn(self.dense(x, width, use_bias=not self.norm), train))
        return self.dense(x, self.classes)


class MLP(Net):
    """Dense layers with norm, ReLU and dropout; dense."""

    hidden: tuple[int, ...] = (6,)
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, train):
        x = x.reshape(len(x), -1)
        for width in self.hidden:
            x = nn.relu(self.bn(self.dense(x, width, use_bias=not self.norm), train))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return self.dense(x, self.classes)


class BasicBlock(Net):
    """Two 3x3 convolutions and a shortcut, ``"A"`` (zero channels) or ``"B"`` (1x1 convolution)."""

    width: int = 16
    strides: int = 1
    shortcut: str = "A"

    @nn.compact
    def __call__(self, x, train):
        pad = ((1, 1), (1, 1))
        y = nn.relu(self.bn(self.conv(x, self.width, 3, self.strides, pad), train))
        y = self.bn(self.conv(y, self.width, 3, 1, pad), train)
        if self.strides > 1 and self.shortcut == "A":
            more = self.width - x.shape[-1]
            x = jnp.pad(x[:, :: self.strides, :: self.strides], ((0, 0),) * 3 + ((0, more),))
        elif self.strides > 1:
            x = self.bn(self.conv(x, self.width, 1, self.strides, "VALID"), train)
        return nn.relu(x + y)


class ResNet8(Net):
    """The CIFAR ResNet of depth 8: one block for each of three stages."""

    width: int = 16
    shortcut: str = "A"

    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(self.bn(self.conv(x, self.width, 3, 1, ((1, 1), (1, 1))), train))
        for stage in range(3):
            x = BasicBlock(
                norm=self.norm,
                dtype=self.dtype,
                width=self.width * 2**stage,
                strides=1 if stage == 0 else 2,
                shortcut=self.shortcut,
            )(x, train)
        return self.dense(x.mean((1, 2)), self.classes)


# --- the loop ------------------------------------------------------------------------------------


class Weights(NamedTuple):
    """Parameters and running statistics."""

    params: Any
    stats: Any


@dataclasses.dataclass(frozen=True)
class Run:
    """One fully specified training.

    Attributes:
      batch_size: m.
      base_lr: learning rate per example.
      seed: of weights and order.
      momentum: heavy ball.
      weight_decay: coefficient of ``|w|^2 / 2`` in the mean loss.
      bn_batch: examples that share batch statistics; None: the whole batch.
      schedule: progress (0..1) -> multiplier of the learning rate.
      scale: batch size -> factor between base and actual learning rate.
    """

    batch_size: int
    base_lr: float
    seed: int = 0
    momentum: float = 0.0
    weight_decay: float = 0.0
    bn_batch: int | None = None
    schedule: Callable[[float], float] = lambda progress: 1.0
    scale: Callable[[int], float] = float


def stream(seed: int, num_examples: int) -> Iterator[tuple[int, int]]:
    """(epoch, example): the examples of one epoch after another, without end."""
    for epoch in itertools.count():
        order = epoch_order(jax.random.key(seed), epoch, num_examples)
        yield from ((epoch, example) for example in np.asarray(order).tolist())


def unchanged(x: Any, epochs: Any, examples: Any, key: Any) -> Any:
    """No augmentation."""
    del epochs, examples, key
    return x


# Compiling costs more than running here: LLVM is asked for little effort.
QUICKLY = {"xla_backend_optimization_level": 0}


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICKLY)
def start(module: nn.Module, seed: Any, example: Any) -> Weights:
    """Fresh weights."""
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(b"init"))
    variables = module.init(key, example, train=False)
    # Flax starts running statistics in float32 whatever the dtype of the layer.
    stats = jax.tree.map(lambda s: s.astype(example.dtype), variables.get("batch_stats", {}))
    return Weights(variables["params"], stats)


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICKLY)
def gradient(module: nn.Module, weights: Weights, x: Any, labels: Any) -> tuple[Any, Any]:
    """Gradient of the mean loss of some examples, and the running statistics they leave."""

    def loss(params):
        variables = {"params": params, "batch_stats": weights.stats}
        logits, new = module.apply(variables, x, train=True, mutable=["batch_stats"])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), new.get("batch_stats", {})

    return jax.grad(loss, has_aux=True)(weights.params)


@jax.jit
def update(params, opt_state, grads, learning_rate, momentum, weight_decay):
    """One update by the optax chain of the paper's rule."""
    rule = optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum))
    if opt_state is None:
        opt_state = rule.init(params)
    updates, opt_state = rule.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def mean(trees: list[Any]) -> Any:
    """The mean of some trees, in numpy."""
    return jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *jax.device_get(trees))


def train(
    module: nn.Module,
    run: Run,
    images: Any,
    labels: Any,
    budget: int,
    updates: int,
    augment: Callable[..., Any] = unchanged,
) -> Iterator[Weights]:
    """Yields the weights before the first update and after each.

    Args:
      module: called as ``module(x, train=...)``.
      run: what to do.
      images: normalised, ``(N, ...)``, in the dtype of the computation.
      labels: ``(N,)``.
      budget: examples of the whole training, which progress is a fraction of.
      updates: how many to do.
      augment: ``(x, epochs, examples, key of the seed) -> x``.
    """
    order, key = stream(run.seed, len(labels)), jax.random.key(run.seed)
    group = run.bn_batch or run.batch_size
    weights, opt_state = start(module, np.uint32(run.seed), images[:1]), None
    yield weights
    for t in range(updates):
        batch = np.asarray([next(order) for _ in range(run.batch_size)], np.int32)
        results = []
        for i in range(0, len(batch), group):
            epochs, examples = batch[i : i + group].T
            x = augment(images[examples], epochs, examples, key)
            results.append(gradient(module, weights, x, labels[examples]))
        progress = t * run.batch_size / budget
        learning_rate = run.scale(run.batch_size) * run.base_lr * run.schedule(progress)
        numbers = np.asarray([learning_rate, run.momentum, run.weight_decay], images.dtype)
        params, opt_state = update(
            weights.params, opt_state, mean([g for g, _ in results]), *numbers
        )
        weights = Weights(params, mean([s for _, s in results]))
        yield weights


def evaluate(module: nn.Module, weights: Weights, images: Any, labels: Any) -> tuple[float, float]:
    """Mean loss and accuracy with the running statistics, all examples at once."""
    variables = {"params": weights.params, "batch_stats": weights.stats}
    logits = np.asarray(module.apply(variables, images, train=False), np.float64)
    top = logits.max(-1, keepdims=True)
    normaliser = np.log(np.exp(logits - top).sum(-1)) + top[:, 0]
    losses = normaliser - logits[np.arange(len(labels)), labels]
    return float(losses.mean()), float((logits.argmax(-1) == labels).mean())


# --- schedules -----------------------------------------------------------------------------------


def steps_with_warmup(
    drops: tuple[float, ...] = (), factor: float = 0.1, warmup: float = 0.0, start: float = 1 / 32
) -> Callable[[float], float]:
    """The learning-rate protocol of Masters & Luschi 2018, in plain arithmetic."""

    def multiplier(progress: float) -> float:
        ramp = start + (1 - start) * progress / warmup if progress < warmup else 1.0
        return ramp * factor ** sum(progress >= drop for drop in drops)

    return multiplier


# --- comparison ----------------------------------------------------------------------------------


def distance(tree: Any, other: Any) -> float:
    """Largest difference in any leaf, relative to the largest entry of that leaf of ``other``."""
    assert jax.tree.structure(tree) == jax.tree.structure(other)

    def one(a: Any, b: Any) -> float:
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape
        return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))

    return max(jax.tree.leaves(jax.tree.map(one, tree, other)), default=0.0)
