"""How fast one run trains by itself on this machine, at every batch size of a sweep.

A run that has a machine to itself would tick on other examples than it does among lanes: the
micro-batch that all batch sizes of a program share is often small. So each is timed with the
program that a sweep of it alone would have. Batch sizes that tick alike share one.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from sbt import config as configs
from sbt import fingerprint
from sbt import workdir as directories
from sbt.data import Dataset
from sbt.errors import UserError
from sbt.optim import foreign
from sbt.results import coordinate
from sbt.sweep.arrangement import machine_of
from sbt.sweep.cohort import ACCELERATOR_CAP, Cohort, largest_divisor, make_cohort, make_cohorts
from sbt.sweep.engine import make_engine
from sbt.sweep.fit import choose_strategy, time_ticks
from sbt.sweep.grid import Grid, Run, shared, traced_paths
from sbt.sweep.prepare import Sweep, prepare
from sbt.sweep.problem import Parts
from sbt.tasks.base import PerExample

KEY = "alone"  # of meta.json
REPEATS = 3


def time_alone(
    directory: Path,
    points: Sequence[Mapping[str, Any]],
    *,
    module: Any = None,
    dataset: Dataset | None = None,
    rule: foreign.MakeRule | None = None,
    loss: PerExample | None = None,
    metrics: Mapping[str, Any] | None = None,
    schedule: Any = None,
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Times one run at each of these points for about a second, unless that is kept already.

    Training only: evaluations and compiling are not counted.

    Args:
      directory: work directory of a sweep. What is found is kept in its ``meta.json``.
      points: a value for every axis but the seed.
      module: as for ``sbt.run``.
      dataset: as for ``sbt.run``.
      rule: as for ``sbt.run``.
      loss: as for ``sbt.run``.
      metrics: as for ``sbt.run``.
      schedule: as for ``sbt.run``.
      note: is told what goes on.

    Returns:
      The meta data of the directory; under ``alone`` the ``device`` in words, and a list of
      ``runs``: ``batch_size``, ``fixed`` (by axis, what else makes the program), ``micro_batch``
      and ``examples_per_s``.

    Raises:
      UserError: what ``sbt.run`` would refuse; or the sweep has parts of its own, which are not
        given.
    """
    stored = directories.stored_config(directory)
    if stored is None:
        raise UserError(str(directory), "holds no sweep (config.json)", "run one: sbt run ...")
    with foreign.known(rule):
        before = directories.read(directory).parts() or {}
        parts = Parts(module, dataset, rule, loss, metrics, schedule)
        if missing := [
            name for name in fingerprint.own_parts(before) if getattr(parts, name) is None
        ]:
            problem = f"its {missing[0]} is no part of its config"
            raise UserError(str(directory), problem, "name the experiment: --experiment FILE")
        sweep = prepare(stored, parts)
        meta = directories.read_meta(directory, note)
        machine = machine_of(sweep.mesh)
        found = dict(meta.get(KEY, {}))
        if found.get("machine") != machine:
            found = {"machine": machine, "device": _device(machine), "runs": []}
        known = {_key(one) for one in found["runs"]}
        wanted: dict[str, tuple[dict[str, Any], Run]] = {}
        for point in points:
            run = _run_at(sweep.grid, point)
            one = {"batch_size": int(point["batch_size"]), "fixed": _fixed(sweep.grid, run)}
            if _key(one) not in known:
                wanted.setdefault(_key(one), (one, run))
        for cohort, members in _programs(sweep, [run for _, run in wanted.values()]):
            rates = _rates(sweep, cohort, note)
            for rate, member in zip(rates, members, strict=True):
                one = list(wanted.values())[member][0]
                timed = {**one, "micro_batch": cohort.micro_batch, "examples_per_s": rate}
                found["runs"] = [*found["runs"], timed]
    if wanted:
        with contextlib.suppress(UserError, OSError), directories.locked(directory, None):
            directories.write_meta(
                directory, directories.read_meta(directory, note) | {KEY: found}
            )  # a directory that cannot be written keeps nothing
    return meta | {KEY: found}


def _device(machine: Mapping[str, Any]) -> str:
    """In words; a run takes one row of devices."""
    own, of = machine["devices"] // machine["rows_of_lanes"], machine["devices"]
    return f"{own} of {of} × {machine['device_kind']}" if of > 1 else str(machine["device_kind"])


def _key(one: Mapping[str, Any]) -> str:
    return json.dumps([one["batch_size"], one["fixed"]], sort_keys=True)


def _run_at(grid: Grid, point: Mapping[str, Any]) -> Run:
    """The first run there; values are those of the results' coordinates."""
    at = {
        i: coordinate(values).tolist().index(point[axis])
        for i, (axis, values) in enumerate(grid.axes.items())
        if axis in point
    }
    return next(run for run in grid.runs if all(run.index[i] == p for i, p in at.items()))


def _fixed(grid: Grid, run: Run) -> dict[str, Any]:
    """By axis, what makes the program of a run another one, besides its batch size."""
    traced = traced_paths(grid.config_of(run)) - {"case"}
    return {a: v for a, v in shared(grid, [run]).items() if grid.paths[a] not in traced}


def _programs(sweep: Sweep, runs: Sequence[Run]) -> list[tuple[Cohort, list[int]]]:
    """The cohorts of runs that are alone, those of one program together."""
    on_cpu = jax.default_backend() == "cpu"
    groups: dict[Any, tuple[Cohort, list[int]]] = {}
    for number, run in enumerate(runs):
        grid = dataclasses.replace(sweep.grid, runs=(run,))
        (cohort,) = make_cohorts(grid, sweep.builder.facts)
        whole = cohort.examples_per_tick == cohort.batch_sizes[0]
        if not (on_cpu or whole or cohort.config.micro_batch or cohort.facts.batch_statistics):
            # Nothing else fills the device.
            part = cohort.batch_sizes[0] // cohort.sharding.devices
            g = largest_divisor(part, ACCELERATOR_CAP)
            cohort = dataclasses.replace(
                cohort, micro_batch=g, examples_per_tick=g * cohort.sharding.devices
            )
        ticks = (cohort.micro_batch, cohort.examples_per_tick, cohort.synchronous)
        key = (configs.to_json(cohort.config), ticks)
        groups.setdefault(key, (cohort, []))[1].append(number)
    found = []
    for first, members in groups.values():
        cohort = make_cohort(
            first.config, first.facts, [runs[i] for i in members], first.micro_batch,
            first.examples_per_tick, synchronous=first.synchronous,
        )  # fmt: skip
        found.append((cohort, members))
    return found


def _rates(sweep: Sweep, cohort: Cohort, note: Callable[[str], None]) -> list[float]:
    """Examples a second of each run of a cohort, one at a time."""
    named = ", ".join(map(str, cohort.batch_sizes))
    note(f"one run by itself, m = {named}: compiling")
    placed = dataclasses.replace(sweep, start=None).place(cohort)
    engine = make_engine(placed, placed.rows, choose_strategy(placed, placed.rows))
    rates = []
    with contextlib.closing(engine):
        for member, m in enumerate(cohort.batch_sizes):
            # The shortest is the least disturbed by what else the machine does.
            rate = cohort.tick / min(time_ticks(engine, [member]) for _ in range(REPEATS))
            note(f"  m = {m}: {rate:,.0f} examples/s")
            rates.append(rate)
    return rates
