"""The work directory: one config, one process at a time, and a record of where it ran."""

import errno
import fcntl
import functools
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import jax
import xarray as xr
from ml_collections import ConfigDict

from sbt import __version__, fingerprint, results
from sbt import config as configs
from sbt.checkpoint import is_part
from sbt.errors import UserError
from sbt.files import read_json, remove_parts, write_json
from sbt.parallel import hosts

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")
CONFIG, META, COHORTS, PARTS = "config.json", "meta.json", "cohorts.json", "parts.json"
BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)  # of flock; others say that it has no locks


def _tell(text: str) -> None:
    print(text, file=sys.stderr)


# --- entering ------------------------------------------------------------------------------------


# Raises where a sweep may not go on in a directory of that config; the text names the directory.
Agree = Callable[[ConfigDict, str], None]


def finished(
    directory: Path,
    config: ConfigDict,
    parts: Mapping[str, Any],
    agree: Agree,
    complete: Callable[[xr.Dataset], bool],
) -> xr.Dataset | None:
    """The results of a directory in which nothing is left to do; None where something is.

    Only reads: the directory may lie on a file system that cannot be written.

    Args:
      directory: there or not.
      config: of the sweep.
      parts: its fingerprint, compared with the directory's, see :mod:`sbt.fingerprint`.
      agree: told the directory's config, if that is another.
      complete: whether a dataset is what the sweep would give.

    Raises:
      UserError: the directory belongs to another config, or its results are damaged.
    """
    found = None

    def look() -> None:
        nonlocal found
        done = read_meta(directory, lambda text: None).get("status") == "done"
        if done and (directory / results.FILE).exists():
            _refuse_another(directory, config, agree)
            refuse_other_parts(directory, parts)
            dataset = results.load(directory)
            found = dataset if complete(dataset) else None

    _by_first(directory, look)
    (there,) = hosts.of_first(found is not None)
    if there and found is None:
        found = results.load(directory)
    return found


@contextmanager
def locked(
    directory: Path,
    config: ConfigDict | None,
    agree: Agree | None = None,
    note: Callable[[str], None] = _tell,
    *,
    parts: Mapping[str, Any] | None = None,
) -> Iterator[Path]:
    """Makes or enters a work directory and keeps other sweeps out of it.

    With several processes process 0 does so for all; they must see the same file system.

    Args:
      directory: made if it does not exist.
      config: of the sweep, which becomes the directory's; None: that stays as it is.
      agree: told the directory's config, if that is another; None: any is refused.
      parts: the sweep's fingerprint, see :mod:`sbt.fingerprint`; None: not known yet.
      note: told, in one line, where the file system has no locks.

    Raises:
      UserError: the directory cannot be written, another process works there, or it belongs to
        another config.
    """
    with ExitStack() as stack:
        claim = functools.partial(_locked, directory, config, agree or _refuse, parts, note)
        _by_first(directory, lambda: stack.enter_context(claim()))
        if not (directory / CONFIG).exists():
            raise UserError(
                f"--workdir={directory}",
                "is not the directory that process 0 works in",
                "use a file system that all processes share",
            )
        yield directory


def _by_first(directory: Path, act: Callable[[], Any]) -> None:
    """Process 0 acts; where it is refused, all are."""
    refused = None
    if hosts.writes():
        try:
            act()
        except UserError as error:
            refused = error
    (good,) = hosts.of_first(refused is None)
    if refused is not None:
        raise refused
    if not good:
        raise UserError(f"--workdir={directory}", "was refused", "see what process 0 says")


@contextmanager
def _locked(
    directory: Path,
    config: ConfigDict | None,
    agree: Agree,
    parts: Mapping[str, Any] | None,
    note: Callable[[str], None],
) -> Iterator[None]:
    field = f"--workdir={directory}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = open(directory / ".lock", "a+")  # noqa: SIM115  closed by `with lock`
    except OSError as error:
        raise UserError(
            field,
            f"cannot be written ({error.strerror})",
            "choose a directory that you may write to",
        ) from None
    with lock:
        alone = _lock(lock, field, note)
        if alone:
            _remove_leftovers(directory)
        if config is not None:
            _claim(directory, config, agree, parts, note)
        yield


def _lock(lock: IO[str], field: str, note: Callable[[str], None]) -> bool:
    """Locks the file; False where the file system has no locks."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in BUSY:
            lock.seek(0)
            owner = lock.read().strip() or "another process"
            raise UserError(
                field,
                f"is in use by {owner}",
                "wait for it, stop it, or choose another directory",
            ) from None
        note(
            f"{field}: its file system has no locks ({error.strerror}); see to it that no other "
            "process works there"
        )
        return False
    with suppress(OSError):  # for the message above alone: a full disk is told of by who needs it
        lock.seek(0)
        lock.truncate()
        lock.write(f"process {os.getpid()} on {platform.node()}")
        lock.flush()
    return True


def _remove_leftovers(directory: Path) -> None:
    """What writers that were killed left half written."""
    remove_parts(directory, CONFIG, META, COHORTS, PARTS, results.FILE)
    for name in ("figures", "tables", "checkpoints", "weights"):
        remove_parts(directory / name, "room")
    for path in (directory / "weights").glob("*"):
        if is_part(path):
            shutil.rmtree(path, ignore_errors=True)


# --- whose it is ---------------------------------------------------------------------------------


def stored_config(directory: Path) -> ConfigDict | None:
    """The config of the sweep in a directory; None where there is none.

    That of the results, whose checksum vouches for it, or before there are any ``config.json``.

    Raises:
      UserError: what is there is damaged.
    """
    stored = _config_of_results(directory) or _config_of_file(directory)
    return None if stored is None else configs.from_json(json.dumps(stored))


def _config_of_results(directory: Path) -> dict[str, Any] | None:
    if not (directory / results.FILE).exists():
        return None
    path = directory / results.FILE
    try:
        return dict(json.loads(results.load(directory).attrs["config"]))
    except (KeyError, TypeError, ValueError):
        raise UserError(
            str(path),
            "is not the results of sbt run (no config among its attributes)",
            "remove it, or choose another directory",
        ) from None


def _config_of_file(directory: Path) -> dict[str, Any] | None:
    path = directory / CONFIG
    try:
        return read_json(path)
    except ValueError as error:
        kept = ": results.nc holds the config too" if (directory / results.FILE).exists() else ""
        remedy = f"remove it and give the same command again{kept}"
        raise UserError(str(path), f"is damaged ({error})", remedy) from None


def _claim(
    directory: Path,
    config: ConfigDict,
    agree: Agree,
    parts: Mapping[str, Any] | None,
    note: Callable[[str], None],
) -> None:
    _refuse_another(directory, config, agree)
    stored = stored_parts(directory)
    if parts is not None:
        refuse_other_parts(directory, parts)
        own = parts["module"] or parts["rule"] or any(d["own"] for d in parts["data"].values())
        if stored is None and own and (directory / CONFIG).exists():
            note(
                f"{directory}: was made before fingerprints were kept; that module, data and rule "
                "are the same cannot be checked"
            )
    text = configs.to_json(config)
    if _config_of_file(directory) != json.loads(text):
        write_json(directory / CONFIG, json.loads(text))
    if parts is not None:
        data = {**(stored or {}).get("data", {}), **parts["data"]}
        if (kept := {**parts, "data": data}) != stored or not (directory / PARTS).exists():
            write_json(directory / PARTS, kept)


def stored_parts(directory: Path) -> dict[str, Any] | None:
    """The fingerprint of what a directory was made with; None where none was kept.

    That of the results, whose checksum vouches for it, or before there are any ``parts.json``.

    Raises:
      UserError: what is there is damaged.
    """
    if (directory / results.FILE).exists():
        with suppress(KeyError, TypeError, ValueError):
            return dict(json.loads(results.load(directory).attrs["parts"]))
    path = directory / PARTS
    try:
        return read_json(path)
    except ValueError as error:
        raise UserError(
            str(path),
            f"is damaged ({error})",
            "restore it, or remove it if module, data and rule are those that the runs began with",
        ) from None


def refuse_other_parts(directory: Path, parts: Mapping[str, Any]) -> None:
    """Raises where a directory was made with another module, data set or rule.

    Args:
      directory: there or not.
      parts: fingerprint of those given now, see :mod:`sbt.fingerprint`.

    Raises:
      UserError: naming what differs.
    """
    stored = stored_parts(directory)
    if stored is not None and (differing := fingerprint.differences(stored, parts)):
        raise UserError(
            f"--workdir={directory}",
            f"was made with other parts; different: {', '.join(differing)}",
            "choose another directory, or give the parts that it was made with",
        )


def _refuse_another(directory: Path, config: ConfigDict, agree: Agree) -> None:
    """Raises where the config of a directory, or of the results in it, does not agree."""
    given = json.loads(configs.to_json(config))
    for stored in (_config_of_file(directory), _config_of_results(directory)):
        if stored is not None and stored != given:
            try:
                earlier = configs.complete(stored)
            except UserError as error:
                raise UserError(
                    f"--workdir={directory}",
                    f"belongs to a config that is none any more ({error.field} {error.problem})",
                    "choose another directory",
                ) from None
            agree(earlier, str(directory))


def _refuse(earlier: ConfigDict, where: str) -> None:
    del earlier
    raise UserError(f"--workdir={where}", "belongs to another config", "choose another directory")


# --- meta data -----------------------------------------------------------------------------------

_SUM = "checksum"
_NOT_THE_SAME_START = ("started", "starts")


def write_meta(directory: Path, meta: Mapping[str, Any]) -> None:
    """Writes ``meta.json`` with a checksum over what it says."""
    write_json(directory / META, {**meta, _SUM: _checksum(meta)})


def write_cohorts(directory: Path, stages: list[dict[str, Any]]) -> None:
    """Writes ``cohorts.json``, see :mod:`sbt.sweep.arrangement`."""
    write_json(directory / COHORTS, {"stages": stages, _SUM: _checksum({"stages": stages})})


def read_cohorts(directory: Path, note: Callable[[str], None] = _tell) -> list[dict[str, Any]]:
    """What :func:`write_cohorts` wrote; nothing where there is none, or, told, where it is damaged.

    Without it runs that are not finished start again.
    """
    path = directory / COHORTS
    try:
        kept = read_json(path) or {}
        if kept and kept.get(_SUM) != _checksum({"stages": kept.get("stages")}):
            raise ValueError("its checksum does not fit")
    except ValueError as error:
        note(
            f"{path}: is damaged ({error}) and passed over: how runs share programs is chosen anew"
        )
        return []
    return kept.get("stages", [])


def read_meta(directory: Path, note: Callable[[str], None] = _tell) -> dict[str, Any]:
    """What ``meta.json`` says; nothing where there is none.

    No result depends on it, so that a damaged one is told of and passed over.

    Args:
      note: told, in one line, that it is damaged.
    """
    path = directory / META
    try:
        meta = read_json(path) or {}
        # Files written before there were checksums have none.
        if _SUM in meta and meta.pop(_SUM) != _checksum(meta):
            raise ValueError("its checksum does not fit")
    except ValueError as error:
        note(f"{path}: is damaged ({error}) and passed over; remove it, sbt run writes it anew")
        return {}
    return meta


def _checksum(meta: Mapping[str, Any]) -> str:
    return f"crc32:{zlib.crc32(json.dumps(meta, sort_keys=True).encode()):08x}"


def with_start(meta: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    """Meta data in which a process that starts to train notes its environment.

    Args:
      meta: of the directory so far; may be empty.
      environment: of the process, from :func:`describe_environment`.

    Returns:
      The meta data with ``environment``'s fields, ``starts``, the number of processes so far, and,
      if it is not empty, ``earlier_environments``: the other ones that took part, each once.
    """
    then = {name: meta[name] for name in environment if name in meta}
    took_part = [*meta.get("earlier_environments", ()), *([then] if then else ())]

    def same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
        names = (set(a) | set(b)) - {*_NOT_THE_SAME_START}
        return all(a.get(name) == b.get(name) for name in names)

    earlier: list[Mapping[str, Any]] = []
    for one in took_part:
        if not any(same(one, other) for other in (environment, *earlier)):
            earlier.append(one)
    kept = {key: value for key, value in meta.items() if key != "earlier_environments"}
    starts = meta.get("starts", 1 if then else 0) + 1
    more = {"earlier_environments": earlier} if earlier else {}
    return kept | dict(environment) | {"starts": starts} | more


def describe_environment() -> dict[str, Any]:
    """Versions, source revision and hardware, for ``meta.json``."""
    versions = {"python": platform.python_version(), "sbt": __version__}
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
