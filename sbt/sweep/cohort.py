"""From runs to cohorts: which runs share a compiled program, and on how many examples it ticks."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ml_collections import ConfigDict

from sbt.errors import UserError
from sbt.optim import RULES
from sbt.schedules import BATCH_SCHEDULES
from sbt.sweep.grid import Grid, Run, by_static_settings, with_settings
from sbt.train.extras import FUNCTIONS, check_parts, draws
from sbt.train.shards import ONE_DEVICE, Sharding

# Above this many examples a larger micro-batch no longer makes an example cheaper.
MICRO_BATCH_CAP = 32
# On an accelerator that trains few lanes with large batches, what fills it.
ACCELERATOR_CAP = 512
# Networks below so many operations per training example are bound by the start of operations, not
# by arithmetic or memory: lanes share each operation, and g makes no difference.
SMALL_FLOPS = 1.5e6
DENSE_FLOPS = 8.0  # per example and weight, at most, of networks that use each weight once
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

    @property
    def is_small(self) -> bool:
        """Whether starting operations takes longer than doing them."""
        return self.flops <= SMALL_FLOPS

    @property
    def is_dense(self) -> bool:
        """Whether an example uses each weight once: two operations, and twice as many back."""
        return self.flops <= DENSE_FLOPS * self.parameters


@dataclasses.dataclass(frozen=True)
class Cohort:
    """Runs of one compiled program.

    Attributes:
      config: the config with what the runs share; batch size, LR and the like are the runs' own.
      micro_batch: g, examples per gradient evaluation.
      examples_per_tick: that count towards m, over all devices of a run: g on each, or m
        where a tick is a whole batch.
      draws: batches that one update draws (2 for rules that compare two gradients).
      runs: the lanes, in grid order.
      batch_sizes: m of every run.
      facts: of the model.
      sharding: of every batch over devices.
      synchronous: whether batch statistics span the devices of a run.
    """

    config: ConfigDict
    micro_batch: int
    examples_per_tick: int
    draws: int
    runs: tuple[Run, ...]
    batch_sizes: tuple[int, ...]
    facts: ModelFacts
    sharding: Sharding = ONE_DEVICE
    synchronous: bool = False

    @property
    def moves_batch(self) -> bool:
        """Whether batch sizes change during training."""
        return bool(_moves_batch(self.config))

    @property
    def accumulates(self) -> bool:
        return self.moves_batch or any(m > self.examples_per_tick for m in self.sizes)

    @functools.cached_property
    def sizes(self) -> tuple[int, ...]:
        """The distinct batch sizes, sorted."""
        return tuple(sorted(set(self.batch_sizes)))

    @functools.cached_property
    def seeds(self) -> tuple[int, ...]:
        """The distinct seeds, sorted."""
        return tuple(sorted(set(settings_array(self, "seed", self.config.seed))))

    @property
    def last_batches(self) -> list[float]:
        """m of every run at its end, as its batch schedule wants it."""
        return [
            m * _growth_of(self.config, run)
            for run, m in zip(self.runs, self.batch_sizes, strict=True)
        ]

    @property
    def tick(self) -> int:
        """Examples that a tick takes from the stream."""
        return self.examples_per_tick * self.draws

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

    With ``parallel.data = D`` devices per run all this holds of m / D, the part of every batch that
    a device takes. Batch statistics of b examples lie within a device where b divides that part,
    and span all devices otherwise: which examples share them follows from b alone, never from D.

    Args:
      grid: the runs.
      facts_of: facts of the model that a config describes.
      one_micro_batch: always one cohort for all batch sizes where the model allows it: on
        accelerators more lanes in a program pay more than larger micro-batches.

    Raises:
      UserError: a batch larger than the data, a micro-batch that batch norm cannot have, or a batch
        that the devices cannot share.
    """
    cohorts = []
    for static, runs in by_static_settings(grid).items():
        config = with_settings(grid.config, dict(static))
        facts = facts_of(config)
        sizes = [run.settings.get("batch_size", config.batch_size) for run in runs]
        rule = RULES.configured(config.rule)
        needs, drawn = rule.needs, draws(rule.needs)
        for m in sizes:
            if m * drawn > facts.num_examples:
                pair = f" in each of the two batches of {config.rule.name!r}" * (drawn > 1)
                raise UserError(
                    "config.batch_size",
                    f"{m} examples{pair} are more than the {facts.num_examples} of the training "
                    "set",
                    "use smaller batches, or more data (config.data.train_size)",
                )
        whole = bool(FUNCTIONS & needs) or config.sample.name != "all"
        if whole and (moving := _moves_batch(config)):
            raise UserError(
                f"config.{moving}.name",
                f"{config[moving].name!r} changes a batch that has to be there at once",
                "use a constant batch size with this rule or sample rule",
            )
        sharding = sharding_of(config)
        d = sharding.devices
        _check_growth(config, runs, sizes)
        first = [_first_batch(config, run, m) for run, m in zip(runs, sizes, strict=True)]
        for m in (*sizes, *first):
            if m % d:
                raise UserError(
                    "config.parallel.data",
                    f"a batch of {m} examples cannot be shared by {d} devices",
                    "use batch sizes that are multiples of it, or fewer devices",
                )
        option = str(rule.facts.get("parts", ""))
        for m in sizes if option else ():
            check_parts(m // d, rule.values[option])
        if whole:
            parts = [m // d for m in sizes]
            chosen = [(config.micro_batch or m, m * d, False) for m in parts]
        else:
            micro = _micro_batches(config, facts, sizes, first, one_micro_batch, d)
            chosen = [(g, g * d, sync) for g, sync in micro]
        for (_, each, _), small in zip(chosen, first, strict=True):
            if not whole and small % each:
                raise UserError(
                    "config.batch_schedule.ratio",
                    f"a first batch of {small} is not a multiple of the tick's {each} examples",
                    "set config.micro_batch (with batch norm, config.bn_batch) to a divisor of it",
                )
        for g, each, sync in sorted(set(chosen)):
            members = [i for i, own in enumerate(chosen) if own == (g, each, sync)]
            own = [runs[i] for i in members]
            cohorts.append(make_cohort(config, facts, own, g, each, synchronous=sync))
    return tuple(cohorts)


def make_cohort(
    config: ConfigDict,
    facts: ModelFacts,
    runs: Sequence[Run],
    micro_batch: int,
    examples_per_tick: int,
    *,
    synchronous: bool,
) -> Cohort:
    """The cohort of these runs, as somebody has grouped them (see :class:`Cohort`)."""
    return Cohort(
        config=config,
        micro_batch=micro_batch,
        examples_per_tick=examples_per_tick,
        draws=draws(RULES.named(config.rule.name).needs),
        runs=tuple(runs),
        batch_sizes=tuple(run.settings.get("batch_size", config.batch_size) for run in runs),
        facts=facts,
        sharding=sharding_of(config),
        synchronous=synchronous,
    )


def sharding_of(config: ConfigDict) -> Sharding:
    """How a config's devices share the batches of a run."""
    parallel = config.parallel
    return Sharding(parallel.data, parallel.local_steps, float(parallel.local_from))


def _check_growth(config: ConfigDict, runs: Sequence[Run], sizes: Sequence[int]) -> None:
    """Refuses batches that grow beyond what a counter of examples holds."""
    if config.batch_schedule.name == "constant":
        return
    growth: dict[tuple[Any, ...], float] = {}
    for run, m in zip(runs, sizes, strict=True):
        own = tuple(sorted(_own(run).items()))
        if own not in growth:
            growth[own] = _growth_of(config, run)
        if not m * growth[own] < 2**31:
            raise UserError(
                "config.batch_schedule",
                f"a batch of {m} grows {growth[own]:g} times, to more examples than can be counted",
                "set config.batch_schedule.largest, or let it grow less",
            )


def _own(run: Run) -> dict[str, Any]:
    """The fields of the batch schedule that a run sets."""
    section = "batch_schedule."
    return {
        path.removeprefix(section): value
        for path, value in run.settings.items()
        if path.startswith(section) and path != "batch_schedule.name"
    }


def _growth_of(config: ConfigDict, run: Run) -> float:
    """By how much a run's batch has grown at its end."""
    if config.batch_schedule.name == "constant":
        return 1.0
    return float(BATCH_SCHEDULES.configured(config.batch_schedule)(1.0, **_own(run)).batch)


def _first_batch(config: ConfigDict, run: Run, m: int) -> int:
    """The smallest batch of a run: m, or less where training starts with smaller ones."""
    schedule = config.batch_schedule
    if schedule.name != "small_first":
        return m
    default = BATCH_SCHEDULES.configured(schedule).values["ratio"]
    return max(1, round(m * run.settings.get("batch_schedule.ratio", default)))


def _micro_batches(
    config: ConfigDict,
    facts: ModelFacts,
    sizes: Sequence[int],
    first: Sequence[int],
    one: bool,
    devices: int,
) -> list[tuple[int, bool]]:
    """Micro-batch of every run, and whether its batch statistics span the devices."""
    g, b = config.micro_batch, config.bn_batch
    if facts.batch_statistics:
        return [_statistics_batch(g, b, m, devices) for m in sizes]
    if g is not None:
        for m in sizes:
            if m % (g * devices):
                raise UserError(
                    "config.micro_batch",
                    f"{g} examples on each of {devices} devices cannot reach the batch size {m}",
                    f"choose a divisor of {m // devices}",
                )
        return [(g, False)] * len(sizes)
    sizes = [math.gcd(m, small) // devices for m, small in zip(sizes, first, strict=True)]
    cap = ACCELERATOR_CAP if one and devices > 1 else MICRO_BATCH_CAP
    if facts.dropout:
        # Dropout masks are drawn per tick: g must not depend on which other runs are in the grid.
        return [(largest_divisor(m, cap), False) for m in sizes]
    common = math.gcd(*sizes)
    overhead = WEIGHT_PASSES * facts.parameter_bytes / BYTES_PER_SECOND
    arithmetic = largest_divisor(common, cap) * facts.flops / FLOPS_PER_SECOND
    one = one or facts.is_small or len(set(sizes)) == 1
    if one or overhead <= TOLERATED_OVERHEAD * arithmetic:
        return [(largest_divisor(common, cap), False)] * len(sizes)
    return [(largest_divisor(m, cap), False) for m in sizes]


def _statistics_batch(g: int | None, b: int | None, m: int, devices: int) -> tuple[int, bool]:
    """Micro-batch where b examples share statistics, and whether these span the devices."""
    if g is not None and b is None and g * devices != m:
        raise UserError(
            "config.micro_batch",
            f"{g} examples at a time cannot share the batch statistics of {m}",
            f"leave micro_batch out, or say config.bn_batch={g} if that is meant",
        )
    whole = b or m
    if m // devices % whole == 0:
        if g is not None and m % (g * devices):
            raise UserError(
                "config.micro_batch",
                f"{g} examples on each of {devices} devices cannot reach the batch size {m}",
                f"choose a divisor of {m // devices}",
            )
        return (g or whole), False
    if whole % devices or g not in (None, whole // devices):
        raise UserError(
            "config.bn_batch",
            f"{whole} examples cannot share statistics when {devices} devices take "
            f"{m // devices} of {m} each",
            f"use a divisor of {m // devices} (statistics within a device), or a multiple of "
            f"{devices} (statistics over all devices)",
        )
    return whole // devices, True


def largest_divisor(m: int, most: int) -> int:
    """The largest divisor of m that is at most ``most``."""
    return max(d for d in range(1, min(m, most) + 1) if m % d == 0)


def settings_array(
    cohort: Cohort, path: str, default: Any, members: Iterable[int] | None = None
) -> list[Any]:
    """One setting of every run of a cohort, or of some by their positions."""
    runs = cohort.runs if members is None else (cohort.runs[i] for i in members)
    return [run.settings.get(path, default) for run in runs]


def _moves_batch(config: ConfigDict) -> str:
    """The section that changes the batch size during training, if one does."""
    if config.batch_schedule.name != "constant":
        return "batch_schedule"
    return "noise" if config.noise.name == "lr-batch" else ""
