"""The device mesh ``(lane, data)``, and arrays that move between it and the host.

Lanes are spread along the first axis; the devices along the second share every batch of a lane.
Everything here works alike with one process and with many, where a process holds only a part of an
array that is spread over the mesh.
"""

import contextlib
import os
import platform
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from sbt.data.cache import cache_directory
from sbt.errors import UserError

LANE_AXIS, DATA_AXIS = "lane", "data"


def prepare_devices() -> None:
    """Prepares JAX for a sweep, as far as the user and an earlier start of JAX leave it open.

    On CPU, lanes spread over one device per core use the cores better than the threads inside an
    operation, so the CPU backend gets one device per core if it has not started yet. Compiled
    programs are kept in ``xla`` of :func:`sbt.data.cache.cache_directory`, so that a resumed or
    repeated sweep starts at once, unless ``JAX_COMPILATION_CACHE_DIR`` or
    ``JAX_ENABLE_COMPILATION_CACHE`` say otherwise; small ones as well, which JAX would leave out: a
    sweep has a dozen, and they take half a second together.
    """
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # the backend runs already: keep its devices
            if jax.config.jax_num_cpu_devices < 1:  # type: ignore[attr-defined]
                jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(cache_directory() / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def kind_of(device: jax.Device) -> str:
    """What a device is, in words; of a CPU, the processor's name."""
    if device.platform != "cpu":
        return str(device.device_kind)
    try:
        with open("/proc/cpuinfo") as lines:
            names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def make_mesh(data: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices of all processes, ``data`` in a row for every lane.

    Args:
      data: devices that share the batches of a run.
      devices: to use; None: all of :func:`jax.devices`.

    Raises:
      UserError: ``data`` does not divide the number of devices.
    """
    devices = list(devices or jax.devices())
    if (count := len(devices)) % data:
        divisors = ", ".join(str(d) for d in range(1, count + 1) if count % d == 0)
        cpu = jax.default_backend() == "cpu"
        more = "; on CPU JAX_NUM_CPU_DEVICES sets how many there are" if cpu else ""
        raise UserError(
            "config.parallel.data",
            f"{data} devices per run do not divide the {count} that there are",
            f"use {divisors}{more}",
        )
    return jax.make_mesh(
        (count // data, data),
        (LANE_AXIS, DATA_AXIS),
        devices=devices,
        axis_types=(AxisType.Auto, AxisType.Auto),
    )


def put(tree: Any, sharding: Sharding) -> Any:
    """Arrays on the mesh, from host arrays that every process has, or from arrays on the mesh."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def one(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.jit(lambda x: x, out_shardings=sharding)(leaf)
        if isinstance(leaf, jax.Array) and is_key(leaf):
            words = one(np.asarray(jax.random.key_data(leaf)))
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(one, tree)


def handed(tree: Any, sharding: Sharding) -> Any:
    """Small host arrays as a compiled call takes them: within one process it puts them itself.

    A call does that in a tenth of the time of :func:`put`, which a short epoch notices.
    """
    return tree if jax.process_count() == 1 else put(tree, sharding)


def fetch(tree: Any) -> Any:
    """Arrays from the mesh as whole host arrays, in every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def take(leaf: Any, rows: np.ndarray) -> Any:
    """Rows of a host array or of an array on the mesh."""
    return jnp.take(leaf, rows, axis=0) if isinstance(leaf, jax.Array) else leaf[rows]


def by_lane(mesh: Mesh, shape: tuple[int, ...]) -> Sharding:
    """How an array of that shape is spread: along its first axis, if that divides it."""
    divides = shape and shape[0] % mesh.shape[LANE_AXIS] == 0
    return NamedSharding(mesh, PartitionSpec(LANE_AXIS) if divides else PartitionSpec())


def is_key(leaf: jax.Array) -> bool:
    """Whether an array holds typed random keys."""
    return bool(jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key))
