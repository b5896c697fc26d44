"""``sbt bench``: times every setting in turn, again and again, and writes what it found."""

import contextlib
import dataclasses
import functools
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sbt.bench.figure import draw
from sbt.bench.lanes import make_task, prepared, sbt_workload
from sbt.bench.measurements import measuring_workload
from sbt.bench.options import Options, missing, options_of, settings
from sbt.bench.record import Facts, Record, Scaling, describe_machine, write_record
from sbt.bench.tables import ceiling_line, markdown, rich_table, sentences, skipped
from sbt.bench.workload import (
    NETWORKS,
    NO_TIME,
    OURS,
    SBT,
    SHARED,
    Cell,
    Measuring,
    Setting,
    Skip,
    Workload,
    calibrate,
    microseconds,
)
from sbt.errors import first_line
from sbt.files import write_text
from sbt.parallel.ceilings import measure_ceilings
from sbt.parallel.mesh import prepare_devices
from sbt.sweep.fit import peak_memory


def main(arguments: Namespace, console: Console) -> int:
    """Runs the command; returns its exit code."""
    prepare_devices()
    options = options_of(arguments, jax.default_backend(), jax.device_count())
    show = Show(console)
    with show.bar:
        record = run_bench(options, arguments.command, show)
    console.print(rich_table(record))
    for line in (ceiling_line(record), *sentences(record)):
        console.print(line, highlight=False, soft_wrap=True)
    without = skipped(record)
    if without:
        console.print(f"{len(without)} settings skipped, for example {without[0]}", soft_wrap=True)
    names = ("bench.json", "bench.md", *["bench.png"] * bool(record.cells))
    console.print(f"results: {', '.join(str(options.out / name) for name in names)}")
    return 0


class Show:
    """Says what goes on; a bar on a terminal, lines elsewhere."""

    def __init__(self, console: Console):
        columns = (BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn(),
                   TextColumn("{task.description}"))  # fmt: skip
        self._console = console
        self.bar = Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        )
        self._task = self.bar.add_task("", total=None)

    def phase(self, text: str, total: int) -> None:
        """A new part of the work begins."""
        self._console.print(text, highlight=False, markup=False)
        self.bar.reset(self._task, total=total, description="")

    def step(self, text: str) -> None:
        """One unit of the present part begins."""
        self.bar.update(self._task, advance=1, description=text)
        if self.bar.disable:
            self._console.print(f"  {text}", highlight=False, markup=False, soft_wrap=True)


@contextlib.contextmanager
def _compiling_anew() -> Iterator[None]:
    """Programs are compiled, not read from an earlier run's cache: their times are reported."""
    before = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def run_bench(options: Options, command: str, show: Show) -> Record:
    """Times everything that the options name; writes after every round.

    Settings are compiled first, then timed round robin, so that a drift of the machine's speed
    hits all of them alike. Ctrl-C ends the timing; what is known by then is reported. Where time is
    short, every network has its share of it for compiling.
    """
    began = time.monotonic()
    compiled, until = began + 40 * options.minutes, began + 60 * options.minutes
    environment = describe_machine()
    with _compiling_anew():
        show.phase("measuring the ceilings", 1)
        record = Record(
            command=command,
            environment=environment,
            networks={name: _facts(name, options) for name in options.models},
            ceilings=measure_ceilings(options.precisions),
        )
        cells: list[Cell] = []
        try:
            workloads, cells = _compile(options, show, compiled)
            record = dataclasses.replace(record.holding(cells), complete=False)
            for number in range(options.repeats):
                show.phase(f"round {number + 1} of {options.repeats}", len(workloads))
                cells = _round(cells, workloads, show, until)
                record = record.holding(cells)
                _write(record, options)
            in_time = time.monotonic() < until
            record = dataclasses.replace(record, complete=in_time)
            if options.scaling and in_time:
                show.phase("scaling", len(EXTENTS))
                record = dataclasses.replace(record, scaling=measure_scaling(options, show))
        except KeyboardInterrupt:
            if not any(cell.microseconds for cell in cells):
                raise
            show.phase("interrupted: reporting what is known", 1)
            record = dataclasses.replace(record, complete=False)
    record = dataclasses.replace(record, peak_bytes=peak_memory())
    _write(record, options)
    return record


def _facts(name: str, options: Options) -> Facts:
    network = NETWORKS[name]
    setting = Setting(name, SBT, max(network.least, 8), 1, "auto", options.precisions[0])
    placed = prepared(setting)
    cohort = placed.cohort
    stored = placed.problem.dataset.train["x"]
    example_bytes = int(np.prod(stored.shape[1:])) * stored.dtype.itemsize
    return Facts(cohort.facts.parameters, cohort.facts.flops, example_bytes)


def _compile(options: Options, show: Show, until: float) -> tuple[dict[int, Workload], list[Cell]]:
    """A workload for every setting that can be timed, and a cell for every setting."""
    began, networks = time.monotonic(), options.models
    # What one network leaves of its time goes to the next.
    ends = {n: began + (until - began) * (i + 1) / len(networks) for i, n in enumerate(networks)}
    every = list(settings(options))
    show.phase(f"compiling {len(every)} settings", len(every))
    workloads: dict[int, Workload] = {}
    cells: list[Cell] = []
    known: set[Setting | Measuring] = set()
    # Without its lanes -> the fewest lanes that were too many.
    too_much: dict[Setting | Measuring, int] = {}
    for setting in every:
        if time.monotonic() > ends[setting.network]:
            cells.append(Cell(setting, skipped=NO_TIME))
            continue
        show.step(str(setting))
        family = dataclasses.replace(setting, lanes=0)
        try:
            if setting.lanes >= too_much.get(family, sys.maxsize):
                raise Skip(f"{too_much[family]} lanes were too many")
            workload = _workload(setting, options, known)
            if workload is None:
                continue  # `auto` and what it stands for were both asked for
            cell = workload.cell
            known.add(cell.setting)
            if (cell.compile_seconds or 0.0) > options.cell_seconds:
                raise Skip(f"compiled for {cell.compile_seconds:.0f} s")
            updates = calibrate(workload, options.seconds, options.longest_window)
        except Skip as reason:
            too_much.setdefault(family, setting.lanes)
            cells.append(Cell(setting, skipped=str(reason)))
        except Exception as error:  # out of memory, or what a peer or a device's compiler lacks
            too_much.setdefault(family, setting.lanes)
            said = f"{type(error).__name__}: {first_line(error)[:160]}"
            cells.append(Cell(setting, skipped=said))
        else:
            workloads[len(cells)] = workload
            cells.append(dataclasses.replace(cell, updates=updates))
    return workloads, cells


def _workload(setting: Setting | Measuring, options: Options, known: set[Any]) -> Workload | None:
    if isinstance(setting, Measuring):
        return _measuring(setting, options, known)
    least, devices = NETWORKS[setting.network].least, jax.device_count()
    apart = devices if setting.method == SHARED else 1
    if setting.batch_size < least * apart:
        raise Skip(f"batch norm of dense layers needs {least} examples" + " each" * (apart > 1))
    if setting.method in OURS and setting.method != SBT and setting.batch_size % devices:
        raise Skip(f"{devices} devices cannot share {setting.batch_size} examples evenly")
    if setting.method in OURS:
        return sbt_workload(setting, known=known)
    task: Any = make_task(setting)
    if setting.method in ("flax", "flax_scan"):
        from sbt.bench.flax_peer import flax_workload

        return flax_workload(task, scanned=setting.method == "flax_scan")
    from sbt.bench.torch_peer import torch_func_workload, torch_workload

    if setting.method == "torch_func":
        return torch_func_workload(task, options.longest_window)
    return torch_workload(task, options.longest_window, setting.method == "torch_compile")


def _measuring(setting: Measuring, options: Options, known: set[Any]) -> Workload | None:
    count = max(options.lanes)
    if setting.method == SBT:
        return measuring_workload(setting, count, known)
    if package := missing(setting.method):
        raise Skip(f"needs {package}, which is not installed")
    from sbt.bench.torch_measures import torch_measuring

    return torch_measuring(setting, count, options.longest_window)


def _round(
    cells: Sequence[Cell], workloads: dict[int, Workload], show: Show, until: float
) -> list[Cell]:
    """One more time for every cell, while there is time."""
    after = list(cells)
    for number, workload in workloads.items():
        cell = after[number]
        if cell.skipped or time.monotonic() > until:
            continue
        show.step(str(cell.setting))
        try:
            found = microseconds(workload, cell.updates)
        except (Skip, RuntimeError) as reason:
            said = first_line(reason)[:160]
            after[number] = dataclasses.replace(cell, microseconds=(), skipped=said)
        else:
            after[number] = dataclasses.replace(cell, microseconds=(*cell.microseconds, found))
    return after


def _write(record: Record, options: Options) -> None:
    write_record(record, options.out / "bench.json")
    write_text(options.out / "bench.md", markdown(record))
    if record.cells:
        draw(record).save(options.out, kinds=("png",))


# --- scaling -------------------------------------------------------------------------------------

EXTENTS = {
    "lanes": (2, 6, 20, 60, 200),
    "examples": (128, 384, 1280, 3840, 12800),
    "epochs": (1, 3, 10, 30, 100),
}
_STILL = {"lanes": 16, "examples": 128, "epochs": 1}  # the axes that do not grow


def measure_scaling(options: Options, show: Show) -> tuple[Scaling, ...]:
    """Whether the cost of a training is linear in lanes, examples and epochs, over two decades.

    Trains whole runs of growing extent, interleaved; compilation is left out. First model and
    precision, the batch size nearest to 8.
    """
    m = min(options.batch_sizes, key=lambda m: abs(m - 8))
    setting = Setting(options.models[0], SBT, m, _STILL["lanes"], "auto", options.precisions[0])
    compile = functools.cache(sbt_workload)  # epochs share a program
    results = []
    for axis, values in EXTENTS.items():
        show.step(f"scaling: {axis} {', '.join(map(str, values))}")
        runs: list[tuple[Any, int]] = []
        for value in values:
            size = _STILL | {axis: value}
            workload = compile(dataclasses.replace(setting, lanes=size["lanes"]), size["examples"])
            runs.append((workload, size["examples"] * size["epochs"] // m))
        rounds = [[_seconds(*run) for run in runs] for _ in range(options.repeats)]
        seconds = tuple(np.median(rounds, axis=0).tolist())
        slope = float(np.polyfit(np.log(values), np.log(seconds), 1)[0])
        results.append(Scaling(axis, setting, values, seconds, slope))
    return tuple(results)


def _seconds(workload: Workload, updates: int) -> float:
    return 1e-6 * microseconds(workload, updates) * updates * workload.cell.setting.work
