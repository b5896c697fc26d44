"""The ``sbt`` command: ``sbt --help`` says what it can do, ``sbt COMMAND --help`` how."""

import argparse
import atexit
import contextlib
import gc
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbt.bench.options import add_options
from sbt.errors import UserCodeError, UserError, nearest, telling_memory
from sbt.files import OUT_OF_SPACE, default_directory, directory_of, writing
from sbt.pages import restart_with_large_pages
from sbt.usage import Parser

if TYPE_CHECKING:
    import xarray as xr

    from sbt.report.markup import Markup

# Everything that takes time to import is imported where it is used, so that Ctrl-C ends the first
# seconds, too, in one line.

EXIT_ERROR, EXIT_INTERRUPTED = 2, 130
MOST_PRINTED = 5  # paths, one by one
RELOAD = 10  # seconds between looks at a sweep that runs
_CONFIG = "experiment file with get_config(); file.py:variant passes it an argument"
_EXAMPLES = """\
A tuple is written in quotes:
  sbt run CONFIG --workdir runs/mine --config.sweep.seed='(0, 1, 2)'
sbt COMMAND --help has a command's options and the fields of a config.
"""


def parsers() -> tuple[Parser, dict[str, Parser]]:
    """The parser of ``sbt``, for its help, and those of its commands."""
    top = Parser(
        prog="sbt",
        usage="sbt COMMAND ...",
        description="Small-batch training: a whole grid of trainings as one compiled program.",
        epilog=_EXAMPLES,
    )
    commands = top.add_subparsers(title="commands", metavar="COMMAND")

    def command(run: Callable[[Any], int], usage: str, about: str, **named: Any) -> Parser:
        name = run.__name__.strip("_")
        named |= {"prog": f"sbt {name}", "usage": f"sbt {name} {usage}", "description": about}
        parser = commands.add_parser(name, help=about, **named)
        parser.set_defaults(run=run)
        return parser

    fields, several = "[--config.FIELD=VALUE ...]", "on several machines, started by hand:"
    about = "Trains the grid of an experiment file; the same command again resumes it."
    run = command(_run, f"CONFIG [--workdir DIR] {fields}", about, fields="")
    run.add_argument("config", metavar="CONFIG", help=_CONFIG)
    about = "directory of results and checkpoints; else runs/NAME"
    run.add_argument("--workdir", metavar="DIR", help=about)
    run.add_argument("--coordinator", metavar="HOST:PORT", help=f"{several} of process 0")
    run.add_argument("--processes", metavar="N", help=f"{several} how many there are")
    run.add_argument("--process", metavar="N", help=f"{several} number of this one, from 0")

    about = "Trains a grid in parts, a job for each, and puts the results together; again resumes."
    usage = f"CONFIG [--workdir DIR] [--parts N] [--executor slurm|local] {fields}"
    submit = command(_submit, usage, about, fields="")
    submit.add_argument("config", metavar="CONFIG", help=_CONFIG)
    about = "directory of all parts; else runs/NAME"
    submit.add_argument("--workdir", metavar="DIR", help=about)
    about = "jobs to split the grid into; else 2"
    submit.add_argument("--parts", metavar="N", type=int, default=2, help=about)
    about = "slurm, or local: processes of this machine; else slurm"
    submit.add_argument("--executor", metavar="NAME", default="slurm", help=about)
    submit.add_argument("--time", metavar="MINUTES", type=int, help="of a job; else a day")
    submit.add_argument("--partition", metavar="NAME", help="of Slurm")
    submit.add_argument("--gpus", metavar="N", type=int, help="of a job")
    about = "any other parameter of submitit's executor, such as slurm_account=NAME"
    submit.add_argument(
        "--option", metavar="NAME=VALUE", action="append", default=[], dest="options", help=about
    )
    about = "return once the jobs are submitted; the same command without it waits, and merges"
    submit.add_argument("--detach", action="store_true", help=about)

    about = "A dry run: cohorts, lanes, memory and time of an experiment; nothing is trained."
    plan = command(_plan, f"CONFIG [--measure] {fields}", about, fields="")
    plan.add_argument("config", metavar="CONFIG", help=_CONFIG)
    about = "compile and time every program, rather than estimate from counts of operations"
    plan.add_argument("--measure", action="store_true", help=about)

    usage = "DIR [--config.measure=NAME,NAME ...] [--config.measure.FIELD=VALUE ...]"
    about = "Measures the weights that a sweep kept (config.checkpoint.final_weights)."
    measure = command(_measure, usage, about, fields="measure.")
    measure.add_argument("directory", metavar="DIR", help="work directory of the sweep")
    about = "the experiment file that was run, where it has a module, data set or rule of its own"
    measure.add_argument("--experiment", metavar="FILE", help=about)

    about = "Writes report.html with figures, tables and verdicts; of several sweeps, a comparison."
    report = command(_report, "DIR [DIR ...] [--out DIR] [--watch]", about)
    report.add_argument("directories", metavar="DIR", nargs="+", help="work directory of a sweep")
    about = "directory of the report; else the work directory"
    report.add_argument("--out", metavar="DIR", help=about)
    about = "write it again whenever results come, until the sweep ends; an open page follows"
    report.add_argument("--watch", action="store_true", help=about)

    about = "Keeps a finished sweep as evidence: results, how they were made, figures, verdicts."
    usage = "DIR FOLDER [--command TEXT ...] [--hardware TEXT] [--figures NAME,NAME]"
    keep = command(_keep, usage, about)
    keep.add_argument("directory", metavar="DIR", help="work directory of the sweep")
    keep.add_argument("folder", metavar="FOLDER", help="experiments/<paper>/results/<name>")
    about = "a command that took part in it, beside those that meta.json has noted"
    keep.add_argument(
        "--command", metavar="TEXT", action="append", default=[], dest="commands", help=about
    )
    keep.add_argument("--hardware", metavar="TEXT", default="", help="what it ran on, in words")
    about = "figures of the report to keep, by name; else those of its claims, or the first"
    keep.add_argument("--figures", metavar="NAME,NAME", help=about)

    about = "One page of all that was kept: what papers claim, what was found, how to redo it."
    gallery = command(_gallery, "[--out DIR]", about)
    gallery.add_argument("--out", metavar="DIR", default="runs/gallery", help="else runs/gallery")

    about = "Writes the results of a sweep as another tool reads them."
    export = command(_export, "DIR --to FORMAT [--out DIR]", about)
    export.add_argument("directory", metavar="DIR", help="work directory of the sweep")
    about = "csv, parquet, optuna (a study), tensorboard (curves and HParams), wandb or trackio"
    export.add_argument("--to", metavar="FORMAT", required=True, help=about)
    export.add_argument("--out", metavar="DIR", help="else DIR/export/FORMAT")

    about = "Which batch size and learning rate to use, from a finished grid: writes advice.html."
    usage = "DIR [--target X] [--devices N,N] [--next FILE] [--no-measure]"
    advise = command(_advise, usage, about)
    advise.add_argument("directory", metavar="DIR", help="work directory of the sweep")
    about = "score to reach (an accuracy as a fraction); else one that most batch sizes reach"
    advise.add_argument("--target", metavar="X", type=float, help=about)
    about = "budgets of devices to recommend for; else 8,64"
    advise.add_argument("--devices", metavar="N,N", help=about)
    about = "also write an experiment file of the runs that would tell more"
    advise.add_argument("--next", metavar="FILE", help=about)
    about = "do not time a run by itself, a second or two per batch size; what is kept is used"
    advise.add_argument("--no-measure", action="store_true", help=about)
    about = "the experiment file that was run, where it has a module, data set or rule of its own"
    advise.add_argument("--experiment", metavar="FILE", help=about)

    about = "Training speed of lanes, against peers and against measured ceilings."
    add_options(command(_bench, "[--quick] [--models=NAME,NAME ...]", about))

    about = "Experiments, models, rules, measurements, and what else ships."
    shown = command(_list, "[SECTION]", about)
    shown.add_argument(
        "section", metavar="SECTION", nargs="?", help="one of them, or all; else their names"
    )
    return top, commands.choices


def _collect_rarely() -> None:
    """Spares a process most of its garbage collection: what it imports stays to its end."""
    gc.set_threshold(50_000)
    atexit.register(gc.freeze)  # the interpreter goes through all objects before it leaves


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    name, *rest = given or ["help"]
    if argv is None and name in ("run", "plan", "measure", "bench"):
        restart_with_large_pages()
    if argv is None:
        _collect_rarely()
    if argv is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)  # while nothing is under way that a sweep would save
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        top, commands = parsers()
        if name in ("help", "-h", "--help"):
            print(top.format_help(), end="", flush=True)
            return 0 if given else EXIT_ERROR
        if name not in commands:
            raise UserError(f"sbt {name}", "is not a command", nearest(name, commands))
        parser = commands[name]
        if {"--help", "-h"} & set(rest):
            print(parser.format_help(), end="", flush=True)
            return 0
        arguments = parser.read(rest)
        arguments.command = shlex.join(["sbt", *given])
        with telling_memory():
            code = arguments.run(arguments)
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


def _run(arguments: argparse.Namespace) -> int:
    from sbt.experiment import load_experiment
    from sbt.parallel import hosts

    hosts.start(arguments.coordinator, arguments.processes, arguments.process)
    config, parts = load_experiment(arguments.config, arguments.overrides)
    from sbt.parallel.mesh import prepare_devices
    from sbt.sweep.progress import Silent, for_console
    from sbt.sweep.run import run

    prepare_devices()  # before anything asks for a device

    chosen = arguments.workdir is not None
    directory = arguments.workdir if chosen else default_directory(config.name)
    with hosts.noticing_losses():
        shown = for_console() if hosts.writes() else Silent()
        dataset = run(config, directory, **parts, progress=shown)
    if not hosts.writes():
        return 0
    from sbt.results import VALIDATION_SCORE, best_cell
    from sbt.sweep.progress import describe
    from sbt.tasks.score import of_attrs

    if best := best_cell(dataset):
        score, where = of_attrs(dataset.attrs), describe(best.where) or "the one run"
        by = " (chosen by validation)" * (VALIDATION_SCORE in dataset)
        print(f"best {score.long_name} {score.text(best.value)} at {where}{by}")
    print(f"results: {directory}/results.nc    figures: sbt report {directory}")
    return 0


def _submit(arguments: argparse.Namespace) -> int:
    from sbt.experiment import load_config
    from sbt.overrides import value_of
    from sbt.submit import submit

    directory = arguments.workdir
    if directory is None:
        directory = default_directory(load_config(arguments.config, arguments.overrides).name)
    options = {
        "timeout_min": arguments.time,
        "slurm_partition": arguments.partition,
        "gpus_per_node": arguments.gpus,
    }
    options = {name: value for name, value in options.items() if value is not None}
    for given in arguments.options:
        name, equals, text = given.partition("=")
        if not equals:
            raise UserError(f"--option={given}", "has no value", f"write --option={given}=VALUE")
        options[name] = value_of(text)
    with _telling() as note:
        found = submit(
            arguments.config, arguments.overrides, directory_of(directory), arguments.parts,
            arguments.executor, options, wait=not arguments.detach, note=note,
        )  # fmt: skip
    if found is None:
        print("the same command without --detach waits for the jobs, and puts them together")
        return 0
    print(f"results: {directory}/results.nc    figures: sbt report {directory}")
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    from sbt.experiment import load_experiment

    config, parts = load_experiment(arguments.config, arguments.overrides)
    from sbt.sweep.preview import preview, tables
    from sbt.text import roughly

    with _telling() as note:
        cohorts = preview(config, note, measure=arguments.measure, **parts)
    console = _console(80)
    for part in tables(config.name, cohorts):
        console.print(part)
    total = sum(c.seconds + c.compile_seconds for c in cohorts)
    peak = max(c.process_bytes for c in cohorts)
    print(f"peak memory {peak / 2**30:.2f} GB, estimated time {roughly(total)}, nothing trained")
    if not arguments.measure:
        print("from counts of operations, within a factor of two or so; --measure times it here")
    if config.engine.lanes is None and config.engine.memory_gb is None:
        print("lanes follow free memory; config.engine.lanes (or .memory_gb) fixes them")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from sbt.report import write_comparison, write_report
    from sbt.results import load
    from sbt.workdir import read_meta

    paths: list[Path] = []
    datasets, metas = {}, {}
    directories = {name: directory_of(name, "sbt report") for name in arguments.directories}
    out = None if arguments.out is None else directory_of(arguments.out, "--out")
    if arguments.watch:
        if len(directories) > 1:
            raise UserError("--watch", "follows one sweep", "give one directory")
        (directory,) = directories.values()
        _watch(directory, out or directory)
    for name, directory in directories.items():
        datasets[name] = load(directory)
        metas[name] = read_meta(directory)
        target = out if out and len(directories) == 1 else directory
        with writing(target, "the report", "add --out=DIR, a directory that you may write to"):
            advice = _advice(datasets[name], metas[name])
            paths += write_report(datasets[name], target, metas[name], advice)
    if len(directories) > 1:
        labels = {directories[name].name or name: data for name, data in datasets.items()}
        out = out or directories[arguments.directories[0]].resolve().parent / "comparison"
        with writing(out, "the comparison", "add --out=DIR, a directory that you may write to"):
            paths += write_comparison(labels, out, metas)
    for path in paths:
        print(path)
    return 0


def _keep(arguments: argparse.Namespace) -> int:
    from sbt.evidence import keep

    directory = directory_of(arguments.directory, "sbt keep")
    folder = directory_of(arguments.folder, "FOLDER")
    names = [name for name in (arguments.figures or "").split(",") if name]
    with writing(folder, "the evidence"):
        paths = keep(directory, folder, arguments.commands, arguments.hardware, names)
    for path in paths:
        print(path)
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from sbt.export import export
    from sbt.results import load

    directory = directory_of(arguments.directory, "sbt export")
    usual = directory / "export" / arguments.to
    target = directory_of(arguments.out, "--out") if arguments.out else usual
    with writing(target, "the export"):
        paths = export(load(directory), target, arguments.to)
    for path in paths if len(paths) <= MOST_PRINTED else (target,):
        print(path)
    return 0


def _watch(directory: Path, target: Path) -> None:
    """Writes the report of a sweep whenever its results change, until it ends or Ctrl-C is pressed.

    Returns with the last report still to be written: a page that does not reload itself.
    """
    import time

    from sbt.report import write_report
    from sbt.results import FILE, load
    from sbt.workdir import in_use, read_meta

    results = directory / FILE
    seen = None
    with contextlib.suppress(KeyboardInterrupt):
        if in_use(directory) and not results.exists():
            print("waiting for the first results", flush=True)
        while in_use(directory):
            if results.exists() and (now := results.stat().st_mtime_ns) != seen:
                seen = now
                with writing(target, "the report"):
                    meta = read_meta(directory) | {"status": "running"}
                    page, *_ = write_report(load(directory), target, meta, every=RELOAD)
                print(f"{time.strftime('%H:%M:%S')} {page}", flush=True)
            time.sleep(RELOAD)


def _advice(results: "xr.Dataset", meta: dict[str, Any]) -> "Markup":
    """What a report says of what to use; nothing where a grid says nothing of it."""
    from sbt.advice.advise import advise
    from sbt.advice.page import section
    from sbt.report.markup import NOTHING

    if results.sizes.get("batch_size", 1) < 2:
        return NOTHING
    try:
        return section(advise(results, meta=meta))
    except UserError:  # not finished, say; `sbt advise` tells it
        return NOTHING


def _gallery(arguments: argparse.Namespace) -> int:
    from sbt.gallery import write_gallery

    out = directory_of(arguments.out, "--out")
    with writing(out, "the gallery"):
        path, problems = write_gallery(out)
    for line in problems:
        print(f"not shown: {line}", file=sys.stderr)
    print(path)
    return 0


def _advise(arguments: argparse.Namespace) -> int:
    from sbt.advice.advise import DEVICES, advise
    from sbt.advice.following import next_experiment
    from sbt.advice.page import text, write_advice
    from sbt.advice.speeds import points
    from sbt.files import write_text
    from sbt.results import load
    from sbt.workdir import read_meta

    directory = directory_of(arguments.directory, "sbt advise")
    devices: tuple[int, ...] = DEVICES
    if arguments.devices is not None:
        try:
            devices = tuple(int(part) for part in arguments.devices.split(","))
        except ValueError:
            devices = ()
        if not devices or min(devices) < 1:
            problem = f"{arguments.devices!r} holds no whole numbers from 1 on"
            raise UserError("--devices", problem, "write --devices=8,64")
    results, meta = load(directory), read_meta(directory)
    found = advise(results, arguments.target, devices, meta)
    if not arguments.no_measure:
        meta = _timed(directory, points(found.reached), arguments.experiment) or meta
        found = advise(results, arguments.target, devices, meta)
    print(text(found), end="\n\n")
    with writing(directory, "the advice"):
        paths = write_advice(found, directory)
    for path in paths:
        print(path)
    if arguments.next is not None:
        path, following = Path(arguments.next), next_experiment(found, arguments.directory)
        with writing(path.parent, "the next experiment"):
            print(write_text(path, following))
    return 0


def _timed(
    directory: Path, points: Sequence[dict[str, Any]], experiment: str | None
) -> dict[str, Any]:
    """The meta data of a directory with the speed of a run by itself; nothing where it has none."""
    from sbt.experiment import load_experiment
    from sbt.sweep.alone import time_alone

    with _telling() as note:
        try:
            parts = load_experiment(experiment).parts if experiment else {}
            return time_alone(directory, points, **parts, note=note)
        except UserError as error:
            note(f"a run by itself was not timed: {error}")
            return {}


def _measure(arguments: argparse.Namespace) -> int:
    from sbt.experiment import load_experiment
    from sbt.overrides import apply_overrides
    from sbt.sweep.afterwards import measure_runs
    from sbt.sweep.progress import for_console
    from sbt.workdir import stored_config

    directory = directory_of(arguments.directory, "sbt measure")
    config = stored_config(directory)
    if config is None:
        raise UserError(str(directory), "holds no sweep (config.json)", "run one: sbt run ...")
    measure = apply_overrides({"measure": config.measure}, arguments.overrides).measure
    parts = load_experiment(arguments.experiment).parts if arguments.experiment else {}
    measure_runs(directory, measure, **parts, progress=for_console())
    print(f"results: {directory}/results.nc    figures: sbt report {directory}")
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    from sbt.bench.command import main as bench

    return bench(arguments, _console())


def _list(arguments: argparse.Namespace) -> int:
    from sbt.listing import show

    show(_console(80), arguments.section)
    return 0


if __name__ == "__main__":
    sys.exit(main())
