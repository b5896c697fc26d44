"""The ``sbt`` command.

  sbt run CONFIG [--workdir DIR] [--config.field=value ...]   train the grid; again: resume it
          [--coordinator HOST:PORT --processes N --process I] by hand on several machines
  sbt plan CONFIG [--config.field=value ...]                  dry run: cohorts, memory, time
  sbt measure DIR [--config.measure=NAME,NAME ...]            measurements of the saved weights
  sbt report DIR [DIR ...] [--out DIR]                        figures, tables, verdicts
  sbt bench [--quick] [--models=NAME,NAME ...]                speed, against peers and ceilings
  sbt list [rules|models|measurements|...]                    what ships, or a section of it
  sbt COMMAND --help                                          its options, and the config's fields

CONFIG is a Python file with ``get_config()``; ``file.py:variant`` passes it an argument. A tuple is
written in quotes: --config.sweep.seed='(0, 1, 2)'.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sbt.errors import UserCodeError, UserError, nearest, telling_memory
from sbt.files import OUT_OF_SPACE, default_directory, directory_of, writing
from sbt.pages import restart_with_large_pages

# Everything that takes time to import is imported where it is used, so that Ctrl-C ends the first
# seconds, too, in one line.

EXIT_ERROR, EXIT_INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("help", "-h", "--help"):
        print(__doc__)
        return 0 if arguments else EXIT_ERROR
    command, *rest = arguments
    if argv is None and command in ("run", "plan", "measure", "bench"):
        restart_with_large_pages()
    if argv is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)  # while nothing is under way that a sweep would save
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        if command not in COMMANDS:
            raise UserError(f"sbt {command}", "is not a command", nearest(command, COMMANDS))
        if {"--help", "-h"} & set(rest) and command != "bench":
            from sbt.usage import help_of

            print(help_of(command), end="", flush=True)
            return 0
        with telling_memory():
            code = COMMANDS[command](rest)
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        if isinstance(error, UserCodeError):
            print(f"\n{error.own_traceback()}", end="", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt as stop:
        from sbt.sweep.loop import Interrupted

        saved = (
            "everything is saved; the same command resumes" if isinstance(stop, Interrupted) else ""
        )
        print(f"\ninterrupted{'; ' * bool(saved)}{saved}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return 0
    except OSError as error:
        if error.errno not in OUT_OF_SPACE:
            raise
        where, remedy = error.filename or "standard output", "make room there, and try again"
        print(f"error: {where}: {error.strerror}\n  {remedy}", file=sys.stderr)
        _drop_output()
        return EXIT_ERROR


def _drop_output() -> None:
    """What nobody can take any more is not tried for again at the end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leave(number: int, frame: Any) -> None:
    """Ends the process at once: an exception could end up in whatever library is being imported."""
    del number, frame
    shows_cursor = "\033[?25h" if sys.stderr.isatty() else ""
    os.write(2, f"{shows_cursor}\ninterrupted\n".encode())
    os._exit(EXIT_INTERRUPTED)


# --- commands ------------------------------------------------------------------------------------


def _one(positional: list[str], usage: str) -> str:
    if len(positional) != 1:
        name = " ".join(usage.split()[:2])
        raise UserError(usage, f"takes one argument, got {len(positional)}", f"see {name} --help")
    return positional[0]


def _console(columns: int = 160) -> Any:
    """As wide as the terminal (or ``COLUMNS`` says); in a file, so many columns."""
    from rich.console import Console

    console = Console()
    known = console.is_terminal or "COLUMNS" in os.environ
    return console if known else Console(width=columns)


@contextlib.contextmanager
def _telling() -> Iterator[Callable[[str], None]]:
    """A line on the terminal that says what goes on; elsewhere, lines on standard error."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: console.print(Text(text), soft_wrap=True)
        return
    with console.status("") as status:
        yield lambda text: status.update(Text(text))


def _run(arguments: Sequence[str]) -> int:
    from sbt.experiment import load_config
    from sbt.parallel import hosts
    from sbt.usage import read_arguments

    positional, overrides, named = read_arguments("run", arguments)

    hosts.start(named.get("coordinator"), named.get("processes"), named.get("process"))
    config = load_config(_one(positional, "sbt run CONFIG"), overrides)
    from sbt.parallel.mesh import prepare_devices
    from sbt.sweep.progress import Silent, for_console
    from sbt.sweep.run import run

    prepare_devices()  # before anything asks for a device

    directory = named["workdir"] if "workdir" in named else default_directory(config.name)
    with hosts.noticing_losses():
        dataset = run(config, directory, progress=for_console() if hosts.writes() else Silent())
    if not hosts.writes():
        return 0
    from sbt.results import best_cell
    from sbt.sweep.progress import describe

    if best := best_cell(dataset):
        print(f"best accuracy {best.accuracy:.2%} at {describe(best.where) or 'the one run'}")
    print(f"results: {directory}/results.nc    figures: sbt report {directory}")
    return 0


def _plan(arguments: Sequence[str]) -> int:
    from sbt.experiment import load_config
    from sbt.usage import read_arguments

    positional, overrides, _ = read_arguments("plan", arguments)
    config = load_config(_one(positional, "sbt plan CONFIG"), overrides)
    from sbt.sweep.preview import preview, tables
    from sbt.sweep.progress import duration

    with _telling() as note:
        cohorts = preview(config, note)
    console = _console(80)
    for part in tables(config.name, cohorts):
        console.print(part)
    total = sum(c.seconds + c.compile_seconds for c in cohorts)
    peak = max(c.process_bytes for c in cohorts)
    print(f"peak memory {peak / 2**30:.2f} GB, estimated time {duration(total)}, nothing trained")
    return 0


def _report(arguments: Sequence[str]) -> int:
    from sbt.usage import read_arguments

    positional, _, named = read_arguments("report", arguments)
    if not positional:
        raise UserError("sbt report", "needs a work directory", "write sbt report DIR")
    from sbt.report import write_comparison, write_report
    from sbt.results import load
    from sbt.workdir import read_meta

    paths: list[Path] = []
    datasets, metas = {}, {}
    directories = {name: directory_of(name, "sbt report") for name in positional}
    out = directory_of(named["out"], "--out") if "out" in named else None
    for name, directory in directories.items():
        datasets[name] = load(directory)
        metas[name] = read_meta(directory)
        target = out if out and len(positional) == 1 else directory
        with writing(target, "the report", "add --out=DIR, a directory that you may write to"):
            paths += write_report(datasets[name], target, metas[name])
    if len(positional) > 1:
        labels = {directories[name].name or name: data for name, data in datasets.items()}
        out = out or directories[positional[0]].resolve().parent / "comparison"
        with writing(out, "the comparison", "add --out=DIR, a directory that you may write to"):
            paths += write_comparison(labels, out, metas)
    for path in paths:
        print(path)
    return 0


def _measure(arguments: Sequence[str]) -> int:
    from sbt.overrides import apply_overrides
    from sbt.usage import read_arguments

    positional, overrides, _ = read_arguments("measure", arguments)
    directory = directory_of(_one(positional, "sbt measure DIR"), "sbt measure")
    from sbt.sweep.afterwards import measure_runs
    from sbt.sweep.progress import for_console
    from sbt.workdir import stored_config

    config = stored_config(directory)
    if config is None:
        raise UserError(str(directory), "holds no sweep (config.json)", "run one: sbt run ...")
    measure = apply_overrides(config, overrides).measure
    measure_runs(directory, measure, progress=for_console())
    print(f"results: {directory}/results.nc    figures: sbt report {directory}")
    return 0


def _bench(arguments: Sequence[str]) -> int:
    from sbt.bench import main as bench

    return bench(arguments, _console())


def _list(arguments: Sequence[str]) -> int:
    from sbt.usage import read_arguments

    positional, _, _ = read_arguments("list", arguments)
    if len(positional) > 1:
        raise UserError(
            "sbt list", f"takes one section, got {len(positional)}", "see sbt list --help"
        )
    from sbt.listing import show

    show(_console(80), *positional)
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "run": _run,
    "plan": _plan,
    "measure": _measure,
    "report": _report,
    "bench": _bench,
    "list": _list,
}


if __name__ == "__main__":
    sys.exit(main())
