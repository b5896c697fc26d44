"""Searches: what they choose, that lanes stay what they are alone, and that replays are exact."""

import json

import numpy as np
import pytest
import xarray as xr
from lanes import compiling
from sweeps import Watch, one_device, shorten_windows

from sbt.errors import UserError
from sbt.search import SEARCHES, Log, Told, octaves
from sbt.sweep.run import Interrupted, run

EPOCHS = 9
CONFIG = {
    "data": {"name": "synthetic", "train_size": 94, "test_size": 40, "num_classes": 4,
             "image_shape": (4, 4, 1), "noise": 0.3, "normalize": "unit"},
    "model": {"name": "mlp", "hidden": (8,)},
    "epochs": EPOCHS,
    "rule": {"name": "sgd", "momentum": 0.9},
    "sweep": {"batch_size": (4, 8), "base_lr": (2.0**-9, 1e30, 2.0**-7, 2.0**-6), "seed": (0, 1)},
    "checkpoint": {"minutes": 1e6},
}  # fmt: skip
HALVING = CONFIG | {"search": {"name": "halving"}, "engine": {"lanes": 4}}


@pytest.fixture(scope="module", autouse=True)
def quickly():
    with one_device(), compiling(quickly=True):
        yield


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    return run(CONFIG | {"engine": {"lanes": 4}}, tmp_path_factory.mktemp("grid"))


@pytest.fixture(scope="module")
def halved(tmp_path_factory):
    return run(HALVING, tmp_path_factory.mktemp("halved"))


def test_a_lane_of_a_search_is_that_run_of_the_grid(grid, halved):
    """To the bit, as far as the search trained it; what it stopped has no score."""
    done = halved["epochs_done"]
    for name in ("train_loss", "test_loss", "test_accuracy"):
        trained = halved["epoch"] <= done
        wanted = grid[name].where(trained)
        xr.testing.assert_equal(halved[name].drop_attrs(), wanted.drop_attrs())
    stopped = halved["stopped_epoch"].notnull()
    assert 0 < int(stopped.sum()) < stopped.size
    assert bool(halved["accuracy"].where(stopped & ~halved["diverged"]).isnull().all())
    np.testing.assert_array_equal(done.values[stopped], halved["stopped_epoch"].values[stopped])
    assert "stopped_epoch" not in grid and "search" not in grid.attrs
    assert float(done.sum()) < 0.75 * float(grid["epochs_done"].sum())


def test_nothing_compiles_anew(tmp_path):
    with compiling(quickly=True) as programs:
        run(HALVING, tmp_path)
    assert len(programs) == 3


@pytest.mark.parametrize("windows", [[2], [5, 4], [11, 3, 7]])
def test_an_interrupted_search_is_the_same(halved, tmp_path, windows):
    for count in windows:
        with pytest.MonkeyPatch.context() as patch:
            shorten_windows(patch, 7)
            with pytest.raises(Interrupted):
                run(HALVING, tmp_path, progress=Watch(count))
    again = run(HALVING, tmp_path)
    xr.testing.assert_identical(again.drop_attrs(), halved.drop_attrs())
    assert json.loads(again.attrs["search"]) == json.loads(halved.attrs["search"])
    xr.testing.assert_identical(run(HALVING, tmp_path), again)  # only reads


def test_results_ahead_of_the_checkpoint_do_not_count(halved, tmp_path, monkeypatch):
    """As after a kill: what was written after the checkpoint, or without one, is trained again."""
    from sbt.sweep import records

    shorten_windows(monkeypatch, 7)
    monkeypatch.setattr(records, "WRITE_SECONDS", 0.0)

    class Killed(BaseException):
        pass

    class Kill(Watch):
        def update(self, status):
            self.seen.append(status)
            if len(self.seen) == 40:
                raise Killed

    with pytest.raises(Killed):
        run(HALVING, tmp_path, progress=Kill())
    again = run(HALVING, tmp_path)
    xr.testing.assert_identical(again.drop_attrs(), halved.drop_attrs())


def test_a_search_is_no_axis_and_its_fields_are_checked(tmp_path):
    with pytest.raises(UserError, match="one for all runs"):
        run(CONFIG | {"sweep": {"search": ("grid", "halving")}})
    with pytest.raises(UserError, match="halvign"):
        run(CONFIG | {"search": {"name": "halvign"}})
    with pytest.raises(UserError, match="factor"):
        run(CONFIG | {"search": {"name": "halving", "factor": 1}})


# --- without training -----------------------------------------------------------------------------


def play(name, gains, epochs, lanes, **options):
    """A search on known curves: the log, and the epochs that each run trained."""
    choice = SEARCHES.configured({"name": name, **options})
    log = Log(choice([{"base_lr": float(i)} for i in range(len(gains))], epochs), epochs)
    at, trained = dict.fromkeys(log.ask(lanes), 0), dict.fromkeys(range(len(gains)), 0)
    while at:
        at = {r: e + 1 for r, e in at.items()}
        trained |= at
        stopped = log.tell([Told(r, e, gains[r](e)) for r, e in sorted(at.items())])
        at = {r: e for r, e in at.items() if r not in stopped and e < epochs}
        at |= dict.fromkeys(log.ask(lanes - len(at)), 0)
    return log, trained


def constant(values):
    return [lambda epoch, v=v: v for v in values]


def test_the_grid_is_a_search():
    log, trained = play("grid", constant(range(5)), epochs=3, lanes=2)
    assert set(trained.values()) == {3} and log.begun == list(range(5)) and not log.stopped


def test_halving_of_all_at_once():
    """27 runs that reach each rung together: 27, 9 and 3 of them go past 0, 1 and 3 epochs; 1
    past 9."""
    _, trained = play("halving", constant(range(27)), epochs=12, lanes=27)
    lengths = sorted(trained.values())
    assert lengths == [1] * 18 + [3] * 6 + [9] * 2 + [12]
    assert trained[26] == 12


def test_halving_one_after_another_keeps_the_best():
    _, trained = play("halving", constant(range(27)), epochs=12, lanes=3)
    assert trained[26] == 12 and sum(trained.values()) < 0.5 * 27 * 12


def test_a_log_replays_to_the_same_search():
    log, _ = play("halving", constant([3.0, -np.inf, 2.0, 5.0, 1.0, 4.0]), epochs=9, lanes=2)
    choice = SEARCHES.configured({"name": "halving"})
    fresh = choice([{"base_lr": float(i)} for i in range(6)], 9)
    again = Log(fresh, 9, json.loads(json.dumps(log.events)))
    assert (again.events, again.stopped, again.pending) == (log.events, log.stopped, log.pending)


# --- the limits of reliable training, without training --------------------------------------------


def simulate(search, runs, outcome, lanes, log=None, most=10_000):
    """Epoch by epoch: what begins on free lanes, what it is told. Returns the log."""
    log = log or Log(search, EPOCHS)
    lane = dict.fromkeys(range(lanes))
    ages: dict[int, int] = {}
    for _ in range(most):
        free = [i for i, run in lane.items() if run is None]
        for i, run_ in zip(free, log.ask(len(free)), strict=False):
            lane[i], ages[run_] = run_, 0
        busy = {i: r for i, r in lane.items() if r is not None}
        if not busy:
            return log
        news = []
        for run_ in busy.values():
            ages[run_] += 1
            news.append(Told(run_, ages[run_], outcome(runs[run_], ages[run_])))
        stopped = log.tell(news)
        gone = {run_ for run_, epoch, gain in news if epoch >= EPOCHS or gain == -np.inf}
        log.leave([run_ for run_, _, gain in news if gain == -np.inf])
        lane = {i: None if r in gone | set(stopped) else r for i, r in lane.items()}
    raise AssertionError("the search does not end")


def points(rates, sizes=(2, 8), seeds=(0, 1, 2)):
    return [{"batch_size": m, "base_lr": r, "seed": s} for m in sizes for r in rates for s in seeds]


def reliable_rates(log, runs, m):
    """Rates of which every seed was trained to its end without diverging."""
    ended = {}
    for name, *rest in log.events:
        for run_, epoch, gain in rest[0] if name == "told" else ():
            ended[run_] = gain is not None and epoch >= EPOCHS
    rates = {p["base_lr"] for p in runs if p["batch_size"] == m}
    seeds = {r: [i for i, p in enumerate(runs) if p["base_lr"] == r and p["batch_size"] == m]
             for r in rates}  # fmt: skip
    return [r for r in sorted(rates) if all(ended.get(i, False) for i in seeds[r])]


@pytest.mark.parametrize("lanes", [1, 5, 64])
@pytest.mark.parametrize("seed", range(4))
def test_bisection_finds_the_limit_of_every_batch_size(lanes, seed):
    """At an eighth of an octave, with a seventh of the runs, whatever lanes there are."""
    rates = octaves(2**-8, 1, 8)
    runs, rng = points(rates), np.random.default_rng(seed)
    limits = {m: rng.uniform(2**-9, 2) for m in (2, 8)}
    # One seed bears a little less than the others: the limit is its.
    outcome = lambda p, age: (  # noqa: E731
        -np.inf if p["base_lr"] * (1 + 0.3 * (p["seed"] == 1)) > limits[p["batch_size"]] and age > 2
        else age / EPOCHS
    )  # fmt: skip
    search = SEARCHES.configured({"name": "stable_limit"})(runs, EPOCHS)
    log = simulate(search, runs, outcome, lanes)
    for m, limit in limits.items():
        wanted = [r for r in rates if 1.3 * r <= limit]
        assert reliable_rates(log, runs, m)[-1:] == wanted[-1:]
    assert len(log.begun) <= len(runs) / 7
    again = Log(SEARCHES.configured({"name": "stable_limit"})(runs, EPOCHS), EPOCHS, log.events)
    assert again.events == log.events and again.stopped == log.stopped


def test_both_ends_of_what_learns():
    """Small rates learn too little: reliable is what ends within a margin of the best."""
    rates = octaves(2**-8, 1, 4)
    runs = points(rates)
    gain = lambda r: -abs(np.log2(r) + 4) / 10  # noqa: E731
    outcome = lambda p, age: -np.inf if p["base_lr"] > 0.2 else gain(p["base_lr"])  # noqa: E731
    named = {"name": "stable_limit", "ends": "both", "margin": 0.25}
    log = simulate(SEARCHES.configured(named)(runs, EPOCHS), runs, outcome, 12)
    good = [r for r in rates if r <= 0.2 and gain(r) >= -0.25]
    found = [r for r in reliable_rates(log, runs, 2) if gain(r) >= -0.25]
    assert (found[0], found[-1]) == (good[0], good[-1])


def test_a_limit_needs_learning_rates():
    with pytest.raises(UserError, match="base_lr, which is not swept"):
        run(CONFIG | {"search": {"name": "stable_limit"}, "sweep": {"seed": (0, 1)}})
