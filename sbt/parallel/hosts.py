"""Several processes of one sweep: how they find each other, and what they have to agree on.

All run the same Python program and differ in the devices that they hold. What one of them alone
can know (its clock, its signals, its free memory) is agreed on before it decides anything, and
process 0 alone writes; with one process nothing here does anything.
"""

import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from sbt.errors import UserError

# A process that has died is noticed after so long, where its connections do not tell at once.
HEARTBEAT_SECONDS = 30
EXIT_LOST = 3


def start(
    coordinator: str | None = None,
    processes: int | str | None = None,
    process: int | str | None = None,
) -> None:
    """Joins the other processes of this run, if there are any; call it before JAX is used.

    Without arguments the environment tells: Slurm, Kubernetes, Cloud TPU and MPI as JAX knows them
    (``jax.distributed.initialize``), or the variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES
    and JAX_PROCESS_ID. A single process starts nothing.

    Args:
      coordinator: ``host:port`` of process 0.
      processes: how many there are.
      process: number of this one, from 0.

    Raises:
      UserError: arguments that do not make sense, or no connection.
    """
    environment = os.environ
    coordinator = coordinator or environment.get("JAX_COORDINATOR_ADDRESS")
    count = _number("processes", processes, environment.get("JAX_NUM_PROCESSES"))
    number = _number("process", process, environment.get("JAX_PROCESS_ID"))
    given = [value is not None for value in (coordinator, count, number)]
    if not all(given) and not in_cluster(environment):  # which would fill in the rest
        if not any(given):
            return
        raise UserError(
            "--coordinator",
            "needs --processes and --process, and they need it",
            "write --coordinator=HOST:PORT --processes=N --process=I on each of the N",
        )
    if count is not None and number is not None and not 0 <= number < count:
        raise UserError(f"--process={number}", f"is not one of {count} processes", "count from 0")
    try:
        jax.distributed.initialize(
            coordinator, count, number, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"--coordinator={coordinator}" if coordinator else "the cluster's environment",
            f"does not lead to the other processes ({str(error).splitlines()[0]})",
            "check that process 0 runs, and that its host and port can be reached",
        ) from None


def in_cluster(environment: Mapping[str, str]) -> bool:
    """Whether the environment says that this is one of several processes.

    Only what a launcher sets for every process counts, not a batch script's own environment.
    """
    slurm = int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "SLURM_PROCID" in environment
    mpi = int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
    kubernetes = "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment
    tpu = any(name in environment for name in ("TPU_WORKER_HOSTNAMES", "TPU_NAME"))
    return slurm or mpi or kubernetes or (tpu and importlib.util.find_spec("libtpu") is not None)


def _number(name: str, given: int | str | None, environment: str | None) -> int | None:
    value = given if given is not None else environment
    if value is None:
        return None
    try:
        return int(value)
    except ValueError:
        raise UserError(f"--{name}={value}", "is not a whole number", "give one") from None


def writes() -> bool:
    """Whether this process writes the results."""
    return jax.process_index() == 0


def of_first(*values: float) -> tuple[float, ...]:
    """Numbers as process 0 has them."""
    if jax.process_count() == 1:
        return values
    return tuple(map(float, multihost_utils.broadcast_one_to_all(np.asarray(values, np.float64))))


def json_of_first(value: Any) -> Any:
    """A JSON value as process 0 has it."""
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    (length,) = of_first(len(text))
    padded = np.resize(text, int(length))
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes())


def least(value: float) -> float:
    """The smallest of all processes' numbers."""
    return float(np.min(_all(value)))


def anywhere(flag: bool) -> bool:
    """Whether a flag is up in any process."""
    return bool(np.max(_all(float(flag))))


@contextlib.contextmanager
def noticing_losses() -> Iterator[None]:
    """Ends this process with a clear message when another one of its run has gone.

    A collective that fails says so where the connections tell (gloo on CPU, at once); elsewhere
    JAX's own heartbeat ends the process after :data:`HEARTBEAT_SECONDS`. Without a clean shutdown:
    that would wait for the lost one.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:  # JAX's own is a RuntimeError
        if jax.process_count() == 1 or not _is_loss(error):
            raise
        print(
            f"error: process {jax.process_index()} of {jax.process_count()} lost another one of "
            f"this run ({str(error).splitlines()[0][:120]})\n"
            "  the same command in all of them resumes from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        os._exit(EXIT_LOST)


def _is_loss(error: BaseException) -> bool:
    """Whether an error speaks of a connection to another process."""
    signs = ("gloo", "connection", "peer", "unavailable", "deadline", "nccl", "coordination")
    return any(sign in str(error).lower() for sign in signs)


def _all(value: float) -> np.ndarray:
    if jax.process_count() == 1:
        return np.asarray(value)
    return np.asarray(multihost_utils.process_allgather(np.asarray(value, np.float32)))


def meet(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
