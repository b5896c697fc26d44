"""The gallery: what a tiny tree of papers and evidence makes of itself."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import xarray as xr
from test_evidence import finished, sweep

from sbt import coverage, evidence, experiment, gallery, results

FIGURE = '''"""A figure."""
from sbt.config import default
from sbt.report.statements import falls, rises

def get_config(variant=""):
    config = default()
    config.report.figure, config.report.caption = "Someone 2020, Fig. 1", "it rises <fast>"
    config.report.claims = (
        rises("Accuracy rises with the batch size", "accuracy", along="batch_size"),
        falls("Accuracy falls with the batch size", "accuracy", along="batch_size"),
        falls("Sharpness falls with the batch size", "sharpness", along="batch_size"),
    )
    config.report.protocol = (("epochs", 82), ("data", "cifar10"))
    return config

def as_published(config):
    return [["theirs", "accuracy"], ["m = 8", "12.5 ± 0.25"]]
'''
SHOWS = [
    {"what": "Table 1", "file": "fig01.py", "missing": "its full size needs a loom"},
    {"what": "Table 2", "file": "fig01.py", "missing": "its full size needs a loom"},
    {"what": "Fig. 3", "file": "", "missing": "a sketch"},
]
RAN = "sbt run experiments/someone_2020/fig01.py"


class Page(HTMLParser):
    """Its images and links, and its text without tags."""

    def __init__(self, text):
        super().__init__()
        self.images, self.addresses, self.words, self.tags = [], [], [], set()
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        named = dict(attrs)
        if tag == "img":
            self.images.append(named)
        self.addresses += [named[key] for key in ("src", "href") if key in named]

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tree with whole and broken evidence, and its page."""
    root = tmp_path_factory.mktemp("experiments")
    folder = root / "someone_2020"
    (folder / "results").mkdir(parents=True)
    (folder / "fig01.py").write_text(FIGURE)
    about = {"paper": "Someone 2020", "source": "arXiv 2001.00000", "shows": SHOWS}
    (folder / "paper.json").write_text(json.dumps(about))
    work = finished(root.parent / "work", command=RAN, wall_seconds=7200.0)
    evidence.keep(work, folder / "results" / "whole", hardware="a loom & a shuttle")
    old = finished(root.parent / "old", sweep(claims=None, seeds=1), command=RAN)
    evidence.keep(old, folder / "results" / "old")
    alone = finished(root.parent / "alone", sweep(claims=()), command="sbt run elsewhere.py")
    evidence.keep(alone, root / "apart" / "results" / "alone")
    for name in ("broken", "nothing"):
        evidence.keep(work, folder / "results" / name)
    data = (folder / "results" / "broken" / results.FILE).read_bytes()
    (folder / "results" / "broken" / results.FILE).write_bytes(data[:200])
    (folder / "results" / "nothing" / "meta.json").unlink()
    with pytest.MonkeyPatch.context() as patch:
        for module in (coverage, experiment, gallery):
            patch.setattr(module, "experiments", lambda: root)
        papers = list(coverage.papers())
        path, problems = gallery.write_gallery(root.parent / "out")
    return papers, Page(path.read_text()), problems


def test_figures_seeds_and_verdicts_are_counted(made):
    ((paper,), page, _) = made
    assert [(len(one.evidence), one.seeds) for one in paper.shows] == [(2, 3), (2, 3), (0, 0)]
    # figures and tables, with claims, evidence, ≥ 3 seeds; then verdicts, of both folders
    assert "Someone 2020 3 2 2 2 1 1 4 All 3 2 2 2 1 1 4" in page.text
    assert "3 figures and tables of 1 papers; evidence for 2 of them" in page.text


def test_verdicts_stand_beside_what_they_rest_on(made):
    _, page, _ = made
    start = page.text.index("whole/accuracy_vs") if "whole/accuracy_vs" in page.text else 0
    assert "Tables 1 and 2" in page.text and "The paper: it rises <fast>." in page.text
    assert "This run covers less than the paper's protocol" in page.text
    assert "2 of 82 epochs" in page.text[start:] and "3 seeds" in page.text
    assert re.search(r"Accuracy rises with the batch size Someone 2020, Fig. 1 holds", page.text)
    assert re.search(r"Accuracy falls .{0,40} does not hold", page.text)
    assert re.search(r"Sharpness falls .{0,60} not decidable", page.text)
    assert "2 h 00 min on a loom & a shuttle" in page.text and RAN in page.text
    assert "12.5 ± 0.25" in page.text and page.text.count("As published.") == 1


def test_results_older_than_their_claims_and_without_any_say_so(made):
    _, page, _ = made
    assert page.text.count("The results are older than the claims") == 1
    assert page.text.count("No claim is made of these results.") == 1
    assert "Beyond the papers" in page.text and "sbt run elsewhere.py" in page.text


def test_what_has_no_evidence_has_a_reason(made):
    _, page, _ = made
    assert "Without evidence Shown What the paper says Reason Fig. 3 A sketch" in page.text


def test_broken_evidence_is_named_and_left_out(made):
    _, page, problems = made
    assert len(problems) == 2
    for name, line in zip(("broken/results.nc: cannot be read", "nothing: holds no"), problems):
        assert name in line and line in page.text


def test_nothing_is_loaded_from_elsewhere_and_every_picture_is_described(made):
    _, page, _ = made
    assert "script" not in page.tags and "link" not in page.tags
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert len(page.images) == 3 and all(len(image["alt"]) > 10 for image in page.images)


def test_a_picture_that_is_none_is_named(tmp_path, monkeypatch):
    folder = tmp_path / "a" / "results" / "b"
    evidence.keep(finished(tmp_path / "work", command="sbt run c.py"), folder)
    (folder / "broken.png").write_bytes(b"not a picture")
    (folder / "more.nc").write_bytes(
        results.to_bytes(xr.Dataset({"accuracy": ("seed", np.zeros(3))}))
    )
    monkeypatch.setattr(coverage, "experiments", lambda: tmp_path)
    item = gallery.Item(evidence.Evidence(folder), "")
    assert "accuracy" in item.html and len(item.problems) == 2
    assert "broken.png" in item.problems[0] and "more.nc" in item.problems[1]
