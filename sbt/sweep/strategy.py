"""How lanes are executed: all at once, one after another, or some at a time.

Every strategy computes the same numbers, up to rounding. Which is fastest depends on the machine
and on the size of one lane's work. One core of an AMD EPYC, microseconds per example and lane at
g = 2 / 8 / 32 (``taskset -c 0 sbt bench ...``, the rest of the command and the whole table in
``experiments/bench/results/cpu_1_core_strategies``):

===============  ==================  ==================  ==================  ================
network          vmap, im2col        map, im2col         map, direct         map, packed
===============  ==================  ==================  ==================  ================
digits convnet   8.3 / 6.6 / 7.7     9.6 / 7.1 / 6.6     18 / 11 / 9.8       31 / 21 / 19
reduced AlexNet  2081 / 1976 / 2324  1187 / 1203 / 1480  1249 / 956 / 935    936 / 842 / 838
ResNet-8         3358 / 6566 / 4288  1668 / 2289 / 3113  2010 / 1237 / 1192  1210 / 1047 / 987
===============  ==================  ==================  ==================  ================

A tiny network is bound by the cost of starting operations, so that one operation for many lanes
wins; a larger one by the cache, so that one lane after another wins. Many lanes of a tiny network
outgrow the cache, too: on two cores, 216 lanes of the digits net at g = 2, 8 and 32 take 8.0, 6.9
and 9.5 all at once, 3.9, 3.4 and 5.4 sixteen at a time.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from sbt.nn.conv import Implementation
from sbt.sweep.cohort import ModelFacts

# Lanes of a tiny network that one operation covers on CPU.
MOST_AT_ONCE = 16


@dataclasses.dataclass(frozen=True)
class Strategy:
    """How a program executes its lanes.

    Attributes:
      at_once: lanes that one operation covers: 0 all of a device's, 1 one after another.
      convolution: what every ``nn.Conv`` runs.
    """

    at_once: int
    convolution: Implementation

    def __str__(self) -> str:
        name = {0: "vmap", 1: "map"}.get(self.at_once, f"map:{self.at_once}")
        return f"{name}/{self.convolution}"


def parse(lanes: str, convolution: str, default: Strategy) -> Strategy:
    """The strategy that a config asks for, with ``auto`` filled in from ``default``."""
    if lanes in ("auto", "measure"):
        at_once = default.at_once
    else:
        head, _, count = lanes.partition(":")
        at_once = 0 if head == "vmap" else int(count or 1)
    chosen: Any = default.convolution if convolution == "auto" else convolution
    if at_once != 1 and convolution == "auto":
        chosen = "im2col"
    return Strategy(at_once, chosen)


def heuristic(facts: ModelFacts, platform: str, lanes: int) -> Strategy:
    """The strategy that is usually best for so many lanes per device; nothing is run."""
    if platform != "cpu":
        return Strategy(0, "im2col")
    if not facts.is_small:
        return Strategy(1, "packed")
    if lanes <= MOST_AT_ONCE:
        return Strategy(0, "im2col")
    # Groups are filled up with lanes that idle: as few of these as possible, in the fewest groups.
    sizes = range(MOST_AT_ONCE, MOST_AT_ONCE // 2 - 1, -1)
    return Strategy(min(sizes, key=lambda n: -lanes % n), "im2col")


def whole_groups(size: int, rows: int, strategy: Strategy) -> int:
    """So many lanes, or a few more that idle: lanes run in groups, and all groups alike.

    A smaller group would be a program of its own, which rounds differently, so that a run's bits
    would depend on its place in the grid.
    """
    if strategy.at_once <= 1 or size <= rows * strategy.at_once:
        return size
    return round_up(size, rows * strategy.at_once)


def round_up(value: int, multiple: int) -> int:
    """The next multiple."""
    return -(-value // multiple) * multiple


def candidates(platform: str) -> tuple[Strategy, ...]:
    """What is worth measuring."""
    at_once = (Strategy(0, "im2col"), Strategy(16, "im2col"))
    if platform == "cpu":
        return (*at_once, Strategy(1, "packed"), Strategy(1, "im2col"))
    kernels = (Strategy(0, "implicit"),) if platform == "gpu" else ()
    return (
        *at_once,
        Strategy(4, "im2col"),
        *kernels,
        Strategy(0, "stock"),
        Strategy(1, "direct"),
    )


def over_lanes(
    strategy: Strategy,
    lane: Callable[..., Any],
    skip: Callable[[Any], jax.Array] | None = None,
) -> Callable[..., Any]:
    """Turns ``lane(state, *rest) -> state-like`` into a function of stacked lanes.

    Args:
      strategy: how.
      lane: a pure function of one lane's arguments.
      skip: ``state -> bool``, a lane with nothing left to do; where lanes run one after another
        its turn costs nothing. Then ``lane`` must return a tree like ``state``.

    Returns:
      The function of the same arguments, each with a leading lane axis.
    """
    if strategy.at_once == 0:
        return jax.vmap(lane)

    def one(args: tuple[Any, ...]) -> Any:
        if skip is None or strategy.at_once != 1:
            return lane(*args)
        return lax.cond(skip(args[0]), lambda: args[0], lambda: lane(*args))

    batch_size = None if strategy.at_once == 1 else strategy.at_once
    return lambda *args: lax.map(one, args, batch_size=batch_size)
