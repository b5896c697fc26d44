"""What the commands take: their arguments, and the help that tells them."""

import argparse
import textwrap
import types
from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn

from sbt.errors import UserError, nearest
from sbt.overrides import split_overrides

WIDTH = 80  # columns of the help


class Command(NamedTuple):
    """What ``sbt NAME --help`` says of a command, before its options.

    Attributes:
      usage: the arguments, after the name.
      about: what it does.
      options: option -> what it is.
      fields: prefix of the config's fields that it can set; None: it sets none.
    """

    usage: str
    about: str
    options: Mapping[str, str] = types.MappingProxyType({})
    fields: str | None = None


_SEVERAL = "on several machines, started by hand: "
COMMANDS = {
    "run": Command(
        "CONFIG [--workdir DIR] [--config.FIELD=VALUE ...]",
        "Trains the grid of an experiment file; the same command again resumes it.",
        {
            "workdir": "directory of results and checkpoints; else runs/NAME",
            "coordinator": f"{_SEVERAL}host:port of process 0",
            "processes": f"{_SEVERAL}how many there are",
            "process": f"{_SEVERAL}number of this one, from 0",
        },
        fields="",
    ),
    "plan": Command(
        "CONFIG [--config.FIELD=VALUE ...]",
        "A dry run: cohorts, lanes, memory and time of an experiment; nothing is trained.",
        fields="",
    ),
    "measure": Command(
        "DIR [--config.measure=NAME,NAME ...] [--config.measure.FIELD=VALUE ...]",
        "Measures the weights that a sweep kept (config.checkpoint.final_weights).",
        fields="measure.",
    ),
    "report": Command(
        "DIR [DIR ...] [--out DIR]",
        "Writes report.html with figures, tables and verdicts; of several sweeps, a comparison.",
        {"out": "directory of the report; else the work directory"},
    ),
    "bench": Command("[--quick] [--models=NAME,NAME ...]", "Speed, against peers and ceilings."),
    "list": Command("[SECTION]", "Experiments, models, rules, measurements, and what else ships."),
}


class Arguments(NamedTuple):
    """The arguments of a command.

    Attributes:
      positional: those without a name.
      overrides: ``--config.field=value``.
      options: option -> value.
    """

    positional: list[str]
    overrides: list[str]
    options: dict[str, str]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        option, _, problem = message.removeprefix("argument ").partition(": ")
        if problem == "expected one argument":
            raise UserError(option, "needs a value", f"write {option}=VALUE")
        raise UserError(self.prog, message, f"see {self.prog} --help")


def _parser(name: str) -> _Parser:
    command = COMMANDS[name]
    parser = _Parser(
        prog=f"sbt {name}",
        usage=f"sbt {name} {command.usage}",
        description=command.about,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, width=WIDTH),
    )
    parser.add_argument("positional", nargs="*", help=argparse.SUPPRESS)
    for option, about in command.options.items():
        value = {"workdir": "DIR", "out": "DIR", "coordinator": "HOST:PORT"}.get(option, "N")
        parser.add_argument(f"--{option}", metavar=value, help=about)
    return parser


def read_arguments(name: str, arguments: Sequence[str]) -> Arguments:
    """The arguments of a command, sorted.

    Raises:
      UserError: an unknown option, with the nearest name, or one without a value.
    """
    rest, overrides = split_overrides(arguments)
    command, parser = COMMANDS[name], _parser(name)
    if overrides and command.fields is None:
        remedy = f"sbt {name} takes none: leave it out"
        raise UserError(overrides[0], "sets a field of a config", remedy)
    for argument in overrides:
        path = argument.removeprefix("--config.").partition("=")[0]
        if not f"{path}.".startswith(command.fields or ""):
            remedy = f"only config.{command.fields}FIELD can be set here"
            raise UserError(argument, "is what the sweep was trained with", remedy)
    parsed, unknown = parser.parse_known_intermixed_args(rest)
    if unknown:
        known = [f"--{option}" for option in command.options]
        known += ["--config.FIELD=VALUE"] * (command.fields is not None)
        raise UserError(unknown[0], f"is not an option of sbt {name}", nearest(unknown[0], known))
    named = {option: getattr(parsed, option) for option in command.options}
    given = {option: value for option, value in named.items() if value is not None}
    return Arguments(parsed.positional, overrides, given)


def help_of(name: str) -> str:
    """What ``sbt NAME --help`` prints, at 80 columns."""
    text = _parser(name).format_help()
    fields = COMMANDS[name].fields
    return text if fields is None else f"{text}\n{_fields(fields)}"


_SECTIONS = """\
config.model, rule, schedule, batch_schedule, momentum_schedule, noise and
objective have further fields, which follow from the name chosen in them
(config.rule.momentum); so has config.data for synthetic data. `sbt list` has
them all.

An axis of the grid is any field and its values, quoted for the shell:
  --config.sweep.batch_size=2,8,32     --config.sweep.base_lr='(2**-8, 2**-6)'
  --config.sweep.rule=sgd,sngm         --config.sweep.momentum='(0., .9)'
  --config.sweep.model__norm=none,batch     --config.sweep.seed=None (not swept)
A field can follow an axis instead:
  --config.follow.base_lr='("batch_size", ((2, 0.01), (8, 0.02)))'
"""


def _fields(prefix: str) -> str:
    """The fields of a config: default, meaning, and what they take."""
    from sbt.config import FIELDS

    lines = ["fields, with their defaults:"]
    for path, field in FIELDS.items():
        if not path.startswith(prefix):
            continue
        takes = field.takes.replace(f" and of at most {2**31 - 1}", "")
        lines.append(f"  --config.{path}={field.default}".rstrip("="))
        lines += textwrap.wrap(
            f"{field.about} ({takes})", WIDTH,
            initial_indent=" " * 6, subsequent_indent=" " * 6,
        )  # fmt: skip
    if not prefix:
        lines += ["", _SECTIONS.rstrip()]
    return "\n".join(lines) + "\n"
