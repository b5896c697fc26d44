"""Which runs of a work directory share a program, and which program: chosen once, and then kept.

What a run computes is bit for bit what its program computes: the strategy, the lanes and the
devices decide how sums are rounded. Lanes follow the memory that happens to be free, and cohorts
the runs that a grid has, so both are written down (in ``cohorts.json``) before a cohort trains. A
sweep that goes on after an interruption finds them there, and so does one whose grid was extended
meanwhile: the runs that were there before keep their cohorts, the new ones make cohorts of their
own.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jaxlib
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sbt import config as configs
from sbt import workdir
from sbt.parallel import hosts
from sbt.parallel.mesh import LANE_AXIS, kind_of
from sbt.sweep.cohort import Cohort, ModelFacts, make_cohort, make_cohorts
from sbt.sweep.extend import finder, settings_of
from sbt.sweep.grid import Grid, Run, by_static_settings, with_settings

GROUPING = ("micro_batch", "examples_per_tick", "synchronous")

STRUCTURE = ("platform", "rows_of_lanes", "devices")  # that a program is made for

Label = Mapping[str, Any]  # a run's settings, as JSON, under the config that first had it


@dataclasses.dataclass(frozen=True)
class Setup:
    """How the program of a cohort was compiled.

    Attributes:
      strategy: as :class:`sbt.sweep.strategy.Strategy` names itself.
      lanes: of the program.
      asked: what the config's ``engine`` section said about the two.
      machine: what else decides how sums are rounded, by name.
    """

    strategy: str
    lanes: int
    asked: Mapping[str, Any]
    machine: Mapping[str, Any]

    def fits(self, machine: Mapping[str, Any]) -> bool:
        """Whether the same program can be compiled on another machine."""
        return all(self.machine[name] == machine[name] for name in STRUCTURE)

    def unlike(self, machine: Mapping[str, Any]) -> str:
        """What tells a machine from the one that the cohort began on, in words; or nothing."""
        return ", ".join(
            f"{name.replace('_', ' ')} {self.machine[name]} before, {machine[name]} now"
            for name in machine
            if self.machine[name] != machine[name]
        )


def asked_of(config: ConfigDict) -> dict[str, Any]:
    """What a config says about strategy and lanes."""
    return {name: config.engine[name] for name in ("strategy", "convolution", "lanes")}


def machine_of(mesh: Mesh) -> dict[str, Any]:
    """What decides how sums are rounded, besides the program."""
    device = mesh.devices.flat[0]
    return {
        "platform": device.platform,
        "device_kind": kind_of(device),
        "rows_of_lanes": mesh.shape[LANE_AXIS],
        "devices": mesh.size,
        "processes": jax.process_count(),
        "jaxlib": jaxlib.__version__,
    }


@dataclasses.dataclass
class Arrangement:
    """The cohorts of a sweep, in the order in which they train.

    Attributes:
      cohorts: of all stages, one after another.
      labels: of each cohort, the label of each of its runs.
      stages: contents of the file: a config (that of the first call, or one that extended it) with
        the cohorts of the runs that it brought.
      directory: of the file; None: nothing is written.
    """

    cohorts: tuple[Cohort, ...]
    labels: tuple[Sequence[Label], ...]
    stages: list[dict[str, Any]]
    directory: Path | None = None

    def setup(self, number: int) -> Setup | None:
        """The program that a cohort was compiled to when it began; None: it has not begun."""
        kept = self._entry(number)["program"]
        return None if kept is None else Setup(**kept)

    def keep(self, number: int, setup: Setup) -> None:
        """Writes down the program of a cohort, before it trains."""
        self._entry(number)["program"] = dataclasses.asdict(setup)
        self.write()

    def write(self) -> None:
        """To disk, where that is wanted."""
        if self.directory is not None and hosts.writes():
            workdir.write_cohorts(self.directory, self.stages)

    def _entry(self, number: int) -> dict[str, Any]:
        return [entry for stage in self.stages for entry in stage["cohorts"]][number]


def arrange(
    grid: Grid,
    facts_of: Callable[[ConfigDict], ModelFacts],
    directory: Path | None = None,
    *,
    one_micro_batch: bool = False,
    note: Callable[[str], None] = print,
) -> Arrangement:
    """Cohorts of a grid: those that a directory keeps, and new ones for runs that it does not know.

    Where another number of devices shares every batch the runs of a stage are grouped anew, because
    a tick then takes other examples.

    Args:
      grid: the runs.
      facts_of: as for :func:`sbt.sweep.cohort.make_cohorts`.
      directory: work directory; None: keeps nothing.
      one_micro_batch: as for :func:`sbt.sweep.cohort.make_cohorts`.
      note: told, in one line, that the file is damaged.
    """
    kept = workdir.read_cohorts(directory, note) if directory and hosts.writes() else []
    stages = [
        stage
        for stage in hosts.json_of_first(kept)
        if any(entry["program"] for entry in stage["cohorts"])  # or nothing of it ever trained
    ]
    static = {
        run.index: dict(settings)
        for settings, runs in by_static_settings(grid).items()
        for run in runs
    }
    group = functools.partial(make_cohorts, facts_of=facts_of, one_micro_batch=one_micro_batch)
    made: list[tuple[Cohort, list[Label]]] = []
    known: dict[tuple[int, ...], Label] = {}
    for number, stage in enumerate(stages):
        earlier = configs.of_json(stage["config"])
        find = finder(grid, earlier)
        own: list[tuple[Cohort, list[Label]]] = []
        of_stage: dict[tuple[int, ...], Label] = {}
        for entry in stage["cohorts"]:
            runs = [found for label in entry["runs"] if (found := find(settings_of(label)))]
            of_stage |= {run.index: label for run, label in zip(runs, entry["runs"], strict=True)}
            config = with_settings(grid.config, static[runs[0].index])
            g, examples_per_tick, synchronous = (entry[name] for name in GROUPING)
            facts = facts_of(config)
            cohort = make_cohort(config, facts, runs, g, examples_per_tick, synchronous=synchronous)
            own.append((cohort, entry["runs"]))
        if earlier.parallel.data != grid.config.parallel.data:
            runs = [run for run in grid.runs if run.index in of_stage]
            again = group(dataclasses.replace(grid, runs=tuple(runs)))
            own = [(cohort, [of_stage[run.index] for run in cohort.runs]) for cohort in again]
            stages[number] = _stage(grid.config, own)
        made += own
        known |= of_stage
    rest = tuple(run for run in grid.runs if run.index not in known)
    if rest:
        cohorts = group(dataclasses.replace(grid, runs=rest))
        new = [(cohort, [_label(run) for run in cohort.runs]) for cohort in cohorts]
        stages.append(_stage(grid.config, new))
        made += new
    return Arrangement(
        tuple(cohort for cohort, _ in made), tuple(labels for _, labels in made), stages, directory
    )


def places_of(grid: Grid, directory: Path) -> dict[str, tuple[int, ...]]:
    """Grid position of the runs that a directory keeps, by :func:`name_of` their label."""
    found: dict[str, tuple[int, ...]] = {}
    runs = [_label(run) for run in grid.runs]
    own = {"config": configs.as_json(grid.config), "cohorts": [{"runs": runs}]}
    for stage in (*workdir.read_cohorts(directory), own):
        find = finder(grid, configs.of_json(stage["config"]))
        for entry in stage["cohorts"]:
            for label in entry["runs"]:
                if run := find(settings_of(label)):
                    found.setdefault(name_of(label), run.index)
    return found


def name_of(label: Label) -> str:
    """A file name for a run, the same however runs are grouped and whatever else is swept."""
    text = json.dumps(dict(label), sort_keys=True)
    return f"run-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _label(run: Run) -> Label:
    return configs.as_json(run.settings)


def _stage(config: ConfigDict, cohorts: Sequence[tuple[Cohort, Sequence[Label]]]) -> dict[str, Any]:
    """A stage as the file has it."""
    entries = [
        {
            **dict(zip(GROUPING, (c.micro_batch, c.examples_per_tick, c.synchronous), strict=True)),
            "runs": list(labels),
            "program": None,
        }
        for c, labels in cohorts
    ]
    return {"config": configs.as_json(config), "cohorts": entries}
