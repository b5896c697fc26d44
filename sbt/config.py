"""The config: its fields, their defaults, and how it is read and written.

A config states the *base* learning rate (per example) and the *global* batch size; nothing is
derived from the batch size at config time, so that a sweep or an override changes one thing only.
``base_lr`` goes from here through :mod:`sbt.sweep.grid` (a value of each run) and
:func:`sbt.train.step.learning_rate` (times the batch size) into the update rule.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict, config_dict

from sbt.errors import UserError
from sbt.measurements import MEASUREMENTS
from sbt.models.registry import model_fields
from sbt.optim import make_batch_schedule, make_rule, make_schedule
from sbt.train.gradient import OBJECTIVES
from sbt.train.pace import MOMENTUM_SCHEDULES, NOISE

VOCABULARY = ("batch_size", "base_lr", "seed", "momentum", "weight_decay")

# Sections whose fields depend on the name chosen in them.
NAMED_SECTIONS = (
    "model",
    "rule",
    "schedule",
    "batch_schedule",
    "momentum_schedule",
    "noise",
    "objective",
)
# Those whose names are a plain table of parameters.
TABLES: dict[str, Mapping[str, Mapping[str, Any]]] = {
    "momentum_schedule": MOMENTUM_SCHEDULES,
    "noise": NOISE,
    "objective": OBJECTIVES,
}
OPEN_SECTIONS = (*NAMED_SECTIONS, "data", "sweep", "follow")


def _section(**fields: Any) -> ConfigDict:
    """A ConfigDict that keeps the order of its fields: that of the axes is that of the results."""
    return ConfigDict(fields, sort_keys=False)


def default() -> ConfigDict:
    """A fresh config with every field at its default: digits, a small convnet, plain SGD."""
    optional = config_dict.placeholder
    config = _section()
    config.name = "sweep"
    config.case = ""  # a label to sweep over, with the fields that make a case in config.follow

    config.data = _section()
    config.data.name = "digits"  # digits, synthetic, cifar10, cifar100, mnist, any TFDS image set
    config.data.data_dir = optional(str)  # where prepared TFDS sets lie; None: TFDS's own setting
    config.data.train_size = optional(int)  # None: all examples
    config.data.test_size = optional(int)
    config.data.normalize = "channel"  # channel, pixel, image, unit, none
    config.data.augment = "none"  # none, crop_flip, affine; streamed: resized_crop, scale_jitter
    config.data.stream = False  # images stay in files, for sets that do not fit in memory
    config.data.image_size = optional(int)  # streamed: side of the square; None: 224
    config.data.resize = optional(int)  # streamed: shorter side at evaluation; None: 256/224 of it

    config.model = _section(name="convnet")  # and that model's own fields

    config.batch_size = 32  # m: examples per weight update, over all devices
    config.copies = 1  # inputs made of each example, each augmented anew (batch augmentation)
    config.micro_batch = optional(int)  # g: examples per gradient evaluation; None: planned
    config.bn_batch = optional(int)  # b: examples that share batch statistics; None: all m
    config.base_lr = 2.0**-6  # η̃: learning rate per example; η = m η̃
    config.lr_scaling = "linear"  # linear: η = m η̃;  sqrt: η = √m η̃;  none: η = η̃
    config.seed = 0
    config.epochs = 10

    config.rule = _section(name="sgd")  # and that rule's own hyperparameters
    config.schedule = _section(name="constant")  # of progress; and that schedule's fields

    config.batch_schedule = _section(name="constant")  # of progress; changes m during training
    config.momentum_schedule = _section(name="constant")  # constant, onecycle (low while η is high)
    config.noise = _section(name="none")  # Sato & Iiduka: lr, lr-batch, beta, lr-beta, cosine, exp
    config.objective = _section(name="standard")  # standard, adversarial, stability
    config.sample = _section(name="all")  # all, or without the smallest losses: loss; or: random
    config.sample.fraction = 0.0  # of every SGD batch that is left out ...
    config.sample.until = 1.0  # ... up to this progress
    config.sample.average = "kept"  # divide by the examples kept, or by the whole batch: batch

    config.sweep = _section()  # axis -> values; None: not swept
    for axis in VOCABULARY:
        config.sweep[axis] = optional(tuple)
    # Fields that follow an axis: {"base_lr": ("batch_size", ((2, 0.01), (4, 0.02)))}
    config.follow = _section()
    config.skip_impossible = False  # leave grid points with b > m out, instead of refusing the grid

    config.evaluate = _section()
    config.evaluate.every = 1  # epochs between evaluations; the last epoch is always evaluated
    config.evaluate.batch = optional(int)  # examples per evaluation step; None: by platform
    config.evaluate.statistics = "running"  # batch norm at test time: running, batch, precise

    config.engine = _section()
    config.engine.strategy = "auto"  # auto, measure, vmap, map, or map:<lanes at once>
    config.engine.convolution = "auto"  # auto, direct, packed, im2col, implicit, stock
    config.engine.lanes = optional(int)  # at most so many lanes in one pass; None: what fits
    config.engine.memory_gb = optional(float)  # device memory to use; None: 80 % of what is free
    config.engine.workers = optional(int)  # processes that decode streamed images; None: cores - 1
    config.engine.precision = "float32"  # arithmetic of the model: float32, bfloat16

    config.parallel = _section()
    config.parallel.data = 1  # D: devices that share every batch of a run, and its gradient
    config.parallel.local_steps = 1  # updates between averages of the weights (local SGD)
    config.parallel.local_from = 0.0  # progress from which on; before it gradients are averaged

    config.measure = _section()
    config.measure.names = ()  # what is measured on the runs, see `sbt list`
    config.measure.every = 1  # epochs between measurements; the last epoch is always measured
    config.measure.at_start = False  # also measure the initial weights, as epoch 0
    config.measure.examples = optional(int)  # the first so many of the training set; None: all
    config.measure.batch = optional(int)  # examples held at a time; None: as in evaluation
    config.measure.where = ""  # regular expression of the leaves that count: Dense_0/kernel
    config.measure.mode = "evaluation"  # the network as in evaluation, or (dropout) as in training
    config.measure.seed = 0  # of random directions and batches, the same for all runs
    config.measure.at_once = 1  # lanes of a device measured at a time; 0: all
    for name, measurement in MEASUREMENTS.items():
        if measurement.settings:
            config.measure[name] = _section(**measurement.settings)

    config.checkpoint = _section()
    config.checkpoint.minutes = 5.0  # between checkpoints of a running pass
    config.checkpoint.keep = 2
    config.checkpoint.final_weights = False  # keep the trained weights of every run

    config.report = _section()
    config.report.last_epochs = 5  # reported accuracy: median over their evaluations
    config.report.margin = 0.05  # stable range: within this much of the best cell
    config.report.curves_base_lr = optional(float)  # learning curves at this η̃; None: the best
    config.report.figure = ""  # the paper's figure that this reproduces, such as "fig01"
    for section in OPEN_SECTIONS:
        config[section].unlock()
    config.lock()
    for section in OPEN_SECTIONS:
        config[section].unlock()
    return config


# --- reading and writing -------------------------------------------------------------------------


def to_json(config: Mapping[str, Any] | Sequence[Any]) -> str:
    """A config, a section or a list of them as JSON, fields in their order."""
    return json.dumps(_plain(config), indent=1)


def from_json(text: str) -> ConfigDict:
    """The config that :func:`to_json` wrote; lists become tuples again."""
    config = default()
    _fill(config, json.loads(text), "config")
    return config


def complete(config: Mapping[str, Any]) -> ConfigDict:
    """A full config from a mapping (or ConfigDict) of some fields; unknown ones are refused.

    The chosen model, rule and schedule get their fields with defaults, so that results tell every
    value and every field can be set from the command line.
    """
    full = default()
    _fill(full, _plain(config), "config")
    swept = {locate_name(axis).partition(".")[0] for axis in (*full.sweep, *full.follow)}
    for section in NAMED_SECTIONS:
        if section in swept:
            continue  # its fields belong to each of the names
        for name, value in fields_of(section, full[section].name).items():
            if name not in full[section]:
                full[section][name] = value
            full[section].unlock()
    return full


def fields_of(section: str, name: str) -> dict[str, Any]:
    """The fields, with defaults, of a named section such as ``model`` under some name."""
    if section == "rule":
        spec, _ = make_rule({"name": name})
        return {**spec.hyperparameters, **spec.options}
    if section == "schedule":
        return dict(make_schedule({"name": name}).parameters)
    if section == "batch_schedule":
        return dict(make_batch_schedule({"name": name}).parameters)
    if section in TABLES:
        if name not in TABLES[section]:
            remedy = f"use {', '.join(TABLES[section])}"
            raise UserError(f"config.{section}.name", f"{name!r} is unknown", remedy)
        return dict(TABLES[section][name])
    return model_fields(name)


def _plain(value: Any) -> Any:
    if isinstance(value, ConfigDict | FrozenConfigDict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):  # a numpy scalar
        return value.item()
    return value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _fill(config: ConfigDict, values: Mapping[str, Any], where: str) -> None:
    section = where.rsplit(".", maxsplit=1)[-1]
    for key, value in values.items():
        field = f"{where}.{key}"
        if key not in config:
            if section not in OPEN_SECTIONS:
                raise unknown_field(field, key, config)
            config[key] = _section(**value) if isinstance(value, Mapping) else _tuples(value)
        elif isinstance(config.get_ref(key).get(), ConfigDict):
            if not isinstance(value, Mapping):
                raise UserError(
                    field, f"is a section, got {value!r}", "give a mapping of its fields"
                )
            if "name" in value and key in NAMED_SECTIONS:
                config[key] = _section()  # another name has other fields
                config[key].unlock()
            _fill(config[key], value, field)
        else:
            try:
                config[key] = _tuples(value)
            except (TypeError, ValueError) as error:
                raise UserError(field, f"cannot take {value!r}", str(error)) from None


def unknown_field(field: str, name: str, known: Any) -> UserError:
    """The message for a misspelt field, with the nearest names."""
    near = difflib.get_close_matches(name, [str(k) for k in known], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return UserError(field, "is not a field", f"{hint}Known: {', '.join(sorted(map(str, known)))}.")


def chosen_fields(config: ConfigDict, section: str) -> dict[str, Any]:
    """The parameters of what a section of :data:`TABLES` names, with the config's values."""
    defaults = TABLES[section][config[section].name]
    return {name: config[section].get(name, value) for name, value in defaults.items()}


# Axes named after a section choose the section's name: sweep.rule = ("sgd", "sngm").
SECTION_AXES = {
    "rule": "rule.name",
    "model": "model.name",
    "schedule": "schedule.name",
    "batch_schedule": "batch_schedule.name",
    "momentum_schedule": "momentum_schedule.name",
    "noise": "noise.name",
    "objective": "objective.name",
    "sample": "sample.name",
    "dataset": "data.name",
}


def locate_name(axis: str) -> str:
    """The path of an axis that chooses a section's name (``rule``), else an empty string."""
    path = SECTION_AXES.get(axis, axis.replace("__", "."))
    return path if path.endswith(".name") else ""
