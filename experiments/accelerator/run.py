"""What an accelerator does with sbt, in 25 minutes: is it right, how fast, with which settings.

    python experiments/accelerator/run.py [--minutes=25] [--workdir=runs/accelerator]
        [--data_dir=DIR] [--only=correctness,bench,tuning,figures] [--quick]

Four steps, each in a process of its own with a share of the time; what one leaves goes to the next:

* ``correctness``: every lane strategy and convolution against plain float64 on the CPU;
* ``bench``: ``sbt bench`` for the README's table: lanes, a jitted run and PyTorch where installed;
* ``tuning``: strategies, lanes, CUDA graphs, bfloat16 and blocks of the convolution kernels, each
  against what the engine chooses by itself;
* ``figures``: as many of :data:`FIGURES` as the time left allows, in that order.

Whatever ends is written at once, and ``summary.md`` anew after every step. The same command again
does what was not done: sweeps resume, finished steps stay. Nothing is fetched from a network: data
sets of TFDS are read from ``--data_dir``, else where TFDS keeps them, and figures whose set is not
there are left out. ``--quick`` takes the smallest sizes, for a trial on two CPU cores
(``--minutes=3``). What is worth keeping goes to ``experiments/accelerator/results/<hardware>``.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sbt.bench.workload import NO_TIME
from sbt.errors import UserError
from sbt.files import directory_of, read_json, write_json, write_text

SHARES = {"correctness": 4, "bench": 6, "tuning": 8, "figures": 7}  # minutes of 25
GRACE = 20.0  # seconds for a step to end that was asked to
STOPPED = 130  # exit code
# In order of what they tell in a minute; a variant is what the time allows, not what suits a CPU.
FIGURES = (
    "marek_2025/fig05.py:small",
    "keskar_2017/fig02.py:c1",
    "marek_2025/fig01a.py:small",
    "masters_luschi_2018/fig01.py:small",
    "masters_luschi_2018/fig04.py",
    "masters_luschi_2018/fig01.py",
)
SMALLEST = ("quickstart.py:tiny",)
# What lanes are compared on, in this order.
NETWORKS = ("convnet", "resnet8-bn", "gpt", "f1", "alexnet-bn")


@dataclasses.dataclass(frozen=True)
class Step:
    """What a step is given.

    Attributes:
      name: key of :data:`STEPS`.
      out: its directory.
      until: ``time.monotonic`` when it has to end.
      quick: smallest sizes.
    """

    name: str
    out: Path
    until: float
    quick: bool

    @property
    def left(self) -> float:
        """Seconds."""
        return self.until - time.monotonic()


# --- the steps -----------------------------------------------------------------------------------


def correctness(step: Step) -> str:
    """Every strategy and kernel, until all are compared or the time is over."""
    from sbt.bench import agreement

    networks, arithmetic, found = NETWORKS, tuple(agreement.ARITHMETIC), []
    if step.quick:
        networks, arithmetic = networks[:1], arithmetic[:1]
    for one in agreement.compare(networks, arithmetic):
        found.append(one)
        print(f"{one.outcome} {one.subject}, {one.way}, {one.arithmetic}", flush=True)
        write_json(step.out / "agreement.json", {"found": [dataclasses.asdict(a) for a in found]})
        write_text(step.out / "agreement.md", agreement.markdown(found))
        if step.left < 0:
            return f"after {found[-1].subject}, {found[-1].arithmetic}"
    return ""


def bench(step: Step) -> str:
    """The README's table."""
    peers = "flax,torch" if importlib.util.find_spec("torch") else "flax"
    sizes = "--models=convnet,alexnet,resnet8-bn,f1,gpt --batch_sizes=2,8,128 --lanes=256 "
    sizes += "--strategies=auto --seconds=0.4 --repeats=3"
    if step.quick:
        sizes = "--models=convnet --batch_sizes=2,8 --lanes=16 --seconds=0.05 --repeats=2"
    return _timed(step.out, step.left, f"{sizes} --peers={peers}")


# What tuning times: the axis that varies around the engine's own choice, and what it varies on. As
# many programs as compile in the axis' share of the time.
TUNED = {
    "strategies": (3, "--models=convnet,resnet8-bn --batch_sizes=8 --lanes=64 --strategies=all"),
    "lanes": (1, "--models=convnet --batch_sizes=2 --lanes=16,256,1024 --strategies=auto"),
    "command_buffers": (
        1,
        "--models=convnet,resnet8-bn --batch_sizes=2 --lanes=64 --strategies=auto "
        "--command_buffers=all",
    ),
    "precisions": (
        1,
        "--models=resnet8-bn,gpt --batch_sizes=8 --lanes=64 --strategies=auto --precisions=all",
    ),
}
BLOCKS = 2  # the share of the convolution kernels
QUICK = {"strategies": (1, "--models=convnet --batch_sizes=2 --lanes=4 --strategies=auto,map")}


def tuning(step: Step) -> str:
    """Every axis of :data:`TUNED`, then the blocks of the convolution kernels."""
    import jax

    from sbt.bench import kernels

    tuned = dict(QUICK if step.quick else TUNED)
    if jax.default_backend() != "gpu":
        tuned.pop("command_buffers", None)  # CUDA's
    cut, shares = [], BLOCKS + sum(share for share, _ in tuned.values())
    for axis, (share, flags) in tuned.items():
        usual = "--peers=none --seconds=0.3 --repeats=3"
        if left := _timed(step.out / axis, step.left * share / shares, f"{flags} {usual}"):
            cut.append(f"{axis} {left}")
        shares -= share
    sizes: dict[str, Any] = {}
    if step.quick:
        sizes = {"layers": kernels.LAYERS[2:], "lanes": 2, "micro_batches": (2,), "repeats": 1}
    found = []
    for one in kernels.time_layers(**sizes):
        found.append(one)
        write_json(step.out / "kernels.json", {"found": [dataclasses.asdict(t) for t in found]})
        write_text(step.out / "kernels.md", kernels.markdown(found))
        if step.left < 0:
            cut.append(f"kernels after {one.layer}, g = {one.micro_batch}, {one.dtype}")
            break
    return "; ".join(cut)


def _timed(out: Path, seconds: float, flags: str) -> str:
    """``sbt bench`` with these flags; what was cut, in words."""
    from sbt import cli

    minutes = f"--minutes={max(seconds, 1) / 60:.2f}"
    if code := cli.main(["bench", *flags.split(), minutes, f"--out={out}"]):
        raise SystemExit(code)
    found = read_json(out / "bench.json") or {}
    late = sum(cell["skipped"] == NO_TIME for cell in found["cells"])
    if late:
        return f"{late} of {len(found['cells'])} settings left out"
    return "" if found["complete"] else "not all repeats done"


def figures(step: Step) -> str:
    """Sweeps one after another, each until it ends or the time is over, and what they show."""
    import jax

    from sbt.experiment import load_config

    jax.config.update("jax_platforms", "cpu")  # of this process: the accelerator is the sweeps'
    chosen = SMALLEST if step.quick else FIGURES
    left_out, unfinished = missing(chosen, None), []
    for spec in (spec for spec in chosen if spec not in left_out):
        directory = step.out / load_config(spec).name
        if step.left > GRACE:
            command = [sys.executable, "-m", "sbt.cli", "run", spec, f"--workdir={directory}"]
            _started(command, dict(os.environ), step.left - GRACE)
        text, finished = _evidence(spec, directory)
        write_text(directory.with_suffix(".md"), text)
        if not finished:
            unfinished.append(spec)
    left = [f"{spec} ({reason})" for spec, reason in left_out.items()]
    return "; ".join([f"to be gone on with: {', '.join(unfinished)}"] * bool(unfinished) + left)


def missing(specs: Sequence[str], data_dir: str | None) -> dict[str, str]:
    """Of experiments whose data set is not there, what is missing."""
    from sbt.data.cache import data_directory
    from sbt.data.registry import DATASETS
    from sbt.data.tfds_reader import builder_of
    from sbt.experiment import load_config

    found = {}
    for spec in specs:
        name = str(load_config(spec).data.name)
        if name not in DATASETS and builder_of(name, data_dir) is None:
            found[spec] = f"{name} does not lie in {data_directory(data_dir)}"
    return found


def _evidence(spec: str, directory: Path) -> tuple[str, bool]:
    """What a sweep says of its claims, and its report; and whether it is finished."""
    from sbt.report import write_report
    from sbt.report.claims import verdicts
    from sbt.report.view import checked
    from sbt.results import load
    from sbt.workdir import read_meta

    try:
        dataset, meta = load(directory), read_meta(directory)
    except UserError:
        return f"{spec}: nothing yet.\n", False
    write_report(dataset, directory, meta)
    done, status = int(dataset.finished.sum()), meta["status"]
    lines = [f"`{spec}`: {done} of {dataset.finished.size} runs are finished; {status}."]
    return "\n* ".join([*lines, *map(str, verdicts(checked(dataset)))]) + "\n", status == "done"


STEPS = {"correctness": correctness, "bench": bench, "tuning": tuning, "figures": figures}


# --- one after another ---------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--workdir", default="runs/accelerator")
    parser.add_argument("--data_dir", help="prepared TFDS sets; else TFDS's own setting")
    parser.add_argument("--only", default=",".join(STEPS), help="steps, by name")
    parser.add_argument("--quick", action="store_true", help="smallest sizes")
    parser.add_argument("--step", help=argparse.SUPPRESS)  # what the processes are started with
    given = parser.parse_args(argv)
    given.command = ["python", "experiments/accelerator/run.py", *(argv or sys.argv[1:])]
    try:
        out = directory_of(given.workdir)
        if given.step:
            return _work(given.step, out, 60 * given.minutes, given.quick)
        return _every(given, out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return STOPPED


def _work(name: str, out: Path, seconds: float, quick: bool) -> int:
    """Does one step, in this process."""
    if name == "machine":
        from sbt.bench.record import describe_machine
        from sbt.parallel.mesh import prepare_devices

        prepare_devices()
        write_json(out / "machine.json", describe_machine())
        return 0
    cut = STEPS[name](Step(name, out / name, time.monotonic() + seconds, quick))
    write_json(out / name / "ended.json", {"cut": cut})
    return 0


def _every(given: argparse.Namespace, out: Path) -> int:
    """Does all steps that are wanted and not done, each in a process of its own."""
    names = [name for name in given.only.split(",") if name]
    for name in names:
        if name not in STEPS:
            raise UserError(f"--only={name}", "is no step", f"choose of {', '.join(STEPS)}")
    if "figures" in names and not given.quick:
        for spec, reason in missing(FIGURES, given.data_dir).items():
            print(f"{spec} is left out: {reason}", file=sys.stderr)
    until = time.monotonic() + 60 * given.minutes
    environment = _environment(given.data_dir)
    command = [sys.executable, __file__, "--workdir", str(out), *["--quick"] * given.quick]
    if code := _started([*command, "--step=machine"], environment, 120.0):
        raise UserError("JAX", f"finds no device (exit code {code})", "see the message above")
    machine = read_json(out / "machine.json")
    meta = read_json(out / "meta.json") or {"machine": machine, "steps": {}}
    if (before := meta["machine"]["device_kind"]) != machine["device_kind"]:
        problem = f"holds what {before} did, and here is {machine['device_kind']}"
        raise UserError(f"--workdir={out}", problem, "choose another directory")
    meta |= {"machine": machine, "command": given.command, "minutes": given.minutes}
    todo = [name for name in STEPS if name in names]
    todo = [name for name in todo if meta["steps"].get(name, {}).get("status") != "done"]
    for i, name in enumerate(todo):
        share = SHARES[name] / sum(SHARES[other] for other in todo[i:])
        seconds = max(0.0, share * (until - time.monotonic()))
        print(f"--- {name}: {seconds:.0f} s", flush=True)
        began = time.monotonic()
        (out / name).mkdir(parents=True, exist_ok=True)
        (out / name / "ended.json").unlink(missing_ok=True)
        minutes = f"--minutes={seconds / 60}"
        code = _started([*command, f"--step={name}", minutes], environment, seconds + GRACE)
        ended = read_json(out / name / "ended.json")
        status, note = f"failed (exit code {code})", ""
        if ended is not None:
            status, note = ("cut", ended["cut"]) if ended["cut"] else ("done", "")
        elif code < 0 or code == STOPPED:
            status = "stopped: its time was over"
        took = time.monotonic() - began
        meta["steps"][name] = {"status": status, "note": note, "seconds": took, "of": seconds}
        write_json(out / "meta.json", meta)
        write_text(out / "summary.md", summary(out, meta))
    print(out / "summary.md")
    return 0 if all(one["status"] in ("done", "cut") for one in meta["steps"].values()) else 1


def _environment(data_dir: str | None) -> dict[str, str]:
    """Of the steps: the CPU beside the accelerator, and where data sets lie."""
    environment = dict(os.environ)
    platforms = environment.get("JAX_PLATFORMS", "")
    if platforms and "cpu" not in platforms.split(","):
        environment["JAX_PLATFORMS"] = f"{platforms},cpu"
    if data_dir is not None:
        environment["TFDS_DATA_DIR"] = str(directory_of(data_dir, "--data_dir"))
    return environment


def _started(command: Sequence[str], environment: dict[str, str], seconds: float) -> int:
    """Exit code of a process, which is asked to end when its time is over, then made to."""
    process = subprocess.Popen(command, env=environment)
    try:
        for sent in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(seconds)
            process.send_signal(sent)
            seconds = GRACE
        return process.wait()
    except BaseException:  # this process is to end: so is the other, and a sweep saves what it has
        process.terminate()
        process.wait()
        raise


def summary(out: Path, meta: dict[str, Any]) -> str:
    """One page of what the steps wrote: of each of their pages the part above its first section."""
    machine = meta["machine"]
    versions = ", ".join(f"{name} {v}" for name, v in machine["versions"].items() if v)
    parts = [
        "# sbt on an accelerator",
        f"    {' '.join(meta['command'])}",
        f"{machine['devices']} {machine['device_kind']} ({machine['platform']}), "
        f"{machine['cpu_model']}, {machine['usable_cores']} cores; {versions}; revision "
        f"{machine['git_revision']}; {machine['started']}.",
    ]
    for name, step in meta["steps"].items():
        note = f" ({step['note']})" * bool(step["note"])
        parts += [f"## {name}", f"{step['status']}{note}; {step['seconds']:.0f} s."]
        for page in sorted((out / name).rglob("*.md")):
            text = page.read_text().partition("\n## ")[0].removeprefix("# sbt bench").strip()
            parts += [f"[{page.relative_to(out)}]({page.relative_to(out)})", text]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main())
