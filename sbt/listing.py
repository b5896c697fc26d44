"""What ships: the tables of ``sbt list``."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from sbt.config import TABLES
from sbt.measurements import MEASUREMENTS
from sbt.models.registry import describe_models
from sbt.optim import (
    BATCH_SCHEDULES,
    RULES,
    SCHEDULES,
    RuleSpec,
    make_batch_schedule,
    make_schedule,
)
from sbt.optim.schedules import WARMUP_DEFAULTS
from sbt.train.gradient import SAMPLE_PARAMETERS, SAMPLES


def tables(experiments: Path) -> Iterator[Table]:
    """Experiments, models, update rules, and what else a config's sections can name.

    Args:
      experiments: directory of the experiment files.
    """
    table = Table("experiment", "what it shows", title="Experiments", title_justify="left")
    for file in sorted(experiments.rglob("*.py")):
        text = file.read_text()
        if "def get_config" in text:
            doc = ast.get_docstring(ast.parse(text)) or ""
            path = str(file.relative_to(experiments.parent))
            table.add_row(path, (doc.splitlines() or [""])[0])
    yield table

    table = Table("model", "parameters", "source", title="Models", title_justify="left")
    for model in describe_models():
        table.add_row(model.name, f"{model.parameters:,}", model.source)
    yield table

    table = Table(
        "rule",
        "hyperparameters, all sweepable",
        "options, default first",
        "source",
        title="Update rules (config.rule)",
        title_justify="left",
    )
    for name, spec in RULES.items():
        table.add_row(name, _numbers(spec.hyperparameters), _options(spec), spec.source)
    yield table

    table = Table(
        "measurement",
        "what it is",
        "cost",
        "settings",
        "source",
        title="Measurements (config.measure.names)",
        title_justify="left",
    )
    for name, measurement in MEASUREMENTS.items():
        settings = ", ".join(f"{k}={v}" for k, v in measurement.settings.items())
        table.add_row(name, measurement.about, measurement.cost, settings, measurement.source)
    yield table

    table = Table(
        "section", "name", "fields", title="Schedules and objectives", title_justify="left"
    )
    for section, named in _sections().items():
        for name, fields in named.items():
            table.add_row(f"config.{section}", name, _numbers(fields))
    yield table


def _sections() -> dict[str, dict[str, Mapping[str, Any]]]:
    """section -> name -> fields with their defaults."""
    schedules = {name: make_schedule({"name": name}).parameters for name in SCHEDULES}
    own = {
        name: {key: value for key, value in fields.items() if key not in WARMUP_DEFAULTS}
        for name, fields in schedules.items()
    }
    batch = {n: make_batch_schedule({"name": n}).parameters for n in BATCH_SCHEDULES}
    return {
        "schedule": {**own, "(each of them)": WARMUP_DEFAULTS},
        "batch_schedule": dict(batch),
        **{section: dict(named) for section, named in TABLES.items()},
        "sample": {name: {} if name == "all" else SAMPLE_PARAMETERS for name in SAMPLES},
    }


def _numbers(fields: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in fields.items()
    )


def _options(spec: RuleSpec) -> str:
    """One option a line, then what the rule asks of the training step."""
    lines = []
    for option, default in spec.options.items():
        others = [value for value in spec.choices.get(option, ()) if value != default]
        lines.append(f"{option}={'|'.join(map(str, (default, *others)))}")
    lines += [f"needs {need}" for need in sorted(spec.needs)]
    return "\n".join(lines)
