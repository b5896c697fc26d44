"""The swept axes of a config: their values, and the field that each of them varies."""

from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from sbt.config import (
    OPEN_SECTIONS,
    SECTION_AXES,
    TABLES,
    chosen_fields,
    locate_name,
    unknown_field,
)
from sbt.errors import UserError
from sbt.optim import make_batch_schedule, make_rule, make_schedule


def axes_of(config: ConfigDict) -> dict[str, tuple[Any, ...]]:
    """The swept axes in order, each with its values.

    Raises:
      UserError: an axis without values, or with a value twice.
    """
    result = {}
    for axis, values in config.sweep.items():
        if values is None:
            continue
        field = f"config.sweep.{axis}"
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise UserError(field, f"{values!r} is no list of values", f"write ({values!r},)")
        if not values:
            raise UserError(field, "the axis has no values", "give at least one, or set it to None")
        if len(set(values)) < len(values):
            raise UserError(field, f"a value occurs twice in {tuple(values)}", "list each once")
        result[axis] = tuple(values)
    return result


def locate(config: ConfigDict, axis: str, where: str = "config.sweep") -> str:
    """The dotted path of the field that an axis varies, ``momentum`` -> ``rule.momentum``.

    Raises:
      UserError: no such field, or several.
    """
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
    spec, _ = make_rule(config.rule)
    for name in (*spec.hyperparameters, *spec.options):
        yield f"rule.{name}", name
    for name in make_schedule(config.schedule).parameters:
        yield f"schedule.{name}", name
    for name in make_batch_schedule(config.batch_schedule).parameters:
        yield f"batch_schedule.{name}", name
    for section in TABLES:
        for name in chosen_fields(config, section):
            yield f"{section}.{name}", name
    for section in ("model", "data", "sample", "evaluate"):
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
