"""Which figures and tables of the papers there are experiments, claims and evidence for.

Beside its experiments a paper has a ``paper.json``: its name, and what it shows, each with the file
that reproduces it (and a variant, ``cifar10.py:vgg16``) and what stands in the way of its full
size. Evidence (:mod:`sbt.evidence`) is a folder under ``results/`` whose command runs the file.
"""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from sbt.config import Config
from sbt.errors import UserError
from sbt.evidence import Evidence
from sbt.experiment import experiments, load_config

ENOUGH_SEEDS = 3  # of evidence that has error bars


@dataclass(frozen=True)
class Shown:
    """A figure or table of a paper.

    Attributes:
      paper: who, and when.
      what: ``Fig. 1``.
      file: of the experiment, below the folder of experiments, perhaps with a variant; empty: none.
      evidence: whose commands run the file.
      missing: what stands in the way of evidence at its full size.
    """

    paper: str
    what: str
    file: str
    evidence: tuple[Evidence, ...]
    missing: str

    @cached_property
    def config(self) -> Config | None:
        """Of the experiment; None where there is none."""
        if not self.file:
            return None
        path = experiments() / self.file.partition(":")[0]
        return load_config(self.file) if _has_config(path) else None

    @property
    def claims(self) -> int:
        """How many claims its config holds its results against."""
        return len(self.config.report.claims) if self.config else 0

    @property
    def seeds(self) -> int:
        """The most that some evidence has."""
        return max((one.seeds for one in self.evidence), default=0)

    @property
    def reason(self) -> str:
        """Why there is no evidence; empty where there is."""
        if self.evidence:
            return ""
        return self.missing + "; nothing smaller has been kept yet" * bool(self.config)


class Paper(NamedTuple):
    """A paper that experiments reproduce.

    Attributes:
      name: who, and when.
      source: where to read it.
      folder: of its experiments.
      shows: its figures and tables.
      evidence: all that can be read.
      problems: what is wrong with the rest, a line each.
    """

    name: str
    source: str
    folder: Path
    shows: tuple[Shown, ...]
    evidence: tuple[Evidence, ...]
    problems: tuple[str, ...]


def _has_config(path: Path) -> bool:
    return "def get_config" in path.read_text(encoding="utf-8")


def papers() -> Iterator[Paper]:
    """Every paper with what it shows."""
    for table in sorted(experiments().glob("*/paper.json")):
        folder, about = table.parent, json.loads(table.read_text(encoding="utf-8"))
        found = {one: problem(one) for one in evidence(folder)}
        whole = tuple(one for one in found if not found[one])
        shows = []
        for one in about["shows"]:
            file = f"{folder.name}/{one['file']}" if one["file"] else ""
            kept = tuple(e for e in whole if file and spec(e.commands, file))
            shows.append(Shown(about["paper"], one["what"], file, kept, one["missing"]))
        problems = tuple(filter(None, found.values()))
        yield Paper(about["paper"], about["source"], folder, tuple(shows), whole, problems)


def shown() -> Iterator[Shown]:
    """Everything that the papers show, paper by paper."""
    for paper in papers():
        yield from paper.shows


def evidence(folder: Path) -> Iterator[Evidence]:
    """The evidence of a folder of experiments, whole or damaged."""
    for place in sorted((folder / "results").glob("*/")):
        yield Evidence(place)


def place(path: Path) -> str:
    """Where something lies in the tree: ``experiments/...``."""
    return f"experiments/{path.relative_to(experiments()).as_posix()}"


def problem(one: Evidence) -> str:
    """What is wrong with evidence that cannot be read; empty where nothing is."""
    try:
        return "" if one.commands and one.seeds else f"{one.folder}: no command says how to redo it"
    except UserError as error:
        return ". ".join(line.strip() for line in str(error).splitlines())


def spec(commands: tuple[str, ...], file: str) -> str:
    """The experiment file with the variant that some command runs; empty where none does.

    Args:
      commands: ``sbt run a/b.py:small``, or ``python a/b.py --small``.
      file: ``a/b.py``, or with the only variant that counts.
    """
    name, _, wanted = file.partition(":")
    for command in commands:
        words = shlex.split(command)
        for i, word in enumerate(words):
            if re.search(rf"(^|/){re.escape(name)}(:|$)", word):
                variant = word.partition(".py:")[2] or _flag(words[i + 1 :])
                if not wanted or variant == wanted:
                    return f"{name}:{variant}" if variant else name
    return ""


def _flag(words: list[str]) -> str:
    """The variant that a script is given as an option, ``--small``."""
    flags = (word.removeprefix("--") for word in words if re.fullmatch(r"--\w+", word))
    return next((flag for flag in flags if flag != "workdir"), "")
