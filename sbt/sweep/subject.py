"""A run as its measurements see it, and what they would refuse, before anything compiles."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from sbt.data import purpose_key
from sbt.errors import UserError
from sbt.measure.registry import MEASUREMENTS, Found, Subject, separate_in
from sbt.nn.conv import Implementation, lane_friendly
from sbt.sweep.cohort import Cohort
from sbt.sweep.engine import EVALUATION_BATCH, PRECISE_BATCHES
from sbt.sweep.lanes import make_lanes
from sbt.sweep.task import Task, make_program
from sbt.train import evaluate as evaluation
from sbt.train import step
from sbt.train.loss import cross_entropy, is_correct
from sbt.train.state import Hyper


def check(task: Task, cohort: Cohort, on_cpu: bool = True) -> dict[str, Found]:
    """What the measurements of a cohort's config would give, by measurement; nothing compiles.

    Raises:
      UserError: what a measurement refuses: a filter that selects nothing, batches larger than the
        split, more directions than parameters.
    """
    found = {}
    shapes = state_shapes(task, cohort)
    for name in separate_in(cohort.config):
        try:
            found[name] = jax.eval_shape(
                functools.partial(measure_run, task, cohort, on_cpu, name),
                *shapes,
                task.arrays,
                jax.random.key(0),
            )
        except UserError as error:
            inside = error.field.startswith("config.")
            field = error.field if inside else f"config.measure.{name} ({error.field})"
            raise UserError(field, error.problem, error.remedy) from None
    return found


def state_shapes(task: Task, cohort: Cohort) -> tuple[Any, Any, Hyper]:
    """Shapes of one run's weights, statistics and hyperparameters."""
    key = jax.random.key(0)
    params, stats = jax.eval_shape(task.model.init, key, task.example())
    hyper = make_lanes(cohort, [0], 1).hyper
    return (
        params,
        stats,
        jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), hyper),
    )


def measure_run(
    task: Task,
    cohort: Cohort,
    on_cpu: bool,
    name: str,
    params: Any,
    stats: Any,
    hyper: Hyper,
    arrays: Any,
    key: jax.Array,
) -> Found:
    """One measurement of one run.

    Args:
      task: data and model.
      cohort: of the run.
      on_cpu: whether it will run on a CPU, for the number of examples held at a time.
      name: of :data:`sbt.measure.MEASUREMENTS`.
      params: weights.
      stats: running statistics.
      hyper: of the run.
      arrays: data on the device.
      key: of all measurements.
    """
    own_key = purpose_key(key, name)
    run = make_subject(task, cohort, on_cpu, params, stats, hyper, arrays, own_key)
    settings = dict(cohort.config.measure.get(name, {}))
    function = MEASUREMENTS[name].make
    return function(run, **settings)


def make_subject(
    task: Task,
    cohort: Cohort,
    on_cpu: bool,
    params: Any,
    stats: Any,
    hyper: Hyper,
    arrays: Any,
    key: jax.Array,
) -> Subject:
    """A run at given weights, as measurements see it.

    The network is that of evaluation (no dropout; running statistics, or whatever
    ``config.evaluate.statistics`` says), or with ``config.measure.mode = "training"`` that of
    training: dropout masks that follow from the batch, and batch statistics.
    """
    config, model, n = cohort.config, task.model, task.num_examples
    training = config.measure.mode == "training"
    usual = EVALUATION_BATCH[on_cpu and config.evaluate.statistics != "batch"]
    split = jnp.arange(min(config.measure.examples or n, n), dtype=jnp.int32)
    dropout = purpose_key(hyper.key, "dropout")
    if config.evaluate.statistics == "precise" and cohort.facts.batch_statistics and not training:
        program = make_program(task, cohort, "direct")
        state = step.state_from(program, hyper, params, stats)
        count = max(1, min(PRECISE_BATCHES, n // program.micro_batch))
        stats = evaluation.precise_statistics(program, state, hyper, arrays, count).stats

    # Lane after lane on a CPU the form made for it; several at a time, matrix products.
    one_by_one: Implementation = "packed" if on_cpu else "direct"
    usual_form: Implementation = one_by_one if config.measure.at_once == 1 else "im2col"

    def outputs(
        params: Any, batch: jax.Array, form: Implementation, training: bool
    ) -> tuple[jax.Array, jax.Array]:
        x, labels = task.batches(arrays, batch, 0, hyper.key, True, augmented=False)
        key = jax.random.fold_in(dropout, batch[0]) if training else None
        with lane_friendly(form):
            logits, _ = model.apply(params, stats, x, key, training)
        return logits, labels

    def losses(params: Any, batch: jax.Array, form: Implementation) -> jax.Array:
        return cross_entropy(*outputs(params, batch, form, training))

    def batch_metrics(batch: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, labels = outputs(params, batch, usual_form, False)
        return jnp.mean(cross_entropy(logits, labels)), jnp.mean(is_correct(logits, labels))

    def initial() -> Any:
        example = task.example()
        x = jnp.zeros(example.shape, example.dtype)
        return model.init(purpose_key(hyper.key, "init"), x)[0]

    def example_loss(params: Any, example: jax.Array) -> jax.Array:
        if cohort.facts.batch_statistics and (training or config.evaluate.statistics == "batch"):
            field = "measure.mode" if training else "evaluate.statistics"
            raise UserError(
                f"config.{field}",
                "single examples have no gradient of their own under batch statistics",
                "measure noise_scale instead, or with running statistics",
            )
        # One example after another in a batch, each with a gradient: matrix products at best.
        return losses(params, example[None], "im2col")[0]

    return Subject(
        params=params,
        stats=stats,
        initial=initial,
        key=key,
        batch_loss=lambda params, batch: jnp.mean(losses(params, batch, usual_form)),
        example_loss=example_loss,
        batch_metrics=batch_metrics,
        split=split,
        batch=min(config.measure.batch or config.evaluate.batch or usual, len(split)),
        where=config.measure.where or None,
    )
