"""What ships: the sections of ``sbt list``, readable at 80 columns."""

import ast
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sbt.choice import Choice
from sbt.config import SECTIONS as CONFIG_SECTIONS
from sbt.data import DATASETS
from sbt.errors import UserError, nearest
from sbt.experiment import experiments
from sbt.measure import MEASUREMENTS
from sbt.models.registry import describe_models
from sbt.optim.foreign import optax_fields, optax_rules

WIDEST_NAME = 28  # columns; longer names have a line of their own
Entries = Iterator[tuple[str, tuple[str, ...]]]  # a name, and the lines that say what it is


def show(console: Console, section: str | None = None) -> None:
    """Prints a section, all of them, or which there are.

    Args:
      console: where to.
      section: one of :data:`SECTIONS`, in the singular or as a config spells it if you like, or
        ``all``; None: their names.

    Raises:
      UserError: there is no such section.
    """
    if section is None:
        console.print(_entries([(name, (title,)) for name, (title, _) in SECTIONS.items()]))
        console.print("\nsbt list SECTION shows one of them, sbt list all everything")
        return
    for name in SECTIONS if section == "all" else (_named(section),):
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
    raise UserError(f"sbt list {section}", "unknown section", nearest(wanted, (*SECTIONS, "all")))


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


def _data() -> Entries:
    for name, choice in DATASETS.items():
        values = {
            key: "|".join(choice.choices.get(key, ())) or v for key, v in choice.values.items()
        }
        yield name, (_said(choice.about), _numbers(values))


def _chosen(section: str) -> Callable[[], Entries]:
    """The choices of a section of the config: what each is, its numbers, options and source."""

    def entries() -> Entries:
        for name, choice in CONFIG_SECTIONS[section].items():
            numbers = _numbers(choice.numbers)
            yield name, (_said(choice.about), numbers, *_options(choice), choice.source)

    return entries


def _said(about: str) -> str:
    """The first line of a docstring without its markup."""
    return re.sub(r":\w+:`~?([^`]*)`", r"\1", about).replace("``", "")


def _optax() -> Entries:
    """Every optimizer of optax; its docstring says what its keywords mean."""
    for name, fields in ((name, optax_fields(name)) for name in optax_rules()):
        numbers = {key: value for key, value in fields.items() if isinstance(value, float)}
        others = {key: value for key, value in fields.items() if key not in numbers}
        yield name, (_numbers(numbers), _numbers(others))


def _options(choice: Choice) -> Iterator[str]:
    """One option a line, its default first; then what the rule asks of the training step."""
    for option, default in choice.options.items():
        yield f"{option}={'|'.join(map(str, choice.choices.get(option, (default,))))}"
    if choice.needs:
        yield f"needs {', '.join(sorted(choice.needs)).replace('_', ' ')}"


def _measurements() -> Entries:
    for name, measurement in MEASUREMENTS.items():
        cost = measurement.facts.get("cost", "passes over the data")
        about = f"{measurement.about.rstrip('.')}; {cost}"
        yield name, (about, _numbers(measurement.values), measurement.source)


def _claims() -> Entries:
    from sbt.report.claims import CLAIMS  # loads what reads results

    for name, claim in CLAIMS.items():
        words = (inspect.getdoc(claim.judge) or "").partition("\n")[0]
        takes = ", ".join(claim.signature.parameters)
        yield name, (words, f"takes {takes}" if takes else "", claim.source)


def _papers() -> Entries:
    """Every figure and table: its file with its claims, and its evidence or why there is none."""
    from sbt.coverage import place, shown  # loads what reads results

    for one in shown():
        claims = f"{one.claims} claim{'s' * (one.claims != 1)}"
        lines = [f"{one.file}, {claims}" if one.file else ""]
        for kept in one.evidence:
            seeds = f"{kept.seeds} seed{'s' * (kept.seeds != 1)}"
            lines.append(f"evidence of {seeds}: {place(kept.folder)}")
        missing = f"no evidence: {one.reason}" if one.reason else ""
        yield f"{one.paper}, {one.what}", (*lines, missing)


def _numbers(fields: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in fields.items()
    )


_TITLES = {
    "rule": "Update rules (config.rule.name) and their numbers, all sweepable",
    "rounding": "How weights are rounded to bfloat16 after updates (config.rounding.name)",
    "schedule": "Learning rates over time (config.schedule.name)",
    "batch_schedule": "Batch sizes over time (config.batch_schedule.name)",
    "task": "What is learned (config.task.name)",
    "scaling": "How decays and rate follow the batch size (config.scaling.name)",
    "search": "Which runs of a sweep begin and which stop (config.search.name)",
    "sample": "Which examples of a batch count (config.sample.name)",
}
# Name on the command line -> heading, and what stands under it.
SECTIONS: dict[str, tuple[str, Callable[[], Entries]]] = {
    "experiments": ("Experiments: sbt run NAME", _experiments),
    "papers": ("What the papers show: experiments, claims and evidence", _papers),
    "models": ("Models (config.model.name)", _models),
    "data": ("Data sets (config.data.name), beside any of TFDS", _data),
    "measurements": ("Measurements (config.measure.names) and their settings", _measurements),
    **{
        section + ("es" if section.endswith("ch") else "s"): (
            _TITLES.get(
                section, f"{section.replace('_', ' ').capitalize()} (config.{section}.name)"
            ),
            _chosen(section),
        )
        for section in CONFIG_SECTIONS
        if section != "model"
    },
    "claims": ("Claims of sbt.report.claims (config.report.claims)", _claims),
    "optax": ("Optimizers of optax (config.rule.name), their numbers, and options", _optax),
}
