"""Every test runs on eight fake CPU devices, with strict promotion of dtypes."""

import os

import jax
import pytest

jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture
def x64():
    """Double precision for one test: the place where equality is a question of mathematics."""
    with jax.enable_x64(True):
        yield
