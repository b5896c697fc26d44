"""The swept axes of a config: their values, and the field that each of them varies."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from sbt.config import (
    OPEN_SECTIONS,
    SECTION_AXES,
    SECTIONS,
    locate_name,
    unknown_field,
)
from sbt.errors import UserError, shown

MOST_RUNS = 10**6
# What a sweep has once, for all of its runs.
_OF_ALL_RUNS = ("name", "skip_impossible", "parallel.data", "start")
_SECTIONS_OF_ALL_RUNS = ("sweep", "follow", "engine", "measure", "checkpoint", "report")


def axes_of(config: ConfigDict) -> dict[str, tuple[Any, ...]]:
    """The swept axes in order, each with its values.

    Raises:
      UserError: an axis without values, or with a value twice; more runs than any machine trains.
    """
    result = {}
    for axis, values in config.sweep.items():
        if values is None:
            continue
        field = f"config.sweep.{axis}"
        if isinstance(values, str) or not isinstance(values, Sequence):
            problem = f"{shown(values)} is not a tuple of values"
            raise UserError(field, problem, f"write ({shown(values)},)")
        if not values:
            raise UserError(field, "the axis has no values", "give at least one, or set it to None")
        try:
            repeats = len(set(values)) < len(values)
        except TypeError:  # a section among the values
            remedy = "give numbers, text, or tuples of them"
            raise UserError(field, f"{shown(values)} holds a section", remedy) from None
        if repeats:
            raise UserError(field, f"a value occurs twice in {shown(values)}", "list each once")
        result[axis] = tuple(values)
    if (runs := math.prod(map(len, result.values()))) > MOST_RUNS:
        sizes = " x ".join(str(len(values)) for values in result.values())
        remedy = f"a sweep has at most {MOST_RUNS:,} runs: shorten the axes"
        raise UserError("config.sweep", f"{sizes} = {runs:,} runs", remedy)
    return result


def locate(config: ConfigDict, axis: str, where: str = "config.sweep") -> str:
    """The dotted path of the field that an axis varies, ``momentum`` -> ``rule.momentum``.

    Raises:
      UserError: no such field, or several, or one that a sweep has once for all of its runs.
    """
    path = _locate(config, axis, where)
    if path in _OF_ALL_RUNS or path.partition(".")[0] in _SECTIONS_OF_ALL_RUNS:
        remedy = f"set config.{path}; an axis varies what may differ between runs"
        raise UserError(f"{where}.{axis}", f"{path} is one for all runs of a sweep", remedy)
    return path


def _locate(config: ConfigDict, axis: str, where: str) -> str:
    if named := locate_name(axis):
        return named
    if "__" in axis:
        section, _, leaf = axis.partition("__")
        if not isinstance(config.get(section), ConfigDict):
            sections = [key for key in config if isinstance(config[key], ConfigDict)]
            raise unknown_field(f"{where}.{axis}", section, sections)
        if section not in OPEN_SECTIONS and leaf not in config[section]:
            raise unknown_field(f"{where}.{axis}", leaf, config[section])
        return f"{section}.{leaf}"
    if axis in config and not isinstance(config[axis], ConfigDict):
        return axis
    candidates = dict(_leaf_fields(config))
    found = [path for path, leaf in candidates.items() if leaf == axis]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"{where}.{axis}",
            f"could be {' or '.join(found)}",
            f"name it with its section: {found[0].replace('.', '__')}",
        )
    known = {leaf for leaf in candidates.values()} | set(SECTION_AXES)
    top = [key for key in config if not isinstance(config[key], ConfigDict)]
    raise unknown_field(f"{where}.{axis}", axis, known | set(top))


def _leaf_fields(config: ConfigDict) -> Iterator[tuple[str, str]]:
    """(path, leaf name) of what may be swept inside sections."""
    for section, registry in SECTIONS.items():
        for name in registry.configured(config[section]).fields:
            yield f"{section}.{name}", name
    for section in ("data", "evaluate"):
        for name in config[section]:
            if name != "name":
                yield f"{section}.{name}", name


def assign(config: ConfigDict, path: str, value: Any) -> None:
    """Sets a field by its dotted path, in a section as well."""
    *sections, leaf = path.split(".")
    target = config
    for section in sections:
        target = target[section]
    target[leaf] = value
