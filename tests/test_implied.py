"""The table of what a config's laws make of each batch size, in a plan and in a report."""

import json

import jax
import numpy as np
import pytest

import sbt
from sbt import implied
from sbt.cli import main
from sbt.report import write_report
from sbt.sweep.prepare import prepare
from sbt.sweep.problem import Parts

GPT = {"name": "gpt", "width": 8, "depth": 1, "heads": 2}
TEXT = {
    "data": {"name": "markov", "seq_len": 8, "train_size": 64, "test_size": 8},
    "model": GPT,
    "epochs": 1,
    "base_lr": 0.01,
    "rule": {"name": "optax.adamw", "b1": 0.8},
    "scaling": {"name": "half_life", "power": 0.5, "timescale": 0.25},
    "sweep": {
        "batch_size": (1, 4),
        "base_lr": (0.01, 0.04),
        "scaling__b2_tokens": (32.0, 64.0),
        "seed": (0, 1),
    },
}


@pytest.fixture(autouse=True)
def standard_promotion():
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_rows_hold_the_rate_and_what_the_law_changes():
    small, large = prepare(TEXT, Parts()).laws
    assert (small.rule, small.law) == ("optax.adamw", "half_life")
    assert [(row.batch_size, row.tokens) for row in (small, large)] == [(1, 8), (4, 32)]
    assert set(small.numbers) == {"learning_rate", "b2", "weight_decay"}
    assert large.numbers["learning_rate"] == pytest.approx((0.02, 0.08))
    assert large.numbers["b2"] == pytest.approx((2**-1, 2**-0.5))
    # m / (tau eta D), the smallest at the largest rate
    assert large.numbers["weight_decay"] == pytest.approx(
        [4 / (0.25 * r * 64) for r in (0.08, 0.02)]
    )
    table = [small, large]
    assert implied.of_json(json.loads(json.dumps(implied.as_json(table)))) == table
    head, lines = implied.words(table)
    assert head == ["m", "tokens", "η", "β2", "λ"]
    assert lines[1] == ["4", "32", "0.02 … 0.08", "0.5 … 0.70710678", "3.125 … 12.5"]


def test_runs_of_several_rules_and_laws_have_rows_of_their_own():
    config = {
        **TEXT,
        "scaling": {"power": 0.0},
        "sweep": {"scaling": ("fixed", "half_life"), "batch_size": (4, 1)},
        "follow": {"scaling__b2_tokens": ("scaling", (("half_life", 32.0),))},
    }
    found = [(row.law, row.batch_size, row.numbers) for row in prepare(config, Parts()).laws]
    rate = {"learning_rate": (0.01, 0.01)}
    assert [(law, m) for law, m, _ in found] == [
        ("fixed", 1), ("fixed", 4), ("half_life", 1), ("half_life", 4)]  # fmt: skip
    assert found[1][2] == rate and found[3][2] == rate | {"b2": (0.5, 0.5)}
    head, lines = implied.words(prepare(config, Parts()).laws)
    assert head[0] == "law" and lines[1][-1] == "–"


def test_nothing_follows_m_nothing_is_told():
    config = {**TEXT, "scaling": {"name": "fixed"}, "lr_scaling": "none", "sweep": {}}
    assert prepare(config, Parts()).laws == []


def test_the_table_is_in_the_plan_and_in_the_report(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    file = tmp_path / "mine.py"
    file.write_text(f"def get_config():\n    return {TEXT!r}\n")
    assert main(["plan", str(file)]) == 0
    told = capsys.readouterr().out
    assert implied.TITLE in told and "0.5 … 0.70710678" in told
    ds = sbt.run(TEXT, tmp_path / "run")
    assert np.isfinite(ds["loss"]).all()
    page = write_report(ds, tmp_path / "run", {"status": "done"})[0].read_text()
    assert implied.TITLE in page and "0.5 … 0.70710678" in page
    plain = write_report(ds.assign_attrs(implied="[]"), tmp_path / "plain", {})[0].read_text()
    assert implied.TITLE not in plain
