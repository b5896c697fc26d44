"""From runs to cohorts: which runs share a compiled program, and on how many examples it ticks."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from sbt.errors import UserError
from sbt.optim import make_batch_schedule, make_rule
from sbt.sweep.grid import Grid, Run, by_static_settings, with_settings

# Above this many examples a larger micro-batch no longer makes an example cheaper.
MICRO_BATCH_CAP = 32
# Networks below so many operations per training example are bound by the start of operations, not
# by arithmetic or memory: lanes share each operation, and g makes no difference.
SMALL_FLOPS = 1.5e6
# Time of a tick that does not depend on g: the weights pass through memory so many times ...
WEIGHT_PASSES = 4
BYTES_PER_SECOND, FLOPS_PER_SECOND = 20e9, 60e9  # ... of one CPU core, roughly
TOLERATED_OVERHEAD = 0.15


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """What planning needs to know of a model on its data.

    Attributes:
      parameters: number of trainable numbers.
      parameter_bytes: their size.
      flops: floating-point operations of one training example (forward and both gradients).
      batch_statistics: whether the model keeps running statistics of batches.
      dropout: whether training draws random numbers inside the model.
      num_examples: size of the training set.
    """

    parameters: int
    parameter_bytes: int
    flops: float
    batch_statistics: bool
    dropout: bool
    num_examples: int


@dataclasses.dataclass(frozen=True)
class Cohort:
    """Runs of one compiled program.

    Attributes:
      config: the config with what the runs share; batch size, LR and the like are the runs' own.
      micro_batch: g, examples per gradient evaluation.
      counted: examples of a tick that count towards m: g, or m where a tick is a whole batch.
      draws: batches that one update draws (2 for rules that compare two gradients).
      runs: the lanes, in grid order.
      batch_sizes: m of every run.
      facts: of the model.
    """

    config: ConfigDict
    micro_batch: int
    counted: int
    draws: int
    runs: tuple[Run, ...]
    batch_sizes: tuple[int, ...]
    facts: ModelFacts

    @property
    def accumulates(self) -> bool:
        moving = bool(_moves_batch(self.config))
        return moving or any(m > self.counted for m in self.batch_sizes)

    @property
    def tick(self) -> int:
        """Examples that a tick takes from the stream."""
        return self.counted * self.draws

    @property
    def total_examples(self) -> int:
        return self.config.epochs * self.facts.num_examples

    def first_tick(self, epoch: int) -> int:
        """Number of the first tick whose first example belongs to an epoch; may be the end."""
        return min(-(-epoch * self.facts.num_examples // self.tick), self.ticks)

    @property
    def ticks(self) -> int:
        """Ticks of a whole run: the budget, without a last piece shorter than a tick."""
        return self.total_examples // self.tick


def make_cohorts(
    grid: Grid, facts_of: Callable[[ConfigDict], ModelFacts], *, one_micro_batch: bool = False
) -> tuple[Cohort, ...]:
    """Groups the runs of a grid into cohorts.

    Batch norm without ``bn_batch`` ties g to m (all examples of a batch share statistics), so each
    m is a cohort; with it, g = b and all m share one. Without batch norm every common divisor of
    the batch sizes serves. Then one program for all m is best unless moving the weights at every
    tick would cost more than the arithmetic of so few examples; then each m gets the largest
    divisor up to 32 and runs of equal g share.

    A rule that takes several gradients on one batch, and the sample rule, need the whole batch in a
    tick: each m is a cohort.

    Args:
      grid: the runs.
      facts_of: facts of the model that a config describes.
      one_micro_batch: always one cohort for all batch sizes where the model allows it: on
        accelerators more lanes in a program pay more than larger micro-batches.

    Raises:
      UserError: a batch larger than the data, or a micro-batch that batch norm cannot have.
    """
    cohorts = []
    for static, runs in by_static_settings(grid).items():
        config = with_settings(grid.config, dict(static))
        facts = facts_of(config)
        sizes = [run.settings.get("batch_size", config.batch_size) for run in runs]
        needs = make_rule(config.rule)[0].needs
        draws = 2 if "second_gradient" in needs else 1
        for m in sizes:
            if m * draws > facts.num_examples:
                pair = f" in each of the two batches of {config.rule.name!r}" * (draws > 1)
                raise UserError(
                    "config.batch_size",
                    f"{m} examples{pair} are more than the {facts.num_examples} of the training "
                    "set",
                    "use smaller batches, or more data (config.data.train_size)",
                )
        whole = "grad_fn" in needs or config.sample.name != "all"
        if whole and (moving := _moves_batch(config)):
            raise UserError(
                f"config.{moving}.name",
                f"{config[moving].name!r} changes a batch that has to be there at once",
                "use a constant batch size with this rule or sample rule",
            )
        first = [_first_batch(config, run, m) for run, m in zip(runs, sizes, strict=True)]
        if whole:
            chosen = [(config.micro_batch or m, m) for m in sizes]
        else:
            micro = _micro_batches(config, facts, sizes, first, one_micro_batch)
            chosen = [(g, g) for g in micro]
        for g, small in zip((g for g, _ in chosen), first, strict=True):
            if not whole and small % g:
                raise UserError(
                    "config.batch_schedule.ratio",
                    f"a first batch of {small} is no multiple of the micro-batch {g}",
                    "set config.micro_batch (with batch norm, config.bn_batch) to a divisor of it",
                )
        for g, counted in sorted(set(chosen)):
            members = [i for i, own in enumerate(chosen) if own == (g, counted)]
            cohorts.append(
                Cohort(
                    config=config,
                    micro_batch=g,
                    counted=counted,
                    draws=draws,
                    runs=tuple(runs[i] for i in members),
                    batch_sizes=tuple(sizes[i] for i in members),
                    facts=facts,
                )
            )
    return tuple(cohorts)


def _first_batch(config: ConfigDict, run: Run, m: int) -> int:
    """The smallest batch of a run: m, or less where training starts with smaller ones."""
    schedule = config.batch_schedule
    if schedule.name != "small_first":
        return m
    default = make_batch_schedule(schedule).parameters["ratio"]
    return max(1, round(m * run.settings.get("batch_schedule.ratio", default)))


def _micro_batches(
    config: ConfigDict,
    facts: ModelFacts,
    sizes: Sequence[int],
    first: Sequence[int],
    one: bool,
) -> list[int]:
    g, b = config.micro_batch, config.bn_batch
    if facts.batch_statistics:
        for m in sizes:
            if g is not None and b is None and g != m:
                raise UserError(
                    "config.micro_batch",
                    f"{g} examples at a time cannot share the batch statistics of {m}",
                    f"leave micro_batch out, or say config.bn_batch={g} if that is meant",
                )
        if g is None:
            return [b or m for m in sizes]
    if g is not None:
        return [g] * len(sizes)
    sizes = [math.gcd(m, small) for m, small in zip(sizes, first, strict=True)]
    if facts.dropout:
        # Dropout masks are drawn per tick: g must not depend on which other runs are in the grid.
        return [_divisor(m, MICRO_BATCH_CAP) for m in sizes]
    common = math.gcd(*sizes)
    overhead = WEIGHT_PASSES * facts.parameter_bytes / BYTES_PER_SECOND
    arithmetic = _divisor(common, MICRO_BATCH_CAP) * facts.flops / FLOPS_PER_SECOND
    one = one or facts.flops <= SMALL_FLOPS or len(set(sizes)) == 1
    if one or overhead <= TOLERATED_OVERHEAD * arithmetic:
        return [_divisor(common, MICRO_BATCH_CAP)] * len(sizes)
    return [_divisor(m, MICRO_BATCH_CAP) for m in sizes]


def _divisor(m: int, most: int) -> int:
    """The largest divisor of m that is at most ``most``."""
    return max(d for d in range(1, min(m, most) + 1) if m % d == 0)


def settings_array(cohort: Cohort, path: str, default: Any) -> list[Any]:
    """One setting of every run of a cohort."""
    return [run.settings.get(path, default) for run in cohort.runs]


def _moves_batch(config: ConfigDict) -> str:
    """The section that changes the batch size during training, if one does."""
    if config.batch_schedule.name != "constant":
        return "batch_schedule"
    return "noise" if config.noise.name == "lr-batch" else ""
