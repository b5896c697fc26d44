"""Settings of JAX that a sweep wants: one CPU device per core, compiled programs kept on disk."""

import contextlib
import os

import jax

from sbt.data.cache import cache_directory


def prepare() -> None:
    """Prepares JAX for a sweep, as far as the user and an earlier start of JAX leave it open.

    On CPU, lanes spread over one device per core use the cores better than the threads inside an
    operation, so the CPU backend gets one device per core if it has not started yet. Compiled
    programs are kept in ``xla`` of :func:`sbt.data.cache.cache_directory`, so that a resumed or
    repeated sweep starts at once, unless ``JAX_COMPILATION_CACHE_DIR`` or
    ``JAX_ENABLE_COMPILATION_CACHE`` say otherwise.
    """
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # the backend runs already: keep its devices
            if jax.config.jax_num_cpu_devices < 1:  # type: ignore[attr-defined]
                jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(cache_directory() / "xla"))
