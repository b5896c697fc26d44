"""The work directory: one config, one process at a time, and a record of where it ran."""

import fcntl
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from sbt import config as configs
from sbt.errors import UserError
from sbt.parallel import hosts

# Sections that say how to compute, keep, measure and show what is trained, not what it is; all but
# the precision, which does change it.
NOT_COMPARED = ("engine", "checkpoint", "measure", "report")
PACKAGES = ("sbt", "jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")


def write_json(path: Path, value: Any) -> None:
    """Writes JSON so that the file is whole at every moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(temporary, path)


def read_json(path: Path) -> Any:
    """The JSON in a file, or None where there is no (readable) file."""
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return None


@contextmanager
def locked(directory: Path, config: ConfigDict) -> Iterator[Path]:
    """Makes or enters a work directory and keeps other sweeps out of it.

    With several processes process 0 does so for all; they must see the same file system.

    Args:
      directory: made if it does not exist.
      config: of the sweep; written if the directory is new, compared if it is not.

    Raises:
      UserError: the directory cannot be written, another process works there, or it belongs to
        another config.
    """
    with ExitStack() as stack:
        refused = None
        if hosts.writes():
            try:
                stack.enter_context(_locked(directory, config))
            except UserError as error:
                refused = error
        (good,) = hosts.of_first(refused is None)
        if refused is not None:
            raise refused
        if not good:
            raise UserError(f"--workdir={directory}", "was refused", "see what process 0 says")
        if not (directory / "config.json").exists():
            raise UserError(
                f"--workdir={directory}",
                "is not the directory that process 0 works in",
                "use a file system that all processes share",
            )
        yield directory


@contextmanager
def _locked(directory: Path, config: ConfigDict) -> Iterator[None]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = open(directory / ".lock", "a+")  # noqa: SIM115  closed by `with lock`
    except OSError as error:
        raise UserError(
            f"--workdir={directory}",
            f"cannot be written ({error.strerror})",
            "choose a directory that you may write to",
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            owner = lock.read().strip() or "another process"
            raise UserError(
                f"--workdir={directory}",
                f"is in use by {owner}",
                "wait for it, stop it, or choose another directory",
            ) from None
        lock.seek(0)
        lock.truncate()
        lock.write(f"process {os.getpid()} on {platform.node()}")
        lock.flush()
        _claim(directory, config)
        yield


def _claim(directory: Path, config: ConfigDict) -> None:
    path = directory / "config.json"
    text = configs.to_json(config)
    if path.exists():
        earlier = read_json(path)
        if earlier is None:
            raise UserError(str(path), "is damaged", "restore it, or choose another --workdir")
        differing = sorted(_differences(_compared(earlier), _compared(json.loads(text))))
        if differing:
            raise UserError(
                f"--workdir={directory}",
                f"belongs to another config; different: {', '.join(differing)}",
                "choose another directory, or undo the change",
            )
    write_json(path, json.loads(text))


def _compared(config: Mapping[str, Any]) -> dict[str, Any]:
    compared = {key: value for key, value in config.items() if key not in NOT_COMPARED}
    # As far as it only says how many devices share a batch. The weights of local SGD are each
    # device's own, so that there the number matters.
    parallel = compared.get("parallel", {"local_steps": 1})
    compared["parallel"] = None if parallel["local_steps"] == 1 else parallel
    compared["engine"] = {"precision": config.get("engine", {}).get("precision")}
    return compared


def _differences(a: Any, b: Any, path: str = "config") -> Iterator[str]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in {**a, **b}:
            yield from _differences(a.get(key), b.get(key), f"{path}.{key}")
    elif a != b:
        yield path


def describe_environment() -> dict[str, Any]:
    """Versions, source revision and hardware, for ``meta.json``."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    device = jax.local_devices()[0]
    return {
        "versions": versions,
        "git_revision": _git_revision(),
        "platform": device.platform,
        "device_kind": device.device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "cpu_count": os.cpu_count(),
        "machine": platform.machine(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _git_revision() -> str | None:
    """Revision of the source tree that this package runs from; None for an installed one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() or None
