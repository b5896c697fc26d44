"""``sbt plan``: what a sweep will do, without doing it."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict
from rich.table import Table
from rich.text import Text

from sbt import implied
from sbt.data import Dataset
from sbt.optim import foreign
from sbt.parallel.ceilings import machine_ceilings
from sbt.sweep import run as _  # noqa: F401  so that this process holds what a run's holds
from sbt.sweep.cohort import Cohort
from sbt.sweep.estimate import Costs, estimate
from sbt.sweep.fit import (
    as_many_as_fit,
    fit,
    most_lanes,
    named_strategy,
    peak_memory,
    process_memory,
    time_ticks,
)
from sbt.sweep.prepare import Sweep, laws_of, prepare
from sbt.sweep.problem import Parts, Placed
from sbt.sweep.progress import si
from sbt.sweep.strategy import Strategy
from sbt.tasks.base import PerExample
from sbt.text import one_line, roughly

# Passes times lanes in each; memory per device.
COLUMNS = ("", "runs", "m", "g", "params", "strategy", "lanes", "GB", "compile", "training")
MOST_SIZES = 2  # batch sizes named one by one


@dataclasses.dataclass(frozen=True)
class CohortPreview:
    """One cohort of a plan.

    Attributes:
      runs: lanes in all.
      batch_sizes: the distinct m.
      micro_batch: g.
      static: what tells the cohort from the others, besides g.
      parameters: of one run.
      strategy: how lanes are executed.
      passes: how many, of ``lanes`` lanes each.
      lanes: per pass.
      bytes_per_device: arrays and temporaries of the largest program, data included.
      process_bytes: expected peak of this process; on accelerators the device's bytes instead.
      compile_seconds: of all its programs.
      seconds: expected training time.
      tokens: T, of each example; 0 where they are not counted.
      laws: what each batch size makes of the hyperparameters.
    """

    runs: int
    batch_sizes: tuple[int, ...]
    micro_batch: int
    static: str
    parameters: int
    strategy: str
    passes: int
    lanes: int
    bytes_per_device: int
    process_bytes: int
    compile_seconds: float
    seconds: float
    tokens: int = 0
    laws: Sequence[implied.Row] = ()


def preview(
    config: ConfigDict,
    note: Callable[[str], None] = lambda text: None,
    *,
    measure: bool = False,
    module: Any = None,
    dataset: Dataset | None = None,
    rule: foreign.MakeRule | None = None,
    loss: PerExample | None = None,
    metrics: Mapping[str, Any] | None = None,
    schedule: Any = None,
) -> list[CohortPreview]:
    """Plans every cohort; trains nothing.

    Args:
      config: as for ``sbt.run``.
      note: is told what goes on.
      measure: compiles every cohort and times it for a moment; else costs follow from counts of
        operations, see :mod:`sbt.sweep.estimate`.
      module: as for ``sbt.run``.
      dataset: as for ``sbt.run``.
      rule: as for ``sbt.run``.
      loss: as for ``sbt.run``.
      metrics: as for ``sbt.run``.
      schedule: as for ``sbt.run``.

    Raises:
      UserError: what ``sbt.run`` would refuse.
    """
    with foreign.known(rule):
        sweep = prepare(config, Parts(module, dataset, rule, loss, metrics, schedule))
        return _previews(sweep, _measured if measure else _estimated, note)


def _measured(sweep: Sweep, placed: Placed, runs: int) -> tuple[Strategy, Costs]:
    with contextlib.closing(fit(placed, runs=runs).engine) as engine:
        seconds = time_ticks(engine)
    made = Costs(engine.lanes, seconds, engine.bytes_per_device, engine.compile_seconds)
    return engine.strategy, made


def _estimated(sweep: Sweep, placed: Placed, runs: int) -> tuple[Strategy, Costs]:
    strategy = named_strategy(placed, most_lanes(placed, runs))
    forward = sweep.builder.forward(placed.cohort.config)
    known: Any = {"strategy": strategy, "forward": forward, "ceilings": machine_ceilings()}
    make = functools.partial(estimate, placed, **known)
    return strategy, as_many_as_fit(placed, runs, 0, strategy, make)


def _previews(
    sweep: Sweep,
    program_of: Callable[[Sweep, Placed, int], tuple[Strategy, Costs]],
    note: Callable[[str], None],
) -> list[CohortPreview]:
    on_cpu = jax.default_backend() == "cpu"
    previews = []
    for remark in sweep.remarks:
        note(remark)
    if sweep.searches:
        name = sweep.config.search.name
        note(f"{name} chooses among {sweep.runs} runs: it takes at most the time that follows")
    for number, cohort in enumerate(sweep.cohorts):
        sizes = cohort.sizes
        named = ", ".join(map(str, sizes))
        note(f"cohort {number + 1} of {len(sweep.cohorts)}: m = {named}, {len(cohort.runs)} runs")
        placed = sweep.place(cohort)
        devices = len(placed.mesh.local_devices)
        before = process_memory() if on_cpu else 0
        strategy, costs = program_of(sweep, placed, sweep.search(cohort).width)
        passes = -(-len(cohort.runs) // costs.lanes)
        held = sum(leaf.nbytes for leaf in jax.tree.leaves(placed.arrays)) if on_cpu else 0
        program = costs.bytes_per_device * (devices if on_cpu else 1)
        previews.append(
            CohortPreview(
                runs=len(cohort.runs),
                batch_sizes=sizes,
                micro_batch=cohort.micro_batch,
                static=_static(cohort),
                parameters=cohort.facts.parameters,
                strategy=str(strategy),
                passes=passes,
                lanes=costs.lanes,
                bytes_per_device=costs.bytes_per_device,
                process_bytes=max(peak_memory(), before + program - devices * held)
                if on_cpu
                else program,
                compile_seconds=costs.compile_seconds,
                seconds=costs.tick_seconds * cohort.ticks * passes,
                tokens=placed.problem.dataset.tokens,
                laws=laws_of(cohort, placed.problem.dataset.tokens),
            )
        )
    return previews


def tables(name: str, cohorts: Sequence[CohortPreview]) -> Iterator[Table | Text]:
    """The plan of a sweep, to print on 80 columns or more."""
    runs = sum(cohort.runs for cohort in cohorts)
    yield Text(f"{one_line(name)}: {runs} runs", style="bold")
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for column in COLUMNS:
        left = column == "strategy"
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    for number, c in enumerate(cohorts):
        table.add_row(
            str(number + 1), str(c.runs), _sizes(c.batch_sizes), str(c.micro_batch),
            si(c.parameters), c.strategy, f"{c.passes} x {c.lanes}",
            f"{c.bytes_per_device / 2**30:.3f}", roughly(c.compile_seconds), roughly(c.seconds),
        )  # fmt: skip
    yield table
    for number, cohort in enumerate(cohorts):
        told = [cohort.static] if cohort.static else []  # in what it differs from the others
        if cohort.tokens:
            per_update = tuple(cohort.tokens * m for m in cohort.batch_sizes)
            told.append(f"{cohort.tokens} tokens an example, {_sizes(per_update)} an update")
        if told:
            yield Text(one_line(f"{number + 1}: {'; '.join(told)}"))
    if laws := implied.together([cohort.laws for cohort in cohorts]):
        head, lines = implied.words(laws)
        table = Table(title=implied.TITLE, title_justify="left", box=None, pad_edge=False)
        for column in head:
            table.add_column(column, justify="right", overflow="fold")
        for line in lines:
            table.add_row(*line)
        yield table


def _sizes(sizes: tuple[int, ...]) -> str:
    """Batch sizes as they are while there are few, else their ends and their number."""
    if len(sizes) <= MOST_SIZES:
        return ", ".join(map(str, sizes))
    return f"{sizes[0]}…{sizes[-1]} ({len(sizes)})"


def _static(cohort: Cohort) -> str:
    """The settings that all runs of a cohort share."""
    runs = [run.settings for run in cohort.runs]
    found = [f"{p}={v}" for p, v in runs[0].items() if all(run.get(p) == v for run in runs)]
    single = {"batch_size", "base_lr", "seed"}  # what has but one value is told elsewhere
    return ", ".join(text for text in found if text.partition("=")[0] not in single)
