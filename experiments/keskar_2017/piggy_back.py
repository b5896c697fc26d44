"""Training from given weights, and from each of many: what warm starts need beside a sweep."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from solutions import Network

from sbt import optim
from sbt.data import epoch_order, purpose_key
from sbt.train.loss import cross_entropy


def make_training(
    network: Network, batch_size: int, epochs: int, learning_rate: float
) -> Callable[[Any, jax.Array], Any]:
    """ADAM from given weights, its moments at zero; every batch has its own batch statistics.

    Batches are consecutive pieces of the run's endless stream of permutations, as in a sweep: they
    may span the boundary of two epochs.

    Args:
      network: what is trained.
      batch_size: m.
      epochs: passes over the training set.
      learning_rate: η, length of a first step.

    Returns:
      ``(params, key) -> `` the weights after every epoch, with a leading axis of epochs. Pure; can
      be compiled and mapped over weights, keys or both.
    """
    rule, n = optim.adam(learning_rate), network.sizes["train"]

    def train(params: Any, key: jax.Array) -> Any:
        dropout = purpose_key(key, "dropout")

        def loss(params: Any, batch: jax.Array, update: jax.Array) -> jax.Array:
            mask = jax.random.fold_in(dropout, update)
            return jnp.mean(cross_entropy(*network.logits(params, batch, "train", mask)))

        def epoch(state: Any, number: jax.Array) -> tuple[Any, Any]:
            # A batch that spans two epochs is complete, and is used, in the second.
            before = epoch_order(key, jnp.maximum(number - 1, 0), n)[n - batch_size + 1 :]
            order = jnp.concatenate([before, epoch_order(key, number, n)])

            def update(t: jax.Array, state: Any) -> Any:
                params, moments = state
                start = t * batch_size - number * n + len(before)
                batch = lax.dynamic_slice_in_dim(order, start, batch_size)
                gradient = jax.grad(loss)(params, batch, t)
                step, moments = rule.update(gradient, moments, params)
                return jax.tree.map(jnp.add, params, step), moments

            first, last = (i * n // batch_size for i in (number, number + 1))
            state = lax.fori_loop(first, last, update, state)
            return state, state[0]

        return lax.scan(epoch, (params, rule.init(params)), jnp.arange(epochs))[1]

    return train


def from_each(
    network: Network,
    starts: Any,
    key: jax.Array,
    measure: Callable[[Any], Any],
    *,
    batch_size: int,
    epochs: int,
    learning_rate: float,
    at_once: int = 1,
) -> Any:
    """Trains from each of many weights, with the same batches, and measures where each ends.

    Args:
      network: what is trained.
      starts: weights, stacked along a leading axis.
      key: of the run: order and dropout.
      measure: of the last weights.
      batch_size: m.
      epochs: from each start.
      learning_rate: η of ADAM.
      at_once: starts trained at a time; more takes more memory.

    Returns:
      What ``measure`` gives, with a leading axis of starts.
    """
    train = make_training(network, batch_size, epochs, learning_rate)

    def one(params: Any) -> Any:
        return measure(jax.tree.map(lambda leaf: leaf[-1], train(params, key)))

    return jax.jit(lambda starts: lax.map(one, starts, batch_size=at_once))(starts)
