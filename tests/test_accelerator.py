"""The accelerator's command: it compares what it should, sees what is wrong, and ends in time."""

import dataclasses
import importlib.util
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from lanes import compiling

import sbt.experiment
from sbt import cli
from sbt.bench import agreement, kernels
from sbt.bench.options import options_of
from sbt.files import write_json
from sbt.nn import conv
from sbt.optim import ROUNDINGS
from sbt.sweep.strategy import Strategy

FILE = Path(__file__).resolve().parent.parent / "experiments" / "accelerator" / "run.py"


def script():
    spec = importlib.util.spec_from_file_location("accelerator_run", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# --- agreement -----------------------------------------------------------------------------------


def test_every_implementation_and_rounding_is_compared(monkeypatch):
    monkeypatch.setattr(agreement, "SHAPES", agreement.SHAPES[:1])
    found = list(agreement.compare([], ["float64"]))
    assert {a.way for a in found} == {*conv.IMPLEMENTATIONS, *ROUNDINGS}
    assert all(a.outcome == "PASS" for a in found)
    for platform in ("cpu", "gpu"):
        used = {strategy.convolution for strategy in agreement.strategies(platform)}
        assert used == set(conv.IMPLEMENTATIONS)
        assert {s.at_once for s in agreement.strategies(platform)} == {0, 1, agreement.TOGETHER}


def test_lanes_equal_the_plain_loop_in_double_precision():
    reference = agreement.plain_loop("convnet")
    with compiling(quickly=True):
        found = list(agreement._lanes("convnet", Strategy(1, "direct"), "float64", reference))
    assert [a.batch_size for a in found] == [4, 8, 16]
    assert all(a.outcome == "PASS" and a.difference < 1e-12 for a in found)


def test_what_is_wrong_fails(monkeypatch):
    monkeypatch.setattr(agreement, "SHAPES", agreement.SHAPES[:1])
    monkeypatch.setitem(conv._RUN, "direct", lambda x, w, window: 1.001 * conv.stock(x, w, window))

    def broken(*_):
        raise NotImplementedError("no such kernel\nhere")

    monkeypatch.setitem(conv._RUN, "packed", broken)
    outcomes = {a.way: a for a in agreement._convolutions("float64")}
    assert outcomes["direct"].outcome == "FAIL"
    assert outcomes["direct"].difference == pytest.approx(1e-3, rel=0.01)
    assert outcomes["packed"].error == "NotImplementedError: no such kernel"
    assert outcomes["stock"].outcome == "PASS"
    page = agreement.markdown(list(outcomes.values()))
    assert page.startswith("3 PASS, 1 FAIL, 1 ERROR.")
    above, _, below = page.partition("## All comparisons")
    assert above.count("FAIL") == 2 and "stock" not in above and "stock" in below


def test_differences_are_those_of_the_worst_layer():
    before = {"a": np.zeros(4), "b": np.zeros(2), "c": np.ones(3)}
    right = {"a": np.full(4, 2.0), "b": np.array([3.0, 4.0]), "c": np.ones(3)}  # norms 4, 5, 0
    found = {"a": np.full(4, 2.2), "b": np.array([3.0, 4.0]), "c": np.array([1.0, 1.0, 1.001])}
    assert agreement.apart(before, right, right) == 0
    # c does not move: its 0.001 is held against a thousandth of 5.
    assert agreement.apart(before, found, right) == pytest.approx(0.2)
    assert agreement.apart(before, {**right, "a": found["a"]}, right) == pytest.approx(0.1)
    lost = {**right, "b": np.array([3.0, np.nan])}
    assert np.isnan(agreement.apart(before, lost, right))
    assert agreement.Agreement("net", "way", 4, "float32", np.nan, 1.0).outcome == "FAIL"


# --- layers by themselves ------------------------------------------------------------------------


def test_layers_are_timed_and_errors_told(monkeypatch):
    def broken(*_):
        raise ValueError("no room")

    monkeypatch.setitem(conv._RUN, "packed", broken)
    monkeypatch.setattr(kernels, "_seconds", lambda compiled, operands: 6e-6)
    found = list(kernels.time_layers([kernels.Layer(4, 3)], 3, (2,), ("float32",), 1))
    times = {one.way: one.microseconds for one in found}
    assert list(times) == list(conv.IMPLEMENTATIONS)
    assert times.pop("packed") is None and "ValueError: no room" in kernels.markdown(found)
    assert list(times.values()) == [pytest.approx(1.0)] * len(times)  # 6 µs, 3 lanes, 2 examples


def test_the_best_blocks_stand_beside_the_implementations():
    like = kernels.Timing("8x8x64", 4, 2, "float32", "implicit", 5.0)
    cut = [
        dataclasses.replace(like, way=f"implicit, warps {w}", microseconds=t)
        for w, t in ((4, 3.0), (8, 2.0), (2, None))
    ]
    table = kernels.markdown([like, *cut]).partition("## ")[0]
    assert "| 8x8x64 | 2 | float32 | - | - | - | 5 | - | warps 8 | 2 |" in table


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The script, whose steps do nothing but what a test has them do."""
    module = script()
    (tmp_path / "machine.json").write_text(json.dumps(MACHINE))
    monkeypatch.setattr(module, "out", tmp_path, raising=False)
    return module


MACHINE = {
    "versions": {"jax": "1", "torch": None},
    "git_revision": "abc",
    "devices": 1,
    "device_kind": "abacus",
    "platform": "wood",
    "cpu_model": "fingers",
    "usable_cores": 10,
    "started": "today",
}


def steps(monkeypatch, module, **does):
    """Stands in for the processes: ``does[step](directory, seconds) -> exit code``."""
    given = []

    def started(command, environment, seconds):
        (name,) = (part.removeprefix("--step=") for part in command if part.startswith("--step="))
        if name == "machine":
            return 0
        given.append((name, seconds - module.GRACE))
        return does[name](module.out / name)

    monkeypatch.setattr(module, "_started", started)
    monkeypatch.setattr(module, "STEPS", dict.fromkeys(does))
    monkeypatch.setattr(module, "SHARES", dict.fromkeys(does, 1))
    return given


def ends(cut=""):
    def does(out):
        (out / "table.md").write_text("# sbt bench\n\nall is well\n\n## Details\n\nmany\n")
        (out / "ended.json").write_text(json.dumps({"cut": cut}))
        return 0

    return does


def test_steps_share_the_time_and_a_crash_costs_no_other_step(monkeypatch, run):
    given = steps(
        monkeypatch, run, a=ends(), b=lambda out: 1, c=ends("after the first"), d=lambda out: -9
    )
    assert run.main([f"--workdir={run.out}", "--minutes=2", "--only=a,b,c,d"]) == 1
    names, seconds = zip(*given, strict=True)
    assert names == ("a", "b", "c", "d")
    # Nothing takes any time here, so that a later step gets what earlier ones left.
    assert seconds == pytest.approx((30, 40, 60, 120), rel=0.05)
    meta = json.loads((run.out / "meta.json").read_text())
    status = {name: step["status"] for name, step in meta["steps"].items()}
    assert status["a"] == "done" and status["c"] == "cut"
    assert status["b"] == "failed (exit code 1)" and "time was over" in status["d"]
    page = (run.out / "summary.md").read_text()
    assert "1 abacus (wood)" in page and "jax 1" in page and "torch" not in page
    assert page.count("all is well") == 2 and "many" not in page and "after the first" in page


def test_the_same_command_does_what_is_left(monkeypatch, run):
    steps(monkeypatch, run, a=ends(), b=ends("later"))
    command = [f"--workdir={run.out}", "--only=a,b"]
    assert run.main(command) == 0
    given = steps(monkeypatch, run, a=ends(), b=ends())
    assert run.main(command) == 0
    assert [name for name, _ in given] == ["b"]
    assert run.main(command) == 0 and len(given) == 1


def test_what_is_refused(monkeypatch, run, capsys):
    given = steps(monkeypatch, run, a=ends())
    assert run.main([f"--workdir={run.out}", "--only=z"]) == 2
    assert "--only=z: is no step" in capsys.readouterr().err
    assert run.main([f"--workdir={run.out}", "--only=a"]) == 0
    (run.out / "machine.json").write_text(json.dumps(MACHINE | {"device_kind": "rule"}))
    assert run.main([f"--workdir={run.out}", "--only=a"]) == 2
    assert "holds what abacus did, and here is rule" in capsys.readouterr().err
    assert len(given) == 1


def test_figures_without_their_data_are_left_out(monkeypatch, tmp_path):
    module = script()
    left_out = module.missing(("quickstart.py", "masters_luschi_2018/fig01.py"), str(tmp_path))
    assert list(left_out) == ["masters_luschi_2018/fig01.py"]
    assert "cifar10 does not lie in" in left_out["masters_luschi_2018/fig01.py"]
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(module, "SMALLEST", ("masters_luschi_2018/fig01.py",))
    monkeypatch.setattr(module, "_started", None)  # nothing is
    said = module.figures(module.Step("figures", tmp_path, time.monotonic() + 60, quick=True))
    assert said.startswith("masters_luschi_2018/fig01.py (cifar10 does not lie in")


def test_figures_say_what_is_finished(monkeypatch, tmp_path):
    module = script()
    config = sbt.experiment.load_config("quickstart.py:tiny", ["--config.epochs=1"])
    config.data.train_size, config.sweep.batch_size = 32, (16, 32)

    def started(command, environment, seconds):
        (directory,) = (p.removeprefix("--workdir=") for p in command if "--workdir" in p)
        assert command[1:5] == ["-m", "sbt.cli", "run", "quickstart.py:tiny"]
        with compiling(quickly=True):
            sbt.run(config, directory, progress=False)

    monkeypatch.setattr(module, "_started", started)
    step = module.Step("figures", tmp_path, time.monotonic() + 600, quick=True)
    assert module.figures(step) == ""
    page = (tmp_path / "quickstart-tiny.md").read_text()
    assert page.startswith("`quickstart.py:tiny`: 8 of 8 runs are finished; done.")
    assert "\n* " in page and (tmp_path / "quickstart-tiny" / "report.html").exists()
    monkeypatch.setattr(module, "_started", lambda *_: 130)
    step = module.Step("figures", tmp_path / "other", time.monotonic() + 600, quick=True)
    assert module.figures(step) == "to be gone on with: quickstart.py:tiny"
    assert "nothing yet" in (tmp_path / "other" / "quickstart-tiny.md").read_text()


def test_steps_time_what_sbt_bench_takes(monkeypatch, tmp_path):
    """Every flag is one of ``sbt bench``, and what it leaves out is told."""
    module = script()
    cells = [{"skipped": module.NO_TIME}, {"skipped": ""}, {"skipped": "needs a lane"}]
    given = []

    def main(argv):
        given.append(options_of(cli.parsers()[1]["bench"].read(argv[1:]), "gpu"))
        write_json(given[-1].out / "bench.json", {"cells": cells, "complete": False})
        return 0

    monkeypatch.setattr(cli, "main", main)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(kernels, "time_layers", lambda **_: [])
    step = module.Step("bench", tmp_path, time.monotonic() + 120, quick=False)
    assert module.bench(step) == "1 of 3 settings left out"
    assert given[0].minutes == pytest.approx(2, rel=0.05) and 2 in given[0].batch_sizes
    assert module.tuning(step).startswith("strategies 1 of 3 settings left out; lanes")
    assert [options.out.name for options in given[1:]] == list(module.TUNED)
    assert {"vmap/implicit", "auto"} < set(given[1].strategies)
    cells[:] = cells[1:]
    assert module.bench(step) == "not all repeats done"


def test_a_step_that_does_not_end_is_ended(monkeypatch):
    module = script()
    monkeypatch.setattr(module, "GRACE", 0.2)
    began = time.monotonic()
    assert module._started(["sh", "-c", "trap '' INT; exec sleep 60"], {}, 0.5) == -15
    assert time.monotonic() - began < 30


def test_the_cpu_stays_beside_an_accelerator(monkeypatch, tmp_path):
    module = script()
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    environment = module._environment(str(tmp_path))
    assert environment["JAX_PLATFORMS"] == "cuda,cpu"
    assert environment["TFDS_DATA_DIR"] == str(tmp_path)
    monkeypatch.setenv("JAX_PLATFORMS", "")
    assert module._environment(None)["JAX_PLATFORMS"] == ""
    assert jax.devices("cpu")
