"""Exports: every number of the results is where another tool looks for it."""

import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from lanes import compiling
from sweeps import one_device

from sbt.cli import main
from sbt.errors import UserError
from sbt.export import FORMATS, curves, export, runs
from sbt.sweep.run import run

CONFIG = {
    "name": "exported",
    "data": {"name": "synthetic", "train_size": 94, "test_size": 40, "num_classes": 4,
             "image_shape": (4, 4, 1), "noise": 0.3, "normalize": "unit"},
    "model": {"name": "mlp", "hidden": (8,)},
    "epochs": 9,
    "sweep": {"batch_size": (4, 8), "base_lr": (2.0**-9, 1e30, 2.0**-7, 2.0**-6), "seed": (0, 1)},
    "search": {"name": "halving"},
    "engine": {"lanes": 4},
}  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sweep")
    with one_device(), compiling(quickly=True):
        run(CONFIG, directory)
    return directory


@pytest.fixture(scope="module")
def ds(directory):
    from sbt.results import load

    return load(directory)


def grid(**variables):
    """Two batch sizes, two seeds; the last run has not begun."""
    done = xr.DataArray([[3, 3], [3, 0]], dims=("batch_size", "seed"))
    base = {"finished": done > 0, "epochs_done": done}
    return xr.Dataset(base | variables, {"batch_size": [2, 8], "seed": [0, 1]})


def test_tables_hold_every_number(ds, directory, capsys):
    assert main(["export", str(directory), "--to", "csv"]) == 0
    told = capsys.readouterr().out.split()
    rows, steps = map(pd.read_csv, told)
    begun = ds["epochs_done"] > 0
    assert len(rows) == int(begun.sum()) and rows["run"].is_monotonic_increasing
    assert len(steps) == int(ds["train_loss"].notnull().sum())
    axes = ["batch_size", "base_lr", "seed"]
    for row in rows.sample(5, random_state=0).to_dict("records"):
        at = {axis: row[axis] for axis in axes}
        for name in ("accuracy", "epochs_done", "stopped_epoch"):
            np.testing.assert_allclose(row[name], ds[name].sel(at).item(), rtol=1e-12)
        assert row["run"] == np.ravel_multi_index(
            [ds[axis].values.tolist().index(at[axis]) for axis in axes], ds["finished"].shape
        )
    again = steps.set_index([*axes, "epoch"])["test_loss"].to_xarray()
    wanted = ds["test_loss"].sortby("base_lr").drop_attrs()
    np.testing.assert_allclose(again, wanted.transpose(*again.dims), rtol=1e-12)


def test_places_of_further_dimensions_become_variables():
    dims = ("batch_size", "seed", "measured_epoch", "space")
    values = np.arange(16.0).reshape(2, 2, 2, 2)
    loss = (("batch_size", "seed", "epoch"), np.arange(12.0).reshape(2, 2, 3))
    spectrum = (("batch_size", "seed", "bin"), np.zeros((2, 2, 100)))
    of_all = (("space",), np.zeros(2))
    found = grid(sharpness=(dims, values), train_loss=loss, density=spectrum, weight=of_all)
    found = found.assign_coords(measured_epoch=[0, 3], space=["full", "subspace"], epoch=[1, 2, 3])
    steps = curves(found)
    assert list(steps.columns) == [
        "run", "batch_size", "seed", "epoch", "sharpness/space=full", "sharpness/space=subspace",
        "train_loss",
    ]  # fmt: skip
    assert steps[steps["run"] == 2]["epoch"].tolist() == [0, 1, 2, 3]
    last = steps[(steps["run"] == 2) & (steps["epoch"] == 3)].iloc[0]
    assert last["sharpness/space=subspace"] == values[1, 0, 1, 1]
    assert last["train_loss"] == 8.0
    assert runs(found)["run"].tolist() == [0, 1, 2]


def test_parquet_holds_the_tables(ds, tmp_path):
    pytest.importorskip("pyarrow")
    paths = export(ds, tmp_path, "parquet")
    for path, wanted in zip(paths, (runs(ds), curves(ds)), strict=True):
        pd.testing.assert_frame_equal(pd.read_parquet(path), wanted)


def test_tensorboard_reads_curves_and_hyperparameters(ds, tmp_path):
    pytest.importorskip("tensorboardX")
    module = "tensorboard.backend.event_processing.event_accumulator"
    events = pytest.importorskip(module)
    export(ds, tmp_path, "tensorboard")
    (place,) = export(ds, tmp_path, "tensorboard")  # replaces it
    places = sorted(place.glob("run-*"))
    rows = runs(ds).to_dict("records")
    assert len(places) == len(rows)
    for place, row in list(zip(places, rows, strict=True))[::3]:
        read = events.EventAccumulator(str(place))
        read.Reload()
        at = {axis: row[axis] for axis in ("batch_size", "base_lr", "seed")}
        wanted = ds["test_loss"].sel(at).dropna("epoch")
        wanted = wanted[np.isfinite(wanted.values)]
        known = read.Scalars("test_loss") if wanted.size else []
        assert [one.step for one in known] == wanted["epoch"].values.tolist()
        np.testing.assert_allclose([one.value for one in known], wanted.values, rtol=1e-6)
        start = read.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        assert b"batch_size" in start and b"base_lr" in start


def test_a_study_has_a_trial_for_every_cell(ds, tmp_path):
    optuna = pytest.importorskip("optuna")
    from optuna.storages.journal import JournalFileBackend

    (path,) = export(ds, tmp_path, "optuna")
    (path,) = export(ds, tmp_path, "optuna")  # replaces it
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    study = optuna.load_study(study_name="exported", storage=storage)
    begun = (ds["epochs_done"] > 0).any("seed")
    assert len(study.trials) == int(begun.sum())
    median = ds["accuracy"].median("seed", skipna=False)
    for trial in study.trials:
        value = median.sel(trial.params).item()
        if trial.state == optuna.trial.TrialState.COMPLETE:
            assert trial.value == pytest.approx(value)
        stopped = ds["stopped_epoch"].sel(trial.params).notnull().any()
        assert (trial.state == optuna.trial.TrialState.PRUNED) == bool(stopped)
    assert study.best_value == pytest.approx(float(median.max()))


@pytest.mark.parametrize(("to", "package", "extra"), [
    ("parquet", "pyarrow", "export"), ("tensorboard", "tensorboardX.summary", "export"),
    ("optuna", "optuna", "optuna"), ("wandb", "wandb", "wandb"), ("trackio", "trackio", "trackio"),
])  # fmt: skip
def test_a_missing_package_is_named(ds, tmp_path, monkeypatch, to, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    remedy = rf"{package.partition('.')[0]}, which .*\n.*'small-batch-training\[{extra}\]'"
    with pytest.raises(UserError, match=remedy):
        export(ds, tmp_path, to)


def test_an_unknown_format_is_refused(ds, tmp_path):
    with pytest.raises(UserError, match="did you mean parquet"):
        export(ds, tmp_path, "parque")
    assert set(FORMATS) == {"csv", "parquet", "tensorboard", "optuna", "wandb", "trackio"}
