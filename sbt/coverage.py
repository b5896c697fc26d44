"""Which figures and tables of the papers there are experiments, claims and evidence for.

Beside its experiments a paper has a ``paper.json``: its name, and what it shows, each with the file
that reproduces it (and a variant, ``cifar10.py:vgg16``) and what keeps evidence from being there.
Evidence is a folder under ``results/`` whose ``meta.json`` names the file in its command.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sbt.experiment import experiments, load_config


class Shown(NamedTuple):
    """A figure or table of a paper.

    Attributes:
      paper: who, and when.
      what: ``Fig. 1``.
      file: of the experiment, below the folder of experiments, perhaps with a variant; empty: none.
      evidence: folders with results, below the same.
      missing: why there is no evidence, where there is none.
    """

    paper: str
    what: str
    file: str
    evidence: tuple[str, ...]
    missing: str

    @property
    def claims(self) -> int:
        """How many claims its config holds its results against."""
        if not self.file:
            return 0
        path = experiments() / self.file.partition(":")[0]
        if "def get_config" not in path.read_text(encoding="utf-8"):
            return 0
        return len(load_config(self.file).report.claims)


def shown() -> Iterator[Shown]:
    """Everything that the papers show, paper by paper."""
    root = experiments()
    for table in sorted(root.glob("*/paper.json")):
        folder, about = table.parent, json.loads(table.read_text(encoding="utf-8"))
        commands = dict(_commands(folder / "results"))
        for one in about["shows"]:
            file = f"{folder.name}/{one['file']}" if one["file"] else ""
            places = (place for place, words in commands.items() if file and _runs(words, file))
            evidence = tuple(place.relative_to(root).as_posix() for place in places)
            yield Shown(about["paper"], one["what"], file, evidence, one["missing"])


def _commands(results: Path) -> Iterator[tuple[Path, str]]:
    """Every folder with results, and how they were made."""
    for meta in sorted(results.glob("*/meta.json")):
        command = json.loads(meta.read_text(encoding="utf-8")).get("command", "")
        yield meta.parent, command if isinstance(command, str) else "\n".join(command)


def _runs(commands: str, file: str) -> bool:
    """Whether some command runs a file: the variant that is asked for, or one of size."""
    name, _, variant = file.partition(":")
    named = [word for word in commands.split() if name in word]
    return any(variant in word.partition(".py")[2] for word in named)
