r"""What training measures of itself: sums over the updates of an epoch.

An online measurement sees what an update has at hand anyway, so it costs a few reductions over the
weights. It never touches training: it reads the gradients, and the weights before and after an
update (not the update itself, which the compiler adds to the weights in one rounding), behind a
barrier that keeps the compiler from rearranging the one for the other.

References:
  Gao and Zhong, `Study on the Large Batch Size Training of Neural Networks Based on the Second
  Order Gradient <https://arxiv.org/abs/2012.08795>`_, 2020 (equations 5-8, figures 4, 5, 7 and 8)
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from sbt.errors import UserError
from sbt.measure.noise import as_noise_scale, noise_scale_from_two, square_norm
from sbt.measure.registry import MEASUREMENTS, Found, Labelled
from sbt.measure.trees import Where, leaves_of, selected, wide

ZERO: Any = np.zeros((), np.float32)


class Kept(NamedTuple):
    """State of an online measurement."""

    pending: Any  # of the batch that is not complete, kept over the end of an epoch
    sums: Any  # over the updates of the epoch; zero at its start


class Tick(NamedTuple):
    """What a tick of a run shows; the devices of a run see their own."""

    grads: Any  # of the micro-batch
    loss: jax.Array  # mean over the tick


class Update(NamedTuple):
    """What an update of a run shows."""

    grads: Any  # of the whole batch
    before: Any  # weights
    after: Any
    learning_rate: jax.Array  # in mean form
    batch_size: jax.Array


@dataclasses.dataclass(frozen=True)
class Online:
    """One kind of sum.

    Attributes:
      empty: at the start of training.
      update: ``(kept, Update) -> kept``, after a tick that completes a batch.
      summary: ``sums -> {variable: Labelled}`` of an epoch.
      tick: ``(pending, Tick) -> pending``, at every tick.
    """

    empty: Kept
    update: Callable[[Kept, Update], Kept]
    summary: Callable[[Any], Found]
    tick: Callable[[Any, Tick], Any] = lambda pending, _: pending


@dataclasses.dataclass(frozen=True)
class Setting:
    """What online measurements need to know of a program.

    Attributes:
      params: shapes of the weights.
      num_examples: N.
      micro_batch: examples of the gradient that a tick shows, on a device.
      where: the leaves that count.
      mean: over the devices that share a run, of a tree.
      loss_units: of the loss.
      whole_batches: whether every update sees the mean gradient of its whole batch; not so under
        local SGD.
    """

    params: Any
    num_examples: int
    micro_batch: int
    where: Where = None
    mean: Callable[[Any], Any] = lambda tree: tree
    loss_units: str = ""
    whole_batches: bool = True


# --- in the training step ------------------------------------------------------------------------


def seen_tick(
    online: Sequence[Online], observed: Any, grads: Any, loss: jax.Array, sound: jax.Array
) -> Any:
    """The states after a tick; those before, where the run has diverged."""
    if not online:
        return observed
    shown = Tick(*lax.optimization_barrier((grads, loss)))
    ticked = tuple(
        kept._replace(pending=each.tick(kept.pending, shown))
        for each, kept in zip(online, observed)
    )
    return jax.tree.map(lambda new, old: jnp.where(sound, new, old), ticked, observed)


def seen_update(online: Sequence[Online], observed: Any, shown: Update) -> Any:
    """The states after an update."""
    if not online:
        return observed
    shown = Update(*lax.optimization_barrier(tuple(shown)))
    return tuple(each.update(kept, shown) for each, kept in zip(online, observed))


def new_epoch(online: Sequence[Online], observed: Any, fresh: jax.Array) -> Any:
    """The states of lanes at the start of a window: ``fresh``, whether an epoch begins there."""

    def sums(old: Any, empty: Any) -> Any:
        return jax.tree.map(lambda o, e: jnp.where(fresh, e, o), old, empty)

    return tuple(
        kept._replace(sums=sums(kept.sums, each.empty.sums)) for each, kept in zip(online, observed)
    )


def _added(sums: Any, more: Any) -> Any:
    return jax.tree.map(lambda a, b: a + b.astype(a.dtype), sums, more)


def _per_update(total: jax.Array, updates: jax.Array) -> jax.Array:
    """The mean over an epoch's updates; NaN where none has happened."""
    return total / jnp.where(updates > 0, updates, jnp.nan)


# --- strides -------------------------------------------------------------------------------------


class Strides(NamedTuple):
    """Means over the entries of all layers and of each, shape=(1 + layers,)."""

    stride: jax.Array  # |dw|, parameter units
    normalised: jax.Array  # |dw| over the learning rate, 0 where that is 0: units of the gradient
    gradient: jax.Array  # |g|
    square: jax.Array  # g^2
    loss: jax.Array  # -g dw: the predicted decrease of the loss per parameter


def strides(gradients: Any, updates: Any, learning_rate: ArrayLike, where: Where = None) -> Strides:
    r"""How far an update moves the weights, and how much loss it should buy, layer by layer.

    Means over entries of :math:`|\Delta w_i|`, :math:`|\Delta w_i|/\eta` (for plain SGD the mean
    magnitude of the gradient, with momentum not), :math:`|g_i|`, :math:`g_i^2`, and of the
    first-order decrease of the loss :math:`-g_i \Delta w_i`, which is the paper's loss stride
    :math:`\eta g_i^2` (equation 7) for plain SGD. It is positive where the loss falls; what the
    loss really falls by, :math:`L(w) - L(w + \Delta w)`, differs by the curvature.

    Args:
      gradients: of the batch that made the update (all of it, not one micro-batch).
      updates: :math:`\Delta w`, a tree of the same shapes.
      learning_rate: :math:`\eta` of this step, in mean form.

    Examples:
      >>> g = {'a': jnp.array([1.0, -3.0]), 'b': jnp.array([2.0])}
      >>> found = strides(g, jax.tree.map(lambda g: -0.5 * g, g), 0.5)
      >>> print(found.stride, found.normalised, found.loss)  # of all, of a, of b
      [1. 1. 1.] [2. 2. 2.] [2.3333333 2.5       2.       ]
    """

    def means(tree: Any) -> jax.Array:
        leaves = leaves_of(tree, where)
        each = [jnp.sum(leaf.astype(wide(leaf.dtype))) for leaf in leaves]
        whole = jnp.sum(jnp.stack(each)) / sum(leaf.size for leaf in leaves)
        return jnp.stack([whole, *(total / leaf.size for total, leaf in zip(each, leaves))])

    stride = means(jax.tree.map(jnp.abs, updates))
    rate = jnp.asarray(learning_rate).astype(stride.dtype)
    moving = rate > 0
    return Strides(
        stride,
        jnp.where(moving, stride / jnp.where(moving, rate, 1), 0),
        means(jax.tree.map(jnp.abs, gradients)),
        means(jax.tree.map(jnp.square, gradients)),
        means(jax.tree.map(lambda g, step: -g * step, gradients, updates)),
    )


class StrideSums(NamedTuple):
    """Over updates."""

    updates: jax.Array  # shape=()
    of: Strides


@MEASUREMENTS.register("strides", cost="free", source="Gao & Zhong 2020, figures 4, 5, 7")
def strides_of(setting: Setting) -> Online:
    r"""How far updates move the weights, and how large their gradients are, layer by layer.

    The means of :func:`strides` over the updates of an epoch, over all (label ``all``) and layer by
    layer, and for :math:`|\Delta w_i|` the sum: the length of the path.
    """
    layers = ("all", *(path for path, taken in selected(setting.params, setting.where) if taken))

    def update(kept: Kept, seen: Update) -> Kept:
        moved = jax.tree.map(jnp.subtract, seen.after, seen.before)
        found = strides(seen.grads, moved, seen.learning_rate, setting.where)
        more = setting.mean(StrideSums(jnp.ones((), jnp.float32), found))
        return kept._replace(sums=_added(kept.sums, more))

    def summary(sums: StrideSums) -> Found:
        def labelled(values: jax.Array, words: str, units: str = "") -> Labelled:
            return Labelled(values, (("layer", layers),), units, words)

        mean = Strides(*(_per_update(total, sums.updates) for total in sums.of))
        return {
            "parameter_stride": labelled(mean.stride, "mean |Δw| of an update"),
            "path_length": labelled(sums.of.stride, "sum of mean |Δw| over the epoch"),
            "normalised_stride": labelled(mean.normalised, "mean |Δw|/η of an update"),
            "gradient_magnitude": labelled(mean.gradient, "mean |g| of a batch"),
            "gradient_mean_square": labelled(mean.square, "mean g² of a batch"),
            "loss_stride": labelled(mean.loss, "mean -g Δw of an update", setting.loss_units),
        }

    zeros = jnp.zeros(len(layers), jnp.float32)
    return Online(Kept((), StrideSums(ZERO, Strides(*[zeros] * 5))), update, summary)


# --- noise scale ---------------------------------------------------------------------------------


class NoiseSums(NamedTuple):
    """Over updates, each of shape ()."""

    updates: jax.Array
    square: jax.Array  # |G|^2
    trace: jax.Array  # tr Sigma


@MEASUREMENTS.register(
    "accumulated_noise_scale", cost="free", source="McCandlish et al. 2018, appendix A"
)
def accumulated_noise_scale(setting: Setting) -> Online:
    r"""Gradient noise scale from the micro-batches of every update: the ratio of epoch averages.

    The norms of micro-batch gradients and of their mean tell it (McCandlish et al. 2018, appendix
    A). A single estimate of :math:`|G|^2` is negative now and then; it belongs into the average as
    it is. NaN for a run whose batch is one micro-batch.

    Raises:
      UserError: for local SGD, whose devices never see the whole batch.
    """
    if not setting.whole_batches:
        raise UserError(
            "config.measure.names",
            "'accumulated_noise_scale' compares micro-batches with a batch that local SGD splits",
            "leave it out, or set config.parallel.local_steps to 1",
        )

    def square(grads: Any) -> jax.Array:
        return setting.mean(square_norm(grads, setting.where).astype(jnp.float32))

    def tick(pending: Any, seen: Tick) -> Any:
        total, count = pending
        return total + square(seen.grads), count + 1

    def update(kept: Kept, seen: Update) -> Kept:
        total, count = kept.pending
        found = noise_scale_from_two(
            total / jnp.maximum(count, 1),
            square(seen.grads),
            setting.micro_batch,
            seen.batch_size,
            population=setting.num_examples,
        )
        sums = NoiseSums(jnp.ones((), jnp.float32), found.gradient_square, found.covariance_trace)
        return Kept((ZERO, ZERO), _added(kept.sums, sums))

    def summary(sums: NoiseSums) -> Found:
        found = as_noise_scale(
            _per_update(sums.square, sums.updates), _per_update(sums.trace, sums.updates)
        )
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

    return Online(Kept((ZERO, ZERO), NoiseSums(ZERO, ZERO, ZERO)), update, summary, tick)


# --- fluctuation of the loss ---------------------------------------------------------------------


class LossSums(NamedTuple):
    """Of the losses of batches, each of shape ()."""

    updates: jax.Array
    mean: jax.Array
    deviations: jax.Array  # sum of squared deviations from the mean
    previous: jax.Array  # loss of the last batch
    steps: jax.Array  # sum of squared differences of consecutive losses


@MEASUREMENTS.register("fluctuation", cost="free", source="Gao & Zhong 2020, figure 8")
def fluctuation(setting: Setting) -> Online:
    r"""Fluctuation of the batch loss: its spread over an epoch, with and without the trend.

    The spread about the mean, and :math:`\sqrt{\tfrac12 \overline{(L_t - L_{t-1})^2}}`, which is
    the spread of independent losses about any slow trend (von Neumann 1941; Gao & Zhong 2020,
    figure 8, call the curves smooth or not without a number).
    """

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

    def summary(sums: LossSums) -> Found:
        pairs = jnp.where(sums.updates > 1, sums.updates - 1, jnp.nan)

        def labelled(square: jax.Array, words: str) -> Labelled:
            return Labelled(jnp.sqrt(square), (), setting.loss_units, words)

        return {
            "batch_loss_std": labelled(
                sums.deviations / pairs, "std of the batch loss in an epoch"
            ),
            "batch_loss_fluctuation": labelled(
                sums.steps / pairs / 2, "std of the batch loss, trend removed"
            ),
        }

    return Online(Kept((ZERO, ZERO), LossSums(*[ZERO] * 5)), update, summary, tick)
