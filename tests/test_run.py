"""Sweeps from end to end: results, interruptions of every kind, work directories, passes."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
import reference
import xarray as xr
from sweeps import compiling_anew, one_device, same, shorten_windows

from sbt import results, workdir
from sbt.checkpoint import Checkpoints, load_weights
from sbt.config import complete
from sbt.data import from_arrays, load
from sbt.errors import UserError
from sbt.parallel import mesh
from sbt.sweep import cohort, prepare, records
from sbt.sweep.progress import Silent
from sbt.sweep.run import Interrupted, run

N, CLASSES, EPOCHS = 94, 4, 3
HUGE = 1e30  # a base learning rate that no loss survives
TICKS = N * EPOCHS // 4
CONFIG = {
    "name": "tiny",
    "data": {"name": "synthetic", "train_size": N, "test_size": 40, "num_classes": CLASSES,
             "image_shape": (4, 4, 1), "noise": 0.3, "normalize": "unit"},
    "model": {"name": "mlp", "hidden": (16,)},
    "epochs": EPOCHS,
    "rule": {"name": "sgd", "momentum": 0.9},
    "sweep": {"batch_size": (4, 8), "base_lr": (2.0**-9, 2.0**-7, HUGE), "seed": (0, 1)},
    "report": {"last_epochs": 2},
    "checkpoint": {"minutes": 1e6},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def quickly():
    with compiling_anew():
        yield


def config(**changes):
    return {**CONFIG, **changes}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The directory and the results of an uninterrupted sweep."""
    directory = tmp_path_factory.mktemp("whole") / "nested" / "run"
    return directory, run(config(checkpoint={"minutes": 1e6, "final_weights": True}), directory)


class Watch(Silent):
    """Calls ``act(tick)`` after every window, and remembers the notes."""

    def __init__(self, act=lambda tick: None):
        self.act, self.windows, self.notes, self.epoch = act, 0, [], None

    def update(self, status):
        if status.epoch == self.epoch:
            return  # the same window again, for a best run that its evaluation has found
        self.epoch = status.epoch
        self.windows += 1
        self.act(round(status.epoch * N / 4))

    def note(self, text):
        self.notes.append(text)


def stop_at(tick):
    """SIGTERM to this process once so many ticks are done."""
    return Watch(lambda now: os.kill(os.getpid(), signal.SIGTERM) if now == tick else None)


@pytest.fixture
def single_ticks(monkeypatch):
    """Windows of one tick: the sweep looks at the clock and the signals after each."""
    shorten_windows(monkeypatch, 1)


def status(directory):
    return json.loads((directory / "meta.json").read_text())["status"]


def close(dataset, other):
    """Equal up to rounding; whatever is not a float exactly."""
    xr.testing.assert_allclose(dataset.drop_attrs(), other.drop_attrs(), rtol=1e-4, atol=1e-6)


# --- results -------------------------------------------------------------------------------------


def test_what_a_sweep_returns_and_keeps(whole):
    directory, dataset = whole
    assert dict(dataset.sizes) == {"batch_size": 2, "base_lr": 3, "seed": 2, "epoch": EPOCHS}
    assert dataset["base_lr"].values.tolist() == [2.0**-9, 2.0**-7, HUGE]
    assert dataset["test_accuracy"].dims == ("batch_size", "base_lr", "seed", "epoch")
    curves = [f"{split}_{of}" for split in ("train", "test") for of in ("loss", "accuracy")]
    assert not any(np.isnan(dataset[name]).any() for name in curves)
    assert (dataset["epochs_done"] == EPOCHS).all() and dataset["finished"].all()
    assert (
        complete(json.loads(dataset.attrs["config"])).to_dict()
        == complete(config(checkpoint={"minutes": 1e6, "final_weights": True})).to_dict()
    )

    calm, wild = dataset.sel(base_lr=2.0**-7), dataset.sel(base_lr=HUGE)
    assert not calm["diverged"].any() and np.isnan(calm["diverged_epoch"]).all()
    assert (calm["accuracy"] > 0.5).all()
    assert (calm["train_loss"][..., -1] < calm["train_loss"][..., 0]).all()
    np.testing.assert_allclose(calm["accuracy"], calm["test_accuracy"][..., -2:].median("epoch"))
    assert wild["diverged"].all()
    assert (wild["accuracy"] == 1 / CLASSES).all()
    assert (wild["test_accuracy"] == 1 / CLASSES).all() and np.isinf(wild["test_loss"]).all()
    first_update = np.broadcast_to(wild["batch_size"].values[:, None] / N, (2, 2))
    np.testing.assert_allclose(wild["diverged_epoch"], first_update)

    assert sorted(path.name for path in directory.iterdir()) == [
        ".lock", "checkpoints", "cohorts.json", "config.json", "meta.json", "parts.json",
        "results.nc", "weights",
    ]  # fmt: skip
    xr.testing.assert_identical(results.load(directory), dataset)
    assert list((directory / "checkpoints").iterdir()) == []
    meta = json.loads((directory / "meta.json").read_text())
    assert meta["status"] == "done"
    assert meta["versions"]["jax"] == jax.__version__
    assert meta["device_kind"] and meta["devices"] == jax.device_count()
    assert meta["examples_lanes_per_s"] > 0
    assert 0 < meta["compile_seconds"] < meta["wall_seconds"]
    spent = meta["spent"]
    assert min(spent[f"{what}_seconds"] for what in ("train", "evaluate", "write")) > 0
    assert spent["measure_seconds"] == 0
    assert sum(spent.values()) + meta["compile_seconds"] < meta["wall_seconds"]


def plain(dataset, point, module):
    """Final weights of a run by the plain loop, and test data."""
    lane = reference.Run(int(point["batch_size"]), float(point["base_lr"]), int(point["seed"]), 0.9)
    images = np.float32(dataset.train_images) / np.float32(255)
    updates = 4 * TICKS // lane.batch_size
    every = reference.train(module, lane, images, dataset.train_labels, N * EPOCHS, updates)
    *_, last = every
    return last, np.float32(dataset.test_images) / np.float32(255), dataset.test_labels


MODULE = reference.MLP(classes=CLASSES, hidden=(16,))


@pytest.mark.parametrize("point", [{"batch_size": 4, "base_lr": 2.0**-9, "seed": 1},
                                   {"batch_size": 8, "base_lr": 2.0**-7, "seed": 0}])  # fmt: skip
def test_a_run_of_the_sweep_is_a_plain_training(whole, point):
    directory, dataset = whole
    weights, images, labels = plain(load(complete(CONFIG).data), point, MODULE)
    loss, accuracy = reference.evaluate(MODULE, weights, images, labels)
    found = dataset.sel(point)
    np.testing.assert_allclose(found["test_loss"][-1], loss, rtol=1e-4)
    np.testing.assert_allclose(found["test_accuracy"][-1], accuracy, atol=1e-6)

    index = [list(dataset[axis].values).index(value) for axis, value in point.items()]
    (place,) = (directory / "weights").iterdir()
    params, stats, points = load_weights(place)
    assert len(points) == 12 and stats == {}
    row = points.index(index)
    kept = jax.tree.map(lambda leaf: np.asarray(leaf[row]), params)
    assert reference.distance(kept, jax.device_get(weights.params)) < 1e-4


def test_without_a_directory_nothing_is_written(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    same(run(config()), whole[1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["measure", "vmap", "map", "map:3"])
def test_the_strategy_does_not_change_the_results(whole, strategy):
    close(run(config(engine={"strategy": strategy})), whole[1])


def test_a_finished_directory_is_not_trained_again(whole, monkeypatch):
    directory, dataset = whole
    before = (directory / "meta.json").read_text()
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda self: pytest.fail("compiled"))
    same(run(config(), directory), dataset)
    assert (directory / "meta.json").read_text() == before


# --- interruptions -------------------------------------------------------------------------------


@pytest.mark.usefixtures("single_ticks")
def test_stopped_again_and_again_the_bits_are_the_same(whole, tmp_path):
    """In the middle of an epoch, at the end of one, and after the very last tick."""
    sweep = config(checkpoint={"minutes": 1e6, "final_weights": True})
    for tick, finished in ((10, 0), (N // 4, 1), (TICKS, 3)):
        watch = stop_at(tick)
        with pytest.raises(Interrupted):
            run(sweep, tmp_path, progress=watch)
        assert status(tmp_path) == "interrupted"
        assert any("stopped" in note for note in watch.notes)
        partial = results.load(tmp_path)
        assert (partial["epochs_done"] == finished).all()
        assert (~np.isnan(partial["test_loss"])).sum() == 12 * finished
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    last = Watch()
    same(run(sweep, tmp_path, progress=last), whole[1])
    assert last.windows == 0
    assert status(tmp_path) == "done"
    (mine,), (theirs,) = ((d / "weights").iterdir() for d in (tmp_path, whole[0]))
    for a, b in zip(*map(jax.tree.leaves, (load_weights(mine), load_weights(theirs))), strict=True):
        np.testing.assert_array_equal(a, b)


class Crash(Exception):
    pass


@pytest.mark.usefixtures("single_ticks")
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_crash_around_a_checkpoint_loses_nothing(whole, tmp_path, monkeypatch, moment):
    """Between the results and the checkpoint that belongs to them, or right after both."""
    original, calls = Checkpoints.save, []

    def save(self, tree, position):
        calls.append(max(position["examples"]) // 4)
        crash = calls[-1] == 30
        if crash and moment == "before":
            raise Crash
        original(self, tree, position)
        if crash:
            raise Crash

    monkeypatch.setattr(Checkpoints, "save", save)
    due = iter(tick in (20, 30) for tick in range(1, 31))
    monkeypatch.setattr("sbt.sweep.records.Records.save_due", lambda self: next(due, False))
    with pytest.raises(Crash):
        run(config(), tmp_path)
    assert calls == [20, 30]
    watch = Watch()
    same(run(config(), tmp_path, progress=watch), whole[1])
    assert watch.windows == TICKS - (20 if moment == "before" else 30)


SCRIPT = """
import sys
sys.path[:0] = [{tests!r}]
import conftest, os, pytest, signal
from sweeps import compiling_anew, shorten_windows
import test_run as t
from sbt.checkpoint import Checkpoints

def killing(self, tree, position, save=Checkpoints.save):
    save(self, tree, position)
    if max(position["examples"]) == 48:
        os.kill(os.getpid(), signal.SIGKILL)

def waiting(tick):
    if tick == 40:
        print("ready", flush=True)
        sys.stdin.readline()

shorten_windows(pytest.MonkeyPatch(), 12)
if {kill}:
    Checkpoints.save = killing
with compiling_anew():
    try:
        t.run(t.config(checkpoint={{"minutes": 0.0 if {kill} else 1e6}}), {directory!r},
              progress=t.Watch(waiting))
    except t.Interrupted:
        sys.exit(3)
"""


def start(directory, kill):
    """A process that trains in the directory; killed after a checkpoint, or waiting at tick 40."""
    script = SCRIPT.format(tests=str(Path(__file__).parent), directory=str(directory), kill=kill)
    return subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_killed_processes_go_on_with_the_same_bits(whole, tmp_path):
    """One dies by SIGKILL after a checkpoint, the next gets SIGTERM in the middle of an epoch."""
    with start(tmp_path, kill=True) as first:
        pass
    assert first.returncode == -signal.SIGKILL
    with start(tmp_path, kill=False) as second:
        assert second.stdout.readline() == "ready\n"
        with pytest.raises(UserError, match=f"is in use by process {second.pid}") as caught:
            run(config(), tmp_path)
        assert caught.value.field == f"--workdir={tmp_path}"
        second.send_signal(signal.SIGTERM)
        second.communicate("\n")
    assert second.returncode == 3
    assert status(tmp_path) == "interrupted"
    watch = Watch()
    same(run(config(), tmp_path, progress=watch), whole[1])
    assert any("resumed at epoch 1.70" in note for note in watch.notes)


@pytest.mark.usefixtures("single_ticks")
def test_a_run_resumes_on_another_number_of_devices(whole, tmp_path, monkeypatch):
    """Eight, two, one, and eight again."""
    for devices, tick in ((8, 10), (2, 24), (1, 50)):
        monkeypatch.setattr(
            prepare, "make_mesh", lambda data, d=devices: mesh.make_mesh(data, jax.devices()[:d])
        )
        with pytest.raises(Interrupted):
            run(config(), tmp_path, progress=stop_at(tick))
    monkeypatch.setattr(prepare, "make_mesh", mesh.make_mesh)
    close(run(config(), tmp_path), whole[1])


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A directory of a sweep that was stopped at tick 30, with checkpoints of ticks 20 and 30."""
    directory = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Interrupted):
        single_ticks.__wrapped__(patch)
        due = iter(tick in (20, 30) for tick in range(1, 31))
        patch.setattr("sbt.sweep.records.Records.save_due", lambda self: next(due))
        run(config(), directory, progress=stop_at(30))
    return directory


@pytest.mark.parametrize("damaged", [1, 2])
def test_a_damaged_checkpoint_costs_time_and_nothing_else(whole, stopped, tmp_path, damaged):
    directory = shutil.copytree(stopped, tmp_path / "run")
    steps = sorted((directory / "checkpoints").iterdir(), reverse=True)
    assert len(steps) == 2
    for step in steps[:damaged]:
        largest = max(step.rglob("*"), key=lambda path: path.stat().st_size)
        largest.write_bytes(largest.read_bytes()[:-50])
    watch = Watch()
    same(run(config(), directory, progress=watch), whole[1])
    assert sum("is damaged" in note for note in watch.notes) == damaged
    if damaged == 1:
        assert "falling back to the one before" in watch.notes[0]
    resumed = [note for note in watch.notes if "resumed" in note]
    assert resumed == (["  resumed at epoch 0.85"] if damaged == 1 else [])


def test_the_grouping_of_the_start_is_kept(whole, stopped, tmp_path, monkeypatch):
    """On another kind of device the plan might differ."""
    directory = shutil.copytree(stopped, tmp_path / "run")
    monkeypatch.setattr(cohort, "SMALL_FLOPS", 0)
    monkeypatch.setattr(cohort, "TOLERATED_OVERHEAD", 0)
    watch = Watch()
    same(run(config(), directory, progress=watch), whole[1])
    assert any("resumed" in note for note in watch.notes)


def test_a_checkpoint_of_another_grouping_is_not_taken(whole, stopped, tmp_path, monkeypatch):
    """Lanes are never given another run's state."""
    directory = shutil.copytree(stopped, tmp_path / "run")
    (directory / "cohorts.json").unlink()
    monkeypatch.setattr(cohort, "SMALL_FLOPS", 0)
    monkeypatch.setattr(cohort, "TOLERATED_OVERHEAD", 0)
    watch = Watch()
    names = ["test_loss", "test_accuracy", "accuracy"]  # of training, an epoch is cut elsewhere
    close(run(config(), directory, progress=watch)[names], whole[1][names])
    assert any("another grouping" in note for note in watch.notes)
    assert len(json.loads((directory / "meta.json").read_text())["cohorts"]) == 2


def test_results_that_were_removed_are_made_again(whole, stopped, tmp_path):
    """Training on from the checkpoint would leave the epochs before it empty."""
    directory = shutil.copytree(stopped, tmp_path / "run")
    (directory / "results.nc").unlink()
    watch = Watch()
    same(run(config(), directory, progress=watch), whole[1])
    assert any("ahead of the results" in note for note in watch.notes)


def test_damaged_results_are_not_overwritten(stopped, tmp_path):
    directory = shutil.copytree(stopped, tmp_path / "run")
    (directory / "results.nc").write_bytes(b"not a netCDF file")
    with pytest.raises(UserError, match=r"results\.nc: cannot be read"):
        run(config(), directory)
    assert (directory / "results.nc").read_bytes() == b"not a netCDF file"


# --- work directories ----------------------------------------------------------------------------


def test_a_directory_of_another_config_is_refused(whole):
    directory, _ = whole
    before = (directory / "config.json").read_text()
    other = config(epochs=4, rule={"name": "sgd", "momentum": 0.5})
    with pytest.raises(UserError, match="belongs to another config") as caught:
        run(other, directory)
    assert "config.epochs" in caught.value.problem
    assert "config.rule.momentum" in caught.value.problem
    assert "config.sweep" not in caught.value.problem
    with pytest.raises(UserError, match=r"config\.engine\.precision"):
        run(config(engine={"precision": "bfloat16"}), directory)
    assert (directory / "config.json").read_text() == before
    # How to compute and to show may change.
    again = config(engine={"strategy": "map", "lanes": 1}, checkpoint={"keep": 7})
    same(run(again, directory), whole[1])


def test_a_directory_in_use_is_refused(tmp_path):
    with workdir.locked(tmp_path, complete(CONFIG)):
        with pytest.raises(UserError, match=f"in use by process {os.getpid()}") as caught:
            run(config(), tmp_path)
        assert caught.value.remedy
    assert workdir.read_json(tmp_path / "meta.json") is None


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_directory_that_cannot_be_written_is_refused(tmp_path, place):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(UserError, match="cannot be written") as caught:
        run(config(), tmp_path / place)
    assert caught.value.field == f"--workdir={tmp_path / place}"
    assert (tmp_path / "file").read_text() == "not a directory"


def test_a_damaged_config_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"name": ')
    with pytest.raises(UserError, match="damaged"):
        run(config(), tmp_path)


# --- passes --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("single_ticks")
def test_twelve_runs_on_eight_lanes(whole, tmp_path):
    """Stopped before lanes are taken, after, and when the first runs are done."""
    sweep = config(engine={"lanes": 8})
    for tick in (5, 30, TICKS):
        with pytest.raises(Interrupted):
            run(sweep, tmp_path, progress=stop_at(tick))
    assert 8 <= int(results.load(tmp_path)["finished"].sum()) < 12
    close(run(sweep, tmp_path), whole[1])


def test_runs_that_do_not_fit_wait_for_lanes(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "make_mesh", lambda data: mesh.make_mesh(data, jax.devices()[:1]))
    wide = config(epochs=1, model={"name": "mlp", "hidden": (3000,)})  # 63,000 parameters
    free = run(wide, tmp_path / "free")
    tight = {**wide, "engine": {"memory_gb": 0.006}}
    close(run(tight, tmp_path / "tight"), free)
    lanes = []
    for name in ("free", "tight"):
        (cohort,) = json.loads((tmp_path / name / "meta.json").read_text())["cohorts"]
        lanes.append(cohort["lanes_per_pass"])
    assert cohort["bytes_per_device"] <= 0.006 * 2**30
    assert lanes[0] == 12
    assert 1 <= lanes[1] < 12
    with pytest.raises(UserError, match="need") as caught:
        run({**wide, "engine": {"memory_gb": 1e-5}})
    assert caught.value.field == "config.engine.memory_gb"


# --- what else a config can say ------------------------------------------------------------------


def arrays():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, N + 20)
    images = rng.normal(size=(3, 5))[labels] + rng.normal(size=(N + 20, 5)) / 2
    images = images.astype(np.float32)
    return from_arrays(images[:N], labels[:N], images[N:], labels[N:])


def test_a_users_own_module_arrays_and_rule():
    module, data = reference.MLP(classes=3), arrays()
    sweep = {
        "data": {"normalize": "none"},
        "epochs": EPOCHS,
        "rule": {"momentum": 0.9},
        "sweep": {"batch_size": (4, 8), "base_lr": (0.01,), "momentum": (0.0, 0.9)},
    }
    dataset = run(sweep, module=module, dataset=data, rule=optax.sgd)
    assert dataset.attrs["chance"] == pytest.approx(1 / 3)
    for m in (4, 8):
        for momentum in (0.0, 0.9):
            lane = reference.Run(m, 0.01, momentum=momentum)
            updates = 4 * TICKS // m
            *_, last = reference.train(
                module, lane, data.train_images, data.train_labels, N * EPOCHS, updates
            )
            loss, accuracy = reference.evaluate(module, last, data.test_images, data.test_labels)
            found = dataset.sel(batch_size=m, momentum=momentum).squeeze()
            np.testing.assert_allclose(found["test_loss"][-1], loss, rtol=1e-3)
            np.testing.assert_allclose(found["test_accuracy"][-1], accuracy, atol=1e-6)
            assert accuracy > 0.6


def test_evaluations_every_other_epoch_and_the_last(whole):
    dataset = run(config(evaluate={"every": 2}))
    measured = ~np.isnan(dataset["test_loss"])
    assert measured.any(["batch_size", "base_lr", "seed"]).values.tolist() == [False, True, True]
    same(dataset["test_loss"][..., 1:].to_dataset(), whole[1]["test_loss"][..., 1:].to_dataset())
    same(dataset["train_loss"].to_dataset(), whole[1]["train_loss"].to_dataset())


def test_the_number_of_epochs_can_be_an_axis(whole):
    """Cohorts of their own, and another micro-batch: the curves stay what they were."""
    sweep = {"epochs": (1, EPOCHS), "base_lr": (2.0**-9, 2.0**-7), "batch_size": (8,)}
    dataset = run(config(sweep=sweep))
    assert dataset["test_loss"].dims == ("batch_size", "base_lr", "epochs", "epoch")
    short, long = (dataset.sel(epochs=epochs) for epochs in (1, EPOCHS))
    assert short["epochs_done"].values.tolist() == [[1, 1]]
    assert np.isnan(short["test_loss"][..., 1:]).all() and not np.isnan(short["accuracy"]).any()
    wanted = whole[1].sel(batch_size=[8], base_lr=[2.0**-9, 2.0**-7], seed=0)
    for name in ("test_loss", "test_accuracy"):
        np.testing.assert_allclose(long[name], wanted[name], rtol=1e-4)
        np.testing.assert_allclose(short[name][..., 0], wanted[name][..., 0], rtol=1e-4)


def test_cases_that_follow_and_points_that_are_left_out():
    sweep = config(
        model={"name": "mlp", "hidden": (6,), "norm": "batch"},
        epochs=1,
        sweep={"batch_size": (4, 8), "bn_batch": (4, 8)},
        follow={"base_lr": ("batch_size", ((4, 2.0**-7), (8, HUGE)))},
        skip_impossible=True,
    )
    dataset = run(sweep)
    assert dataset["finished"].values.tolist() == [[True, False], [True, True]]
    assert np.isnan(dataset["accuracy"].sel(batch_size=4, bn_batch=8))
    assert dataset["diverged"].values.tolist() == [[False, False], [True, True]]


def test_a_run_that_its_last_update_destroys_has_diverged():
    """One update in all: no training loss ever sees the weights that it leaves."""
    sweep = {"base_lr": (2.0**-9, HUGE)}
    dataset = run(config(batch_size=N, epochs=1, sweep=sweep))
    assert dataset["diverged"].values.tolist() == [False, True]
    assert dataset["diverged_epoch"].values[1] == 1.0
    assert dataset["accuracy"].values[1] == 1 / CLASSES
    assert np.isfinite(dataset["test_loss"].values[0]).all()
    assert np.isinf(dataset["test_loss"].values[1]).all()


@pytest.mark.parametrize("bn_batch", [None, 31])
def test_curves_are_those_of_the_updates_that_an_epoch_holds(bn_batch):
    """93 of 94 examples a batch: epoch e ends after the update that ends within e N examples.

    For any micro-batch, one of 31 included. Statistics of 31 are those of nobody's batch of 93.
    """
    module = reference.MLP(classes=CLASSES, norm=True)
    model = {"name": "mlp", "hidden": (6,), "norm": "batch"}
    fields = {"batch_size": 93, "bn_batch": bn_batch, "base_lr": 2.0**-9, "sweep": {}}
    dataset = run(config(model=model, **fields))
    data = load(complete(CONFIG).data)
    images, tested = (
        np.float32(x) / np.float32(255) for x in (data.train_images, data.test_images)
    )
    lane = reference.Run(93, 2.0**-9, 0, 0.9, bn_batch=bn_batch)
    with jax.numpy_dtype_promotion("standard"):
        every = reference.train(module, lane, images, data.train_labels, N * EPOCHS, EPOCHS)
        _, *weights = every
        wanted = [reference.evaluate(module, w, tested, data.test_labels) for w in weights]
    np.testing.assert_allclose(dataset["test_loss"], [loss for loss, _ in wanted], rtol=1e-3)
    np.testing.assert_allclose(dataset["test_accuracy"], [right for _, right in wanted], atol=1e-6)
    assert not np.isnan(dataset["train_loss"]).any()


def test_more_seeds_than_lanes_train_what_all_lanes_together_do():
    settings = {
        "data": {"name": "digits", "train_size": 32, "test_size": 16},
        "model": {"name": "mlp", "hidden": (8,)},
        "epochs": 2,
        "sweep": {"seed": tuple(range(5, 12))},
    }
    with one_device(), compiling_anew():
        together, apart = (
            run(settings | {"engine": {"strategy": "map", "lanes": lanes}}) for lanes in (None, 2)
        )
    for name in ("test_loss", "train_loss"):
        assert len(np.unique(together[name][:, -1])) == 7
        np.testing.assert_array_equal(apart[name], together[name])


@pytest.mark.parametrize("slow", [False, True])
def test_where_comparing_all_runs_takes_long_the_display_is_told_seldom(slow, monkeypatch):
    told = []

    class Told(Silent):
        def update(self, status):
            told.append(status.best)

    if slow:
        monkeypatch.setattr(records, "COMPARE_SECONDS", 0.0)
        monkeypatch.setattr(records, "COMPARE_EVERY", 1e9)
    settings = {
        "data": {"name": "digits", "train_size": 32, "test_size": 16},
        "epochs": 3,
        "sweep": {"seed": (0, 1)},
    }
    with compiling_anew():
        ds = run(settings, progress=Told())
    assert any(told[:-1]) is not slow
    assert told[-1][0] == f"{100 * results.best_cell(ds).value:.1f} %"
