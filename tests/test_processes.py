"""Two real processes on loopback: one sweep, one data-parallel run, and one of them dies."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from lanes import compiling
from reference import distance

from sbt import results
from sbt.checkpoint import load_weights
from sbt.errors import UserError
from sbt.parallel import hosts
from sbt.sweep.run import run

CONFIG = {
    "data": {"name": "synthetic", "train_size": 98, "test_size": 40, "num_classes": 4,
             "image_shape": (4, 4, 1), "noise": 0.3, "normalize": "unit"},
    "model": {"name": "mlp", "hidden": (16,)},
    "epochs": 3,
    "rule": {"name": "sgd", "momentum": 0.9},
    "sweep": {"batch_size": (8, 16), "base_lr": (2.0**-9, 2.0**-7, 1e30)},
    "checkpoint": {"minutes": 1e6, "final_weights": True},
}  # fmt: skip
NORMED = {"name": "convnet", "channels": (3, 4), "norm": "batch"}

SCRIPT = """
import json, os, sys
sys.path[:0] = [{tests!r}]
import jax
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_enable_compilation_cache", False)
jax.config.update("jax_numpy_dtype_promotion", "strict")
from lanes import compiling
from sbt.parallel import hosts
from sbt.sweep import loop
from sbt.sweep.progress import Silent
from sbt.sweep.run import run

number, config = int(sys.argv[1]), json.loads(sys.argv[2])
directory, wait = sys.argv[3:]
hosts.start({coordinator!r}, 2, number)

class Watch(Silent):
    def update(self, status):
        if wait and status.epoch >= float(wait):
            print("there", flush=True)
            sys.stdin.readline()

with compiling(quickly=True), hosts.noticing_losses():
    run(config, directory, progress=Watch())
print("done", jax.process_index(), jax.device_count(), flush=True)
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def start(config, directory, wait=""):
    """Both processes; waiting, they stop at so many epochs until they read a line."""
    coordinator = f"127.0.0.1:{free_port()}"
    script = SCRIPT.format(tests=str(Path(__file__).parent), coordinator=coordinator)
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(i), json.dumps(config), str(directory), wait],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for i in range(2)
    ]
    try:
        if wait:
            for process in pair:
                assert "there\n" in process.stdout  # reads on to that line
        yield pair
    finally:
        for process in pair:
            process.kill()
            process.communicate()


def finish(config, directory):
    """Trains with two processes to the end."""
    with start(config, directory) as processes:
        check_end(processes)


def check_end(processes):
    ends = [process.communicate("\n", timeout=300) for process in processes]
    for i, (process, (out, err)) in enumerate(zip(processes, ends, strict=True)):
        assert process.returncode == 0, err[-3000:]
        assert f"done {i} 4" in out


def weights(directory):
    (kept,) = (directory / "weights").iterdir()
    return load_weights(kept)


def alone(config, directory):
    with compiling(quickly=True):
        return run(config, directory)


def equal(directory, other):
    mine, theirs = results.load(directory), results.load(other)
    np.testing.assert_allclose(mine.test_loss, theirs.test_loss, rtol=1e-5)
    np.testing.assert_allclose(mine.train_loss, theirs.train_loss, rtol=1e-5)
    np.testing.assert_array_equal(mine.diverged, theirs.diverged)
    np.testing.assert_array_equal(mine.epochs_done, theirs.epochs_done)
    (a, b, runs), (c, d, others) = weights(directory), weights(other)
    assert runs == others
    sound = [i for i, index in enumerate(runs) if not mine.diverged.values[tuple(index)]]
    keep = lambda tree: jax.tree.map(lambda leaf: np.asarray(leaf)[sound], tree)  # noqa: E731
    assert distance(keep(a), keep(c)) < 1e-5
    assert distance(keep(b), keep(d)) < 1e-5


IMPORTS = """
import importlib, pkgutil
import sbt
from jax._src import xla_bridge

for module in pkgutil.walk_packages(sbt.__path__, "sbt."):
    if "torch" not in module.name:
        importlib.import_module(module.name)
        assert not xla_bridge.backends_are_initialized(), module.name
"""


def test_importing_starts_no_device():
    """Several processes must be told of each other before."""
    command = [sys.executable, "-c", IMPORTS]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("alone")
    alone(CONFIG, directory)
    return directory


def test_a_sweep_on_two_processes(whole, tmp_path):
    finish(CONFIG, tmp_path)
    equal(tmp_path, whole)
    meta = json.loads((tmp_path / "meta.json").read_text())
    assert (meta["status"], meta["processes"], meta["devices"]) == ("done", 2, 4)


def test_a_data_parallel_run_on_two_processes(tmp_path):
    """Four devices share every batch, two in each process; b = 2 examples share statistics."""
    config = CONFIG | {
        "data": CONFIG["data"] | {"train_size": 96},  # so that epochs end with a tick everywhere
        "model": NORMED,
        "bn_batch": 2,
        "batch_size": 16,
        "sweep": {"base_lr": (0.01,)},
    }
    finish(config | {"parallel": {"data": 4}}, tmp_path / "four")
    alone(config, tmp_path / "one")
    equal(tmp_path / "four", tmp_path / "one")


@pytest.mark.parametrize("victim", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_killed_process_ends_the_other_and_the_rerun_resumes(whole, tmp_path, victim):
    config = CONFIG | {"checkpoint": {"minutes": 0.0, "final_weights": True}}
    with start(config, tmp_path, wait="2") as pair:
        pair[victim].send_signal(signal.SIGKILL)
        survivor = pair[1 - victim]
        began = time.monotonic()
        _, err = survivor.communicate("\n", timeout=120)
        assert survivor.returncode != 0
        assert time.monotonic() - began < 2 * hosts.HEARTBEAT_SECONDS
        if survivor.returncode == hosts.EXIT_LOST:  # else JAX's own runtime was faster to end it
            assert f"process {1 - victim} of 2 lost another one of this run" in err
            assert "resumes from the last checkpoint" in err
        else:
            assert "distributed service" in err
    finish(config, tmp_path)
    equal(tmp_path, whole)


def test_one_process_goes_on_where_two_were(whole, tmp_path):
    config = CONFIG | {"checkpoint": {"minutes": 0.0, "final_weights": True}}
    with start(config, tmp_path, wait="2") as pair:
        for process in pair:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert list((tmp_path / "checkpoints").iterdir())
    with compiling(quickly=True):
        run(config, tmp_path)
    equal(tmp_path, whole)


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (("host:1", None, None), {}, "needs --processes"),
        (("host:1", "two", "0"), {}, "not a whole number"),
        (("host:1", 2, 2), {}, "not one of 2 processes"),
    ],
)
def test_start_refuses(arguments, environment, says, monkeypatch):
    monkeypatch.setattr(hosts.os, "environ", environment)
    with pytest.raises(UserError, match=says):
        hosts.start(*arguments)


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4"}, False),  # the batch script, not a task
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"}, True),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}, True),
    ],
)
def test_the_environment_tells_of_other_processes(environment, several):
    assert hosts.in_cluster(environment) == several
