"""What is refused of a config before anything compiles, whatever the data."""

import dataclasses
import re
from collections.abc import Mapping, Set
from typing import Any

from ml_collections import ConfigDict

from sbt import log
from sbt.config import FIELDS, SECTIONS, taken, unknown_field
from sbt.data import source
from sbt.errors import UserError, nearest, shown
from sbt.measure.registry import MEASUREMENTS
from sbt.models.registry import build_model

# A directory below runs/, and part of file names.
NAME = re.compile(r"(?!\.)[^/\\:*?\"<>|\s](?:[^/\\:*?\"<>|]{0,98}[^/\\:*?\"<>|\s.])?")


def _require(good: bool, field: str, value: Any, problem: str, remedy: str) -> None:
    if not good:
        raise UserError(f"config.{field}", f"{shown(value)} {problem}", remedy)


def validate(config: ConfigDict) -> None:
    """Refuses what is wrong whatever the data: one run's config, without its sweep.

    Raises:
      UserError: naming field, value and remedy.
    """
    for path in FIELDS:
        *sections, leaf = path.split(".")
        taken(path, (config[sections[0]] if sections else config)[leaf])
    _require(
        NAME.fullmatch(config.name) is not None, "name", config.name, "cannot name a directory",
        "give 1 to 100 characters without / \\ : * ? \" < > |, not beginning or ending with a dot",
    )  # fmt: skip
    log.check(config.log)
    check_batches(config.batch_size, config.micro_batch, config.bn_batch)
    strategy = config.engine.strategy
    head, _, lanes = strategy.partition(":")
    count = lanes.isdecimal() and len(lanes) < 10 and int(lanes) > 0
    _require(
        strategy in ("auto", "measure", "vmap", "map") or (head == "map" and count),
        "engine.strategy", strategy, "is unknown", "use auto, measure, vmap, map or map:LANES",
    )  # fmt: skip
    check_data(config.data)
    for section in SECTIONS:
        check_section(section, config[section])
    validate_measure(config.measure)


def check_batches(m: int, g: int | None, b: int | None) -> None:
    """Refuses batch size, micro-batch and batch-norm batch that do not go together.

    Raises:
      UserError: b or g does not divide m, or b does not divide g.
    """
    if b is not None:
        _require(b <= m, "bn_batch", b, f"is larger than the batch size {m}", f"give {m} or less")
        _require(m % b == 0, "bn_batch", b, f"does not divide the batch size {m}", "give a divisor")
    if g is not None:
        remedy = f"every batch size must be a multiple of the micro-batch: choose a divisor of {m}"
        _require(m % g == 0, "micro_batch", g, f"cannot reach the batch size {m}", remedy)
        if b is not None:
            problem = f"is not a multiple of bn_batch {b}"
            _require(g % b == 0, "micro_batch", g, problem, f"give a multiple of {b}")


def check_data(data: Mapping[str, Any]) -> None:
    """Refuses what the section ``data`` cannot take under its name.

    Raises:
      UserError: a field that it does not have, with the nearest names, or a value that one does not
        take.
    """
    known = [path.partition(".")[2] for path in FIELDS if path.startswith("data.")]
    own = source.named(data["name"]).fields
    for field in data:
        if field not in (*known, *own):
            raise unknown_field(f"config.data.{field}", field, (*known, *own))
    given = {field: data[field] for field in own if data.get(field) is not None}
    source.named(data["name"]).configured(given)


def check_section(section: str, fields: Mapping[str, Any]) -> None:
    """Refuses what a section with a name cannot take under that name.

    Args:
      section: of :data:`sbt.config.SECTIONS`.
      fields: its ``name`` and fields.

    Raises:
      UserError: an unknown name, a field that it does not have, a value that the field cannot take.
    """
    SECTIONS[section].configured(fields)
    if section == "model":
        build_model(fields, num_classes=2)  # some refuse combinations when they are made


# What acts only under a condition: fields, what has to hold, of which fields, and in words.
_IDLE: tuple[tuple[tuple[str, ...], tuple[str, ...], Any, str], ...] = (
    (
        ("sample.fraction", "sample.until", "sample.average"),
        ("sample.name",),
        lambda name: name != "all",
        "set config.sample.name to loss or random",
    ),
    (
        ("sample.name",),
        ("sample.fraction",),
        lambda fraction: fraction > 0,
        "set config.sample.fraction to more than 0",
    ),
    (
        ("parallel.local_from",),
        ("parallel.local_steps",),
        lambda steps: steps > 1,
        "set config.parallel.local_steps to more than 1",
    ),
    (
        ("parallel.local_steps",),
        ("parallel.data",),
        lambda devices: devices > 1,
        "set config.parallel.data to more than 1",
    ),
    (("engine.workers",), ("data.stream",), bool, "set config.data.stream to True"),
    (("start_epoch", "start_rule"), ("start",), bool, "set config.start to a work directory"),
    (
        ("checkpoint.rule_state",),
        ("checkpoint.final_weights", "checkpoint.weights_every"),
        lambda final, every: final or every,
        "set config.checkpoint.weights_every or final_weights",
    ),
    (
        ("checkpoint.rule_state",),
        ("parallel.local_steps",),
        lambda steps: steps == 1,
        "devices have a state each: set config.parallel.local_steps to 1",
    ),
)


def check_effects(config: ConfigDict, varied: Set[str]) -> None:
    """Refuses settings that change nothing in any run.

    Args:
      config: complete, valid.
      varied: dotted paths of the fields that are swept or follow an axis.

    Raises:
      UserError: a field away from its default, or swept, that has no effect here.
    """
    for fields, deciding, acts, remedy in _IDLE:
        if not varied.isdisjoint(deciding) or acts(*(_get(config, path) for path in deciding)):
            continue
        because = ", ".join(f"{path} is {_get(config, path)!r}" for path in deciding)
        for path in fields:
            value = _get(config, path)
            if path in varied or value != _default(path):
                what = "is swept, but has" if path in varied else f"{value!r} has"
                problem = f"{what} no effect where {because}"
                raise UserError(f"config.{path}", problem, f"{remedy}, or leave it out")


def _default(path: str) -> Any:
    if path in FIELDS:
        return FIELDS[path].default
    section, _, leaf = path.partition(".")
    return SECTIONS[section].named(FIELDS[f"{section}.name"].default).values[leaf]


def _get(config: ConfigDict, path: str) -> Any:
    section, _, leaf = path.rpartition(".")
    owner = config[section] if section else config
    return owner[leaf] if leaf in owner else _default(path)


def validate_measure(measure: ConfigDict) -> None:
    """Refuses what is wrong with the section ``measure``.

    Raises:
      UserError: naming field, value and remedy.
    """
    for path in FIELDS:
        if path.startswith("measure."):
            taken(path, measure[path.partition(".")[2]])
    for name in measure.names:
        if not isinstance(name, str) or name not in MEASUREMENTS:
            problem = f"unknown measurement {shown(name)}"
            raise UserError("config.measure.names", problem, nearest(str(name), MEASUREMENTS))
    _require(
        len(set(measure.names)) == len(measure.names), "measure.names", measure.names,
        "names a measurement twice", "name each once",
    )  # fmt: skip
    try:
        re.compile(measure.where)
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(
            "config.measure.where",
            f"{shown(measure.where)} is not a regular expression: {error}",
            "write part of the path of a weight, such as Dense_0/kernel",
        ) from None
    for name, measurement in MEASUREMENTS.items():
        for key, field in measurement.fields.items():
            labels = dataclasses.replace(field, distinct=True)  # of a dimension of the results
            labels.taken(f"config.measure.{name}.{key}", measure[name][key])
