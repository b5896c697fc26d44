"""Searches: what they choose, that lanes stay what they are alone, and that replays are exact."""

import json
import sys

import numpy as np
import pytest
import xarray as xr
from lanes import compiling
from sweeps import Watch, one_device, shorten_windows

import sbt.experiment
from sbt.errors import UserError
from sbt.results import best_cell
from sbt.search import SEARCHES, Log, Told, octaves
from sbt.sweep.progress import Silent, panel
from sbt.sweep.run import Interrupted, run
from sbt.workdir import read_meta

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


def test_lanes_follow_what_a_search_keeps_in_work(tmp_path):
    """Two batch sizes, one rate of each at a time, two seeds: four lanes, of 44 runs."""
    rates = (*octaves(2**-8, 2**-6, 4), 1e20, 1e30)
    sweep = CONFIG["sweep"] | {"base_lr": rates}
    search = {"name": "stable_limit", "margin": 0.0}
    found = run(CONFIG | {"search": search, "sweep": sweep, "epochs": 3}, tmp_path)
    (entry,) = read_meta(tmp_path)["cohorts"]
    assert (entry["runs"], entry["lanes_per_pass"]) == (44, 4)
    begun = (found["epochs_done"] > 0).any("seed").transpose("base_lr", "batch_size").values
    # An octave apart, which leaves nothing between the largest that trains and the next.
    octave = [True, False, False, False]
    np.testing.assert_array_equal(begun.all(1), [*octave, *octave, True, True, True])


def test_a_finished_search_is_measured_or_extended(tmp_path):
    """What is measured later is that of the runs it trained to their end; its grid stays."""
    config = HALVING | {"checkpoint": {"final_weights": True}, "epochs": 3}
    before = run(config, tmp_path)
    after = run(config | {"measure": {"names": ("distance",)}}, tmp_path)
    xr.testing.assert_identical(after[list(before)].drop_attrs(), before.drop_attrs())
    told = after["relative_distance"].isel(measured_epoch=-1).notnull()
    whole = after["finished"] & ~after["diverged"]
    np.testing.assert_array_equal(told.values, whole.values)
    assert 0 < int(told.sum()) < told.size
    longer = CONFIG["sweep"] | {"seed": (0, 1, 2)}
    with pytest.raises(UserError, match="halving chose among"):
        run(config | {"sweep": longer}, tmp_path)
    with pytest.raises(UserError, match=r"config\.search\.factor"):
        run(config | {"search": {"name": "halving", "factor": 2}}, tmp_path)


def test_progress_tells_of_runs_where_nobody_knows_the_end():
    """Each line is that of what has happened, not a share of what may never begin."""
    seen = []

    class Shown(Silent):
        def update(self, status):
            seen.append(status)

    run(HALVING | {"epochs": 2}, progress=Shown())
    assert all(status.done is None and status.left is None for status in seen)
    assert seen[0].line().startswith("4 runs in work, 0 finished, 0 stopped of 16  epoch ")
    assert panel(seen[-1], 80)[0].startswith(seen[-1].chosen) and "━" not in panel(seen[-1], 80)[0]


@pytest.mark.slow
def test_a_search_survives_kills():
    """Decisions, numbers and weights, after a few kills such as ``tests/torture.py`` makes."""
    from torture import torture

    assert torture(kills=6, seed=1, names=("search",)) == []


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
    """At an eighth of an octave, with a fifth of the runs, whatever lanes there are."""
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
    assert len(log.begun) <= len(runs) / 5
    again = Log(SEARCHES.configured({"name": "stable_limit"})(runs, EPOCHS), EPOCHS, log.events)
    assert again.events == log.events and again.stopped == log.stopped


def test_both_ends_of_what_learns():
    """Small rates learn too little, and large ones leave dead networks with a finite loss."""
    rates = octaves(2**-8, 1, 8)
    runs = points(rates)
    good = {2: (2**-6.4, 2**-2.2), 8: (2**-7.1, 2**-4.6)}

    def outcome(p, age):
        low, high = good[p["batch_size"]]
        return age / EPOCHS * (0.1 if p["base_lr"] > high else 0.9 if p["base_lr"] > low else 0.5)

    named = {"name": "stable_limit", "ends": "both", "margin": 0.25}
    for lanes in (2, 64):
        log = simulate(SEARCHES.configured(named)(runs, EPOCHS), runs, outcome, lanes)
        for m, (low, high) in good.items():
            found = [r for r in reliable_rates(log, runs, m) if low < r <= high]
            wanted = [r for r in rates if low < r <= high]
            assert (found[0], found[-1]) == (wanted[0], wanted[-1])
        assert len(log.begun) <= 0.25 * len(runs)


# --- refinement, without training -----------------------------------------------------------------


def basins(rates, sizes, seeds, rng, noise=0.003):
    """The gain of every run: parabolas of log2 of the rate, skewed, that end where runs diverge."""
    best = {m: rng.uniform(-9.5, -1.5) for m in sizes}
    shift = {s: rng.normal(0, 0.05) for s in seeds}  # of a seed, at every rate
    table = {}
    for m in sizes:
        for r in rates:
            x = np.log2(r) - best[m]
            mean = 1 - (0.02 if x < 0 else 0.04) * x**2
            for s in seeds:
                gain = -np.inf if x > 2.5 else mean + shift[s] + rng.normal(0, noise)
                table[m, r, s] = gain
    return table


@pytest.mark.parametrize("lanes", [1, 7, 64])
@pytest.mark.parametrize("seed", range(4))
def test_refinement_finds_what_the_whole_grid_does(lanes, seed):
    """For every batch size the best cell of all at an eighth of an octave, within what its seeds
    differ by, for a third of the runs."""
    sizes, seeds, rates = (2, 8, 32), (0, 1, 2), octaves(2**-11, 1, 8)
    runs = points(rates, sizes, seeds)
    table = basins(rates, sizes, seeds, np.random.default_rng(seed))
    told = lambda p: table[p["batch_size"], p["base_lr"], p["seed"]]  # noqa: E731
    outcome = lambda p, age: told(p) if age == EPOCHS or told(p) == -np.inf else 0.0  # noqa: E731
    refine = SEARCHES.configured({"name": "refine", "finest": 0.125, "tolerance": 0.125})
    log = simulate(refine(runs, EPOCHS), runs, outcome, lanes)
    assert len(log.begun) <= 0.33 * len(runs) and len(set(log.begun)) == len(log.begun)
    begun = [runs[i] for i in log.begun]
    median = {(m, r): np.median([table[m, r, s] for s in seeds]) for m in sizes for r in rates}
    for m in sizes:
        tried = sorted({p["base_lr"] for p in begun if p["batch_size"] == m})
        found = max(tried, key=lambda r: median[m, r])
        best = max(rates, key=lambda r: median[m, r])
        assert median[m, found] >= median[m, best] - 0.01
        assert abs(np.log2(found / best)) <= 0.75
        assert tried[0] < found < tried[-1]  # it is not the end of what was tried
    again = Log(refine(runs, EPOCHS), EPOCHS, log.events)
    assert again.events == log.events


def test_refinement_ends_where_the_optimum_is_sure():
    """Without noise at half an octave, however fine it may go; of a single seed at the finest."""
    rates = octaves(2**-8, 1, 8)
    outcome = lambda p, age: -((np.log2(p["base_lr"]) + 4.2) ** 2)  # noqa: E731
    for seeds, step in (((0, 1, 2), 0.5), ((0,), 0.125)):
        runs = points(rates, (2,), seeds)
        refine = SEARCHES.configured({"name": "refine", "finest": 0.125})(runs, EPOCHS)
        log = simulate(refine, runs, outcome, 64)
        tried = np.log2(sorted({runs[i]["base_lr"] for i in log.begun}))
        assert np.diff(tried).min() == pytest.approx(step)


def test_refinement_goes_on_where_the_axis_does():
    """A coarse step of three octaves leaves ends out; the optimum at the axis's end is taken."""
    rates = octaves(2**-8, 1, 4)  # 0, 3 and 6 octaves up come first; 8 is the end
    runs = points(rates, (2,))
    refine = SEARCHES.configured({"name": "refine", "coarse": 3.0, "finest": 0.5})
    search = refine(runs, EPOCHS)
    assert search.width == 2 * 3  # the coarse ones take turns
    log = simulate(search, runs, lambda p, age: np.log2(p["base_lr"]), 64)
    tried = np.log2(sorted({runs[i]["base_lr"] for i in log.begun}))
    np.testing.assert_allclose(tried, [-8, -5, -2, -1, -0.5, 0])
    log = simulate(refine(runs, EPOCHS), runs, lambda p, age: -np.inf, 64)
    assert len(log.begun) == 9  # nothing trains


@pytest.mark.parametrize("name", ["stable_limit", "refine"])
def test_an_axis_of_rates_is_needed(name):
    for sweep in ({"seed": (0, 1)}, {"base_lr": (0.1,), "batch_size": (4, 8)}):
        with pytest.raises(UserError, match="base_lr, which is not swept"):
            run(CONFIG | {"search": {"name": name}, "sweep": sweep})


# --- Optuna, without training ---------------------------------------------------------------------


def optuna_search(runs, **options):
    pytest.importorskip("optuna")
    return SEARCHES.configured({"name": "optuna", **options})(runs, EPOCHS)


def hill(p, age):
    """Best at batch size 8 and a rate of 2⁻⁴; large rates diverge."""
    away = abs(np.log2(p["base_lr"]) + 4) + abs(np.log2(p["batch_size"]) - 3)
    return -np.inf if p["base_lr"] > 0.6 and age > 1 else age / EPOCHS - 0.1 * away


@pytest.mark.parametrize(("options", "lanes"), [
    ({"sampler": "TPESampler(seed=3)", "pruner": "MedianPruner(n_startup_trials=3)"}, 7),
    ({"sampler": "RandomSampler", "pruner": "PercentilePruner(20.0, n_startup_trials=3)"}, 64),
    ({"sampler": "QMCSampler(scramble=True)", "pruner": "HyperbandPruner(max_resource=9)"}, 7),
    ({"sampler": "NSGAIISampler(population_size=8)",
      "pruner": "PatientPruner(MedianPruner(), patience=1)"}, 64),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.* is experimental")  # of Optuna
def test_optuna_searches_cells(options, lanes):
    """So many cells, each once and with all its seeds, near the best; a log makes it again."""
    runs = points(octaves(2**-8, 1, 2), (2, 4, 8, 16, 32))
    chosen = {"trials": 24, "at_once": 8, **options}
    search = optuna_search(runs, **chosen)
    assert search.width == 8 * 3
    log = simulate(search, runs, hill, lanes)
    cells = {(p["batch_size"], p["base_lr"]) for p in (runs[i] for i in log.begun)}
    assert len(cells) == 24 and len(set(log.begun)) == len(log.begun) <= 24 * 3
    best = max(hill({"batch_size": m, "base_lr": r}, EPOCHS) for m, r in cells)
    assert best >= 0.75  # of 1: some steps away
    assert bool(log.stopped) == ("Patient" not in options["pruner"])  # all get better and better
    again = Log(optuna_search(runs, **chosen), EPOCHS, json.loads(json.dumps(log.events)))
    assert (again.events, again.stopped) == (log.events, log.stopped)


def test_optuna_finds_more_than_chance_does():
    """The median over studies of what TPE's last half is worth, against random cells'."""
    runs = points(octaves(2**-12, 2**-1, 4), [2**k for k in range(9)], (0,))

    def worth(sampler, seed):
        search = optuna_search(runs, sampler=sampler, seed=seed, trials=50, at_once=4)
        begun = simulate(search, runs, hill, 4).begun
        return np.mean([hill(runs[i], EPOCHS) for i in begun[25:]])

    tpe, chance = (
        np.median([worth(name, seed) for seed in range(3)])
        for name in ("TPESampler", "RandomSampler")
    )
    assert tpe > chance + 0.05


def test_optuna_trains_the_whole_grid_once_where_it_is_asked_to():
    runs = points(octaves(2**-4, 2**-1, 1), (2, 8))
    search = optuna_search(runs, trials=1000)
    assert search.width == len(runs)
    assert sorted(simulate(search, runs, hill, 5).begun) == list(range(len(runs)))


def test_optuna_takes_axes_of_any_kind():
    """What follows an axis is none, words are categories, no cell is begun that the grid lacks."""
    runs = [
        {"rule.name": rule, "batch_size": m, "base_lr": 2.0**-m, "seed": s}
        for rule in ("sgd", "adam") for m in (2, 4, 8) for s in (0, 1)
        if (rule, m) != ("adam", 8)
    ]  # fmt: skip
    log = simulate(optuna_search(runs, trials=5), runs, hill, 4)
    assert sorted(log.begun) == list(range(len(runs)))


@pytest.mark.parametrize(("options", "match"), [
    ({"sampler": "TPESampla"}, "did you mean TPESampler"),
    ({"sampler": "TPESampler(startup=3)"}, "startup"),
    ({"sampler": "__import__('os')"}, "no sampler"),
    ({"sampler": "TPESampler("}, "cannot be made"),
    ({"pruner": "TPESampler"}, "Optuna has no pruner"),
    ({"pruner": "PercentilePruner(150.0)"}, "cannot be made"),
])  # fmt: skip
def test_what_optuna_lacks_is_refused(options, match):
    with pytest.raises(UserError, match=match):
        optuna_search(points((0.5, 1.0)), **options)


def test_optuna_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"small-batch-training\[optuna\]"):
        run(CONFIG | {"search": {"name": "optuna"}})


# --- whole searches -------------------------------------------------------------------------------


def test_refinement_trains(tmp_path):
    """Every second octave first, and half octaves around the best; the same again only reads."""
    rates = octaves(2**-10, 2**-2, 2)
    sweep = {"batch_size": (4,), "base_lr": rates, "seed": (0, 1)}
    search = {"name": "refine", "coarse": 2.0, "finest": 0.5}
    config = CONFIG | {"sweep": sweep, "search": search, "epochs": 3}
    found = run(config, tmp_path)
    begun = (found["epochs_done"] > 0).isel(seed=0, batch_size=0).values
    assert begun[::4].all() and 5 < begun.sum() < len(rates)
    gain = found["test_accuracy"].isel(epoch=-1, batch_size=0).median("seed")
    best = int(np.nanargmax(gain.values))
    assert begun[max(best - 1, 0) : best + 2].all()  # its neighbours at half an octave
    xr.testing.assert_identical(run(config, tmp_path), found)


def quickstart(search=None, **axes):
    """Its runs on digits, through the configuration that users have."""
    config = sbt.experiment.load_config("experiments/quickstart.py")
    config.sweep.update(axes)
    config.search = search or config.search
    return run(config, progress=False)


def trained(ds):
    """Epochs that were trained: those of a run that diverged up to then."""
    return float(np.ceil(ds["diverged_epoch"]).fillna(ds["epochs_done"]).sum())


@pytest.mark.slow
def test_halving_finds_the_best_cell_of_quickstart():
    """As good as the grid's best but for what its seeds differ by, for 35 % of the examples."""
    whole, found = quickstart(), quickstart({"name": "halving"})
    assert trained(found) <= 0.35 * trained(whole)
    best, chosen = best_cell(whole), best_cell(found)
    seeds = whole["accuracy"].sel(best.where)
    assert whole["accuracy"].sel(chosen.where).median() >= best.value - (seeds.max() - seeds.min())


@pytest.mark.slow
def test_stable_limits_of_quickstart_are_those_of_its_grid():
    """To an eighth of an octave at all batch sizes, for a quarter of the examples.

    Near its limit a grid is not monotone, and its best rate is the best of more: one step may part
    them. Dead networks are no limit.
    """
    axes = {"base_lr": octaves(2**-10, 2**-4, 8)}
    whole, found = quickstart(**axes), quickstart({"name": "stable_limit"}, **axes)
    assert trained(found) <= 0.25 * trained(whole)
    largest = []
    for ds in (whole, found):
        last = ds["test_accuracy"].isel(epoch=-1)
        median = last.median("seed").where(last.notnull().all("seed"))
        reliable = median >= median.max("base_lr") - 0.05
        largest.append(ds["base_lr"].where(reliable).max("base_lr"))
    assert largest[0].sizes["batch_size"] == 8
    assert np.all(abs(np.log2(largest[0] / largest[1])) <= 1 / 8 + 1e-6)
