"""What a cohort will cost, from counts of its operations: nothing is compiled.

Seconds are FLOPs over a part of what a matrix product reaches here, the passes of the weights
through memory (:mod:`sbt.parallel.ceilings` measures both), and the start of operations. The parts
are those of ``sbt bench`` on two cores of an AMD EPYC (``experiments/bench/results/cpu_2_cores``):
networks of 10^5 FLOPs an example reach 7 to 9 % of a matrix product, those of 6 10^7 and more 38 to
53 %, whatever network and m, a transformer 24 to 34 %, and F1, which its weights bind at small m,
21 to 66 %. The rows of that table are met to a factor of 1.6, a transformer's of 2.1 (a test);
other networks and machines may be off by two or three, and accelerators were never measured:
``sbt plan --measure`` times it.
"""

import math
from typing import Any, NamedTuple

import jax
import numpy as np

from sbt.parallel.ceilings import Ceilings
from sbt.sweep.cohort import WEIGHT_PASSES, Cohort
from sbt.sweep.lanes import make_lanes
from sbt.sweep.problem import Forward, Placed, make_program
from sbt.sweep.strategy import Strategy
from sbt.train import step

# Of the rate of a matrix product: networks bound by the start of operations, and all others.
PART_OF_PRODUCT = {True: 0.085, False: 0.45}
IN_CACHE = 4.0  # weights that stay in the last cache move so many times as fast
# Seconds in which a device starts what belongs to an operation of a forward pass, backward and
# update included: at every tick, once for the lanes that it covers.
START_SECONDS_PER_OPERATION = 1e-6
# Numbers alive at a time, of all that a forward pass makes: a lane at a time, and several, whose
# patches lie in memory.
ALIVE = {True: 0.27, False: 0.8}
EVALUATED_AT_ONCE = 64
# Seconds of compiling: a part that every program has, and so much per operation of a forward pass.
COMPILE_SECONDS, COMPILE_SECONDS_PER_OPERATION = 2.5, 6.5e-3


class Costs(NamedTuple):
    """What a program costs.

    Attributes:
      lanes: of the program.
      tick_seconds: of all its lanes, spread over the devices.
      bytes_per_device: arguments, results and temporaries.
      compile_seconds: of all programs of the cohort.
    """

    lanes: int
    tick_seconds: float
    bytes_per_device: int
    compile_seconds: float


def estimate(
    placed: Placed, lanes: int, strategy: Strategy, forward: Forward, ceilings: Ceilings
) -> Costs:
    """The costs of a cohort's program.

    Args:
      placed: what to train.
      lanes: of the program.
      strategy: how they are executed.
      forward: a pass of the model.
      ceilings: of this machine, all devices together.
    """
    cohort = placed.cohort
    own = math.ceil(lanes / placed.rows)  # of a device
    at_once = min(own, strategy.at_once or own)
    g = cohort.micro_batch
    state = _state_bytes(placed)
    alive = ALIVE[strategy.at_once == 1] * forward.bytes_made
    batches = max(g * alive, EVALUATED_AT_ONCE * alive / 4)
    arrays = sum(leaf.nbytes for leaf in jax.tree.leaves(placed.arrays))
    return Costs(
        lanes=lanes,
        tick_seconds=lanes * lane_seconds(cohort, at_once * placed.mesh.size, ceilings)
        + math.ceil(own / at_once) * START_SECONDS_PER_OPERATION * forward.operations,
        # A loop over lanes holds those that it has read beside those that it has written.
        bytes_per_device=int(arrays + 2 * own * state + at_once * (batches + state)),
        compile_seconds=COMPILE_SECONDS + COMPILE_SECONDS_PER_OPERATION * forward.operations,
    )


def lane_seconds(cohort: Cohort, at_once: int, ceilings: Ceilings) -> float:
    """Seconds of one lane's tick while all devices are busy.

    Args:
      cohort: of the lane.
      at_once: lanes in work at the same time, on all devices.
      ceilings: of all devices together.
    """
    facts, product = cohort.facts, max(ceilings.matmul.values())
    arithmetic = cohort.tick * facts.flops / (PART_OF_PRODUCT[facts.is_small] * product)
    fits = at_once * facts.parameter_bytes <= ceilings.cache_bytes
    copy = ceilings.copy * (IN_CACHE if fits else 1.0)
    ticks = cohort.tick / (cohort.micro_batch * cohort.draws)  # gradients, over several devices
    return arithmetic + ticks * WEIGHT_PASSES / 2 * facts.parameter_bytes / copy


def _state_bytes(placed: Placed) -> int:
    """Of one lane between ticks: weights, statistics, what the rule keeps, sums."""
    problem, cohort = placed.problem, placed.cohort
    program = make_program(problem, cohort, "stock")
    hyper = jax.tree.map(lambda leaf: leaf[0], make_lanes(cohort, [0], 1).hyper)
    shapes: Any = jax.eval_shape(
        lambda params, stats: step.state_from(program, hyper, params, stats), *problem.shapes
    )
    return sum(math.prod(leaf.shape) * _size(leaf.dtype) for leaf in jax.tree.leaves(shapes))


def _size(dtype: Any) -> int:
    """Bytes of a number; of a random key, its two words."""
    is_key = jax.dtypes.issubdtype(dtype, jax.dtypes.extended)
    return 8 if is_key else int(np.dtype(dtype).itemsize)
