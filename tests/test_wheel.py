"""What an installed sbt has: the experiments, found without a checkout."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WHEEL = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]

TRAIN = """
import sbt
from sbt.experiment import load_config
config = load_config("experiments/masters_luschi_2018/fig13.py:small")
assert config.sweep.bn_batch
config = load_config("masters_luschi_2018/fig01.py:small")  # imports its neighbours
config.data = {"name": "synthetic", "train_size": 32, "test_size": 16, "image_shape": (2, 2, 1)}
config.model = {"name": "mlp"}
config.epochs = 1
config.sweep = {"batch_size": (4,)}
print(sbt.run(config).accuracy.sizes, sbt.__version__)
"""


def laid_out(target):
    """The files of a wheel, from the table in pyproject.toml."""
    for folder in WHEEL["only-include"]:
        to = target / WHEEL["sources"].get(folder, folder)
        shutil.copytree(ROOT / folder, to, ignore=shutil.ignore_patterns("__pycache__", "results"))


def built(target):
    if find_spec("uv") is None:
        pytest.skip("uv builds the wheel")
    command = [sys.executable, "-m", "uv", "build", "--wheel", "--quiet", "--out-dir", target, ROOT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        if "hatchling" in done.stderr and "fetch" in done.stderr.lower():
            pytest.skip("no network to build with")
        raise AssertionError(done.stderr)
    (wheel,) = target.glob("*.whl")
    assert wheel.name.startswith("small_batch_training-")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(target)
    assert "sbt/experiments/keskar_2017/fig03_fig07_paper.json" in names
    assert not any("results/" in name or name.startswith("experiments/") for name in names)
    assert sum(info.file_size for info in archive.infolist()) < 3 * 2**20


@pytest.mark.parametrize("make", [laid_out, pytest.param(built, marks=pytest.mark.slow)])
def test_experiments_come_with_the_package(tmp_path, make):
    make(tmp_path / "site")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "JAX_PLATFORMS": "cpu"}

    def python(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=elsewhere,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "masters_luschi_2018/fig01.py" in python("-m", "sbt.cli", "list", "experiments")
    assert "'batch_size': 1" in python("-c", TRAIN)


def test_one_version():
    import sbt

    assert PROJECT["tool"]["hatch"]["version"]["path"] == "sbt/__init__.py"
    assert sbt.__version__.count(".") == 2
