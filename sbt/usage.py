"""Parsers of the commands: argparse, whose complaints are a user's errors, and its help."""

import argparse
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from sbt.errors import UserError, nearest

WIDTH = 80  # columns of the help

_SECTIONS = """\
config.model, rule, schedule, batch_schedule, momentum_schedule, noise and
objective have further fields, which follow from the name chosen in them
(config.rule.momentum); so has config.data for most data sets. `sbt list rules`
and its like have them all.

An axis of the grid is any field and its values, quoted for the shell:
  --config.sweep.batch_size=2,8,32     --config.sweep.base_lr='(2**-8, 2**-6)'
  --config.sweep.rule=sgd,sngm         --config.sweep.momentum='(0., .9)'
  --config.sweep.model__norm=none,batch     --config.sweep.seed=None (not swept)
A field can follow an axis instead:
  --config.follow.base_lr='("batch_size", ((2, 0.01), (8, 0.02)))'
"""


class Parser(argparse.ArgumentParser):
    """A parser of one command.

    Args:
      fields: prefix of the config's fields that the command can set (``""``: all of them); None:
        it sets none.
      named: see :class:`argparse.ArgumentParser`.
    """

    def __init__(self, *, fields: str | None = None, **named: Any):
        super().__init__(
            **named,
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=WIDTH),
        )
        self.fields = fields

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The arguments of the command; options and others may stand in any order.

        Returns:
          What argparse makes of them; ``overrides`` holds those that set fields of a config.

        Raises:
          UserError: an unknown option, with the nearest name, or one without a value; a field that
            the command cannot set.
        """
        rest, overrides = split_overrides(arguments)
        self._check_fields(overrides)
        parsed, unknown = self.parse_known_intermixed_args(rest)
        if unknown:
            named = [action for action in self._actions if action.option_strings]
            if len(named) < len(self._actions) and not unknown[0].startswith("-"):
                problem = "is one argument too many"
                raise UserError(f"{self.prog} {unknown[0]}", problem, f"see {self.prog} --help")
            known = [action.option_strings[-1] for action in named]
            known += ["--config.FIELD=VALUE"] * (self.fields is not None)
            problem = f"is not an option of {self.prog}"
            raise UserError(unknown[0], problem, nearest(unknown[0], known))
        parsed.overrides = overrides
        return parsed

    def _check_fields(self, overrides: Sequence[str]) -> None:
        for argument in overrides:
            if self.fields is None:
                remedy = f"{self.prog} takes none: leave it out"
                raise UserError(argument, "sets a field of a config", remedy)
            path = argument.removeprefix("--config.").partition("=")[0]
            if not f"{path}.".startswith(self.fields):
                remedy = f"only config.{self.fields}FIELD can be set here"
                raise UserError(argument, "is what the sweep was trained with", remedy)

    def error(self, message: str) -> NoReturn:
        """Raises what argparse has to complain of as a UserError."""
        where, _, problem = message.removeprefix("argument ").partition(": ")
        if problem == "expected one argument":
            raise UserError(where, "needs a value", f"write {where}=VALUE")
        if where == "the following arguments are required":
            where, problem = self.prog, f"needs {problem}"
        raise UserError(where, problem or message, f"see {self.prog} --help")

    def format_help(self) -> str:
        """Usage, options and, where it has some, the fields of a config: at 80 columns."""
        text = super().format_help()
        return text if self.fields is None else f"{text}\n{_fields(self.fields)}"


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Command-line arguments without those that set fields, and these, as ``--config.x=value``.

    Raises:
      UserError: a field without a value.
    """
    rest: list[str] = []
    overrides: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if not argument.startswith("--config."):
            rest.append(argument)
        elif "=" in argument:
            overrides.append(argument)
        else:
            value = next(remaining, None)
            if value is None:
                raise UserError(argument, "needs a value", f"write {argument}=VALUE")
            overrides.append(f"{argument}={value}")
    return rest, overrides


def _fields(prefix: str) -> str:
    """The fields of a config: default, meaning, and what they take."""
    from sbt.config import FIELDS

    lines = ["fields, with their defaults:"]
    for path, field in FIELDS.items():
        if not path.startswith(prefix):
            continue
        takes = field.takes.replace(f" and of at most {2**31 - 1}", "")
        lines.append(f"  --config.{path}={field.default}".rstrip("="))
        about = f"{field.about} ({takes})"
        lines += textwrap.wrap(about, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines) + "\n" + ("" if prefix else f"\n{_SECTIONS}")
