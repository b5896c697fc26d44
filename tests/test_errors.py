"""Exceptions of a user's own code keep their traceback, below a line that says whose code it is."""

import doctest

import pytest

import sbt.errors
from sbt.errors import UserCodeError, UserError, user_code


def test_doctests():
    assert doctest.testmod(sbt.errors).failed == 0


def test_an_exception_is_kept_with_its_traceback():
    def halve(x):
        return x / 0

    with pytest.raises(UserError) as caught, user_code("module Net"):
        halve(1)
    error = caught.value
    assert isinstance(error, UserCodeError)
    assert isinstance(error.__cause__, ZeroDivisionError)
    assert (error.field, error.problem) == (
        "module Net",
        "raised ZeroDivisionError: division by zero",
    )
    assert __file__ in error.remedy
    assert "in halve" in error.own_traceback()
    assert sbt.errors.__file__ not in error.own_traceback()


def test_frames_of_packages_are_left_out_where_others_remain():
    jax = pytest.importorskip("jax")

    def apply(x):
        raise ValueError(f"{x.shape}\nand more")

    with pytest.raises(UserCodeError) as caught, user_code("module Net"):
        jax.eval_shape(apply, jax.ShapeDtypeStruct((2, 3), float))
    assert caught.value.problem == "raised ValueError: (2, 3)"
    assert "site-packages" not in caught.value.own_traceback().partition("ValueError")[0]
    assert "in apply" in caught.value.own_traceback()


def test_refusals_and_interruptions_pass():
    refusal = UserError("config.x", "y", "z")
    with pytest.raises(UserError) as caught, user_code("module Net"):
        raise refusal
    assert caught.value is refusal
    with pytest.raises(KeyboardInterrupt), user_code("module Net"):
        raise KeyboardInterrupt
    with pytest.raises(UserCodeError, match="SystemExit"), user_code("module Net"):
        raise SystemExit(0)
