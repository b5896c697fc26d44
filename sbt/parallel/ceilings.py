"""What the machine can do at best, measured: matrix products, convolutions, copies."""

import contextlib
import dataclasses
import functools
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from sbt.data.cache import cache_directory
from sbt.files import CannotWrite, read_json, write_json
from sbt.parallel.mesh import LANE_AXIS, kind_of, make_mesh

GEMM_SIZES = {"cpu": (512, 1024, 2048), "other": (2048, 4096, 8192)}
COPY_BYTES = {"cpu": 2**28, "other": 2**30}
# The middle of the reduced AlexNet: 3x3, 64 to 64 channels on 8x8 pixels.
CONV_BATCH = {"cpu": 128, "other": 4096}
SECONDS, QUICK_SECONDS = 0.4, 0.1


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """Best of a few tries.

    Attributes:
      matmul: FLOP/s of a square matrix product, per precision.
      convolution: FLOP/s of a forward convolution as in the reduced AlexNet, per precision.
      copy: bytes read plus bytes written per second, of an array larger than any cache.
      cache_bytes: size of the last cache, as the system tells it; 0 where it does not.
    """

    matmul: dict[str, float]
    convolution: dict[str, float]
    copy: float
    cache_bytes: int = 0


def measure_ceilings(precisions: tuple[str, ...], seconds: float = SECONDS) -> Ceilings:
    """All devices together: one operation with threads inside, or one per device; the better."""
    kind = "cpu" if jax.default_backend() == "cpu" else "other"
    return Ceilings(
        matmul={
            p: max(_best(_matmul(p, n), seconds) for n in GEMM_SIZES[kind]) for p in precisions
        },
        convolution={p: _best(_convolution(p, CONV_BATCH[kind]), seconds) for p in precisions},
        copy=_best(_copy(COPY_BYTES[kind] // jax.local_device_count()), seconds),
        cache_bytes=_last_cache() if kind == "cpu" else 0,
    )


@functools.cache
def machine_ceilings() -> Ceilings:
    """Those of float32 on this machine: measured in two seconds, and kept if nothing else runs.

    They lie in ``ceilings.json`` of :func:`sbt.data.cache.cache_directory`, by processor, number of
    devices and version of JAX. Those of a machine that others use are true for the moment only.
    """
    device = jax.devices()[0]
    name = f"{kind_of(device)}, {jax.local_device_count()} devices, jaxlib {jaxlib.__version__}"
    path = cache_directory() / "ceilings.json"
    try:
        known = read_json(path) or {}
    except ValueError:  # damaged
        known = {}
    if name not in known:
        known[name] = dataclasses.asdict(measure_ceilings(("float32",), QUICK_SECONDS))
        if not is_busy():
            with contextlib.suppress(CannotWrite):
                write_json(path, known)
    return Ceilings(**known[name])


def is_busy() -> bool:
    """Whether more than half of the cores had something to do in the last minute."""
    return os.getloadavg()[0] > len(os.sched_getaffinity(0)) / 2


def _last_cache() -> int:
    """Bytes of the largest cache of the first core."""
    sizes = [0]
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        found = re.fullmatch(r"(\d+)([KMG]?)", file.read_text().strip())
        if found:
            sizes.append(int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[found[2]])
    return max(sizes)


# A probe: work per call and device, the function, its argument's shape and dtype.
Probe = tuple[float, Callable[[Any], Any], tuple[int, ...], Any]


def _matmul(precision: str, n: int) -> Probe:
    # A scale keeps the powers of the matrix finite.
    return 2.0 * n**3, lambda x: (x @ x) * jnp.asarray(1e-3, x.dtype), (n, n), precision


def _convolution(precision: str, batch: int) -> Probe:
    work = 2.0 * batch * 8 * 8 * 3 * 3 * 64 * 64

    def run(x: jax.Array) -> jax.Array:
        kernel = jnp.full((3, 3, 64, 64), 1e-3, x.dtype)
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)

    return work, run, (batch, 8, 8, 64), precision


def _copy(size: int) -> Probe:
    # Adding one reads and writes every number, and cannot be left out.
    return 2.0 * size, lambda x: x + 1.0, (size // 4,), "float32"


def _best(probe: Probe, seconds: float) -> float:
    return max(work / time for work, time in _timings(probe, seconds))


def _timings(probe: Probe, seconds: float) -> Iterator[tuple[float, float]]:
    work, function, shape, dtype = probe
    jitted = jax.jit(function)
    yield work, _shortest(jitted, jnp.ones(shape, dtype), seconds)
    if jax.local_device_count() == 1:
        return
    mesh = make_mesh(1)
    count = mesh.shape[LANE_AXIS]
    apart = jax.jit(
        jax.shard_map(
            lambda x: function(x[0])[None],
            mesh=mesh,
            in_specs=P(LANE_AXIS),
            out_specs=P(LANE_AXIS),
        )
    )
    stacked = jax.device_put(jnp.ones((count, *shape), dtype), NamedSharding(mesh, P(LANE_AXIS)))
    yield work * count, _shortest(apart, stacked, seconds)


def _shortest(function: Callable[[Any], Any], x: Any, seconds: float) -> float:
    """Seconds of the fastest call."""
    jax.block_until_ready(function(x))
    shortest, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        jax.block_until_ready(function(x))
        shortest = min(shortest, time.perf_counter() - began)
    return shortest
