"""``sbt submit``: parts on submitit's local executor are one sweep, whatever happens to a part."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import xarray as xr
from sweeps import same

from sbt.cli import main
from sbt.config import complete
from sbt.errors import UserError
from sbt.results import load
from sbt.submit import split, submit
from sbt.sweep.run import run

pytest.importorskip("submitit")
EXPERIMENT = """
def get_config(variant=""):
    return {
        "name": "parted",
        "data": {"name": "synthetic", "train_size": 94, "test_size": 40, "num_classes": 4,
                 "image_shape": (4, 4, 1), "noise": 0.3, "normalize": "unit"},
        "model": {"name": "mlp", "hidden": (8,)},
        "epochs": 3,
        "sweep": {"batch_size": (4, 8), "base_lr": (2.0**-9, 2.0**-7, 1e30), "seed": (0, 1)},
    }
"""


@pytest.fixture
def experiment(tmp_path):
    path = tmp_path / "parted.py"
    path.write_text(EXPERIMENT)
    return str(path)


def equal(merged, plain):
    """The same training to the bit; evaluations of another number of lanes may round otherwise."""
    evaluated = ["test_loss"]
    same(merged.drop_vars(evaluated), plain.drop_vars(evaluated))
    xr.testing.assert_allclose(merged[evaluated].drop_attrs(), plain[evaluated].drop_attrs(), 1e-6)


def test_parts_are_the_plain_sweep(experiment, tmp_path):
    directory = tmp_path / "whole"
    command = ["submit", experiment, "--workdir", str(directory), "--executor=local", "--parts=2"]
    away = [sys.executable, "-m", "sbt.cli", *command, "--detach"]
    said = subprocess.run(away, capture_output=True, text=True, check=True).stdout
    assert "without --detach" in said
    assert main(command) == 0  # waits for the jobs that are there, and merges
    jobs = json.loads((directory / "jobs.json").read_text())["jobs"]
    namespace: dict = {}
    exec(EXPERIMENT, namespace)
    plain = run(namespace["get_config"](), tmp_path / "plain")
    merged = load(directory)
    equal(merged, plain)
    assert json.loads(merged.attrs["config"]) == json.loads(plain.attrs["config"])
    equal(run(namespace["get_config"](), directory), plain)  # nothing is left to train
    assert main(command) == 0  # nothing is left to submit
    assert json.loads((directory / "jobs.json").read_text())["jobs"] == jobs


def kill(part, directory):
    """Waits until a part trains, and kills its process."""
    lock, owner = directory / "parts" / f"{part:02d}" / ".lock", ""
    while not owner:
        time.sleep(0.1)
        owner = lock.read_text() if lock.exists() else ""
    os.kill(int(owner.split()[1]), signal.SIGKILL)


def test_a_part_that_was_killed_is_named_and_goes_on(experiment, tmp_path):
    directory, overrides = tmp_path / "killed", ["--config.epochs=40"]
    killer = threading.Thread(target=kill, args=(1, directory))
    killer.start()
    with pytest.raises(UserError, match="part 1: ended before") as refused:
        submit(experiment, overrides, directory, 2, "local")
    killer.join()
    jobs = json.loads((directory / "jobs.json").read_text())["jobs"]
    assert f"{jobs['1']}_0_log.err" in str(refused.value)
    notes = []
    found = submit(experiment, overrides, directory, 2, "local", note=notes.append)
    assert notes[0].startswith("part 1: job") and not any("part 0" in note for note in notes)
    again = json.loads((directory / "jobs.json").read_text())["jobs"]
    assert again["0"] == jobs["0"] and again["1"] != jobs["1"]
    assert bool(found["finished"].all()) and found.sizes["base_lr"] == 3
    with pytest.raises(UserError, match="holds another part"):
        submit(experiment, overrides, directory, 3, "local")


@pytest.mark.parametrize(("changes", "parts", "axis", "values"), [
    ({}, 2, "base_lr", [(1.0, 2.0), (3.0,)]),
    ({"seed": (0, 1, 2)}, 3, "seed", [(0,), (1,), (2,)]),
    ({"base_lr": None, "seed": None}, 1, "", [()]),
])  # fmt: skip
def test_a_grid_is_split_along_one_axis(changes, parts, axis, values):
    sweep = {"batch_size": (1, 2, 4, 8, 16), "base_lr": (1.0, 2.0, 3.0), "seed": (0, 1)}
    found = split(complete({"sweep": sweep | changes}), parts)
    assert found == (axis, values)


@pytest.mark.parametrize(("config", "parts", "text"), [
    ({"sweep": {"batch_size": (1, 2), "seed": (0, 1)}}, 3, "the axis seed has 2 values"),
    ({"sweep": {"batch_size": (1, 2)}}, 2, "no axis to split"),
    ({"search": {"name": "halving"}, "sweep": {"seed": (0, 1)}}, 2, "all runs of a grid together"),
])  # fmt: skip
def test_what_cannot_be_split_is_refused(config, parts, text):
    with pytest.raises(UserError, match=text):
        split(complete(config), parts)
