"""What a user adds is one function and no edit anywhere else."""

import json
import re
from pathlib import Path
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sbt
from sbt import report
from sbt.cli import main
from sbt.data.registry import DATASETS
from sbt.errors import UserError
from sbt.measure.registry import MEASUREMENTS, Labelled
from sbt.models import MODELS
from sbt.models.classifier import Classifier, Size, flatten
from sbt.optim import RULES
from sbt.ranges import FRACTION, POSITIVE
from sbt.report.claims import CLAIMS
from sbt.schedules import SCHEDULES
from sbt.train.objective import OBJECTIVES

EXPERIMENT = """
import sbt
from sbt.report import FAILS, HOLDS, Verdict, claim


@claim
def best_exceeds(view, value):
    found = view.best.value
    outcome = HOLDS if found > value else FAILS
    return Verdict(f"The best cell exceeds {value}", outcome, f"it reaches {found:.2f}")


def get_config():
    config = sbt.default_config()
    config.data = {"name": "synthetic", "train_size": 64, "test_size": 32, "image_shape": (2, 2, 1)}
    config.model = {"name": "mlp", "hidden": (4,)}
    config.epochs = 1
    config.sweep.batch_size = (4, 8)
    config.report.figure = "Ours, Fig. 1"
    config.report.claims = (best_exceeds(0.0), best_exceeds(value=1.0))
    return config
"""


def test_a_claim(tmp_path, capsys):
    """It travels with the results by name; a session that does not know it says so in a line."""
    file, directory = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(EXPERIMENT)
    assert main(["run", str(file), "--workdir", str(directory)]) == 0
    try:
        yes, no = report.verdicts(report.View(sbt.load(directory)))
        assert (yes.verdict, yes.source) == (report.HOLDS, "Ours, Fig. 1")
        assert no.verdict == report.FAILS and no.claim == "The best cell exceeds 1.0"
        assert main(["report", str(directory)]) == 0
        assert "The best cell exceeds 0.0" in (directory / "report.html").read_text()
    finally:
        del CLAIMS["best_exceeds"]
    assert main(["report", str(directory)]) == 0
    page = (directory / "report.html").read_text()
    assert "Not judged: &#x27;best_exceeds&#x27;, a claim that is unknown here." in page
    assert main(["run", str(file), "--workdir", str(directory)]) == 0  # registers it again
    del CLAIMS["best_exceeds"]
    capsys.readouterr()


# --- what a run is made of ------------------------------------------------------------------------


@pytest.fixture
def toys():
    """A rule, a schedule, a model, an objective and a measurement, registered as anybody would."""
    owners = (RULES, SCHEDULES, MODELS, OBJECTIVES, MEASUREMENTS)

    @RULES.register("toy_rule", source="ours")
    def toy_rule(learning_rate, gain: Annotated[float, POSITIVE] = 1.0, flip: bool = False):
        return optax.sgd(-gain * learning_rate if flip else gain * learning_rate)

    @SCHEDULES.register("toy_schedule", source="ours")
    def toy_schedule(progress, slope: Annotated[float, FRACTION] = 0.5):
        return 1 - slope * progress

    @MODELS.register("toy_model", source="ours", input_shape=(2, 2, 1))
    class ToyModel(Classifier):
        width: Size = 3

        @nn.compact
        def __call__(self, x, train):
            return nn.Dense(self.num_classes)(nn.tanh(nn.Dense(self.width)(flatten(x))))

    @OBJECTIVES.register("toy_objective", source="ours")
    def toy_objective(loss, scale: Annotated[float, POSITIVE] = 2.0):
        def scaled(forward, batch):
            value, aux = loss(forward, batch)
            return scale * value, aux

        return scaled

    @MEASUREMENTS.register("toy_norm", cost="passes over the data", source="ours")
    def toy_norm(run, *, power: Annotated[float, POSITIVE] = 2.0):
        total = sum(jnp.sum(jnp.abs(leaf) ** power) for leaf in jax.tree.leaves(run.params))
        return {"toy_norm": Labelled(total, (), "", "sum of |w|^p")}

    yield
    for owner in owners:
        for name in [name for name in owner if name.startswith("toy_")]:
            del owner[name]


TOY = {
    "data": {"name": "synthetic", "train_size": 32, "test_size": 8, "image_shape": (2, 2, 1)},
    "model": {"name": "toy_model", "width": 4},
    "rule": {"name": "toy_rule"},
    "schedule": {"name": "toy_schedule"},
    "objective": {"name": "toy_objective"},
    "batch_size": 8,
    "epochs": 2,
    "measure": {"names": ("toy_norm",), "toy_norm": {"power": 1.0}},
    "sweep": {"rule__gain": (1.0, 0.5), "schedule__slope": (0.0, 1.0)},
}


def test_a_rule_a_schedule_a_model_an_objective_and_a_measurement(toys, tmp_path):
    """Each trains in lanes, its numbers as axes of one program."""
    results = sbt.run(TOY, tmp_path / "run", progress=False)
    assert results.test_accuracy.shape == (2, 2, 2)
    assert np.isfinite(results.toy_norm).all()
    meta = json.loads((tmp_path / "run" / "meta.json").read_text())
    assert len(meta["cohorts"]) == 1
    # Twice the loss at half the gain takes the steps of plain SGD.
    plain = TOY | {"objective": {"name": "standard"}, "rule": {"name": "sgd"}, "measure": {}}
    plain["sweep"] = {"schedule__slope": (0.0, 1.0)}
    expected = sbt.run(plain, progress=False)
    halved = results.sel(rule__gain=0.5)
    np.testing.assert_allclose(halved.train_loss, 2 * expected.train_loss, rtol=1e-5)
    np.testing.assert_allclose(halved.test_loss, expected.test_loss, rtol=1e-5)


def test_what_a_toy_refuses_and_how_it_is_listed(toys, capsys):
    for section, field, value in (
        ("rule", "gain", 0.0),
        ("rule", "flip", 1),
        ("schedule", "slope", 2.0),
        ("model", "width", 0),
        ("objective", "scale", -1.0),
    ):
        with pytest.raises(UserError, match=f"config.{section}.{field}"):
            sbt.run(TOY | {"sweep": {}, section: {"name": TOY[section]["name"], field: value}})
    with pytest.raises(UserError, match=r"config\.measure\.toy_norm\.power"):
        sbt.run(TOY | {"measure": {"names": ("toy_norm",), "toy_norm": {"power": 0.0}}})
    for section, name in (("rules", "toy_rule"), ("measurements", "toy_norm")):
        assert main(["list", section]) == 0
        assert name in capsys.readouterr().out


def test_the_examples_of_the_page_on_architecture():
    """As printed, with the names that this file imports."""
    page = (Path(__file__).parent.parent / "docs" / "architecture.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    names = {**globals(), **{name: getattr(report, name) for name in report.__all__}}
    names["from_examples"] = sbt.from_examples
    exec(block, names)
    added = (
        (RULES, "scaled_sgd"),
        (SCHEDULES, "falling"),
        (MODELS, "two_layers"),
        (DATASETS, "ramp"),
        (MEASUREMENTS, "norm"),
        (CLAIMS, "best_exceeds"),
    )
    try:
        assert RULES["scaled_sgd"].numbers == {"gain": 1.0}
        assert float(SCHEDULES["falling"](0.5)) == 0.75
        assert MODELS["two_layers"].values["width"] == 64
        assert DATASETS["ramp"].values["slope"] == 1.0
        assert MEASUREMENTS["norm"].facts["cost"] == "passes over the data"
        assert names["best_exceeds"](0.9) == ("best_exceeds", {"value": 0.9})
    finally:
        for owner, name in added:
            del owner[name]
