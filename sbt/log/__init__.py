"""Where what is measured goes while it is measured: ``config.log = ("tensorboard", "wandb")``.

A *log* is a function ``log(run, step, metrics)``, called once for each run and epoch. Here are
those that ship, by name, each a file of this package: a function of a directory that gives one for
the length of a ``with``. A log of your own is named by its place, ``"my_module:function"``. The
same functions write results after the fact, ``sbt export DIR --to tensorboard``.
"""

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sbt.errors import UserError, nearest, shown, user_code
from sbt.log.hook import Log, LoggedRun, finite, needed, numbers, teller
from sbt.log.tensorboard import tensorboard
from sbt.log.trackio import trackio
from sbt.log.wandb import wandb

__all__ = [
    "SINKS", "Log", "LoggedRun", "Sink", "check", "finite", "needed", "numbers", "opened", "teller",
]  # fmt: skip

Sink = Callable[[Path], contextlib.AbstractContextManager[Log]]

SINKS: dict[str, Sink] = {"tensorboard": tensorboard, "wandb": wandb, "trackio": trackio}


def check(names: Sequence[str]) -> None:
    """Refuses names that are neither of :data:`SINKS` nor places of functions.

    Raises:
      UserError: naming the nearest.
    """
    for name in names:
        if not isinstance(name, str) or (name not in SINKS and ":" not in name):
            remedy = f"{nearest(str(name), SINKS)} Or name your own, as my_module:function."
            raise UserError("config.log", f"{shown(name)} is no log", remedy)


@contextlib.contextmanager
def opened(names: Sequence[str], directory: Path | None) -> Iterator[dict[str, Log]]:
    """Logs by name, for the length of a sweep.

    Args:
      names: of :data:`SINKS`, or ``module:function``.
      directory: each of them gets a directory of its name in there; None: there is none.

    Raises:
      UserError: a package is not installed, a function is not there, or a log needs a directory.
    """
    check(names)
    with contextlib.ExitStack() as stack:
        logs = {}
        for name in names:
            if name not in SINKS:
                logs[name] = _own(name)
            elif directory is None:
                remedy = "give a work directory: sbt.run(config, workdir)"
                raise UserError("config.log", f"{name} has no directory to write to", remedy)
            else:
                logs[name] = stack.enter_context(SINKS[name](directory / name))
        yield logs


def _own(name: str) -> Log:
    """The user's function at ``module:function``; modules are also looked for where one works."""
    module, _, attribute = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        with user_code(f"config.log, {name}"):
            found = getattr(importlib.import_module(module), attribute)
    finally:
        sys.path.remove(os.getcwd())
    if not callable(found):
        remedy = "name a function log(run, step, metrics)"
        raise UserError("config.log", f"{name} cannot be called", remedy)
    log: Log = found
    return log
