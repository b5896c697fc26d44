"""The peer that most JAX users write: one jitted step, called for one batch after another."""

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from sbt.bench import flax_models
from sbt.bench.lanes import Task
from sbt.bench.networks import CLASSES, WEIGHT_DECAY
from sbt.bench.workload import Workload

SCANNED = (8, 64)  # updates per call of the scanned variant: fewest, most
SCANNED_EXAMPLES = 512


class FlaxState(NamedTuple):
    """What the step carries (weights, running statistics, optimizer state, last loss), and where.

    Attributes:
      carry: of the step.
      updates: done.
    """

    carry: tuple[Any, Any, Any, jax.Array]
    updates: int


def flax_workload(task: Task, scanned: bool = False) -> Workload:
    """A plain Flax and optax loop over batches that lie on the device.

    Args:
      task: what to train.
      scanned: ``lax.scan`` over some batches in one call, instead of a call for each.
    """
    m = task.setting.micro_batch
    dtype = jnp.dtype(task.setting.precision)
    module = flax_models.build(task.network.model, CLASSES, dtype)
    rule = optax.chain(optax.add_decayed_weights(WEIGHT_DECAY), optax.sgd(task.learning_rates[0]))
    device = jax.local_devices()[0]
    images, labels, order = jax.device_put(
        (task.images.astype(dtype), task.labels, task.orders[0]), device
    )

    def update(carry: Any, images: Any, labels: Any, order: Any, position: Any) -> Any:
        params, stats, opt_state, _ = carry
        batch = lax.dynamic_slice_in_dim(order, position * m, m)
        x, y = images[batch], labels[batch]

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
    def step(carry: Any, images: Any, labels: Any, order: Any, position: Any) -> Any:
        if not scanned:
            return update(carry, images, labels, order, position)

        def body(carry: Any, position: Any) -> Any:
            return update(carry, images, labels, order, position), None

        positions = position + jnp.arange(chunk, dtype=jnp.int32)
        return lax.scan(body, carry, positions)[0]

    def start() -> FlaxState:
        params, stats = jax.device_put((task.params[0], task.stats), device)
        return FlaxState((params, stats, rule.init(params), jnp.zeros((), jnp.float32)), 0)

    whole = task.updates_per_epoch - task.updates_per_epoch % chunk

    def advance(state: FlaxState, updates: int) -> FlaxState:
        carry, done = state
        for i in range(done, done + updates, chunk):
            carry = step(carry, images, labels, order, np.int32(i % whole))
        return FlaxState(jax.block_until_ready(carry), done + updates)

    began = time.perf_counter()
    lowered = step.lower(start().carry, images, labels, order, np.int32(0))
    compiled: Any = lowered.compile()
    seconds = time.perf_counter() - began
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return Workload(
        start=start,
        advance=advance,
        healthy=lambda state: bool(jnp.isfinite(state.carry[-1])),
        setting=task.setting,
        chunk=chunk,
        detail=f"{chunk} updates a call" if scanned else "",
        compile_seconds=seconds,
        memory_bytes=held - memory.alias_size_in_bytes + memory.temp_size_in_bytes,
        bytes_accessed=None if scanned else float(cost.get("bytes accessed", 0.0)) or None,
    )
