"""The printed numbers in the docstrings of sbt.measure."""

import doctest
import importlib
import pkgutil

import pytest

import sbt.measure

MODULES = [m.name for m in pkgutil.iter_modules(sbt.measure.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(f"sbt.measure.{name}")
    assert doctest.testmod(module).failed == 0
