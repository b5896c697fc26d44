"""Evidence: a folder of committed results that one command redoes, and what it says of claims.

``experiments/<paper>/results/<name>`` holds

* ``meta.json``, with ``command`` (one or several: what redoes it) and ``hardware`` in words,
* ``results.nc``, the results of the sweep,
* pictures (``*.png``) and texts (``*.txt``), as the report or the figure's own file draws them,
* further netCDF files, whose variables claims see beside those of the results, and
* ``verdicts.txt``: what was found when it was kept.

``sbt keep`` makes such a folder of a finished work directory.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import xarray as xr

from sbt import report, results, workdir
from sbt.errors import UserError, nearest
from sbt.files import read_json, write_bytes, write_text
from sbt.report import claims
from sbt.report.view import View, checked

META, VERDICTS = workdir.META, "verdicts.txt"


@dataclass(frozen=True)
class Evidence:
    """A folder of committed results.

    Attributes:
      folder: where it lies.
    """

    folder: Path

    @cached_property
    def meta(self) -> dict[str, Any]:
        """What ``meta.json`` says.

        Raises:
          UserError: there is none, or it is damaged.
        """
        remedy = "restore it, or make the folder anew: sbt keep WORKDIR FOLDER"
        try:
            found = read_json(self.folder / META)
        except ValueError as error:
            raise UserError(str(self.folder / META), f"is damaged ({error})", remedy) from None
        if found is None:
            raise UserError(str(self.folder), f"holds no {META}", remedy)
        return found

    @property
    def commands(self) -> tuple[str, ...]:
        """What redoes it."""
        command = self.meta.get("command") or ()
        return (command,) if isinstance(command, str) else tuple(map(str, command))

    @cached_property
    def dataset(self) -> xr.Dataset:
        """The results, with the variables of the further netCDF files.

        Raises:
          UserError: some file cannot be read, or does not fit to the others.
        """
        whole = results.load(self.folder)
        for path in sorted(self.folder.glob("*.nc")):
            if path.name == results.FILE:
                continue
            try:
                more = results.from_bytes(path.read_bytes())
                whole = xr.merge([whole, more], join="exact", combine_attrs="override")
            except (ValueError, OSError) as error:
                problem = f"cannot be read beside {results.FILE} ({error})"
                raise UserError(str(path), problem, "restore it, or remove it") from None
        return whole

    @property
    def seeds(self) -> int:
        """Of every cell."""
        return int(self.dataset.sizes.get("seed", 1))

    def files(self, kind: str) -> list[Path]:
        """Its files of a kind (``png``, ``txt``), without the verdicts."""
        return [path for path in sorted(self.folder.glob(f"*.{kind}")) if path.name != VERDICTS]

    @property
    def noted(self) -> str:
        """The verdicts in words, as they were when it was kept; empty where none were."""
        path = self.folder / VERDICTS
        return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def keep(
    directory: Path,
    folder: Path,
    commands: Sequence[str] = (),
    hardware: str = "",
    figures: Sequence[str] = (),
) -> list[Path]:
    """Makes evidence of a finished work directory.

    Pictures, texts and further netCDF files that lie in the directory itself, where a figure's own
    file draws them, are copied. A figure without a picture there gets those of the report: of the
    variables that its claims are about, or the first.

    Args:
      directory: work directory of a sweep.
      folder: ``experiments/<paper>/results/<name>``; what is there already is replaced.
      commands: that take part in it, beside those that ``meta.json`` has noted.
      hardware: in words; else what ``meta.json`` says of the processor.
      figures: names of figures of the report to keep (``best_loss``).

    Returns:
      The files.

    Raises:
      UserError: the sweep has not finished, nothing says how it was made, or there is no figure of
        that name.
    """
    dataset, meta = results.load(directory), workdir.read_meta(directory)
    view = checked(dataset)
    if meta.get("status") != "done":
        problem = f"holds a sweep that has not finished (status {meta.get('status', 'unknown')})"
        raise UserError(str(directory), problem, "finish it first: the same sbt run resumes it")
    known = [one.get("command") for one in (*meta.get("earlier_environments", ()), meta)]
    told = list(dict.fromkeys(filter(None, (*known, *commands))))
    if not told:
        remedy = "add --command='sbt run experiments/...', the command that redoes it"
        raise UserError(str(directory), "does not say how it was made", remedy)
    meta |= {"command": told[0] if len(told) == 1 else told, "hardware": hardware or _machine(meta)}
    own = [path for path in sorted(directory.glob("*.*")) if path.suffix in (".png", ".txt", ".nc")]
    own = [path for path in own if not path.name.startswith(".") and path.name != VERDICTS]
    drawings = _drawings(view, figures, any(path.suffix == ".png" for path in own))
    workdir.write_meta(_made(folder), meta)
    for path in own:
        if path.name == results.FILE:
            write_bytes(folder / path.name, results.to_bytes(dataset, compressed=True))
        else:
            shutil.copyfile(path, folder / path.name)
    written = [folder / path.name for path in own]
    for drawing in drawings:
        written += drawing.save(folder, ("png",))
    if text := _verdicts(Evidence(directory).noted, Evidence(folder).dataset):
        written.append(write_text(folder / VERDICTS, text))
    return [folder / META, *written]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _machine(meta: Mapping[str, Any]) -> str:
    device, cores = meta.get("device_kind"), meta.get("cpu_count")
    if meta.get("platform") != "cpu":
        return f"{meta.get('devices', 1)} × {device}"
    return f"{cores} cores, {meta.get('cpu_model') or meta.get('machine')}"


def _drawings(view: View, names: Sequence[str], drawn: bool) -> "list[report.Drawing]":
    """Figures of the report: those that are named; else, where none is drawn, the telling ones."""
    if drawn and not names:
        return []
    usual, measured = report.default_figures(view), report.measured_figures(view)
    found = {drawing.name: drawing for drawing in (*usual, *measured)}
    for name in names:
        if name not in found:
            raise UserError(f"--figures={name}", "no such figure", nearest(name, found))
    if names:
        return [found[name] for name in names]
    about = [arguments.get("variable") for _, arguments in map(claims.known, claims.carried(view))]
    telling = [d for d in measured if d.name.removeprefix("measured_") in about]
    return telling or [*usual, *measured][:1]


def _verdicts(noted: str, dataset: xr.Dataset) -> str:
    """What the figure's own file found, and what the claims of the results say; a line each."""
    view = View(dataset)
    return _lines([*noted.splitlines(), *claims.judged(view, claims.carried(view))])


def _lines(parts: Iterable[object]) -> str:
    return "".join(f"{line}\n" for line in dict.fromkeys(map(str, parts)) if line)
