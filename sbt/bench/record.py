"""What a benchmark leaves behind, and its JSON."""

import dataclasses
import os
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from sbt.bench.workload import Cell, Measuring, Setting
from sbt.files import write_json
from sbt.parallel.ceilings import Ceilings
from sbt.workdir import describe_environment, proc

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of a network without running it.

    Attributes:
      parameters: number of weights.
      flops: per training example, by XLA's cost analysis of the gradient of one run with the stock
        convolution, before optimisation.
      example_bytes: of one stored example.
    """

    parameters: int
    flops: float
    example_bytes: int


@dataclasses.dataclass(frozen=True)
class Scaling:
    """How the time of a whole training grows with one of its extents.

    Attributes:
      axis: ``lanes``, ``examples`` or ``epochs``.
      setting: what was trained.
      extents: values of the axis.
      seconds: one per extent, compilation left out.
      slope: of log seconds over log extent (least squares); 1 is linear.
    """

    axis: str
    setting: Setting
    extents: tuple[int, ...]
    seconds: tuple[float, ...]
    slope: float


@dataclasses.dataclass(frozen=True)
class Record:
    """A whole benchmark.

    Attributes:
      command: the command line.
      environment: versions and hardware.
      networks: facts of every network.
      ceilings: measured.
      cells: one per setting that trains.
      measured: one per setting that measures trained nets.
      scaling: where asked for.
      complete: False where it was interrupted.
      peak_bytes: most memory that the process held.
    """

    command: str
    environment: dict[str, Any]
    networks: dict[str, Facts]
    ceilings: Ceilings
    cells: tuple[Cell[Setting], ...] = ()
    measured: tuple[Cell[Measuring], ...] = ()
    scaling: tuple[Scaling, ...] = ()
    complete: bool = True
    peak_bytes: int = 0

    def holding(self, cells: Sequence[Cell]) -> "Record":
        """The same with other cells, each in the field of its kind."""
        trained = tuple(cell for cell in cells if isinstance(cell.setting, Setting))
        measured = tuple(cell for cell in cells if isinstance(cell.setting, Measuring))
        return dataclasses.replace(self, cells=trained, measured=measured)

    @property
    def timed(self) -> tuple[Cell[Setting], ...]:
        """Trainings that have times."""
        return tuple(cell for cell in self.cells if cell.microseconds)


def write_record(record: Record, path: Path) -> Path:
    """Writes a record as JSON, whole at every moment."""
    return write_json(path, {"format": FORMAT, **dataclasses.asdict(record)})


def describe_machine() -> dict[str, Any]:
    """Versions and hardware, and how busy the machine was at the start."""
    environment = describe_environment()
    for name, package in (("torch", "torch"), ("curvlinops", "curvlinops-for-pytorch")):
        try:
            environment["versions"][name] = metadata.version(package)
        except metadata.PackageNotFoundError:
            environment["versions"][name] = None
    environment["memory"] = proc("/proc/meminfo", "MemTotal")
    environment["usable_cores"] = len(os.sched_getaffinity(0))
    environment["load_average"] = os.getloadavg()[0]
    return environment
