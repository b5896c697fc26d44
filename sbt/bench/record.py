"""What a benchmark leaves behind, and its JSON."""

import dataclasses
import json
import os
import platform
import statistics
from importlib import metadata
from pathlib import Path
from typing import Any

from sbt.bench.ceilings import Ceilings
from sbt.bench.workload import Setting
from sbt.errors import UserError
from sbt.files import write_json
from sbt.workdir import describe_environment

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of a network without running it.

    Attributes:
      parameters: number of weights.
      flops: per training example, by XLA's cost analysis of the gradient of one run with the stock
        convolution, before optimisation.
      example_bytes: of one stored image.
    """

    parameters: int
    flops: float
    example_bytes: int


@dataclasses.dataclass(frozen=True)
class Cell:
    """One setting and what came of it.

    Attributes:
      setting: with the strategy that ``auto`` stood for.
      microseconds: per example and lane, one value per repeat.
      updates: per timed window.
      automatic: whether the engine would choose this strategy by itself.
      at_once: lanes whose weights are in use at the same time.
      detail: choices made for a peer.
      compile_seconds: None where nothing compiles.
      memory_bytes: of the program, data included; None where not known.
      bytes_accessed: per update, by XLA's cost analysis after fusion; None where not known.
      skipped: why there are no times, or an empty string.
    """

    setting: Setting
    microseconds: tuple[float, ...] = ()
    updates: int = 0
    automatic: bool = False
    at_once: int = 1
    detail: str = ""
    compile_seconds: float | None = None
    memory_bytes: int | None = None
    bytes_accessed: float | None = None
    skipped: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.microseconds)

    @property
    def rate(self) -> float:
        """Examples times lanes per second."""
        return 1e6 / self.median


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
      cells: one per setting.
      scaling: where asked for.
      complete: False where it was interrupted.
      peak_bytes: most memory that the process held.
    """

    command: str
    environment: dict[str, Any]
    networks: dict[str, Facts]
    ceilings: Ceilings
    cells: tuple[Cell, ...]
    scaling: tuple[Scaling, ...] = ()
    complete: bool = True
    peak_bytes: int = 0

    @property
    def timed(self) -> tuple[Cell, ...]:
        return tuple(cell for cell in self.cells if cell.microseconds)


def write_record(record: Record, path: Path) -> Path:
    """Writes a record as JSON, whole at every moment."""
    return write_json(path, {"format": FORMAT, **dataclasses.asdict(record)})


def read_record(path: Path) -> Record:
    """Reads what :func:`write_record` wrote.

    Raises:
      UserError: the file is none of these.
    """
    try:
        raw = json.loads(path.read_text())
        if raw.pop("format") != FORMAT:
            raise KeyError("format")
        return Record(
            command=raw["command"],
            environment=raw["environment"],
            networks={name: Facts(**facts) for name, facts in raw["networks"].items()},
            ceilings=Ceilings(**raw["ceilings"]),
            cells=tuple(
                Cell(
                    **{
                        **cell,
                        "setting": Setting(**cell["setting"]),
                        "microseconds": tuple(cell["microseconds"]),
                    }
                )
                for cell in raw["cells"]
            ),
            scaling=tuple(
                Scaling(
                    **{
                        **line,
                        "setting": Setting(**line["setting"]),
                        "extents": tuple(line["extents"]),
                        "seconds": tuple(line["seconds"]),
                    }
                )
                for line in raw["scaling"]
            ),
            complete=raw["complete"],
            peak_bytes=raw["peak_bytes"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            str(path), f"is no benchmark record ({type(error).__name__}: {error})", "run sbt bench"
        ) from None


def describe_machine() -> dict[str, Any]:
    """Versions and hardware, and how busy the machine was at the start."""
    environment = describe_environment()
    try:
        environment["versions"]["torch"] = metadata.version("torch")
    except metadata.PackageNotFoundError:
        environment["versions"]["torch"] = None
    environment["cpu_model"] = _proc("/proc/cpuinfo", "model name") or platform.processor()
    environment["memory"] = _proc("/proc/meminfo", "MemTotal")
    environment["usable_cores"] = len(os.sched_getaffinity(0))
    environment["load_average"] = os.getloadavg()[0]
    return environment


def _proc(file: str, name: str) -> str:
    try:
        for line in Path(file).read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    except OSError:
        pass
    return ""
