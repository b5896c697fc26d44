"""What ships: the sections of ``sbt list``, readable at 80 columns."""

import ast
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sbt.config import TABLES
from sbt.errors import UserError, nearest
from sbt.experiment import experiments
from sbt.measure import MEASUREMENTS
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

WIDEST_NAME = 28  # columns; longer names have a line of their own
Entries = Iterator[tuple[str, tuple[str, ...]]]  # a name, and the lines that say what it is


def show(console: Console, section: str | None = None) -> None:
    """Prints a section, or all of them.

    Args:
      console: where to.
      section: one of :data:`SECTIONS`, in the singular or as a config spells it if you like.

    Raises:
      UserError: there is no such section.
    """
    for name in SECTIONS if section is None else (_named(section),):
        title, entries = SECTIONS[name]
        console.print(Text(title, style="bold"))
        console.print(_entries(list(entries())))
        console.print()


def _named(section: str) -> str:
    wanted = section.removeprefix("config.").replace("-", "_")
    for name in SECTIONS:
        if wanted in (name, name.removesuffix("s")):
            return name
    if wanted == "measure":
        return "measurements"
    raise UserError(f"sbt list {section}", "unknown section", nearest(wanted, SECTIONS))


def _entries(entries: list[tuple[str, tuple[str, ...]]]) -> Group:
    """Names to the left, what they are to the right; names too long for that above it."""
    column = max((len(n) for n, _ in entries if len(n) <= WIDEST_NAME), default=0)
    rows: list[Any] = []
    for name, lines in entries:
        words = Group(*(Text(line) for line in lines if line))
        if len(name) > column:
            rows += [Text(f"  {name}", style="cyan"), Padding(words, (0, 0, 0, column + 4))]
            continue
        row = Table.grid(padding=(0, 2, 0, 0))
        row.add_column(width=column + 2, no_wrap=True)
        row.add_column(overflow="fold")
        row.add_row(Text(f"  {name}", style="cyan"), words)
        rows.append(row)
    return Group(*rows)


def _experiments() -> Entries:
    root = experiments()
    for file in sorted(root.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        if "def get_config" in text:
            yield file.relative_to(root).as_posix(), (_first_line(text),)


def _first_line(source: str) -> str:
    return ((ast.get_docstring(ast.parse(source)) or "").splitlines() or [""])[0]


def _models() -> Entries:
    for model in describe_models():
        yield model.name, (f"{model.parameters:,} parameters; {model.source}",)


def _rules() -> Entries:
    for name, spec in RULES.items():
        numbers = _numbers(spec.hyperparameters)
        yield name, (numbers, *_options(spec), spec.source)


def _options(spec: RuleSpec) -> Iterator[str]:
    """One option a line, its default first; then what the rule asks of the training step."""
    for option, default in spec.options.items():
        others = [value for value in spec.choices.get(option, ()) if value != default]
        yield f"{option}={'|'.join(map(str, (default, *others)))}"
    if spec.needs:
        yield f"needs {', '.join(sorted(spec.needs)).replace('_', ' ')}"


def _measurements() -> Entries:
    for name, measurement in MEASUREMENTS.items():
        about = f"{measurement.about.rstrip('.')}; {measurement.cost}"
        yield name, (about, _numbers(measurement.defaults), measurement.source)


def _schedules() -> Entries:
    for name in SCHEDULES:
        fields = make_schedule({"name": name}).parameters
        yield name, (_numbers({k: v for k, v in fields.items() if k not in WARMUP_DEFAULTS}),)
    yield "each of them", (_numbers(WARMUP_DEFAULTS),)


def _batch_schedules() -> Entries:
    for name in BATCH_SCHEDULES:
        yield name, (_numbers(make_batch_schedule({"name": name}).parameters),)


def _samples() -> Entries:
    for name in SAMPLES:
        yield name, (_numbers({} if name == "all" else SAMPLE_PARAMETERS),)


def _table(section: str) -> Callable[[], Entries]:
    return lambda: ((name, (_numbers(fields),)) for name, fields in TABLES[section].items())


def _numbers(fields: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in fields.items()
    )


# Name on the command line -> heading, and what stands under it.
SECTIONS: dict[str, tuple[str, Callable[[], Entries]]] = {
    "experiments": ("Experiments: sbt run NAME", _experiments),
    "models": ("Models (config.model.name)", _models),
    "rules": ("Update rules (config.rule.name) and their numbers, all sweepable", _rules),
    "measurements": ("Measurements (config.measure.names) and their settings", _measurements),
    "schedules": ("Learning rates over time (config.schedule.name)", _schedules),
    "batch_schedules": (
        "Batch sizes over time (config.batch_schedule.name)",
        _batch_schedules,
    ),
    "samples": ("Which examples of a batch count (config.sample.name)", _samples),
    **{
        f"{section}s": (
            f"{section.replace('_', ' ').capitalize()} (config.{section}.name)",
            _table(section),
        )
        for section in TABLES
    },
}
