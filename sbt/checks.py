"""What is refused of a config before anything compiles, whatever the data."""

import difflib
import math
import re
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from sbt.config import TABLES, fields_of, unknown_field
from sbt.errors import UserError
from sbt.measurements import MEASUREMENTS
from sbt.nn.conv import IMPLEMENTATIONS
from sbt.optim import make_batch_schedule, make_rule, make_schedule
from sbt.train.gradient import SAMPLES

LR_SCALINGS = ("linear", "sqrt", "none")
STATISTICS = ("running", "batch", "precise")
PRECISIONS = ("float32", "bfloat16")


def _require(good: bool, field: str, value: Any, problem: str, remedy: str) -> None:
    if not good:
        raise UserError(f"config.{field}", f"{value!r} {problem}", remedy)


def _number(field: str, value: Any, *, integer: bool = False, least: float | None = None) -> None:
    kinds = int if integer else (int, float)
    good = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    _require(good, field, value, f"is no {'whole ' * integer}number", "give one")
    if least is not None:
        _require(value >= least, field, value, "is too small", f"give {least} or more")


def validate(config: ConfigDict) -> None:
    """Refuses what is wrong whatever the data: one run's config, without its sweep.

    Raises:
      UserError: naming field, value and remedy.
    """
    _number("batch_size", config.batch_size, integer=True, least=1)
    _number("base_lr", config.base_lr, least=0.0)
    _number("seed", config.seed, integer=True, least=0)
    _require(config.seed < 2**32, "seed", config.seed, "is too large", "give less than 2**32")
    _number("epochs", config.epochs, integer=True, least=1)
    for name in ("micro_batch", "bn_batch"):
        if config[name] is not None:
            _number(name, config[name], integer=True, least=1)
    m, g, b = config.batch_size, config.micro_batch, config.bn_batch
    if b is not None:
        _require(b <= m, "bn_batch", b, f"is larger than the batch size {m}", f"give {m} or less")
        _require(m % b == 0, "bn_batch", b, f"does not divide the batch size {m}", "give a divisor")
    if g is not None:
        remedy = f"every batch size must be a multiple of the micro-batch: choose a divisor of {m}"
        _require(m % g == 0, "micro_batch", g, f"cannot reach the batch size {m}", remedy)
        if b is not None:
            _require(g % b == 0, "micro_batch", g, f"is no multiple of bn_batch {b}", "make it one")
    _choice("lr_scaling", config.lr_scaling, LR_SCALINGS)
    _choice("evaluate.statistics", config.evaluate.statistics, STATISTICS)
    _choice("engine.precision", config.engine.precision, PRECISIONS)
    _number("evaluate.every", config.evaluate.every, integer=True, least=1)
    if config.evaluate.batch is not None:
        _number("evaluate.batch", config.evaluate.batch, integer=True, least=1)
    _number("checkpoint.minutes", config.checkpoint.minutes, least=0.0)
    _number("checkpoint.keep", config.checkpoint.keep, integer=True, least=1)
    _number("report.last_epochs", config.report.last_epochs, integer=True, least=1)
    _number("report.margin", config.report.margin, least=0.0)
    if config.engine.lanes is not None:
        _number("engine.lanes", config.engine.lanes, integer=True, least=1)
    if config.engine.memory_gb is not None:
        _number("engine.memory_gb", config.engine.memory_gb)
        good = config.engine.memory_gb > 0
        _require(
            good, "engine.memory_gb", config.engine.memory_gb, "is no memory", "give more than 0"
        )
    if config.engine.workers is not None:
        _number("engine.workers", config.engine.workers, integer=True, least=0)
    strategy = config.engine.strategy
    head, _, tail = strategy.partition(":")
    good = strategy in ("auto", "measure", "vmap", "map") or (
        head == "map" and tail.isdigit() and int(tail) > 0
    )
    _require(
        good, "engine.strategy", strategy, "is unknown", "use auto, measure, vmap, map or map:<n>"
    )
    _choice("engine.convolution", config.engine.convolution, ("auto", *IMPLEMENTATIONS))
    for name in ("data", "local_steps"):
        _number(f"parallel.{name}", config.parallel[name], integer=True, least=1)
    _number("parallel.local_from", config.parallel.local_from, least=0.0)
    _number("copies", config.copies, integer=True, least=1)
    _choice("sample.name", config.sample.name, SAMPLES)
    _choice("sample.average", config.sample.average, ("kept", "batch"))
    _number("sample.fraction", config.sample.fraction, least=0.0)
    _require(config.sample.fraction < 1, "sample.fraction", config.sample.fraction,
             "leaves nothing", "give less than 1")  # fmt: skip
    _number("sample.until", config.sample.until, least=0.0)
    for section in TABLES:
        known = fields_of(section, config[section].name)
        for name, value in config[section].items():
            if name != "name":
                if name not in known:
                    raise unknown_field(f"config.{section}.{name}", name, known)
                _number(f"{section}.{name}", value, least=0.0)
    validate_measure(config.measure)
    make_rule(config.rule)
    make_schedule(config.schedule)
    make_batch_schedule(config.batch_schedule)


def _choice(field: str, value: Any, allowed: Sequence[str]) -> None:
    _require(value in allowed, field, value, "is unknown", f"use {', '.join(allowed)}")


def validate_measure(measure: ConfigDict) -> None:
    """Refuses what is wrong with the section ``measure``.

    Raises:
      UserError: naming field, value and remedy.
    """
    for name in measure.names:
        if name not in MEASUREMENTS:
            near = difflib.get_close_matches(str(name), MEASUREMENTS, n=2, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            remedy = f"{hint}Known: {', '.join(MEASUREMENTS)}."
            raise UserError("config.measure.names", f"{name!r} is no measurement", remedy)
    _number("measure.every", measure.every, integer=True, least=1)
    _number("measure.seed", measure.seed, integer=True, least=0)
    _number("measure.at_once", measure.at_once, integer=True, least=0)
    for field in ("examples", "batch"):
        if measure[field] is not None:
            _number(f"measure.{field}", measure[field], integer=True, least=1)
    _choice("measure.mode", measure.mode, ("evaluation", "training"))
    try:
        re.compile(measure.where)
    except re.error as error:
        raise UserError(
            "config.measure.where", f"{measure.where!r} is no regular expression", str(error)
        ) from None
    for name, measurement in MEASUREMENTS.items():
        for field, default in measurement.settings.items():
            _setting(f"measure.{name}.{field}", measure[name][field], default)


def _setting(field: str, value: Any, default: Any) -> None:
    """A setting of a measurement: numbers of the default's kind, above 0, one or several."""
    several = isinstance(default, tuple)
    kind = default[0] if several else default
    if several:
        _require(len(value) > 0, field, value, "is empty", f"give some, as {default}")
        _require(len(set(value)) == len(value), field, value, "repeats", "give each once")
    for item in value if several else (value,):
        if isinstance(kind, str):
            _require(isinstance(item, str), field, item, "is no name", f"use one as {default!r}")
        else:
            _number(field, item, integer=isinstance(kind, int))
            _require(item > 0, field, item, "is too small", "give more than 0")
