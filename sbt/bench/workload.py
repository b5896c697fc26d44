"""What is timed, and how: networks, measurements, a setting, the thing to run, the clock."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

SBT = "sbt"
# All devices share each batch of one run: batch statistics are of a device's part, or of the batch.
SHARED, SYNCHRONOUS = "data_parallel", "data_parallel_sync"
OURS = (SBT, SHARED, SYNCHRONOUS)  # trained by the engine
TRAIN_SIZE = 2048
CLASSES = 10
BYTES = 256  # the vocabulary of gpt
# Which of XLA's operations CUDA graphs record, so that one start serves them all: as XLA has it,
# none, or the loops over ticks and lanes as well.
_RECORDED = "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION"
COMMAND_BUFFERS: dict[str, dict[str, Any]] = {
    "usual": {},
    "none": {"xla_gpu_enable_command_buffer": ""},
    "loops": {"xla_gpu_enable_command_buffer": f"{_RECORDED},CONDITIONAL,WHILE"},
}
SGD = {"name": "sgd", "momentum": None, "weight_decay": 1e-4}
ADAMW = {"name": "optax.adamw", "b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.1}


@dataclasses.dataclass(frozen=True)
class Network:
    """One model of the benchmark.

    Attributes:
      model: a config's ``model`` section.
      data: its ``data`` section, sizes apart.
      base_lr: largest learning rate per example of its lanes. No lane may diverge, since a frozen
        lane costs nothing where lanes run one after another: residual networks without batch norm
        start with huge logits and bear only tiny steps.
      least: smallest micro-batch it trains on.
      rule: a config's ``rule`` section: :data:`SGD` or :data:`ADAMW`.
    """

    model: Mapping[str, Any]
    data: Mapping[str, Any]
    base_lr: float
    least: int = 1
    rule: Mapping[str, Any] = dataclasses.field(default_factory=lambda: SGD)

    @property
    def batch_norm(self) -> bool:
        """Whether it has any."""
        return self.model.get("norm") == "batch"


def _images(*shape: int) -> dict[str, Any]:
    """Synthetic ones of a shape, (height, width, channels)."""
    return {"name": "synthetic", "image_shape": shape, "num_classes": CLASSES}


def _resnet(depth: int, norm: str, base_lr: float) -> Network:
    return Network({"name": f"resnet{depth}", "norm": norm}, _images(32, 32, 3), base_lr)


# Stem of a name: the network; ``-bn``: with batch norm, where its sibling has none.
NETWORKS: dict[str, Network] = {
    "convnet": Network({"name": "convnet", "norm": "none"}, _images(8, 8, 1), 2.0**-10),
    "alexnet": Network({"name": "alexnet", "norm": "none"}, _images(32, 32, 3), 2.0**-13),
    "alexnet-bn": Network(
        {"name": "alexnet", "norm": "batch"}, _images(32, 32, 3), 2.0**-11, least=2
    ),
    "resnet8": _resnet(8, "none", 2.0**-15),
    "resnet8-bn": _resnet(8, "batch", 2.0**-11),
    "resnet20": _resnet(20, "none", 2.0**-19),
    "resnet20-bn": _resnet(20, "batch", 2.0**-11),
    "resnet32": _resnet(32, "none", 2.0**-24),
    "resnet32-bn": _resnet(32, "batch", 2.0**-11),
    # One value per feature has no variance: dense layers with batch norm need two examples.
    # Measured with running statistics, as the others: with those of a batch, which are its own way,
    # a single example has no gradient.
    "f1": Network(
        {"name": "f1", "norm": "batch", "bn_eval": "running"},
        _images(28, 28, 1),
        2.0**-11,
        least=2,
    ),
    # That of the language experiments on two cores; an example is a sequence of 64 bytes.
    "gpt": Network(
        {"name": "gpt", "width": 64, "depth": 2, "heads": 2},
        {"name": "python_docs", "seq_len": 64},
        2.0**-14,
        rule=ADAMW,
    ),
}


@dataclasses.dataclass(frozen=True)
class Stack:
    """A network without branches, as the peers build it: convolutions, then dense layers.

    Attributes:
      convolutions: width, kernel and pool of each (3x3 with stride 2 and padding, 2x2 without
        padding, 0: none), followed by norm and ReLU.
      hidden: widths of the hidden dense layers, each followed by norm and ReLU.
      bias: whether these keep their bias before a batch norm.
      epsilon: of batch norm.
    """

    convolutions: tuple[tuple[int, int, int], ...] = ()
    hidden: tuple[int, ...] = ()
    bias: bool = False
    epsilon: float = 1e-5


STACKS = {
    "convnet": Stack(((8, 3, 2), (16, 3, 2))),
    "alexnet": Stack(((16, 5, 3), (48, 3, 3), (96, 3, 0), (64, 3, 0), (64, 3, 3)), (256, 256)),
    "f1": Stack(hidden=(512,) * 5, bias=True, epsilon=1e-6),
}


def stages(depth: int) -> list[tuple[int, int]]:
    """Width and stride of every block of a CIFAR ResNet with 6n + 2 layers."""
    blocks = (depth - 2) // 6
    return [(16 << s, 2 if s and not b else 1) for s in range(3) for b in range(blocks)]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What ``sbt bench --measure`` times, short enough for a hundred nets.

    Attributes:
      settings: its section of ``config.measure``.
      variable: of what it gives, the number that peers compute as well.
      about: the work of one net, in words.
    """

    settings: Mapping[str, Any]
    variable: str
    about: str


# Each a measurement of sbt.measure.MEASUREMENTS. All work of a sharpness is gradients and values
# over the data, and of an eigenvalue products: four show what forty or thirty cost.
MEASURED: dict[str, Measurement] = {
    "hessian_eigenvalues": Measurement(
        {"order": 4}, "hessian_eigenvalue", "Lanczos, 4 Hessian-vector products over the data"
    ),
    "sharpness": Measurement(
        {"epsilons": (1e-3,), "spaces": ("full",), "starts": 1, "steps": 4},
        "sharpness",
        "Keskar's box, one start in the full space: 4 gradients and 2 values over the data",
    ),
    "gradient_moments": Measurement(
        {}, "exact_noise_scale", "mean and variance of the gradients of single examples"
    ),
}

NO_TIME = "no time was left"  # why a setting was skipped, where it was for that


class Skip(Exception):
    """A setting that cannot or should not be timed here; the message says why."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One row of the benchmark.

    Attributes:
      network: key of :data:`NETWORKS`.
      method: ``sbt`` or the name of a peer.
      batch_size: m; where devices share it, each has a part.
      lanes: runs at a time; 1 where runs are trained one after another.
      strategy: of sbt's lanes (``vmap/im2col``, ``auto``, ...), empty for the rest.
      precision: ``float32`` or ``bfloat16``.
      command_buffers: of sbt, key of :data:`COMMAND_BUFFERS`.
    """

    network: str
    method: str
    batch_size: int
    lanes: int
    strategy: str
    precision: str
    command_buffers: str = "usual"

    @property
    def work(self) -> int:
        """Examples times lanes of an update."""
        return self.batch_size * self.lanes

    @property
    def manner(self) -> str:
        """Strategy, and command buffers where they are not the usual ones."""
        buffers = self.command_buffers
        return self.strategy + f", command buffers: {buffers}" * (buffers != "usual")

    def __str__(self) -> str:
        strategy = f" {self.manner}" if self.strategy else ""
        lanes = f" x {self.lanes}" if self.method in (SBT, "torch_func") else ""
        return f"{self.network} {self.method}{strategy} m={self.batch_size}{lanes}"


@dataclasses.dataclass(frozen=True)
class Measuring:
    """One row of ``sbt bench --measure``: trained nets and what is measured of them.

    Attributes:
      network: key of :data:`NETWORKS`.
      method: ``sbt`` or the name of a peer.
      measurement: key of :data:`MEASURED`.
      lanes: nets that a call measures; peers measure one after another.
      examples: that each net is measured on.
      strategy: of sbt, how many nets one operation covers (``map``, ``vmap``, ``map:16``, or
        ``auto``: what sbt takes by itself), empty for the rest.
    """

    network: str
    method: str
    measurement: str
    lanes: int
    examples: int
    strategy: str = ""

    @property
    def work(self) -> int:
        """Nets of a call."""
        return self.lanes

    def __str__(self) -> str:
        strategy = f" {self.strategy}" if self.strategy else ""
        return f"{self.network} {self.method}{strategy} {self.measurement} x {self.lanes}"


S = TypeVar("S", Setting, Measuring)


@dataclasses.dataclass(frozen=True)
class Cell(Generic[S]):
    """One setting and what came of it.

    Attributes:
      setting: with the strategy that ``auto`` stood for.
      microseconds: per example and lane, or per net that is measured; one value per repeat.
      updates: per timed window; of a measurement, calls.
      automatic: whether the engine would choose this strategy by itself.
      at_once: lanes whose weights are in use at the same time, on all devices together.
      detail: choices made for a peer (threads, memory format); of sbt, how it takes a batch, where
        not at once.
      compile_seconds: spent before the first update; None where nothing compiles.
      memory_bytes: of the program on all devices together, data included; None where not known.
      bytes_accessed: per update of one run, by XLA's count after fusion; None where not known.
      skipped: why there are no times, or an empty string.
    """

    setting: S
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


class Position(NamedTuple):
    """Where a training stands: what it carries, and the updates that are done."""

    state: Any
    updates: int


@dataclasses.dataclass(frozen=True)
class Workload:
    """A training that can be started afresh and moved on, or a measurement to be made again.

    Attributes:
      start: ``() -> position`` with fresh weights.
      advance: ``(position, updates) -> position``; returns when the updates are done. The old
        position is consumed.
      healthy: ``position -> bool``, whether every lane still trains.
      cell: what it is, with the strategy that ``auto`` stands for, and what compiling it told.
      chunk: ``updates`` must be a multiple of it.
    """

    start: Callable[[], Position]
    advance: Callable[[Position, int], Position]
    healthy: Callable[[Position], bool]
    cell: Cell
    chunk: int = 1


def calibrate(workload: Workload, seconds: float, most: float) -> int:
    """How many updates take about so many seconds.

    Args:
      workload: what to run.
      seconds: aimed at.
      most: seconds that the smallest possible window may take.

    Raises:
      Skip: it takes longer.
    """
    at, count = workload.advance(workload.start(), workload.chunk), workload.chunk
    while True:
        began = time.perf_counter()
        at = workload.advance(at, count)
        elapsed = time.perf_counter() - began
        if elapsed > most:
            raise Skip(f"{count} updates take {elapsed:.1f} s")
        # A call costs something before its first update (lanes are moved in and out), so that a
        # short one says little of a long one: grow until the window itself has been seen.
        if elapsed >= 0.8 * seconds:
            return count
        grow = min(16.0, max(1.2, seconds / max(elapsed, 1e-6)))
        count = max(count // workload.chunk + 1, round(count / workload.chunk * grow))
        count *= workload.chunk


def microseconds(workload: Workload, updates: int) -> float:
    """µs per example and lane, or per net that is measured, from one window after a warm-up.

    Raises:
      Skip: a lane diverged: it may have stopped working, so the time means nothing.
    """
    at = workload.advance(workload.start(), workload.chunk)
    began = time.perf_counter()
    at = workload.advance(at, updates)
    elapsed = time.perf_counter() - began
    if not workload.healthy(at):
        raise Skip("a lane diverged")
    return 1e6 * elapsed / (updates * workload.cell.setting.work)
