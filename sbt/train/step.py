"""One lane's training as a pure function of (state, hyperparameters, data, position in the stream).

Every lane evaluates gradients on g examples per *tick* and updates its weights every k = m / g
ticks. ``train`` below is that loop for a single run; a sweep is ``vmap`` or ``lax.map`` of it, so
nothing here knows of lanes. With data parallelism D devices evaluate g examples each, so that a
tick takes D g consecutive examples of the same stream (:mod:`sbt.train.shards`).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from sbt.data.order import purpose_key
from sbt.measure.online import Online, Update, seen_tick, seen_update
from sbt.optim import ROUNDINGS, evaluation_point
from sbt.tasks.base import Examples
from sbt.train import extras
from sbt.train.gradient import Averages, Objective, drawn_gradients
from sbt.train.objective import Batch
from sbt.train.settings import Schedules, settings_at
from sbt.train.shards import ONE_DEVICE, Sharding
from sbt.train.state import Hyper, Sums, TrainState, no_sums


@dataclasses.dataclass(frozen=True)
class Program:
    """What all lanes of a compiled program share: everything that is not a traced number.

    Attributes:
      objective: model, loss and what is made of them.
      make_transform: ``(learning_rate, hyperparameters) -> optax transformation``; called while
        tracing, at every update, with that update's values.
      rounding: of :data:`sbt.optim.ROUNDINGS`: ``(weights, key) -> `` those that are kept.
      schedules: how learning rate, batch size and momentum follow from progress.
      batches: ``(arrays, indices, epochs, key, train) -> examples``; in training, the examples
        ``copies`` times, each copy augmented on its own.
      num_examples: N, size of the training set.
      total_examples: the training budget, epochs times N.
      micro_batch: examples per tick that count towards m: g on each device that shares the run, or
        m where a tick is a whole batch.
      copies: inputs made of each example.
      accumulates: whether some lane needs several ticks for an update; else the accumulators are
        left out.
      one_loop: whether the gradient is taken in the branch that updates the weights, where XLA:CPU
        makes one loop of both; it then keeps all that the gradient needs of the forward pass.
      sharding: of every batch over devices.
      online: sums that training carries along; none, and nothing is added.
    """

    objective: Objective
    make_transform: Callable[..., optax.GradientTransformation]
    schedules: Schedules
    batches: Callable[..., Examples]
    num_examples: int
    total_examples: int
    micro_batch: int
    copies: int = 1
    accumulates: bool = True
    one_loop: bool = False
    sharding: Sharding = ONE_DEVICE
    online: tuple[Online, ...] = ()
    rounding: Callable[[Any, jax.Array], Any] = ROUNDINGS["none"]

    @property
    def draws(self) -> int:
        """Batches that one update draws; 2 for rules that compare two gradients."""
        return extras.draws(self.objective.needs)

    @property
    def tick(self) -> int:
        """Examples that one tick takes from the stream."""
        return self.micro_batch * self.draws


def progress_of(program: Program, hyper: Hyper, examples: jax.Array) -> jax.Array:
    """Fraction of the budget that so many examples are."""
    dtype = hyper.base_lr.dtype
    return examples.astype(dtype) / jnp.asarray(program.total_examples, dtype)


def starting(rounding: Callable[[Any, jax.Array], Any], hyper: Hyper, params: Any) -> Any:
    """The weights that a run starts from, rounded as those that it arrives at."""
    return rounding(params, purpose_key(hyper.key, "init"))


def state_from(program: Program, hyper: Hyper, params: Any, stats: Any) -> TrainState:
    """The state of a run that starts from given weights, before its first example."""
    # At the settings of the first update: a rule may keep them in its state.
    feedback = program.schedules.feedback
    told = (
        ()
        if feedback is None
        else jax.tree.map(lambda x: jnp.asarray(x, hyper.base_lr.dtype), feedback.start)
    )
    first = settings_at(program.schedules, hyper, jnp.zeros_like(hyper.base_lr), told)
    transform = program.make_transform(first.learning_rate, first.rule)
    params = starting(program.rounding, hyper, params)
    average: Any = ()
    if program.accumulates:
        average = jax.tree.map(
            jnp.zeros_like, Averages(params, stats, extras.zeros(program.objective.needs, params))
        )
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        params=params,
        stats=stats,
        opt_state=transform.init(params),
        average=average,
        accumulated=zero,
        updates=zero,
        examples=zero,
        diverged_at=jnp.full((), -1, jnp.int32),
        sums=no_sums(program.objective.task),
        told=told,
        observed=tuple(each.empty for each in program.online),
    )


def micro_step(
    program: Program,
    state: TrainState,
    hyper: Hyper,
    examples: Examples,
    key: jax.Array,
) -> TrainState:
    """One tick: a gradient on g examples, and an update if it completes the batch.

    A run whose loss is not finite keeps the state it had before this tick, for good.

    Args:
      program: what the lanes share.
      state: before the tick.
      hyper: this run's hyperparameters.
      examples: ``program.tick`` of them, or ``copies`` times as many.
      key: for the model's own randomness (dropout), fresh at every tick.
    """
    progress = progress_of(program, hyper, state.examples)
    now = settings_at(program.schedules, hyper, progress, state.told)
    rule = optax.with_extra_args_support(program.make_transform(now.learning_rate, now.rule))
    rule_key = jax.random.fold_in(purpose_key(hyper.key, "rule"), state.updates)
    point = evaluation_point(rule, state.params, state.opt_state, rule_key)
    batch = Batch(examples, key, progress, now.batch_size)
    averages, loss, metrics = drawn_gradients(program.objective, hyper, point, state.stats, batch)
    loss, metrics = program.sharding.metrics(loss, metrics)
    sound = jnp.isfinite(loss) & (state.diverged_at < 0)
    state = _counted(program, state, loss, metrics, sound)

    def seen(new: Averages) -> TrainState:
        observed = seen_tick(program.online, state.observed, new.grads, loss, sound)
        return state._replace(observed=observed)

    def update(state: TrainState, average: Averages) -> TrainState:
        average = program.sharding.mean_of_batch(average, progress)
        updates, opt_state = rule.update(
            average.grads, state.opt_state, state.params, key=rule_key, **average.extras
        )
        params, stats = program.sharding.mean_of_models(
            (optax.apply_updates(state.params, updates), average.stats),
            state.updates + 1,
        )
        params = program.rounding(params, rule_key)
        shown = Update(average.grads, state.params, params, now.learning_rate, now.batch_size)
        return state._replace(
            params=params,
            stats=stats,
            opt_state=opt_state,
            observed=seen_update(program.online, state.observed, shown),
            accumulated=jnp.zeros_like(state.accumulated),
            updates=state.updates + 1,
            examples=state.examples + now.batch_size * program.draws,
        )

    def whole(new: Averages) -> TrainState:
        return update(seen(new), new)

    if program.one_loop:
        return lax.cond(sound, lambda: whole(averages()), lambda: state)
    new = averages()
    if not program.accumulates:
        # Chosen number by number instead, weights and what the rule keeps would each be computed
        # from the old of both, and XLA:CPU would copy them all at every tick.
        return lax.cond(sound, lambda: whole(new), lambda: state)
    # A frozen lane accumulates nothing more, so that nothing in it changes.
    count = jnp.where(sound, state.accumulated + 1, state.accumulated)
    average = _accumulated(state.average, new, count, sound)
    after = seen(new)._replace(average=average, accumulated=count)
    complete = sound & (count * program.micro_batch >= now.batch_size)
    return lax.cond(complete, lambda: update(after, average), lambda: after)


def _counted(
    program: Program,
    state: TrainState,
    loss: jax.Array,
    metrics: Mapping[str, jax.Array],
    sound: jax.Array,
) -> TrainState:
    """The state with a tick's metrics, or with the moment when its run diverged."""
    seen = state.examples + state.accumulated * program.tick
    diverged_at = jnp.where(sound | (state.diverged_at >= 0), state.diverged_at, seen)
    counted = sound.astype(jnp.float32)
    sums = Sums(
        # `where`, since zero times a loss that is not finite is not zero.
        loss=state.sums.loss
        + jnp.where(sound, loss, jnp.zeros_like(loss)).astype(jnp.float32) * program.tick,
        metrics=jax.tree.map(
            lambda total, x: total + jnp.where(sound, x, 0).astype(jnp.float32) / program.copies,
            state.sums.metrics,
            dict(metrics),
        ),
        examples=state.sums.examples + counted * program.tick,
    )
    return state._replace(diverged_at=diverged_at, sums=sums)


def _accumulated(means: Averages, new: Averages, count: jax.Array, sound: jax.Array) -> Averages:
    """The mean over ``count`` micro-batches, ``new`` being the last."""

    def moved(mean: jax.Array, x: jax.Array) -> jax.Array:
        step = (x - mean) / count.astype(mean.dtype)
        # The first forgets the last update's mean, rounding included: between two updates a state
        # without its mean is the whole state.
        after = jnp.where(count == 1, x.astype(mean.dtype), mean + step.astype(mean.dtype))
        return jnp.where(sound, after, mean)

    return jax.tree.map(moved, means, new)


def train(
    program: Program,
    state: TrainState,
    hyper: Hyper,
    arrays: Any,
    order: jax.Array,
    epoch: jax.Array,
    first: jax.Array,
    ticks: jax.Array,
    base: jax.Array | int = 0,
) -> TrainState:
    """Runs ticks of one epoch.

    Ticks are consecutive pieces of the endless stream of epoch permutations
    (:mod:`sbt.data.order`): batches go on over the end of an epoch, nothing is dropped or padded,
    and every lane of a seed sees the same stream whatever its batch size.

    Args:
      program: what the lanes share.
      state: of one run.
      hyper: of the same run.
      arrays: data on the device.
      order: ``stream_window`` of this epoch, at least a tick less one example longer than it; or
        any other list of positions in ``arrays`` that is long enough.
      epoch: number of the epoch that the first example of every tick belongs to, from 0.
      first: position of the first tick's first example in the epoch.
      ticks: number of ticks; traced, so that any slice of an epoch is the same program.
      base: position in the epoch of the first example in ``order``.
    """
    size, n = program.tick, program.num_examples

    def tick(i: jax.Array, state: TrainState) -> TrainState:
        start = first + i * size
        indices = lax.dynamic_slice_in_dim(order, start - base, size)
        epochs = epoch + (start + jnp.arange(size, dtype=jnp.int32)) // n
        indices, epochs = (program.sharding.own(a, program.draws) for a in (indices, epochs))
        examples = program.batches(arrays, indices, epochs, hyper.key, True)
        key = jax.random.fold_in(purpose_key(hyper.key, "dropout"), epoch)
        key = program.sharding.own_key(jax.random.fold_in(key, start))
        return micro_step(program, state, hyper, examples, key)

    return lax.fori_loop(0, ticks, tick, state)
