"""Work directories that can be trusted: full disks, damage, leftovers, directories only read."""

import errno
import json
import os
import random
import shutil

import jax
import numpy as np
import pytest
import xarray as xr
from lanes import compiling
from sweeps import Watch, same, shorten_windows

from sbt import cli, files, results, workdir
from sbt.checkpoint import fault, load_weights, save_weights
from sbt.config import complete
from sbt.errors import UserError
from sbt.sweep import run as runs
from sbt.sweep.afterwards import measure_runs
from sbt.sweep.run import run

CONFIG = {
    "name": "tiny",
    "data": {"name": "synthetic", "train_size": 16, "test_size": 8, "num_classes": 3,
             "image_shape": (2, 2, 1), "normalize": "unit"},
    "model": {"name": "mlp", "hidden": (3,)},
    "epochs": 2,
    "batch_size": 8,
    "sweep": {"base_lr": (2.0**-9, 2.0**-7)},
    "checkpoint": {"minutes": 0.0, "final_weights": True},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def quickly():
    with compiling(quickly=True):
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The directory and the results of a sweep that is done."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    return directory, run(CONFIG, directory)


@pytest.fixture
def done(whole, tmp_path):
    return shutil.copytree(whole[0], tmp_path / "run")


def no_compiling(monkeypatch):
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda self: pytest.fail("compiled"))


def tree(directory):
    """Every file with its bytes and its time of change."""
    return {
        str(path.relative_to(directory)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in [directory, *directory.rglob("*")]
        if path.is_file()
    } | {"": directory.stat().st_mtime_ns}


# --- only read -----------------------------------------------------------------------------------


def test_a_finished_directory_is_only_read(whole, done, monkeypatch):
    for path in done.rglob("*"):
        os.utime(path, (1, 1))
    before = tree(done)
    no_compiling(monkeypatch)

    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for call in ("replace", "mkdir", "unlink"):
        monkeypatch.setattr(os, call, refuse)
    monkeypatch.setattr("sbt.workdir.fcntl.flock", refuse)
    same(run(CONFIG, done), whole[1])
    assert tree(done) == before


def test_a_report_of_a_read_only_directory_says_what_to_do(done, capsys, monkeypatch, tmp_path):
    def refuse(source, target, replace=os.replace):
        if done in target.parents:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    before = tree(done)
    assert cli.main(["report", str(done)]) == cli.EXIT_ERROR
    err = capsys.readouterr().err
    assert err.startswith(f"error: {done}: ") and "Read-only file system" in err
    assert "--out" in err and "Traceback" not in err and len(err.splitlines()) == 2
    assert {name: kept for name, kept in tree(done).items() if name} == {
        name: kept for name, kept in before.items() if name
    }
    assert cli.main(["report", str(done), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize("command", ["report", "measure"])
def test_what_is_no_work_directory_is_one_line(command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("nowhere")
    for given in ("file", "link", "nothing", "gs://bucket", "x" * 300, "", "~nobody_here/x"):
        assert cli.main([command, given]) == cli.EXIT_ERROR
        err = capsys.readouterr().err
        assert err.startswith("error: ") and len(err.splitlines()) == 2, err
    os.mkfifo(tmp_path / "fifo")
    for given in (tmp_path / "fifo", "/dev/null", 3, None, xr.Dataset()):
        with pytest.raises(UserError):
            results.load(given)


# --- a full disk ---------------------------------------------------------------------------------


class Full:
    """The n-th write of a work directory, and every one after it, meets a full disk."""

    def __init__(self, monkeypatch, at):
        self.calls, self.at = 0, at
        for call in ("fsync", "posix_fallocate"):
            monkeypatch.setattr(os, call, self._wrapped(getattr(os, call)))

    def _wrapped(self, original):
        def call(*args):
            self.calls += 1
            if self.calls > self.at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*args)

        return call


def fill_up(whole, directory, monkeypatch, at):
    """Runs into a full disk, then on to the end with room; False if it was never full."""
    with monkeypatch.context() as patch:
        full = Full(patch, at)
        try:
            run(CONFIG, directory)
        except UserError as error:
            assert error.field == str(directory)
            assert "No space left on device" in error.problem
            assert "same command again: it resumes" in error.remedy
        else:
            assert full.calls <= at
            return False
    assert not [p for p in directory.rglob("*") if p.name.endswith(files.PART) or "tmp" in p.name]
    same(run(CONFIG, directory), whole[1])
    (mine,), (theirs,) = ((d / "weights").iterdir() for d in (directory, whole[0]))
    for a, b in zip(*map(jax.tree.leaves, (load_weights(mine), load_weights(theirs))), strict=True):
        np.testing.assert_array_equal(a, b)
    return True


@pytest.mark.parametrize("at", [0, 2, 4])
def test_a_full_disk_is_one_message_and_the_same_call_goes_on(whole, tmp_path, monkeypatch, at):
    assert fill_up(whole, tmp_path / "run", monkeypatch, at)


@pytest.mark.slow
def test_a_disk_that_is_full_at_any_write(whole, tmp_path, monkeypatch):
    at = 0
    while fill_up(whole, tmp_path / str(at), monkeypatch, at):
        at += 1
    assert at > 8


def test_a_full_disk_while_measuring_and_reporting(done, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        Full(patch, 0)
        with pytest.raises(UserError, match="No space left on device") as caught:
            measure_runs(done, {"names": ("distance",)})
        assert caught.value.field == str(done) and "resumes" in caught.value.remedy
        out = str(tmp_path / "out")
        assert cli.main(["report", str(done), "--out", out]) == cli.EXIT_ERROR
        err = capsys.readouterr().err
        assert out in err and "No space left" in err and "resumes" in err
    assert "measured_epoch" not in results.load(done).sizes
    assert "measured_epoch" in measure_runs(done, {"names": ("distance",)}).sizes


# --- damage --------------------------------------------------------------------------------------


def damaged(path, rng):
    """Copies of a file with one bit flipped, cut off, and with a block of zeros at its end."""
    data = path.read_bytes()
    yield b""
    for _ in range(12):
        if data:
            at = rng.randrange(len(data))
            yield data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    yield data[: rng.randrange(len(data) + 1)]
    yield data[: max(0, len(data) - 100)] + bytes(min(100, len(data)))


def test_a_damaged_file_of_a_finished_directory_never_gives_other_numbers(whole, done, monkeypatch):
    """Every file, one damage at a time; what is not refused trains nothing and says the same."""
    no_compiling(monkeypatch)
    rng = random.Random(0)
    _, dataset = whole
    refused = dict.fromkeys(("results.nc", "config.json", "meta.json"), 0)
    for name in (*refused, ".lock"):
        kept = {path: path.read_bytes() for path in done.glob("*") if path.is_file()}
        for number, data in enumerate(damaged(done / name, rng)):
            (done / name).write_bytes(data)
            reads = [lambda: results.load(done), lambda: run(CONFIG, done)]
            for read in reads[: 2 if number < 4 else 1]:
                try:
                    same(read(), dataset)
                except UserError as error:
                    assert name in str(error) or name == "config.json", error
                    refused[name] += 1
            for path, before in kept.items():
                path.write_bytes(before)
    assert refused["results.nc"] == 15 + 4
    assert refused["meta.json"] == 0  # no result depends on it


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A directory of a sweep that was interrupted, with two checkpoints."""
    directory = tmp_path_factory.mktemp("stopped") / "run"

    with pytest.MonkeyPatch.context() as patch:
        shorten_windows(patch, 1)
        with pytest.raises(runs.Interrupted):
            run(CONFIG, directory, progress=Watch(epochs=1.5))
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_file_of_an_interrupted_directory_never_gives_other_numbers(
    whole, stopped, tmp_path, seed
):
    rng = random.Random(seed)
    for number, path in enumerate(sorted(p for p in stopped.rglob("*") if p.is_file())):
        if path.parent != stopped and number % 4 != seed:
            continue  # of the many files of the checkpoints, a few
        directory = shutil.copytree(stopped, tmp_path / str(number))
        data = rng.choice(list(damaged(path, rng)))
        (directory / path.relative_to(stopped)).write_bytes(data)
        try:
            same(run(CONFIG, directory), whole[1])
        except UserError as error:
            assert path.parent == stopped and error.remedy, path


def test_damaged_weights_are_never_measured(done):
    rng = random.Random(1)
    (place,) = (done / "weights").iterdir()
    for path in [path for path in place.rglob("*") if path.is_file()]:
        before = path.read_bytes()
        if not before:
            continue  # a mark of Orbax's; it has no bit to flip
        for data in list(damaged(path, rng))[: 1 if path.name == "checksums.json" else 4]:
            path.write_bytes(data)
            with pytest.raises(UserError, match="damaged weights") as caught:
                load_weights(place)
            assert str(place) in str(caught.value) and "results.nc" in caught.value.remedy
        path.write_bytes(before)
    with pytest.raises(UserError, match="damaged weights"):
        os.remove(next(path for path in place.rglob("*") if path.name.startswith("manifest")))
        measure_runs(done, {"names": ("distance",)})


def test_a_call_reads_the_results_once(whole, done, monkeypatch):
    """Of a finished directory, of one that is reported anew, and of one whose grid is extended."""
    original, reads = results.load, []
    monkeypatch.setattr(results, "load", lambda place: reads.append(place) or original(place))
    longer = {**CONFIG["sweep"], "seed": (0, 1, 2)}
    for changes in ({}, {"report": {"last_epochs": 1}}, {"sweep": longer}):
        reads.clear()
        run(CONFIG | changes, done)
        assert reads == [done], changes


def test_removing_damaged_results_trains_the_same_again(whole, done):
    """The remedy of the message about them."""
    (done / "results.nc").write_bytes(b"damaged")
    with pytest.raises(UserError, match="remove it and give the same sbt run again"):
        run(CONFIG, done)
    (done / "results.nc").unlink()
    (done / "meta.json").write_text("{")
    (done / "config.json").unlink()
    same(run(CONFIG, done), whole[1])
    assert workdir.read_meta(done)["status"] == "done"
    assert (done / "config.json").exists()


def test_a_damaged_config_is_found_again_in_the_results(whole, done):
    (done / "config.json").write_text("[1]")
    with pytest.raises(UserError, match="is damaged") as caught:
        run(CONFIG, done)
    assert "remove it" in caught.value.remedy
    (done / "config.json").unlink()
    other = {**CONFIG, "epochs": 3}
    with pytest.raises(UserError, match=r"belongs to another config; different: config\.epochs"):
        run(other, done)
    assert workdir.stored_config(done).to_dict() == complete(CONFIG).to_dict()
    same(run(CONFIG, done), whole[1])


def test_results_of_another_sweep_are_not_taken(whole, done):
    dataset = whole[1].isel(base_lr=[0])
    other = json.loads(dataset.attrs["config"])
    other["sweep"]["base_lr"] = [2.0**-8]
    results.write(dataset.assign_attrs(config=json.dumps(other)), done)
    with pytest.raises(UserError, match=r"config\.sweep\.base_lr: .* leaves out 0\.00390625"):
        run(CONFIG, done)
    for foreign in (xr.Dataset({"a": ("x", [1.0])}), dataset.drop_vars("epochs_done")):
        results.write(foreign, done)
        with pytest.raises(UserError, match="not the results of a sweep"):
            run(CONFIG, done)


def test_directories_from_before_there_were_checksums(whole, done, monkeypatch):
    whole[1].to_netcdf(done / "results.nc", engine="h5netcdf")
    meta = json.loads((done / "meta.json").read_text())
    del meta["checksum"]
    (done / "meta.json").write_text(json.dumps(meta))
    (place,) = (done / "weights").iterdir()
    (place / "checksums.json").unlink()
    stored = json.loads((done / "config.json").read_text())
    del stored["evaluate"], stored["model"]["norm"]  # fields that came later
    (done / "config.json").write_text(json.dumps(stored))
    assert len(load_weights(place)[2]) == 2
    no_compiling(monkeypatch)
    same(run(CONFIG, done), whole[1])
    assert workdir.read_meta(done) == meta
    cut = (done / "results.nc").read_bytes()[:-200]
    (done / "results.nc").write_bytes(cut)
    with pytest.raises(UserError, match="cannot be read"):
        results.load(done)


def test_other_tools_read_the_results(whole):
    with xr.open_dataset(whole[0] / "results.nc", engine="h5netcdf") as dataset:
        xr.testing.assert_identical(dataset.load(), whole[1])


def test_a_block_that_is_lost_with_the_checksum_in_it_is_noticed(done):
    path = done / "results.nc"
    data = path.read_bytes()
    path.write_bytes(data[:-4096] + bytes(4096))
    with pytest.raises(UserError, match="checksum does not fit"):
        results.load(done)


# --- leftovers -----------------------------------------------------------------------------------


def test_leftovers_of_killed_processes_are_swept(whole, done):
    (done / "meta.json").unlink()  # as before the last write
    for name in (".results.nc.123", ".meta.json.9", ".config.json.0a1b2c3d.part"):
        (done / name).write_text("half")
    (done / "weights" / "cohort000-run00000.orbax-checkpoint-tmp-1").mkdir()
    same(run(CONFIG, done), whole[1])
    assert sorted(path.name for path in done.iterdir()) == [
        ".lock", "checkpoints", "cohorts.json", "config.json", "meta.json", "parts.json",
        "results.nc", "weights",
    ]  # fmt: skip
    names = [path.name for path in (done / "weights").iterdir()]
    assert names == [path.name for path in (whole[0] / "weights").iterdir()]


def test_a_directory_is_in_use_while_a_sweep_works_there(tmp_path, monkeypatch):
    assert not workdir.in_use(tmp_path / "nowhere") and not workdir.in_use(tmp_path)
    with workdir.locked(tmp_path, complete(CONFIG)):
        assert workdir.in_use(tmp_path)
    assert not workdir.in_use(tmp_path)

    def flock(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)  # then only what the sweep has noted can tell
    assert not workdir.in_use(tmp_path)
    workdir.write_meta(tmp_path, {"status": "running"})
    assert workdir.in_use(tmp_path)


def test_a_file_system_without_locks_is_said_once(tmp_path, monkeypatch):
    for code in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):

        def flock(*args, code=code):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr("fcntl.flock", flock)
        notes = []
        with workdir.locked(tmp_path, complete(CONFIG), note=notes.append) as kept:
            assert kept.directory == tmp_path
        (note,) = notes
        assert "no locks" in note and os.strerror(code) in note


def test_every_version_that_took_part_is_kept():
    old, new = ({"versions": {"jax": v}, "devices": 1, "started": v} for v in ("1", "2"))
    meta = workdir.with_start({}, old)
    assert meta == {**old, "starts": 1}
    meta = workdir.with_start(meta | {"status": "interrupted"}, {**old, "started": "later"})
    assert meta == {**old, "started": "later", "starts": 2, "status": "interrupted"}
    meta = workdir.with_start(meta, new)
    assert meta["versions"] == {"jax": "2"} and meta["starts"] == 3
    assert [one["versions"]["jax"] for one in meta["earlier_environments"]] == ["1"]
    meta = workdir.with_start(meta, old)
    assert [one["versions"]["jax"] for one in meta["earlier_environments"]] == ["2"]
    assert workdir.with_start({"versions": {"jax": "0"}}, old)["earlier_environments"] == [
        {"versions": {"jax": "0"}}  # of a directory that knew the last one only
    ]


def test_weights_are_sealed_as_they_are_kept(tmp_path):
    save_weights(tmp_path / "weights" / "a", {"w": np.zeros((1, 2), np.float32)}, {}, [[0]])
    assert fault(tmp_path / "weights" / "a") is None
