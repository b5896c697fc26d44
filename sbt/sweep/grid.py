"""From the swept axes of a config to runs: one fully specified training per grid point."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from sbt import config as configs
from sbt.checks import check_batches, check_data, check_effects, check_section
from sbt.errors import UserError, shown
from sbt.results import coordinate

MOST_RUNS = 10**6
# What a sweep has once, for all of its runs.
_OF_ALL_RUNS = ("name", "log", "skip_impossible", "parallel.data", "start", "start_rule")
_SECTIONS_OF_ALL_RUNS = (
    "sweep", "follow", "search", "engine", "measure", "checkpoint", "report",
)  # fmt: skip


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
    if named := configs.locate_name(axis):
        return named
    if "__" in axis:
        section, _, leaf = axis.partition("__")
        if not isinstance(config.get(section), ConfigDict):
            sections = [key for key in config if isinstance(config[key], ConfigDict)]
            raise configs.unknown_field(f"{where}.{axis}", section, sections)
        if section not in configs.OPEN_SECTIONS and leaf not in config[section]:
            raise configs.unknown_field(f"{where}.{axis}", leaf, config[section])
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
    known = {leaf for leaf in candidates.values()} | set(configs.SECTION_AXES)
    top = [key for key in config if not isinstance(config[key], ConfigDict)]
    raise configs.unknown_field(f"{where}.{axis}", axis, known | set(top))


def _leaf_fields(config: ConfigDict) -> Iterator[tuple[str, str]]:
    """(path, leaf name) of what may be swept inside sections."""
    for section, registry in configs.SECTIONS.items():
        if section in _SECTIONS_OF_ALL_RUNS:
            continue
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


# --- runs ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Run:
    """One grid point.

    Attributes:
      index: its position along every axis.
      settings: dotted config path -> value, for every swept or following field.
    """

    index: tuple[int, ...]
    settings: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Grid:
    """All runs of a config.

    Attributes:
      axes: swept axes in order, with their values; the dimensions of the results.
      paths: of each axis, the dotted path of the field that it varies.
      runs: in row-major order of the axes, without the points that were left out.
      config: the config with nothing swept.
    """

    axes: Mapping[str, tuple[Any, ...]]
    paths: Mapping[str, str]
    runs: tuple[Run, ...]
    config: ConfigDict

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(values) for values in self.axes.values())

    def config_of(self, run: Run) -> ConfigDict:
        """The full config of one run."""
        return with_settings(self.config, run.settings)


def with_settings(config: ConfigDict, settings: Mapping[str, Any]) -> ConfigDict:
    """A copy of a config with some fields set, by dotted path.

    Where that names another model, rule or schedule, the fields that it does not know are dropped:
    a sweep over rules may set ``momentum`` once for those that have one.
    """
    copy = config.copy_and_resolve_references()
    for path, value in sorted(settings.items(), key=lambda item: not item[0].endswith(".name")):
        section, _, leaf = path.partition(".")
        if leaf == "name" and section in (*configs.SECTIONS, "data"):
            copy[section] = _of_name(copy[section], section, value)
        assign(copy, path, value)
    return copy


def make_grid(config: ConfigDict) -> Grid:
    """Expands the axes of a config into runs and checks every one of them.

    Raises:
      UserError: an unknown or empty axis, a value that a field cannot take, an impossible
        combination (``b > m``, ``m`` no multiple of ``g``).
    """
    axes = axes_of(config)
    paths = {axis: locate(_with_names(config, axes), axis) for axis in axes}
    for axis, values in axes.items():
        for value in values:
            _check_value(config, f"config.sweep.{axis}", paths[axis], value)
    follow = _followers(config, axes, paths)
    check_effects(config, {*paths.values(), *follow})

    runs = []
    for index in itertools.product(*(range(len(values)) for values in axes.values())):
        chosen = {axis: values[i] for (axis, values), i in zip(axes.items(), index, strict=True)}
        settings = {paths[axis]: value for axis, value in chosen.items()}
        # Names first: a following field is of those rules (schedules, models) that have it.
        for path, (axis, table) in sorted(follow.items(), key=lambda item: not _is_name(item[0])):
            if chosen[axis] in table and _has(settings, path):
                settings[path] = table[chosen[axis]]
        problem = _impossible(config, settings)
        if problem is None:
            runs.append(Run(index, settings))
        elif not config.skip_impossible:
            raise problem
    if not runs:
        raise UserError("config.sweep", "no grid point is possible", "see the batch sizes")
    return Grid(axes, paths, tuple(runs), config)


def shared(grid: Grid, runs: Sequence[Run]) -> dict[str, Any]:
    """By axis, the value that all of these runs have, as the results name it."""
    found = {}
    for i, (axis, values) in enumerate(grid.axes.items()):
        places = {run.index[i] for run in runs}
        if len(places) == 1:
            found[axis] = coordinate(values).tolist()[places.pop()]
    return found


def _with_names(config: ConfigDict, axes: Mapping[str, tuple[Any, ...]]) -> ConfigDict:
    """The config under the first rule and model of the sweep, where the axes have their fields."""
    names = {locate(config, a): v[0] for a, v in axes.items() if a in ("rule", "model")}
    return with_settings(config, names)


def _followers(
    config: ConfigDict, axes: Mapping[str, tuple[Any, ...]], paths: Mapping[str, str]
) -> dict[str, tuple[str, dict[Any, Any]]]:
    """Path of each following field -> the axis that it follows, and its value for each of that."""
    result: dict[str, tuple[str, dict[Any, Any]]] = {}
    for name, rule in config.follow.items():
        field = f"config.follow.{name}"
        try:
            axis, pairs = rule
            values = [value for value, _ in pairs]
            table = dict(pairs)
        except (TypeError, ValueError):
            remedy = 'write ("batch_size", ((2, 0.1), (4, 0.2))): an axis, and pairs'
            raise UserError(field, f"{shown(rule)} is not an axis and pairs", remedy) from None
        if len(table) < len(values):
            raise UserError(field, f"a value occurs twice in {shown(values)}", "list each once")
        if axis not in axes:
            remedy = f"swept are {', '.join(axes) or 'none'}"
            raise UserError(field, f"follows {shown(axis)}, which is not swept", remedy)
        path = locate(config, name, "config.follow")
        if path in paths.values() or path in result:
            again = "is swept itself" if path in paths.values() else "is said twice"
            raise UserError(field, f"{path} {again}", "leave one of the two out")
        missing = [value for value in axes[axis] if value not in table]
        # An axis of rules need not say a field of those rules that have no such field.
        own = configs.locate_name(axis).partition(".")[0] == path.partition(".")[0]
        if missing and not own:
            raise UserError(
                field, f"says nothing for {axis} = {shown(missing)}", "add these values"
            )
        beside: dict[str, Any] = {}
        if own:
            _check_own_field(field, path, table)
        elif names := _varied_names(config, axes, paths, path):
            beside = _with_the_field(field, path, names)
        for value in (value for value in axes[axis] if value in table):
            _check_value(config, field, path, table[value], {**beside, paths[axis]: value})
        result[path] = (axis, table)
    return result


def _is_name(path: str) -> bool:
    return path.endswith(".name")


def _has(settings: Mapping[str, Any], path: str) -> bool:
    """Whether what a run chooses by name (its rule, its schedule) has the field at ``path``."""
    section, _, leaf = path.partition(".")
    if _is_name(path) or section not in configs.SECTIONS:
        return True
    name = settings.get(f"{section}.name")
    return name is None or leaf in configs.fields_of(section, name)


def _varied_names(
    config: ConfigDict, axes: Mapping[str, Any], paths: Mapping[str, str], path: str
) -> tuple[Any, ...]:
    """The rules (schedules, ...) that the section of ``path`` takes in a sweep; () if but one."""
    section = path.partition(".")[0]
    if _is_name(path) or section not in configs.SECTIONS:
        return ()
    for axis, swept in paths.items():
        if swept == f"{section}.name":
            return tuple(axes[axis])
    for name, rule in config.follow.items():
        if configs.locate_name(name) == f"{section}.name":
            return tuple(dict(rule[1]).values())
    return ()


def _with_the_field(field: str, path: str, names: tuple[Any, ...]) -> dict[str, Any]:
    """One of the names that have the field, as settings; refused where none has it."""
    section, _, leaf = path.partition(".")
    for name in names:
        if leaf in configs.fields_of(section, name):
            return {f"{section}.name": name}
    listed = ", ".join(map(str, names))
    raise UserError(field, f"none of {listed} has a field {leaf!r}", "see sbt list for the fields")


def _check_own_field(field: str, path: str, table: Mapping[Any, Any]) -> None:
    """Refuses a field that one of the named rules (models, ...) does not have."""
    section, _, leaf = path.partition(".")
    for name in table:
        known = configs.fields_of(section, name)
        if leaf not in known:
            remedy = f"fields of {name}: {', '.join(known) or 'none'}"
            raise UserError(field, f"the {section} {name!r} has no field {leaf!r}", remedy)


def _check_value(
    config: ConfigDict, field: str, path: str, value: Any, beside: Mapping[str, Any] | None = None
) -> None:
    """Every value alone must be one that its field takes (combinations: see :func:`_impossible`).

    Args:
      config: with nothing swept.
      field: what the message is about.
      path: of the field that takes the value.
      value: of an axis, or of what follows one.
      beside: path -> value of the axis that it follows: the name of a section may be among them.
    """
    section, _, leaf = path.partition(".")
    try:
        if path in configs.FIELDS:
            configs.taken(path, value)
        if section in (*configs.SECTIONS, "data"):
            name = {**(beside or {}), path: value}.get(f"{section}.name", config[section].name)
            fields = {**_of_name(config[section], section, name), leaf: value}
            check_data(fields) if section == "data" else check_section(section, fields)
    except UserError as error:
        problem = f"{shown(value)}: {error.field} {error.problem}"
        raise UserError(field, problem, error.remedy) from None


def _of_name(fields: Mapping[str, Any], section: str, name: Any) -> dict[str, Any]:
    """A section under another name, without the fields that this does not know."""
    if section == "data":
        return configs.of_data(fields, name)
    known = configs.fields_of(section, name)
    return {key: value for key, value in fields.items() if key in known} | {"name": name}


def _impossible(config: ConfigDict, settings: Mapping[str, Any]) -> UserError | None:
    """Why these batch sizes do not go together, if they do not."""
    m = settings.get("batch_size", config.batch_size)
    g = settings.get("micro_batch", config.micro_batch)
    b = settings.get("bn_batch", config.bn_batch)
    return _batch_problem(m, g, b)


@functools.lru_cache(maxsize=4096)
def _batch_problem(m: int, g: int | None, b: int | None) -> UserError | None:
    try:
        check_batches(m, g, b)
    except UserError as error:
        return error
    return None


# --- what may differ between lanes of one program -------------------------------------------------


def traced_paths(config: ConfigDict) -> frozenset[str]:
    """Paths whose numbers are traced, and the label of a case; any other swept field separates."""
    numbers = [
        f"{section}.{name}"
        for section, registry in configs.SECTIONS.items()
        for name in registry.configured(config[section]).numbers
    ]
    return frozenset(["batch_size", "base_lr", "seed", "case", "start_epoch", *numbers])


def _optional_numbers(config: ConfigDict) -> frozenset[str]:
    """Paths of fields that may be None: those that hold a number are traced, too."""
    return frozenset(
        f"{section}.{name}"
        for section, registry in configs.SECTIONS.items()
        for choice in (registry.configured(config[section]),)
        for name, field in choice.fields.items()
        if field.kind is float and field.optional and name not in choice.static
    )


def by_static_settings(grid: Grid) -> dict[tuple[tuple[str, Any], ...], list[Run]]:
    """Groups runs by the settings that a program is compiled for, as sorted (path, value) pairs.

    A field that a config leaves at None and runs set to numbers is there with one of them.
    """
    known: dict[tuple[tuple[str, Any], ...], tuple[frozenset[str], frozenset[str]]] = {}
    numbers: dict[str, float] = {}
    groups: dict[tuple[tuple[str, Any], ...], list[Run]] = {}
    for run in grid.runs:
        names = tuple(sorted(s for s in run.settings.items() if s[0].endswith(".name")))
        if names not in known:
            config = with_settings(grid.config, dict(names))
            known[names] = traced_paths(config), _optional_numbers(config)
        traced, optional = known[names]
        static = []
        for path, value in sorted(run.settings.items()):
            number = path in optional and value is not None
            if path in traced and (number or path not in optional):
                continue
            static.append((path, numbers.setdefault(path, value) if number else value))
        groups.setdefault(tuple(static), []).append(run)
    return groups
