"""``sbt plan``: what a sweep will do, without doing it."""

import contextlib
import dataclasses
from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from sbt.sweep import run as _  # noqa: F401  so that this process holds what a run's holds
from sbt.sweep.choose import time_ticks
from sbt.sweep.fit import fit, peak_memory, process_memory
from sbt.sweep.plan import Cohort
from sbt.sweep.prepare import prepare
from sbt.sweep.problem import Parts


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
      compile_seconds: measured.
      seconds: expected training time, from a short run.
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


def preview(
    config: ConfigDict, note: Callable[[str], None] = lambda text: None
) -> list[CohortPreview]:
    """Plans, compiles and times every cohort for a moment; trains nothing.

    Args:
      config: as for ``sbt.run``.
      note: is told what goes on.

    Raises:
      UserError: what ``sbt.run`` would refuse.
    """
    sweep = prepare(config, Parts())
    on_cpu = jax.default_backend() == "cpu"
    previews = []
    for number, cohort in enumerate(sweep.cohorts):
        sizes = tuple(sorted(set(cohort.batch_sizes)))
        named = ", ".join(map(str, sizes))
        note(f"cohort {number + 1} of {len(sweep.cohorts)}: m = {named}, {len(cohort.runs)} runs")
        fitted = fit(
            sweep.builder.problem(cohort.config, cohort.synchronous), cohort, runs=len(cohort.runs)
        )
        engine = fitted.engine
        before = process_memory() if on_cpu else 0
        passes = -(-len(cohort.runs) // engine.lanes)
        held = sum(leaf.nbytes for leaf in jax.tree.leaves(fitted.arrays)) if on_cpu else 0
        program = engine.bytes_per_device * (fitted.devices if on_cpu else 1)
        with contextlib.closing(engine):
            seconds = time_ticks(engine, cohort) * cohort.ticks * passes
        previews.append(
            CohortPreview(
                runs=len(cohort.runs),
                batch_sizes=sizes,
                micro_batch=cohort.micro_batch,
                static=_static(cohort),
                parameters=cohort.facts.parameters,
                strategy=str(engine.strategy),
                passes=passes,
                lanes=engine.lanes,
                bytes_per_device=engine.bytes_per_device,
                process_bytes=max(peak_memory(), before + program - fitted.devices * held)
                if on_cpu
                else program,
                compile_seconds=engine.compile_seconds,
                seconds=seconds,
            )
        )
    return previews


def _static(cohort: Cohort) -> str:
    varied = ("batch_size", "base_lr", "seed")
    first = cohort.runs[0].settings.items()
    return ", ".join(f"{path}={value}" for path, value in first if path not in varied)
