"""The notebooks run from top to bottom, and show figures to whoever only reads them."""

import json
from pathlib import Path

import jax
import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)


def code(file):
    return [c for c in json.loads(file.read_text())["cells"] if c["cell_type"] == "code"]


@every_notebook
def test_notebook_runs(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    with jax.numpy_dtype_promotion("standard"):  # as users have it
        for cell in code(file):
            source = "".join(cell["source"])  # a string or, as editors save it, a list of lines
            exec(compile(source, f"{file.name}:{cell['id']}", "exec"), names)
    assert names


@every_notebook
def test_notebook_was_run_in_order_and_keeps_its_pictures(file):
    cells = code(file)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output["output_type"] == "error" for output in outputs)
    assert file.stat().st_size < 600_000
