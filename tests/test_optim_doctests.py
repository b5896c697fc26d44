"""The numbers that the docstrings of the update rules and schedules print."""

import doctest
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import pytest

import sbt.optim

MODULES = [f"sbt.optim.{m.name}" for m in pkgutil.iter_modules(sbt.optim.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    module = importlib.import_module(name)
    with jax.numpy_dtype_promotion("standard"):  # as readers have it
        assert doctest.testmod(module, extraglobs={"jnp": jnp}).failed == 0
