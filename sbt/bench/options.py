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

from sbt.bench.workload import (
    COMMAND_BUFFERS,
    MEASURED,
    NETWORKS,
    SBT,
    SHARED,
    SYNCHRONOUS,
    Measuring,
    Setting,
)
from sbt.errors import UserError, did_you_mean
from sbt.files import directory_of

# The packages that a peer needs: what it is called, and what is imported.
_TORCH, _CURVLINOPS = {"PyTorch": "torch"}, {"curvlinops": "curvlinops"}
NEEDS = {
    "torch": _TORCH,
    "torch_compile": _TORCH,
    "torch_func": _TORCH,
    "curvlinops": _TORCH | _CURVLINOPS,
}
NEED_DEVICES = (SHARED, SYNCHRONOUS)
PEERS = ("flax", "flax_scan", "torch", "torch_compile", "torch_func", *NEED_DEVICES)
# ... that measure trained nets, and what.
MEASURING_PEERS = {"torch": tuple(MEASURED), "curvlinops": ("hessian_eigenvalues",)}
_ANY = tuple(dict.fromkeys((*PEERS, *MEASURING_PEERS)))
PRECISIONS = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Options:
    """What to time and for how long.

    Attributes:
      models: keys of :data:`sbt.bench.workload.NETWORKS`.
      batch_sizes: m.
      lanes: runs at a time, of sbt and ``torch_func``; nets that are measured.
      strategies: how sbt executes lanes: ``auto``, ``vmap/im2col``, ``map/packed``, ...
      precisions: of :data:`PRECISIONS`.
      peers: of :data:`PEERS`, or of :data:`MEASURING_PEERS`.
      seconds: length of a timed window.
      repeats: windows of every setting, interleaved.
      cell_seconds: a setting that compiles longer than this, or whose repeats would take longer,
        is skipped.
      out: directory of the results.
      scaling: whether to measure how cost grows with lanes, examples and epochs, too.
      command_buffers: of :data:`sbt.bench.workload.COMMAND_BUFFERS`, on NVIDIA GPUs.
      minutes: in which all of it ends, two thirds for compiling: what is left then is skipped.
      measure: of :data:`sbt.bench.workload.MEASURED`, timed on trained nets; none: trainings are.
      examples: that nets are measured on.
    """

    models: tuple[str, ...]
    batch_sizes: tuple[int, ...]
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
    measure: tuple[str, ...]
    examples: int

    @property
    def longest_window(self) -> float:
        """Seconds that one window may take, so that all of a setting fit ``cell_seconds``."""
        return self.cell_seconds / (self.repeats + 1)


_USUAL: dict[str, Any] = {
    "models": ("convnet", "alexnet", "resnet8", "resnet8-bn", "f1", "gpt"),
    "batch_sizes": (1, 2, 4, 8, 16, 32, 128),
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
    "measure": (),
    "examples": 256,
}
_ON_ACCELERATOR = {
    "models": ("convnet", "alexnet", "resnet8", "resnet8-bn", "resnet32-bn", "f1", "gpt"),
    "lanes": (1, 16, 256),
    "strategies": ("auto", "vmap/stock", "map/stock"),
}
_QUICK = {
    "models": ("convnet", "alexnet"),
    "batch_sizes": (2, 32),
    "lanes": (16,),
    "strategies": ("auto",),
    "peers": ("flax", "torch"),
    "seconds": 0.25,
    "repeats": 2,
}
_MEASURING: dict[str, Any] = {
    "models": ("convnet", "alexnet", "resnet8-bn", "f1"),
    "lanes": (1, 16, 64),
    "strategies": ("auto",),
    "peers": tuple(MEASURING_PEERS),
    "repeats": 3,
    "cell_seconds": 600.0,  # of the larger networks a single call of 64 nets takes half a minute
}
_QUICK_MEASURING: dict[str, Any] = {
    "models": ("convnet",),
    "lanes": (16,),
    "examples": 64,
    "seconds": 0.25,
    "repeats": 2,
}
# What --measure leaves no use for.
OF_TRAINING = ("batch_sizes", "precisions", "command_buffers", "scaling")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``sbt bench``; what is left out suits the machine (:func:`options_of`)."""

    def add(name: str, about: str, read: Callable[[str, str], Any], value: str) -> None:
        reader = functools.partial(read, f"--{name}")
        parser.add_argument(f"--{name}", metavar=value, help=about, type=reader)

    names, networks = "NAME,NAME", tuple(NETWORKS)
    add("models", f"networks, or all: {', '.join(networks)}", _one_of(networks), names)
    about = "m: peers take a batch at once, sbt as many examples at a time as in a sweep"
    add("batch_sizes", about, _whole_numbers, "N,N")
    add("lanes", "runs at a time", _whole_numbers, "N,N")
    about = "how sbt executes lanes: auto, vmap, map or map:COUNT, optionally with "
    about += "/packed, /direct, /im2col, /implicit or /stock; all: what is worth comparing here"
    add("strategies", about, _strategies, names)
    add("precisions", f"arithmetic: {', '.join(PRECISIONS)}", _one_of(PRECISIONS), names)
    about = f"of {', '.join(_ANY)}; all; none; {SHARED}: all devices share each batch of a run, "
    about += "with batch statistics of a device's part, or of all of it (_sync)"
    add("peers", about, _one_of(_ANY, none=True), names)
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
    about = "measurements of trained nets instead of their training, beside loops of PyTorch and "
    about += f"curvlinops: {', '.join(MEASURED)}; else all"
    parser.add_argument("--measure", metavar=names, nargs="?", help=about, const=tuple(MEASURED),
                        type=functools.partial(_one_of(tuple(MEASURED)), "--measure"))  # fmt: skip
    parser.add_argument("--examples", metavar="N", help="nets are measured on; else 256",
                        type=lambda text: int(_positive("--examples", text)))  # fmt: skip
    about = "also: is cost linear in lanes, examples, epochs? (first model)"
    parser.add_argument("--scaling", action="store_true", help=about)


def options_of(given: argparse.Namespace, platform: str, devices: int = 1) -> Options:
    """What to time on so many devices of a platform: what is given, and what suits it otherwise.

    Raises:
      UserError: a peer that is not installed, that one device is not enough for or that does
        something else, or options that have no effect.
    """
    _check_purpose(given)
    chosen = _USUAL | ({} if platform == "cpu" else _ON_ACCELERATOR)
    chosen |= _MEASURING if given.measure else {}
    if given.quick:
        chosen |= _QUICK_MEASURING if given.measure else _QUICK
    chosen |= {name: value for name, value in vars(given).items() if value is not None}
    if given.peers == _ANY:
        chosen["peers"] = tuple(MEASURING_PEERS) if given.measure else PEERS
    needy = [peer for peer in chosen["peers"] if missing(peer)]
    if needy and given.peers is not None:
        remedy = "pip install 'small-batch-training[bench]', or leave it out"
        problem = f"needs {missing(needy[0])}, which is not installed"
        raise UserError(f"--peers={needy[0]}", problem, remedy)
    if not given.measure:  # there the table says what is missing
        chosen["peers"] = tuple(peer for peer in chosen["peers"] if peer not in needy)
    if platform != "gpu" and chosen["command_buffers"] != ("usual",):
        problem = f"are CUDA's, and this is a {platform}"
        raise UserError("--command_buffers", problem, "leave it out")
    if devices == 1:
        shared = [peer for peer in chosen["peers"] if peer in NEED_DEVICES]
        if shared and given.peers not in (None, _ANY):
            remedy = "leave it out, or set JAX_NUM_CPU_DEVICES on CPU"
            raise UserError(f"--peers={shared[0]}", "needs several devices; here is one", remedy)
        chosen["peers"] = tuple(peer for peer in chosen["peers"] if peer not in shared)
    if chosen["strategies"] == ("all",):
        from sbt.sweep.strategy import candidates

        chosen["strategies"] = ("auto", *map(str, candidates(platform)))
    chosen["out"] = directory_of(chosen["out"], "--out")
    return Options(**{field.name: chosen[field.name] for field in dataclasses.fields(Options)})


def missing(peer: str) -> str:
    """The package that a peer needs and that is not installed, or an empty string."""
    packages = NEEDS.get(peer, {}).items()
    return next((name for name, module in packages if not importlib.util.find_spec(module)), "")


def _check_purpose(given: argparse.Namespace) -> None:
    """Refuses what is of trainings beside ``--measure``, and what is of measurements without."""
    if not given.measure and given.examples is not None:
        raise UserError("--examples", "is what nets are measured on", "add --measure")
    for name in OF_TRAINING if given.measure else ():
        if getattr(given, name):
            problem = "is of training, which --measure does not time"
            raise UserError(f"--{name}", problem, "leave one of them out")
    for strategy in (given.strategies or ()) if given.measure else ():
        if strategy == "all" or "/" in strategy:
            problem = "chooses convolutions, and measurements choose their own"
            raise UserError(f"--strategies={strategy}", problem, "use auto, vmap, map or map:16")
    own, work = (MEASURING_PEERS, "measures") if given.measure else (PEERS, "trains")
    for peer in () if given.peers in (None, _ANY) else given.peers:
        if peer not in own:
            raise UserError(f"--peers={peer}", f"{work} nothing", f"use {', '.join(own)}")


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


def settings(options: Options) -> Iterator[Setting | Measuring]:
    """Every setting asked for, sbt first and fewest lanes first."""
    yield from _measurings(options) if options.measure else _trainings(options)


def _measurings(options: Options) -> Iterator[Measuring]:
    """Per network, measurement and number of nets."""
    axes = itertools.product(options.models, options.measure, options.lanes)
    for network, measurement, lanes in axes:
        for strategy in options.strategies:
            yield Measuring(network, SBT, measurement, lanes, options.examples, strategy)
        for peer in options.peers:
            if measurement in MEASURING_PEERS[peer]:
                yield Measuring(network, peer, measurement, lanes, options.examples)


def _trainings(options: Options) -> Iterator[Setting]:
    """Per network and micro-batch."""
    for network in options.models:
        for precision in options.precisions:
            for m in options.batch_sizes:
                for strategy in options.strategies:
                    for lanes, buffers in itertools.product(options.lanes, options.command_buffers):
                        yield Setting(network, SBT, m, lanes, strategy, precision, buffers)
                for peer in options.peers:
                    if peer == SYNCHRONOUS and not NETWORKS[network].batch_norm:
                        continue  # the same as without
                    for lanes in options.lanes if peer == "torch_func" else (1,):
                        yield Setting(network, peer, m, lanes, "", precision)
