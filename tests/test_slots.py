"""Runs that wait take the lanes of runs that are over: nothing changes but the time."""

import dataclasses

import jax
import numpy as np
import pytest
import xarray as xr
from lanes import compiling
from reference import distance
from sweeps import Watch, one_device, shorten_windows

from sbt.checkpoint import load_weights
from sbt.config import complete
from sbt.sweep import run as runs
from sbt.sweep.cohort import make_cohorts
from sbt.sweep.grid import make_grid
from sbt.sweep.problem import Builder, Parts
from sbt.sweep.run import Interrupted, run
from sbt.sweep.slots import Slots, epoch_ends, first_slots

N, EPOCHS = 94, 4
HUGE = 1e30  # a base learning rate that no loss survives
CONFIG = {
    "data": {"name": "synthetic", "train_size": N, "test_size": 40, "num_classes": 4,
             "image_shape": (4, 4, 1), "noise": 0.3, "normalize": "unit"},
    "model": {"name": "mlp", "hidden": (8,)},
    "epochs": EPOCHS,
    "rule": {"name": "sgd", "momentum": 0.9},
    "sweep": {"batch_size": (4, 8), "base_lr": (2.0**-9, HUGE, 2.0**-7, 2 * HUGE), "seed": (0, 1)},
    "checkpoint": {"minutes": 1e6, "final_weights": True},
    "measure": {"names": ("strides",)},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def quickly():
    with one_device(), compiling(quickly=True):
        yield


def few(lanes, **engine):
    return CONFIG | {"engine": {"lanes": lanes, **engine}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All 16 runs at once."""
    directory = tmp_path_factory.mktemp("whole")
    return directory, run(CONFIG, directory)


def weights(directory):
    """By run."""
    kept = {}
    for part in (directory / "weights").iterdir():
        params, _, runs = load_weights(part)
        for row, index in enumerate(runs):
            kept[tuple(index)] = jax.tree.map(lambda leaf, row=row: leaf[row], params)
    return kept


def same(directory, dataset, whole):
    xr.testing.assert_allclose(
        dataset.drop_attrs(), whole[1].drop_attrs().transpose(*dataset.dims), rtol=2e-5
    )
    mine, theirs = weights(directory), weights(whole[0])
    assert set(mine) == set(theirs)
    for index, params in mine.items():
        assert distance(params, theirs[index]) < 1e-5


@pytest.mark.parametrize("strategy", ["vmap", "map"])
def test_lanes_are_taken_at_the_end_of_an_epoch(whole, tmp_path, strategy):
    """Half of the runs diverge at once: three lanes of four go on at the end of an epoch."""
    watch = Watch()
    with compiling(quickly=True) as programs:
        dataset = run(few(4, strategy=strategy), tmp_path, progress=watch)
    assert len(programs) == 3  # initialisation, training, evaluation: nothing is compiled anew
    assert any("take the lanes" in note for note in watch.notes)
    same(tmp_path, dataset, whole)
    assert bool(dataset.finished.all())


def test_refilling_saves_time(whole, tmp_path):
    """16 runs on 4 lanes: 8 diverge in their first epoch, so that there is less to train."""
    calls = []
    original = runs.fit

    def counting(*args, **kwargs):
        fitted = original(*args, **kwargs)

        def train(state, lanes, epochs, firsts, ticks, fresh):
            calls.append(ticks)
            return fitted.engine.train(state, lanes, epochs, firsts, ticks, fresh)

        return dataclasses.replace(fitted, engine=dataclasses.replace(fitted.engine, train=train))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "fit", counting)
        run(few(4), tmp_path)
    epochs = sum(calls) * 4 / N
    assert epochs < 0.75 * 4 * EPOCHS  # of the 16 that four passes would take


@pytest.mark.parametrize("windows", [3, 9, 20])
def test_an_interruption_with_lanes_in_different_epochs(whole, tmp_path, windows, monkeypatch):
    shorten_windows(monkeypatch, 7)
    with pytest.raises(Interrupted):
        run(few(4), tmp_path, progress=Watch(windows))
    monkeypatch.undo()
    dataset = run(few(4), tmp_path)
    same(tmp_path, dataset, whole)


# --- bookkeeping ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cohort():
    config = complete(CONFIG)
    (made,) = make_cohorts(make_grid(config), Builder(Parts()).facts)
    return made


def test_epochs_end_where_a_plain_count_says(cohort):
    slots = first_slots(cohort, range(16), lanes=4, rows=1, in_flight=2)
    done, ends = 0, []
    while not slots.finished()[0]:
        count = slots.step(window=5, saving=False)
        assert 0 < count <= 5 + 1
        slots.ticks += count
        done += count
        ends += [(epoch, done) for epoch in slots.ended()]
    assert ends == [(e, (e + 1) * N // cohort.tick) for e in range(EPOCHS)]


def test_lanes_are_dealt_to_the_devices(cohort):
    slots = first_slots(cohort, [3, 1, 4, 15, 9], lanes=8, rows=4, in_flight=1)
    np.testing.assert_array_equal(slots.members, [3, 9, 1, -1, 4, -1, 15, -1])


@pytest.mark.parametrize(
    ("diverged", "in_flight", "waiting", "given_up", "taken"),
    [
        ([0, 0, 0, 0], 2, 3, [], []),
        ([0, 1, 0, 0], 2, 3, [1], [1]),
        ([0, 1, 0, 0], 1, 3, [], []),  # a second epoch would be in flight
        ([1, 1, 1, 1], 1, 3, [0, 1, 2, 3], [0, 1, 2]),
        ([1, 1, 1, 1], 1, 0, [0, 1, 2, 3], []),
        ([1, 0, 1, 1], 2, 0, [], []),  # nobody waits
        ([1, 1, 0, 0], 2, 1, [0, 1], [0]),
    ],
)
def test_who_takes_which_lane(cohort, diverged, in_flight, waiting, given_up, taken):
    ticks = np.full(4, epoch_ends(cohort, 1))
    slots = Slots(cohort, np.arange(4), ticks, list(range(4, 4 + waiting)), in_flight)
    up, new = slots.refill(np.asarray(diverged, bool))
    assert (up.tolist(), new.tolist()) == (given_up, taken)
    np.testing.assert_array_equal(slots.members[new], 4 + np.arange(len(new)))
    assert np.all(slots.ticks[new] == 0)
