"""Files and directories as a user names them, and files that are either whole or not there."""

import contextlib
import errno
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from sbt.errors import UserError

# What a storage that is full, failing or over its quota answers, as opposed to a forbidden one.
OUT_OF_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENXIO, errno.ESTALE}
PART = ".part"  # ends the name of a file that is being written
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://|(file|gs|gcs|s3|hdfs|https?|ftp|az|abfss?):/")


class CannotWrite(UserError):
    """A file that could not be written, or a directory that could not be made.

    Attributes:
      full: whether the storage has no room or fails, rather than forbids it.
    """

    def __init__(self, directory: str | Path, problem: str, remedy: str, *, full: bool):
        self.full = full
        super().__init__(str(directory), problem, remedy)


def path_of(value: Any, field: str) -> Path:
    """The absolute path that a user means: ``~`` expanded, ``$NAME`` left alone.

    Args:
      value: text or a path.
      field: what it is for, as the user writes it (``--workdir``).

    Raises:
      UserError: it is no path, empty, a URL, or not representable as a file name.
    """
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise UserError(field, f"{value!r} is not a path", "give a path as text")
    text, shown = os.fspath(value), _shown(value, field)
    if not text.strip():
        raise UserError(shown, "is empty", "give a path")
    if found := _URL.match(text):
        scheme = found[1] or found[2]
        local = text[found.end() :].lstrip("/") if scheme == "file" else ""
        raise UserError(
            shown,
            f"is a URL ({scheme}://), and sbt reads and writes local paths only",
            f"write /{local}" if local else "mount the storage and give the path of the mount",
        )
    if "\0" in text or not _is_unicode(text):
        raise UserError(shown, "is not a file name", "give a path in UTF-8, without NUL characters")
    try:
        return Path(text).expanduser().absolute()
    except (OSError, RuntimeError) as error:  # no such user, or no working directory any more
        raise UserError(shown, f"cannot be found ({error})", "give an absolute path") from None


def directory_of(value: Any, field: str = "--workdir") -> Path:
    """The absolute path of a directory, there or still to be made.

    Raises:
      UserError: :func:`path_of` refuses it, or something else is there.
    """
    path = path_of(value, field)
    try:
        if os.path.lexists(path) and not path.exists():
            problem = f"is a symbolic link to {os.readlink(path)}, which does not exist"
            remedy = "mend the link, or choose another directory"
            raise UserError(_shown(value, field), problem, remedy)
        if path.exists() and not path.is_dir():
            problem = "is a file, not a directory, and cannot be written into"
            raise UserError(_shown(value, field), problem, "choose another directory")
    except OSError as error:  # too long a name, a loop of links, a directory that may not be read
        problem = f"cannot be used ({error.strerror})"
        raise UserError(_shown(value, field), problem, "choose another directory") from None
    return path


def default_directory(name: str) -> Path:
    """``runs/NAME``, where ``sbt run`` keeps a sweep of that name unless it is told otherwise.

    Raises:
      UserError: the name would lead elsewhere.
    """
    if name in ("", ".", "..") or any(c in name for c in "/\\\0"):
        remedy = "choose a plain name, or give the directory with --workdir"
        raise UserError("config.name", f"{name!r} is not the name of a directory", remedy)
    return Path("runs") / name


def _shown(value: Any, field: str) -> str:
    """A path as it was given, in text that any terminal shows."""
    text = f"{field}{' ' if ' ' in field else '='}{os.fspath(value)}"
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\0")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextlib.contextmanager
def writing(directory: Path, what: str, remedy: str | None = None) -> Iterator[None]:
    """Turns what the operating system answers to a writer into one clear message.

    Of several such blocks around a writer the outermost words it.

    Args:
      directory: the message is about it.
      what: is written, ``results.nc``.
      remedy: for the user, unless the storage is full or fails.

    Raises:
      CannotWrite: for every OSError, and for the errors of libraries that speak of a full disk.
    """
    try:
        yield
    except CannotWrite as error:  # from a writer further inside
        if error.full or remedy is None:
            remedy = error.remedy
        raise CannotWrite(directory, error.problem, remedy, full=error.full) from None
    except UserError:
        raise
    except OSError as error:
        raise _cannot_write(directory, what, error.errno, str(error), remedy) from None
    except Exception as error:
        code = _code_in(error)
        if code is None:
            raise
        raise _cannot_write(directory, what, code, str(error), remedy) from None


def _cannot_write(
    directory: Path, what: str, code: int | None, text: str, remedy: str | None
) -> CannotWrite:
    reason = os.strerror(code) if code else (text.strip().splitlines() or ["unknown error"])[0]
    full = code in OUT_OF_SPACE or code is None
    if full:
        remedy = "make room there, then give the same command again: it resumes from what is saved"
    return CannotWrite(
        directory,
        f"{what} cannot be written ({reason})",
        remedy or "choose a directory that you may write to",
        full=full,
    )


def _code_in(error: BaseException | None) -> int | None:
    """The number of the operating system's error that a library's exception is about."""
    codes = (*OUT_OF_SPACE, errno.EACCES, errno.EPERM, errno.EROFS)
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno:
            return error.errno
        for part in getattr(error, "exceptions", ()):
            if (code := _code_in(part)) is not None:
                return code
        for code in codes:
            if os.strerror(code).lower() in str(error).lower():
                return code
        error = error.__cause__ or error.__context__
    return None


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that is whole at every moment; its directory is made if need be.

    A reader, or a crash, finds the old file or the new one and never a part of it.

    Raises:
      CannotWrite: it cannot be written; the old file is as it was.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
    with writing(path.parent, path.name):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                _to_disk(file.fileno())  # many file systems tell only now that they are full
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def write_bytes(path: Path, data: bytes) -> Path:
    """Writes a `whole_file`."""
    with whole_file(path) as file:
        file.write(data)
    return path


def make_sure_of_room(directory: Path, size: int) -> None:
    """Raises OSError if so many bytes cannot be written in a directory, as far as can be told."""
    temporary = directory / f".room.{secrets.token_hex(4)}{PART}"
    with open(temporary, "xb") as file:
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise
        finally:
            temporary.unlink()


def _to_disk(handle: int) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # has no such thing
            raise


def write_text(path: Path, text: str) -> Path:
    """:func:`write_bytes` of UTF-8 text."""
    return write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> Path:
    """:func:`write_bytes` of JSON."""
    return write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is no file.

    Raises:
      ValueError: it cannot be read, is no JSON, or no object; the message says which.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(error.strerror) from None
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def remove_parts(directory: Path, *names: str) -> None:
    """Removes what killed writers left in a directory.

    Args:
      names: of the files that nobody writes now: their parts go whatever their age. Others may be
        just being written; they go when they are a minute old.
    """
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            if not path.name.startswith(".") or not path.is_file():
                continue
            idle = any(path.name.startswith(f".{name}.") for name in names)
            if idle or (path.name.endswith(PART) and time.time() - path.stat().st_mtime > 60):
                path.unlink(missing_ok=True)
