"""The peer that most JAX users write: a network of Flax's own layers, one jitted step, a loop.

Parameter trees are those of :mod:`sbt.models`; nothing of sbt speeds these networks up.
"""

import functools
import time
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from sbt.bench.lanes import Task
from sbt.bench.workload import (
    BYTES,
    CLASSES,
    STACKS,
    Cell,
    Position,
    Stack,
    Workload,
    stages,
)

# --- networks ------------------------------------------------------------------------------------

HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class Plain(nn.Module):
    """What the networks share: ``norm`` puts a batch norm after every hidden layer."""

    norm: bool
    dtype: Any = jnp.float32
    epsilon: float = 1e-5

    def conv(self, x: jax.Array, width: int, kernel: int = 3, stride: int = 1) -> jax.Array:
        pad = ((kernel // 2, kernel // 2),) * 2
        return nn.Conv(
            width, (kernel, kernel), (stride, stride), pad, use_bias=not self.norm,
            kernel_init=HE_NORMAL, dtype=self.dtype,
        )(x)  # fmt: skip

    def dense(self, x: jax.Array, width: int, bias: bool = True) -> jax.Array:
        return nn.Dense(width, use_bias=bias, kernel_init=HE_NORMAL, dtype=self.dtype)(x)

    def bn(self, x: jax.Array, train: bool) -> jax.Array:
        if not self.norm:
            return x
        return nn.BatchNorm(
            use_running_average=not train, momentum=0.97, epsilon=self.epsilon, dtype=self.dtype
        )(x)


class Chain(Plain):
    """A :class:`sbt.bench.workload.Stack`."""

    stack: Stack = Stack()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for width, kernel, pool in self.stack.convolutions:
            x = nn.relu(self.bn(self.conv(x, width, kernel), train))
            if pool:
                x = nn.max_pool(x, (pool, pool), (2, 2), "SAME" if pool % 2 else "VALID")
        x = x.reshape(len(x), -1)
        for width in self.stack.hidden:
            x = self.dense(x, width, bias=self.stack.bias or not self.norm)
            x = nn.relu(self.bn(x, train))
        return self.dense(x, CLASSES)


class BasicBlock(Plain):
    """Two 3x3 convolutions and an option-A shortcut."""

    width: int = 16
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = nn.relu(self.bn(self.conv(x, self.width, 3, self.stride), train))
        y = self.bn(self.conv(y, self.width), train)
        if self.stride > 1:
            more = self.width - x.shape[-1]
            x = jnp.pad(x[:, :: self.stride, :: self.stride], ((0, 0),) * 3 + ((0, more),))
        return nn.relu(x + y)


class CifarResNet(Plain):
    """The 6n+2-layer family."""

    depth: int = 8

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.relu(self.bn(self.conv(x, 16), train))
        for width, stride in stages(self.depth):
            x = BasicBlock(self.norm, self.dtype, width=width, stride=stride)(x, train)
        return self.dense(x.mean((1, 2)), CLASSES)


class Weighted(nn.Module):
    """What a transformer's layers share."""

    heads: int
    dtype: Any

    def weights(self, name: str, *shape: int) -> jax.Array:
        return self.param(name, nn.initializers.normal(), shape).astype(self.dtype)

    def norm(self, x: jax.Array) -> jax.Array:
        return nn.RMSNorm(use_scale=False, dtype=self.dtype)(x)


class Attention(Weighted):
    """Causal, with rotary places and normalised queries and keys."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        shape = self.heads, width, width // self.heads
        q, k, v = jnp.einsum("ntd,cadh->cntah", x, self.weights("qkv", 3, *shape))
        q, k = rotated(self.norm(q)), rotated(self.norm(k))
        mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        return jnp.einsum("ntah,ahd->ntd", mixed, self.weights("out", shape[0], shape[2], width))


class GPT(Weighted):
    """A decoder-only transformer of bytes."""

    width: int
    depth: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        y = self.weights("embedding", BYTES, self.width)[x]
        for i in range(self.depth):
            y = y + Attention(self.heads, self.dtype)(self.norm(y))
            up = self.weights(f"up_{i}", self.width, 4 * self.width)
            down = self.weights(f"down_{i}", 4 * self.width, self.width)
            y = y + nn.gelu(self.norm(y) @ up) @ down
        return self.norm(y) @ self.weights("logits", BYTES, self.width).T


def rotated(x: jax.Array) -> jax.Array:
    """Rotary places of ``(n, T, heads, H)``."""
    half = x.shape[-1] // 2
    angles = jnp.outer(jnp.arange(x.shape[1]), 10_000.0 ** (-jnp.arange(half) / half))[:, None]
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def build(model: Mapping[str, Any], dtype: Any = jnp.float32) -> nn.Module:
    """The plain twin of a config's ``model`` section (the names of the benchmark only)."""
    if model["name"] == "gpt":
        return GPT(model["heads"], dtype, model["width"], model["depth"])
    name, norm = model["name"], model["norm"] == "batch"
    if name.startswith("resnet"):
        return CifarResNet(norm, dtype, depth=int(name.removeprefix("resnet")))
    return Chain(norm, dtype, STACKS[name].epsilon, stack=STACKS[name])


# --- training ------------------------------------------------------------------------------------

SCANNED = (8, 64)  # updates per call of the scanned variant: fewest, most
SCANNED_EXAMPLES = 512


def rule_of(task: Task) -> optax.GradientTransformation:
    """The rule of a network's config, at the learning rate of the first lane."""
    fields = dict(task.network.rule)
    if fields.pop("name") == "optax.adamw":
        return optax.adamw(task.learning_rates[0], **fields)
    decay = optax.add_decayed_weights(fields["weight_decay"])
    return optax.chain(decay, optax.sgd(task.learning_rates[0]))


def flax_workload(task: Task, scanned: bool = False) -> Workload:
    """A plain Flax and optax loop over batches that lie on the device.

    Args:
      task: what to train.
      scanned: ``lax.scan`` over some batches in one call, instead of a call for each.
    """
    m = task.setting.batch_size
    dtype = jnp.dtype(task.setting.precision)
    module = build(task.network.model, dtype)
    rule = rule_of(task)
    device = jax.local_devices()[0]
    x = task.x.astype(dtype) if np.issubdtype(task.x.dtype, np.floating) else task.x
    examples, labels, order = jax.device_put((x, task.labels, task.orders[0]), device)

    def update(carry: Any, examples: Any, labels: Any, order: Any, position: Any) -> Any:
        params, stats, opt_state, _ = carry
        batch = lax.dynamic_slice_in_dim(order, position * m, m)
        x, y = examples[batch], labels[batch]

        def loss_of(params: Any) -> tuple[jax.Array, Any]:
            variables = {"params": params, "batch_stats": stats}
            logits, new = module.apply(variables, x, train=True, mutable=["batch_stats"])
            logits = logits.astype(jnp.float32)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
            return losses.mean(), new.get("batch_stats", {})

        (loss, stats), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = rule.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), stats, opt_state, loss

    chunk = 1
    if scanned:
        chunk = int(np.clip(SCANNED_EXAMPLES // m, *SCANNED))
        chunk = min(chunk, task.updates_per_epoch)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(carry: Any, examples: Any, labels: Any, order: Any, position: Any) -> Any:
        if not scanned:
            return update(carry, examples, labels, order, position)

        def body(carry: Any, position: Any) -> Any:
            return update(carry, examples, labels, order, position), None

        positions = position + jnp.arange(chunk, dtype=jnp.int32)
        return lax.scan(body, carry, positions)[0]

    def start() -> Position:
        params, stats = jax.device_put((task.params[0], task.stats), device)
        return Position((params, stats, rule.init(params), jnp.zeros((), jnp.float32)), 0)

    whole = task.updates_per_epoch - task.updates_per_epoch % chunk

    def advance(at: Position, updates: int) -> Position:
        carry, done = at
        for i in range(done, done + updates, chunk):
            carry = step(carry, examples, labels, order, np.int32(i % whole))
        return Position(jax.block_until_ready(carry), done + updates)

    began = time.perf_counter()
    lowered = step.lower(start().state, examples, labels, order, np.int32(0))
    compiled: Any = lowered.compile()
    seconds = time.perf_counter() - began
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes
    cell = Cell(
        task.setting,
        detail=f"{chunk} updates a call" if scanned else "",
        compile_seconds=seconds,
        memory_bytes=held - memory.alias_size_in_bytes + memory.temp_size_in_bytes,
        bytes_accessed=None if scanned else float(cost.get("bytes accessed", 0.0)) or None,
    )
    return Workload(start, advance, lambda at: bool(jnp.isfinite(at.state[-1])), cell, chunk=chunk)
