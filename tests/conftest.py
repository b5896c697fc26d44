"""Every test runs on eight fake CPU devices, with strict promotion of dtypes."""

import os

import jax
import pytest

# Compiling is most of what the tests cost, and what they run is tiny: LLVM is asked for little
# effort on machine code. XLA's own passes, which might change what a program computes, all run.
HASTY = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {HASTY}".strip()
jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture
def x64():
    """Double precision for one test: the place where equality is a question of mathematics."""
    with jax.enable_x64(True):
        yield
