"""A measured array with the names and labels of its dimensions, through jit and over lanes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

Dimension = tuple[str, tuple[Any, ...]]  # its name, and the label of each position


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Labelled:
    """Numbers, and what a results file has to say about them.

    A tree with one leaf: it goes through ``jit``, ``vmap`` and ``lax.map``, and ``jax.eval_shape``
    tells the labels of what a function would measure.

    Attributes:
      value: the numbers; the *last* axes are those of ``dims`` (maps add axes in front).
      dims: the dimensions in order; none for a number.
      units: of the numbers, empty for what has none.
      long_name: what it is, in a few words.

    Examples:
      >>> found = jax.vmap(lambda w: Labelled(w[:2], (('rank', (1, 2)),), 'nats'))(jnp.ones((5, 3)))
      >>> print(found.value.shape, found.dims)
      (5, 2) (('rank', (1, 2)),)
    """

    value: jax.Array
    dims: tuple[Dimension, ...] = dataclasses.field(default=(), metadata={"static": True})
    units: str = dataclasses.field(default="", metadata={"static": True})
    long_name: str = dataclasses.field(default="", metadata={"static": True})


def by_layer(
    values: dict[str, jax.Array], sizes: dict[str, int] | None = None, **words: str
) -> Labelled:
    """One number for each leaf of the parameters; with ``sizes``, a mean over all in front.

    Args:
      values: path of the leaf -> number.
      sizes: entries of each leaf; then the first label is ``all``, the mean weighted by them.
      words: ``units`` and ``long_name``.

    Examples:
      >>> found = by_layer({'a': jnp.asarray(1.0), 'b': jnp.asarray(4.0)}, {'a': 2, 'b': 1})
      >>> print(found.dims, found.value)
      (('layer', ('all', 'a', 'b')),) [2. 1. 4.]
    """
    names, stacked = tuple(values), jnp.stack(list(values.values()))
    if sizes is not None:
        weights = jnp.asarray([sizes[name] for name in names], stacked.dtype)
        mean = jnp.sum(weights * stacked) / jnp.sum(weights)
        names, stacked = ("all", *names), jnp.concatenate([mean[None], stacked])
    return Labelled(stacked, (("layer", names),), **words)
