"""Paths as users name them, and files that are whole at every moment or not there."""

import errno
import json
import os

import pytest

from sbt import files
from sbt.errors import UserError


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def test_a_tilde_is_home_and_a_relative_path_starts_here(home, tmp_path):
    assert files.directory_of("~/runs/x") == home / "runs/x"
    assert files.directory_of("runs") == tmp_path / "runs"
    assert files.directory_of(tmp_path / "a") == tmp_path / "a"
    assert files.directory_of("a~b/~") == tmp_path / "a~b/~"
    assert files.directory_of("$HOME/x") == tmp_path / "$HOME/x"  # a shell's business
    assert not list(tmp_path.iterdir())


REFUSED = {
    "gs://bucket/x": r"is a URL \(gs://\)",
    "s3://bucket": r"is a URL \(s3://\)",
    "s3:/bucket": r"is a URL \(s3://\)",  # what pathlib makes of it
    "https://host/x": r"is a URL \(https://\)",
    "file:///data/x": "write /data/x",
    "": "is empty",
    "  ": "is empty",
    "a\0b": "is not a file name",
    "a\udcffb": "is not a file name",
    "~nobody_of_this_name/x": "cannot be found",
    "x" * 300: "File name too long",
    "file": "is a file, not a directory",
    "dangling": "which does not exist",
    "loop": "does not exist|symbolic links",
}


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("given", REFUSED, ids=lambda text: repr(text)[:24])
def test_what_is_no_directory_is_refused_by_name(tmp_path, given):
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=REFUSED[given]) as caught:
        files.directory_of(given)
    assert caught.value.field.startswith("--workdir=")
    assert str(caught.value).isprintable() or "\n" in str(caught.value)
    str(caught.value).encode()  # any terminal shows it


@pytest.mark.parametrize("given", [5, None, b"bytes", ["a"], 1.5])
def test_what_is_no_path_is_refused(given):
    with pytest.raises(UserError, match="is not a path"):
        files.path_of(given, "workdir")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/tmp/x", "a\\b", "a\0"])
def test_a_name_never_leads_out_of_the_directory_of_runs(name):
    with pytest.raises(UserError, match="not the name of a directory"):
        files.default_directory(name)
    assert str(files.default_directory("a name")) == "runs/a name"


# --- whole or not there --------------------------------------------------------------------------

CALLS = ("mkdir", "open", "fsync", "replace")


def failing(monkeypatch, call, code):
    """The operating system's answer to one of the calls of a writer."""

    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code), str(args[0]))

    if call == "open":
        monkeypatch.setattr("builtins.open", fail)
    elif call == "mkdir":
        monkeypatch.setattr("pathlib.Path.mkdir", fail)
    else:
        monkeypatch.setattr(os, call, fail)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES])
def test_a_failed_write_is_one_message_and_leaves_the_old_file(tmp_path, monkeypatch, call, code):
    path = files.write_text(tmp_path / "a.txt", "old")
    with monkeypatch.context() as patch:
        failing(patch, call, code)
        with pytest.raises(files.CannotWrite) as caught:
            files.write_text(path, "new")
    assert caught.value.field == str(tmp_path)
    assert caught.value.problem == f"a.txt cannot be written ({os.strerror(code)})"
    full = code not in (errno.EROFS, errno.EACCES)
    assert ("same command again: it resumes" in caught.value.remedy) == full == caught.value.full
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "old")]


def test_a_file_system_without_fsync_is_none_the_worse(tmp_path, monkeypatch):
    failing(monkeypatch, "fsync", errno.EINVAL)
    assert files.write_text(tmp_path / "new" / "a.txt", "x").read_text() == "x"


def test_new_files_are_as_readable_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        path = files.write_bytes(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_library_that_speaks_of_a_full_disk_is_understood(tmp_path):
    for error in (
        ValueError(f"RESOURCE_EXHAUSTED: {os.strerror(errno.ENOSPC).lower()} [28]"),
        ExceptionGroup("several", [ValueError("x"), OSError(errno.EDQUOT, "over")]),
    ):
        with pytest.raises(files.CannotWrite), files.writing(tmp_path, "a checkpoint"):
            raise error
    with pytest.raises(ZeroDivisionError), files.writing(tmp_path, "a checkpoint"):
        raise ZeroDivisionError


def test_the_outer_writer_knows_the_remedy(tmp_path):
    remedy = "add --out=DIR"
    for code, wanted in ((errno.EROFS, remedy), (errno.ENOSPC, "make room")):
        with (
            pytest.raises(files.CannotWrite) as caught,
            files.writing(tmp_path, "the report", remedy),
            files.writing(tmp_path / "figures", "a.png"),
        ):
            raise OSError(code, os.strerror(code))
        assert caught.value.remedy.startswith(wanted)


def test_room_is_tried_for_and_given_back(tmp_path, monkeypatch):
    files.make_sure_of_room(tmp_path, 1 << 20)
    assert not list(tmp_path.iterdir())

    def allocate(handle, offset, size, code=errno.ENOSPC):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", allocate)
    with pytest.raises(OSError, match="No space"):
        files.make_sure_of_room(tmp_path, 1)
    monkeypatch.setattr(os, "posix_fallocate", lambda *a: allocate(*a, code=errno.EOPNOTSUPP))
    files.make_sure_of_room(tmp_path, 1)  # not known: the writer will see
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("data", "says"),
    [(b"", "not JSON"), (b"{", "not JSON"), (b"\xff\xfe", "not JSON"), (b"[" * 100_000, "not JSON"),
     (b"[1]", "not a JSON object"), (b"null", "not a JSON object")],
)  # fmt: skip
def test_damaged_json_says_what_it_is(tmp_path, data, says):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(ValueError, match=says):
        files.read_json(tmp_path / "a.json")
    assert files.read_json(tmp_path / "none.json") is None
    files.write_json(tmp_path / "b.json", {"a": [1.5]})
    assert (
        files.read_json(tmp_path / "b.json")
        == {"a": [1.5]}
        == json.loads((tmp_path / "b.json").read_text())
    )


def test_parts_of_killed_writers_are_removed_and_nothing_else(tmp_path):
    kept = ["results.nc", ".lock", ".report.html.0a.part", ".results", "meta.json"]
    for name in (*kept, ".results.nc.123", ".results.nc.0a1b.part", ".meta.json.77"):
        (tmp_path / name).write_text("")
    (tmp_path / ".page.html.0a.part").write_text("")
    os.utime(tmp_path / ".page.html.0a.part", (1, 1))  # from long ago
    files.remove_parts(tmp_path, "results.nc", "meta.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(kept)
    files.remove_parts(tmp_path / "none", "results.nc")
