"""What a sweep will cost, from counts of operations, against what was measured."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sbt.config import default
from sbt.parallel import ceilings
from sbt.parallel.ceilings import Ceilings, machine_ceilings
from sbt.sweep import preview
from sbt.sweep.cohort import Cohort, ModelFacts
from sbt.sweep.estimate import lane_seconds

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "experiments/bench/results/cpu_2_cores/bench.json"
MACHINE = Ceilings({"float32": 1e11}, {"float32": 1e11}, 1e10, 2**25)


def measured():
    """Rows of the committed benchmark: network, g, microseconds of its own choice of program."""
    record = json.loads(BENCH.read_text())
    for cell in record["cells"]:
        if cell["automatic"] and cell["microseconds"]:
            name, g = (cell["setting"][key] for key in ("network", "batch_size"))
            yield name, g, float(np.median(cell["microseconds"])), record


@pytest.mark.parametrize(
    ("network", "g", "microseconds", "record"),
    [pytest.param(*row, id=f"{row[0]}-{row[1]}") for row in measured()],
)
def test_the_benchmark_is_met(network, g, microseconds, record):
    known = record["networks"][network]
    facts = ModelFacts(
        parameters=known["parameters"], parameter_bytes=4 * known["parameters"],
        flops=known["flops"], batch_statistics=False, dropout=False, num_examples=2048,
    )  # fmt: skip
    cohort = Cohort(default(), g, g, 1, (), (), facts)
    found = lane_seconds(cohort, 2, Ceilings(**record["ceilings"])) / g
    most = 2.1 if network == "gpt" else 1.6
    assert 1 / most < found / (1e-6 * microseconds) < most


TWO_DEVICES = """
import json, sys
from sbt.experiment import load_experiment
from sbt.parallel.ceilings import Ceilings
from sbt.sweep import preview
record, spec = sys.argv[1:]
known = Ceilings(**json.load(open(record))["ceilings"])
preview.machine_ceilings = lambda: known
print(preview.preview(load_experiment(spec).config)[0].seconds)
"""


@pytest.mark.parametrize(("runs", "seconds"), [(10_000, 2.9), (100_000, 26.0)])
def test_grids_of_a_tiny_network_are_met(runs, seconds):
    """By what starting operations costs; docs/speed.md has the seconds, of two devices."""
    command = [sys.executable, "-c", TWO_DEVICES, BENCH, f"experiments/many_runs.py:{runs}"]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    assert 1 / 1.6 < float(done.stdout.split()[-1]) / seconds < 1.6


@pytest.mark.parametrize("model", ["convnet", "resnet8"])
def test_memory_and_lanes_are_near_those_of_the_compiled_program(model, monkeypatch):
    monkeypatch.setattr(preview, "machine_ceilings", lambda: MACHINE)
    config = default()
    config.data.update({"name": "synthetic", "train_size": 256, "test_size": 128})
    config.model.update({"name": model, "norm": "none"})
    config.epochs, config.sweep.batch_size, config.sweep.seed = 1, (8, 16), (0, 1, 2)
    (guess,), (true,) = (preview.preview(config, measure=measure) for measure in (False, True))
    same = ("runs", "micro_batch", "strategy", "passes", "lanes", "parameters")
    for name in same:
        assert getattr(guess, name) == getattr(true, name), name
    assert 0.4 < guess.bytes_per_device / true.bytes_per_device < 2.5


def test_few_lanes_where_memory_is_short(monkeypatch):
    """As many passes as training would take."""
    monkeypatch.setattr(preview, "machine_ceilings", lambda: MACHINE)
    config = default()
    config.data.update({"name": "synthetic", "train_size": 64, "test_size": 64})
    config.model.update({"name": "f1", "width": 512})
    config.epochs, config.batch_size, config.sweep.seed = 1, 8, tuple(range(40))
    (plenty,) = preview.preview(config)
    config.engine.memory_gb = plenty.bytes_per_device / 2**31
    (short,) = preview.preview(config)
    assert plenty.lanes == 40 and plenty.passes == 1
    assert short.lanes < 40 and short.passes * short.lanes >= 40
    assert short.bytes_per_device <= plenty.bytes_per_device / 2
    assert short.seconds >= plenty.seconds


def test_ceilings_are_measured_once(monkeypatch, tmp_path):
    """And kept, unless the machine has other work; a damaged file is replaced."""
    monkeypatch.setenv("SBT_CACHE_DIR", str(tmp_path))
    calls = []

    def measure(precisions, seconds):
        calls.append(precisions)
        return dataclasses.replace(MACHINE, copy=float(len(calls)))

    monkeypatch.setattr(ceilings, "measure_ceilings", measure)

    def ask(busy):
        monkeypatch.setattr(ceilings, "is_busy", lambda: busy)
        machine_ceilings.cache_clear()  # another process
        return machine_ceilings().copy

    try:
        assert [ask(True), ask(True), ask(False), ask(True), ask(False)] == [1, 2, 3, 3, 3]
        (tmp_path / "ceilings.json").write_text("{")
        assert ask(False) == 4 and ask(False) == 4
    finally:
        machine_ceilings.cache_clear()
