"""The config: its fields, their defaults, and how it is read and written.

A config states the *base* learning rate (per example) and the *global* batch size; nothing is
derived from the batch size at config time, so that a sweep or an override changes one thing only.
``base_lr`` goes from here through :mod:`sbt.sweep.grid` (a value of each run) and
:func:`sbt.train.step.learning_rate` (times the batch size) into the update rule.

:data:`FIELDS` says of every field what it is and what it takes; :func:`default`,
:func:`complete`, :mod:`sbt.checks` and ``sbt run --help`` read it there. Fields that depend on a
name (those of a rule, a model, a schedule, a measurement) stand where that is defined.
"""

import contextlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict, config_dict

from sbt.choice import Field, Registry
from sbt.data import source
from sbt.data.imagenet import AUGMENTATIONS as STREAMED_AUGMENTATIONS
from sbt.data.pipeline import AUGMENTATIONS, NORMALIZATIONS
from sbt.errors import UserError, nearest, shown
from sbt.measure import MEASUREMENTS
from sbt.models import MODELS
from sbt.nn.conv import IMPLEMENTATIONS
from sbt.optim import ROUNDINGS, RULES, foreign
from sbt.ranges import COUNT, FRACTION, NON_NEGATIVE, POSITIVE, Range
from sbt.schedules import BATCH_SCHEDULES, LAWS, MOMENTUM_SCHEDULES, NOISE, SCALINGS, SCHEDULES
from sbt.search import SEARCHES
from sbt.tasks import TASKS
from sbt.train.objective import OBJECTIVES, SAMPLES

VOCABULARY = ("batch_size", "base_lr", "seed", "momentum", "weight_decay")

# Sections whose fields depend on the name chosen in them.
SECTIONS: dict[str, Registry] = {
    "task": TASKS,
    "model": MODELS,
    "rule": RULES,
    "rounding": ROUNDINGS,
    "schedule": SCHEDULES,
    "scaling": LAWS,
    "batch_schedule": BATCH_SCHEDULES,
    "momentum_schedule": MOMENTUM_SCHEDULES,
    "noise": NOISE,
    "objective": OBJECTIVES,
    "sample": SAMPLES,
    "search": SEARCHES,
}
OPEN_SECTIONS = (*SECTIONS, "data", "sweep", "follow")


# --- fields --------------------------------------------------------------------------------------


def _whole(default: int | None, about: str, allowed: Range = COUNT) -> Field:
    return Field(default, int, allowed, about, default is None)


def _number(default: float | None, about: str, allowed: Range = NON_NEGATIVE) -> Field:
    return Field(default, float, allowed, about, default is None)


def _text(default: str | None, about: str, allowed: tuple[str, ...] | None = None) -> Field:
    return Field(default, str, allowed, about, default is None)


def _switch(default: bool, about: str) -> Field:
    return Field(default, bool, about=about)


WORKERS, SEED = Range(0, 1024), Range(0, 2**32 - 1)
EXAMPLES = Range(0, 2**31 - 1)
# Single-precision numbers; where m times such a rate is none any more the run diverges, as data.
RATE = Range(0, 1e38)

FIELDS: dict[str, Field] = {
    "name": _text("sweep", "of the sweep: its directory under runs/, its title in reports"),
    "case": _text("", "a label to sweep over; config.follow says what makes a case"),
    "data.name": _text("digits", "digits, python_docs, ..., or any set of TFDS; and its fields"),
    "data.data_dir": _text(None, "where prepared TFDS sets lie; None: TFDS's own setting"),
    "data.train_size": _whole(None, "training examples; None: all"),
    "data.test_size": _whole(None, "test examples; None: all"),
    "data.validation": _number(
        None, "training examples held out to choose by; below 1: a fraction of them", EXAMPLES
    ),
    "data.normalize": _text("channel", "how inputs are normalised", NORMALIZATIONS),
    "data.augment": _text(
        "none",
        f"of training images; streamed ones only: {', '.join(STREAMED_AUGMENTATIONS)}",
        AUGMENTATIONS + STREAMED_AUGMENTATIONS,
    ),
    "data.cutout": _whole(None, "side of the square blanked in training images; None: none"),
    "data.stream": _switch(False, "examples stay in files: for sets larger than memory"),
    "data.image_size": _whole(None, "streamed: side of the square; None: 224", Range(1, 2**14)),
    "data.resize": _whole(
        None, "streamed: shorter side at evaluation; None: 256/224 of the square", Range(1, 2**14)
    ),
    "task.name": _text("auto", "what is learned; auto: what the data are for; and its fields"),
    "model.name": _text("convnet", "and that model's own fields"),
    "batch_size": _whole(32, "m: examples per weight update, over all devices"),
    "copies": _whole(
        1, "inputs made of each example, each augmented anew (batch augmentation)", Range(1, 1024)
    ),
    "micro_batch": _whole(None, "g: examples per gradient evaluation; None: planned"),
    "bn_batch": _whole(None, "b: examples that share batch statistics; None: all m"),
    "base_lr": _number(2.0**-6, "η̃: learning rate per example; η = m η̃", RATE),
    "lr_scaling": _text("linear", "η = m η̃; sqrt: √m η̃; none: η̃", SCALINGS),
    "start": _text(None, "work directory whose kept weights the runs start from; None: random"),
    "start_epoch": _whole(None, "... after so many of its epochs; None: after all"),
    "start_rule": _switch(False, "... with the state of their rule (checkpoint.rule_state there)"),
    "seed": _whole(0, "of weights, order, augmentation and dropout", SEED),
    "epochs": _whole(10, "passes over the training set"),
    "rule.name": _text("sgd", "and that rule's own hyperparameters"),
    "rounding.name": _text("none", "of weights to bfloat16 after updates: stochastic, nearest"),
    "schedule.name": _text("constant", "of the learning rate over progress; and its fields"),
    "scaling.name": _text("fixed", "how decays follow m: half_life, rescaled, sde; and fields"),
    "batch_schedule.name": _text("constant", "changes m during training; and its fields"),
    "momentum_schedule.name": _text("constant", "onecycle: low while η is high; and its fields"),
    "noise.name": _text("none", "Sato & Iiduka's schedules of η, m and β; and their fields"),
    "objective.name": _text("standard", "or adversarial, stability, label_smoothing; and fields"),
    "sample.name": _text("all", "leaves out the smallest losses (loss) or any (random)"),
    "search.name": _text("grid", "which runs of the sweep begin and which stop; and its fields"),
    "log": Field((), tuple, about="where metrics go meanwhile: tensorboard, wandb, mine:function"),
    "skip_impossible": _switch(False, "leaves grid points with b > m out, or refuses the grid"),
    "evaluate.every": _whole(1, "epochs between evaluations; the last is always evaluated"),
    "evaluate.batch": _whole(None, "examples per evaluation step; None: by platform"),
    "evaluate.statistics": _text(
        "running", "of batch norm at test time", ("running", "batch", "precise")
    ),
    "engine.strategy": _text("auto", "auto, measure, vmap, map, or map:<lanes at once>"),
    "engine.convolution": _text("auto", "how convolutions run", ("auto", *IMPLEMENTATIONS)),
    "engine.lanes": _whole(None, "at most so many in one pass; None: as fit, to 10,000 a device"),
    "engine.memory_gb": _number(
        None, "device memory to use; None: 80 % of what is free", Range(0, 1e6, open_low=True)
    ),
    "engine.workers": _whole(
        None, "processes that decode streamed images; None: cores - 1", WORKERS
    ),
    "engine.precision": _text("float32", "arithmetic of the model", ("float32", "bfloat16")),
    "parallel.data": _whole(1, "D: devices that share every batch of a run, and its gradient"),
    "parallel.local_steps": _whole(1, "updates between averages of the weights (local SGD)"),
    "parallel.local_from": _number(
        0.0, "progress from which on; before it gradients are averaged", FRACTION
    ),
    "measure.names": Field((), tuple, about="what is measured: `sbt list measurements`"),
    "measure.every": _whole(1, "epochs between measurements; the last is always measured"),
    "measure.at_start": _switch(False, "also measure the initial weights, as epoch 0"),
    "measure.examples": _whole(None, "the first so many of the training set; None: all"),
    "measure.batch": _whole(None, "examples held at a time; None: as in evaluation"),
    "measure.where": _text("", "regular expression of the weights that count: Dense_0/kernel"),
    "measure.mode": _text(
        "evaluation", "the network as in evaluation or training", ("evaluation", "training")
    ),
    "measure.seed": _whole(0, "of directions and batches, the same for all runs", SEED),
    "measure.at_once": _whole(
        None,
        "lanes of a device measured at a time; 0: all, None: by model and device",
        Range(0, 2**20),
    ),
    "checkpoint.minutes": _number(5.0, "between checkpoints of a running pass", Range(0, 1e6)),
    "checkpoint.keep": _whole(2, "checkpoints that are kept", Range(1, 10**4)),
    "checkpoint.final_weights": _switch(False, "keep the trained weights of every run"),
    "checkpoint.weights_every": _whole(None, "and after every so many epochs, too"),
    "checkpoint.rule_state": _switch(False, "... and the state of the update rule beside them"),
    "report.last_epochs": _whole(5, "reported score: median over the evaluations in these"),
    "report.margin": _number(0.05, "stable range: within this much of the best cell's score"),
    "report.curves_base_lr": _number(None, "learning curves at this η̃; None: the best", POSITIVE),
    "report.figure": _text("", "what this reproduces, such as 'Masters & Luschi 2018, Fig. 1' ..."),
    "report.caption": _text("", "... and what it shows, in words"),
    "report.claims": Field((), tuple, about="held against the results: (best_batch(2, 4),)"),
    "report.protocol": Field((), tuple, about="what the source trained: (('epochs', 82),)"),
}


class Config(ConfigDict):
    """A ConfigDict that keeps the order of its fields: that of the axes is that of the results.

    It takes values of any type, which :func:`complete` checks, and says which fields it has where
    one is misspelt.
    """

    _where = "config"

    def __init__(self, fields: Mapping[str, Any] | None = None, type_safe: bool = False):
        del type_safe  # with which ConfigDict calls it when it copies
        super().__init__(None, type_safe=False, sort_keys=False)
        for key, value in (fields or {}).items():
            self[key] = value

    def __setitem__(self, key: str, value: Any) -> None:
        unfit = not isinstance(key, str) or "." in key
        if unfit or (self.is_locked and key not in self):
            raise unknown_field(f"{self._where}.{key}", key, self)
        if isinstance(value, ConfigDict | dict) and not isinstance(value, Config):
            value = Config(value)
        if isinstance(value, Config):
            object.__setattr__(value, "_where", f"{self._where}.{key}")
        self._fields[key] = value


def default() -> Config:
    """A fresh config with every field at its default: digits, a small convnet, plain SGD."""
    config = Config()
    for path, field in FIELDS.items():
        section, _, leaf = path.rpartition(".")
        if section and section not in config:
            config[section] = Config()
        (config[section] if section else config)[leaf] = field.default
    for name, measurement in MEASUREMENTS.items():
        if measurement.values:
            config.measure[name] = Config(measurement.values)
    config.sweep = Config(dict.fromkeys(VOCABULARY))  # axis -> values; None: not swept
    # Fields that follow an axis: {"base_lr": ("batch_size", ((2, 0.01), (4, 0.02)))}
    config.follow = Config()
    config.lock()
    for section in OPEN_SECTIONS:
        config[section].unlock()
    return config


# --- reading and writing -------------------------------------------------------------------------


def to_json(config: Mapping[str, Any] | Sequence[Any]) -> str:
    """A config, a section or a list of them as JSON, fields in their order."""
    return json.dumps(_plain(config, "config"), indent=1)


def from_json(text: str) -> Config:
    """The config that :func:`to_json` wrote; lists become tuples again."""
    return of_json(json.loads(text))


def as_json(config: Mapping[str, Any] | Sequence[Any]) -> Any:
    """Some part of a config as it would be read from JSON."""
    return json.loads(to_json(config))


def of_json(values: Mapping[str, Any]) -> Config:
    """The inverse of :func:`as_json`."""
    config = default()
    _fill(config, _plain(values, "config"), "config")
    return config


def complete(config: Mapping[str, Any] | ConfigDict) -> Config:
    """A full config from a mapping (or ConfigDict) of some fields.

    The chosen model, rule and schedule get their fields with defaults, so that results tell every
    value and every field can be set from the command line.

    Raises:
      UserError: it is no mapping, a field is unknown, or its value is of another type or out of
        range.
    """
    full = default()
    _fill(full, given(config), "config")
    varied = [axis for axis, values in full.sweep.items() if values is not None]
    swept = {locate_name(axis).partition(".")[0] for axis in (*varied, *full.follow)}
    for section in (*SECTIONS, "data"):
        if section in swept:
            continue  # its fields belong to each of the names
        for name, value in fields_of(section, full[section].name).items():
            own = full[section]
            own[name] = _as_default(own[name], value) if name in own else value
    return full


def updated(config: Config, fields: Mapping[str, Any]) -> Config:
    """A copy of a config with some fields set, each checked by itself.

    Raises:
      UserError: as :func:`complete`.
    """
    copy = config.copy_and_resolve_references()
    _fill(copy, given(fields), "config")
    return copy


def given(config: Mapping[str, Any] | ConfigDict) -> dict[str, Any]:
    """What a config says, in plain values.

    Raises:
      UserError: it is not a mapping, or holds what no config can.
    """
    values = _plain(config, "config")
    if not isinstance(values, dict):
        remedy = "give sbt.default_config() or a mapping of some of its fields"
        if isinstance(config, str):
            remedy += "; sbt.experiment.load_config reads an experiment file"
        raise UserError("config", f"{shown(config)} is not a config", remedy)
    return values


def for_own_rule(config: Mapping[str, Any] | ConfigDict) -> dict[str, Any]:
    """A config, with the section of its rule made for one of the user's own, which is known then.

    Raises:
      UserError: as :func:`given` and :func:`sbt.optim.foreign.section`.
    """
    fields = given(config)
    return fields | {"rule": foreign.section(fields.get("rule") or {})}


def fields_of(section: str, name: str) -> dict[str, Any]:
    """The fields, with defaults, of a named section such as ``model`` under some name.

    Of ``data`` they are a data set's own ones, beside those that all have.

    Raises:
      UserError: there is no such name; with the nearest ones.
    """
    if section == "data":
        return source.named(name).values
    return SECTIONS[section].named(name).values


def of_data(fields: Mapping[str, Any], name: Any) -> dict[str, Any]:
    """The section ``data`` for another data set, without the fields that this does not have."""
    known = {path.partition(".")[2] for path in FIELDS if path.startswith("data.")}
    known |= fields_of("data", name).keys() if isinstance(name, str) else set()
    return {key: value for key, value in fields.items() if key in known} | {"name": name}


def taken(path: str, value: Any) -> Any:
    """A value as a field of :data:`FIELDS` takes it: 1 where a number is wanted is 1.0.

    Args:
      path: key of :data:`FIELDS`.
      value: of any type.

    Raises:
      UserError: it is of another type, out of range, or not one of the field's names.
    """
    where = f"config.{path}"
    value = FIELDS[path].taken(where, value)
    if isinstance(value, str) and any(unicodedata.category(c) in _unfit(path) for c in value):
        problem = f"{shown(value)} holds characters that do not belong in a text"
        raise UserError(where, problem, f"give {FIELDS[path].takes}")
    return value


def _unfit(path: str) -> tuple[str, ...]:
    """Categories of characters that a text cannot hold: lone surrogates, which no file can, and
    control characters, except in labels, whose readers replace them."""
    return ("Cs",) if path == "case" else ("Cs", "Cc")


_DEEPEST, _LONGEST, LONGEST_TEXT = 12, 10**6, 4096  # of nested values, tuples and texts


def _plain(value: Any, where: str, depth: int = 0) -> Any:
    """A value made of dicts, tuples, text, numbers, truth values and None alone.

    Arrays, lists and ranges are tuples of their values.

    Raises:
      UserError: anything else.
    """
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            value = kind(value)  # of NumPy's, which are kinds of these, Python's own
            break
    if isinstance(value, float):
        return value
    if isinstance(value, int):
        if abs(value) >= 2**63:
            if (path := where.partition(".")[2]) in FIELDS:
                taken(path, value)  # which says what the field takes
            remedy = "give a whole number of at most 64 bits"
            raise UserError(where, f"{shown(value)} is out of range", remedy)
        return value
    if isinstance(value, str):
        if len(value) > LONGEST_TEXT:
            remedy = f"give at most {LONGEST_TEXT:,} characters"
            raise UserError(where, f"a text of {len(value):,} characters", remedy)
        return value
    if depth > _DEEPEST:
        raise UserError(where, "is nested too deeply", "give numbers, text, or tuples of them")
    if isinstance(value, Mapping | ConfigDict) and where.startswith("config.follow."):
        value = tuple(value.items())  # pairs
    if isinstance(value, Mapping | ConfigDict):
        for key in value:
            if not isinstance(key, str):
                raise UserError(where, f"{shown(key)} is not the name of a field", "use text")
        items = _items(value, where)
        return {key: _plain(item, f"{where}.{key}", depth + 1) for key, item in items}
    if isinstance(value, list | tuple | range):
        if len(value) > _LONGEST:
            remedy = f"give at most {_LONGEST:,}"
            raise UserError(where, f"{shown(value)} has {len(value):,} values", remedy)
        return tuple(_plain(item, where, depth + 1) for item in value)
    if hasattr(value, "shape") and hasattr(value, "tolist"):  # of NumPy and JAX: array or scalar
        if getattr(value, "size", 0) > _LONGEST:
            raise UserError(where, f"has {value.size:,} values", f"give at most {_LONGEST:,}")
        with contextlib.suppress(Exception):  # a traced array has no values
            return _plain(value.tolist(), where, depth + 1)
    remedy = "give a number, a text, True, False, None, or a tuple of such"
    raise UserError(where, f"{shown(value)} is not a value that a config can hold", remedy)


def _items(section: Mapping[str, Any] | ConfigDict, where: str) -> list[tuple[str, Any]]:
    try:
        return list(section.items())
    except config_dict.RequiredValueError:
        raise UserError(where, "has a required field without a value", "set it") from None


def _fill(config: Config, values: Mapping[str, Any], where: str) -> None:
    name = where.rpartition(".")[2]
    for key, value in values.items():
        field = f"{where}.{key}"
        path = field.partition(".")[2]
        if key in config and isinstance(config[key], Config):
            _fill_section(config, key, value, field)
        elif path in FIELDS:
            config[key] = taken(path, value)
        elif name in ("sweep", "follow") and "." in key:
            raise UserError(field, "is not an axis", f"write {where}.{key.replace('.', '__')}")
        elif name == "follow" and value is None:
            continue  # it follows nothing
        elif (name in OPEN_SECTIONS and "." not in key) or key in config:
            config[key] = value
        else:
            raise unknown_field(field, key, config)


def _as_default(value: Any, default: Any) -> Any:
    """1.0 for 1 where the default is such a number: lanes differ in floating-point numbers."""
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53
    return float(value) if whole and isinstance(default, float) else value


def _fill_section(config: Config, key: str, value: Any, field: str) -> None:
    if not isinstance(value, dict):
        remedy = f"set its fields, such as {field}.{next(iter(config[key]), 'base_lr')}"
        raise UserError(field, f"is a section, not {shown(value)}", remedy)
    if "name" in value and key in SECTIONS:
        config[key] = Config()  # another name has other fields
    _fill(config[key], value, field)


def unknown_field(field: str, name: object, known: Any) -> UserError:
    """The message for a misspelt field, with the nearest names."""
    return UserError(field, "is not a field", nearest(str(name), map(str, known)))


# Axes named after a section choose the section's name: sweep.rule = ("sgd", "sngm").
SECTION_AXES = {section: f"{section}.name" for section in SECTIONS} | {"dataset": "data.name"}


def locate_name(axis: str) -> str:
    """The path of an axis that chooses a section's name (``rule``), else an empty string."""
    path = SECTION_AXES.get(axis, axis.replace("__", "."))
    return path if path.endswith(".name") else ""
