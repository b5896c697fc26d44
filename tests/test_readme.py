"""The examples of the README run, or at least parse."""

import re
from pathlib import Path

import numpy as np
import pytest

import sbt
from sbt.sweep.grid import make_grid

TEXT = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(heading=""):
    """Python blocks of a section, or of the whole file."""
    text = re.search(rf"^## {heading}$(.*?)^## ", TEXT, re.M | re.S)[1] if heading else TEXT
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


@pytest.mark.parametrize("block", blocks())
def test_examples_parse(block):
    compile(block, "README.md", "exec")


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
