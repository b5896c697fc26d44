"""Everything that is known, and everything that can be refused, before anything compiles."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sbt import config as configs
from sbt import fingerprint, implied, results
from sbt.checks import validate
from sbt.errors import UserError, shown
from sbt.measure.registry import separate_in
from sbt.optim import RULES, foreign
from sbt.optim.base import ignores_scale
from sbt.parallel.mesh import make_mesh, prepare_devices
from sbt.schedules import BATCH_SCHEDULES
from sbt.search import SEARCHES, Search
from sbt.sweep import feed, observe
from sbt.sweep.cohort import Cohort, make_cohorts, settings_array
from sbt.sweep.grid import Grid, make_grid, with_settings
from sbt.sweep.problem import Builder, Parts, Placed, Start, make_program, place
from sbt.tasks import Score

BATCHES = ("batch_size", "micro_batch", "bn_batch")
_OF_FILES = ("name", "data_dir", "stream", "image_size", "resize")  # of config.data


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A checked sweep.

    Attributes:
      config: complete.
      grid: its runs.
      cohorts: which of them share a program.
      builder: makes data and models.
      mesh: of the devices that it runs on.
      parts: the fingerprint of what it trains beyond its config, see :mod:`sbt.fingerprint`.
      start: weights that the runs start from, see :func:`sbt.sweep.weights.starting`; None: random
        ones.
    """

    config: ConfigDict
    grid: Grid
    cohorts: tuple[Cohort, ...]
    builder: Builder
    mesh: Mesh
    parts: Mapping[str, Any]
    start: Start | None = None

    @property
    def runs(self) -> int:
        return len(self.grid.runs)

    @property
    def searches(self) -> bool:
        """Whether something chooses among the runs, so that some stop and some never begin."""
        return str(self.config.search.name) != "grid"

    def search(self, cohort: Cohort) -> Search:
        """What chooses among the runs of a cohort, before it has chosen any.

        Raises:
          UserError: it cannot search among these.
        """
        made: Search = SEARCHES.configured(self.config.search)(
            [run.settings for run in cohort.runs], cohort.config.epochs
        )
        return made

    def place(self, cohort: Cohort) -> Placed:
        """A cohort with its data on the devices."""
        problem = self.builder.problem(cohort.config, cohort.synchronous)
        return place(problem, cohort, self.mesh, self.start)

    @functools.cached_property
    def remarks(self) -> tuple[str, ...]:
        """What is allowed, and probably not meant."""
        if len({m for cohort in self.cohorts for m in cohort.batch_sizes}) < 2:
            return ()
        rules = {}
        for cohort in self.cohorts:
            config = cohort.config
            rates = settings_array(cohort, "scaling.power", config.scaling.get("power"))
            linear = config.lr_scaling == "linear" and all(p in (None, 1.0) for p in rates)
            rule = RULES.configured(config.rule)
            # Optimizers of optax are all given the loss, which few of them look at.
            if linear and not rule.needs - {"value"} and config.rule.name not in rules:
                with contextlib.suppress(Exception):  # a rule for other weights than a matrix
                    rules[config.rule.name] = ignores_scale(rule)
        names = ", ".join(name for name, ignores in rules.items() if ignores)
        if not names:
            return ()
        return (
            f"note: η = m η̃ makes steps of {names} grow with m, and their length does not depend "
            "on the gradient's: config.lr_scaling = 'none' or 'sqrt' is usual",
        )

    @property
    def laws(self) -> list[implied.Row]:
        """What each batch size makes of the hyperparameters, see :mod:`sbt.implied`."""
        tokens = [self.builder.dataset(cohort.config.data).tokens for cohort in self.cohorts]
        return implied.together([*map(laws_of, self.cohorts, tokens)])

    @property
    def work(self) -> float:
        """Examples times lanes of the whole sweep."""
        return float(sum(len(c.runs) * c.total_examples for c in self.cohorts))


def laws_of(cohort: Cohort, tokens: int) -> list[implied.Row]:
    """What each batch size of a cohort makes of its hyperparameters."""
    settings = [run.settings for run in cohort.runs]
    return implied.rows(cohort.config, settings, tokens=tokens, budget=cohort.total_examples)


def prepare(config: ConfigDict | Mapping[str, Any], parts: Parts) -> Sweep:
    """Completes and checks a config, expands its grid, groups it into cohorts.

    Raises:
      UserError: for whatever cannot be run, with the remedy.
    """
    parts = parts.checked()
    if parts.rule is not None:
        config = configs.for_own_rule(config)
    config = configs.complete(config)
    _check_replaced(config, parts)
    _check_own(config, parts)
    varied = [axis for axis, values in config.sweep.items() if values is not None]
    if {*varied, *config.follow} & set(BATCHES):
        # The default of one batch size need not suit another's axis: the grid checks the pairs.
        validate(with_settings(config, {"micro_batch": None, "bn_batch": None}))
    else:
        validate(config)
    grid = make_grid(config)
    _check_report(config, grid)
    prepare_devices()
    mesh = make_mesh(config.parallel.data)
    builder = Builder(parts)
    on_cpu = jax.default_backend() == "cpu"
    cohorts = make_cohorts(grid, builder.facts, one_micro_batch=not on_cpu)
    problems = [builder.problem(cohort.config, cohort.synchronous) for cohort in cohorts]
    for cohort, problem in zip(cohorts, problems, strict=True):
        moves = "schedule" if parts.schedule is not None else _moves_rate(cohort)
        foreign.check(cohort.config.rule, problem.shapes[0], moves)
        make_program(problem, cohort, "stock")
        feed.check(problem, cohort, measured=bool(separate_in(cohort.config)))
        observe.check(Placed(cohort, problem, mesh, None))
    _check_score(config, grid, [problem.task.score for problem in problems])
    _check_online(config, cohorts)
    _check_feedback(cohorts)
    _check_statistics(config, grid, any(c.facts.batch_statistics for c in cohorts))
    sweep = Sweep(config, grid, cohorts, builder, mesh, _fingerprint(parts, cohorts[0], builder))
    for cohort in cohorts:
        sweep.search(cohort)
    return sweep


def _fingerprint(parts: Parts, cohort: Cohort, builder: Builder) -> dict[str, Any]:
    """What :func:`sbt.fingerprint.differences` compares."""
    module = None
    if parts.module is not None:
        problem = builder.problem(cohort.config)
        module = fingerprint.of_module(parts.module, problem.model, problem.example())
    found = {
        "module": module,
        "rule": None if parts.rule is None else fingerprint.of_rule(parts.rule),
        "data": fingerprint.of_data(builder.datasets, own=parts.dataset is not None),
    }
    for name in ("loss", "schedule"):
        if (function := getattr(parts, name)) is not None:
            found[name] = fingerprint.of_rule(function)
    return found


def _check_replaced(config: ConfigDict, parts: Parts) -> None:
    """Refuses settings of what the user's own parts replace."""
    chosen = [axis for axis, values in config.sweep.items() if values is not None]
    for part, section in (("module", "model"), ("dataset", "data")):
        if getattr(parts, part) is None:
            continue
        for axis in (*chosen, *config.follow):
            path = configs.SECTION_AXES.get(axis, axis.replace("__", "."))
            kept = section == "data" and path.partition(".")[2] not in _OF_FILES
            if path.startswith(f"{section}.") and not kept:
                raise UserError(
                    f"config.sweep.{axis}",
                    f"varies config.{section}, which {part}= replaces",
                    f"leave the axis out, or {part}=",
                )
    if parts.dataset is not None:
        for field in ("data_dir", "stream", "image_size", "resize"):
            if config.data.get(field):
                raise UserError(
                    f"config.data.{field}",
                    f"= {config.data[field]!r} has no effect: dataset= gives arrays in memory",
                    "leave it out, or dataset=",
                )
    if parts.module is not None:
        defaults = configs.fields_of("model", config.model.name)
        for field, default in defaults.items():
            value = config.model.get(field, default)
            if config.model.name == configs.FIELDS["model.name"].default and value != default:
                raise UserError(
                    f"config.model.{field}",
                    f"= {value!r} has no effect: module= replaces config.model",
                    "leave it out, and set it in your module",
                )


def _check_own(config: ConfigDict, parts: Parts) -> None:
    """Refuses settings beside the user's own loss or schedule, which replaces them."""
    for part, section, still in (("loss", "task", "auto"), ("schedule", "schedule", "constant")):
        function = getattr(parts, part)
        if function is None:
            continue
        if not callable(function):
            remedy = "give a function; see sbt.run"
            raise UserError(part, f"{shown(function)} is not a function", remedy)
        name = config[section].name
        if name != still or config.sweep.get(section) is not None:
            problem = f"{name!r} has no effect: {part}= replaces it"
            raise UserError(f"config.{section}.name", problem, f"leave it out, or {part}=")


def _check_score(config: ConfigDict, grid: Grid, scores: Sequence[Score]) -> None:
    """Refuses runs of different scores, which nothing could rank, and what no score can be."""
    names = sorted({score.name for score in scores})
    if len(names) > 1:
        raise UserError(
            "config.task.score",
            f"the runs of the grid have different ones ({', '.join(names)})",
            "choose one that all data sets have, or train them in sweeps of their own",
        )
    if names[0] in (*results.RESERVED, *grid.axes):
        problem = f"{names[0]!r} ranks the runs, and the results have something else of that name"
        raise UserError("metrics", problem, "call it otherwise")
    if scores[0].percent and config.report.margin >= 1:
        raise UserError(
            "config.report.margin",
            f"= {config.report.margin:g}, and no two runs can differ by that much",
            "give a fraction: 0.05 is 5 points",
        )


def _check_online(config: ConfigDict, cohorts: Sequence[Cohort]) -> None:
    """Refuses a noise scale from micro-batches where every batch is a single one."""
    if "accumulated_noise_scale" in config.measure.names and not any(
        cohort.accumulates or cohort.sharding.devices > 1 for cohort in cohorts
    ):
        raise UserError(
            "config.measure.names",
            "'accumulated_noise_scale' would be NaN in every run: each batch is one micro-batch",
            "set config.micro_batch to a divisor below the batch size, or measure noise_scale",
        )


def _check_feedback(cohorts: Sequence[Cohort]) -> None:
    """Refuses batch schedules that follow what is not measured."""
    for config in (cohort.config for cohort in cohorts):
        schedule = BATCH_SCHEDULES.named(config.batch_schedule.name)
        feedback = schedule.facts.get("feedback")
        if feedback is not None and feedback.measurement not in config.measure.names:
            raise UserError(
                "config.batch_schedule.name",
                f"{schedule.name!r} follows {feedback.measurement}, which is not measured",
                f"add {feedback.measurement!r} to config.measure.names",
            )


def _check_statistics(config: ConfigDict, grid: Grid, normalised: bool) -> None:
    """Refuses settings of batch norm where no run's model has any."""
    if normalised:
        return
    varied = {path for run in grid.runs for path in run.settings}
    for path, value, default in (
        ("bn_batch", config.bn_batch, None),
        ("evaluate.statistics", config.evaluate.statistics, "running"),
    ):
        if value != default or path in varied:
            problem = "has no effect: the model has no batch norm"
            problem = problem if path in varied else f"{value!r} {problem}"
            remedy = "leave it out, or choose a model with it (config.model.norm)"
            raise UserError(f"config.{path}", problem, remedy)


def _check_report(config: ConfigDict, grid: Grid) -> None:
    """Refuses claims that no report could judge, and learning curves of no run."""
    wanted = config.report.curves_base_lr
    rates = {run.settings.get("base_lr", config.base_lr) for run in grid.runs}
    if wanted is not None and not any(math.isclose(wanted, rate, rel_tol=1e-6) for rate in rates):
        remedy = f"choose one of {', '.join(f'{rate:g}' for rate in sorted(rates))}, or None"
        raise UserError("config.report.curves_base_lr", f"no run has {wanted:g}", remedy)
    if config.report.claims or config.report.protocol:
        from sbt.report import claims  # draws, which few sweeps need here

        claims.check(config.report)


def _moves_rate(cohort: Cohort) -> str:
    """The field of a cohort's config that changes the learning rate during training, if any."""
    config = cohort.config
    for section, still in (("schedule", "constant"), ("batch_schedule", "constant")):
        if config[section].name != still:
            return f"config.{section}.name"
    if config.noise.name != "none":
        return "config.noise.name"
    warm = any(run.settings.get("schedule.warmup", 0) for run in cohort.runs)
    return "config.schedule.warmup" if warm or config.schedule.get("warmup", 0) else ""
