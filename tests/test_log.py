"""``config.log``: what is logged while a sweep runs is what an export of its results writes."""

import json
import struct
import sys
from collections import defaultdict

import pytest
from lanes import compiling
from sweeps import Watch, one_device, same

from sbt.errors import UserCodeError, UserError
from sbt.export import curves, export, runs
from sbt.sweep.run import Interrupted, run

CONFIG = {
    "name": "logged",
    "data": {"name": "synthetic", "train_size": 94, "test_size": 40, "num_classes": 4,
             "image_shape": (4, 4, 1), "noise": 0.3, "normalize": "unit"},
    "model": {"name": "mlp", "hidden": (8,)},
    "epochs": 4,
    "sweep": {"batch_size": (4, 8), "base_lr": (2.0**-9, 1e30, 2.0**-7)},
    "engine": {"lanes": 4},
    "checkpoint": {"minutes": 1e6},
}  # fmt: skip
OWN = """
calls, broken = [], False

def log(run, step, metrics):
    if broken and step == 3:
        raise OSError("the disk is full")
    calls.append((run.number, dict(run.settings), step, metrics))
"""


@pytest.fixture(scope="module", autouse=True)
def quickly():
    with one_device(), compiling(quickly=True):
        yield


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's, in the directory where one works."""
    (tmp_path / "my_log.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("my_log", None)


def told(ds):
    """What an export tells: (run, step) -> metrics."""
    found, ends = {}, {row["run"]: row for row in runs(ds).to_dict("records")}
    for row in curves(ds).to_dict("records"):
        names = [name for name in row if "loss" in name or "accuracy" in name]
        metrics = {n: row[n] for n in names if abs(row[n]) < float("inf")}
        if row["epoch"] == ends[row["run"]]["epochs_done"]:
            metrics["accuracy"] = ends[row["run"]]["accuracy"]
        found[row["run"], row["epoch"]] = metrics
    return found


def events(path):
    """(step, name) -> value, as TensorBoard reads a file: a restart takes back what follows it."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    found, data, kinds = {}, path.read_bytes(), defaultdict(int)
    while data:
        (length,) = struct.unpack_from("<Q", data)
        event, data = Event.FromString(data[12 : 12 + length]), data[16 + length :]
        if event.session_log.status == SessionLog.START:
            found = {at: value for at, value in found.items() if at[0] < event.step}
        for value in event.summary.value:
            kinds[value.tag] += 1
            if not value.tag.startswith("_hparams_"):
                assert (event.step, value.tag) not in found
                found[event.step, value.tag] = value.simple_value
    return found, kinds


def of_tensorboard(directory):
    return {
        (int(place.name.removeprefix("run-")), step, name): value
        for place in directory.glob("run-*")
        for (step, name), value in events(place / "events.out.tfevents.sbt")[0].items()
    }


def wanted(ds):
    return {(r, s, n): value for (r, s), m in told(ds).items() for n, value in m.items()}


def test_a_function_of_ones_own(own):
    ds = run({**CONFIG, "log": ("my_log:log",)})
    import my_log

    assert {(n, step): metrics for n, _, step, metrics in my_log.calls} == told(ds)
    assert len(my_log.calls) == 6 * 4
    assert my_log.calls[0][1] == {"batch_size": 4, "base_lr": 2.0**-9}


def test_tensorboard_has_every_step_once_after_a_failure_and_a_crash(own, tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    monkeypatch.syspath_prepend(tmp_path)
    import my_log

    config, directory = {**CONFIG, "log": ("tensorboard", "my_log:log")}, tmp_path / "run"
    my_log.broken = True
    with pytest.raises(UserCodeError, match=r"config\.log, my_log:log: raised OSError: the disk"):
        run(config, directory)
    my_log.broken = False
    with pytest.raises(Interrupted):
        run(config, directory, progress=Watch(epochs=3.5))
    ds = run(config, directory)
    same(ds, run(CONFIG))
    found = of_tensorboard(directory / "log" / "tensorboard")
    assert found == pytest.approx(wanted(ds), rel=1e-6)
    _, kinds = events(directory / "log" / "tensorboard" / "run-00000" / "events.out.tfevents.sbt")
    assert kinds["_hparams_/experiment"] == kinds["_hparams_/session_start_info"] == 1

    (place,) = export(ds, tmp_path / "export", "tensorboard")
    assert of_tensorboard(place) == pytest.approx(found, rel=1e-6)


def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    ds = run({**CONFIG, "log": ("wandb",)}, tmp_path)
    assert of_wandb(tmp_path / "log" / "wandb") == pytest.approx(wanted(ds))
    (place,) = export(ds, tmp_path / "export", "wandb")
    assert of_wandb(place) == pytest.approx(wanted(ds))


def of_wandb(directory):
    """What the files of offline runs hold."""
    from wandb.proto.wandb_internal_pb2 import Record

    found, settings = {}, {}
    for path in directory.glob("wandb/offline-run-*/*.wandb"):
        number = int(path.stem.rpartition("-")[2])
        for data in records(path):
            record = Record.FromString(data)
            for item in record.run.config.update:
                settings.setdefault(number, {})[item.key] = json.loads(item.value_json)
            items = {
                item.key or "/".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            step = record.history.step.num
            found |= {(number, step, n): v for n, v in items.items() if not n.startswith("_")}
    assert settings[0]["batch_size"] == 4
    return found


def records(path):
    """The records of a LevelDB log: blocks of 32 KiB, in which they stand whole or in pieces."""
    data, at, whole = path.read_bytes(), 7, b""  # after W&B's own mark
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield whole
            whole = b""


def test_trackio(tmp_path, monkeypatch):
    trackio = pytest.importorskip("trackio")
    of_run = trackio.sqlite_storage.SQLiteStorage.get_logs
    ds = run({**CONFIG, "log": ("trackio",)}, tmp_path)
    api = trackio.Api().runs("logged")
    token = (tmp_path / "log" / "trackio" / "id").read_text()
    mine = {one.name: one for one in api if one.name.endswith(token)}
    assert len(mine) == 6
    for (number, step), metrics in told(ds).items():
        one = mine[f"run-{number:05d}-{token}"]
        (row,) = (r for r in of_run("logged", one.name, run_id=one.id) if r["step"] == step)
        assert {name: row[name] for name in metrics} == pytest.approx(metrics)


@pytest.mark.parametrize(("names", "directory", "text"), [
    (("tensorbord",), True, "'tensorbord' is no log\n.*did you mean tensorboard"),
    (("tensorboard",), False, "tensorboard has no directory to write to"),
    (("my_log:missing",), True, "config.log, my_log:missing: raised AttributeError"),
    (("my_log:broken",), True, "my_log:broken cannot be called"),
])  # fmt: skip
def test_what_is_no_log_is_refused(own, tmp_path, names, directory, text):
    with pytest.raises(UserError, match=text):
        run({**CONFIG, "log": names}, tmp_path / "run" if directory else None)
