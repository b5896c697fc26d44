"""Kernel least squares on shipped data, and the experiment that takes it for sets of LIBSVM."""

import numpy as np
import pytest
import toy
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.preprocessing import StandardScaler

from sbt.data import load
from sbt.errors import UserError
from sbt.sweep.grid import make_grid

NAME = "kernel_least_squares"


@pytest.mark.parametrize("origin", ["breast_cancer", "wine", "digits", "diabetes"])
def test_the_condition_number_is_bounded_and_the_step_1_over_l_is_1(origin):
    data = load({"name": NAME, "origin": origin, "condition_number": 50.0})
    x = data.train["x"].astype(float)
    values = np.linalg.eigvalsh(x.T @ x / len(x))
    np.testing.assert_allclose(values[-1], 1, rtol=1e-5)
    assert values[0] * (1 + 1e-4) >= 1 / 50 and len(x) % 8 == 0
    again = load({"name": NAME, "origin": origin, "condition_number": 50.0})
    np.testing.assert_array_equal(data.train["x"], again.train["x"])
    assert data.test["x"].shape[1:] == data.train["x"].shape[1:]


def test_rows_are_those_of_the_kernel_matrix_of_another_library():
    """With all directions kept, rows of K turned: their inner products are those of K's rows."""
    x, y = load_wine(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(x))
    x, y = StandardScaler().fit_transform(x)[order], y[order]
    gram = rbf_kernel(x[:136], gamma=1 / (2 * 13 * 0.5**2))
    norm = np.linalg.eigvalsh(gram @ gram / 136)[-1]
    data = load({"name": NAME, "origin": "wine", "condition_number": 1e9})
    rows = data.train["x"].astype(float)
    np.testing.assert_allclose(rows @ rows.T, gram @ gram / norm, atol=1e-6)
    np.testing.assert_allclose(data.train["target"], np.where(y[:136] > 0, 1, -1) / norm**0.5)
    tested = rbf_kernel(x[136:], x[:136], gamma=1 / (2 * 13 * 0.5**2))
    np.testing.assert_allclose(data.test["x"] @ rows.T, tested @ gram / norm, atol=1e-5)


def test_no_example_is_trained_and_tested_on():
    x, _ = load_breast_cancer(return_X_y=True)
    assert len(np.unique(x, axis=0)) == len(x)
    data = load({"name": NAME})
    both = np.concatenate([data.train["x"], data.test["x"]])
    assert len(both) == len(x) == len(np.unique(both, axis=0))


def test_what_there_is_not_is_refused():
    with pytest.raises(UserError, match=r"config\.data\.train_size.*448"):
        load({"name": NAME, "train_size": 449})
    with pytest.raises(UserError, match="origin"):
        load({"name": NAME, "origin": "mushrooms"})


@pytest.mark.parametrize("variant, runs", [("", 135), ("small", 60)])
def test_batches_are_parts_of_the_set_that_is_there(variant, runs):
    module = toy.module_of("dang_2024/kernels.py")
    grid = make_grid(toy.load("dang_2024/kernels.py", variant))
    assert len(grid.runs) == runs
    updates = set()
    for run in grid.runs:
        origin, _, part = run.settings["case"].partition(", n/")
        assert run.settings["data.origin"] == origin
        assert run.settings["batch_size"] * int(part) == module.EXAMPLES[origin]
        updates.add(run.settings["epochs"] * int(part))
    assert updates == ({400} if variant else {2500, 2496})
    for origin, count in module.EXAMPLES.items():
        assert load({"name": NAME, "origin": origin}).train_examples == count
