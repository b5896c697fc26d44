"""The numbers that the docstrings of the update rules and schedules print."""

import doctest
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import pytest

import sbt.optim
import sbt.schedules

MODULES = [
    f"{package.__name__}.{module.name}"
    for package in (sbt.optim, sbt.schedules)
    for module in pkgutil.iter_modules(package.__path__)
]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    module = importlib.import_module(name)
    with jax.numpy_dtype_promotion("standard"):  # as readers have it
        assert doctest.testmod(module, extraglobs={"jnp": jnp}).failed == 0
