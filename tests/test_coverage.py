"""Every figure and table of the papers: it has an experiment with claims, or a reason."""

import pytest
import toy

from sbt import coverage
from sbt.cli import main
from sbt.experiment import as_published

NUMBERED = {
    "Masters & Luschi 2018": {"Fig.": 18},
    "Keskar et al. 2017": {"Fig.": 8, "Table": 7},
    "Gao & Zhong 2020": {"Fig.": 16},
    "Marek et al. 2025": {"Fig.": 10},
}
PAPERS = {
    *NUMBERED, "Zhao et al. 2020 (SNGM)", "Wang et al. 2024", "Zhang & Cutkosky 2024",
    "Sato & Iiduka 2024", "Dang et al. 2024",
}  # fmt: skip


@pytest.fixture(scope="module")
def shown():
    return list(coverage.shown())


def test_nothing_that_a_paper_numbers_is_missing(shown):
    assert {one.paper for one in shown} == PAPERS
    for paper, kinds in NUMBERED.items():
        names = [one.what for one in shown if one.paper == paper]
        for kind, count in kinds.items():
            for number in range(1, count + 1):
                assert any(n.rstrip("ab") == f"{kind} {number}" for n in names), (paper, number)


def test_each_has_claims_or_no_config_and_evidence_or_a_reason(shown):
    for one in shown:
        assert one.evidence or one.missing, one
        if not one.file:
            assert not one.evidence
            continue
        name, _, variant = one.file.partition(":")
        text = (toy.EXPERIMENTS / name).read_text()
        if "def get_config" in text:
            assert one.claims, one
            assert variant in toy.module_of(name).VARIANTS


def test_evidence_is_what_its_command_says(shown):
    found = {
        (one.paper, one.what): [coverage.place(kept.folder) for kept in one.evidence]
        for one in shown
    }
    assert "experiments/gao_zhong_2020/results/fig03_small" in found["Gao & Zhong 2020", "Fig. 3"]
    assert set(found["Keskar et al. 2017", "Fig. 3"]) & set(found["Keskar et al. 2017", "Table 3"])
    for kept in {kept for one in shown for kept in one.evidence}:
        assert kept.meta["hardware"] and kept.commands


def test_they_are_listed(capsys):
    assert main(["list", "papers"]) == 0
    printed = capsys.readouterr().out
    assert "Gao & Zhong 2020, Fig. 15" in printed and "a sketch without data" in printed


def test_what_a_command_runs():
    ran = ("sbt run experiments/a/fig01.py:small --workdir runs/x", "python a/fig02.py --workdir y")
    assert coverage.spec(ran, "a/fig01.py") == "a/fig01.py:small"
    assert coverage.spec(ran, "a/fig02.py") == "a/fig02.py"
    assert coverage.spec(("python a/fig02.py --digits --workdir y",), "a/fig02.py:digits")
    assert not coverage.spec(ran, "a/fig01.py:c1") and not coverage.spec(ran, "a/fig0.py")


def test_a_reason_is_given_where_there_is_no_evidence(shown):
    for one in shown:
        assert bool(one.reason) != bool(one.evidence)
        assert one.seeds >= 1 if one.evidence else one.seeds == 0


def test_what_the_paper_shows_is_drawn_as_ours_is():
    drawing = as_published("keskar_2017/fig04.py:small")
    accuracy, *sharpness = drawing.figure.axes[0].lines[:1] + drawing.figure.axes[1].lines
    assert accuracy.get_ydata()[0] == pytest.approx(79.06)
    assert [line.get_ydata()[0] for line in sharpness] == pytest.approx([4.025, 1.465])
    rows = as_published("keskar_2017/table2_4.py:f1")
    assert ["test accuracy", "98.03 ± 0.07", "97.81 ± 0.07"] in rows
    assert as_published("gao_zhong_2020/fig03.py") is None
