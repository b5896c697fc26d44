"""What a rule may ask for beyond the gradient: for each need, one record."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sbt.errors import UserError
from sbt.optim.base import l2_norm
from sbt.optim.curvature import hutchinson_diagonal
from sbt.optim.gradient_noise import mean_example_squares
from sbt.optim.layerwise import mean_example_norms
from sbt.tasks.base import Examples
from sbt.train.objective import Batch
from sbt.train.shards import Sharding


def check_parts(examples: int, parts: int) -> None:
    """Refuses a batch that has not so many equal parts.

    Args:
      examples: of it, on a device.
      parts: that the rule takes. A rule with an option of this meaning is registered with
        ``parts="its name"``, and is refused before anything is traced.

    Raises:
      UserError: naming both numbers.
    """
    if examples % parts:
        raise UserError(
            "config.batch_size",
            f"{examples} examples on a device do not make {parts} equal parts, which the update "
            "rule takes",
            f"use multiples of {parts} on every device, or another number of parts",
        )


class Seen(NamedTuple):
    """What there is to compute an extra from, at a tick.

    Attributes:
      params: the weights.
      batch: the tick's examples.
      stats: running statistics before it.
      loss: ``(params, batch) -> `` scalar.
      value: of the loss.
      grads: its gradient.
      sharding: of the batch over devices.
    """

    params: Any
    batch: Batch
    stats: Any
    loss: Callable[[Any, Batch], jax.Array]
    value: jax.Array
    grads: Any
    sharding: Sharding

    def gradient(self, params: Any) -> Any:
        """Of the same batch elsewhere."""
        return jax.grad(lambda p: self.loss(p, self.batch))(params)

    def loss_of(self, params: Any, examples: Examples) -> jax.Array:
        """Of other examples."""
        return self.loss(params, self.batch._replace(examples=examples))

    def part_gradient(self, params: Any, part: Any, parts: int) -> Any:
        """Of one of equal parts of the batch: every so many-th example, for any number of devices.

        Args:
          params: where.
          part: which, from 0; may be traced.
          parts: how many there are.

        Raises:
          UserError: the batch has not so many equal parts.
        """

        def cut(leaf: jax.Array) -> jax.Array:
            check_parts(leaf.shape[0], parts)
            return jnp.take(leaf.reshape(-1, parts, *leaf.shape[1:]), part, axis=1)

        examples = jax.tree.map(cut, dict(self.batch.examples))
        key = jax.random.fold_in(jax.random.fold_in(self.batch.key, 5), part)
        batch = self.batch._replace(examples=examples, key=key)
        return jax.grad(lambda p: self.loss(p, batch))(params)


@dataclasses.dataclass(frozen=True)
class Extra:
    """A further argument of a rule's ``update``.

    Attributes:
      compute: its value at a tick; means over the ticks of a batch accumulate. None: a gradient of
        another batch, see ``draws``.
      zeros: the params to zeros of its shape, for that mean. None: it is a function of the params,
        and the whole batch has to be there at once.
      draws: batches that an update draws for it.
      alone: whether it is of single examples, which share nothing with the others of their batch.
    """

    compute: Callable[[Seen], Any] | None
    zeros: Callable[[Any], Any] | None
    draws: int = 1
    alone: bool = False


def _number(params: Any) -> Any:
    del params
    return jnp.zeros((), jnp.result_type(float))


def _scalars(params: Any) -> Any:
    return jax.tree.map(lambda p: jnp.zeros((), p.dtype), params)


def _like(params: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, params)


def _example_norms(seen: Seen) -> Any:
    """Mean per-example gradient norm of every layer.

    With batch statistics an example alone has no gradient of its own; then it is the norm of the
    micro-batch's, whose mean over micro-batches accumulation takes.
    """
    if jax.tree.leaves(seen.stats):
        return jax.tree.map(l2_norm, seen.grads)

    return mean_example_norms(seen.loss_of, seen.params, dict(seen.batch.examples))


def _example_squares(seen: Seen) -> Any:
    return mean_example_squares(seen.loss_of, seen.params, dict(seen.batch.examples))


def _hessian_diagonal(seen: Seen) -> Any:
    """One sample of it; the update averages over micro-batches."""
    key = jax.random.fold_in(seen.batch.key, 1)
    signs = optax.tree.random_like(key, seen.params, jax.random.rademacher)
    return hutchinson_diagonal(seen.gradient, seen.params, signs)


EXTRAS: Mapping[str, Extra] = {
    "value": Extra(lambda seen: seen.value, _number),
    "batch_size": Extra(lambda seen: seen.batch.of.astype(jnp.result_type(float)), _number),
    "example_norms": Extra(_example_norms, _scalars),
    "example_squares": Extra(_example_squares, _like, alone=True),
    "hessian_diagonal": Extra(_hessian_diagonal, _like),
    "second_gradient": Extra(None, _like, draws=2),
    "value_fn": Extra(
        lambda seen: lambda params, *_: seen.sharding.mean(seen.loss(params, seen.batch)), None
    ),
    "grad_fn": Extra(
        lambda seen: lambda params, *_: seen.sharding.mean(seen.gradient(params)), None
    ),
    "part_gradient": Extra(
        lambda seen: lambda *arguments: seen.sharding.mean(seen.part_gradient(*arguments)), None
    ),
}
# Functions of the params, on a batch that has to be there at once.
FUNCTIONS = frozenset(name for name, extra in EXTRAS.items() if extra.zeros is None)


def draws(needs: Iterable[str]) -> int:
    """Batches that one update draws; 2 for rules that compare two gradients."""
    return max((EXTRAS[name].draws for name in needs if name in EXTRAS), default=1)


def zeros(needs: Iterable[str], params: Any) -> dict[str, Any]:
    """The extras that accumulate, empty."""
    return {n: extra.zeros(params) for n, extra in EXTRAS.items() if n in needs and extra.zeros}


def computed(needs: Iterable[str], seen: Seen) -> dict[str, Any]:
    """The extras of a tick."""
    return {n: extra.compute(seen) for n, extra in EXTRAS.items() if n in needs and extra.compute}
