"""Measures the lanes of a cohort: a compiled program for each measurement, apart from training.

The programs only read: weights and statistics as they are after an epoch, or as they were saved.
Training is compiled without a trace of them, and so is bit for bit the same with and without.
"""

import dataclasses
import functools
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P

from sbt.data import purpose_key
from sbt.errors import UserError
from sbt.lapack import decomposes_batches
from sbt.measure.registry import (
    MEASUREMENTS,
    RULE_STATE,
    Found,
    Rule,
    Subject,
    separate_in,
)
from sbt.measure.trees import is_float
from sbt.models.check import zeros
from sbt.nn.conv import Implementation, lane_friendly
from sbt.optim import ROUNDINGS, RULES
from sbt.parallel.mesh import LANE_AXIS, fetch, put
from sbt.sweep.engine import EVALUATION_BATCH, PRECISE_BATCHES
from sbt.sweep.lanes import Lanes, make_lanes
from sbt.sweep.problem import Placed, make_program
from sbt.sweep.strategy import Strategy, over_lanes
from sbt.train import evaluate as evaluation
from sbt.train import step
from sbt.train.settings import settings_at
from sbt.train.state import Hyper

# --- one run -------------------------------------------------------------------------------------


class Trained(NamedTuple):
    """A run as it stands, or several, stacked."""

    params: Any
    stats: Any  # running statistics
    hyper: Hyper
    start: Any  # the params that it started from; None: those of its seed
    rule: Any = None  # the state of its rule, the examples seen, what it was told; None: not needed


def measure_run(placed: Placed, name: str, run: Trained, arrays: Any, key: jax.Array) -> Found:
    """One measurement of one run.

    Args:
      placed: the run's cohort, with its data and model.
      name: of :data:`sbt.measure.MEASUREMENTS`.
      run: where it stands.
      arrays: data on the device.
      key: of all measurements.
    """
    settings = dict(placed.cohort.config.measure.get(name, {}))
    subject = make_subject(placed, run, arrays, purpose_key(key, name))
    return MEASUREMENTS[name].make(subject, **settings)


def make_subject(placed: Placed, run: Trained, arrays: Any, key: jax.Array) -> Subject:
    """A run at given weights, as measurements see it.

    The network is that of evaluation (no dropout; running statistics, or whatever
    ``config.evaluate.statistics`` says), or with ``config.measure.mode = "training"`` that of
    training: dropout masks that follow from the batch, and batch statistics.
    """
    problem, cohort, on_cpu = placed.problem, placed.cohort, placed.platform == "cpu"
    params, stats, hyper, start, rule = run
    config, model, n = cohort.config, problem.model, problem.num_examples
    task = problem.task
    training = config.measure.mode == "training"
    usual = EVALUATION_BATCH[on_cpu and config.evaluate.statistics != "batch"]
    split = jnp.arange(min(config.measure.examples or n, n), dtype=jnp.int32)
    dropout = purpose_key(hyper.key, "dropout")
    if config.evaluate.statistics == "precise" and cohort.facts.batch_statistics and not training:
        program = make_program(problem, cohort, "direct")
        state = step.state_from(program, hyper, params, stats)
        count = max(1, min(PRECISE_BATCHES, n // program.micro_batch))
        stats = evaluation.precise_statistics(program, state, hyper, arrays, count).stats

    # Lane after lane on a CPU the form made for it; several at a time, or small ones, matrix
    # products: a Hessian product of the digits network takes a third of the time by them.
    large_form: Implementation = "packed" if on_cpu else "direct"
    small = config.measure.at_once not in (None, 1) or (on_cpu and cohort.facts.is_small)
    usual_form: Implementation = "im2col" if small else large_form

    def outputs(
        params: Any, batch: jax.Array, form: Implementation, training: bool
    ) -> tuple[Any, Any]:
        examples = problem.batches(arrays, batch, 0, hyper.key, True, augmented=False)
        key = jax.random.fold_in(dropout, batch[0]) if training else None
        with lane_friendly(form):
            made, _ = model.apply(params, stats, examples["x"], key, training)
        return made, examples

    def losses(params: Any, batch: jax.Array, form: Implementation) -> jax.Array:
        return task.loss.each(*outputs(params, batch, form, training))

    def batch_metrics(batch: jax.Array) -> dict[str, jax.Array]:
        seen = outputs(params, batch, usual_form, False)
        return {name: jnp.mean(metric.each(*seen)) for name, metric in task.told.items()}

    def initial() -> Any:
        params = start
        if params is None:
            params = model.init(purpose_key(hyper.key, "init"), zeros(problem.example()))[0]
        return step.starting(ROUNDINGS.configured(config.rounding), hyper, params)

    def example_loss(params: Any, example: jax.Array) -> jax.Array:
        if (cohort.facts.batch_statistics and training) or problem.mixes_examples:
            asked = config.evaluate.statistics == "batch"
            usual = "evaluate.statistics" if asked else "model.bn_eval"
            field = "measure.mode" if training else usual
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
        told=task.told,
        split=split,
        batch=min(config.measure.batch or config.evaluate.batch or usual, len(split)),
        batch_size=hyper.batch_size,
        micro_batch=cohort.micro_batch,
        where=config.measure.where or None,
        on_cpu=on_cpu,
        rule=None if rule is None else _rule(placed, hyper, *rule),
    )


def _rule(placed: Placed, hyper: Hyper, state: Any, examples: jax.Array, told: Any) -> Rule:
    """The rule of a run after so many examples."""
    program = make_program(placed.problem, placed.cohort, "direct")
    now = settings_at(program.schedules, hyper, step.progress_of(program, hyper, examples), told)
    choice = RULES.configured(placed.cohort.config.rule)
    return Rule(choice.name, {**choice.values, **now.rule}, state)


def check(placed: Placed) -> None:
    """Refuses what the measurements of a cohort's config refuse; nothing compiles.

    Raises:
      UserError: a filter that selects nothing, batches larger than the split, more directions than
        parameters.
    """
    for name in separate_in(placed.cohort.config):
        try:
            _labels(placed, name)
        except UserError as error:
            inside = error.field.startswith("config.")
            field = error.field if inside else f"config.measure.{name} ({error.field})"
            raise UserError(field, error.problem, error.remedy) from None


def _labels(placed: Placed, name: str) -> Found:
    """What a measurement gives of one run, in shapes."""
    measured = functools.partial(measure_run, placed, name)
    shapes = _shapes(placed, needs_rule(name))
    return jax.eval_shape(measured, shapes, placed.problem.arrays, jax.random.key(0))


def needs_rule(name: str) -> bool:
    """Whether a measurement looks at the state of the rule."""
    return RULE_STATE in MEASUREMENTS[name].needs


def _shapes(placed: Placed, with_rule: bool) -> Trained:
    """Of one run."""
    problem = placed.problem
    params, stats = jax.eval_shape(problem.model.init, jax.random.key(0), problem.example())
    hyper = make_lanes(placed.cohort, [0], 1).hyper
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), hyper)
    rule = None
    if with_rule and placed.cohort.sharding.local:
        raise UserError(
            "config.parallel.local_steps",
            "between two averages of local SGD, devices have a state each of their rule",
            "set it to 1, or leave the measurement out",
        )
    if with_rule:
        program = make_program(problem, placed.cohort, "direct")
        state = jax.eval_shape(functools.partial(step.state_from, program), one, params, stats)
        rule = state.opt_state, state.examples, state.told
    return Trained(params, stats, one, None if placed.start is None else params, rule)


# --- all lanes -----------------------------------------------------------------------------------


SMALL_AT_ONCE = 4


@dataclasses.dataclass
class Observer:
    """Compiled measurements for some lanes of one cohort.

    Attributes:
      placed: the cohort.
      programs: by measurement.
      labels: by measurement, what each gives.
      key: of the measurements' own randomness.
      compile_seconds: spent compiling.
      seconds: spent measuring, by measurement.
    """

    placed: Placed
    programs: Mapping[str, Any]
    labels: Mapping[str, Found]
    key: jax.Array
    compile_seconds: float
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    def __call__(
        self, params: Any, stats: Any, lanes: Lanes, used: np.ndarray, rule: Any = None
    ) -> Found:
        """Measures all lanes.

        Args:
          params: weights, stacked, on the mesh (with one process, anywhere).
          stats: running statistics, likewise.
          lanes: what they train.
          used: which of them to measure.
          rule: states of their rules on the mesh, the examples seen and what the runs were told;
            None: not there.

        Returns:
          Values on the host, with a leading axis of lanes; NaN for a lane that is not used, or
          whose weights are not finite.
        """
        placed, weights, start = self.placed, (params, stats), None
        rule = rule if any(map(needs_rule, self.programs)) else None
        if jax.process_count() == 1:
            weights, rule = put((weights, rule), placed.by_lane)
        if placed.start is not None:
            start, *_ = placed.start.stacked(placed.cohort, lanes.members)
        hyper, start, used = put((lanes.hyper, start, used), placed.by_lane)
        runs = Trained(*weights, hyper, start)
        found: Found = {}
        for name, program in self.programs.items():
            began = time.perf_counter()
            seen = runs._replace(rule=rule) if needs_rule(name) else runs
            values = fetch(program(seen, used, placed.arrays, self.key))
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
            for variable, value in values.items():
                labels = self.labels[name][variable]
                found[variable] = dataclasses.replace(labels, value=value)
        return found


def make_observer(placed: Placed, size: int) -> Observer:
    """Compiles the measurements of a cohort's config.

    Args:
      placed: whose runs are measured.
      size: lanes of a call, a multiple of ``placed.rows``.
    """
    config = placed.cohort.config.measure

    def stacked(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype, sharding=placed.by_lane)

    used = stacked(jax.ShapeDtypeStruct((), jnp.bool_))
    key = put(jax.random.key(config.seed), placed.everywhere)
    started = time.perf_counter()

    def lowered(name: str, at_once: int) -> jax.stages.Lowered:
        program = jax.shard_map(
            functools.partial(_measure_lanes, placed, name, at_once),
            mesh=placed.mesh,
            in_specs=(P(LANE_AXIS), P(LANE_AXIS), P(), P()),
            out_specs=P(LANE_AXIS),
            check_vma=False,  # as in sbt.sweep.engine
        )
        run = jax.tree.map(stacked, _shapes(placed, needs_rule(name)))
        return jax.jit(program).lower(run, used, placed.arrays, key)

    programs, labels = {}, {}
    for name in separate_in(placed.cohort.config):
        labels[name] = _labels(placed, name)
        program = lowered(name, at_once := nets_at_once(placed, name))
        if placed.platform == "cpu" and at_once != 1 and decomposes_batches(program):
            program = lowered(name, 1)
        programs[name] = program.compile()
    return Observer(placed, programs, labels, key, time.perf_counter() - started)


def _measure_lanes(
    placed: Placed,
    name: str,
    at_once: int,
    runs: Trained,
    used: jax.Array,
    arrays: Any,
    key: jax.Array,
) -> dict[str, jax.Array]:
    """Values of a device's lanes by variable, ``at_once`` lanes at a time.

    NaN where a lane is no run, or its weights are not finite.
    """

    def lane(run: Trained, used: jax.Array) -> dict[str, jax.Array]:
        leaves = [leaf for leaf in jax.tree.leaves((run.params, run.stats)) if is_float(leaf)]
        sound = used & jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))

        def values() -> dict[str, jax.Array]:
            found = measure_run(placed, name, run, arrays, key)
            kind = jnp.result_type(float)
            return {variable: labelled.value.astype(kind) for variable, labelled in found.items()}

        def nothing() -> dict[str, jax.Array]:
            shapes = jax.eval_shape(values)
            return jax.tree.map(lambda s: jnp.full(s.shape, jnp.nan, s.dtype), shapes)

        return lax.cond(sound, values, nothing)

    size = len(used)
    if at_once > 1 and at_once >= size:
        at_once = 0
    # Groups are filled up with lanes that are no runs: one of another size would be a program of
    # its own, which rounds differently.
    missing = -size % (at_once or size)
    filled = jax.tree.map(
        lambda leaf: leaf[jnp.minimum(jnp.arange(size + missing), size - 1)], runs
    )
    found = over_lanes(Strategy(at_once, "direct"), lane)(
        filled if missing else runs, jnp.pad(used, (0, missing))
    )
    return jax.tree.map(lambda leaf: leaf[:size], found)


def nets_at_once(placed: Placed, name: str) -> int:
    """Lanes of a device that a measurement takes at a time; 0: all.

    By default, several of a small network on CPU, where it pays: the digits convnet's Hessian
    products and sharpness take half the time four at a time, gradients of single examples longer.
    """
    asked = placed.cohort.config.measure.at_once
    if asked is not None:
        return int(asked)
    small = placed.platform == "cpu" and placed.cohort.facts.is_small
    heavy = MEASUREMENTS[name].facts.get("cost") == "heavy"
    return SMALL_AT_ONCE if small and heavy else 1
