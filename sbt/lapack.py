"""LAPACK on a CPU: batches of matrices can stop a program for good, single matrices cannot.

jaxlib (0.10.2) spreads a batch of decompositions over the threads of XLA's CPU client, and the
thread that asked waits for them. Where every thread asks, as the programs of two devices do on two
cores, none is left to do the work. ``vmap`` makes such batches out of single matrices.
"""

import re
from collections.abc import Callable
from typing import TypeVar

import jax
from jax import lax
from jax.custom_batching import sequential_vmap

T = TypeVar("T")

# A call of LAPACK in StableHLO, up to the shape of its first operand: axes beyond two are a batch.
_BATCHED = re.compile(r"@lapack_\w+\(.*: \(tensor<(\d+(?:x\d+)*)x\d+x\d+x\w+>")


def one_by_one(decompose: Callable[[jax.Array], T]) -> Callable[[jax.Array], T]:
    """The same decomposition, of one matrix after another under ``vmap`` on a CPU.

    Accelerators have libraries of their own, which take batches.

    Args:
      decompose: of a matrix, say :func:`jax.numpy.linalg.inv`.
    """

    # Of one argument: custom rules fill in, and trace, what else it takes by default.
    def alone(matrix: jax.Array) -> T:
        return decompose(matrix)

    in_turn = sequential_vmap(alone)

    def run(matrix: jax.Array) -> T:
        found: T = lax.platform_dependent(matrix, cpu=in_turn, default=decompose)
        return found

    return run


def decomposes_batches(program: jax.stages.Lowered) -> bool:
    """Whether a program for CPUs hands batches of matrices to LAPACK."""
    batches = _BATCHED.findall(program.as_text())
    return any(set(batch.split("x")) != {"1"} for batch in batches)
