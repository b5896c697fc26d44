"""Examples until gradients are small on average, and the variance that they tell."""

import numpy as np
import pytest
import toy
import xarray as xr
from plain_loop import each, grad, plain, runs_of, sgd, train_lanes

import sbt
from sbt.config import to_json
from sbt.errors import UserError
from sbt.measure.stationarity import Course, followed

LEVELS = (0.8, 0.6, 1e-6)


def by_hand(norms, sizes, levels, after=0.0):
    """The mean of the norms, and the examples until it was within each level, by whole sums."""
    means = np.cumsum(norms) / np.arange(1, len(norms) + 1)
    seen = np.cumsum(sizes)
    costs = [next((n for m, n in zip(means, seen) if m <= e and n > after), np.nan) for e in levels]
    return means[-1], costs


@pytest.mark.parametrize("after", [0.0, 50.0])
def test_the_cost_is_that_of_a_search_in_the_whole_course(after, x64):
    rng = np.random.default_rng(0)
    levels = np.asarray([1.2, 0.9, 0.1])
    for _ in range(10):
        norms, sizes = rng.exponential(1.0, 40), rng.integers(1, 9, 40).astype(float)
        course = Course(0.0, 0.0, 0.0, np.full(3, np.nan))
        for norm, size in zip(norms, sizes, strict=True):
            course = followed(course, norm, size, levels, after)
        mean, costs = by_hand(norms, sizes, levels, after)
        np.testing.assert_allclose(course.mean, mean, rtol=1e-12)
        np.testing.assert_array_equal(course.cost, costs)


def test_a_run_follows_its_own_gradients(x64):
    """In lanes of two batch sizes against a plain loop, accumulation included."""
    settings = {"tolerances": LEVELS, "after": 0.2}
    runs = runs_of((0.1, {}), (0.02, {}))
    measure = {"names": ("stationarity",), "stationarity": settings}
    states = train_lanes(runs, "vmap", measure=measure)
    reached = 0
    for run, state in zip(runs, states, strict=True):
        norms = []

        def noting(step, w, memory, run, norms=norms):
            leaves = []
            each(lambda g: leaves.append(np.ravel(g)), grad(w, *step.xy()))
            norms.append(np.linalg.norm(np.concatenate(leaves)))
            return sgd(step, w, memory, run)

        plain(run, noting)
        wanted = by_hand(norms, [run["batch_size"]] * len(norms), LEVELS, 0.2 * 50)
        mean, cost = state.observed[0].sums
        np.testing.assert_allclose(mean, wanted[0], rtol=1e-5)
        np.testing.assert_array_equal(cost, wanted[1])
        reached += int(np.isfinite(cost).sum())
    assert reached and reached < len(LEVELS) * len(runs)


def test_it_is_among_the_results_by_tolerance():
    config = {"epochs": 2, "data": {"train_size": 64, "test_size": 32}, "model": {"name": "mlp"}}
    config |= {"measure": {"names": ("stationarity",), "stationarity": {"tolerances": (1e3, 1e-9)}}}
    found = sbt.run(config, progress=False).squeeze()
    np.testing.assert_array_equal(found.examples_to_tolerance.sel(norm_tolerance=1e3), [32, 32])
    assert found.examples_to_tolerance.sel(norm_tolerance=1e-9).isnull().all()
    assert (found.mean_gradient_norm > 0).all()
    config["measure"]["stationarity"] = {"tolerances": (0.5, -1.0)}
    with pytest.raises(UserError, match="tolerances"):
        sbt.run(config, progress=False)


def test_variances_of_a_cost_whose_minimum_is_known():
    """Of b + b*²/b, b* = 256/ε²: with the constants of the paper C² is 25.32 for every ε."""
    module = toy.module_of("sato_2024/critical_batch.py")
    levels, sizes = np.asarray([0.5, 1.0]), 2.0 ** np.arange(4, 14)
    best = 256 / levels[:, None] ** 2
    cost = (sizes + best**2 / sizes) * np.asarray([0.5, 1.0, 1.5])[:, None, None]
    axes = ("seed", "norm_tolerance", "batch_size", "epoch")
    ds = xr.Dataset(
        {"examples_to_tolerance": (axes, cost[..., None])},
        coords={"norm_tolerance": levels, "batch_size": sizes.astype(int)},
        attrs={"config": to_json(module.get_config())},
    )
    found = module.variances(ds)
    np.testing.assert_allclose(found.critical_batch, [1024, 256], rtol=1e-6)
    np.testing.assert_allclose(found.variance, 25.318, rtol=5e-5)
    ends = module.variances(ds.sel(batch_size=slice(16, 512)))
    np.testing.assert_array_equal(ends.variance.isnull(), [True, False])
