"""Which program a cohort is compiled to: how lanes are executed, and how many memory holds."""

import contextlib
import dataclasses
import functools
import math
import resource
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import jax

from sbt.errors import UserError, first_line
from sbt.parallel import hosts
from sbt.sweep.arrangement import Setup, asked_of, machine_of
from sbt.sweep.cohort import FLOPS_PER_SECOND
from sbt.sweep.engine import Engine, make_engine
from sbt.sweep.lanes import make_lanes
from sbt.sweep.problem import Placed
from sbt.sweep.strategy import Strategy, candidates, heuristic, parse, round_up, whole_groups

SHARE_OF_FREE_MEMORY = 0.8
# Of a device, by default: more keep it no busier, and weigh on memory and on every checkpoint.
MOST_LANES = 10_000


class _Sized(Protocol):
    @property
    def bytes_per_device(self) -> int: ...


Sized = TypeVar("Sized", bound=_Sized)


@dataclasses.dataclass(frozen=True)
class Fitted:
    """An engine that fits the memory.

    Attributes:
      engine: compiled.
      setup: how, to be kept.
      changed: why it is not the program that was kept, or what else has changed; empty if nothing.
      first_window: ticks to begin with, about a second of work.
    """

    engine: Engine
    setup: Setup
    changed: str
    first_window: int


def fit(placed: Placed, runs: int, least: int = 0, kept: Setup | None = None) -> Fitted:
    """Compiles a cohort for as many lanes at a time as there are runs, or as fit.

    Args:
      placed: what to train.
      runs: how many runs wait.
      least: lanes that one pass must hold (those of a checkpoint).
      kept: the program that the cohort began with: it is compiled again, if it can be.

    Raises:
      UserError: not even one lane per device fits.
    """
    cohort, mesh, count = placed.cohort, placed.mesh, placed.rows
    machine, asked = machine_of(mesh), asked_of(cohort.config)
    changed = "" if kept is None else kept.unlike(machine)

    def fitted(engine: Engine) -> Fitted:
        share = engine.lanes / count * cohort.tick / cohort.sharding.devices
        per_tick = share * cohort.facts.flops / FLOPS_PER_SECOND
        return Fitted(
            engine,
            Setup(str(engine.strategy), engine.lanes, asked, machine),
            changed,
            max(1, int(1.0 / max(per_tick, 1e-6))),
        )

    if kept is not None and kept.asked != asked:
        changed = "config.engine asks for another program now"
    elif kept is not None and kept.fits(machine):
        lanes, _, convolution = kept.strategy.partition("/")
        strategy = parse(lanes, convolution, heuristic(cohort.facts, "cpu", 1))
        engine = make_engine(placed, kept.lanes, strategy)
        if engine.bytes_per_device <= (free := _room(placed, 1.0)):
            return fitted(engine)
        engine.close()
        changed = f"{_need(engine)}, of which {free / 2**30:.2f} are free now"

    strategy = choose_strategy(placed, most_lanes(placed, runs, least))
    make = functools.partial(make_engine, placed, strategy=strategy)
    engine = as_many_as_fit(placed, runs, least, strategy, make, lambda engine: engine.close())
    if engine.bytes_per_device > (budget := _room(placed)):
        raise UserError(
            "config.engine.memory_gb",
            f"{_need(engine)}, there are {budget / 2**30:.2f}",
            "allow more memory, or use a smaller micro-batch, model or data set",
        )
    return fitted(engine)


def most_lanes(placed: Placed, runs: int, least: int = 0) -> int:
    """Lanes of a program that no memory limits, before they make whole groups."""
    passes = math.ceil(runs / (MOST_LANES * placed.rows))
    most = placed.cohort.config.engine.lanes or math.ceil(runs / max(1, passes))
    return round_up(max(min(runs, most), least), placed.rows)


def as_many_as_fit(
    placed: Placed,
    runs: int,
    least: int,
    strategy: Strategy,
    make: Callable[[int], Sized],
    drop: Callable[[Sized], None] = lambda made: None,
) -> Sized:
    """What ``make`` makes of as many lanes as there are runs, or as fit; of the fewest if none do.

    Args:
      placed: what to train.
      runs: how many runs wait.
      least: lanes that one pass must hold.
      strategy: how lanes are executed.
      make: of so many lanes, something that knows its bytes per device.
      drop: is given what needs too much.
    """
    count, budget = placed.rows, _room(placed)
    lanes = whole_groups(most_lanes(placed, runs, least), count, strategy)
    lowest = whole_groups(max(count, round_up(least, count)), count, strategy)
    fixed = sum(leaf.nbytes for leaf in jax.tree.leaves(placed.arrays))
    while (made := make(lanes)).bytes_per_device > budget and lanes > lowest:
        drop(made)
        share = max(budget - fixed, 0) / max(made.bytes_per_device - fixed, 1)
        smaller = int(lanes * min(share, 0.9)) // count * count
        if strategy.at_once > 1 and smaller > (group := count * strategy.at_once):
            smaller = smaller // group * group
        lanes = max(lowest, smaller)
    return made


def _room(placed: Placed, share: float = SHARE_OF_FREE_MEMORY) -> float:
    """Bytes that a program may use on each device of every process."""
    own = placed.mesh.local_devices
    return hosts.least(
        memory_budget(placed.cohort.config.engine.memory_gb, own[0], len(own), share)
    )


def _need(engine: Engine) -> str:
    return f"{engine.lanes} lanes need {engine.bytes_per_device / 2**30:.2f} GB per device"


# --- the strategy ---------------------------------------------------------------------------------


def choose_strategy(placed: Placed, size: int) -> Strategy:
    """The strategy that the config names, or the likely best one, or the fastest measured."""
    wanted = placed.cohort.config.engine
    usual = named_strategy(placed, size)
    if wanted.strategy != "measure":
        return usual
    if jax.process_count() > 1:
        raise UserError(
            "config.engine.strategy",
            "'measure' takes times, which processes do not agree on",
            "measure with one process, and name the strategy that it prints",
        )
    timings = {}
    for candidate in candidates(placed.platform):
        if wanted.convolution in ("auto", candidate.convolution):
            try:
                lanes = whole_groups(size, placed.rows, candidate)
                engine = make_engine(placed, lanes, candidate)
                with contextlib.closing(engine):
                    timings[candidate] = time_ticks(engine)
            except jax.errors.JaxRuntimeError as error:
                # One way of running lanes may need more memory than another, or a kernel that this
                # device's compiler does not take.
                reason = first_line(error)
                warnings.warn(f"strategy {candidate} does not run here: {reason}", stacklevel=2)
    return min(timings, key=lambda s: timings[s]) if timings else usual


def named_strategy(placed: Placed, size: int) -> Strategy:
    """The strategy that the config names, or the likely best one; nothing is measured."""
    cohort, wanted, platform = placed.cohort, placed.cohort.config.engine, placed.platform
    usual = heuristic(cohort.facts, platform, size // placed.rows)
    if cohort.sharding.devices > 1:
        # A batch is large here, and a branch not taken spares its all-reduce: under vmap every tick
        # would wait for the gradients of all devices.
        usual = Strategy(1, usual.convolution if platform == "cpu" else "stock")
    return parse(wanted.strategy, wanted.convolution, usual)


def time_ticks(engine: Engine, runs: Sequence[int] | None = None, seconds: float = 0.5) -> float:
    """Seconds per tick, from a short run that is thrown away.

    Args:
      engine: compiled.
      runs: positions in the cohort of those that take its lanes; None: as many as there are lanes.
      seconds: that the last, longest part takes at least, unless an epoch is shorter.
    """
    cohort = engine.placed.cohort
    if runs is None:
        runs = range(min(len(cohort.runs), engine.lanes))
    lanes = make_lanes(cohort, runs, engine.lanes)
    state, ticks = engine.train(engine.init(lanes), lanes, 0, 0, 1, False), 1  # warms up
    jax.block_until_ready(state)
    most = max(1, min(cohort.first_tick(1), engine.most_ticks))
    while True:
        started = time.perf_counter()
        state = jax.block_until_ready(engine.train(state, lanes, 0, 0, ticks, False))
        elapsed = time.perf_counter() - started
        if elapsed >= seconds or ticks == most:
            return elapsed / ticks
        ticks = min(most, max(2 * ticks, int(ticks * seconds / max(elapsed, 1e-6))))


# --- memory --------------------------------------------------------------------------------------


def memory_budget(
    gigabytes: float | None,
    device: jax.Device,
    devices: int,
    share: float = SHARE_OF_FREE_MEMORY,
) -> float:
    """Bytes that one device's programs may use: so many GB, or that share of what is free."""
    if gigabytes is not None:
        return gigabytes * 2**30
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return share * (stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return share * _free_host_memory() / devices


def _free_host_memory() -> float:
    """Bytes that this process may still take: of the machine, and of its own limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    left = float("inf") if limit == resource.RLIM_INFINITY else limit - _address_space()
    return max(0.0, min(_free_on_machine(), left))


def _address_space() -> int:
    try:
        with open("/proc/self/statm") as fields:
            return int(fields.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _free_on_machine() -> float:
    try:
        with open("/proc/meminfo") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return float(line.split()[1]) * 1024
    except OSError:
        pass
    return 4 * 2**30


def process_memory() -> int:
    """Bytes that this process holds now (resident), or 0 where that cannot be told."""
    try:
        with open("/proc/self/statm") as fields:
            return int(fields.read().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def peak_memory() -> int:
    """Most bytes in use so far: of the first device, or on CPU of this process."""
    stats = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats and "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
