"""The learning-rate range test: its schedule, and what is read off a rising rate."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from plain_loop import each, losses, plain, runs_of, sgd, train_lanes

import sbt
from sbt.errors import UserError
from sbt.measure import range_test
from sbt.schedules import SCHEDULES


def by_hand(history, smoothing, factor):
    """(best, largest) of (loss, rate) pairs: a list of smoothed losses, and a search in it."""
    seen = [loss for loss, _ in history]
    weights = [[smoothing ** (t - j) for j in range(t + 1)] for t in range(len(seen))]
    smooth = [np.dot(w, seen[: len(w)]) / sum(w) for w in weights]
    rates = [math.nan, *(rate for _, rate in history)]  # before every loss
    first = math.ceil(1 / (1 - smoothing) - 1e-9) - 1  # of an average that is one
    end = len(smooth)
    lost = next(
        (t for t in range(first + 1, end) if not smooth[t] <= factor * min(smooth[first:t])), end
    )
    return rates[first + int(np.argmin(smooth[first:lost]))], rates[lost - 1]


@pytest.mark.parametrize("smoothing", [0.0, 0.6, 0.75])
def test_the_reading_is_that_of_a_search_in_the_whole_curve(smoothing, x64):
    rng = np.random.default_rng(0)
    for _ in range(20):
        rate = np.geomspace(1e-3, 10, 40)
        loss = 0.1 + np.exp(-rate) + (rate / 3) ** 4 + 0.05 * rng.random(40)
        reading = range_test.NO_READING
        for pair in zip(loss, rate, strict=True):
            reading = range_test.read(reading, *pair, smoothing=smoothing)
        wanted = by_hand(list(zip(loss, rate, strict=True)), smoothing, 4.0)
        np.testing.assert_allclose((reading.best, reading.largest), wanted, rtol=1e-6)
        assert reading.lost == 1.0


def test_on_a_quadratic_the_loss_is_lowest_where_descent_becomes_unstable():
    """w <- (1 - eta h) w shrinks as long as eta < 2 / h."""
    h, rates = 5.0, np.linspace(0.3, 0.6, 100)
    w, reading = 1.0, range_test.NO_READING
    for rate in rates:
        reading = range_test.read(reading, 0.5 * h * w**2, rate, smoothing=0.0)
        w *= 1 - rate * h
    step = rates[1] - rates[0]
    assert reading.best <= 2 / h < reading.best + 1.01 * step
    assert 2 / h < reading.largest < 2 / h + 40 * step


def test_one_lucky_batch_at_the_start_ends_nothing():
    reading = range_test.NO_READING
    for loss, rate in ((0.01, 0.1), *[(1.0, 0.2)] * 20, (0.5, 0.4)):
        reading = range_test.read(reading, loss, rate, smoothing=0.8)
    assert not reading.lost and reading.largest == np.float32(0.2)


def test_a_loss_that_is_no_number_ends_the_test():
    reading = range_test.NO_READING
    for loss, rate in ((2.0, 0.1), (1.0, 0.2), (math.nan, 0.4), (0.5, 0.8)):
        reading = range_test.read(reading, loss, rate, smoothing=0.0)
    np.testing.assert_allclose((reading.best, reading.largest), 0.1, rtol=1e-6)


def test_the_schedule_rises_from_low_to_one():
    progress = np.linspace(0, 1, 5)
    linear = SCHEDULES.configured({"name": "range_test", "low": 0.2})
    np.testing.assert_allclose(linear(jnp.asarray(progress)), np.linspace(0.2, 1, 5), rtol=1e-6)
    octaves = SCHEDULES.configured({"name": "range_test", "low": 0.01, "rise": "exponential"})
    np.testing.assert_allclose(octaves(jnp.asarray(progress)), np.geomspace(0.01, 1, 5), rtol=1e-6)
    for wrong in ({"low": 0.0}, {"rise": "cubic"}):
        with pytest.raises(UserError, match=rf"config\.schedule\.{next(iter(wrong))}"):
            SCHEDULES.configured({"name": "range_test", **wrong})


def test_a_run_reads_its_own_curve(x64):
    """In lanes of two batch sizes against a plain loop: weights and readings."""
    low, smoothing, factor = 0.01, 0.5, 1.5
    runs = runs_of((0.5, {"schedule__low": low}), (0.3, {"schedule__low": low}))
    settings = {"smoothing": smoothing, "factor": factor}
    states = train_lanes(
        runs,
        "vmap",
        schedule={"name": "range_test", "rise": "exponential"},
        measure={"names": ("range_test",), "range_test": settings},
    )
    for run, state in zip(runs, states, strict=True):
        history = []

        def noting(step, w, memory, run, history=history):
            history.append((np.mean(losses(w, *step.xy())), step.rate))
            return sgd(step, w, memory, run)

        def rising(progress, run=run):
            return run["batch_size"], low ** (1 - progress) / (1 - progress) ** 2

        _, end, _, _ = plain(run, noting, sizes=rising)
        each(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9), state.params, end)
        (kept,) = state.observed
        best, largest = by_hand(history, smoothing, factor)
        np.testing.assert_allclose(kept.sums, (best, largest), rtol=1e-4)
        assert largest < history[-1][1] or kept.pending[1].lost == 0
    assert any(state.observed[0].pending[1].lost for state in states)


def test_it_is_among_the_results():
    config = {
        "data": {
            "name": "synthetic",
            "train_size": 64,
            "test_size": 32,
            "image_shape": (2, 2, 1),
            "num_classes": 3,
            "noise": 0.1,
        },
        "model": {"name": "mlp", "hidden": (4,)},
        "epochs": 8,
        "schedule": {"name": "range_test", "rise": "exponential"},
        "measure": {"names": ("range_test",)},
        "sweep": {"batch_size": (4, 16), "base_lr": (1.0, 8.0)},
    }
    found = sbt.run(config, progress=False)
    assert found.range_test_largest_lr.dims == found.train_loss.dims
    last = found.isel(epoch=-1)
    most = found.batch_size * found.base_lr
    assert np.all(last.range_test_largest_lr.values <= most.values)
    assert np.all(last.range_test_best_lr.values <= last.range_test_largest_lr.values)
    with pytest.raises(UserError, match="factor"):
        sbt.run({**config, "measure": {"names": ("range_test",), "range_test": {"factor": 0.5}}})
