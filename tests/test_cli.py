"""The command line: what it does, what it refuses, and how it says so."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sbt import cli
from sbt.config import default
from sbt.errors import UserError
from sbt.experiment import load_config
from sbt.listing import SECTIONS

ROOT = Path(__file__).resolve().parent.parent
QUICK = str(ROOT / "experiments" / "quickstart.py")


@pytest.fixture
def experiment(tmp_path):
    """A sweep of four short runs."""
    file = tmp_path / "tiny.py"
    file.write_text(
        '"""Four runs."""\n'
        "from sbt.config import default\n"
        "def get_config(variant=''):\n"
        "    config = default()\n"
        "    config.name = 'tiny'\n"
        "    config.data = {'name': 'synthetic', 'train_size': 64, 'test_size': 32,\n"
        "                   'image_shape': (4, 4, 1)}\n"
        "    config.model.name = 'mlp'\n"
        "    config.epochs = 2\n"
        "    config.sweep.batch_size = (4, 8)\n"
        "    config.sweep.base_lr = (0.001, 0.01)\n"
        "    return config\n"
    )
    return str(file)


def run(capsys, *arguments):
    code = cli.main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_run_report_and_resume(capsys, tmp_path, experiment):
    directory = tmp_path / "work"
    code, out, err = run(capsys, "run", experiment, "--workdir", str(directory))
    assert code == 0, err
    assert "4 runs in 1 cohort" in out
    assert "best accuracy" in out
    meta = json.loads((directory / "meta.json").read_text())
    assert meta["status"] == "done"
    assert meta["versions"]["jax"]
    assert meta["compile_seconds"] > 0

    # A finished directory is read, not trained.
    before = (directory / "results.nc").read_bytes()
    code, out, _ = run(capsys, "run", experiment, f"--workdir={directory}")
    assert code == 0
    assert "compil" not in out
    assert (directory / "results.nc").read_bytes() == before

    code, out, _ = run(capsys, "report", str(directory))
    assert code == 0
    page = Path(out.splitlines()[0])
    assert page.name == "report.html"
    assert page.read_text().startswith("<!")


def test_overrides_reach_the_config(experiment):
    config = load_config(
        experiment,
        [
            "--config.sweep.seed=(0, 1)",
            "--config.rule.name=sngm",
            "--config.rule.momentum=0.5",
            "--config.schedule.name=cosine",
            "--config.base_lr=0.25",
        ],
    )
    assert config.sweep.seed == (0, 1)
    assert config.rule.name == "sngm"
    assert config.rule.momentum == 0.5
    assert config.schedule.name == "cosine"
    assert config.base_lr == 0.25


@pytest.mark.parametrize("measure", [False, True])
def test_plan_trains_nothing(capsys, experiment, monkeypatch, tmp_path, measure):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "plan", experiment, *["--measure"] * measure)
    assert code == 0, err
    assert ("counts of operations" in out) is not measure
    assert "peak memory" in out
    assert "cohort 1 of 1: m = " in err
    assert "nothing trained" in out
    assert not (tmp_path / "runs").exists()


def test_list_names_experiments_models_and_rules(capsys):
    code, out, _ = run(capsys, "list", "all")
    assert code == 0
    for name in ("quickstart.py", "fig01.py", "resnet32", "464,154", "sngm"):
        assert name in out


def test_list_fits_a_terminal_and_takes_a_section(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, everything, _ = run(capsys, "list", "all")
    assert max(map(len, everything.splitlines())) <= 80
    _, sections, _ = run(capsys, "list")
    assert all(name in sections for name in SECTIONS) and len(sections.splitlines()) <= 32
    for section, name in (
        ("rules", "sngm"),
        ("rule", "nesterov=False|True"),
        ("models", "resnet32"),
        ("experiments", "masters_luschi_2018/fig01.py"),
        ("measurements", "hessian_trace"),
        ("schedules", "after_warmup=False"),
        ("batch-schedules", "adabatch"),
        ("config.noise", "lr-batch"),
    ):
        code, out, _ = run(capsys, "list", section)
        assert code == 0
        assert name in out
        assert len(out.splitlines()) < len(everything.splitlines()) / 2
    code, _, err = run(capsys, "list", "ruels")
    assert code == cli.EXIT_ERROR
    assert "'ruels'" in err or "ruels" in err
    assert "rules" in err


def test_experiments_that_ship_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (
        "masters_luschi_2018/fig01.py",
        "experiments/masters_luschi_2018/fig01.py",
        "./experiments/masters_luschi_2018/fig01.py:small",
    ):
        assert "fig01" in load_config(path).name
    # The user's own file of that name goes before it.
    (tmp_path / "quickstart.py").write_text(
        "import sbt\ndef get_config():\n    return sbt.default_config()"
    )
    assert load_config("quickstart.py").name == "sweep"
    assert load_config("experiments/quickstart.py").name == "quickstart"


def test_neighbours_of_an_experiment_are_its_own(tmp_path, monkeypatch):
    """Whatever the caller has loaded under their names, and without a trace afterwards."""
    for folder, name in (("a", "first"), ("b", "second")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "shared.py").write_text(f"NAME = {name!r}")
        (tmp_path / folder / "random.py").write_text("raise RuntimeError('not the library')")
        (tmp_path / folder / "exp.py").write_text(
            "import random, shared, sbt\n"
            "def get_config():\n    config = sbt.default_config()\n"
            "    config.name = shared.NAME\n    return config"
        )
    monkeypatch.syspath_prepend(str(tmp_path / "a"))
    import random  # noqa: F401  loaded, as in every program

    import shared

    assert load_config(str(tmp_path / "b" / "exp.py")).name == "second"
    assert load_config(str(tmp_path / "a" / "exp.py")).name == "first"
    assert sys.modules["shared"] is shared
    del sys.modules["shared"]


REFUSED = [
    ("run nowhere.py", "nowhere.py", "sbt list"),
    ("run {quick} --config.base_rl=1", "base_rl", "base_lr"),
    ("run {quick} --config.rule.momntum=1", "momntum", "momentum"),
    ("run {quick} --config.sweep.base_rate=(1,)", "base_rate", "base_lr"),
    ("run {quick} --config.nothing.at.all=1", "nothing", "Known"),
    ("run {quick} --config.batch_size=many", "batch_size", "many"),
    ("run {quick} --config.rule.name=sgdd", "sgdd", "sgd"),
    ("run {quick} --config.model.name=alexnt", "alexnt", "alexnet"),
    ("run {quick} --config.schedule.name=step", "step", "steps"),
    ("run {quick} --config.sweep.batch_size=()", "sweep.batch_size", "at least one"),
    ("run {quick} --config.sweep.base_lr=(-0.5,)", "-0.5", "at least 0"),
    ("run {quick} --config.base_lr=-1.0", "-1.0", "at least 0"),
    ("run {quick} --config.sweep.batch_size=(2,4096)", "4096", "1440"),
    ("run {quick} --config.micro_batch=3", "micro_batch", "divisor"),
    ("run {quick} --config.bn_batch=64", "bn_batch", "64"),
    ("run {quick} --config.epochs=0", "epochs", "at least 1"),
    ("run {quick} --config.engine.strategy=fast", "fast", "vmap"),
    ("run {quick} --config.data.name=cifar11", "cifar11", "cifar10"),
    ("run {quick}:huge", "huge", "tiny"),
    ("run {quick} --speed=3", "--speed", "workdir"),
    ("run", "needs CONFIG", "sbt run --help"),
    ("report {tmp}/none", "none", "sbt run"),
    ("report", "needs DIR", "sbt report --help"),
    ("dance", "dance", "report"),
]


@pytest.mark.parametrize("command,problem,remedy", REFUSED, ids=[r[0][:60] for r in REFUSED])
def test_mistakes_get_one_clear_message(capsys, tmp_path, monkeypatch, command, problem, remedy):
    monkeypatch.chdir(tmp_path)
    arguments = [a.format(quick=QUICK, tmp=tmp_path) for a in command.split(" ")]
    code, _, err = run(capsys, *arguments)
    assert code == cli.EXIT_ERROR
    assert err.startswith("error: ")
    assert problem in err and remedy in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


def test_missing_data_set_says_what_to_do(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("SBT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # as if it were not installed
    code, _, err = run(
        capsys, "run", QUICK, "--config.data.name=cifar10", "--workdir", f"{tmp_path}/w"
    )
    assert code == cli.EXIT_ERROR
    assert "cifar10" in err
    assert not (tmp_path / "w").exists()


def test_errors_of_the_config_file_itself(capsys, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("def get_config(:\n")
    assert run(capsys, "run", str(broken))[0] == cli.EXIT_ERROR
    empty = tmp_path / "empty.py"
    empty.write_text("x = 1\n")
    code, _, err = run(capsys, "run", str(empty))
    assert code == cli.EXIT_ERROR and "get_config" in err
    misspelt = tmp_path / "misspelt.py"
    misspelt.write_text(
        "from sbt.config import default\n"
        "def get_config():\n    c = default()\n    c.batchsize = 3\n    return c\n"
    )
    code, _, err = run(capsys, "run", str(misspelt))
    assert code == cli.EXIT_ERROR and "batchsize" in err and "batch_size" in err


def test_no_traceback_from_the_real_command():
    done = subprocess.run(
        [sys.executable, "-m", "sbt.cli", "run", QUICK, "--config.epochs=-1"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == cli.EXIT_ERROR
    assert "Traceback" not in done.stderr
    assert "config.epochs" in done.stderr


def test_help_without_arguments(capsys):
    assert run(capsys)[0] == cli.EXIT_ERROR
    code, out, _ = run(capsys, "help")
    assert code == 0
    assert "sbt run CONFIG" in out


@pytest.mark.parametrize("file", sorted((ROOT / "experiments").rglob("*.py")), ids=lambda f: f.stem)
def test_every_experiment_gives_a_valid_config(file):
    if "def get_config" not in file.read_text():
        pytest.skip("shared by others")
    for variant in ("", ":small", ":tiny"):
        try:
            config = load_config(f"{file}{variant}")
        except UserError as error:
            assert variant and "variant" in error.problem, error
            continue
        assert set(config) == set(default())
        assert any(values for values in config.sweep.values())


def test_a_config_is_found_at_home_and_below_colons(tmp_path, monkeypatch, experiment):
    home = tmp_path / "a:b"
    home.mkdir()
    text = Path(experiment).read_text()
    (home / "mine.py").write_text(text.replace("'tiny'", "variant or 'plain'"))
    monkeypatch.setenv("HOME", str(home))
    assert load_config("~/mine.py").name == "plain"
    assert load_config(f"{home}/mine.py:small").name == "small"
    for given in ("gs://bucket/mine.py", "~nobody_here/mine.py", "x" * 300, "a\0.py"):
        with pytest.raises(UserError):
            load_config(given)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_output_that_nobody_can_take_is_one_line():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "sbt.cli", "report", "--help"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == cli.EXIT_ERROR
    assert done.stderr.startswith("error: standard output: No space left")
    assert len(done.stderr.splitlines()) == 2
