"""What a config names, built: data, model, rule, schedule; and the facts that planning needs."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from sbt import config as configs
from sbt.choice import Choice
from sbt.data import Dataset, load, make_pipeline
from sbt.data.dataset import SampledSet, checked, hold_out, subset
from sbt.data.pipeline import with_copies
from sbt.errors import UserError, nearest, user_code
from sbt.measure.online import Online, Setting
from sbt.measure.registry import MEASUREMENTS, online_in
from sbt.models.adapter import Model, as_model
from sbt.models.check import check_model, depends_on_input, whose, zeros
from sbt.models.registry import build_model
from sbt.optim import ROUNDINGS, RULES
from sbt.parallel.mesh import DATA_AXIS, LANE_AXIS, put
from sbt.schedules import BATCH_SCHEDULES, MOMENTUM_SCHEDULES, NOISE, SCHEDULES
from sbt.schedules.scaling import DECAYS, LAWS, decay_in, sde_decay
from sbt.sweep.cohort import Cohort, ModelFacts, settings_array
from sbt.tasks.base import TASKS, Examples, Task, own_task, rank
from sbt.train.extras import EXTRAS, FUNCTIONS
from sbt.train.gradient import Objective, gradients
from sbt.train.objective import CLASSES, OBJECTIVES, REAL_INPUTS, SAMPLES, Batch
from sbt.train.settings import Schedules
from sbt.train.state import Hyper
from sbt.train.step import Program


@dataclasses.dataclass(frozen=True)
class Parts:
    """A user's own pieces; None where the config names one that ships.

    Attributes:
      module: a Flax module (Linen, or NNX: see :func:`sbt.models.adapter.as_model`).
      dataset: arrays, see :func:`sbt.data.from_arrays`.
      rule: an update rule, see :mod:`sbt.optim.foreign`.
      loss: of each example, ``(outputs, examples) -> (n,)``.
      metrics: what else is told, functions likewise (or :class:`sbt.tasks.Metric`), by name.
      schedule: of the learning rate, progress to a multiplier.
    """

    module: Any = None
    dataset: Dataset | None = None
    rule: Any = None
    loss: Any = None
    metrics: Any = None
    schedule: Any = None

    def checked(self) -> "Parts":
        """With the arrays as training needs them.

        Raises:
          UserError: the data set is none, or its arrays cannot be used.
        """
        return (
            self
            if self.dataset is None
            else dataclasses.replace(self, dataset=checked(self.dataset))
        )


@dataclasses.dataclass(frozen=True)
class Problem:
    """A model on its data.

    Attributes:
      dataset: as loaded, on the host.
      arrays: what goes to the device.
      batches: the input pipeline.
      model: pure functions.
      task: what the model learns.
      schedule: the user's own, of the learning rate; None: that of the config.
    """

    dataset: Dataset
    arrays: Any
    batches: Callable[..., Examples]
    model: Model
    task: Task
    schedule: Any = None

    @property
    def streamed(self) -> bool:
        """Whether ``arrays`` hold no more than a sample of the data."""
        return isinstance(self.dataset, SampledSet)

    @property
    def num_examples(self) -> int:
        return self.dataset.train_examples

    @property
    def tested(self) -> tuple[str, ...]:
        """The splits on which runs are evaluated."""
        return ("test", "validation") if self.dataset.validation_examples else ("test",)

    def examples(self, count: int = 1) -> Any:
        """Shapes and dtypes of a batch of so many examples."""
        return jax.eval_shape(
            lambda arrays: self.batches(
                arrays, jnp.zeros((count,), jnp.int32), 0, jax.random.key(0), True
            ),
            self.arrays,
        )

    @functools.cached_property
    def _one(self) -> Any:
        return self.examples()["x"]

    def example(self) -> Any:
        """Shape and dtype of a batch of one input."""
        return self._one

    @functools.cached_property
    def shapes(self) -> tuple[Any, Any]:
        """Shapes of the weights and of the statistics."""
        params, stats = jax.eval_shape(self.model.init, jax.random.key(0), self.example())
        return params, stats

    @functools.cached_property
    def mixes_examples(self) -> bool:
        """Whether in evaluation, too, an example's output depends on the others of its batch.

        So it is with batch norm that never looks at its running statistics.
        """
        params, stats = self.shapes
        if not jax.tree.leaves(stats):
            return False
        x = zeros(self.examples(2)["x"])

        def evaluated(stats: Any) -> Any:
            return self.model.apply(zeros(params), stats, x, None, False)[0]

        return not depends_on_input(evaluated, zeros(stats))


@dataclasses.dataclass(frozen=True)
class Start:
    """Weights that the runs of a sweep start from.

    Attributes:
      weights: params and statistics of each run, by its grid position: host arrays in the trees of
        the model; and the packed leaves of its rule's state, or ``()``: a new one.
    """

    weights: Mapping[tuple[int, ...], tuple[Any, Any, Any]]

    def stacked(self, cohort: Cohort, members: np.ndarray) -> tuple[Any, Any, Any]:
        """Those of some runs of a cohort, with a leading axis of them; -1 may be any."""
        each = [self.weights[cohort.runs[max(member, 0)].index] for member in members]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *each)


@dataclasses.dataclass(frozen=True)
class Placed:
    """A cohort and its problem on the devices that train it.

    Attributes:
      cohort: what is trained.
      problem: data and model.
      mesh: of all devices, with the cohort's devices per run along its second axis.
      arrays: the problem's, on every device; None where the data is streamed.
      start: weights that the runs start from; None: random ones.
    """

    cohort: Cohort
    problem: Problem
    mesh: Mesh
    arrays: Any
    start: Start | None = None

    @property
    def rows(self) -> int:
        """Devices, or groups of devices that share a run's batches, that lanes are spread over."""
        return self.mesh.shape[LANE_AXIS]

    @property
    def platform(self) -> str:
        return self.mesh.devices.flat[0].platform

    @property
    def by_lane(self) -> NamedSharding:
        """Of arrays with a leading axis of lanes."""
        return NamedSharding(self.mesh, P(LANE_AXIS))

    @property
    def everywhere(self) -> NamedSharding:
        """Of arrays that every device holds whole."""
        return NamedSharding(self.mesh, P())


def place(problem: Problem, cohort: Cohort, mesh: Mesh, start: Start | None = None) -> Placed:
    """Copies the data of a cohort to the devices, unless it is streamed."""
    placed = Placed(cohort, problem, mesh, None, start)
    arrays = None if problem.streamed else put(problem.arrays, placed.everywhere)
    return dataclasses.replace(placed, arrays=arrays)


class Forward(NamedTuple):
    """What a forward pass in training consists of.

    Attributes:
      bytes_made: by all of its operations, for one example.
      operations: how many.
    """

    bytes_made: float
    operations: int


class Builder:
    """Builds problems; what several cohorts have in common, once."""

    def __init__(self, parts: Parts):
        self.parts = parts
        self._datasets: dict[str, Dataset] = {}
        self._pipelines: dict[str, tuple[Any, Callable[..., Any]]] = {}
        self._problems: dict[str, Problem] = {}
        self._facts: dict[str, ModelFacts] = {}
        self._forwards: dict[str, Forward] = {}

    def dataset(self, data_config: Mapping[str, Any]) -> Dataset:
        """The data set of a config, or (of its size) the user's own."""
        key = configs.to_json(data_config)
        if key not in self._datasets:
            own = self.parts.dataset
            if own is None:
                self._datasets[key] = load(data_config)
            else:
                sizes = (data_config.get(field) for field in ("train_size", "test_size"))
                self._datasets[key] = hold_out(subset(own, *sizes), data_config.get("validation"))
        return self._datasets[key]

    @property
    def datasets(self) -> dict[str, Dataset]:
        """Those in use, by their section of the config as JSON."""
        return dict(self._datasets)

    def problem(self, config: ConfigDict, synchronous: bool = False) -> Problem:
        """Data, pipeline and model of a config.

        Args:
          config: complete.
          synchronous: whether batch statistics span the devices of a run.

        Raises:
          UserError: what they refuse: an unknown name or field, a missing data set.
        """
        dtype = jnp.dtype(config.engine.precision)
        if jnp.result_type(float) == jnp.float64 and dtype == jnp.float32:
            dtype = jnp.dtype(jnp.float64)
        whole = f"{_settings(config)} {dtype} {synchronous}"
        if whole not in self._problems:
            dataset = self.dataset(config.data)
            key = f"{configs.to_json(config.data)} {dtype}"
            if key not in self._pipelines:
                self._pipelines[key] = make_pipeline(dataset, config.data, dtype)
            model = self._model(config, dataset, dtype, synchronous)
            task, schedule = self._task(config, dataset), self._schedule()
            made = Problem(dataset, *self._pipelines[key], model, task, schedule)
            self._problems[whole] = made
        return self._problems[whole]

    def _task(self, config: ConfigDict, dataset: Dataset) -> Task:
        """What is learned: that of the config, or the user's own loss and metrics."""
        loss, metrics = self.parts.loss, self.parts.metrics
        if loss is None and metrics is None:
            return TASKS.configured(config.task)(dataset.facts)
        # Ranked when it has all its metrics.
        made = None if loss is not None else TASKS.named(config.task.name)(dataset.facts)
        return rank(own_task(made, loss, metrics), config.task.score, config.task.direction)

    def _schedule(self) -> Any:
        """The user's own schedule, as a choice like any other."""
        if self.parts.schedule is None:
            return None
        own = SCHEDULES.alike()
        own.register("own")(self.parts.schedule)
        return own["own"]

    def _model(self, config: ConfigDict, dataset: Dataset, dtype: Any, synchronous: bool) -> Model:
        axis = DATA_AXIS if synchronous else None
        b = None if synchronous else config.bn_batch
        if self.parts.module is not None:
            module = self.parts.module
            if config.evaluate.statistics == "batch":
                if not hasattr(module, "bn_eval"):
                    raise UserError(
                        "config.evaluate.statistics",
                        "'batch' has no effect on a module without a field bn_eval",
                        "give it that field (see sbt.models.classifier), or use running or precise",
                    )
                module = module.clone(bn_eval="batch")
            if synchronous and not hasattr(module, "bn_axis_name"):
                raise UserError(
                    "config.bn_batch",
                    "statistics over all devices need a module with a field bn_axis_name",
                    "give it that field (the axis_name of its BatchNorm), or set bn_batch to what "
                    "each device takes of a batch, or less",
                )
            if synchronous:
                module = module.clone(bn_axis_name=axis)
            if b is not None and hasattr(module, "bn_batch"):
                module = module.clone(bn_batch=b)
            with user_code(whose(module)):
                return as_model(module)
        fields = dict(config.model)
        if config.evaluate.statistics == "batch":
            fields["bn_eval"] = "batch"
        return as_model(
            build_model(
                fields,
                num_classes=outputs_of(dataset),
                bn_batch=b,
                dtype=dtype,
                bn_axis_name=axis,
            )
        )

    def forward(self, config: ConfigDict) -> Forward:
        """A forward pass of a config's model, to plan by; nothing is compiled."""
        key = _alike(config)
        if key not in self._forwards:
            self._forwards[key] = _forward(self.problem(config), config.bn_batch or 8)
        return self._forwards[key]

    def facts(self, config: ConfigDict) -> ModelFacts:
        """What planning needs to know; nothing is compiled."""
        key = _alike(config)
        if key not in self._facts:
            problem = self.problem(config)
            batch = 2 * (config.bn_batch or 4)
            if batch == problem.dataset.num_classes:
                batch *= 2  # so that axes exchanged show
            check_model(problem.model, problem.examples(), problem.task, batch, self.parts.module)
            self._facts[key] = model_facts(problem, config.bn_batch or 8)
        return self._facts[key]


def _forward(problem: Problem, batch: int) -> Forward:
    def forward(params: Any, stats: Any, x: Any) -> Any:
        return problem.model.apply(params, stats, x, jax.random.key(0), True)[0]

    x = problem.examples(batch)["x"]
    made, operations = _made(jax.make_jaxpr(forward)(*problem.shapes, x).jaxpr)
    return Forward(made / batch, operations)


def _made(jaxpr: Any) -> tuple[int, int]:
    """Bytes of all results of a program's operations, and their number; of its parts as well."""
    made = operations = 0
    for equation in jaxpr.eqns:
        if parts := list(jaxprs_in_params(equation.params)):
            sizes, counts = zip(*map(_made, parts), strict=True)
            made, operations = made + sum(sizes), operations + sum(counts)
        else:
            made += sum(math.prod(v.aval.shape) * v.aval.dtype.itemsize for v in equation.outvars)
            operations += 1
    return made, operations


def _settings(config: ConfigDict) -> str:
    """What a problem follows from."""
    return f"{_alike(config)} {config.bn_batch}"


def _alike(config: ConfigDict) -> str:
    """What the facts of a model follow from.

    They are of one example, and alike however many examples share their statistics: to trace a deep
    network again for each number would take most of a plan's time.
    """
    c = config
    parts = [c.model, c.data, c.task, c.engine, c.evaluate.statistics, c.bn_batch is None]
    return str(configs.to_json(parts))


def outputs_of(dataset: Dataset) -> int:
    """How many outputs a built-in model gives for an example: classes, or components of a target.

    Raises:
      UserError: the data set says neither.
    """
    if dataset.num_classes is not None:
        return dataset.num_classes
    target = dataset.train.get("target")
    if target is None or target.ndim != 2:
        raise UserError(
            "config.model.name",
            "the examples have neither classes nor targets of shape (N, d), so that nothing says "
            "how many outputs the model needs",
            "pass a module of your own (module=), or give targets a second axis",
        )
    return int(target.shape[1])


def model_facts(problem: Problem, batch: int) -> ModelFacts:
    """Facts of a model from its shapes and its lowered gradient (not compiled)."""
    key = jax.random.key(0)
    examples = problem.examples(batch)
    params, stats = problem.shapes
    objective = Objective(problem.model, problem.task, "stock")

    def step(params: Any, stats: Any, examples: Any, key: jax.Array) -> Any:
        batch = Batch(examples, key, jnp.zeros(()))
        averages, *rest = gradients(objective, Hyper(key, 0, 0.0), params, stats, batch)
        return averages(), rest

    def draws(key: jax.Array) -> Any:
        x = zeros(examples["x"])
        return problem.model.apply(zeros(params), zeros(stats), x, key, True)[0]

    cost = jax.jit(step).lower(params, stats, examples, key).cost_analysis() or {}
    leaves = jax.tree.leaves(params)
    return ModelFacts(
        parameters=int(sum(np.prod(p.shape) for p in leaves)),
        parameter_bytes=int(sum(np.prod(p.shape) * p.dtype.itemsize for p in leaves)),
        flops=float(cost.get("flops", 0.0)) / batch,
        batch_statistics=bool(jax.tree.leaves(stats)),
        dropout=depends_on_input(draws, key),
        num_examples=problem.num_examples,
    )


def make_program(problem: Problem, cohort: Cohort, convolution: Any) -> Program:
    """What the lanes of a cohort share.

    Raises:
      UserError: parts of the config that do not go together.
    """
    config = cohort.config
    rule = RULES.configured(config.rule)
    unknown = rule.needs - set(EXTRAS)
    if unknown:
        raise UserError(
            "config.rule.name",
            f"{config.rule.name!r} needs {', '.join(sorted(unknown))} at every update",
            "the sweep engine does not compute that; use the rule in a loop of your own",
        )
    if cohort.total_examples >= 2**31:
        raise UserError(
            "config.epochs", f"{cohort.total_examples} examples overflow a counter", "train less"
        )
    copies = config.copies
    if copies > 1 and cohort.draws > 1:
        raise UserError(
            "config.copies",
            f"{config.rule.name!r} draws two batches per update, which copies would mix",
            "set it to 1",
        )
    _check_objective(config, problem)
    if config.sample.name != "all" and (config.objective.name != "standard" or copies > 1):
        other = "copies" if copies > 1 else f"objective {config.objective.name!r}"
        raise UserError(
            "config.sample.name",
            f"{config.sample.name!r} judges the plain losses of a batch, which {other} replaces",
            "use one of the two",
        )
    if config.sample.name != "all" and cohort.sharding.devices > 1:
        raise UserError(
            "config.parallel.data",
            f"sample rule {config.sample.name!r} ranks the losses of a whole batch, and "
            f"{cohort.sharding.devices} devices see a part each",
            "set it to 1: lanes accumulate batches of any size",
        )
    single = any(EXTRAS[name].alone for name in rule.needs)
    if single and (cohort.facts.batch_statistics or copies > 1):
        tied = f"{copies} copies of each" if copies > 1 else "batch norm, which ties them together"
        raise UserError(
            "config.rule.name",
            f"{config.rule.name!r} takes the gradients of single examples, and there is {tied}",
            "choose another rule" + (", or a model without" if copies == 1 else ""),
        )
    if cohort.sharding.local and rule.needs & {*FUNCTIONS, "batch_size"}:
        raise UserError(
            "config.parallel.local_steps",
            f"{config.rule.name!r} takes gradients of the whole batch, local SGD of its parts",
            "set it to 1, or choose another rule",
        )
    pieces = cohort.examples_per_tick // (cohort.micro_batch * cohort.sharding.devices)
    if pieces > 1 and (rule.needs - {"value"} or cohort.facts.batch_statistics or copies > 1):
        raise UserError(
            "config.micro_batch",
            f"{cohort.micro_batch} examples at a time: this rule needs the whole batch at once",
            "leave it out",
        )
    objective = Objective(
        model=problem.model,
        task=problem.task,
        convolution=convolution,
        wrapper=OBJECTIVES.configured(config.objective),
        sample=SAMPLES.configured(config.sample),
        pieces=pieces,
        needs=rule.needs,
        sharding=cohort.sharding,
    )
    return Program(
        objective=objective,
        make_transform=lambda learning_rate, numbers: rule(learning_rate, **numbers),
        schedules=_schedules(problem, cohort, rule),
        batches=with_copies(problem.batches, copies),
        num_examples=problem.num_examples,
        total_examples=cohort.total_examples,
        micro_batch=cohort.examples_per_tick,
        copies=copies,
        accumulates=cohort.accumulates,
        one_loop=cohort.facts.is_dense and not cohort.accumulates,
        sharding=cohort.sharding,
        online=_online(problem, cohort),
        rounding=_rounding(problem, cohort),
    )


def _rounding(problem: Problem, cohort: Cohort) -> Choice:
    """How weights are rounded after an update.

    Raises:
      UserError: the weights of the model are no real numbers of float32 or wider, or devices
        average theirs.
    """
    config = cohort.config
    chosen = ROUNDINGS.configured(config.rounding)
    if chosen.name == "none":
        return chosen
    for path, leaf in jax.tree_util.tree_leaves_with_path(problem.shapes[0]):
        if leaf.dtype not in (jnp.float32, jnp.float64):
            where = jax.tree_util.keystr(path, simple=True, separator="/")
            raise UserError(
                "config.rounding.name",
                f"{chosen.name!r} rounds what is computed in float32, and {where} is {leaf.dtype}",
                "give the module parameters of float32 (param_dtype), or use 'none'",
            )
    if cohort.sharding.local:
        raise UserError(
            "config.rounding.name",
            f"{chosen.name!r} would not hold of the means of weights that local SGD evaluates",
            "set config.parallel.local_steps to 1, or use 'none'",
        )
    return chosen


def _check_objective(config: ConfigDict, problem: Problem) -> None:
    """Refuses an objective that moves inputs which are no numbers, or takes outputs for logits."""
    x = problem.example()
    real = isinstance(x, jax.ShapeDtypeStruct) and jnp.issubdtype(x.dtype, jnp.floating)
    there = {REAL_INPUTS: real, CLASSES: problem.task.name == "classification"}
    for need in OBJECTIVES.configured(config.objective).needs:
        if not there[need]:
            problem_is = f"{config.objective.name!r} needs {need}, which these data do not have"
            raise UserError("config.objective.name", problem_is, "use 'standard'")


def _online(problem: Problem, cohort: Cohort) -> tuple[Online, ...]:
    """What training measures of itself, in the order of the config's names."""
    if not (names := online_in(cohort.config)):
        return ()
    setting = Setting(
        params=jax.eval_shape(problem.model.init, jax.random.key(0), problem.example())[0],
        num_examples=problem.num_examples,
        micro_batch=cohort.examples_per_tick // cohort.sharding.devices,
        where=cohort.config.measure.where or None,
        mean=cohort.sharding.mean,
        loss_units=problem.task.loss.units,
        whole_batches=not cohort.sharding.local,
    )
    fields = cohort.config.measure
    return tuple(MEASUREMENTS[name].make(setting, **fields.get(name, {})) for name in names)


def _law(problem: Problem, cohort: Cohort, rule: Choice) -> Choice:
    """How rate and decays follow the batch size.

    Raises:
      UserError: the rule has not what the law sets, the data count no tokens, the learning rate
        has two laws, or a decay would not lie in [0, 1).
    """
    config = cohort.config
    law = LAWS.configured(config.scaling)
    varied = {path for run in cohort.runs for path in run.settings}

    def given(name: str) -> bool:
        return law.values.get(name) is not None or f"scaling.{name}" in varied

    for name in law.fields:
        role, _, unit = name.rpartition("_")
        if unit not in ("examples", "tokens", "growth") or not given(name):
            continue
        field = f"config.scaling.{name}"
        if decay_in(rule.numbers, role) not in rule.numbers:
            problem_is = f"{config.rule.name!r} has no number {role!r} here"
            raise UserError(field, problem_is, nearest(role, rule.numbers))
        if unit == "tokens" and not problem.dataset.tokens:
            remedy = f"set config.scaling.{role}_examples"
            raise UserError(field, f"{problem.dataset.name!r} counts no tokens", remedy)
        if unit == "tokens" and given(f"{role}_examples"):
            remedy = f"leave one of the two out: {role}_examples is set, too"
            raise UserError(field, f"sets {role} a second time", remedy)
        if unit == "growth" and not (given(f"{role}_examples") or given(f"{role}_tokens")):
            remedy = f"set config.scaling.{role}_examples, or _tokens"
            raise UserError(field, "is of a half-life, which nothing says", remedy)
        if role == "momentum" and config.momentum_schedule.name != "constant":
            problem_is = f"and momentum_schedule {config.momentum_schedule.name!r} say the momentum"
            raise UserError(field, problem_is, "leave one of the two out")
    if config.noise.name == "lr-batch" and (law.name != "fixed" or given("timescale")):
        problem_is = "moves m with the learning rate and the momentum that it finds"
        remedy = "leave config.scaling at 'fixed', without a timescale, or use a batch_schedule"
        raise UserError("config.noise.name", f"'lr-batch' {problem_is}", remedy)
    if given("timescale") and "weight_decay" not in rule.numbers:
        problem_is = f"{config.rule.name!r} has no numeric weight decay here"
        raise UserError("config.scaling.timescale", problem_is, "leave it out")
    if given("power") and config.lr_scaling != "linear":
        problem_is = f"says how η follows m, and so does lr_scaling {config.lr_scaling!r}"
        remedy = "leave one of the two out: 'linear', 'sqrt' and 'none' are powers of 1, 0.5 and 0"
        raise UserError("config.scaling.power", problem_is, remedy)
    if law.name == "sde":
        _check_first_order(cohort, law, rule)
    return law


def _check_first_order(cohort: Cohort, law: Choice, rule: Choice) -> None:
    """Refuses decays that a law which is linear in m makes negative, at the largest m of a run."""
    references = settings_array(cohort, "scaling.reference", law.values["reference"])
    sizes = [max(m, last) for m, last in zip(cohort.batch_sizes, cohort.last_batches, strict=True)]
    for name in (name for name in DECAYS if name in rule.numbers):
        decays = settings_array(cohort, f"rule.{name}", rule.numbers[name])
        for m, reference, decay in zip(sizes, references, decays, strict=True):
            if sde_decay(decay, m / reference) < 0:
                raise UserError(
                    "config.scaling.name",
                    f"'sde' makes {name} of {decay:g} at m = {reference:g} negative at m = {m:g}",
                    "use 'rescaled', a larger config.scaling.reference, or smaller batches",
                )


def _schedules(problem: Problem, cohort: Cohort, rule: Choice) -> Schedules:
    """The schedules of a cohort."""
    config = cohort.config
    name, noise = config.momentum_schedule.name, config.noise.name
    for section, active in (
        ("momentum_schedule", name != "constant"),
        ("noise", noise in ("lr-batch", "beta", "lr-beta")),
    ):
        if active and "momentum" not in rule.numbers:
            raise UserError(
                f"config.{section}.name",
                f"moves the momentum, and {config.rule.name!r} has no numeric one here",
                "set config.rule.momentum to a number, or choose another rule",
            )
    varied = (config.schedule.name, config.batch_schedule.name, name) != ("constant",) * 3
    if noise != "none" and varied:
        raise UserError(
            "config.noise.name",
            f"{noise!r} moves learning rate, batch size and momentum together",
            "leave schedule, batch_schedule and momentum_schedule constant",
        )
    return Schedules(
        micro_batch=cohort.examples_per_tick,
        lr_scaling=config.lr_scaling,
        scaling=_law(problem, cohort, rule),
        tokens=problem.dataset.tokens,
        budget=cohort.total_examples,
        learning_rate=problem.schedule or SCHEDULES.configured(config.schedule),
        batch=BATCH_SCHEDULES.configured(config.batch_schedule),
        momentum=MOMENTUM_SCHEDULES.configured(config.momentum_schedule),
        noise=NOISE.configured(config.noise),
        noise_form="nshb" if config.rule.name == "normalized_shb" else "shb",
    )
