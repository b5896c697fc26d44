"""The pages of rules, schedules and measurements: every entry, its formula and its picture."""

import re
from pathlib import Path

import choices
import numpy as np
import pictures
import pytest
import xarray as xr

from sbt.config import SECTIONS
from sbt.measure import MEASUREMENTS

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = {
    "rules.md": ("rule",),
    "schedules.md": ("schedule", "batch_schedule", "momentum_schedule", "noise", "scaling"),
    "measurements.md": ("measure",),
}


@pytest.fixture(scope="module")
def pages():
    return {page: choices.on_page_markdown((DOCS / page).read_text()) for page in PAGES}


@pytest.mark.parametrize("page, section", [(p, s) for p, some in PAGES.items() for s in some])
def test_a_page_shows_every_entry_once(pages, page, section):
    found = re.findall(rf"^### .* {{#{section}-(.*)}}$", pages[page], re.M)
    known = MEASUREMENTS if section == "measure" else SECTIONS[section]
    assert sorted(found) == sorted(known)


def test_an_entry_that_is_not_there_is_no_page():
    with pytest.raises(KeyError):
        choices.on_page_markdown("::: each rule nonesuch")


def test_a_rule_without_a_formula_of_its_own_shows_that_of_the_function_it_names(pages):
    for rule, function in (
        ("shb", "scale_by_shb"),
        ("mix_shb", "mix_coefficients"),
    ):
        entry = pages["rules.md"].partition(f"#rule-{rule}}}")[2].partition("\n### ")[0]
        assert f"::: sbt.optim.shb.{function}\n" in entry
    measured = pages["measurements.md"].partition("#measure-sharpness}")[2].partition("\n### ")[0]
    assert "::: sbt.measure.sharpness.sharpness\n" in measured and "*Cost:* heavy." in measured


def test_schedules_are_drawn_in_the_colour_of_the_text(pages):
    drawn = re.findall("<figure.*?</figure>", pages["schedules.md"])
    undrawn = len(SECTIONS["scaling"]) + 2  # absa, and the momentum that is left to the rule
    entries = len(re.findall("^### ", pages["schedules.md"], re.M))
    assert len(drawn) == entries - undrawn
    assert all("currentColor" in one and pictures.INK not in one for one in drawn)
    assert sum(map(len, drawn)) < 400_000


def results(alpha):
    """Of a rule whose best rate is 2⁻⁴ m^α; beside it SGD."""
    m, rates, seeds = np.array([4, 16, 64, 256]), 4.0 ** np.arange(-8, 6), np.arange(3)
    away = np.log2(rates)[None, :, None] - (-4 + alpha * np.log2(m))[:, None, None]
    accuracy = np.broadcast_to(1 - 0.01 * away**2, (4, 14, 3))
    coords = {"batch_size": m, "base_lr": rates, "seed": seeds}
    ds = xr.Dataset({"accuracy": (tuple(coords), accuracy)}, coords)
    ds["diverged"] = ds.accuracy < -1
    return xr.concat([ds, ds], xr.DataArray(["sgd", "sngm"], dims="rule", name="rule"))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_the_exponent_of_a_best_rate_that_is_a_power_of_m(alpha):
    assert pictures.exponent_of(results(alpha).sel(rule="sngm")) == pytest.approx(alpha, abs=1e-9)


def test_a_rule_is_drawn_from_kept_results_beside_sgd(monkeypatch):
    monkeypatch.setattr(pictures, "_kept", lambda: results(0.5))
    drawn = pictures.of("rule", "sngm")
    assert "η* ∝ m^0.5" in drawn and "best accuracy" in drawn
    assert drawn.startswith("<figure") and "\n" not in drawn and len(drawn) < 40_000
    assert pictures.of("rule", "lars") == ""  # of which nothing is kept
