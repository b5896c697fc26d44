"""``sbt bench --measure``: both sides measure the same nets alike, and the table is right."""

import dataclasses
import importlib.util
import json

import jax
import numpy as np
import pytest
from lanes import compiling

from sbt import cli
from sbt.bench import command, tables
from sbt.bench.measurements import measuring_workload, trained
from sbt.bench.options import MEASURING_PEERS, options_of, settings
from sbt.bench.record import Facts, Record, write_record
from sbt.bench.workload import MEASURED, NETWORKS, Cell, Measuring
from sbt.data import purpose_key
from sbt.errors import UserError
from sbt.measure import hessian_operator, ravel
from sbt.parallel.ceilings import Ceilings
from sbt.sweep.lanes import make_lanes
from sbt.sweep.observe import Trained, make_subject

COUNT, EXAMPLES = 2, 16
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is an optional extra"
)
needs_curvlinops = pytest.mark.skipif(
    importlib.util.find_spec("curvlinops") is None, reason="curvlinops is an optional extra"
)


def measuring(method="sbt", measurement="sharpness", lanes=COUNT, strategy="", network="convnet"):
    return Measuring(network, method, measurement, lanes, EXAMPLES, strategy)


def parse(*arguments):
    return options_of(cli.parsers()[1]["bench"].read(["--measure", *arguments]), "cpu")


def without(monkeypatch, *names):
    """As if these packages were not installed."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in names else real(name)
    )


@pytest.fixture(autouse=True)
def usual_promotion():
    """As in the benchmark's other tests."""
    with jax.numpy_dtype_promotion("standard"), compiling(quickly=True):
        yield


# --- both sides measure the same -----------------------------------------------------------------


def subject(network, lane):
    """One of the nets as sbt's measurements see it."""
    nets = trained(network, COUNT, EXAMPLES)
    placed = nets.placed
    params, stats = jax.tree.map(lambda leaf: leaf[lane], (nets.params, nets.stats))
    hyper = jax.tree.map(lambda leaf: leaf[0], make_lanes(placed.cohort, [lane]).hyper)
    run = Trained(params, stats, hyper, None)
    return make_subject(placed, run, placed.arrays, purpose_key(jax.random.key(0), "test"))


@needs_torch
@pytest.mark.parametrize("network,tolerance", [("convnet", 1e-5), ("f1", 1e-3)])
@pytest.mark.parametrize(
    "product", ["autograd", pytest.param("curvlinops", marks=needs_curvlinops)]
)
@pytest.mark.filterwarnings("ignore")
def test_a_hessian_product_of_a_lane_equals_the_peers(network, tolerance, product):
    import torch
    from torch.nn.utils import parameters_to_vector

    from sbt.bench import torch_measures
    from sbt.bench.torch_peer import build, load_flax

    lane = 1
    run, nets = subject(network, lane), trained(network, COUNT, EXAMPLES)
    operator = hessian_operator(run.loss, run.params)
    _, unravel = ravel(run.params)

    def in_their_order(vector):
        model = build(nets.task.network.model, nets.task.x.shape[1:])
        return parameters_to_vector(load_flax(model, unravel(vector)).parameters()).detach()

    v = np.random.default_rng(0).normal(size=operator.point.size).astype(np.float32)
    ours = in_their_order(jax.jit(operator.product)(v))
    images = torch.tensor(nets.task.x).permute(0, 3, 1, 2)
    labels = torch.tensor(nets.task.labels).long()
    batches = list(zip(images.split(5), labels.split(5)))  # the last one is shorter
    module = torch_measures.twin(measuring(network=network), COUNT, lane)
    theirs = getattr(torch_measures, f"{product}_product")(module, batches)(in_their_order(v))
    assert float((ours - theirs).norm() / theirs.norm()) < tolerance


@needs_torch
@pytest.mark.parametrize("measurement", ["sharpness", "gradient_moments"])
@pytest.mark.parametrize("network", ["convnet", "f1"])
def test_measurements_of_lanes_equal_the_peers(measurement, network):
    from sbt.bench.torch_measures import Way, measuring_in
    from sbt.bench.torch_peer import Variant

    work = measuring_workload(
        measuring(measurement=measurement, network=network, strategy="auto"), COUNT
    )
    at = work.advance(work.start(), 1)
    assert work.healthy(at) and work.cell.automatic and work.cell.setting.strategy == "map"
    ours = at.state[MEASURED[measurement].variable].value.reshape(-1)[:COUNT]
    asked = measuring("torch", measurement, network=network)
    for channels_last, batch in ((False, EXAMPLES), (True, 5), (False, 1)):
        peer = measuring_in(asked, COUNT, Way(Variant(channels_last, 1), batch))
        # Twice: nothing that a measurement leaves behind may change the next.
        theirs = peer.advance(peer.start(), 2)
        assert peer.healthy(theirs)
        np.testing.assert_allclose(theirs.state, ours, rtol=0.02 if network == "f1" else 1e-3)


@needs_curvlinops
@pytest.mark.filterwarnings("ignore")
def test_eigenvalues_of_both_peers_agree_call_after_call():
    from sbt.bench.torch_measures import Way, measuring_in
    from sbt.bench.torch_peer import Variant

    found = []
    for method in MEASURING_PEERS:
        peer = measuring_in(
            measuring(method, "hessian_eigenvalues"), COUNT, Way(Variant(False, 1), EXAMPLES)
        )
        found.append(peer.advance(peer.start(), 2).state)
    np.testing.assert_allclose(*found, rtol=1e-3)


def test_nets_differ_and_those_beside_them_are_not_measured():
    """Eight devices measure two nets: the other lanes idle."""
    nets = trained("convnet", COUNT, EXAMPLES)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(nets.params)]
    assert any((leaf[0] != leaf[1]).any() for leaf in leaves)
    work = measuring_workload(measuring(measurement="gradient_moments", strategy="vmap"), COUNT)
    found = work.advance(work.start(), 1).state["exact_noise_scale"].value
    assert np.isfinite(found[:COUNT]).all() and np.isnan(found[COUNT:]).all()
    assert not work.cell.automatic
    assert measuring_workload(work.cell.setting, COUNT, {work.cell.setting}) is None


# --- options -------------------------------------------------------------------------------------


def test_settings_are_networks_measurements_and_numbers_of_nets(monkeypatch):
    without(monkeypatch, "torch")
    every = list(settings(parse("--models=convnet,f1", "--lanes=1,64")))
    # sbt and torch of each; curvlinops of the products alone. The table says what is missing.
    assert len(every) == len(set(every)) == 2 * 2 * (2 * len(MEASURED) + 1)
    assert {s.examples for s in every} == {256}
    options = options_of(cli.parsers()[1]["bench"].read(["--measure=sharpness", "--quick"]), "cpu")
    assert options.measure == ("sharpness",) and options.examples == 64
    assert options_of(cli.parsers()[1]["bench"].read([]), "cpu").measure == ()


REFUSED = [
    (["--measure=sharpnes"], "sharpnes", "sharpness"),
    (["--measure", "--batch_sizes=2"], "--batch_sizes", "leave one"),
    (["--measure", "--scaling"], "--scaling", "leave one"),
    (["--measure", "--peers=flax"], "measures nothing", "curvlinops"),
    (["--peers=curvlinops"], "trains nothing", "flax"),
    (["--measure", "--strategies=map/direct"], "choose their own", "map:16"),
    (["--examples=3"], "--examples", "--measure"),
]


@pytest.mark.parametrize("arguments,problem,remedy", REFUSED, ids=[" ".join(r[0]) for r in REFUSED])
def test_mistakes_are_refused(capsys, arguments, problem, remedy):
    assert cli.main(["bench", *arguments]) == cli.EXIT_ERROR
    error = capsys.readouterr().err
    assert problem in error and remedy in error


def test_a_peer_that_is_asked_for_must_be_installed(monkeypatch):
    without(monkeypatch, "curvlinops")
    monkeypatch.setitem(importlib.import_module("sbt.bench.options").NEEDS, "torch", {})
    with pytest.raises(UserError, match=r"--peers=curvlinops.*needs"):
        parse("--peers=curvlinops")


# --- the table -----------------------------------------------------------------------------------


def cell(method, measurement, lanes, seconds, strategy="", **fields):
    times = tuple(1e6 * second for second in seconds)
    return Cell(measuring(method, measurement, lanes, strategy), times, 3, **fields)


@pytest.fixture
def record():
    """Times that can be reckoned with by head."""
    cells = (
        cell("sbt", "sharpness", 64, (0.2, 0.4, 0.3), "map", automatic=True, compile_seconds=2.0),
        cell("sbt", "sharpness", 64, (0.1, 0.15, 0.12), "map:16", compile_seconds=3.0),
        cell("torch", "sharpness", 64, (0.5, 0.6, 0.7), detail="contiguous, 2 threads"),
        cell("sbt", "hessian_eigenvalues", 64, (2.0,), "map", automatic=True),
        cell("torch", "hessian_eigenvalues", 64, (1.0,)),
        Cell(measuring("curvlinops", "hessian_eigenvalues", 64), skipped="is not here"),
    )
    return Record(
        command="sbt bench --measure",
        environment={"versions": {"jax": "1"}, "cpu_model": "abacus"},
        networks={"convnet": Facts(1000, 4e6, 600)},
        ceilings=Ceilings({"float32": 1e12}, {"float32": 5e11}, 1e9, cache_bytes=32_000),
    ).holding(cells)


def test_the_table_has_seconds_and_ratios(record):
    assert not record.cells and len(record.measured) == 6
    head, lines = tables.measured(record)
    one, other = (dict(zip(head, line, strict=True)) for line in lines)
    assert one["sbt"] == "0.12 (0.1-0.15)" and one["strategy"] == "map:16"
    assert one["own choice"] == "0.3"
    assert one["torch"] == "0.6 (0.5-0.7)" and one["torch/sbt"] == "5.00"
    assert other["torch/sbt"] == "0.50" and "curvlinops" not in head
    page = tables.markdown(record)
    for part in ("abacus", "contiguous, 2 threads", "is not here", "on 16 examples", "4 gradients"):
        assert part in page
    assert "convnet, sharpness: torch takes 5.00x (64) of sbt's time" in page
    assert "Training time" not in page
    assert tables.rich_table(record).row_count == 2


def test_json_holds_what_was_measured(record, tmp_path):
    raw = json.loads(write_record(record, tmp_path / "bench.json").read_text())
    assert raw["cells"] == [] and len(raw["measured"]) == 6
    assert raw["measured"][0]["setting"] == dataclasses.asdict(record.measured[0].setting)
    assert raw["measured"][0]["microseconds"] == [2e5, 4e5, 3e5]


# --- the command ---------------------------------------------------------------------------------


def test_the_whole_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(
        command, "measure_ceilings", lambda p: Ceilings({"float32": 1e11}, {"float32": 1e11}, 1e10)
    )
    without(monkeypatch, "torch")
    arguments = "--measure=gradient_moments --models=convnet --lanes=2 --seconds=0.01 --repeats=2"
    code = cli.main(["bench", *arguments.split(), f"--examples={EXAMPLES}", f"--out={tmp_path}"])
    assert code == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["complete"] and not found["cells"]
    ours, theirs = found["measured"]
    assert ours["setting"]["method"] == "sbt" and len(ours["microseconds"]) == 2
    assert theirs["skipped"] == "needs PyTorch, which is not installed"
    assert "gradient_moments" in capsys.readouterr().out
    assert (tmp_path / "bench.md").exists() and not (tmp_path / "bench.png").exists()


def test_every_usual_network_is_one():
    assert set(parse("--peers=none").models) <= set(NETWORKS)
