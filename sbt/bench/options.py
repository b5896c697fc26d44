"""What to time: the flags of ``sbt bench``, checked before anything compiles."""

import dataclasses
import difflib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags

from sbt.bench.networks import NETWORKS
from sbt.bench.workload import SBT, Setting
from sbt.errors import UserError
from sbt.files import directory_of
from sbt.nn.conv import IMPLEMENTATIONS

PEERS = ("flax", "flax_scan", "torch", "torch_compile", "torch_func")
NEED_TORCH = ("torch", "torch_compile", "torch_func")
PRECISIONS = ("float32", "bfloat16")
MICRO_BATCHES = (1, 2, 4, 8, 16, 32, 128)


@dataclasses.dataclass(frozen=True)
class Options:
    """What to time and for how long.

    Attributes:
      models: keys of :data:`sbt.bench.networks.NETWORKS`.
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


_CPU = {
    "models": ["convnet", "alexnet", "resnet8", "resnet8-bn", "f1"],
    "lanes": ["1", "16", "64"],
    "strategies": ["auto"],
}
_ACCELERATOR = {
    "models": ["convnet", "alexnet", "resnet8", "resnet8-bn", "resnet32-bn", "f1"],
    "lanes": ["1", "16", "256"],
    "strategies": ["auto", "vmap/stock", "map/stock"],
}
_QUICK = {
    "models": ["convnet", "alexnet"],
    "micro_batches": ["2", "32"],
    "lanes": ["16"],
    "strategies": ["auto"],
    "peers": ["flax", "torch"],
}


def define(values: flags.FlagValues) -> None:
    """Defines the flags of ``sbt bench``."""

    def several(name: str, about: str) -> None:
        flags.DEFINE_list(name, None, about, flag_values=values)

    several("models", f"networks, or all: {', '.join(NETWORKS)}")
    several("micro_batches", "g, examples per gradient; peers train at batch size m = g")
    several("lanes", "runs at a time")
    several(
        "strategies", "how sbt executes lanes: auto, vmap, map or map:COUNT, optionally with "
        "/packed, /direct, /im2col, /implicit or /stock; all: what is worth comparing here",
    )  # fmt: skip
    several("precisions", f"arithmetic: {', '.join(PRECISIONS)}")
    several("peers", f"of {', '.join(PEERS)}; all; none")
    flags.DEFINE_float("seconds", None, "length of a timed window", flag_values=values)
    flags.DEFINE_integer("repeats", None, "windows per setting, interleaved", flag_values=values)
    flags.DEFINE_float(
        "cell_seconds", 120.0, "skip what compiles longer or whose windows would take longer",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_string("out", "runs/bench", "directory of the results", flag_values=values)
    flags.DEFINE_bool("quick", False, "a minute or two on two cores", flag_values=values)
    flags.DEFINE_bool(
        "scaling", False, "also: is cost linear in lanes, examples, epochs? (first model)",
        flag_values=values,
    )  # fmt: skip


def parse(arguments: Sequence[str], platform: str) -> Options:
    """Options from the command line; what is left out suits the platform.

    Raises:
      UserError: an unknown flag or name, or a value out of range, with the remedy.
    """
    given = flags.FlagValues()
    define(given)
    try:
        rest = given(["sbt bench", *arguments])[1:]
    except flags.UnrecognizedFlagError as error:
        near = difflib.get_close_matches(error.flagname, list(given), n=3)
        known = ", ".join("--" + name for name in near or sorted(given))
        raise UserError(f"--{error.flagname}", "is no option here", f"options: {known}") from None
    except flags.Error as error:
        raise UserError("sbt bench", str(error).splitlines()[0], "see sbt bench --help") from None
    if rest:
        raise UserError(f"sbt bench {rest[0]}", "is no option", "write --models=NAME,NAME ...")
    usual = dict(_CPU if platform == "cpu" else _ACCELERATOR)
    usual |= _QUICK if given.quick else {}

    def chosen(name: str, default: Sequence[str]) -> tuple[str, ...]:
        listed = given[name].value
        parts = usual.get(name, default) if listed is None else [p.strip() for p in listed]
        return tuple(dict.fromkeys(p for p in parts if p))

    torch = importlib.util.find_spec("torch") is not None
    available = [p for p in PEERS if torch or p not in NEED_TORCH]
    peers = _expand(chosen("peers", available), PEERS, "peers", none=True)
    if given["peers"].value is None:
        peers = tuple(p for p in peers if p in available)
    elif not torch and set(peers) & set(NEED_TORCH):
        needy = next(p for p in peers if p in NEED_TORCH)
        raise UserError(
            f"--peers={needy}", "needs PyTorch, which is not installed",
            "pip install 'small-batch-training[bench]', or leave it out",
        )  # fmt: skip
    repeats = given.repeats if given.repeats is not None else (2 if given.quick else 5)
    seconds = given.seconds if given.seconds is not None else (0.25 if given.quick else 1.0)
    _positive("repeats", repeats)
    _positive("seconds", seconds)
    _positive("cell_seconds", given.cell_seconds)
    strategies = chosen("strategies", ("auto",))
    if strategies == ("all",):
        from sbt.sweep.strategy import candidates

        strategies = ("auto", *map(str, candidates(platform)))
    for strategy in strategies:
        _check_strategy(strategy)
    return Options(
        models=_expand(chosen("models", ()), tuple(NETWORKS), "models"),
        micro_batches=_numbers(chosen("micro_batches", [str(g) for g in MICRO_BATCHES]),
                               "micro_batches"),
        lanes=_numbers(chosen("lanes", ()), "lanes"),
        strategies=strategies,
        precisions=_expand(chosen("precisions", ("float32",)), PRECISIONS, "precisions"),
        peers=peers,
        seconds=seconds,
        repeats=repeats,
        cell_seconds=given.cell_seconds,
        out=directory_of(given.out, "--out"),
        scaling=given.scaling,
    )  # fmt: skip


def _expand(
    names: tuple[str, ...], known: tuple[str, ...], flag: str, none: bool = False
) -> tuple[str, ...]:
    if names == ("all",):
        return known
    if none and names == ("none",):
        return ()
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            remedy = f"did you mean {' or '.join(near)}? " if near else ""
            raise UserError(f"--{flag}={name}", "is unknown", f"{remedy}known: {', '.join(known)}")
    if not names and not none:
        raise UserError(f"--{flag}", "is empty", f"choose of {', '.join(known)}")
    return names


def _numbers(texts: tuple[str, ...], flag: str) -> tuple[int, ...]:
    for text in texts:
        if not text.isdecimal() or int(text) < 1:
            raise UserError(f"--{flag}={text}", "is no positive integer", f"write --{flag}=1,16")
    if not texts:
        raise UserError(f"--{flag}", "is empty", f"write --{flag}=1,16")
    return tuple(sorted({int(text) for text in texts}))


def _positive(flag: str, value: float) -> None:
    if not value > 0:
        raise UserError(f"--{flag}={value}", "is not positive", "give a number above 0")


def _check_strategy(text: str) -> None:
    lanes, slash, convolution = text.partition("/")
    head, colon, count = lanes.partition(":")
    sound = head in ("auto", "vmap", "map")
    if colon:
        sound = head == "map" and count.isdecimal() and int(count) >= 1
    if not sound or (slash and convolution not in IMPLEMENTATIONS):
        remedy = "use auto, vmap, map or map:16, optionally with "
        remedy += ", ".join(f"/{name}" for name in IMPLEMENTATIONS) + "; or all"
        raise UserError(f"--strategies={text}", "is no strategy", remedy)


def settings(options: Options) -> Iterator[Setting]:
    """Every setting asked for: per network and micro-batch, sbt first, fewest lanes first."""
    for network in options.models:
        for precision in options.precisions:
            for g in options.micro_batches:
                for strategy in options.strategies:
                    for lanes in options.lanes:
                        yield Setting(network, SBT, g, lanes, strategy, precision)
                for peer in options.peers:
                    for lanes in options.lanes if peer == "torch_func" else (1,):
                        yield Setting(network, peer, g, lanes, "", precision)
