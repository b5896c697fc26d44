"""The gallery: one page of all evidence, paper by paper, beside what the papers claim.

Every number on it is read from a file in a folder of evidence, or computed from its ``results.nc``
by the claims of the figure's own file. What cannot be read is named on the page and left out.
"""

import base64
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from itertools import groupby
from pathlib import Path

import xarray as xr
from PIL import Image

from sbt import coverage
from sbt.config import from_json, to_json
from sbt.coverage import ENOUGH_SEEDS, Paper, Shown, place
from sbt.errors import UserError
from sbt.evidence import Evidence
from sbt.experiment import as_published, experiments, load_config
from sbt.files import write_text
from sbt.report import claims, markup, page
from sbt.report.claims import FAILS, HOLDS, Verdict
from sbt.report.markup import Markup, rich, tag
from sbt.report.style import Drawing
from sbt.report.tables import html_table
from sbt.report.view import View, checked
from sbt.text import capital, duration

FILE = "gallery.html"
WIDEST = 1300  # pixels of a picture on the page
COLOURS = 96
FLAT = 1.9  # pictures that are so many times as wide as high take the whole width
REPORTED = ("figure", "caption", "claims", "protocol")


def write_gallery(directory: Path) -> tuple[Path, list[str]]:
    """Writes ``gallery.html``, a page that needs nothing but itself.

    Returns:
      The file, and what could not be shown, a line each; the page says it, too.
    """
    papers = [Chapter(paper, list(paper.problems)) for paper in coverage.papers()]
    beyond = list(_beyond())
    parts = [
        tag("h1", "What papers claim of batch sizes, and what was found"),
        tag("p", _about(papers), class_="quiet"),
        _summary(papers),
        *(chapter.html for chapter in papers),
        *([tag("h2", "Beyond the papers"), *(item.html for item in beyond)] if beyond else []),
    ]
    problems = list(dict.fromkeys(line for one in (*papers, *beyond) for line in one.problems))
    if problems:
        lines = (tag("li", line) for line in problems)
        told = [tag("b", "What could not be shown"), tag("ul", *lines)]
        parts.insert(2, tag("div", *told, class_="status partial"))
    style = (resources.files("sbt") / "gallery.css").read_text(encoding="utf-8")
    body = markup.join([Markup(f"<style>{style}</style>"), *parts], "\n")
    return write_text(directory / FILE, markup.page("sbt: evidence", body)), problems


# --- what there is -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """Evidence for one experiment file: pictures, verdicts, and how to redo them.

    Attributes:
      evidence: the folder.
      file: of the experiment, with its variant; empty: none is named.
      others: names of the paper's experiment files, whose pictures are not this one's.
      problems: what could not be shown.
      above: what the page shows of the paper already.
    """

    evidence: Evidence
    file: str
    others: frozenset[str] = frozenset()
    problems: list[str] = field(default_factory=list)
    above: set[str] = field(default_factory=set)

    @cached_property
    def view(self) -> View | None:
        """The results, with the claims that the file holds them against today."""
        try:
            return checked(_with_claims(self.evidence.dataset, self.file))
        except UserError as error:
            self.problems.append(_line(error))
            return None

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """Of those claims."""
        return claims.judged(self.view, claims.carried(self.view)) if self.view else []

    @cached_property
    def html(self) -> Markup:
        """A section."""
        figures = [*self._pictures(), *self._texts(), *self._published()]
        words = markup.join([self._judged(), self._facts()], "\n")
        # Words stand to the right of a picture that has nobody beside it.
        alone = sum(not one.startswith('<figure class="flat"') for one in figures) % 2 == 1
        words = tag("div", words, class_="words" if alone else "words flat")
        beside = tag("div", markup.join([*figures, words], "\n"), class_="beside")
        return tag("section", beside, class_="evidence")

    def _mine(self, kind: str) -> list[Path]:
        own = Path(self.file.partition(":")[0]).stem
        found = self.evidence.files(kind)
        return [path for path in found if path.stem == own or path.stem not in self.others]

    def _pictures(self) -> Iterator[Markup]:
        for path in self._mine("png"):
            try:
                yield _picture(path)
            except OSError as error:
                self.problems.append(f"{path}: is no picture ({error})")

    def _texts(self) -> Iterator[Markup]:
        for path in self._mine("txt"):
            words = path.read_text(encoding="utf-8").rstrip()
            caption = tag("figcaption", f"Ours: {place(path)}")
            yield tag("figure", tag("pre", words, class_="text"), caption)

    def _published(self) -> Iterator[Markup]:
        """What the paper shows, once on the page."""
        try:
            theirs = as_published(self.file) if self.file else None
        except UserError as error:
            self.problems.append(_line(error))
            return
        if theirs is None:
            return
        if isinstance(theirs, Drawing):
            image = _image(theirs.render("svg"), "svg+xml", f"As published: {theirs.caption}")
            width, height = theirs.figure.get_size_inches()
            figure = _figure(image, f"As published. {theirs.caption}", width / height)
        else:
            table = tag("div", html_table(theirs[0], theirs[1:], "numbers"), class_="scroll")
            figure = tag("figure", table, tag("figcaption", "As published."))
        if figure not in self.above:
            self.above.add(figure)
            yield figure

    def _judged(self) -> Markup:
        found = self.verdicts
        if found:
            earlier = "The results are older than the claims, which are those of the file today."
            carried = View(self.evidence.dataset).setting("report.claims")
            note = [tag("p", earlier, class_="quiet")] if carried is None else []
            table = tag("div", page.verdict_table(found), class_="scroll")
            return markup.join([page.rests_on(found), table, *note])
        if noted := self.evidence.noted:
            lead = tag("p", "Found when it was kept, and not judged anew:")
            return markup.join([lead, *(tag("p", rich(line)) for line in noted.splitlines())])
        none = "No claim is made of these results." if self.view else "They could not be judged."
        return tag("p", none, class_="quiet")

    def _facts(self) -> Markup:
        meta = self.evidence.meta
        words = [f"{meta['hardware']}"] if meta.get("hardware") else []
        if isinstance(seconds := meta.get("wall_seconds"), int | float):
            words.insert(0, f"{duration(seconds)} on")
        told = [capital(" ".join(words))]
        told += [f"reduced: {meta['reduced']}"] if meta.get("reduced") else []
        told += [f"note: {meta['note']}"] if meta.get("note") else []
        told.append(f"sbt at revision {meta.get('git_revision') or 'unknown'}")
        told.append(place(self.evidence.folder))
        command = tag("pre", "\n".join(self.evidence.commands), class_="command")
        return markup.join([command, tag("p", " · ".join(filter(None, told)), class_="facts")])


@dataclass(frozen=True)
class Chapter:
    """A paper: its figures and tables with evidence, and those without."""

    paper: Paper
    problems: list[str]

    @property
    def anchor(self) -> str:
        """Of its heading."""
        return self.paper.folder.name

    @cached_property
    def items(self) -> dict[str, list[Item]]:
        """The evidence of every experiment file, in the paper's order."""
        stems = frozenset(path.stem for path in self.paper.folder.glob("*.py"))
        found: dict[str, list[Item]] = {}
        above: set[str] = set()
        for one in self.paper.shows:
            if one.evidence and one.file not in found:
                found[one.file] = [
                    Item(e, coverage.spec(e.commands, one.file), stems, self.problems, above)
                    for e in one.evidence
                ]
        return found

    @property
    def verdicts(self) -> list[Verdict]:
        """All of them."""
        return [v for items in self.items.values() for item in items for v in item.verdicts]

    @cached_property
    def html(self) -> Markup:
        """Its part of the page."""
        parts = [tag("h2", self.paper.name, id=self.anchor)]
        parts.append(tag("p", self.paper.source, class_="quiet"))
        for file, items in self.items.items():
            same = [one for one in self.paper.shows if one.file == file]
            parts.append(tag("h3", capital(_listed([one.what for one in same]))))
            if caption := _caption(same[0]):
                parts.append(tag("p", rich(f"The paper: {caption}."), class_="caption"))
            parts += [item.html for item in items]
        used = {kept for one in self.paper.shows for kept in one.evidence}
        further = [one for one in self.paper.evidence if one not in used]
        parts += [item.html for item in map(_of_no_figure, further)]
        if waiting := [one for one in self.paper.shows if not one.evidence]:
            parts += [tag("h3", "Without evidence"), _waiting(waiting)]
        return markup.join(parts, "\n")


def _of_no_figure(one: Evidence) -> Item:
    """Evidence that no paper.json speaks of, with the last experiment file that it names."""
    named = re.findall(r"([\w/]+\.py)(:\w+)?", " ".join(one.commands))
    files = [(file.removeprefix("experiments/"), variant) for file, variant in named]
    known = [file + variant for file, variant in files if (experiments() / file).is_file()]
    return Item(one, known[-1] if known else "")


def _beyond() -> Iterator["Item | Bench"]:
    """Evidence of experiments that belong to no paper of ours."""
    for folder in sorted(path for path in experiments().glob("*/") if path.is_dir()):
        if (folder / "paper.json").exists():
            continue
        for one in coverage.evidence(folder):
            yield Bench(one) if (one.folder / "bench.json").exists() else _of_no_figure(one)


@dataclass(frozen=True)
class Bench:
    """What ``sbt bench`` left."""

    evidence: Evidence
    problems: list[str] = field(default_factory=list)

    @cached_property
    def html(self) -> Markup:
        """A section."""
        folder = self.evidence.folder
        record = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
        machine = record["environment"]
        facts = f"{machine['usable_cores']} cores, {machine['cpu_model']} · {place(folder)}"
        parts = [_picture(path) for path in self.evidence.files("png")]
        command = tag("pre", record["command"], class_="command")
        parts = [tag("div", *parts, class_="beside"), command, tag("p", facts, class_="facts")]
        return tag("section", tag("h3", "Training speed"), *parts, class_="evidence")


def _with_claims(dataset: xr.Dataset, file: str) -> xr.Dataset:
    """Results with what their experiment file says of them today, in place of what they carry."""
    if not file:
        return dataset
    report = load_config(file).report
    config = json.loads(dataset.attrs.get("config") or "{}")
    said = from_json(to_json({"report": report})).report
    config["report"] = {**config.get("report", {}), **{key: said[key] for key in REPORTED}}
    return dataset.assign_attrs(config=json.dumps(config))


# --- the page ------------------------------------------------------------------------------------


def _about(papers: list[Chapter]) -> Markup:
    shows = [one for chapter in papers for one in chapter.paper.shows]
    with_evidence = [one for one in shows if one.evidence]
    many = sum(one.seeds >= ENOUGH_SEEDS for one in with_evidence)
    return rich(
        f"{len(shows)} figures and tables of {len(papers)} papers; evidence for "
        f"{len(with_evidence)} of them, of {ENOUGH_SEEDS} or more seeds for {many}. Every verdict "
        "is computed from a committed results.nc by claims that stand as code in the figure's "
        "file, with 95 % intervals over seeds. What a run covers less than its paper did stands "
        "above its verdicts, which are about that run alone: nothing here speaks for a paper's "
        "full protocol unless it says so. The command below each redoes it."
    )


def _summary(papers: list[Chapter]) -> Markup:
    head = ["Paper", "Figures, tables", "with claims", "with evidence", f"≥ {ENOUGH_SEEDS} seeds"]
    head += ["claims hold", "fail", "open"]
    rows, totals = [], Counter[int]()
    for chapter in papers:
        shows = chapter.paper.shows
        found = Counter({HOLDS: "hold", FAILS: "fail"}.get(v.verdict) for v in chapter.verdicts)
        counts = (
            len(shows),
            sum(one.claims > 0 for one in shows),
            sum(bool(one.evidence) for one in shows),
            sum(one.seeds >= ENOUGH_SEEDS for one in shows),
            *(found[kind] for kind in ("hold", "fail", None)),
        )
        totals.update(dict(enumerate(counts)))
        link = tag("a", chapter.paper.name, href=f"#{chapter.anchor}")
        rows.append(tag("tr", tag("th", link), *(tag("td", str(n)) for n in counts)))
    total = (tag("td", str(totals[i])) for i in range(len(head) - 1))
    rows.append(tag("tr", tag("th", "All"), *total))
    names = tag("tr", *(tag("th", word) for word in head))
    table = tag("table", tag("thead", names), tag("tbody", *rows), class_="numbers summary")
    return tag("div", table, class_="scroll")


def _waiting(shows: Iterable[Shown]) -> Markup:
    rows = []
    for _, group in groupby(shows, lambda one: one.file or one.what):
        same = list(group)
        one = same[0]
        claimed = f"{one.claims} claim{'s' * (one.claims != 1)}" if one.claims else ""
        said = [rich(capital(caption))] if (caption := _caption(one)) else []
        cells = (
            [rich(capital(_listed([one.what for one in same])))],
            [*said, tag("small", ", ".join(filter(None, (one.file, claimed))))],
            [rich(capital(one.reason))],
        )
        rows.append(tag("tr", *(tag("td", markup.join(cell, markup.BREAK)) for cell in cells)))
    names = tag("tr", *(tag("th", word) for word in ("Shown", "What the paper says", "Reason")))
    table = tag("table", tag("thead", names), tag("tbody", *rows))
    return tag("div", table, class_="scroll")


def _caption(one: Shown) -> str:
    return str(one.config.report.caption) if one.config else ""


def _listed(names: list[str]) -> str:
    """``Table 2``, ``Table 3`` and ``Table 4`` in one."""
    kinds = {name.rpartition(" ")[0] for name in names}
    if len(names) == 1 or len(kinds) > 1 or not (kind := kinds.pop()):
        return ", ".join(names)
    numbers = [name.rpartition(" ")[2] for name in names]
    several = {"Fig.": "Figs", "Table": "Tables"}.get(kind, kind)
    return f"{several} {', '.join(numbers[:-1])} and {numbers[-1]}"


def _picture(path: Path) -> Markup:
    """A picture of a folder of evidence, in fewer pixels and colours."""
    with Image.open(path) as image:
        described = str(image.info.get("Description", "")).strip()
        size = (min(WIDEST, image.width), round(image.height * min(1, WIDEST / image.width)))
        small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, "png", optimize=True)
    caption = f"Ours. {described}" if described else f"Ours: {place(path)}"
    image_tag = _image(buffer.getvalue(), "png", described or f"Figure drawn from {place(path)}")
    return _figure(image_tag, caption, small.width / small.height)


def _image(data: bytes, kind: str, alt: str) -> Markup:
    return tag("img", alt=alt, src=f"data:image/{kind};base64,{base64.b64encode(data).decode()}")


def _figure(image: Markup, caption: str, aspect: float) -> Markup:
    flat = {"class_": "flat"} if aspect > FLAT else {}
    return tag("figure", image, tag("figcaption", rich(caption)), **flat)


def _line(error: UserError | str) -> str:
    return ". ".join(line.strip() for line in str(error).splitlines())
