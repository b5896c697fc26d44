"""The work directory: one config, one process at a time, and a record of where it ran."""

import dataclasses
import errno
import fcntl
import json
import os
import platform
import shlex
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


# --- what is there -------------------------------------------------------------------------------

# Raises where a sweep may not go on in a directory of that config; the text names the directory.
Agree = Callable[[ConfigDict, str], None]


@dataclasses.dataclass(frozen=True)
class Kept:
    """What a work directory keeps of a sweep.

    Attributes:
      directory: there or not.
      results: as :func:`sbt.results.load` reads them; None before there are any.
      stamp: of the file that they were read from.
    """

    directory: Path
    results: xr.Dataset | None = None
    stamp: tuple[int, ...] = ()

    def config(self) -> dict[str, Any] | None:
        """The sweep's config as JSON; None where there is no sweep.

        That of the results, whose checksum vouches for it, or before there are any ``config.json``.

        Raises:
          UserError: what is there is damaged.
        """
        return self._config_of_results() or self._config_of_file()

    def parts(self) -> dict[str, Any] | None:
        """The fingerprint of what the sweep trains, see :mod:`sbt.fingerprint`; None: none is kept.

        That of the results or, before there are any, ``parts.json``.

        Raises:
          UserError: what is there is damaged.
        """
        if self.results is not None:
            with suppress(KeyError, TypeError, ValueError):
                return dict(json.loads(self.results.attrs["parts"]))
        path = self.directory / PARTS
        try:
            return read_json(path)
        except ValueError as error:
            raise UserError(
                str(path),
                f"is damaged ({error})",
                "restore it, or remove it if module, data and rule are those that the runs began "
                "with",
            ) from None

    def check(self, config: ConfigDict, parts: Mapping[str, Any] | None, agree: Agree) -> None:
        """Refuses a sweep that may not go on here.

        Args:
          config: of the sweep.
          parts: its fingerprint; None: not known yet.
          agree: told the config that is kept, if that is another.

        Raises:
          UserError: naming what differs, or what is damaged.
        """
        given = configs.as_json(config)
        for stored in (self._config_of_file(), self._config_of_results()):
            if stored is not None and stored != given:
                try:
                    earlier = configs.complete(stored)
                except UserError as error:
                    raise UserError(
                        f"--workdir={self.directory}",
                        f"belongs to a config that can no longer be read ({error.field} "
                        f"{error.problem})",
                        "choose another directory",
                    ) from None
                agree(earlier, str(self.directory))
        if parts is not None:
            self.check_parts(parts)

    def check_parts(self, parts: Mapping[str, Any]) -> None:
        """Refuses another module, data set, rule or start than the directory was made with.

        Raises:
          UserError: naming what differs.
        """
        stored = self.parts()
        if stored is not None and (differing := fingerprint.differences(stored, parts)):
            raise UserError(
                f"--workdir={self.directory}",
                f"was made with other parts; different: {', '.join(differing)}",
                "choose another directory, or give the parts that it was made with",
            )

    def _config_of_results(self) -> dict[str, Any] | None:
        if self.results is None:
            return None
        try:
            return dict(json.loads(self.results.attrs["config"]))
        except (KeyError, TypeError, ValueError):
            raise UserError(
                str(self.directory / results.FILE),
                "is not the results of sbt run (no config among its attributes)",
                "remove it, or choose another directory",
            ) from None

    def _config_of_file(self) -> dict[str, Any] | None:
        path = self.directory / CONFIG
        try:
            return read_json(path)
        except ValueError as error:
            kept = "" if self.results is None else f": {results.FILE} holds the config too"
            remedy = f"remove it and give the same command again{kept}"
            raise UserError(str(path), f"is damaged ({error})", remedy) from None


def read(directory: Path, known: Kept | None = None) -> Kept:
    """What a directory keeps, which is only read: it may lie on a file system without writing.

    Args:
      directory: there or not.
      known: what was there before; results that have not changed are not read again.

    Raises:
      UserError: the results are damaged.
    """
    try:
        found = (directory / results.FILE).stat()
    except OSError:
        return Kept(directory)
    stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
    if known is not None and known.stamp == stamp:
        return known
    return Kept(directory, results.load(directory), stamp)


def checked(directory: Path, config: ConfigDict, parts: Mapping[str, Any], agree: Agree) -> Kept:
    """:func:`read`, and :meth:`Kept.check` in process 0, on behalf of all.

    Raises:
      UserError: the directory belongs to another sweep, or is damaged.
    """
    kept: list[Kept] = []

    def look() -> None:
        found = read(directory)
        if directory.is_dir():
            found.check(config, parts, agree)
        kept.append(found)

    _by_first(directory, look)
    return kept[0] if kept else read(directory)


def stored_config(directory: Path) -> ConfigDict | None:
    """The config of the sweep in a directory (:meth:`Kept.config`); None where there is none.

    Raises:
      UserError: what is there is damaged.
    """
    stored = read(directory).config()
    return None if stored is None else configs.of_json(stored)


# --- entering ------------------------------------------------------------------------------------


@contextmanager
def locked(
    directory: Path,
    config: ConfigDict | None,
    agree: Agree | None = None,
    note: Callable[[str], None] = _tell,
    *,
    parts: Mapping[str, Any] | None = None,
    known: Kept | None = None,
) -> Iterator[Kept]:
    """Makes or enters a work directory and keeps other sweeps out of it.

    With several processes process 0 does so for all; they must see the same file system.

    Args:
      directory: made if it does not exist.
      config: of the sweep, which becomes the directory's; None: that stays as it is.
      agree: told the directory's config, if that is another; None: any is refused.
      parts: the sweep's fingerprint, see :mod:`sbt.fingerprint`; None: not known yet.
      note: told, in one line, where the file system has no locks.
      known: as for :func:`read`.

    Yields:
      What the directory keeps.

    Raises:
      UserError: the directory cannot be written, another process works there, or it belongs to
        another config.
    """
    kept: list[Kept] = []

    def enter() -> None:
        stack.enter_context(_locked(directory, note))
        found = read(directory, known)
        if config is not None:
            _claim(found, config, agree or _refuse, parts, note)
        kept.append(found)

    with ExitStack() as stack:
        _by_first(directory, enter)
        if not kept and config is not None and not (directory / CONFIG).exists():
            raise UserError(
                f"--workdir={directory}",
                "is not the directory that process 0 works in",
                "use a file system that all processes share",
            )
        yield kept[0] if kept else read(directory, known)


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


def _claim(
    kept: Kept,
    config: ConfigDict,
    agree: Agree,
    parts: Mapping[str, Any] | None,
    note: Callable[[str], None],
) -> None:
    """Writes down whose the directory is."""
    directory = kept.directory
    kept.check(config, parts, agree)
    text, before = configs.as_json(config), kept._config_of_file()
    if parts is not None:
        stored = kept.parts()
        own = parts["module"] or parts["rule"] or any(d["own"] for d in parts["data"].values())
        if stored is None and own and before is not None:
            note(
                f"{directory}: was made before fingerprints were kept; that module, data and rule "
                "are the same cannot be checked"
            )
        known = {name: (stored or {}).get(name) or {} for name in ("data", "start")}
        now = {**parts, **{name: {**known[name], **parts[name]} for name in known if name in parts}}
        if now != stored or not (directory / PARTS).exists():
            write_json(directory / PARTS, now)
    if before != text:
        write_json(directory / CONFIG, text)


def _refuse(earlier: ConfigDict, where: str) -> None:
    del earlier
    raise UserError(f"--workdir={where}", "belongs to another config", "choose another directory")


@contextmanager
def _locked(directory: Path, note: Callable[[str], None]) -> Iterator[None]:
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
            f"{field}: its file system has no locks ({error.strerror}); make sure that no other "
            "process works there"
        )
        return False
    with suppress(OSError):  # for the message above alone: a full disk is told of by who needs it
        lock.seek(0)
        lock.truncate()
        lock.write(f"process {os.getpid()} on {platform.node()}")
        lock.flush()
    return True


def in_use(directory: Path) -> bool:
    """Whether a process works in a directory; where the file system has no locks, whether its meta
    data say so."""
    try:
        with open(directory / ".lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError as error:
        return error.errno in BUSY or read_meta(directory).get("status") == "running"
    return False


def _remove_leftovers(directory: Path) -> None:
    """What writers that were killed left half written."""
    remove_parts(directory, CONFIG, META, COHORTS, PARTS, results.FILE)
    for name in ("figures", "tables", "checkpoints", "weights"):
        remove_parts(directory / name, "room")
    for path in (directory / "weights").glob("*"):
        if is_part(path):
            shutil.rmtree(path, ignore_errors=True)


# --- meta data -----------------------------------------------------------------------------------

_SUM = "checksum"
_NOT_THE_SAME_START = ("started", "starts")


def write_meta(directory: Path, meta: Mapping[str, Any]) -> None:
    """Writes ``meta.json``."""
    _write_sealed(directory / META, meta)


def read_meta(directory: Path, note: Callable[[str], None] = _tell) -> dict[str, Any]:
    """What ``meta.json`` says; nothing where there is none.

    No result depends on it, so that a damaged one is reported and ignored.

    Args:
      note: told, in one line, that it is damaged.
    """
    return _read_sealed(directory / META, note, "; remove it, sbt run writes it anew")


def write_cohorts(directory: Path, stages: list[dict[str, Any]]) -> None:
    """Writes ``cohorts.json``, see :mod:`sbt.sweep.arrangement`."""
    _write_sealed(directory / COHORTS, {"stages": stages})


def read_cohorts(directory: Path, note: Callable[[str], None] = _tell) -> list[dict[str, Any]]:
    """What :func:`write_cohorts` wrote; nothing where there is none, or, told, where it is damaged.

    Without it runs that are not finished start again.
    """
    effect = ": how runs share programs is chosen anew"
    return _read_sealed(directory / COHORTS, note, effect).get("stages", [])


def _write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    write_json(path, {**value, _SUM: _checksum(value)})


def _read_sealed(path: Path, note: Callable[[str], None], effect: str) -> dict[str, Any]:
    """A JSON object without its checksum; empty where there is none, or one that does not fit."""
    try:
        value = read_json(path) or {}
        # Files written before there were checksums have none.
        if _SUM in value and value.pop(_SUM) != _checksum(value):
            raise ValueError("its checksum does not fit")
    except ValueError as error:
        note(f"{path}: is damaged ({error}) and ignored{effect}")
        return {}
    return value


def _checksum(value: Mapping[str, Any]) -> str:
    return f"crc32:{zlib.crc32(json.dumps(value, sort_keys=True).encode()):08x}"


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
    """Versions, source revision, hardware and command, for ``meta.json``."""
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
        "cpu_model": proc("/proc/cpuinfo", "model name") or platform.processor(),
        "command": _command(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def proc(file: str, name: str) -> str:
    """The first value of that name in a table of the Linux kernel; empty where there is none."""
    with suppress(OSError):
        for line in Path(file).read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return ""


def _command() -> str | None:
    """What one types to start this process again; None where it is no command and no script."""
    program, *arguments = sys.argv or [""]
    if Path(program).name == "sbt":
        return shlex.join(["sbt", *arguments])
    script = program.endswith(".py") and "site-packages" not in program
    return shlex.join(["python", program, *arguments]) if script else None


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
