"""The benchmark: its lanes really train, its peers train the same, its arithmetic is right."""

import dataclasses
import importlib.util
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lanes import compiling
from reference import QUICKLY
from rich.console import Console

from sbt import cli
from sbt.bench import command, tables, workload
from sbt.bench.figure import CURVES, draw
from sbt.bench.flax_peer import flax_workload
from sbt.bench.lanes import make_task, prepared, sbt_workload
from sbt.bench.options import Options, options_of, settings
from sbt.bench.record import Facts, Record, Scaling, write_record
from sbt.bench.workload import (
    NETWORKS,
    Cell,
    Position,
    Setting,
    Skip,
    Workload,
    calibrate,
    microseconds,
)
from sbt.errors import UserError
from sbt.parallel import ceilings
from sbt.parallel.ceilings import Ceilings

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is an optional extra"
)
SIZE = 64


def setting(network="convnet", method="sbt", g=4, lanes=1, strategy="auto"):
    return Setting(network, method, g, lanes, strategy, "float32")


def parse(arguments, platform):
    return options_of(cli.parsers()[1]["bench"].read(arguments), platform)


# --- sbt's own lanes -----------------------------------------------------------------------------


def test_lanes_train_through_the_engine():
    lanes, g = 6, 4
    with compiling(quickly=True) as programs:
        work = sbt_workload(setting(lanes=lanes, g=g), SIZE)
    assert len(programs) == 3  # init, train, evaluate, as in any sweep
    at = work.advance(work.start(), SIZE // g)
    first = np.asarray(at.state.sums.loss / at.state.sums.examples)[:lanes]
    at = work.advance(at, 29 * SIZE // g)
    last = np.asarray(at.state.sums.loss / at.state.sums.examples)[:lanes]
    assert (last < 0.5 * first).all()
    assert np.asarray(at.state.examples)[:lanes].tolist() == [30 * SIZE] * lanes
    assert np.asarray(at.state.updates)[:lanes].tolist() == [30 * SIZE // g] * lanes
    assert work.healthy(at)
    weights = np.asarray(jax.tree.leaves(at.state.params)[0])[:lanes]
    assert len({w.tobytes() for w in weights}) == lanes  # every lane is a run of its own
    made = work.cell
    assert made.automatic and made.setting.strategy == "vmap/im2col"
    assert made.compile_seconds > 0 and made.memory_bytes > 4 * lanes * 1898


def test_large_batches_are_taken_in_parts_as_in_a_sweep():
    with compiling(quickly=True):
        work = sbt_workload(setting(lanes=2, g=SIZE), 2 * SIZE)
        tied = sbt_workload(setting("f1", lanes=2, g=SIZE), 2 * SIZE)
    at = work.advance(work.advance(work.start(), 1), 2)
    assert at.updates == 3 and work.healthy(at)
    assert np.asarray(at.state.updates)[:2].tolist() == [3, 3]
    assert np.asarray(at.state.examples)[:2].tolist() == [3 * SIZE] * 2
    assert work.cell.detail == "32 examples at a time"
    assert tied.cell.detail == ""  # batch norm needs all of them


def test_a_diverged_lane_spoils_the_time(monkeypatch):
    monkeypatch.setitem(NETWORKS, "convnet", _faster("convnet", 1e30))
    with compiling(quickly=True):
        work = sbt_workload(setting(), SIZE)
    with pytest.raises(Skip, match="diverged"):
        microseconds(work, 8)


def test_what_is_known_is_not_compiled_again():
    with compiling(quickly=True) as programs:
        known = {setting(strategy="vmap/im2col", lanes=2)}
        assert sbt_workload(setting(lanes=2), SIZE, known) is None
        # Sixteen at a time are all of them.
        assert sbt_workload(setting(lanes=2, strategy="map:16/im2col"), SIZE, known) is None
    assert not programs


def test_too_many_lanes_are_refused_before_compiling(monkeypatch):
    monkeypatch.setattr("sbt.bench.lanes.memory_budget", lambda *_: 2.0**20)
    with compiling(quickly=True) as programs, pytest.raises(Skip, match="GB per device"):
        sbt_workload(setting(network="alexnet", lanes=64), SIZE)
    assert not programs


# --- peers ---------------------------------------------------------------------------------------


def image_shape(network):
    return NETWORKS[network].data.get("image_shape", ())


def _faster(network, base_lr):
    return dataclasses.replace(NETWORKS[network], base_lr=base_lr)


def change(before, after):
    """Weights after minus before, as one vector per leaf path."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.tree.map(lambda a, b: b - a, before, after))
    return {jax.tree_util.keystr(p, simple=True, separator="."): np.asarray(v) for p, v in leaves}


def relative(one, other):
    assert one.keys() == other.keys()
    scale = max(np.abs(v).max() for v in other.values())
    return max(np.abs(one[k] - other[k]).max() for k in other) / scale


def ours_after(updates, lanes=1, **fields):
    """Changes of the weights of each lane after some updates, by the engine."""
    with compiling(quickly=True):
        work = sbt_workload(setting(lanes=lanes, **fields), SIZE)
    before = jax.device_get(work.start().state.params)
    after = jax.device_get(work.advance(work.start(), updates).state.params)
    pick = lambda tree, i: jax.tree.map(lambda leaf: leaf[i], tree)  # noqa: E731
    return [change(pick(before, i), pick(after, i)) for i in range(lanes)]


# Batch norm of a few examples amplifies rounding: two correct programs differ more there.
ONE_STEP = [("convnet", 1e-5), ("resnet8-bn", 1e-3)]
WITH_GPT = [*ONE_STEP, ("gpt", 1e-4)]


@pytest.fixture(autouse=True)
def smooth_adam(monkeypatch):
    """Adam's first step is the sign of a gradient, of its rounding too: not with a large epsilon.

    optax counts in integers and multiplies these with real numbers.
    """
    gpt = NETWORKS["gpt"]
    monkeypatch.setitem(NETWORKS, "gpt", dataclasses.replace(gpt, rule=gpt.rule | {"eps": 1e-2}))
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize("network,tolerance", WITH_GPT)
def test_one_flax_step_equals_ours(monkeypatch, network, tolerance):
    monkeypatch.setitem(NETWORKS, network, _faster(network, 0.05))
    (ours,) = ours_after(1, network=network)
    task = make_task(setting(network=network, method="flax", strategy=""), SIZE)
    peer = flax_workload(task)
    before = jax.device_get(peer.start().state[0])
    after = jax.device_get(peer.advance(peer.start(), 1).state[0])
    theirs = change(before, after)
    assert max(np.abs(v).max() for v in ours.values()) > 1e-3  # a step that rounding cannot hide
    assert relative(theirs, ours) < tolerance


def test_scanned_flax_equals_the_loop(monkeypatch):
    monkeypatch.setitem(NETWORKS, "convnet", _faster("convnet", 0.01))
    task = make_task(setting(method="flax", strategy=""), SIZE)
    loop, scan = flax_workload(task), flax_workload(task, scanned=True)
    assert loop.chunk == 1 and scan.chunk == SIZE // 4
    updates = 2 * scan.chunk  # the second epoch too
    one, other = loop.advance(loop.start(), updates), scan.advance(scan.start(), updates)
    assert one.updates == other.updates == updates
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), one.state[0], other.state[0]
    )


def torch_change(before, after):
    import torch

    layout = {4: lambda w: w.permute(2, 3, 1, 0), 2: lambda w: w.T, 1: lambda w: w}
    own = {
        "qkv": lambda w: w.reshape(3, 2, 32, 64).permute(0, 1, 3, 2),
        "out": lambda w: w.T.reshape(2, 32, 64),
        "embedding": lambda w: w,
        "logits": lambda w: w,
    }
    found = {}
    for name in before:
        delta = (after[name] - before[name]).detach()
        *where, leaf = name.split(".")
        if "logits.weight" in before:
            found[".".join(where)] = own.get(where[-1], layout[2])(delta).numpy()
            continue
        kind = {"bias": "bias", "weight": "kernel" if delta.ndim > 1 else "scale"}[leaf]
        found[".".join((*where, kind))] = layout[delta.ndim](delta).numpy()
    assert isinstance(delta, torch.Tensor)
    return found


@needs_torch
@pytest.mark.parametrize("network,tolerance", WITH_GPT)
def test_one_torch_step_equals_ours(monkeypatch, network, tolerance):
    from sbt.bench.torch_peer import Variant, _eager

    monkeypatch.setitem(NETWORKS, network, _faster(network, 0.05))
    (ours,) = ours_after(1, network=network)
    task = make_task(setting(network=network, method="torch", strategy=""), SIZE)
    for channels_last in (False,) if network == "gpt" else (True, False):
        peer = _eager(task, Variant(channels_last, 1))
        before = {k: v.detach().clone() for k, v in peer.start().state[0].named_parameters()}
        after = dict(peer.advance(peer.start(), 1).state[0].named_parameters())
        assert relative(torch_change(before, after), ours) < tolerance


@needs_torch
@pytest.mark.parametrize("network", ["convnet", "gpt"])
def test_a_torch_func_ensemble_equals_our_lanes(monkeypatch, network):
    from sbt.bench.torch_peer import Variant, _ensemble

    monkeypatch.setitem(NETWORKS, network, _faster(network, 0.02))
    lanes, updates = 4, 3
    ours = ours_after(updates, lanes=lanes, network=network)
    wanted = setting(network=network, method="torch_func", lanes=lanes, strategy="")
    peer = _ensemble(make_task(wanted, SIZE), Variant(False, 1))
    before, after = peer.start().state[0], peer.advance(peer.start(), updates).state[0]
    for i in range(lanes):
        theirs = torch_change(
            {k: v[i] for k, v in before.items()}, {k: v[i] for k, v in after.items()}
        )
        assert relative(theirs, ours[i]) < 1e-4


@needs_torch
@pytest.mark.parametrize("network", NETWORKS)
def test_torch_models_have_our_parameters(network):
    from sbt.bench.torch_peer import build

    spec = NETWORKS[network]
    cohort = prepared(setting(network=network, g=8), SIZE).cohort
    model = build(spec.model, image_shape(network))
    assert sum(p.numel() for p in model.parameters()) == cohort.facts.parameters


@needs_torch
@pytest.mark.parametrize("network", ["convnet", "alexnet-bn", "resnet8", "resnet8-bn", "f1"])
def test_torch_models_give_our_logits(network):
    import torch

    from sbt.bench.torch_peer import build, load_flax

    spec, g = NETWORKS[network], 8
    task = prepared(setting(network=network, g=g), SIZE).problem
    rng = np.random.default_rng(0)
    x = rng.normal(size=(g, *image_shape(network))).astype(np.float32)
    init = jax.jit(task.model.init, compiler_options=QUICKLY)
    apply = jax.jit(task.model.apply, static_argnums=4, compiler_options=QUICKLY)
    params, stats = init(jax.random.key(0), jnp.asarray(x))
    # Ones and zeros would hide a scale or a bias that is not loaded.
    params = jax.tree.map(
        lambda p: p + 0.1 * rng.normal(size=p.shape).astype(np.float32) * np.std(p + 0.1), params
    )
    ours, _ = apply(params, stats, x, None, True)
    model = load_flax(build(spec.model, image_shape(network)), params)
    with torch.no_grad():
        theirs = model(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy()
    scale = np.abs(np.asarray(ours)).max()
    np.testing.assert_allclose(theirs / scale, np.asarray(ours) / scale, atol=1e-4)


@needs_torch
def test_weights_that_do_not_fit_are_refused():
    from sbt.bench.torch_peer import build, load_flax

    spec = NETWORKS["convnet"]
    task = prepared(setting(), SIZE).problem
    shape = image_shape("convnet")
    params, _ = task.model.init(jax.random.key(0), jnp.zeros((1, *shape)))
    del params["Dense_0"]
    with pytest.raises(ValueError, match="Dense_0"):
        load_flax(build(spec.model, shape), params)


# --- devices that share a batch ------------------------------------------------------------------


@pytest.fixture
def normalised(monkeypatch):
    """The name of a small network with batch norm."""
    plain = _faster("convnet", 0.01)
    model = dict(plain.model) | {"norm": "batch"}
    monkeypatch.setitem(NETWORKS, "convnet-bn", dataclasses.replace(plain, model=model, least=2))
    return "convnet-bn"


def test_a_shared_batch_is_that_of_one_device(normalised):
    """With statistics of the whole batch; those of a device's part are another training."""
    m = 2 * jax.device_count()
    (alone,) = ours_after(1, network=normalised, g=m)
    shared = {"network": normalised, "g": m, "strategy": ""}
    (synchronous,) = ours_after(1, method="data_parallel_sync", **shared)
    (apart,) = ours_after(1, method="data_parallel", **shared)
    assert jax.device_count() > 1
    assert relative(synchronous, alone) < 1e-4
    assert relative(apart, alone) > 0.01


def test_the_cell_of_a_shared_batch_says_who_has_what(normalised):
    devices = jax.device_count()
    with compiling(quickly=True):
        work = sbt_workload(setting(normalised, "data_parallel", 2 * devices, strategy=""), SIZE)
    assert work.cell.detail.startswith(f"2 examples on each of {devices} devices, statistics of 2")
    assert not work.cell.automatic and work.cell.setting.strategy == ""
    at = work.advance(work.start(), 4)
    assert work.healthy(at) and at.state.examples.tolist() == [4 * 2 * devices]


def test_what_devices_cannot_share_is_skipped(normalised):
    devices = jax.device_count()
    for network, g, method, reason in (
        ("convnet", devices + 1, "data_parallel", "evenly"),
        (normalised, devices, "data_parallel", "2 examples each"),
        (normalised, devices + 1, "data_parallel_sync", "evenly"),
    ):
        with pytest.raises(Skip, match=reason):
            command._workload(setting(network, method, g, strategy=""), None, set())


def test_sharing_needs_devices_and_synchronous_statistics_batch_norm():
    assert "data_parallel" not in parse([], "cpu").peers
    several = options_of(cli.parsers()[1]["bench"].read([]), "cpu", devices=2)
    assert {"data_parallel", "data_parallel_sync"} < set(several.peers)
    synchronous = {s.network for s in settings(several) if s.method == "data_parallel_sync"}
    assert synchronous == {n for n in several.models if n in ("resnet8-bn", "f1")}
    with pytest.raises(UserError, match="several devices"):
        parse(["--peers=data_parallel"], "cpu")


# --- the clock -----------------------------------------------------------------------------------


class Clock:
    """A clock that only work moves: so many seconds per update, and per call."""

    def __init__(self, monkeypatch, per_update, per_call=0.0):
        self.now, self.per_update, self.per_call, self.log = 0.0, per_update, per_call, []
        monkeypatch.setattr(workload.time, "perf_counter", lambda: self.now)

    def workload(self, name="convnet", g=4, lanes=8, chunk=1, healthy=True):
        def advance(at, updates):
            assert updates % chunk == 0
            self.now += self.per_call + updates * self.per_update
            self.log.append(name)
            return Position(None, at.updates + updates)

        cell = Cell(setting(name, g=g, lanes=lanes))
        return Workload(lambda: Position(None, 0), advance, lambda _: healthy, cell, chunk)


def test_times_are_per_example_and_lane(monkeypatch):
    work = Clock(monkeypatch, per_update=0.008).workload(g=4, lanes=10)
    assert microseconds(work, 100) == pytest.approx(200.0)


@pytest.mark.parametrize("per_update,chunk", [(1e-5, 1), (3e-3, 8), (0.9, 1)])
def test_windows_last_as_long_as_asked(monkeypatch, per_update, chunk):
    work = Clock(monkeypatch, per_update).workload(chunk=chunk)
    updates = calibrate(work, seconds=1.0, most=10.0)
    assert updates % chunk == 0
    assert updates * per_update == pytest.approx(1.0, rel=0.2)


def test_what_a_call_costs_does_not_shorten_the_window(monkeypatch):
    """Extrapolated from one update, this window would hold three."""
    work = Clock(monkeypatch, per_update=0.001, per_call=0.3).workload()
    assert 0.8 <= 0.3 + 0.001 * calibrate(work, seconds=1.0, most=10.0) <= 1.2


def test_what_takes_too_long_is_skipped(monkeypatch):
    with pytest.raises(Skip, match=r"1 updates take 50\.0 s"):
        calibrate(Clock(monkeypatch, per_update=50.0).workload(), seconds=1.0, most=10.0)


def test_rounds_visit_every_setting_in_turn(monkeypatch, tmp_path):
    clock = Clock(monkeypatch, per_update=0.01)
    names = ["a", "b", "c"]
    works = {i: clock.workload(name, healthy=name != "b") for i, name in enumerate(names)}
    cells = tuple(dataclasses.replace(works[i].cell, updates=5) for i in works)
    show = command.Show(Console(quiet=True))
    for _ in range(2):
        cells = command._round(cells, works, show, math.inf)
    # Each window is a warm-up and the timed part; b diverges and is not tried again.
    assert clock.log == ["a", "a", "b", "b", "c", "c", "a", "a", "c", "c"]
    assert [len(c.microseconds) for c in cells] == [2, 0, 2]
    assert cells[1].skipped == "a lane diverged"


# --- what follows from the times -----------------------------------------------------------------


def cell(g, method, times, lanes=1, strategy="", **fields):
    return Cell(setting("convnet", method, g, lanes, strategy), tuple(times), 10, **fields)


@pytest.fixture
def record():
    """Times that can be reckoned with by head."""
    cells = (
        cell(2, "sbt", (50.0, 30.0, 40.0), 1, "map/direct", automatic=True),
        cell(2, "sbt", (20.0, 22.0, 18.0), 16, "map/direct", automatic=True, memory_bytes=2**21),
        cell(2, "sbt", (10.0, 16.0, 12.0), 16, "vmap/im2col", at_once=16, compile_seconds=3.0),
        cell(2, "flax", (60.0,)),
        cell(2, "torch", (120.0,)),
        cell(2, "torch_compile", (36.0,)),
        cell(2, "torch_func", (24.0,), 16),
        cell(128, "sbt", (1.0,), 1, "map/direct"),
        cell(128, "sbt", (8.0,), 16, "map/direct", automatic=True),
        cell(128, "torch", (4.0,)),
        Cell(setting("convnet", "flax", 128), skipped="12 updates take 99.0 s"),
    )
    return Record(
        command="sbt bench",
        environment={"versions": {"jax": "1"}, "cpu_model": "abacus"},
        networks={"convnet": Facts(1000, 4e6, 600)},
        ceilings=Ceilings({"float32": 1e12}, {"float32": 5e11}, 1e9, cache_bytes=32_000),
        cells=cells,
        scaling=(Scaling("lanes", cells[0].setting, (2, 20), (1.0, 10.0), 1.0),),
    )


def test_ratios_from_a_table(record):
    small, large = tables.rows(record)
    assert (small.batch_size, large.batch_size) == (2, 128)
    assert small.ours.setting.strategy == "vmap/im2col" and small.ours.median == 12.0
    assert small.automatic.median == 20.0
    assert small.ratio(tables.TORCH) == 3.0  # the better of eager and compiled
    assert small.ratio(("flax",)) == 5.0
    assert large.ratio(tables.TORCH) == 4.0
    assert large.ratio(("flax",)) is None
    assert tables.ratios([small, large], tables.TORCH) == {2: 3.0, 128: 4.0}
    assert tables.ratios([small, large], tables.TORCH, most=4) == {2: 3.0}
    # With 16 lanes or more: the single lane's 1.0 at g = 128 does not count.
    assert tables.small_batch_tax(record, "convnet", "float32") == 12.0 / 8.0
    assert tables.small_batch_tax(record, "alexnet", "float32") is None
    assert tables.by_lanes(record, "convnet", "float32", 2) == {1: 40.0, 16: 12.0}
    assert tables.cost_of_choosing(record) == [20.0 / 12.0]


def test_ceilings_bind(record):
    mapped, together = record.cells[1], record.cells[2]
    # One lane at a time: 4 kB of weights stay in the cache, 4 MFLOP at 1 TFLOP/s remain.
    assert tables.bound(record, mapped) == (pytest.approx(4.0), "arithmetic")
    assert tables.fraction(record, mapped) == pytest.approx(4.0 / 20.0)
    # 16 lanes: 64 kB do not; 8000 bytes / 2 examples + the image at 1 GB/s are 4.6 µs.
    assert tables.bound(record, together) == (pytest.approx(4.6), "memory")


def test_sentences_say_the_numbers(record):
    text = "\n".join(tables.sentences(record))
    for part in (
        "small-batch tax 1.50",
        "torch takes 3.00x (m=2), 4.00x (m=128); at m<=4 at least 3.00x",
        "torch.func takes 2.00x (m=2)",
        "flax loop takes 5.00x (m=2); at m<=8 at least 5.00x",
        "1: 40, 16: 12",
        "38% of memory (m=2)",
        "at most 1.67x",
        "lanes^1.00",
    ):
        assert part in text
    assert "sharing" not in text


def test_sentences_compare_a_shared_batch_with_one_device_and_with_lanes(record):
    shared = cell(2, "data_parallel", (25.0,), detail="1 example on each of 2 devices")
    machine = record.environment | {"devices": 2}
    record = dataclasses.replace(record, environment=machine, cells=(*record.cells, shared))
    text = "\n".join(tables.sentences(record))
    # One lane takes 40, the fastest lanes 12.
    assert "2 devices train one run 1.60x (m=2) as fast as one of them" in text
    assert "lanes on the same devices train 2.08x (m=2) as many examples" in text
    head, lines = tables.summary(record)
    assert dict(zip(head, lines[0]))["data-parallel"] == "25 (25-25)"
    assert "1 example on each of 2 devices" in tables.markdown(record)


def test_tables_and_figure_show_every_cell(record, tmp_path):
    head, lines = tables.summary(record)
    assert all(len(line) == len(head) for line in lines)
    row = dict(zip(head, lines[0]))
    assert row["sbt"] == "12 (10-16)"
    assert row["own choice"] == "20"
    assert row["torch/sbt"] == "3.00"
    page = tables.markdown(record)
    assert "abacus" in page and "12 updates take 99.0 s" in page
    assert page.count("| convnet | float32 |") == len(record.cells)
    for brief in (False, True):
        head, lines = tables.summary(record, brief)
        assert {len(line) for line in lines} == {len(head)}
    (file,) = draw(record).save(tmp_path, kinds=("png",))
    assert file.read_bytes().startswith(b"\x89PNG")


def test_the_figure_has_a_curve_of_every_kind(record):
    cell = record.timed[0]
    cells = [
        dataclasses.replace(cell, setting=dataclasses.replace(cell.setting, method=methods[0]))
        for methods in CURVES.values()
    ]
    drawing = draw(dataclasses.replace(record, cells=tuple(cells)))
    _, labels = drawing.figure.axes[0].get_legend_handles_labels()
    assert labels == list(CURVES)


def test_json_holds_everything(record, tmp_path):
    raw = json.loads(write_record(record, tmp_path / "new" / "bench.json").read_text())
    assert raw.pop("format") == 1
    assert raw == json.loads(json.dumps(dataclasses.asdict(record)))
    assert raw["cells"][0]["microseconds"] == [50.0, 30.0, 40.0]
    assert raw["cells"][0]["setting"]["strategy"] == "map/direct"


def test_ceilings_are_work_over_time(monkeypatch):
    monkeypatch.setattr(ceilings, "_shortest", lambda *_: 0.5)
    monkeypatch.setattr(ceilings, "GEMM_SIZES", {"cpu": (8, 4)})
    monkeypatch.setattr(ceilings, "COPY_BYTES", {"cpu": 2**16})
    monkeypatch.setattr(ceilings, "CONV_BATCH", {"cpu": 1})
    found = ceilings.measure_ceilings(("float32",))
    devices = jax.local_device_count()  # one product on each is the better of the two ways
    assert found.matmul["float32"] == devices * 2 * 8**3 / 0.5
    assert found.copy == 2 * 2**16 / 0.5
    assert found.convolution["float32"] == devices * 2 * 64 * 9 * 64 * 64 / 0.5


def test_ceilings_run():
    timed = ceilings._best(ceilings._matmul("float32", 64), seconds=0.02)
    assert 1e6 < timed < 1e15


def test_slopes(monkeypatch):
    monkeypatch.setattr(command, "sbt_workload", lambda setting, size: (setting, size))
    monkeypatch.setattr(
        command,
        "_seconds",
        lambda work, updates: 3.0 * work[0].lanes ** 0.5 * updates,
    )
    options = parse(["--models=convnet", "--batch_sizes=4", "--repeats=1"], "cpu")
    show = command.Show(Console(quiet=True))
    lanes, examples, epochs = command.measure_scaling(options, show)
    assert lanes.slope == pytest.approx(0.5)
    assert examples.slope == pytest.approx(1.0)
    assert epochs.slope == pytest.approx(1.0)
    assert epochs.seconds[-1] == pytest.approx(100 * epochs.seconds[0])
    assert lanes.extents[-1] == 100 * lanes.extents[0]


# --- the command ---------------------------------------------------------------------------------


def test_the_whole_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(
        command, "measure_ceilings", lambda p: Ceilings({"float32": 1e11}, {"float32": 1e11}, 1e10)
    )
    monkeypatch.setattr(command, "draw", _draw_once(command.draw))
    arguments = "--models=convnet,f1 --batch_sizes=1 --lanes=2 --strategies=auto,map/direct"
    arguments += f" --peers=flax --seconds=0.01 --repeats=2 --out={tmp_path}"
    with compiling(quickly=True):
        code = cli.main(["bench", *arguments.split()])
    assert code == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["complete"] and found["peak_bytes"] > 0
    assert found["command"].startswith("sbt bench --models=convnet,f1")
    done = [cell for cell in found["cells"] if cell["microseconds"]]
    named = [cell["setting"] for cell in done]
    timed = [(s["network"], s["method"], s["strategy"]) for s in named]
    assert timed == [
        ("convnet", "sbt", "vmap/im2col"),
        ("convnet", "sbt", "map/direct"),
        ("convnet", "flax", ""),
    ]
    assert all(len(cell["microseconds"]) == 2 for cell in done)
    assert found["networks"]["convnet"]["parameters"] == 1898
    (skipped,) = {cell["skipped"] for cell in found["cells"] if cell["skipped"]}
    assert "needs 2 examples" in skipped
    assert "convnet" in capsys.readouterr().out
    assert (tmp_path / "bench.md").exists() and (tmp_path / "bench.png").exists()


def _draw_once(draw):
    """The figure of the last round alone: drawing costs more than this test's training."""
    return lambda record: draw(record) if record.complete else _Nothing()


class _Nothing:
    def save(self, *_, **__):
        return []


REFUSED = [
    ("--models=alexnt", "alexnt", "alexnet"),
    ("--models=", "empty", "convnet"),
    ("--peers=pytorch", "pytorch", "torch_func"),
    ("--strategies=vmapp", "vmapp", "vmap"),
    ("--strategies=map:0", "map:0", "map:16"),
    ("--strategies=vmap/winograd", "winograd", "im2col"),
    ("--precisions=float8", "float8", "bfloat16"),
    ("--lanes=0", "lanes=0", "--lanes=1,16"),
    ("--batch_sizes=two", "two", "--batch_sizes=1,16"),
    ("--repeats=0", "repeats=0", "above 0"),
    ("--seconds=long", "long", "--help"),
    ("--lane=3", "--lane", "--lanes"),
    ("quick", "quick", "--models"),
]


@pytest.mark.parametrize("argument,problem,remedy", REFUSED, ids=[r[0] for r in REFUSED])
def test_mistakes_are_refused_before_anything_compiles(capsys, argument, problem, remedy):
    with compiling(quickly=True) as programs:
        assert cli.main(["bench", argument]) == cli.EXIT_ERROR
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert problem in error and remedy in error
    assert not programs


def test_without_torch(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else real(name)
    )
    assert parse([], "cpu").peers == ("flax", "flax_scan")
    assert parse(["--quick"], "cpu").peers == ("flax",)
    with pytest.raises(UserError, match=r"small-batch-training\[bench\]"):
        parse(["--peers=flax,torch"], "cpu")


def test_every_axis_is_a_flag():
    arguments = "--models=all --batch_sizes=8,1,8 --lanes=4 --strategies=all --peers=none"
    options = parse([*arguments.split(), "--precisions=float32,bfloat16"], "cpu")
    assert options.models == tuple(NETWORKS)
    assert options.batch_sizes == (1, 8)
    assert "map/packed" in options.strategies and "auto" in options.strategies
    assert options.peers == ()
    every = list(settings(options))
    assert len(every) == len(set(every)) == len(NETWORKS) * 2 * 2 * len(options.strategies)
    gpu = parse([], "gpu")
    assert isinstance(gpu, Options) and max(gpu.lanes) > max(parse([], "cpu").lanes)


def test_time_that_is_over_is_left_out(monkeypatch):
    clock = iter([0.0, *range(1, 100)])
    monkeypatch.setattr(command.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(command, "_workload", lambda *_: (_ for _ in ()).throw(Skip("tried")))
    options = parse(
        ["--models=convnet,f1", "--batch_sizes=2,4,8", "--lanes=2", "--peers=none"], "cpu"
    )
    show = command.Show(Console(quiet=True))
    _, cells = command._compile(options, show, until=4.0)
    reasons = [(c.setting.network, c.skipped) for c in cells]
    # Two seconds each: after those of the first, the second still has its own.
    late = "no time was left"
    assert (
        reasons
        == [("convnet", "tried")] * 2 + [("convnet", late), ("f1", "tried")] + [("f1", late)] * 2
    )


def test_command_buffers_are_options_of_the_compiler():
    options = parse(["--command_buffers=all", "--strategies=auto", "--peers=none"], "gpu")
    buffers = {s.command_buffers for s in settings(options)}
    assert buffers == {"usual", "none", "loops"}
    with compiling(quickly=True):  # XLA takes them, and on CPU has no use for them
        work = sbt_workload(dataclasses.replace(setting(), command_buffers="loops"), SIZE)
    assert str(work.cell.setting) == "convnet sbt vmap/im2col, command buffers: loops m=4 x 1"
    assert not work.cell.automatic
    with pytest.raises(UserError, match="CUDA"):
        parse(["--command_buffers=none"], "cpu")


def test_help(capsys):
    assert cli.main(["bench", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--batch_sizes" in out and "resnet32-bn" in out
