"""The tallies: strides and gradient sizes, the noise scale of accumulation, loss fluctuation."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sbt.errors import UserError
from sbt.measure import noise_scale_from_two
from sbt.measure.labelled import Labelled
from sbt.measure.noise_scale import as_noise_scale
from sbt.measure.trees import selected
from sbt.train.tally import Kept, Setting, Tally, Tick, Update

ZERO: Any = np.zeros((), np.float32)


class StrideSums(NamedTuple):
    """Sums over updates; all but the first have shape (layers,)."""

    updates: jax.Array  # shape=()
    stride: jax.Array  # mean |dw|
    normalised: jax.Array  # the same over the learning rate
    gradient: jax.Array  # mean |g|
    square: jax.Array  # mean g^2
    loss: jax.Array  # mean of -g dw


def strides(setting: Setting) -> Tally:
    r"""How far updates move the weights, and how large their gradients are, layer by layer.

    Means over the entries of a layer, and over all (label ``all``), of :math:`|\Delta w_i|`,
    :math:`|\Delta w_i|/\eta`, :math:`|g_i|`, :math:`g_i^2` and the predicted decrease of the loss
    :math:`-g_i \Delta w_i`; their means over the updates of an epoch, and for the first the sum,
    the length of the path (Gao & Zhong 2020, figures 4, 5 and 7).
    """
    chosen = selected(setting.params, setting.where)
    sizes = [
        leaf.size for (_, taken), leaf in zip(chosen, jax.tree.leaves(setting.params)) if taken
    ]
    layers = ("all", *(path for path, taken in chosen if taken))

    def means(tree: Any) -> jax.Array:
        leaves = [leaf for (_, taken), leaf in zip(chosen, jax.tree.leaves(tree)) if taken]
        each = [jnp.sum(leaf.astype(jnp.float32)) for leaf in leaves]
        whole = jnp.sum(jnp.stack(each)) / sum(sizes)
        return jnp.stack([whole, *(total / size for total, size in zip(each, sizes))])

    def update(kept: Kept, seen: Update) -> Kept:
        moved = jax.tree.map(jnp.subtract, seen.after, seen.before)
        stride = means(jax.tree.map(jnp.abs, moved))
        rate = seen.learning_rate.astype(jnp.float32)
        moving = rate > 0
        found = StrideSums(
            jnp.ones((), jnp.float32),
            stride,
            jnp.where(moving, stride / jnp.where(moving, rate, 1), 0),
            means(jax.tree.map(jnp.abs, seen.grads)),
            means(jax.tree.map(jnp.square, seen.grads)),
            means(jax.tree.map(lambda g, step: -g * step, seen.grads, moved)),
        )
        return kept._replace(sums=_added(kept.sums, setting.sharding.mean(found)))

    def summary(sums: StrideSums) -> dict[str, Labelled]:
        count = jnp.where(sums.updates > 0, sums.updates, jnp.nan)

        def mean(total: jax.Array, words: str, units: str = "") -> Labelled:
            return Labelled(total / count, (("layer", layers),), units, words)

        return {
            "parameter_stride": mean(sums.stride, "mean |Δw| of an update"),
            "path_length": Labelled(
                sums.stride, (("layer", layers),), "", "sum of mean |Δw| over the epoch"
            ),
            "normalised_stride": mean(sums.normalised, "mean |Δw|/η of an update"),
            "gradient_magnitude": mean(sums.gradient, "mean |g| of a batch"),
            "gradient_mean_square": mean(sums.square, "mean g² of a batch"),
            "loss_stride": mean(sums.loss, "mean -g Δw of an update", "nats"),
        }

    zeros = jnp.zeros(len(layers), jnp.float32)
    return Tally(Kept((), StrideSums(ZERO, *[zeros] * 5)), lambda p, _: p, update, summary)


class NoiseSums(NamedTuple):
    """Sums over updates, each of shape ()."""

    updates: jax.Array
    square: jax.Array  # |G|^2
    trace: jax.Array  # tr Sigma


def accumulated_noise_scale(setting: Setting) -> Tally:
    """Gradient noise scale from the micro-batches of every update: the ratio of epoch averages.

    The norms of micro-batch gradients and of their mean tell it (McCandlish et al. 2018, appendix
    A). NaN for a run whose batch is one micro-batch.

    Raises:
      UserError: for local SGD, whose devices never see the whole batch.
    """
    if setting.sharding.local:
        raise UserError(
            "config.measure.names",
            "'accumulated_noise_scale' compares micro-batches with a batch that local SGD splits",
            "leave it out, or set config.parallel.local_steps to 1",
        )

    def square(grads: Any) -> jax.Array:
        leaves = [
            jnp.sum(jnp.square(leaf.astype(jnp.float32)))
            for (_, taken), leaf in zip(
                selected(setting.params, setting.where), jax.tree.leaves(grads)
            )
            if taken
        ]
        return setting.sharding.mean(jnp.sum(jnp.stack(leaves)))

    def tick(pending: Any, seen: Tick) -> Any:
        total, count = pending
        return total + square(seen.grads), count + 1

    def update(kept: Kept, seen: Update) -> Kept:
        total, count = kept.pending
        small = total / jnp.maximum(count, 1)
        own = setting.micro_batch // setting.sharding.devices
        found = noise_scale_from_two(
            small, square(seen.grads), own, seen.batch_size, population=setting.num_examples
        )
        sums = NoiseSums(jnp.ones((), jnp.float32), found.gradient_square, found.covariance_trace)
        return Kept((ZERO, ZERO), _added(kept.sums, sums))

    def summary(sums: NoiseSums) -> dict[str, Labelled]:
        count = jnp.where(sums.updates > 0, sums.updates, jnp.nan)
        found = as_noise_scale(sums.square / count, sums.trace / count)
        return {
            "accumulated_noise_scale": Labelled(
                found.value, (), "examples", "gradient noise scale over the epoch"
            ),
            "accumulated_gradient_square": Labelled(
                found.gradient_square, (), "", "squared gradient norm over the epoch"
            ),
            "accumulated_covariance_trace": Labelled(
                found.covariance_trace, (), "", "trace of the gradient covariance over the epoch"
            ),
        }

    return Tally(Kept((ZERO, ZERO), NoiseSums(ZERO, ZERO, ZERO)), tick, update, summary)


class LossSums(NamedTuple):
    """Of the losses of batches, each of shape ()."""

    updates: jax.Array
    mean: jax.Array
    deviations: jax.Array  # sum of squared deviations from the mean
    previous: jax.Array  # loss of the last batch
    steps: jax.Array  # sum of squared differences of consecutive losses


def fluctuation(setting: Setting) -> Tally:
    r"""Fluctuation of the batch loss: its spread over an epoch, with and without the trend.

    The spread about the mean, and :math:`\sqrt{\tfrac12 \overline{(L_t - L_{t-1})^2}}`, which is
    the spread of independent losses about any slow trend (von Neumann 1941; Gao & Zhong 2020,
    figure 8, call the curves smooth or not without a number).
    """
    del setting

    def tick(pending: Any, seen: Tick) -> Any:
        total, count = pending
        return total + seen.loss.astype(jnp.float32), count + 1

    def update(kept: Kept, seen: Update) -> Kept:
        del seen
        total, count = kept.pending
        loss, sums = total / jnp.maximum(count, 1), kept.sums
        n = sums.updates + 1
        mean = sums.mean + (loss - sums.mean) / n
        step = jnp.where(sums.updates > 0, jnp.square(loss - sums.previous), 0)
        deviation = (loss - sums.mean) * (loss - mean)
        return Kept(
            (ZERO, ZERO),
            LossSums(n, mean, sums.deviations + deviation, loss, sums.steps + step),
        )

    def summary(sums: LossSums) -> dict[str, Labelled]:
        pairs = jnp.where(sums.updates > 1, sums.updates - 1, jnp.nan)
        return {
            "batch_loss_std": Labelled(
                jnp.sqrt(sums.deviations / pairs), (), "nats", "std of the batch loss in an epoch"
            ),
            "batch_loss_fluctuation": Labelled(
                jnp.sqrt(sums.steps / pairs / 2), (), "nats", "std of the batch loss, trend removed"
            ),
        }

    return Tally(Kept((ZERO, ZERO), LossSums(*[ZERO] * 5)), tick, update, summary)


TALLIES: Mapping[str, Callable[[Setting], Tally]] = {
    "strides": strides,
    "accumulated_noise_scale": accumulated_noise_scale,
    "fluctuation": fluctuation,
}


def _added(sums: Any, more: Any) -> Any:
    return jax.tree.map(lambda a, b: a + b.astype(a.dtype), sums, more)
