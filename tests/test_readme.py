"""The examples of the README run, or at least parse."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import sbt
from sbt import cli
from sbt.sweep.grid import make_grid

TEXT = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(heading=""):
    """Python blocks of a section, or of the whole file."""
    text = re.search(rf"^## {heading}$(.*?)^## ", TEXT, re.M | re.S)[1] if heading else TEXT
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


@pytest.mark.parametrize("block", blocks())
def test_examples_parse(block):
    compile(block, "README.md", "exec")


SHRUNK = (
    "--config.data.name=synthetic",
    "--config.data.train_size=32",
    "--config.data.test_size=16",
    "--config.data.image_shape=(32,32,3)",
    "--config.model.name=mlp",
    "--config.epochs=1",
    "--config.sweep.batch_size=(4,)",
    "--config.sweep.base_lr=(0.01,0.02)",
)


def test_the_lines_that_train_a_grid_run_as_printed(tmp_path, monkeypatch, capsys):
    """In their order, with a grid that takes seconds in place of days."""
    monkeypatch.chdir(tmp_path)
    section = re.search(r"^## Train a grid$(.*?)^The same", TEXT, re.M | re.S)[1]
    lines = [shlex.split(line, comments=True)[1:] for line in section.strip().splitlines()]
    assert [line[0] for line in lines] == ["list", "plan", "run", "run", "report"]
    for line in lines:
        shrunk = SHRUNK if line[0] in ("plan", "run") else ()
        assert cli.main([*line, *shrunk]) == 0, capsys.readouterr().err
    ds = sbt.load("runs/fig01")
    assert ds.sizes["seed"] == 3 and bool(ds.accuracy.notnull().all())
    assert (tmp_path / "runs/fig01/report.html").exists()


def test_following_a_sweep(capsys):
    (block,) = blocks("Follow it, and split it into jobs")
    exec(block, {})
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in told] == ["epoch 1", "epoch 2", "epoch 3"]
    assert all(line.endswith(("m = 8", "m = 32")) for line in told)


def test_update_rules():
    (block,) = blocks("Update rules")
    names: dict = {}
    exec(block, names)
    losses = names["losses"]
    assert losses.shape == (3,)
    assert float(losses.min()) < 0.1 < float(losses.max())
    assert names["ds"].accuracy.shape == (2, 2)
    assert np.all(names["ds"].train_loss.notnull())
    grid = make_grid(sbt.config.complete(names["config"]))
    assert grid.shape == (2, 2, 3)
