"""Work directories that go on: the program of the start, and grids that grow."""

import json
import os
import signal

import numpy as np
import pytest
import xarray as xr
from sweeps import Watch, compiling_anew, one_device, same, shorten_windows

from sbt import results
from sbt.config import complete
from sbt.errors import UserError
from sbt.sweep import extend, fit
from sbt.sweep.afterwards import measure_runs
from sbt.sweep.grid import make_grid
from sbt.sweep.run import Interrupted, run
from sbt.sweep.strategy import Strategy, whole_groups

EPOCHS = 3
CONFIG = {
    "data": {"name": "synthetic", "train_size": 94, "test_size": 40, "num_classes": 4,
             "image_shape": (4, 4, 1), "noise": 0.3, "normalize": "unit"},
    "model": {"name": "mlp", "hidden": (8,)},
    "epochs": EPOCHS,
    "rule": {"name": "sgd", "momentum": 0.9},
    "sweep": {"batch_size": (4, 8), "base_lr": (2.0**-9, 2.0**-7, 1e30)},
    "checkpoint": {"minutes": 1e6, "final_weights": True},
    "engine": {"strategy": "vmap", "lanes": 4},
    "measure": {"names": ("strides", "distance")},
}  # fmt: skip


def config(**changes):
    """The config with some fields of sections changed."""
    sections = {k: {**CONFIG.get(k, {}), **v} if isinstance(v, dict) else v
                for k, v in changes.items()}  # fmt: skip
    return {**CONFIG, **sections}


@pytest.fixture(scope="module", autouse=True)
def quickly():
    with one_device(), compiling_anew():
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    return directory, run(CONFIG, directory)


@pytest.fixture
def short_windows(monkeypatch):
    shorten_windows(monkeypatch, 7)


# --- the program of the start --------------------------------------------------------------------


@pytest.mark.usefixtures("short_windows")
def test_fewer_runs_than_lanes_are_left_and_the_bits_stay(whole, short_windows, tmp_path):
    """Six runs on four lanes; stopped when two are left, by SIGHUP, while memory has become short
    for the automatic choice but not for what was chosen."""
    with pytest.raises(Interrupted):
        run(CONFIG, tmp_path, progress=Watch(lanes=3, number=signal.SIGHUP))
    assert (~results.load(tmp_path)["finished"]).sum() == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "SHARE_OF_FREE_MEMORY", 1e-9)
        watch = Watch()
        same(run(CONFIG, tmp_path, progress=watch), whole[1])
    assert watch.some("resumed") and not watch.some("bits may differ")
    (entry,) = json.loads((tmp_path / "meta.json").read_text())["cohorts"]
    assert entry["lanes_per_pass"] == 4


def test_another_program_is_told(whole, tmp_path):
    watch = Watch()
    with pytest.raises(Interrupted):
        run(CONFIG, tmp_path, progress=Watch(1))
    other = run(config(engine={"lanes": 3}), tmp_path, progress=watch)
    xr.testing.assert_allclose(other.drop_attrs(), whole[1].drop_attrs(), rtol=1e-4)
    assert watch.some("asks for another program now: from here on bits may differ")


def test_measurements_added_to_an_interrupted_sweep_are_empty_before(whole, tmp_path):
    plain = config(measure={"names": ("distance",)})
    with pytest.raises(Interrupted):
        run(plain, tmp_path, progress=Watch(2))
    before = results.load(tmp_path)["epochs_done"].values
    dataset = run(CONFIG, tmp_path)
    late = [name for name, values in whole[1].items() if "layer" in values.dims]
    names = [name for name in whole[1].data_vars if name not in late]
    same(dataset[names], whole[1][names])
    assert before.max() > 0 and "parameter_stride" in late
    for name in late:
        for index in np.ndindex(before.shape):
            own, full = (ds[name].values[index][: before[index]] for ds in (dataset, whole[1]))
            assert np.isnan(own).all() and (own.size == 0 or not np.isnan(full).all()), name
    with pytest.raises(UserError, match=r"config\.measure\.where"):
        run(config(measure={"where": "kernel"}), tmp_path)


def test_groups_of_lanes_are_alike():
    assert whole_groups(9, 1, Strategy(4, "im2col")) == 12
    assert whole_groups(18, 2, Strategy(9, "im2col")) == 18
    assert whole_groups(3, 1, Strategy(4, "im2col")) == 3
    assert whole_groups(9, 1, Strategy(1, "im2col")) == 9


# --- grids that grow -----------------------------------------------------------------------------


def test_more_seeds_and_values_train_alone(whole, tmp_path):
    """From one seed to two, in another order, with another batch size; the first sweep stops in the
    middle and is finished with its own program."""
    with pytest.raises(Interrupted):
        run(CONFIG, tmp_path, progress=Watch(2))
    grown = config(sweep={"base_lr": (1e30, 2.0**-7, 2.0**-9), "batch_size": (16, 8, 4),
                          "seed": (1, 0)})  # fmt: skip
    watch = Watch()
    dataset = run(grown, tmp_path, progress=watch)
    assert watch.some("resumed") and dataset["finished"].all()
    old = dataset.sel(seed=0, batch_size=[4, 8], base_lr=[2.0**-9, 2.0**-7, 1e30])
    for name, array in whole[1].data_vars.items():
        np.testing.assert_array_equal(old[name].transpose(*array.dims).values, array.values, name)
    stages = json.loads((tmp_path / "cohorts.json").read_text())["stages"]
    assert [sum(len(c["runs"]) for c in s["cohorts"]) for s in stages] == [6, 12]
    assert json.loads((tmp_path / "config.json").read_text())["sweep"]["seed"] == [1, 0]
    again = Watch()
    same(run(grown, tmp_path, progress=again), dataset)
    assert not again.seen

    # Weights are found by what they were trained with, not by where the run was in the grid.
    measured = measure_runs(tmp_path, {"names": ("distance",)})
    same(measured["distance_from_start"], dataset["distance_from_start"])


BASE = {"sweep": {"batch_size": (4, 8), "base_lr": (0.01, 0.1)}, "rule": {"name": "sgd"}}


@pytest.mark.parametrize(
    "changes",
    [
        {"sweep": {"base_lr": (0.1, 0.01), "batch_size": (8, 4)}},
        {"sweep": {**BASE["sweep"], "seed": (0, 1)}},
        {"sweep": {**BASE["sweep"], "batch_size": (2, 4, 8)}},
        {"sweep": {**BASE["sweep"], "momentum": (0.0, 0.9)}},
        {"sweep": {**BASE["sweep"], "rule": ("sngm", "sgd")}},
        {"measure": {"names": ("strides",)}, "report": {"last_epochs": 2}, "engine": {"lanes": 2}},
    ],
)
def test_what_extends_a_sweep(changes):
    extend.check(make_grid(complete({**BASE, **changes})), complete(BASE), "runs/a")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"epochs": 11}, r"different: config\.epochs"),
        ({"rule": {"name": "sgd", "momentum": 0.5}}, r"different: config\.rule\.momentum"),
        ({"sweep": {**BASE["sweep"], "batch_size": (4, 16)}}, r"batch_size: .* leaves out 8"),
        ({"sweep": {**BASE["sweep"], "seed": (1, 2)}}, r"sweep\.seed: .* leaves out 0"),
        ({"sweep": {"batch_size": (4, 8)}}, r"sweep\.base_lr: is not swept, without 0\.01"),
        ({"sweep": {**BASE["sweep"], "rule": ("sngm", "lars")}}, r"sweep\.rule: .* out 'sgd'"),
        ({"engine": {"precision": "bfloat16"}}, r"different: config\.engine\.precision"),
    ],
)
def test_what_does_not_extend_a_sweep(changes, says):
    with pytest.raises(UserError, match=says):
        extend.check(make_grid(complete({**BASE, **changes})), complete(BASE), "runs/a")


# --- finished directories ------------------------------------------------------------------------


def test_settings_of_a_finished_directory_take_effect_or_are_refused(whole):
    directory, dataset = whole
    watch = Watch()
    same(run(config(engine={"lanes": 2}), directory, progress=watch), dataset)
    assert watch.some("nothing follows from config.engine.lanes")
    last = run(config(report={"last_epochs": 1}), directory)
    kept = last["diverged"] | (last["accuracy"] == last["test_accuracy"][..., -1])
    assert kept.all() and last.attrs["last_epochs"] == 1
    same(run(CONFIG, directory), dataset)
    for measure, says in (
        ({"names": ("strides", "distance", "fluctuation")}, "summed up in training"),
        ({"every": 2}, "comes too late"),
    ):
        with pytest.raises(UserError, match=says):
            run(config(measure=measure), directory)
    more = run(config(measure={"names": ("strides", "distance", "gradient_size")}), directory)
    added = set(more.data_vars) - set(dataset.data_vars)
    assert added and all(more[name].notnull().any() for name in added)
    same(more[list(dataset.data_vars)], dataset[list(dataset.data_vars)])


# --- bits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["vmap", "map:4"])
def test_neither_order_nor_neighbours_change_a_bit(strategy):
    """Five runs on one device: with groups of four, the fifth lane is in a group of its own."""
    rates = (2.0**-9, 2.0**-8, 2.0**-7, 2.0**-6, 2.0**-5)
    grid = lambda values: config(  # noqa: E731
        epochs=2, sweep={"batch_size": (8,), "base_lr": values},
        engine={"strategy": strategy, "lanes": None}, measure={"names": ()},
    )  # fmt: skip
    first = run(grid(rates))
    same(run(grid(rates[::-1])).sel(base_lr=list(rates)), first)
    others = run(grid((*rates[:2], 1e30, 0.3, 0.2)))
    same(others.sel(base_lr=list(rates[:2])), first.sel(base_lr=list(rates[:2])))


@pytest.mark.slow
def test_a_few_kills(monkeypatch):
    """The short version of ``make torture``."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, __import__("sys").path)))
    from torture import torture

    assert torture(kills=6, seed=1, names=("batch norm",)) == []
