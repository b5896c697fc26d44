"""Advice on known answers: formulas, published tables, the exact noisy quadratic."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from lanes import compiling
from sweeps import one_device

from sbt import cli, results
from sbt.advice import critical, gaps, optimum, targets
from sbt.advice.advise import advise
from sbt.advice.following import next_experiment, next_overrides
from sbt.advice.page import text, times, write_advice
from sbt.config import default
from sbt.errors import UserError
from sbt.intervals import interval, seed_draws
from sbt.overrides import apply_overrides
from sbt.report.view import checked
from sbt.sweep.run import run

HERE = Path(__file__).resolve().parent.parent / "experiments" / "critical_batch"
sys.path.insert(0, str(HERE))

import noisy_quadratic as nq  # noqa: E402

SIZES = 2.0 ** np.arange(4, 15)
# Zhang et al. 2024, arXiv 2410.21676: updates to a target at 64 ... 16384 sequences, by model, with
# the a and b of S = a + b/B that were fitted to them, and their critical batch sizes.
ZHANG = {
    "85M": ((46000, 23000, 13282, 7000, 3840, 2528, 1917, 1600, 1600), 1293.8, 2.8343e6, 745.3),
    "151M": ((96000, 49000, 24000, 12000, 7128, 4350, 2940, 2400, 2300), 1752.4, 5.6775e6, 955.2),
    "302M": (
        (196000, 90000, 46000, 23400, 13300, 7224, 4980, 3400, 2879),
        2095.3,
        1.13833e7,
        1393.7,
    ),
    "604M": (
        (311000, 166000, 81000, 37440, 21320, 11400, 7199, 4700, 3800),
        2459.9,
        1.94497e7,
        1888.5,
    ),
    "1.2B": (
        (642000, 331000, 176000, 94000, 46500, 25000, 15360, 8900, 6500),
        3897.3,
        4.33811e7,
        2533.4,
    ),
}


def test_the_hyperbola_returns_what_made_it():
    found = critical.fit_hyperbola(SIZES, 1000 * (1 + 256 / SIZES))
    np.testing.assert_allclose(found.s_min, 1000, rtol=1e-6)
    np.testing.assert_allclose(found.e_min, 256_000, rtol=1e-6)
    np.testing.assert_allclose(critical.twenty_percent(found, 64), 128, rtol=1e-6)
    assert found.rms < 1e-6 and found.beyond == 0
    # The linear form, 1/S = 1/S_min - B_crit/E, is an independent way to it.
    steps = found.steps(SIZES)
    slope, height = np.polyfit(1 / (steps * SIZES), 1 / steps, 1)
    np.testing.assert_allclose([1 / height, -slope * 1000], [1000, 256_000], rtol=1e-6)


@pytest.mark.parametrize("model", ZHANG)
def test_the_critical_batches_of_a_published_table(model):
    steps, a, b, critical_batch = ZHANG[model]
    found = critical.fit_hyperbola(2.0 ** np.arange(6, 15), np.array(steps, float))
    np.testing.assert_allclose(found.s_min, a, rtol=1e-3)
    np.testing.assert_allclose(found.e_min, b, rtol=1e-3)
    np.testing.assert_allclose(critical.twenty_percent(found, 256), critical_batch, rtol=1e-3)


def test_their_growth_with_the_size_of_the_model():
    found = [
        critical.twenty_percent(
            critical.fit_hyperbola(2.0 ** np.arange(6, 15), np.array(row[0], float)), 256
        )
        for row in ZHANG.values()
    ]
    models = np.array([85, 151, 302, 604, 1200])
    assert np.polyfit(np.log(models), np.log(found), 1)[0] == pytest.approx(0.4683, abs=0.005)


def test_a_line_that_does_not_bend_has_no_critical_batch():
    straight = critical.fit_hyperbola(SIZES, 1e6 / SIZES)
    flat = critical.fit_hyperbola(SIZES, np.full(SIZES.size, 1000.0))
    assert (int(straight.beyond), int(flat.beyond)) == (1, -1)
    few = critical.fit_hyperbola(SIZES, np.where(SIZES < 64, 1e6 / SIZES, np.inf))
    assert np.isnan(few.b_crit)


def test_regions_by_the_local_slope():
    b_crit = 256.0
    fine = b_crit * np.array([1 / 4, 1, 4])[:, None] * [1, 1.0001]
    slopes = [critical.local_slopes(m, 1 + b_crit / m)[0] for m in fine]
    np.testing.assert_allclose(slopes, [-0.8, -0.5, -0.2], atol=1e-3)
    assert [critical.region(s) for s in (-0.9, -0.5, -0.1, np.nan)] == [
        critical.PERFECT,
        critical.DIMINISHING,
        critical.NONE,
        "",
    ]


def test_the_least_of_a_parabola():
    x = np.arange(-14.0, -4.0)
    found = optimum.optimum(x, 3 + 0.02 * (x + 9.3) ** 2)
    assert found.parabola == pytest.approx(-9.3, abs=1e-9)
    assert found.akima == pytest.approx(-9.3, abs=0.05)
    assert (found.cell, found.end) == (-9.0, 0)
    falling = optimum.optimum(x, -x)
    assert np.isnan(falling.parabola) and np.isnan(falling.akima) and falling.end == 1
    cut = optimum.optimum(x, np.where(x > -9, np.inf, 3 + 0.02 * (x + 9.3) ** 2))
    assert np.isnan(cut.parabola) and cut.end == 1


def test_exponents_and_forms():
    m = 2.0 ** np.arange(8)
    x = np.log2(m)
    holes = np.where(m == 4, np.nan, 0.5 * x - 7)
    np.testing.assert_allclose(optimum.exponent(m, np.stack([holes, x])), [0.5, 1.0])
    assert np.isnan(optimum.exponent(m[:2], x[:2]))
    wiggle = 0.05 * np.array([1, -1, 1, 1, -1, -1, 1, -1])
    for name, alpha in optimum.FIXED.items():
        found = optimum.compare_forms(m, alpha * x - 3 + wiggle)
        assert min(found, key=found.__getitem__) == name
    found = optimum.compare_forms(m, optimum.surge(m, 8.0) - 3 + wiggle)
    assert min(found, key=found.__getitem__) == "surge"
    assert optimum.compare_forms(m[:4], x[:4]) == {}


def test_crossings():
    n, y = np.array([10.0, 20.0, 40.0]), np.array([0.1, 0.5, 0.4])
    assert targets.crossing(n, y, 0.3) == (pytest.approx(10 * 2**0.5), False)
    assert targets.crossing(n, y, 0.05) == (10.0, True)
    assert targets.crossing(n, y, 0.6) == (np.inf, False)
    assert targets.crossing(n, np.array([0.1, np.nan, 0.5]), 0.3)[0] == pytest.approx(20.0)


# --- the noisy quadratic -------------------------------------------------------------------------


def test_moments_equal_a_loop():
    q, lr, batch = nq.standard(3), 0.4, 8.0
    s = q.s0.copy()
    for t in range(6):
        np.testing.assert_allclose(nq.moments(q, lr, batch, np.array(t)), s, rtol=1e-12)
        s = (1 - lr * q.h) ** 2 * s + lr**2 * q.c / batch
    assert np.isinf(nq.risk(q, 2.1, batch, np.array(3)))
    assert nq.risk(nq.standard(10**4), 0.1, 1.0, np.array(0)) == pytest.approx(4.8938, abs=1e-4)
    end = nq.risk(q, lr, batch, np.array(10**5))
    each = [nq.steady_risk(h, c, lr, batch) for h, c in zip(q.h, q.c, strict=True)]
    assert end == pytest.approx(sum(each))


def test_steps_of_the_noisy_quadratic():
    q, rates = nq.standard(), np.geomspace(1e-3, 1.9, 2000)
    assert [nq.fewest_steps(q, m, 0.05, rates) for m in nq.SIZES] == [257, 67, 19, 8, 5]
    fixed = ((4, 0.01), (64, 0.2), (1024, 1.0))
    assert [nq.steps_to(q, lr, m, 0.05) for m, lr in fixed] == [800, 40, 8]
    one = nq.Quadratic(np.ones(1), np.ones(1), np.ones(1))
    assert nq.steps_to(one, 0.1, 10, 0.01) == 20
    assert np.isinf(nq.steps_to(one, 1.0, 1, 0.01))  # above its steady risk for ever


def test_a_grid_of_it_has_the_same_steps():
    rates = tuple(np.geomspace(1e-2, 1.9, 60))
    view = checked(nq.grid(rates=rates))
    found = targets.reached(view, 0.05)
    truth = [nq.fewest_steps(nq.standard(), m, 0.05, rates) for m in nq.SIZES]
    # Interpolated between updates, so up to one fewer than the first whole one.
    assert ((found.updates <= truth) & (found.updates > np.array(truth) - 1)).all()
    assert (found.best >= 0).all() and not found.bounded.any()


# --- coverage ------------------------------------------------------------------------------------

S_MIN, B_CRIT, ALPHA, SEEDS, GRIDS = 200.0, 24.0, 0.5, 5, 100


def synthetic(random):
    """Times to a target: a seed's own factor, noise in every run; η* on points of the grid."""
    m, x = 4.0 ** np.arange(6), np.arange(-5.0, 6.0)
    best = ALPHA * np.log2(m) - 2.5
    log_steps = np.log(S_MIN * (1 + B_CRIT / m))[:, None] + 0.15 * (x - best[:, None]) ** 2
    shape = (*log_steps.shape, SEEDS)
    noise = 0.1 * random.normal(size=SEEDS) + 0.1 * random.normal(size=shape)
    examples = np.exp(log_steps[..., None] + noise) * m[:, None, None]
    cells = tuple({"base_lr": 2.0**v} for v in x)
    whole = np.full(shape, np.inf)
    return targets.Reached(0.0, examples, np.zeros(shape, bool), whole, m, cells)


def test_intervals_cover_the_truth():
    """Of 100 grids the 95 % intervals of 90 to 99 hold the number that made them."""
    covered = np.zeros(3, int)
    random = np.random.default_rng(7)
    for _ in range(GRIDS):
        found = synthetic(random)
        rates = optimum.optima(found, "base_lr", 0.0)
        told = (critical.critical(found).b_crit, rates.exponent, rates.by_akima)
        for i, (one, truth) in enumerate(zip(told, (B_CRIT, ALPHA, ALPHA), strict=True)):
            covered[i] += one.low <= truth <= one.high
    assert ((covered >= 90) & (covered <= 99)).all(), covered


def test_the_interval_of_a_mean_is_students():
    """The bootstrap's spread, mended, gives exactly Student's interval of a mean."""
    values = np.array([1.0, 2.0, 4.0, 7.0])
    drawn = values[seed_draws(4)].mean(1)
    found = interval(values.mean(), drawn, 4)
    reach = 3.182446305284263 * values.std(ddof=1) / 2
    assert found.high - found.value == pytest.approx(reach, rel=1e-9)
    assert np.isnan(interval(1.0, np.ones(1), 1).low)


# --- the advice ----------------------------------------------------------------------------------


def test_advice_on_the_noisy_quadratic(tmp_path):
    found = advise(nq.grid(seeds=5, noise=0.05), target=0.05, devices=(16,))
    assert found.critical.known and found.critical.fits
    # S falls from 257 to 5 as m rises from 1 to 256: between E/S at the two ends.
    assert 8 < found.critical.b_crit.low < found.critical.b_crit.high < 128
    least, budget, _ = found.recommendations
    assert (least.batch_size, least.goal) == (1, "least examples")
    assert budget.batch_size > 1 and least.base_lr == least.rate  # lr_scaling none
    assert least.neighbours["m = 4"] == pytest.approx(
        found.reached.fewest[1] / found.reached.fewest[0]
    )
    assert "McCandlish" in found.text and "Zhang" in found.text
    assert "nor was that of lanes kept" in " ".join(found.gaps)
    assert found.table[["seconds alone", "seconds in lanes"]].isnull().all(axis=None)
    page, *pictures = write_advice(found, tmp_path)
    assert page.name == "advice.html" and all(path.stat().st_size for path in pictures)


def test_times_are_those_that_were_measured():
    cohort = {"lanes_per_pass": 10, "micro_batch": 4}
    meta = {"status": "done", "examples_lanes_per_s": 100.0, "cohorts": [cohort]}
    found = advise(nq.grid(), 0.05, meta=meta)
    np.testing.assert_allclose(found.table["seconds in lanes"], found.reached.fewest / 100)
    here = found.recommendations[1]
    assert here.goal == "least time here" and "10 at once" in here.cost
    assert "by itself was not measured." in " ".join(found.gaps)

    # Of several programs, each its own; a run by itself overrules them.
    small = {"batch_sizes": [1, 4, 16], "examples": 300.0, "train_seconds": 3.0}
    large = {"batch_sizes": [64, 256], "examples": 4000.0, "train_seconds": 2.0}
    other = {"batch_sizes": [64], "fixed": {"base_lr": -1.0}, "examples": 1, "train_seconds": 1}
    runs = [{"batch_size": m, "fixed": {}, "examples_per_s": 50.0 * m} for m in nq.SIZES]
    alone = {"device": "a toaster", "runs": runs}
    meta |= {"cohorts": [cohort | small, cohort | large, cohort | other], "alone": alone}
    found = advise(nq.grid(), 0.05, devices=(4,), meta=meta)
    rates = np.array([100, 100, 100, 2000, 2000])
    np.testing.assert_allclose(found.table["seconds in lanes"], found.reached.fewest / rates)
    # Every update takes 1/50 s, so that the largest batch is fastest ...
    np.testing.assert_allclose(found.table["seconds alone"], found.reached.updates / 50)
    _, here, four, _ = found.recommendations
    assert here.batch_size == 256 and "a toaster" in here.cost and "a toaster" in times(found)
    # ... and four devices are no faster than one.
    assert four.batch_size == 256 and "1 times as fast as one device at best, if exch" in four.cost


def test_the_best_score_stands_beside_what_a_target_asks_for():
    """Its learning rate, and which batch sizes end as well: the seeds' differences by hand."""
    ds = nq.grid(seeds=5, noise=0.05)
    m = int(ds["loss"].median("seed").min("base_lr").argmin("batch_size"))
    best = advise(ds, target=0.05).recommendations[-1]
    assert best.goal == "the lowest loss in this budget" and best.wrong == ""
    assert best.batch_size == 256 == ds["batch_size"][m]
    row = ds["loss"].median("seed").isel(batch_size=m)
    assert best.base_lr == row["base_lr"][int(row.argmin("base_lr"))]
    assert best.cost.startswith(f"{float(row.min()):.3e} [") and "tell" not in best.cost
    # Another batch size with the same losses but for noise that goes either way.
    noise = 1 + 0.1 * np.array([1, -1, 1, -1, 0.5])
    values = ds["loss"].transpose("batch_size", "base_lr", "seed").values.copy()
    values[1] = values[m] * noise
    twin = ds.assign(loss=(("batch_size", "base_lr", "seed"), values))
    assert "; seeds do not tell m = 4 from it" in advise(twin, 0.05).recommendations[-1].cost


def test_one_seed_has_no_intervals():
    found = advise(nq.grid(), 0.05)
    assert np.isnan(found.critical.b_crit.low) and np.isfinite(found.critical.b_crit.value)
    assert "one seed, no intervals" in found.text and "[" not in found.text
    assert found.wanted["seed"] == (0, 1, 2, 3, 4)


def test_the_next_experiment_extends_the_grid():
    found = advise(nq.grid(rates=(0.01, 0.02, 0.04)), 0.1)
    assert "base_lr" in {axis for flags in found.reached.at_end for axis in flags}
    assert max(found.wanted["base_lr"]) == pytest.approx(0.08)
    source = next_experiment(found, "runs/mine")
    assert "config.sweep.base_lr" in source and "runs/mine" in source
    compile(source, "next.py", "exec")
    (line,) = (one for one in next_overrides(found) if "base_lr" in one)
    config = apply_overrides(default(), [line])
    assert config.sweep.base_lr == found.wanted["base_lr"]
    runs = math.prod(len(values) for values in found.wanted.values())
    axes = {"batch_size", "base_lr", "seed"} - set(found.wanted)
    runs *= math.prod(found.view.ds.sizes.get(axis, 1) for axis in axes)
    assert found.new == runs - found.view.reported.size


def test_axes_are_written_as_powers_of_two_where_that_is_short():
    found = advise(nq.grid(rates=tuple(2.0 ** (k / 2) for k in range(-12, -5))), 0.1)
    (line,) = (one for one in next_overrides(found) if "base_lr" in one)
    assert "2**-5.5" in line and "2.0000" not in line and len(line) < 200


def test_parts_of_ones_own_are_not_offered_as_a_file():
    ds = nq.grid(rates=(0.01, 0.02, 0.04))
    ds.attrs["parts"] = '{"loss": "mine"}'
    found = advise(ds, 0.1)
    told = text(found)
    assert "--next" not in told and "the experiment file again, with --workdir" in told
    with pytest.raises(UserError, match="loss of its own"):
        next_experiment(found, "runs/mine")


def test_the_next_experiment_looks_closer_where_the_optimum_is_not_known():
    """Where seeds disagree (m = 4, of the noisier), and beside what never reaches the target."""
    rates = tuple(2.0**k for k in range(-8, 1))
    for noise, named in ((0.001, "1, 2"), (0.8, "1, 2, 4")):
        found = advise(nq.grid(rates=rates, seeds=5, noise=noise, sizes=(1, 2, 4, 8)), 0.3)
        assert found.rates.inside.tolist() == [False, False, True, False]
        (gap,) = (one for one in found.gaps if "inside the grid" in one)
        assert f"neighbours, which are 2 times away, at m = {named}." in gap
        more = set(found.wanted["base_lr"]) - set(rates)
        assert more == {2**-2.5, 2**-1.5, 2**-0.5, 2.0}  # beside 1/4 and 1/2, and beyond the end


def test_the_ends_of_other_axes():
    assert gaps.beyond("rule__momentum", [0.0, 0.5, 0.9], [0.0]) == []  # nothing lies below 0
    assert gaps.beyond("data__noise", [0.25, 0.5, 1.0], [0.25, 1.0]) == [0.125]  # nor above 1
    assert gaps.beyond("width", [8, 16, 32], [32]) == [64]
    (decay,) = gaps.beyond("rule__b2", [0.5, 0.5**0.5], [0.5**0.5])
    assert decay == pytest.approx(0.5**0.25)  # half-lives of 1, 2 and 4 updates
    assert gaps.between("rule__b2", [0.5, 0.5**0.25], [0.0]) == [pytest.approx(0.5**0.5)]
    assert gaps.between("base_lr", [1.0, 2**0.5, 2.0], [0.5]) == []  # close enough


def two_rules(slower=2.0):
    """The noisy quadratic under two names, the second of which takes so many times as long."""
    ds = nq.grid(seeds=3, noise=0.05)
    other = ds.assign_coords(epoch=ds["epoch"] * slower)
    epochs = np.union1d(ds["epoch"], other["epoch"])
    both = [one.reindex(epoch=epochs) for one in (ds, other)]
    found = xr.concat(both, xr.DataArray(["quick", "slow"], dims="rule", name="rule"))
    return found.assign_attrs(ds.attrs)


def test_an_axis_without_an_order_is_told_by_value():
    found = advise(two_rules(), 0.05)
    quick, slow = found.choices
    assert (quick.value, slow.value) == ("quick", "slow")
    np.testing.assert_allclose(slow.reached.fewest, 2 * quick.reached.fewest)
    assert slow.times.low == pytest.approx(2) and slow.times.high == pytest.approx(2)  # paired
    alone = advise(nq.grid(seeds=3, noise=0.05), 0.05)
    assert quick.curve.b_crit == alone.critical.b_crit
    assert slow.curve.b_crit.value == pytest.approx(quick.curve.b_crit.value)  # both slower alike
    assert list(quick.best_at) == list(nq.SIZES) and not slow.best_at.size
    assert "quick is best at m = 1, 4, 16, 64, 256" in found.text
    assert "slow needs 2.00 [2.00, 2.00] times as many" in found.text
    assert set(found.table["rule"]) == {"quick"}
    assert "rule slow" in text(found)


@pytest.mark.parametrize(
    "change, target, problem",
    [
        ({}, 1e-9, "no batch size reaches"),
        ({}, 10.0, "outside the curves"),
        ({}, float("nan"), "is no score"),
        ({"sizes": (4,)}, None, "one batch size"),
    ],
)
def test_refusals(change, target, problem):
    with pytest.raises(UserError, match=problem):
        advise(nq.grid(**change), target)


@pytest.mark.parametrize(
    "sizes, target, problem, remedy",
    [
        (nq.SIZES, "1e-9", "no batch size reaches 1.000e-09", "an easier one, or train longer"),
        (nq.SIZES, "10", "lies outside the curves", "a harder one, or evaluate more often"),
        (nq.SIZES, "nan", "is no score", "give a finite number"),
        ((4,), "0.05", "the grid has one batch size (4)", "sweep three or more"),
    ],
)
def test_refusals_of_the_command(sizes, target, problem, remedy, tmp_path, capsys):
    """One sentence, what to do, no page and no number."""
    results.write(nq.grid(sizes=sizes), tmp_path)
    assert cli.main(["advise", str(tmp_path), f"--target={target}"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and problem in said.err and remedy in said.err
    assert len(said.err.strip().splitlines()) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["results.nc"]


def test_the_command_makes_up_nothing_of_one_seed(tmp_path, capsys):
    results.write(nq.grid(), tmp_path)
    assert cli.main(["advise", str(tmp_path), "--target=0.05", "--no-measure"]) == 0
    printed = capsys.readouterr().out
    assert "one seed, no intervals" in printed and "One seed: nothing says" in printed
    assert "from" not in printed.splitlines()[2].split() and " [" not in printed.split("\n\n")[2]


def test_an_unfinished_sweep_is_refused():
    ds = nq.grid()
    ds["finished"][0, 0, 0] = False
    with pytest.raises(UserError, match="not finished"):
        advise(ds, 0.05)
    with pytest.raises(UserError, match="does not sweep the batch size"):
        advise(nq.grid().isel(batch_size=0, drop=True), 0.05)


# --- searches ------------------------------------------------------------------------------------


def searched(cut, name="halving"):
    """A grid of the noisy quadratic in which a search ended runs: ``cut`` is where, in examples."""
    ds = nq.grid(rates=(0.02, 0.04, 0.08), sizes=(1, 4, 16))
    config = json.loads(ds.attrs["config"]) | {"search": {"name": name}}
    stopped = np.full(ds["finished"].shape, np.nan)
    for at, examples in cut.items():
        stopped[at] = examples if examples else np.nan
        ds["epochs_done"].values[at], ds["finished"].values[at] = examples, False
        ds["loss"].values[at] = np.nan
        for curve in ("train_loss", "test_loss"):
            ds[curve].values[at] = np.where(ds["epoch"] > examples, np.nan, ds[curve].values[at])
    ds["stopped_epoch"] = (ds["finished"].dims, stopped)
    ds.attrs["config"] = json.dumps(config)
    return ds


def test_what_a_search_stopped_is_no_failure():
    """It counts up to where it was trained, and is open from there on, not censored for ever."""
    target, whole = 0.06, targets.reached(checked(searched({})), 0.06)
    assert np.isinf(whole.until).all() and not whole.open.any()
    far = float(whole.medians[0].max())  # the slowest cell of m = 1 that reaches it ...
    assert np.isfinite(far)
    slow, best = int(whole.medians[0].argmax()), int(whole.best[0])
    late, soon = int(2 * far), int(whole.fewest[0]) // 4

    after = targets.reached(checked(searched({(0, slow, 0): late})), target)
    np.testing.assert_array_equal(after.examples, whole.examples)  # ... had done so when it stopped

    middle = int((whole.fewest[0] + far) / 2)
    settled = targets.reached(checked(searched({(0, slow, 0): middle})), target)
    assert np.isinf(settled.examples[0, slow, 0]) and settled.until[0, slow, 0] == middle
    assert not settled.open.any()  # it has lost already

    open_ = targets.reached(checked(searched({(0, slow, 0): soon, (1, 0, 0): 0})), target)
    np.testing.assert_array_equal(np.argwhere(open_.open), [[0, slow], [1, 0]])
    assert open_.best[0] == best and not open_.unknown.any()

    gone = advise(searched({(0, i, 0): soon for i in range(3)}), target)
    assert gone.reached.unknown.tolist() == [True, False, False]
    assert np.isnan(gone.table["examples"][0]) and "not known" in gone.table["remarks"][0]
    assert "m = 1: stopped before it could be reached" in gone.text and "never" not in gone.text
    assert gone.recommendations[0].batch_size != 1
    assert any("stopped 3 runs and never began 0" in gap for gap in gone.gaps)
    assert np.isnan(gone.recommendations[0].neighbours["m = 1"])
    assert "m = 1 is not known" in gone.recommendations[0].wrong


def test_advice_on_a_real_search(tmp_path, capsys):
    """Through the command: halving leaves most runs out, and the page says so."""
    config = {
        "name": "halved",
        "data": {"name": "digits", "train_size": 256, "test_size": 128},
        "model": {"name": "mlp", "hidden": (16,)},
        "epochs": 9,
        "checkpoint": {"minutes": 1e6},
        "search": {"name": "halving"},
        "sweep": {
            "batch_size": (16, 32, 64),
            "base_lr": tuple(2.0**k for k in range(-11, -1, 2)),
            "seed": (0, 1),
        },
    }
    with one_device(), compiling(quickly=True):
        ds = run(config, tmp_path, progress=False)
        assert cli.main(["advise", str(tmp_path)]) == 0
        printed = capsys.readouterr().out
        assert cli.main(["advise", str(tmp_path)]) == 0  # compiles nothing
        again = capsys.readouterr()
    left = ~ds["finished"].values
    assert 0.3 < left.mean() < 0.9
    assert f"halving trained {(~left).sum()} of {left.size} runs to their end" in printed
    assert "halving stopped" in printed and "could still be the fastest" in printed
    assert "halving stopped" in (tmp_path / "advice.html").read_text()
    # Each batch size that reaches the target was timed by itself, and that is kept.
    kept = json.loads((tmp_path / "meta.json").read_text())["alone"]
    assert {one["batch_size"] for one in kept["runs"]} <= {16, 32, 64}
    assert all(one["examples_per_s"] > 0 for one in kept["runs"])
    assert all(one["micro_batch"] == min(one["batch_size"], 32) for one in kept["runs"])
    assert f"of a run by itself on {kept['device']}" in printed and "time alone" in printed
    assert again.out == printed and "by itself" not in again.err
