"""Branches from checkpoints: where a larger batch begins to cost, against closed forms."""

import json

import numpy as np
import pytest
import xarray as xr

from sbt.report import figures, write_report
from sbt.report.branching import border, critical_batch_rises, largest_without_loss
from sbt.report.claims import FAILS, HOLDS, OPEN
from sbt.report.view import View
from sbt.tasks.score import Score

SIZES, EPOCHS, SEEDS = (1, 2, 4, 8, 16), (1, 2, 4, 8), (0, 1, 2, 3)


def quadratic(k, rate, start, examples=1024, base=4):
    """Expected loss of a noisy quadratic (h = c = 1/i, d = 10) after a branch, update by update."""
    h = 1 / np.arange(1.0, 11)
    s = start.copy()
    for _ in range(examples // (k * base)):
        s = (1 - rate * h) ** 2 * s + rate**2 * h / (k * base)
    return 0.5 * np.sum(h * s)


def trunk(updates, rate=0.1, base=4):
    h, s = 1 / np.arange(1.0, 11), np.ones(10)
    for _ in range(updates):
        s = (1 - rate * h) ** 2 * s + rate**2 * h / base
    return s


@pytest.mark.parametrize(
    "law, wanted, tolerance, at",
    [
        ("linear", [0.018818, 0.019365, 0.020617, 0.024091, 0.047265], 0.001, 2),
        ("linear", [0.018818, 0.019365, 0.020617, 0.024091, 0.047265], 0.002, 4),
        ("sqrt", [0.018818, 0.013510, 0.009884, 0.007577, 0.006337], 0.001, 16),
    ],
)
def test_branches_of_a_noisy_quadratic(law, wanted, tolerance, at):
    """After 200 updates; the square root rewards larger batches with less noise."""
    start = trunk(200)
    power = {"linear": 1.0, "sqrt": 0.5}[law]
    losses = np.asarray([quadratic(k, 0.1 * k**power, start) for k in SIZES])
    np.testing.assert_allclose(losses, wanted, atol=1e-6)
    assert SIZES[int(largest_without_loss(losses, tolerance))] == at


def test_the_largest_is_no_worse_than_every_smaller_one():
    """Against the definition, sizes that failed in between included."""
    rng = np.random.default_rng(0)
    losses = rng.normal(size=(200, 6))
    losses[3, 1], losses[4, 5] = np.nan, np.inf
    for row, at in zip(losses, largest_without_loss(losses, 0.3), strict=True):
        known = np.where(np.isfinite(row), row, np.inf)
        good = [k for k in range(6) if all(known[k] <= known[j] + 0.3 for j in range(k))]
        assert at == max(good)


def results(critical, noise=0.0):
    """Branches that lose nothing up to some batch size at each epoch, and 0.1 nats beyond it."""
    rng = np.random.default_rng(1)
    loss = np.asarray([[0.1 * (m > c) for m in SIZES] for c in critical], float)
    loss = 3 + loss[..., None] + noise * rng.normal(size=(len(EPOCHS), len(SIZES), len(SEEDS)))
    dims = ("start_epoch", "batch_size", "seed")
    coords = {"start_epoch": list(EPOCHS), "batch_size": list(SIZES), "seed": list(SEEDS)}
    curves = {n: ((*dims, "epoch"), loss[..., None]) for n in ("test_loss", "train_loss")}
    flags = {
        "diverged": (dims, np.zeros(loss.shape, bool)),
        "diverged_epoch": (dims, np.full(loss.shape, np.nan)),
        "epochs_done": (dims, np.ones(loss.shape, np.int32)),
        "finished": (dims, np.ones(loss.shape, bool)),
    }
    noise_scale = np.broadcast_to(np.asarray(EPOCHS, float)[:, None, None, None], (*loss.shape, 1))
    mark = {"measurement": "noise_scale", "long_name": "gradient noise scale"}
    found = {"noise_scale": ((*dims, "measured_epoch"), noise_scale, mark)}
    score = Score("loss", False, np.inf, np.log(256), "nats per token", False, "loss")
    attrs = {**score.attrs, "config": json.dumps({"name": "branching"}), "name": "branching"}
    ds = xr.Dataset({"loss": (dims, loss)} | curves | flags | found, coords, attrs)
    return ds.assign_coords(epoch=[1], measured_epoch=[0])


def test_borders_lie_between_the_last_that_costs_nothing_and_the_next():
    found = border(View(results((1, 2, 4, 16))))
    assert found.epochs.tolist() == list(EPOCHS)
    assert found.low.tolist() == [1, 2, 4, 16]
    assert found.high.tolist() == [2, 4, 8, np.inf]


def judged(ds, tolerance):
    (verdict,) = critical_batch_rises.judged(View(ds), {"tolerance": tolerance})
    return verdict


def test_a_rise_is_claimed_with_seeds():
    rising = judged(results((1, 2, 4, 16), noise=0.002), 0.02)
    assert rising.verdict == HOLDS and "1: 1, 2: 2, 4: 4, 8: 16" in rising.numbers
    assert judged(results((16, 4, 2, 1), noise=0.002), 0.02).verdict == FAILS
    assert judged(results((1, 2, 4, 16)).isel(seed=[0]), 0.02).verdict == OPEN


def test_the_report_draws_the_border_and_the_noise_scale(tmp_path):
    ds = results((1, 2, 4, 16))
    drawing = figures.branching_figure(View(ds))
    left, right = drawing.figure.axes
    assert [t.get_text() for t in right.get_legend().get_texts()] == ["by branching", "noise scale"]
    np.testing.assert_allclose(right.lines[0].get_ydata(), np.sqrt([2, 8, 32, 256]))
    np.testing.assert_allclose(right.lines[1].get_ydata(), EPOCHS)
    np.testing.assert_allclose(left.lines[0].get_ydata(), [0, 0.1, 0.1, 0.1, 0.1], atol=1e-12)
    write_report(ds, tmp_path, {"status": "done"})
    assert (tmp_path / "figures" / "branching.png").exists()
