r"""Gradients of single examples and of batches: moments, size, and without the easy examples.

References:
  Gao and Zhong, `Study on the Large Batch Size Training of Neural Networks Based on the Second
  Order Gradient <https://arxiv.org/abs/2012.08795>`_, 2020 (equations 1-8, figures 3, 4, 7 and 9)
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import erf
from jax.typing import ArrayLike

from sbt.errors import UserError
from sbt.measure.registry import MEASUREMENTS, Found, Labelled, Subject
from sbt.measure.split import over_split, split_size, sum_over_batches
from sbt.measure.trees import (
    Where,
    as_loss,
    check_finite,
    checked_count,
    checked_key,
    parts_of,
    surface,
)
from sbt.optim.sample_rule import Average, discard_weights
from sbt.ranges import BELOW_ONE, COUNT, Range

ExampleLoss = Callable[[Any, Any], jax.Array]
"""``(params, example) -> scalar``; an example has no leading axis."""

ROOT_TWO_OVER_PI = math.sqrt(2 / math.pi)  # mean of |N(0, 1)|, 0.798


# --- moments -------------------------------------------------------------------------------------


class Moments(NamedTuple):
    r"""Moments of the per-example gradients :math:`g^k`, entry by entry."""

    mean: jax.Array  # shape=(n,), mu_i: the gradient of the mean loss
    variance: jax.Array  # shape=(n,), sigma_i^2, divided by N: the split is the population
    examples: jax.Array  # shape=(), N, as a float


def example_gradient_moments(
    example_loss: ExampleLoss,
    params: Any,
    examples: Any,
    *,
    chunk: int = 64,
    where: Where = None,
) -> Moments:
    r"""Mean and variance of every parameter's per-example gradient.

    .. math::

      \mu_i = \frac1N \sum_k g_i^k, \qquad \sigma_i^2 = \frac1N \sum_k (g_i^k - \mu_i)^2

    One pass over the split, ``chunk`` examples at a time, whose moments are merged by Chan's
    formula: there is no difference of two large sums, which would lose the variance to rounding.

    A net whose examples see each other (batch norm on batch statistics) has no per-example
    gradient: close ``example_loss`` over running statistics. Dropout must be off, or keyed by
    example.

    Args:
      example_loss: loss of one example.
      examples: tree of arrays with one leading axis of examples.
      chunk: examples differentiated at a time; memory of as many gradients.

    Returns:
      Vectors in the order of :func:`sbt.measure.ravel`. Can be mapped over lanes.

    Raises:
      UserError: for arrays whose leading axes differ.

    Examples:
      >>> found = example_gradient_moments(lambda w, x: 0.5 * (w - x) ** 2, 0.0, jnp.arange(5.0))
      >>> print(found.mean, found.variance)
      [-2.] [2.]

    References:
      Chan, Golub and LeVeque, `Algorithms for Computing the Sample Variance
      <https://doi.org/10.1080/00031305.1983.10483115>`_, 1983
    """
    size = split_size(examples, chunk, "chunk")
    loss = as_loss(example_loss, "example_loss", "im2col")
    check_finite(params)
    chosen, fill = parts_of(params, where)
    examples = jax.tree.map(jnp.asarray, examples)
    length = min(chunk, size)
    full, rest = divmod(size, length)
    # By leaf, since assembling a vector of all would take longer than the gradients.
    gradients = jax.vmap(jax.grad(lambda parts, x: loss(fill(parts), x)), in_axes=(None, 0))

    def of_chunk(start: Any, length: int) -> list[Moments]:
        part = jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, start, length), examples)
        return [
            Moments(jnp.mean(g, axis=0), jnp.var(g, axis=0), jnp.asarray(length, g.dtype))
            for g in gradients(chosen, part)
        ]

    def merge(i: jax.Array, total: list[Moments]) -> list[Moments]:
        return merged(total, of_chunk(i * length, length))

    def merged(total: list[Moments], more: list[Moments]) -> list[Moments]:
        return [_merged(a, b) for a, b in zip(total, more, strict=True)]

    total = of_chunk(0, length)
    if full > 1:
        total = lax.fori_loop(1, full, merge, total)
    if rest:
        total = merged(total, of_chunk(full * length, rest))
    mean, variance = (
        jnp.concatenate([leaf.ravel() for leaf in leaves])
        for leaves in ([m.mean for m in total], [m.variance for m in total])
    )
    return Moments(mean, variance, total[0].examples)


def _merged(a: Moments, b: Moments) -> Moments:
    """Moments of two disjoint sets of examples together."""
    examples = a.examples + b.examples
    share = b.examples / examples
    gap = b.mean - a.mean
    variance = (1 - share) * a.variance + share * b.variance
    return Moments(a.mean + share * gap, variance + share * (1 - share) * jnp.square(gap), examples)


# --- size of a batch's gradient ------------------------------------------------------------------


def folded_normal_mean(mean: ArrayLike, std: ArrayLike) -> jax.Array:
    r"""Expected magnitude of a normal variable,

    .. math:: E|N(\mu, s^2)| = s\sqrt{\tfrac2\pi}\, e^{-\mu^2/2s^2}
              + \mu\, \mathrm{erf}\!\left(\frac{\mu}{\sqrt2\, s}\right)

    which is :math:`|\mu|` for :math:`s = 0`.

    Examples:
      >>> mean, std = jnp.array([0.0, 2.0, -2.0]), jnp.array([1.0, 1.0, 0.0])
      >>> print([f'{m:.4f}' for m in folded_normal_mean(mean, std)])
      ['0.7979', '2.0170', '2.0000']
    """
    mu, s = jnp.asarray(mean), jnp.asarray(std)
    ratio = mu / jnp.where(s > 0, s, 1)
    bell = s * ROOT_TWO_OVER_PI * jnp.exp(-0.5 * jnp.square(ratio))
    return jnp.where(s > 0, bell + mu * erf(ratio / math.sqrt(2)), jnp.abs(mu))


class GradientPrediction(NamedTuple):
    """Mean over parameters of the expected magnitude of a mini-batch gradient."""

    folded: jax.Array  # shape of the batch sizes; E|g| from every parameter's mean and variance
    zero_mean: jax.Array  # the same with all means zero: 0.798 sigma / sqrt(n)
    floor: jax.Array  # shape=(), mean |full gradient|: what is left as n grows


def predict_mean_abs_gradient(
    moments: Moments, batch_sizes: ArrayLike, *, replacement: bool = False
) -> GradientPrediction:
    r"""Predicts :math:`\frac1d\sum_i E|g_i|` of a mini-batch of :math:`n` examples.

    Gao and Zhong explain the large-batch gap by gradients that shrink as :math:`1/\sqrt n`. Their
    equations 3, 4, 6 and 28 are misprinted (by :math:`\sqrt2`, and by a factor n in a density);
    this is derived anew. The mean of :math:`n` per-example gradients of parameter :math:`i` is
    taken as normal, :math:`N(\mu_i, s_i^2)` with :math:`s_i = \sigma_i/\sqrt n`, so its magnitude
    is *folded* normal. Without replacement (as training draws) :math:`s_i^2 =
    \frac{\sigma_i^2}{n}\frac{N-n}{N-1}`, which ends at 0 for the whole split. The gradient does not
    vanish as :math:`n` grows: it goes to the mean magnitude of the full gradient.

    Validity: the normal approximation is good near initialisation or at large n. Trained nets have
    heavy-tailed per-example gradients (most examples give next to none), and the prediction is too
    large at small n, by a factor of 3 at n = 1; there 0.798 σ/√n acts as an upper bound. Plot
    prediction and measurement together.

    Args:
      moments: of the per-example gradients over the split.
      batch_sizes: :math:`n`, a number or an array; at most :math:`N` without replacement.
      replacement: whether the examples of a batch are drawn with replacement.

    Returns:
      Predictions of the shape of ``batch_sizes``, in units of the gradient.

    Examples:
      >>> moments = Moments(jnp.array([0.1]), jnp.array([4.0]), jnp.asarray(10000.0))
      >>> found = predict_mean_abs_gradient(moments, jnp.array([1, 100, 10000]))
      >>> print([f'{value:.3f}' for value in found.folded], found.floor)
      ['1.598', '0.178', '0.100'] 0.1
      >>> print([f'{value:.3f}' for value in found.zero_mean])
      ['1.596', '0.159', '0.000']
    """
    n = jnp.asarray(batch_sizes).astype(moments.mean.dtype)
    shrink = jnp.sqrt(1 / n)
    if not replacement:
        total = moments.examples
        left = jnp.maximum(total - n, 0) / jnp.maximum(total - 1, 1)
        shrink = shrink * jnp.sqrt(left)
    sigma = jnp.sqrt(moments.variance)

    def folded(shrink: jax.Array) -> jax.Array:
        return jnp.mean(folded_normal_mean(moments.mean, shrink * sigma))

    return GradientPrediction(
        lax.map(folded, shrink.ravel()).reshape(n.shape),
        ROOT_TWO_OVER_PI * jnp.mean(sigma) * shrink,
        jnp.mean(jnp.abs(moments.mean)),
    )


class GradientSize(NamedTuple):
    """Magnitudes of mini-batch gradients at one point; axes: batch sizes, repeats."""

    mean_abs: jax.Array  # shape=(sizes, repeats), mean over parameters of |g_i|
    mean_square: jax.Array  # shape=(sizes, repeats), mean over parameters of g_i^2


def measure_gradient_size(
    batch_loss: Any,
    params: Any,
    arrays: Any,
    batch_sizes: Sequence[int],
    *,
    repeats: int = 20,
    key: jax.Array | None = None,
    where: Where = None,
    chunk: int = 1024,
    replacement: bool = False,
) -> GradientSize:
    r"""Size of the gradient of random mini-batches at one point, for several batch sizes.

    Their ``mean_abs`` is the paper's :math:`E|g|` (figure 3, at the first update step for the first
    fully connected layer's weights); ``mean_square`` is the loss stride per learning rate of
    equation 8, whose expectation is :math:`\frac1d\sum_i(\mu_i^2 + \sigma_i^2/n)` with replacement.

    Cost: ``repeats`` gradients of each batch size.

    Args:
      batch_loss: ``batch_loss(params, batch)``, mean loss over a batch.
      arrays: the split; tree of arrays with one leading axis of examples.
      batch_sizes: numbers of examples, each at most those of the split unless with replacement.
      repeats: batches drawn for each size.
      chunk: largest number of examples at a time. With batch norm on batch statistics these are
        the statistics of a chunk (a "ghost" batch).
      replacement: whether a batch is drawn with replacement.

    Raises:
      UserError: for a batch size that the split does not have.

    Examples:
      >>> loss = lambda w, batch: jnp.mean(0.5 * (w - batch) ** 2)
      >>> found = measure_gradient_size(loss, 1.0, jnp.arange(4.0), (1, 4), repeats=3)
      >>> print(found.mean_abs[1])  # the whole split, whichever way it is drawn
      [0.5 0.5 0.5]
    """
    size, key = split_size(arrays, chunk, "chunk"), checked_key(key)
    checked_count("repeats", repeats)
    at = surface(batch_loss, params, where, field="batch_loss")
    arrays = jax.tree.map(jnp.asarray, arrays)
    for n in batch_sizes:
        checked_count("batch_sizes", n, 0)
        if not 1 <= n <= (n if replacement else size):
            raise UserError("batch_sizes", f"{n} of {size} examples", f"use 1 to {size}")

    def measure(n: int, size_key: jax.Array) -> tuple[jax.Array, jax.Array]:
        def draw(i: jax.Array) -> tuple[jax.Array, jax.Array]:
            chosen = jax.random.choice(
                jax.random.fold_in(size_key, i), size, (n,), replace=replacement
            )
            batch = jax.tree.map(lambda a: a[chosen], arrays)
            g = jax.grad(over_split(at.loss, batch, chunk))(at.point)
            return jnp.mean(jnp.abs(g)), jnp.mean(jnp.square(g))

        return lax.map(draw, jnp.arange(repeats))

    found = [measure(n, jax.random.fold_in(key, i)) for i, n in enumerate(batch_sizes)]
    return GradientSize(*(jnp.stack(values) for values in zip(*found)))


# --- easy examples left out ----------------------------------------------------------------------


class DiscardedGradient(NamedTuple):
    """Mean magnitude of a batch's gradient, with examples left out; axis: fractions."""

    smallest: jax.Array  # shape=(fractions,), without the smallest losses
    random: jax.Array  # shape=(fractions,), the control: as many left out at random


def gradient_by_discarded_fraction(
    example_loss: ExampleLoss,
    params: Any,
    batch: Any,
    fractions: Sequence[float],
    *,
    average: Average = "kept",
    key: jax.Array | None = None,
    where: Where = None,
    chunk: int = 256,
) -> DiscardedGradient:
    r"""Mean magnitude of a batch's gradient without its smallest losses (Gao & Zhong, figure 9).

    All losses are computed, the :math:`\lfloor pm \rfloor` smallest dropped, and
    :math:`\frac1d\sum_i|g_i|` is that of the mean loss over the rest. Dropping alone makes a
    gradient noisier, so its magnitude can rise by :math:`1/\sqrt{1-p}` where it is pure noise; the
    control that drops as many at random shows by how much.

    Args:
      example_loss: loss of one example.
      params: the point (the paper: at the first update), any tree.
      batch: the SGD batch; tree of arrays with one leading axis of examples.
      fractions: the values of :math:`p`, in [0, 1).
      average: ``'kept'``, mean over the kept examples; ``'batch'``, sum over them divided by the
        whole batch, so that dropping does not scale up.
      key: typed key of the control; None for ``jax.random.key(0)``.
      where: the parameters that count (the paper: the second fully connected layer's).

    Returns:
      In units of the gradient, one value for each fraction. Cost: two gradients of the batch for
      each fraction. Can be mapped over lanes.

    Raises:
      UserError: for a fraction outside [0, 1).

    Examples:
      >>> loss = lambda w, x: 0.5 * (w - x) ** 2
      >>> batch = jnp.array([0.0, 0.0, 1.0, 3.0])
      >>> print(gradient_by_discarded_fraction(loss, 0.0, batch, (0.0, 0.5, 0.75)).smallest)
      [1. 2. 3.]
    """
    size, key = split_size(batch, chunk, "chunk"), checked_key(key)
    at = surface(example_loss, params, where, field="example_loss", implementation="im2col")
    batch = jax.tree.map(jnp.asarray, batch)
    losses = lax.map(lambda example: at.loss(at.point, example), batch, batch_size=min(chunk, size))

    def magnitude(weights: jax.Array) -> jax.Array:
        def part(piece: tuple[Any, jax.Array]) -> jax.Array:
            examples, weight = piece

            def weighted(x: jax.Array) -> jax.Array:
                values = jax.vmap(lambda example: at.loss(x, example))(examples)
                return jnp.sum(weight * values)

            return jax.grad(weighted)(at.point)

        return jnp.mean(jnp.abs(sum_over_batches(part, (batch, weights), chunk, weighted=False)))

    def both(fraction: float, i: int) -> tuple[jax.Array, jax.Array]:
        kept = discard_weights(losses, fraction, average=average)
        control = discard_weights(
            losses, fraction, choice="random", key=jax.random.fold_in(key, i), average=average
        )
        return kept, control

    weights = [both(fraction, i) for i, fraction in enumerate(fractions)]
    stacked = jnp.stack([jnp.stack(side) for side in zip(*weights)])
    found = lax.map(magnitude, stacked.reshape(-1, size)).reshape(2, len(fractions))
    return DiscardedGradient(found[0], found[1])


# --- measured on a run ---------------------------------------------------------------------------


@MEASUREMENTS.register(
    "gradient_size", cost="passes over the data", source="Gao & Zhong 2020, figure 3"
)
def gradient_size(
    run: Subject,
    *,
    batch_sizes: Annotated[tuple[int, ...], COUNT] = (4, 16, 64),
    repeats: Annotated[int, Range(1, 10**6)] = 20,
) -> Found:
    r"""Mean |g| of random batches against their size, with its prediction.

    The prediction is the folded normal of single gradients' moments, without replacement; beside it
    :math:`0.798 \sigma/\sqrt n`, which leaves their mean out, and the floor, mean :math:`|\mu_i|`.

    Args:
      run: what is measured.
      batch_sizes: n.
      repeats: batches of each.
    """
    sizes = tuple(int(n) for n in batch_sizes)
    found = measure_gradient_size(
        run.batch_loss,
        run.params,
        run.split,
        sizes,
        repeats=repeats,
        key=run.key,
        where=run.where,
        chunk=run.batch,
    )
    moments = example_gradient_moments(
        run.example_loss, run.params, run.split, chunk=run.chunk, where=run.where
    )
    predicted = predict_mean_abs_gradient(moments, jnp.asarray(sizes))

    def by_size(values: jax.Array, words: str) -> Labelled:
        return Labelled(values, (("gradient_batch", sizes),), "", words)

    absolute, square = found.mean_abs, jnp.mean(found.mean_square, axis=1)
    spread = jnp.std(absolute, axis=1)
    return {
        "mean_abs_gradient": by_size(jnp.mean(absolute, axis=1), "mean |g| of a batch"),
        "mean_abs_gradient_std": by_size(spread, "mean |g| of a batch: std over batches"),
        "mean_square_gradient": by_size(square, "mean g² of a batch"),
        "predicted_mean_abs_gradient": by_size(
            predicted.folded, "mean |g| of a batch, folded normal"
        ),
        "zero_mean_prediction": by_size(predicted.zero_mean, "mean |g| of a batch, 0.798 σ/√n"),
        "gradient_floor": Labelled(predicted.floor, (), "", "mean |g| of the whole split"),
    }


@MEASUREMENTS.register(
    "discarded_gradient", cost="passes over the data", source="Gao & Zhong 2020, figure 9"
)
def discarded_gradient(
    run: Subject,
    *,
    fractions: Annotated[tuple[float, ...], BELOW_ONE] = (0.1, 0.3, 0.5, 0.7, 0.9),
    examples: Annotated[int, COUNT] = 8192,
    average: Average = "kept",
) -> Found:
    """Mean |g| of one batch without the fraction of smallest losses, and of random ones.

    Args:
      run: what is measured.
      fractions: left out; 0 is always measured too.
      examples: of the batch, drawn at random; the whole split where it has fewer.
      average: ``kept`` or ``batch``, see :func:`gradient_by_discarded_fraction`.
    """
    n = run.split.shape[0]
    order = jax.random.permutation(jax.random.fold_in(run.key, 0), n)
    fractions = tuple(dict.fromkeys((0.0, *fractions)))
    found = gradient_by_discarded_fraction(
        run.example_loss,
        run.params,
        run.split[order[: min(examples, n)]],
        fractions,
        average=average,
        key=jax.random.fold_in(run.key, 1),
        where=run.where,
        chunk=run.batch,
    )
    dims = (("fraction", fractions),)
    smallest = "mean |g| without the smallest losses"
    random = "mean |g| without as many random examples"
    return {
        "discarded_gradient": Labelled(found.smallest, dims, "", smallest),
        "randomly_discarded_gradient": Labelled(found.random, dims, "", random),
    }
