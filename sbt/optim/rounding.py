"""Weights in sixteen bits: updates computed in float32, and rounded to bfloat16 by chance.

A bfloat16 number has eight bits of significand. An update that is smaller than half the distance
between two of them is lost by rounding to the nearest, every time; small batches make many such
updates. Rounded by chance they arrive on average.

Sweeps round what a rule has made of the weights (``config.rounding.name``, :data:`ROUNDINGS`) and
keep it in float32, which takes no less memory; a loop of one's own wraps the rule
(:func:`bfloat16_weights`). With the same key both arrive at the same weights.
"""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from jax import lax

from sbt.choice import Registry
from sbt.optim import base

Rounding = Literal["stochastic", "nearest"]
_DROPPED = 16  # bits of a float32 that a bfloat16 has not


def round_stochastically(x: jax.Array, key: jax.Array) -> jax.Array:
    r"""``x`` in bfloat16, rounded up or down at random, without bias.

    Of the two neighbours :math:`a \le x \le b` the upper one is drawn with probability
    :math:`(x - a)/(b - a)`, so that :math:`\mathbf{E}[\mathrm{SR}(x)] = x`: a uniform integer of 16
    bits is added to the bits of the float32, and the lower 16 bits are cleared. What bfloat16 holds
    stays as it is.

    Args:
      x: float32, of any shape.
      key: a typed key; every entry draws from it on its own.

    Returns:
      bfloat16, of the same shape. Infinities and NaN stay; a finite number beyond the largest of
      bfloat16 may become infinite.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from sbt import optim
      >>> x = jnp.full(10_000, 1 + 2**-9)  # a quarter of the way from 1 to 1 + 2**-7
      >>> drawn = optim.round_stochastically(x, jax.random.key(0))
      >>> print(jnp.unique(drawn))
      [1 1.00781]

    References:
      Marek et al., `Small Batch Size Training for Language Models
      <https://arxiv.org/abs/2507.07101>`_, 2025 (the bits)
    """
    bits = lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    kept = ((bits + noise) >> _DROPPED).astype(jnp.uint16)
    drawn = lax.bitcast_convert_type(kept, jnp.bfloat16)
    return jnp.where(jnp.isfinite(x), drawn, x.astype(jnp.bfloat16))


def rounded(weights: Any, key: Any, rounding: Rounding = "stochastic") -> Any:
    """Real weights of float32 or wider as bfloat16 holds them, in the dtype that they have.

    What is wider than float32 is rounded to that first, by chance only.

    Args:
      weights: a tree.
      key: typed, apart from what a rule draws from the same key; ``'nearest'`` needs none.
      rounding: ``'stochastic'``, every leaf on its own; or ``'nearest'``, ties to even.
    """
    if rounding == "nearest":
        # XLA may leave out a cast and its inverse, but not this.
        return jax.tree.map(lambda x: lax.reduce_precision(x, 8, 7), weights)
    leaves, structure = jax.tree.flatten(weights)
    keys = jax.random.split(jax.random.fold_in(key, 0x5B7), len(leaves))
    drawn = [round_stochastically(x, own) for x, own in zip(leaves, keys, strict=True)]
    narrow = [new.astype(x.dtype) for new, x in zip(drawn, leaves, strict=True)]
    return jax.tree.unflatten(structure, narrow)


# --- in sweeps ------------------------------------------------------------------------------------

ROUNDINGS = Registry("rounding", default="none")
"""Functions of the weights that an update leaves, and a key, to those that are kept."""


@ROUNDINGS.register("none")
def none(weights: Any, key: jax.Array) -> Any:
    """Weights stay in the precision of the updates."""
    del key
    return weights


@ROUNDINGS.register("stochastic", source="Marek et al. 2025, arXiv 2507.07101, figure 9")
def stochastic(weights: Any, key: jax.Array) -> Any:
    """After every update up or down by chance: without bias, small updates arrive on average."""
    return rounded(weights, key, "stochastic")


@ROUNDINGS.register("nearest", source="Marek et al. 2025, arXiv 2507.07101, figure 9")
def nearest(weights: Any, key: jax.Array) -> Any:
    """After every update to the nearest: updates below half a step are lost."""
    return rounded(weights, key, "nearest")


# --- in loops of one's own ------------------------------------------------------------------------


def bfloat16_weights(
    inner: optax.GradientTransformation, rounding: Rounding = "stochastic"
) -> optax.GradientTransformationExtraArgs:
    r"""A rule whose weights are bfloat16, and nothing else: state and arithmetic are float32.

    .. math:: w_{t+1} = \mathrm{round}(w_t + u_t)

    with the update :math:`u_t` of ``inner`` at the weights in float32. The wrapper returns
    :math:`w_{t+1} - w_t` in float32, so that ``optax.apply_updates`` arrives at the rounded weight;
    where one entry falls to less than :math:`2^{-16}` of its size in one update, that difference is
    itself rounded, to the nearest.

    Args:
      inner: any rule.
      rounding: ``'stochastic'``, which needs the extra argument ``key`` at every update, fresh at
        each; or ``'nearest'``, ties to even, which loses small updates.

    Returns:
      The rule; it needs params. Leaves of another dtype than bfloat16 are updated as by ``inner``.

    Raises:
      UserError: for another ``rounding``.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from sbt import optim
      >>> w = jnp.ones(4, jnp.bfloat16)
      >>> rule = optim.bfloat16_weights(optax.sgd(1.0), "nearest")
      >>> step, _ = rule.update(jnp.full(4, -(2.0**-9)), rule.init(w), w)
      >>> print(optax.apply_updates(w, step))  # the update is lost
      [1 1 1 1]

    References:
      Marek et al., `Small Batch Size Training for Language Models
      <https://arxiv.org/abs/2507.07101>`_, 2025 (figure 9)
    """
    base.one_of("rounding", rounding, get_args(Rounding))
    wrapped = optax.with_extra_args_support(inner)

    def init(params: Any) -> Any:
        return inner.init(_wide(params))

    def update(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        key: jax.Array | None = None,
        **extra: Any,
    ) -> Any:
        base.need_params(params)
        if rounding == "stochastic" and key is None:
            raise ValueError("Stochastic rounding draws: update(..., params, key=key) needs a key.")
        wide = _wide(params)
        steps, state = wrapped.update(_wide(updates), state, wide, key=key, **extra)
        narrow = jax.tree.map(lambda x: x.dtype == jnp.bfloat16, params)

        def after(narrow: bool, wide: jax.Array, step: jax.Array) -> jax.Array:
            # What is left alone keeps its place, so that no leaf's key depends on it.
            return wide + step.astype(jnp.float32) if narrow else jnp.zeros((), jnp.float32)

        stored = rounded(jax.tree.map(after, narrow, wide, steps), key, rounding)

        def step(narrow: bool, own: jax.Array, wide: jax.Array, stored: jax.Array) -> jax.Array:
            return stored - wide if narrow else own

        return jax.tree.map(step, narrow, steps, wide, stored), state

    return optax.GradientTransformationExtraArgs(init, update)


def _wide(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, tree)
