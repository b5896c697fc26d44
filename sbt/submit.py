"""``sbt submit``: a grid in parts, a job for each on Slurm or on this machine, one result.

The runs of a part are those of some values of one axis, so that a part is a sweep like any other,
``sbt run`` in a directory of its own, and goes on where it was. Every part has all batch sizes:
what programs a sweep compiles follows from these, and with them the bits of what it trains.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr
from ml_collections import ConfigDict

from sbt import config as configs
from sbt import results, workdir
from sbt.errors import UserError, first_line
from sbt.experiment import load_experiment
from sbt.files import read_json, write_json
from sbt.log.hook import needed
from sbt.parallel.mesh import prepare_devices
from sbt.sweep.extend import said
from sbt.sweep.grid import axes_of
from sbt.sweep.progress import for_console
from sbt.sweep.run import run

EXECUTORS = ("slurm", "local")
LOOK_SECONDS = 2.0  # between two looks at the jobs
MINUTES = 24 * 60
JOBS = "jobs.json"
# Axes that decide how runs share programs.
_OF_PROGRAMS = ("batch_size", "micro_batch", "bn_batch")


@dataclasses.dataclass(frozen=True)
class Part:
    """One job: a call of ``sbt run``, and what Slurm calls when it takes the node away.

    Attributes:
      spec: the experiment file.
      overrides: of its config, the values of the part among them.
      directory: where it works.
    """

    spec: str
    overrides: tuple[str, ...]
    directory: str

    def __call__(self) -> None:
        """Runs in the job, whose log has the lines that ``sbt run`` would print."""
        config, own = load_experiment(self.spec, self.overrides)
        prepare_devices()
        run(config, self.directory, **own, progress=for_console())

    def checkpoint(self) -> Any:
        """The same job again: it goes on from its last checkpoint."""
        return needed("submitit", "cluster", "sbt submit").helpers.DelayedSubmission(self)


def split(config: ConfigDict, parts: int) -> tuple[str, list[tuple[Any, ...]]]:
    """The axis that parts differ in, and the values of each.

    It is the axis with the most values (of equal ones ``seed``, else the first) that does not
    decide how runs share programs; its values stay in order.

    Args:
      config: complete.
      parts: how many are wanted.

    Raises:
      UserError: no axis has so many values, or a search chooses among all runs together.
    """
    if config.search.name != "grid":
        problem = f"{config.search.name} chooses among all runs of a grid together"
        remedy = "run it as one sweep, or use --config.search.name=grid"
        raise UserError("config.search.name", problem, remedy)
    axes = {axis: v for axis, v in axes_of(config).items() if axis not in _OF_PROGRAMS}
    axis = max(axes, key=lambda name: (len(axes[name]), name == "seed"), default="")
    most = len(axes[axis]) if axis else 1
    if not 1 <= parts <= most:
        what = f"the axis {axis} has {most} values" if axis else "there is no axis to split"
        raise UserError(f"--parts={parts}", what, f"give 1 to {most}")
    if not axis:
        return "", [()]
    ends = [round(i * most / parts) for i in range(parts + 1)]
    return axis, [axes[axis][a:b] for a, b in itertools.pairwise(ends)]


def submit(
    spec: str,
    overrides: Sequence[str],
    directory: Path,
    parts: int,
    executor: str = "slurm",
    options: Mapping[str, Any] | None = None,
    *,
    wait: bool = True,
    note: Callable[[str], None] = lambda text: None,
) -> xr.Dataset | None:
    """Trains the grid of an experiment file in parts, each a job; the same call again goes on.

    Parts that are finished are left alone, those whose job still runs are waited for, the others
    are submitted (again). Once all are finished, the directory holds their results as if one sweep
    had trained them, for ``sbt report`` and the rest.

    Args:
      spec: path of the experiment file, optionally ``:variant``.
      overrides: ``--config.field=value`` arguments.
      directory: of all; a part works in ``parts/00`` and so on in it.
      parts: how many.
      executor: of :data:`EXECUTORS`.
      options: parameters of that executor of submitit's, such as ``timeout_min``,
        ``slurm_partition``, ``gpus_per_node``.
      wait: until all have ended.
      note: is told how it goes.

    Returns:
      The results of the whole grid; None while parts are not finished.

    Raises:
      UserError: a config that cannot be split, submitit is not installed or refuses the options, or
        a part failed: the message names its log.
    """
    submitit = needed("submitit", "cluster", "sbt submit")
    if executor not in EXECUTORS:
        raise UserError(f"--executor={executor}", "is no executor", f"use {', '.join(EXECUTORS)}")
    config = load_experiment(spec, overrides).config
    axis, values = split(config, parts)
    places = [directory / "parts" / f"{number:02d}" for number in range(parts)]
    made = []
    for own, place in zip(values, places, strict=True):
        change = (f"--config.sweep.{axis}={own!r}",) if axis else ()
        made.append(Part(spec, (*overrides, *change), str(place)))
    for part, place in zip(made, places, strict=True):
        _check(load_experiment(part.spec, part.overrides).config, place)
    pool = _pool(submitit, directory / "jobs", executor, options or {})
    jobs = _jobs(submitit, directory, executor)
    for number, (part, place) in enumerate(zip(made, places, strict=True)):
        if not _finished(place) and not (number in jobs and _alive(jobs[number])):
            jobs[number] = pool.submit(part)
            note(f"part {number}: job {jobs[number].job_id}, log {jobs[number].paths.stderr}")
            known = {str(n): job.job_id for n, job in jobs.items()}
            write_json(directory / JOBS, {"executor": executor, "jobs": known})
    said_last = ""
    while True:
        left = [number for number, place in enumerate(places) if not _finished(place)]
        running = [number for number in left if _alive(jobs[number])]
        text = f"{parts - len(left)} of {parts} parts finished, {len(running)} submitted"
        if text != said_last:
            note(text)
            said_last = text
        if not running or not wait:
            break
        time.sleep(LOOK_SECONDS)
    for number in jobs.keys() - set(running):
        if getattr(jobs[number], "_process", None) is not None:
            jobs[number]._process.wait()  # of this machine, and about to end
    if failed := [number for number in left if number not in running]:
        _raise_failed(failed, jobs)
    if left:
        return None
    return _merged(config, axis, places, directory)


def _pool(submitit: Any, folder: Path, executor: str, options: Mapping[str, Any]) -> Any:
    """An executor of submitit's."""
    try:
        pool = submitit.AutoExecutor(folder=folder, cluster=executor)
        pool.update_parameters(**{"timeout_min": MINUTES, "name": "sbt", **options})
    except Exception as error:  # of submitit, about Slurm or about names and values of options
        text = first_line(error) or type(error).__name__
        remedy = "see submitit.AutoExecutor.update_parameters, or use --executor=local"
        raise UserError(f"--executor={executor}", f"submitit refuses ({text})", remedy) from None
    return pool


def _jobs(submitit: Any, directory: Path, executor: str) -> dict[int, Any]:
    """The jobs that earlier calls have submitted, by part."""
    known = read_json(directory / JOBS) or {}
    if known.get("executor") != executor:
        return {}
    kind = {"slurm": submitit.SlurmJob, "local": submitit.LocalJob}[executor]
    return {int(n): kind(directory / "jobs", job) for n, job in known["jobs"].items()}


def _alive(job: Any) -> bool:
    """Whether a job waits or runs."""
    if type(job).__name__ != "LocalJob":
        return not job.done()
    if job.paths.result_pickle.exists():
        return False
    if job._process is not None:
        return job._process.poll() is None
    try:
        os.kill(int(job.job_id), 0)  # a process of an earlier call
    except OSError:
        return False
    return True


def _finished(place: Path) -> bool:
    return workdir.read_meta(place).get("status") == "done"


def _check(config: ConfigDict, place: Path) -> None:
    """Refuses a part of another sweep in the directory of a part.

    Raises:
      UserError: it is another.
    """
    kept = workdir.stored_config(place)
    if kept is not None and said(kept) != said(config):
        problem = "holds another part, of another grid or another number of parts"
        remedy = "give the --parts and the config of before, or choose another --workdir"
        raise UserError(str(place), problem, remedy)


def _raise_failed(failed: Sequence[int], jobs: Mapping[int, Any]) -> None:
    job = jobs[failed[0]]
    many = "parts" if len(failed) > 1 else "part"
    listed = ", ".join(map(str, failed))
    last = ""
    with contextlib.suppress(OSError):
        lines = job.paths.stderr.read_text().split("\n")
        last = next((f" ({line[:120]})" for line in reversed(lines) if line.strip()), "")
    raise UserError(
        f"{many} {listed}",
        f"ended before the runs were finished{last}",
        f"see {job.paths.stderr}; the same command goes on",
    )


def _merged(config: ConfigDict, axis: str, places: Sequence[Path], directory: Path) -> xr.Dataset:
    """The results of the parts over the axes of the whole grid, written as a sweep's own."""
    found = [results.load(place) for place in places]
    whole = found[0]
    if axis:
        whole = xr.concat(
            found, axis, data_vars="all", coords="minimal", compat="equals", join="outer",
            combine_attrs="override",
        )  # fmt: skip
    text = configs.to_json(config)
    whole.attrs = {**found[0].attrs, "config": text}
    metas = [workdir.read_meta(place) for place in places]
    meta = dict(metas[0])
    for name in ("wall_seconds", "compile_seconds"):
        meta[name] = sum(one.get(name, 0.0) for one in metas)
    meta["parts"] = len(places)
    results.write(whole, directory)
    write_json(directory / workdir.CONFIG, json.loads(text))
    if (places[0] / workdir.PARTS).exists():
        write_json(directory / workdir.PARTS, json.loads((places[0] / workdir.PARTS).read_text()))
    workdir.write_meta(directory, meta)
    return whole
