"""Runs that start from weights that are given, or that another sweep has kept."""

import itertools
import os
import shutil
import signal

import jax
import numpy as np
import pytest
import xarray as xr
from lanes import compiling

import sbt
from sbt.errors import UserError
from sbt.sweep import run as runs
from sbt.sweep.progress import Silent
from sbt.sweep.run import Interrupted, run

EPOCHS = 3
FIRST = {
    "name": "first",
    "data": {"name": "synthetic", "train_size": 16, "test_size": 8, "num_classes": 3,
             "image_shape": (4, 4, 1), "normalize": "unit"},
    "model": {"name": "convnet", "channels": (3, 4), "norm": "batch"},
    "bn_batch": 4,
    "epochs": EPOCHS,
    "batch_size": 8,
    "base_lr": 2.0**-6,
    "sweep": {"seed": (0, 1)},
    "checkpoint": {"weights_every": 1},
}  # fmt: skip
# Nothing moves at a learning rate of 0; the last statistics are those of the first weights.
STILL = {**FIRST, "name": "still", "base_lr": 0.0, "evaluate": {"statistics": "batch"}}
LOSSES = ["test_loss", "test_accuracy"]


@pytest.fixture(scope="module", autouse=True)
def quickly():
    with compiling(quickly=True):
        yield


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A sweep that kept its weights after every epoch."""
    directory = tmp_path_factory.mktemp("first") / "run"
    config = {**FIRST, "evaluate": {"statistics": "batch"}}
    return directory, run(config, directory)


def same_trees(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def close(value):
    """Weights are the same bit for bit; another program evaluates them, and may round otherwise."""
    return pytest.approx(value, rel=1e-6)


def starting_at(directory, **changes):
    return {**STILL, "start": str(directory), **changes}


def test_runs_start_from_the_weights_of_the_run_that_they_match(first, tmp_path):
    """By seed, in another order, and alike for every batch size, which the first has not swept."""
    directory, before = first
    axes = {"batch_size": (4, 8), "seed": (1, 0)}
    found = run(starting_at(directory, epochs=1, sweep=axes), tmp_path)
    for m, seed in itertools.product(*axes.values()):
        for name in LOSSES:
            ended = before[name].sel(seed=seed, epoch=EPOCHS)
            assert found[name].sel(batch_size=m, seed=seed, epoch=1).item() == close(ended.item())
        params, _ = sbt.load_weights(tmp_path, batch_size=m, seed=seed)
        same_trees(params, sbt.load_weights(directory, seed=seed).params)


def test_one_run_for_each_epoch_that_was_kept(first, tmp_path):
    """The epoch to start from is an axis, and all its values share a program."""
    directory, before = first
    axes = {"start_epoch": (1, 2, 3), "seed": (0, 1)}
    config = starting_at(directory, epochs=1, sweep=axes)
    found = run(config, tmp_path)
    losses = found["test_loss"].isel(epoch=0).transpose("seed", "start_epoch")
    np.testing.assert_allclose(losses.values, before["test_loss"].values, rtol=1e-6)
    for epoch, seed in itertools.product(*axes.values()):
        mine = sbt.load_weights(tmp_path, start_epoch=epoch, seed=seed)
        theirs = sbt.load_weights(directory, seed=seed, after=epoch)
        same_trees(mine.params, theirs.params)
    assert len(runs.prepare(config, runs.Parts()).cohorts) == 1


def test_given_weights_start_every_run(first):
    directory, before = first
    weights = sbt.load_weights(directory, seed=1)
    for start in (weights, tuple(weights), weights.params):
        found = run({**STILL, "epochs": 1}, start=start)
        ended = before["test_loss"].sel(seed=1, epoch=EPOCHS).item()
        np.testing.assert_allclose(found["test_loss"].values, [[ended], [ended]], rtol=1e-6)


def test_distances_are_from_the_weights_that_a_run_started_from(first, tmp_path):
    directory, _ = first
    config = starting_at(directory, base_lr=2.0**-6, measure={"names": ("distance",)})
    found = run(config, tmp_path / "named")["distance_from_start"]
    later = run({**config, "measure": {}}, tmp_path / "later")
    later = sbt.measure_runs(tmp_path / "later", {"names": ("distance",)}, progress=False)
    for seed in (0, 1):
        ended = jax.tree.leaves(sbt.load_weights(tmp_path / "named", seed=seed).params)
        began = jax.tree.leaves(sbt.load_weights(directory, seed=seed).params)
        wanted = np.sqrt(sum(np.sum((a - b) ** 2) for a, b in zip(ended, began, strict=True)))
        assert wanted > 0
        for ds in (found, later["distance_from_start"]):
            value = ds.sel(seed=seed, measured_epoch=EPOCHS).item()
            np.testing.assert_allclose(value, wanted, rtol=1e-5)
    given = sbt.load_weights(directory, seed=0)
    run({**config, "start": None, "measure": {}}, tmp_path / "given", start=given)
    with pytest.raises(UserError, match=r"started from \(start=\)"):
        sbt.measure_runs(tmp_path / "given", {"names": ("distance",)}, progress=False)


def test_statistics_come_along(first):
    """They are what evaluation reads; training from them goes on where the first sweep was."""
    directory, _ = first
    running = {"evaluate": {"statistics": "running"}}
    plain = run({**FIRST, **running})
    module = sbt.load_weights(directory, seed=0)
    again = run({**STILL, **running, "epochs": 1}, start=module)
    anew = run({**STILL, **running, "epochs": 1}, start=module.params)
    ended = plain["test_loss"].sel(seed=0, epoch=EPOCHS)
    # One epoch without a step moves the statistics on, by the batches of the same weights.
    gap = [abs(ds["test_loss"].sel(seed=0, epoch=1) - ended).item() for ds in (again, anew)]
    assert gap[0] < 0.5 * gap[1]


class StopAt(Silent):
    def __init__(self, epoch):
        self.epoch = epoch

    def update(self, status):
        if status.epoch >= self.epoch:
            os.kill(os.getpid(), signal.SIGTERM)


def test_an_interrupted_sweep_goes_on_and_another_start_is_refused(first, tmp_path):
    directory, _ = first
    moved = shutil.copytree(directory, tmp_path / "moved")
    config = starting_at(directory, base_lr=2.0**-6)
    whole = run(config)
    with pytest.raises(Interrupted):
        run({**config, "checkpoint": {"minutes": 0.0}}, tmp_path / "run", progress=StopAt(1))
    for other, says in (
        ({**config, "start": None}, "given weights there, random weights now"),
        ({**config, "start_epoch": 1}, "start_epoch"),
    ):
        with pytest.raises(UserError, match=says):
            run(other, tmp_path / "run")
    with pytest.raises(UserError, match=r"start \(other weights\)"):
        run({**config, "start": None}, tmp_path / "run", start=sbt.load_weights(directory, seed=0))
    # Where the weights lie is no matter.
    again = run({**config, "start": str(moved)}, tmp_path / "run")
    xr.testing.assert_identical(again.drop_attrs(), whole.drop_attrs())
    with pytest.raises(UserError, match="random weights there, given weights now"):
        run(
            {**FIRST, "evaluate": {"statistics": "batch"}},
            moved,
            start=sbt.load_weights(moved, seed=0),
        )


def test_more_seeds_extend_a_sweep_and_its_start(first, tmp_path):
    directory, _ = first
    config = starting_at(directory, base_lr=2.0**-6)
    run({**config, "sweep": {"seed": (1,)}}, tmp_path)
    extended = run(config, tmp_path)
    np.testing.assert_allclose(extended["train_loss"], run(config)["train_loss"], rtol=1e-5)


@pytest.mark.parametrize("name", ["optax.adamw", "sgd"])
def test_the_state_of_a_rule_comes_along(tmp_path, name):
    """One batch is the whole training set, whose order tells no two epochs apart."""
    whole = {**FIRST, "model": {"name": "convnet", "channels": (3, 4), "norm": "none"},
             "bn_batch": None, "batch_size": 16, "base_lr": 2.0**-12, "rule": {"name": name},
             "checkpoint": {"weights_every": 1, "rule_state": True}}  # fmt: skip
    if name == "sgd":
        whole["rule"], whole["base_lr"] = {"name": "sgd", "momentum": 0.9}, 2.0**-8
    config = {**whole, "start": str(tmp_path / "whole"), "start_epoch": 1, "epochs": EPOCHS - 1}
    with jax.numpy_dtype_promotion("standard"):  # optax counts in integers
        run(whole, tmp_path / "whole")
        run({**config, "start_rule": True}, tmp_path / "with")
        run(config, tmp_path / "without")
    for seed in (0, 1):
        wanted, with_it, without = (
            jax.tree.leaves(sbt.load_weights(tmp_path / d, seed=seed).params)
            for d in ("whole", "with", "without")
        )
        began = jax.tree.leaves(sbt.load_weights(tmp_path / "whole", seed=seed, after=1).params)
        moved = max(np.abs(a - b).max() for a, b in zip(wanted, began, strict=True))
        for found, least, most in ((with_it, 0, 1e-3), (without, 0.02, np.inf)):
            off = max(np.abs(a - b).max() for a, b in zip(wanted, found, strict=True))
            assert least * moved <= off <= most * moved
    other = {"name": "adam"} if name == "sgd" else {"name": "sgd", "momentum": 0.9}
    with pytest.raises(UserError, match="state of its rule does not fit"):
        run({**config, "start_rule": True, "rule": other})


REFUSED = [
    ({"start_rule": True}, "config.start_rule", "keeps no state of its rule"),
    ({"checkpoint": {"rule_state": True}}, "config.checkpoint.rule_state", "no effect"),
    ({"sweep": {"seed": (0, 7)}}, "config.start", "no run with seed = 7"),
    ({"sweep": {"seed": None}}, "config.start", "has runs of 2 values of seed"),
    ({"start_epoch": 9}, "config.start", "holds no weights after 9 epochs"),
    ({"model": {"name": "mlp"}}, "config.start", "do not fit the model"),
    ({"start": None, "start_epoch": 1}, "config.start_epoch", "no effect"),
    ({"start": "runs/nothing-there"}, "nothing-there", "holds no sweep"),
    ({"sweep": {"start": ("a", "b")}}, "config.sweep.start", "one for all runs"),
]


@pytest.mark.parametrize("changes, field, says", REFUSED, ids=[r[2] for r in REFUSED])
def test_what_cannot_start_is_refused_in_a_line(first, changes, field, says):
    config = starting_at(first[0], **{"bn_batch": None, "model": {}} if "model" in changes else {})
    if "model" in changes:
        config["evaluate"] = {}
    with pytest.raises(UserError) as caught:
        run({**config, **changes})
    assert field in caught.value.field and says in caught.value.problem, caught.value


def test_weights_that_were_not_kept_are_missed(first, tmp_path):
    run({**STILL, "epochs": 1, "checkpoint": {}}, tmp_path)
    with pytest.raises(UserError, match="holds no weights") as caught:
        run(starting_at(tmp_path))
    assert "final_weights" in caught.value.remedy
    with pytest.raises(UserError, match="both given"):
        run(starting_at(first[0]), start=sbt.load_weights(first[0], seed=0))
