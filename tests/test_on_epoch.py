"""``sbt.run(on_epoch=...)``: told of every epoch of every run once, whatever comes between."""

import json
from collections import Counter

import numpy as np
import pytest
from lanes import compiling
from sweeps import Watch, one_device, same

from sbt.errors import UserCodeError, UserError
from sbt.sweep.run import Interrupted, run

EPOCHS = 4
CONFIG = {
    "name": "told",
    "data": {"name": "synthetic", "train_size": 94, "test_size": 40, "num_classes": 4,
             "image_shape": (4, 4, 1), "noise": 0.3, "normalize": "unit"},
    "model": {"name": "mlp", "hidden": (8,)},
    "epochs": EPOCHS,
    "evaluate": {"every": 2},
    "measure": {"names": ("distance", "strides"), "at_start": True, "every": 2},
    "sweep": {"batch_size": (4, 8), "base_lr": (2.0**-9, 1e30, 2.0**-7)},
    "report": {"last_epochs": 2},
    "engine": {"lanes": 4},  # so that runs wait for a lane, and one that diverged gives its lane up
    "checkpoint": {"minutes": 1e6},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def quickly():
    with one_device(), compiling(quickly=True):
        yield


@pytest.fixture(scope="module")
def plain():
    return run(CONFIG)


def agree(told, results):
    """What was told is what the results hold, all of it, once."""
    times = Counter((int(now.epoch), number) for now in told for number in now.run.values.tolist())
    wanted = {(epoch, number) for epoch in range(EPOCHS + 1) for number in range(6)}
    assert set(times) == wanted and set(times.values()) == {1}
    for now in told:
        epoch = int(now.epoch)
        for number in now.run.values:
            one = now.sel(run=number)
            there = results.sel({axis: one[axis].item() for axis in ("batch_size", "base_lr")})
            for name, found in one.data_vars.items():
                whole = there[name]
                if name == "diverged":
                    whole = there["diverged_epoch"] <= epoch
                elif "epoch" in whole.dims:
                    whole = whole.sel(epoch=epoch)
                elif "measured_epoch" in whole.dims:
                    whole = whole.sel(measured_epoch=epoch)
                elif epoch < EPOCHS:  # the score
                    whole = whole * np.nan
                np.testing.assert_array_equal(found, whole, err_msg=f"{name}, epoch {epoch}")
    first, last = told[0], told[-1]
    assert {"relative_distance"} <= {*first.data_vars} and "test_loss" not in first
    assert {"relative_distance", "accuracy", "test_loss", "train_loss"} <= {*last.data_vars}


def test_every_epoch_is_told_once_and_changes_nothing(plain):
    told = []
    same(run(CONFIG, on_epoch=told.append), plain)
    agree(told, plain)
    assert bool(plain["diverged"].any())


def test_resuming_tells_new_epochs_only(plain, tmp_path):
    told = []
    with pytest.raises(Interrupted):
        run(CONFIG, tmp_path, on_epoch=told.append, progress=Watch(epochs=2))
    before = len(told)
    assert before
    same(run(CONFIG, tmp_path, on_epoch=told.append), plain)
    assert len(told) > before
    agree(told, plain)
    run(CONFIG, tmp_path, on_epoch=told.append)  # only reads
    agree(told, plain)


@pytest.mark.parametrize("when", [2, EPOCHS])
def test_what_it_raises_stops_the_sweep_which_goes_on(plain, tmp_path, when):
    told = []

    def fails(now):
        if int(now.epoch) == when:
            raise RuntimeError("the log is full")
        told.append(now)

    with pytest.raises(UserCodeError, match="on_epoch: raised RuntimeError: the log is full") as e:
        run(CONFIG, tmp_path, on_epoch=fails)
    assert "test_on_epoch.py" in str(e.value) and "raise RuntimeError" in e.value.own_traceback()
    meta = json.loads((tmp_path / "meta.json").read_text())
    assert meta["status"] == "interrupted"
    before = len(told)
    same(run(CONFIG, tmp_path, on_epoch=told.append), plain)
    assert int(told[before].epoch) == when
    agree(told, plain)


def test_without_a_directory_it_stops_at_once():
    calls = []

    def fails(now):
        calls.append(now)
        raise ValueError("no")

    with pytest.raises(UserCodeError, match="raised ValueError: no"):
        run(CONFIG, on_epoch=fails)
    assert len(calls) == 1


def test_a_grid_of_one_run_has_a_number():
    told = []
    single = {**CONFIG, "sweep": {}, "epochs": 1, "measure": {"names": ()}, "engine": {}}
    found = run(single, on_epoch=told.append)
    (now,) = told
    assert now.run.values.tolist() == [0]
    assert now["accuracy"].item() == found["accuracy"].item()


def test_what_cannot_be_called_is_refused():
    with pytest.raises(UserError, match="on_epoch: 3 cannot be called"):
        run(CONFIG, on_epoch=3)
