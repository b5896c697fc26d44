"""What to time: the options of ``sbt bench``, checked before anything compiles."""

import argparse
import dataclasses
import functools
import importlib.util
import itertools
import math
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from sbt.bench.workload import COMMAND_BUFFERS, NETWORKS, SBT, SHARED, SYNCHRONOUS, Setting
from sbt.errors import UserError, did_you_mean
from sbt.files import directory_of

NEED_TORCH = ("torch", "torch_compile", "torch_func")
NEED_DEVICES = (SHARED, SYNCHRONOUS)
PEERS = ("flax", "flax_scan", *NEED_TORCH, *NEED_DEVICES)
PRECISIONS = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Options:
    """What to time and for how long.

    Attributes:
      models: keys of :data:`sbt.bench.workload.NETWORKS`.
      micro_batches: g = m.
      lanes: runs at a time, of sbt and ``torch_func``.
      strategies: how sbt executes lanes: ``auto``, ``vmap/im2col``, ``map/packed``, ...
      precisions: of :data:`PRECISIONS`.
      peers: of :data:`PEERS`.
      seconds: length of a timed window.
      repeats: windows of every setting, interleaved.
      cell_seconds: a setting that compiles longer than this, or whose repeats would take longer,
        is skipped.
      out: directory of the results.
      scaling: whether to measure how cost grows with lanes, examples and epochs, too.
      command_buffers: of :data:`sbt.bench.workload.COMMAND_BUFFERS`, on NVIDIA GPUs.
      minutes: in which all of it ends, two thirds for compiling: what is left then is skipped.
    """

    models: tuple[str, ...]
    micro_batches: tuple[int, ...]
    lanes: tuple[int, ...]
    strategies: tuple[str, ...]
    precisions: tuple[str, ...]
    peers: tuple[str, ...]
    seconds: float
    repeats: int
    cell_seconds: float
    out: Path
    scaling: bool
    command_buffers: tuple[str, ...]
    minutes: float

    @property
    def longest_window(self) -> float:
        """Seconds that one window may take, so that all of a setting fit ``cell_seconds``."""
        return self.cell_seconds / (self.repeats + 1)


_USUAL: dict[str, Any] = {
    "models": ("convnet", "alexnet", "resnet8", "resnet8-bn", "f1", "gpt"),
    "micro_batches": (1, 2, 4, 8, 16, 32, 128),
    "lanes": (1, 16, 64),
    "strategies": ("auto",),
    "precisions": ("float32",),
    "command_buffers": ("usual",),
    "peers": PEERS,
    "seconds": 1.0,
    "repeats": 5,
    "cell_seconds": 120.0,
    "out": "runs/bench",
    "minutes": math.inf,
}
_ON_ACCELERATOR = {
    "models": ("convnet", "alexnet", "resnet8", "resnet8-bn", "resnet32-bn", "f1", "gpt"),
    "lanes": (1, 16, 256),
    "strategies": ("auto", "vmap/stock", "map/stock"),
}
_QUICK = {
    "models": ("convnet", "alexnet"),
    "micro_batches": (2, 32),
    "lanes": (16,),
    "strategies": ("auto",),
    "peers": ("flax", "torch"),
    "seconds": 0.25,
    "repeats": 2,
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``sbt bench``; what is left out suits the machine (:func:`options_of`)."""

    def add(name: str, about: str, read: Callable[[str, str], Any], value: str) -> None:
        reader = functools.partial(read, f"--{name}")
        parser.add_argument(f"--{name}", metavar=value, help=about, type=reader)

    names, networks = "NAME,NAME", tuple(NETWORKS)
    add("models", f"networks, or all: {', '.join(networks)}", _one_of(networks), names)
    about = "g, examples per gradient; peers train at batch size m = g"
    add("micro_batches", about, _whole_numbers, "N,N")
    add("lanes", "runs at a time", _whole_numbers, "N,N")
    about = "how sbt executes lanes: auto, vmap, map or map:COUNT, optionally with "
    about += "/packed, /direct, /im2col, /implicit or /stock; all: what is worth comparing here"
    add("strategies", about, _strategies, names)
    add("precisions", f"arithmetic: {', '.join(PRECISIONS)}", _one_of(PRECISIONS), names)
    about = f"of {', '.join(PEERS)}; all; none; {SHARED}: all devices share each batch of a run, "
    about += "with batch statistics of a device's part, or of all of it (_sync)"
    add("peers", about, _one_of(PEERS, none=True), names)
    about = f"what CUDA graphs record: {', '.join(COMMAND_BUFFERS)}; or all"
    add("command_buffers", about, _one_of(COMMAND_BUFFERS), names)
    add("seconds", "length of a timed window", _positive, "S")
    about = "skip what compiles longer or whose windows would take longer; else 120"
    add("cell_seconds", about, _positive, "S")
    about = "end within so many, two thirds for compiling; what is left is skipped"
    add("minutes", about, _positive, "M")
    parser.add_argument("--repeats", metavar="N", help="windows per setting, interleaved",
                        type=lambda text: int(_positive("--repeats", text)))  # fmt: skip
    parser.add_argument("--out", metavar="DIR", help="directory of the results; else runs/bench")
    parser.add_argument("--quick", action="store_true", help="a minute or two on two cores")
    about = "also: is cost linear in lanes, examples, epochs? (first model)"
    parser.add_argument("--scaling", action="store_true", help=about)


def options_of(given: argparse.Namespace, platform: str, devices: int = 1) -> Options:
    """What to time on so many devices of a platform: what is given, and what suits it otherwise.

    Raises:
      UserError: a peer that is not installed, or that one device is not enough for.
    """
    chosen = _USUAL | ({} if platform == "cpu" else _ON_ACCELERATOR)
    chosen |= _QUICK if given.quick else {}
    chosen |= {name: value for name, value in vars(given).items() if value is not None}
    if importlib.util.find_spec("torch") is None:
        needy = [peer for peer in chosen["peers"] if peer in NEED_TORCH]
        if needy and given.peers is not None:
            remedy = "pip install 'small-batch-training[bench]', or leave it out"
            problem = "needs PyTorch, which is not installed"
            raise UserError(f"--peers={needy[0]}", problem, remedy)
        chosen["peers"] = tuple(peer for peer in chosen["peers"] if peer not in needy)
    if platform != "gpu" and chosen["command_buffers"] != ("usual",):
        problem = f"are CUDA's, and this is a {platform}"
        raise UserError("--command_buffers", problem, "leave it out")
    if devices == 1:
        shared = [peer for peer in chosen["peers"] if peer in NEED_DEVICES]
        if shared and given.peers not in (None, PEERS):
            remedy = "leave it out, or set JAX_NUM_CPU_DEVICES on CPU"
            raise UserError(f"--peers={shared[0]}", "needs several devices; here is one", remedy)
        chosen["peers"] = tuple(peer for peer in chosen["peers"] if peer not in shared)
    if chosen["strategies"] == ("all",):
        from sbt.sweep.strategy import candidates

        chosen["strategies"] = ("auto", *map(str, candidates(platform)))
    chosen["out"] = directory_of(chosen["out"], "--out")
    return Options(**{field.name: chosen[field.name] for field in dataclasses.fields(Options)})


def _parts(option: str, text: str, example: str) -> tuple[str, ...]:
    parts = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not parts:
        raise UserError(option, "is empty", f"choose of {example}")
    return parts


def _one_of(known: Collection[str], none: bool = False) -> Callable[[str, str], tuple[str, ...]]:
    """Reads names; ``all`` stands for all that are known, ``none`` for none where that will do."""

    def read(option: str, text: str) -> tuple[str, ...]:
        names = _parts(option, text, ", ".join(known))
        if names == ("all",) or (none and names == ("none",)):
            return tuple(known) if names == ("all",) else ()
        for name in names:
            if name not in known:
                remedy = f"{did_you_mean(name, known)}known: {', '.join(known)}"
                raise UserError(f"{option}={name}", "is unknown", remedy)
        return names

    return read


def _whole_numbers(option: str, text: str) -> tuple[int, ...]:
    numbers = _parts(option, text, "whole numbers, 1,16")
    for number in numbers:
        if not number.isdecimal() or int(number) < 1:
            raise UserError(f"{option}={number}", "is no positive integer", f"write {option}=1,16")
    return tuple(sorted(set(map(int, numbers))))


def _positive(option: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise UserError(f"{option}={text}", "is not a number", "see sbt bench --help") from None
    if not number > 0:
        raise UserError(f"{option}={text}", "is not positive", "give a number above 0")
    return number


def _strategies(option: str, text: str) -> tuple[str, ...]:
    from sbt.nn.conv import IMPLEMENTATIONS

    strategies = _parts(option, text, "auto, vmap, map; or all")
    for strategy in strategies if strategies != ("all",) else ():
        lanes, slash, convolution = strategy.partition("/")
        head, colon, count = lanes.partition(":")
        sound = head in ("auto", "vmap", "map")
        if colon:
            sound = head == "map" and count.isdecimal() and int(count) >= 1
        if not sound or (slash and convolution not in IMPLEMENTATIONS):
            remedy = "use auto, vmap, map or map:16, optionally with "
            remedy += ", ".join(f"/{name}" for name in IMPLEMENTATIONS) + "; or all"
            raise UserError(f"{option}={strategy}", "is no strategy", remedy)
    return strategies


def settings(options: Options) -> Iterator[Setting]:
    """Every setting asked for: per network and micro-batch, sbt first, fewest lanes first."""
    for network in options.models:
        for precision in options.precisions:
            for g in options.micro_batches:
                for strategy in options.strategies:
                    for lanes, buffers in itertools.product(options.lanes, options.command_buffers):
                        yield Setting(network, SBT, g, lanes, strategy, precision, buffers)
                for peer in options.peers:
                    if peer == SYNCHRONOUS and not NETWORKS[network].batch_norm:
                        continue  # the same as without
                    for lanes in options.lanes if peer == "torch_func" else (1,):
                        yield Setting(network, peer, g, lanes, "", precision)
