"""Selection, verdicts, figures and pages of a report, against cases worked out by hand."""

import csv
import dataclasses
import doctest
import io
import itertools
import json
import os
import xml.etree.ElementTree
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
import toy
import xarray as xr
from PIL import Image

from sbt import files, report
from sbt.cli import main
from sbt.config import to_json
from sbt.errors import UserError
from sbt.intervals import lead
from sbt.report import (
    FAILS,
    HOLDS,
    ONE_SEED,
    OPEN,
    View,
    claims,
    markup,
    scales,
    style,
    tables,
    view,
    wording,
)
from sbt.report.claims import CIFAR10, CLAIMS, Protocol
from sbt.text import duration

NAN = np.nan
CHANCE = 0.1


def results(accuracy, axes, diverged=None, epochs=4, name="grid", config=None, chance=CHANCE):
    """A dataset as ``sbt.run`` returns it: ``accuracy`` has the axes and then the seed."""
    accuracy = np.asarray(accuracy, float)
    dims = (*axes, "seed")
    if accuracy.ndim == len(axes):
        accuracy = accuracy[..., None]
    diverged = np.zeros(accuracy.shape, bool) if diverged is None else np.asarray(diverged, bool)
    diverged = np.broadcast_to(
        diverged[..., None] if diverged.ndim < accuracy.ndim else diverged, accuracy.shape
    )
    epoch = np.arange(1, epochs + 1)
    rise = 1 - np.exp(-epoch.astype(float))
    curve = CHANCE + (accuracy[..., None] - CHANCE) * rise
    loss = np.where(diverged[..., None] & (epoch >= 2), NAN, 2.3 * np.exp(-curve))
    every = (*dims, "epoch")
    return xr.Dataset(
        {
            "train_loss": (every, loss),
            "test_loss": (every, 1.1 * loss),
            "train_accuracy": (every, curve),
            "test_accuracy": (every, curve),
            "accuracy": (dims, accuracy),
            "diverged": (dims, diverged),
            "diverged_epoch": (dims, np.where(diverged, 2.0, NAN)),
        },
        coords={**axes, "seed": np.arange(accuracy.shape[-1]), "epoch": epoch},
        attrs={"name": name, "chance": chance, "config": json.dumps(config or {"name": name})},
    )


def grid(rows, sizes=None, rates=None, **extra):
    """A batch size by base LR grid; by default 2, 4, 8, ... and 2^-5, 2^-4, ..."""
    rows = np.asarray(rows, float)
    sizes = sizes or [2 ** (k + 1) for k in range(rows.shape[0])]
    rates = rates or [2.0 ** (k - 5) for k in range(rows.shape[1])]
    return results(rows, {"batch_size": sizes, "base_lr": rates}, **extra)


def surface(sizes=8, rates=9, seeds=3, key=0, best=0.9, **extra):
    """A realistic grid: too low base LRs learn little, too high m times base LR diverges."""
    m = 2.0 ** np.arange(1, sizes + 1)[:, None]
    rate = 2.0 ** np.arange(-rates - 1, -1)[None, :]
    over = np.log2(rate * m) - 0.5 * np.log2(m) + 0.5
    low = np.exp(-((np.minimum(np.log2(rate) + 7, 0) / 3) ** 2))
    top = best - 0.01 * np.maximum(np.log2(m) - 3, 0) ** 1.3
    mean = CHANCE + (top - CHANCE) * low / (1 + np.exp(3 * over))
    noise = np.random.default_rng(key).normal(0, 0.004, (*mean.shape, seeds))
    diverged = np.broadcast_to((over > 1.5)[..., None], noise.shape)
    values = np.where(diverged, CHANCE, np.clip(mean[..., None] + noise, CHANCE, 1))
    axes = {"batch_size": m[:, 0].astype(int), "base_lr": rate[0]}
    return results(values, axes, diverged, epochs=10, **extra)


# --- summary -------------------------------------------------------------------------------------


def test_spread_skips_missing_seeds_and_keeps_empty_cells_empty():
    values = xr.DataArray([[0.1, 0.5, NAN], [NAN, NAN, NAN]], dims=("cell", "seed"))
    found = view.spread(values)
    np.testing.assert_allclose(found["median"], [0.3, NAN])
    np.testing.assert_allclose(found["low"], [0.1, NAN])
    np.testing.assert_allclose(found["high"], [0.5, NAN])
    assert found["count"].values.tolist() == [2, 0]


def test_spread_of_many_seeds_is_the_10_to_90_percent_band():
    found = view.spread(xr.DataArray(np.arange(11) / 10, dims="seed"))
    assert float(found["low"]) == pytest.approx(0.1)
    assert float(found["high"]) == pytest.approx(0.9)
    assert "10–90 %" in view.spread_words(11)


def test_spread_without_a_seed_axis():
    found = view.spread(xr.DataArray([0.2, 0.4], dims="cell"))
    np.testing.assert_array_equal(found["low"], found["high"])


def test_best_over_lr_by_hand_in_any_order_of_the_axis():
    # Two seeds; descending base LRs. Medians: m=2: 0.6, 0.8, 0.5; m=4: 0.7, 0.7, NaN.
    values = [
        [[0.5, 0.7], [0.7, 0.9], [0.4, 0.6]],
        [[0.7, 0.7], [0.7, 0.7], [NAN, NAN]],
    ]
    ds = results(values, {"batch_size": [2, 4], "base_lr": [0.5, 0.25, 0.125]})
    best = View(ds).rows
    np.testing.assert_allclose(best["score"], [0.8, 0.7])
    np.testing.assert_allclose(best["low"], [0.7, 0.7])
    np.testing.assert_allclose(best["high"], [0.9, 0.7])
    # Of equal cells, the smaller base LR.
    np.testing.assert_allclose(best["best_base_lr"], [0.25, 0.25])
    assert best["edge"].values.tolist() == [False, True]
    assert best["complete"].values.tolist() == [True, False]


def test_best_over_lr_before_anything_finished():
    best = View(grid(np.full((2, 3), NAN))).rows
    assert best["score"].isnull().all() and best["best_base_lr"].isnull().all()
    assert not best["edge"].any()


def test_best_over_lr_takes_a_base_lr_that_was_not_swept_from_the_config():
    ds = results([0.5, 0.6], {"batch_size": [2, 4]}, config={"base_lr": 0.125})
    best = View(ds).rows
    np.testing.assert_allclose(best["best_base_lr"], [0.125, 0.125])


def test_edge_forgives_differences_below_the_resolution():
    # sqrt(.8 * .2 / 1600) = 0.01: an inner cell 0.009 below the last one is as good.
    ds = grid([[0.5, 0.791, 0.8], [0.5, 0.789, 0.8]], config={"data": {"test_size": 1600}})
    assert View(ds).rows["edge"].values.tolist() == [False, True]


def test_stable_range_by_hand():
    ds = grid(
        [
            [0.70, 0.86, 0.90, 0.85, 0.20],  # 0.85 is exactly 5 points below
            [0.88, 0.87, 0.20, 0.89, 0.10],  # the best cell is an island of its own
            [0.87, 0.88, 0.10, 0.10, 0.10],  # reaches the lower end of the grid
            [0.50, 0.60, 0.70, 0.20, 0.10],  # nothing within the margin
        ]
    )
    found = View(ds).stable_range(0.05)
    rate = [2.0**k for k in range(-5, 0)]
    np.testing.assert_allclose(found["low"], [rate[1], rate[3], rate[0], NAN])
    np.testing.assert_allclose(found["high"], [rate[3], rate[3], rate[1], NAN])
    assert found["count"].values.tolist() == [3, 1, 2, 0]
    np.testing.assert_allclose(found["octaves"], [2, 0, 1, NAN])
    assert found["low_open"].values.tolist() == [False, False, True, False]
    assert not found["high_open"].any()
    wider = View(ds).stable_range(0.2)
    assert wider["count"].values.tolist() == [4, 1, 2, 1]


def test_one_diverged_seed_ends_the_stable_range_though_the_median_is_high():
    values = np.full((1, 4, 3), 0.9)
    diverged = np.zeros((1, 4, 3), bool)
    values[0, 3, 0], diverged[0, 3, 0] = CHANCE, True
    ds = results(values, {"batch_size": [2], "base_lr": [1, 2, 3, 4]}, diverged)
    assert View(ds).cells["median"].values[0, 3] == 0.9
    found = View(ds).stable_range(0.05)
    assert float(found["high"][0]) == 3 and not bool(found["high_open"][0])


def test_a_cell_that_has_not_finished_leaves_the_range_open():
    found = View(grid([[0.2, 0.9, 0.9, NAN, 0.1], [NAN, NAN, 0.1, 0.1, 0.1]])).stable_range(0.05)
    assert found["count"].values.tolist() == [2, 0]
    assert found["high_open"].values.tolist() == [True, True]
    assert found["low_open"].values.tolist() == [False, True]
    assert found["complete"].values.tolist() == [False, False]


def test_base_lr_zero_is_no_part_of_a_stable_range():
    found = View(grid([[0.9, 0.9, 0.9]], rates=[0.0, 0.5, 1.0])).stable_range(0.05)
    assert float(found["low"][0]) == 0.5 and int(found["count"][0]) == 2


def test_best_cell_and_shared_base_lr():
    ds = grid([[0.2, 0.9, 0.1], [0.6, 0.5, NAN], [0.5, 0.3, NAN]])
    best = View(ds).best
    assert best.where == {"batch_size": 2, "base_lr": 2.0**-4} and best.value == 0.9
    # Means 1.3/3, 1.7/3 and 0.1.
    assert View(ds).shared_base_lr == 2.0**-4
    assert View(grid([[NAN]])).best is None


def test_resolution_is_a_binomial_standard_error():
    assert View(grid([[0.5]], config={"data": {"test_size": 100}})).resolution(0.5) == 0.05
    assert View(grid([[0.5]])).resolution(0.5) == view.UNKNOWN_RESOLUTION


def test_facets_name_an_axis_by_its_field():
    axes = {"schedule__warmup": [0.0, 0.5], "batch_size": [2, 4]}
    found = dict(View(results(np.ones((2, 2)), axes)).slices(("batch_size",)))
    assert list(found) == ["warmup 0", "warmup 0.5"]


def test_facets_slice_every_other_varying_axis():
    axes = {"rule": ["a", "b"], "momentum": [0.5], "batch_size": [2, 4]}
    found = dict(View(results(np.ones((2, 1, 2)), axes)).slices(("batch_size",)))
    assert list(found) == ["rule a", "rule b"]
    assert found["rule a"].axes == ("momentum", "batch_size")


# --- general verdicts ----------------------------------------------------------------------------

GOOD, BAD = 0.9, 0.2


def judged(ds):
    return report.verdicts(View(ds))


def alone(ds, stated):
    """The one verdict of a claim, on all of a grid."""
    name, arguments = stated
    (found,) = CLAIMS[name].judged(View(ds), arguments)
    return found


def shrinks(ds):
    return alone(ds, claims.range_shrinks(0.05))


def falls(ds):
    return alone(ds, claims.best_falls())


def widths(*counts, points=7, first=1):
    """A grid in which row i has ``counts[i]`` reliable base LRs from the second on."""
    rows = np.full((len(counts), points), BAD)
    for row, count in zip(rows, counts):
        row[first : first + count] = GOOD
    return grid(rows)


@pytest.mark.parametrize(
    "counts, expected",
    [
        ((5, 4, 3, 1), HOLDS),
        ((5, 5, 5, 4), HOLDS),
        ((3, 4, 3, 2), HOLDS),  # one grid step wider is within the tolerance
        ((5, 3, 4, 0), HOLDS),
        ((3, 5, 3, 2), FAILS),  # two steps wider
        ((2, 3, 4, 1), FAILS),  # one step at a time, two in all
        ((3, 3, 3, 3), FAILS),  # does not shrink
        ((1, 2, 3, 4), FAILS),
        ((5, 3), OPEN),  # too few batch sizes
    ],
)
def test_range_shrinks(counts, expected):
    assert shrinks(widths(*counts)).verdict == expected


def test_range_shrinks_states_the_measured_ranges():
    found = shrinks(widths(5, 4, 1, 0))
    assert "m = 2: 2^-4 to 2^0 (5 points)" in found.numbers
    assert "m = 8: 2^-4 (1 point)" in found.numbers
    assert "m = 16: none" in found.numbers
    assert "5 points" in found.claim and "Fig. 16" in found.source


def test_range_cut_by_the_grid_decides_nothing_where_it_matters():
    everywhere = grid(np.full((3, 4), GOOD))
    assert shrinks(everywhere).verdict == OPEN
    # m = 2 measured 2 points, but from the end of the grid: its true range may be the widest.
    rows = np.full((3, 6), BAD)
    rows[0, :2], rows[1, 1:5], rows[2, 1:2] = GOOD, GOOD, GOOD
    assert shrinks(grid(rows)).verdict == OPEN
    rows[0] = BAD
    rows[0, 1:3] = GOOD
    assert shrinks(grid(rows)).verdict == FAILS


def test_unfinished_cells_leave_every_verdict_open():
    rows = widths(5, 4, 3, 1)["accuracy"].values[..., 0]
    rows[3, 6] = NAN
    found = judged(grid(rows))
    assert len(found) == 3
    assert {v.verdict for v in found} == {OPEN}
    assert all("1 of 28 cells have not finished; so far:" in v.numbers for v in found)


def test_the_range_is_judged_at_two_margins():
    rows = np.array([[0.2, 0.9, 0.9, 0.9], [0.2, 0.82, 0.9, 0.82], [0.2, 0.82, 0.82, 0.82]])
    ds = grid(rows, config={"report": {"margin": 0.04}})
    found = judged(ds)
    assert "(margin 4 points)" in found[0].claim and found[0].verdict == HOLDS
    assert "(margin 8 points)" in found[1].claim and found[1].verdict != HOLDS


def seeds(*rows, spread=0.01):
    """Three seeds around each value."""
    return np.asarray(rows)[..., None] + np.array([-spread, 0.0, spread])


@pytest.mark.parametrize(
    "top, last, spread, paired, expected",
    [
        (0.90, 0.80, 0.005, False, HOLDS),
        (0.90, 0.89, 0.02, False, OPEN),  # less than what seeds change
        (0.90, 0.89, 0.02, True, HOLDS),  # which they change everywhere alike
        (0.90, 0.898, 0.0, False, FAILS),  # below the resolution of the test set
        (0.80, 0.90, 0.01, False, FAILS),  # it rises
    ],
)
def test_best_falls(top, last, spread, paired, expected):
    rows = [[0.3, top, 0.3], [0.3, 0.79, 0.3], [0.3, last, 0.3]]
    values = seeds(*rows, spread=spread)
    values[-1] = values[-1] if paired else values[-1, :, ::-1]
    ds = results(values, {"batch_size": [2, 4, 8], "base_lr": [0.1, 0.2, 0.4]})
    assert falls(ds).verdict == expected


def test_best_falls_waits_for_a_wider_grid():
    rows = seeds([0.3, 0.9, 0.3], [0.3, 0.8, 0.3], [0.6, 0.5, 0.3])
    found = falls(grid(rows))
    assert found.verdict == OPEN and "end of the base learning rates" in found.numbers


def test_verdicts_per_slice_of_further_axes():
    a, b = widths(5, 4, 3, 1), widths(1, 2, 3, 4)
    both = xr.concat([a, b], dim=xr.DataArray(["up", "down"], dims="rule", name="rule"))
    found = {(v.subject, "range" in v.claim): v.verdict for v in judged(both)}
    assert found[("rule up", True)] == HOLDS and found[("rule down", True)] == FAILS


def test_longer_training():
    short = grid(seeds([0.3, 0.80, 0.3], [0.3, 0.70, 0.3], [0.3, 0.50, 0.3]))
    long = grid(seeds([0.3, 0.81, 0.3], [0.3, 0.72, 0.3], [0.3, 0.60, 0.3]))
    found = report.longer_training(View(short), View(long))
    assert found.verdict == HOLDS
    assert "2: +1.0, 4: +2.0, 8: +10.0" in found.numbers
    assert report.longer_training(View(long), View(short)).verdict == FAILS


# --- the paper -----------------------------------------------------------------------------------


def carried(figure, variant=""):
    """What the config of a figure says to its report."""
    section = toy.load(f"masters_luschi_2018/{figure}.py", variant).report
    return {"report": json.loads(to_json(section))}


def protocol(rows_of, figure="fig01", epochs=82, **data):
    """The paper's full CIFAR grid with accuracy ``rows_of(m)`` at the middle base LR."""
    values = np.full((11, 13), 0.3)
    values[:, 6] = [rows_of(m) for m in CIFAR10.batch_size]
    values = np.repeat(values[..., None], 3, axis=-1)  # seeds
    name = f"masters_luschi_2018/{figure}"
    config = {"name": name, "data": {"name": "cifar10", **data}} | carried(figure)
    axes = {"batch_size": list(CIFAR10.batch_size), "base_lr": list(CIFAR10.base_lr)}
    return results(values, axes, epochs=epochs, name=name, config=config)


def best_batch_verdict(ds):
    return next(v for v in judged(ds) if "best batch size" in v.claim)


@pytest.mark.parametrize(
    "accuracy, expected",
    [
        (lambda m: 0.9 if m <= 8 else 0.7, HOLDS),
        (lambda m: 0.9 if m == 4 else 0.7, HOLDS),
        (lambda m: 0.9 if m == 16 else 0.7, FAILS),
        (lambda m: 0.9 if m <= 16 else 0.7, OPEN),  # a tie across the border
    ],
)
def test_best_batch_sizes_against_the_paper(accuracy, expected):
    found = best_batch_verdict(protocol(accuracy))
    assert found.verdict == expected
    assert (found.scope, found.reduced) == ("3 seeds", False) and "Fig. 1" in found.source


def test_a_reduced_run_never_speaks_for_the_whole_protocol():
    ds = protocol(lambda m: 0.9 if m <= 8 else 0.7, epochs=4, train_size=5000)
    found = best_batch_verdict(ds.isel(batch_size=slice(0, 9, 2), base_lr=slice(2, 13)))
    assert found.verdict == HOLDS
    for words in ("5000 training examples", "4 of 82 epochs", "batch sizes 4, 16", "2^-12, 2^-11",
                  "3 seeds"):  # fmt: skip
        assert words in found.scope
    assert found.reduced and "reduced run" in str(found)


def test_a_grid_that_is_not_the_papers_says_so_in_every_verdict():
    """The claims on every grid are the paper's too: another network on other data is less."""
    config = {"data": {"name": "digits"}, "model": {"name": "convnet"}, "rule": {"name": "adam"}}
    found = judged(surface(config=config))
    assert len(found) == 3 and all(v.reduced for v in found)
    for v in found:
        for words in ("digits instead of cifar10", "model convnet", "rule adam", "10 of 82 epochs"):
            assert words in v.scope
        assert v.scope.endswith("; 3 seeds")


def test_the_scope_names_the_part_that_is_less():
    """A sweep over rules: plain SGD is the paper's, with momentum it is not."""
    ds = protocol(lambda m: 0.9)

    def scope(**coords):
        return claims.scope_of(View(ds.assign_coords(coords)))

    assert scope(rule="sgd") == ("3 seeds", False)
    assert "rule lars instead of sgd" in scope(rule="lars")[0]
    assert "momentum 0.9" in scope(momentum=0.9)[0]
    ds = protocol(lambda m: 0.9, figure="fig03")
    config = json.loads(ds.attrs["config"]) | {
        "model": {"name": "resnet8"},
    }
    config["report"]["last_epochs"] = 2
    words, reduced = claims.scope_of(View(ds.assign_attrs(config=json.dumps(config))))
    assert reduced and "model resnet8 instead of resnet20" in words
    assert "accuracy from the last 2 epochs instead of 5" in words


def test_the_lead_of_a_cell_is_of_seeds_in_pairs():
    """What seeds change in both is no part of it, a seed that one lacks neither."""
    both = np.array([0.1, -0.3, 0.2, 0.05, 0.0])
    assert lead(both + 0.5, both) == pytest.approx((0.5, 0.5, 0.5))
    apart = np.array([0.0, 0.2, -0.1, 0.3, 0.1])
    found, back = lead(both + apart, both), lead(both, both + apart)
    assert found == pytest.approx((-back.value, -back.high, -back.low))
    assert found.low < found.value < found.high
    missing = np.append(both, np.nan)
    assert lead(missing + 0.5, np.append(both, 7.0)) == pytest.approx((0.5, 0.5, 0.5))
    assert lead([1.0], [0.0]) == (1.0, -np.inf, np.inf)


def test_one_seed_separates_nothing():
    """Forty points apart, and still not decidable: nothing says what another seed would give."""
    many = protocol(lambda m: 0.9 if m <= 8 else 0.5)
    one = many.isel(seed=[0])
    assert best_batch_verdict(many).verdict == HOLDS
    found = best_batch_verdict(one)
    assert found.verdict == ONE_SEED and found.scope == "one seed"
    assert falls(one).verdict == ONE_SEED
    assert falls(many).verdict == HOLDS
    assert report.longer_training(View(one), View(many)).verdict == ONE_SEED
    best, order = judged(bn_grid().isel(seed=[0]))
    assert best.verdict == ONE_SEED and order.verdict == ONE_SEED
    cell = View(one).rows
    assert not claims.separated(View(one), cell.isel(batch_size=0), cell.isel(batch_size=-1))


@pytest.mark.parametrize(
    "case, best, expected",
    [("AlexNet", 32, HOLDS), ("AlexNet", 64, FAILS), ("AlexNet BN", 64, HOLDS)],
)
def test_fig15_allows_what_fig5_names(case, best, expected):
    ds = protocol(lambda m: 0.9 if m == best else 0.7, figure="fig15")
    found = judged(ds.assign_coords(case=case))
    assert [v.verdict for v in found if "best batch size" in v.claim] == [expected]


def test_a_grid_on_one_side_of_the_border_decides_nothing():
    ds = protocol(lambda m: 0.9).isel(batch_size=slice(0, 3))
    assert best_batch_verdict(ds).verdict == OPEN
    # The best of those named might be one that was not run.
    ds = protocol(lambda m: 0.9 if m == 16 else 0.7).isel(batch_size=[0, 3, 4])
    assert best_batch_verdict(ds).verdict == OPEN


@pytest.mark.parametrize("reach, expected", [(4, FAILS), (8, HOLDS), (32, HOLDS), (64, FAILS)])
def test_limit_of_the_best_base_lr(reach, expected):
    ds = protocol(lambda m: 0.9 if m == 4 else 0.88 if m <= reach else 0.5, figure="fig07")
    found = [v for v in judged(ds) if "usable only" in v.claim]
    assert [v.verdict for v in found] == [expected]
    assert f"up to m = {reach}" in found[0].numbers


def test_batches_that_fail_and_batches_that_learn():
    ds = protocol(lambda m: 0.76 if m <= 8 else 0.12, figure="resnet32_nobn")
    ds["accuracy"] = ds["accuracy"].where(ds["accuracy"] != 0.3, CHANCE)
    found = {v.claim: v.verdict for v in judged(ds)}
    assert found["m ≥ 16 learns at no base learning rate"] == HOLDS
    assert found["m < 16 learns"] == HOLDS
    ds["accuracy"][4, 5] = 0.4
    found = {v.claim: v.verdict for v in judged(ds)}
    assert found["m ≥ 16 learns at no base learning rate"] == FAILS


@pytest.mark.parametrize(
    "inside, above, expected", [(0.89, 0.7, HOLDS), (0.7, 0.6, FAILS), (0.89, 0.9, FAILS)]
)
def test_learning_curves_coincide(inside, above, expected):
    values = [inside if m == 16 else 0.9 if m <= 64 else above for m in CIFAR10.batch_size]
    axes = {"batch_size": list(CIFAR10.batch_size), "base_lr": [2.0**-8]}
    ds = results(np.array(values)[:, None], axes, epochs=82, config=carried("fig04"))
    found = [v for v in judged(ds) if "coincide" in v.claim]
    assert [v.verdict for v in found] == [expected] and found[0].scope == "one seed"
    other = ds.assign_coords(base_lr=[0.5]).isel(batch_size=slice(0, 8))
    assert alone(other, claims.curves_coincide(4, 64, 2.0**-8)).verdict == OPEN


def bn_grid(best=8, name="masters_luschi_2018/fig13", data="cifar10"):
    sizes, bns = [16, 32, 64], [2, 4, 8, 16, 32, 64]
    values = np.array(
        [
            [0.9 - 0.02 * abs(np.log2(b / best)) - 0.03 * i if b <= m else NAN for b in bns]
            for i, m in enumerate(sizes)
        ]
    )
    variant = "" if data == "cifar10" else data
    config = {"name": name, "data": {"name": data}} | carried("fig13", variant)
    values = np.repeat(values[..., None], 3, axis=-1)  # seeds
    return results(values, {"batch_size": sizes, "bn_batch": bns}, name=name, config=config)


def test_bn_batches_against_the_paper():
    best, order = judged(bn_grid())
    assert best.verdict == HOLDS and order.verdict == HOLDS
    assert "m = 32: best 87.0 % at 8" in best.numbers
    assert judged(bn_grid(best=32))[0].verdict == FAILS
    assert len(judged(bn_grid(data="cifar100"))) == 3
    # A missing cell that is possible (b <= m) is waited for.
    ds = bn_grid()
    ds["accuracy"][2, 3] = NAN
    assert judged(ds)[0].verdict == OPEN


PAPER = [f"fig{n:02d}" for n in range(1, 19)] + ["resnet32_nobn"]


@pytest.mark.parametrize("figure", PAPER)
def test_every_outcome_of_the_paper_has_words_and_a_name(figure):
    """And each claim that its file lists is judged, or found undecidable, before any run ends."""
    section = carried(figure)["report"]
    assert section["figure"].startswith("Masters & Luschi 2018, ") and section["caption"]
    claims.check(section)
    ds = protocol(lambda m: NAN, figure=figure)
    wanted = [name for name, _ in section["claims"]]
    found = judged(ds)[3:]  # after those of every grid
    assert {v.source for v in found} <= {section["figure"]}
    assert len(found) == len(wanted) + wanted.count("learns_only_below")
    assert {v.verdict for v in found} <= {OPEN}
    assert not list(claims.not_judged(View(ds)))


def test_a_protocol_is_one_of_the_paper():
    """What the figures' files say the paper trained, against its section 3.1."""
    full = claims.make_protocol(carried("fig08")["report"]["protocol"])
    assert full == dataclasses.replace(CIFAR10, model=("resnet32",))
    longer = claims.make_protocol(carried("fig09", "small")["report"]["protocol"])
    assert (longer.data, longer.epochs, longer.last_epochs) == ("cifar100", 164, 5)
    imagenet = claims.make_protocol(carried("fig12")["report"]["protocol"])
    assert imagenet == Protocol("imagenet2012", ("resnet50",), epochs=90, test_examples=50_000)


def test_claims_that_are_unknown_here_are_named_in_a_line(tmp_path):
    """Somebody else's session registered a claim; results of an older one carried none."""
    known = claims.best_batch(2, 4)
    config = {"report": {"claims": [["wins", {"rule": "<b>"}], known, 7], "figure": "Ours"}}
    ds = grid(seeds([0.3, 0.9], [0.3, 0.8], [0.3, 0.5]), config=config)
    assert [v.source for v in judged(ds)][-1] == "Ours"
    report.write_report(ds, tmp_path, META)
    text = read_page(tmp_path / "report.html")
    assert "Not judged: 'wins', a claim that is unknown here." in text
    assert "The best batch size is one of 2, 4" in text
    old = grid([[0.5]], config={"report": {"figure": "fig01"}})
    report.write_report(old, tmp_path, META)
    text = read_page(tmp_path / "report.html")
    assert "The results name 'fig01' but were written before claims travelled" in text


def test_a_claim_that_raises_leaves_the_report_whole(monkeypatch):
    """Before a run has finished there is no best cell; numbers of a foreign file may be words."""
    monkeypatch.setattr(claims, "CLAIMS", dict(CLAIMS))

    @report.claim
    def exceeds(view, accuracy):
        return report.Verdict("exceeds", HOLDS if view.best.value > accuracy else FAILS, "")

    stated = [exceeds(0.5), ["best_batch", {"sizes": "<b>"}]]

    def found(accuracy, *listed):
        config = {"report": {"claims": listed}}
        return judged(results([accuracy], {"batch_size": [2]}, config=config))

    (before,) = found(NAN, stated[0])
    assert before.verdict == OPEN and "it raised AttributeError: 'NoneType'" in before.numbers
    assert "see line" in before.numbers and __file__ in before.numbers
    after, words = found(0.9, *stated)
    assert after.verdict == HOLDS and words.verdict == OPEN and "it raised" in words.numbers


def test_examples_in_docstrings(monkeypatch):
    monkeypatch.setattr(claims, "CLAIMS", dict(CLAIMS))  # one of them registers a claim
    for module in (claims, markup):
        found = doctest.testmod(module)
        assert found.attempted and not found.failed


def test_claims_are_listed(capsys):
    assert main(["list", "claims"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in CLAIMS) and "takes low, high, base_lr" in listed


@pytest.mark.parametrize(
    "stated, words",
    [
        (("best_bach", {"sizes": (2,)}), "unknown claim 'best_bach'\n  did you mean best_batch"),
        (("good_at", {}), "good_at has arguments none\n  give m"),
        (("good_at", {"m": 8, "n": 9}), "good_at has arguments m, n\n  give m"),
        ("good_at", "'good_at' is not a claim"),
        (("good_at", 8), "is not a claim"),
    ],
)
def test_claims_that_no_report_could_judge_are_refused(stated, words):
    with pytest.raises(UserError) as error:
        claims.check({"claims": (stated,), "protocol": ()})
    assert str(error.value).startswith("config.report.claims: ") and words in str(error.value)


@pytest.mark.parametrize(
    "pairs, words",
    [
        ((("epoch", 82),), "unknown field 'epoch'\n  did you mean epochs"),
        ((("epochs", "82"),), "epochs = '82' is of another type\n  give a value such as 82"),
        (7, "7 does not hold pairs"),
    ],
)
def test_protocols_that_are_none_are_refused(pairs, words):
    with pytest.raises(UserError) as error:
        claims.check({"claims": (), "protocol": pairs})
    assert str(error.value).startswith("config.report.protocol: ") and words in str(error.value)


# --- axes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "axis, values, expected",
    [
        ("batch_size", [2, 4, 8], "log2"),
        ("base_lr", [0.1, 0.2], "log2"),
        ("base_lr", [0.0, 0.1, 4.0], "category"),
        ("momentum", [0.0, 0.5, 0.9], "linear"),
        ("momentum", [0.0, 0.9, 0.95, 0.99], "category"),
        ("weight_decay", [1e-5, 1e-4, 1e-3], "log"),
        ("weight_decay", [0.0, 1e-4, 5e-3], "category"),
        ("rule", ["sgd", "sngm"], "category"),
        ("epochs", [5], "linear"),
        ("measured_epoch", list(range(62, 81)), "linear"),
    ],
)
def test_spacing_of_an_axis(axis, values, expected):
    assert scales.scale_of(axis, np.array(values)) == expected


def test_labels_of_values():
    assert wording.label("base_lr", 2.0**-8) == "2^-8"
    assert wording.label("base_lr", 2.0**-8, math=True) == "$2^{-8}$"
    assert wording.label("base_lr", 0.1) == "0.1"
    assert wording.label("batch_size", 2048) == "2048"
    assert wording.label("rule", "sgd") == "sgd"


def test_curves_differ_without_colour():
    looks = style.looks(13, ordered=True)
    assert len({look["marker"] for look in looks}) == 13
    pairs = itertools.pairwise(looks)
    assert all(a["linestyle"] != b["linestyle"] for a, b in pairs)
    # In grey, the order of an ordered family survives: luminance rises steadily.
    grey = [np.dot(matplotlib.colors.to_rgb(x["color"]), [0.299, 0.587, 0.114]) for x in looks]
    assert np.all(np.diff(grey) > 0)
    assert grey[-1] < 0.8


# --- figures -------------------------------------------------------------------------------------


def curves_of(panel):
    """Label -> (x, y) of the curves that the legend names."""
    return {
        line.get_label(): (np.asarray(line.get_xdata()), np.asarray(line.get_ydata()))
        for line in panel.lines
        if not line.get_label().startswith("_")
    }


def test_accuracy_vs_batch_size_draws_the_medians():
    values = [[[0.3, 0.5, 0.4], [0.2, 0.2, 0.9]], [[0.6, 0.6, 0.6], [NAN, 0.1, NAN]]]
    ds = results(values, {"batch_size": [2, 8], "base_lr": [2.0**-3, 2.0**-2]})
    panel = report.score_vs(View(ds), "batch_size", "base_lr").figure.axes[0]
    found = curves_of(panel)
    assert list(found) == ["$2^{-3}$", "$2^{-2}$"]
    np.testing.assert_allclose(found["$2^{-3}$"], [[2, 8], [0.4, 0.6]])
    np.testing.assert_allclose(found["$2^{-2}$"], [[2, 8], [0.2, 0.1]])
    assert panel.get_xscale() == "log" and panel.xaxis.get_transform().base == 2
    assert [t.get_text() for t in panel.get_xticklabels()] == ["2", "4", "8"]
    band = panel.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(0.3) and band.max() == pytest.approx(0.6)


def test_accuracy_vs_base_lr_labels_powers_of_two():
    panel = report.score_vs(View(surface(rates=4)), "base_lr", "batch_size").figure.axes[0]
    ticks = [t.get_text() for t in panel.get_xticklabels()]
    assert ticks == ["$2^{-5}$", "$2^{-4}$", "$2^{-3}$", "$2^{-2}$"]
    assert list(curves_of(panel))[:2] == ["2", "4"]
    assert panel.get_legend() is not None


def test_sweep_figure_has_both_views_and_rings_the_best_cell():
    ds = grid([[0.3, 0.9], [0.4, 0.5]])
    drawing = report.sweep_figure(View(ds))
    left, right = drawing.figure.axes
    assert len(curves_of(left)) == 2 and len(curves_of(right)) == 2
    for panel, x in ((left, 2), (right, 2.0**-4)):
        rings = [line for line in panel.lines if line.get_markersize() == 10]
        assert [(float(r.get_xdata()[0]), float(r.get_ydata()[0])) for r in rings] == [(x, 0.9)]
    assert "90.0 % at batch size 2, base learning rate 2^-4" in drawing.caption


def test_diverged_cells_are_hollow_and_explained():
    ds = grid([[0.8, CHANCE]], diverged=[[False, True]])
    drawing = report.score_vs(View(ds), "base_lr", "batch_size")
    hollow = [
        line
        for line in drawing.figure.axes[0].lines
        if line.get_markerfacecolor() == "white" and len(line.get_xdata())
    ]
    assert [list(line.get_ydata()) for line in hollow] == [[CHANCE]]
    assert "diverged" in drawing.caption
    assert (
        "diverged" not in report.score_vs(View(grid([[0.8, 0.7]])), "base_lr", "batch_size").caption
    )


def test_chance_is_drawn_only_where_curves_come_near_it():
    def has_chance(ds):
        drawing = report.score_vs(View(ds), "base_lr", "batch_size")
        return any(t.get_text() == "chance" for t in drawing.figure.axes[0].texts)

    assert has_chance(grid([[0.2, 0.9]]))
    assert not has_chance(grid([[0.89, 0.9]]))
    assert not has_chance(grid([[0.2, 0.9]], chance=NAN))


def test_learning_curves_at_a_base_lr():
    ds = surface()
    drawing = report.learning_curves(View(ds), base_lr=2.0**-7)
    left, right = drawing.figure.axes
    found = curves_of(left)
    assert list(found) == [str(2**k) for k in range(1, 9)]
    expected = np.median(ds["test_accuracy"].sel(batch_size=8, base_lr=2.0**-7).values, axis=0)
    np.testing.assert_allclose(found["8"], [np.arange(1, 11), expected])
    expected = np.median(ds["train_loss"].sel(batch_size=8, base_lr=2.0**-7).values, axis=0)
    np.testing.assert_allclose(curves_of(right)["8"][1], expected)
    assert "2^-7" in drawing.caption
    with pytest.raises(UserError, match=r"0\.3 is not in the grid"):
        report.learning_curves(View(ds), base_lr=0.3)


def test_learning_curves_mark_where_a_seed_diverged():
    ds = grid([[0.8], [CHANCE]], diverged=[[False], [True]])
    drawing = report.learning_curves(View(ds))
    for panel in drawing.figure.axes:
        crosses = [line for line in panel.lines if line.get_marker() == "x"]
        assert [float(c.get_xdata()[0]) for c in crosses] == [2.0]
    assert "Cross" in drawing.caption


def test_learning_curves_leave_out_losses_that_overflowed():
    ds = grid([[0.8], [CHANCE]], diverged=[[False], [True]])
    ds["diverged_epoch"][1, 0, 0] = 1.3
    ds["train_loss"] = ds["train_loss"].fillna(np.inf)
    ds["test_loss"] = ds["test_loss"].fillna(np.inf)
    left, right = report.learning_curves(View(ds)).figure.axes
    assert curves_of(right)["4 test"][0].tolist() == [1]
    assert curves_of(left)["4 test"][0].tolist() == [1, 2, 3, 4]
    crosses = [line for line in left.lines if line.get_marker() == "x"]
    assert [float(c.get_xdata()[0]) for c in crosses] == [2.0]


def test_many_cases_are_all_compared():
    cases = [f"net {i}" for i in range(9)]
    axes = {"case": cases, "batch_size": [2, 4], "base_lr": [0.25, 0.5]}
    ds = results(np.random.default_rng(0).uniform(0.2, 0.9, (9, 2, 2)), axes)
    found = {drawing.name: drawing for drawing in report.default_figures(View(ds))}
    assert list(curves_of(found["best_accuracy"].figure.axes[0])) == cases
    assert list(curves_of(found["stable_range"].figure.axes[0])) == cases
    assert "sweep_6" in found and "sweep_7" not in found


def test_a_sweep_over_all_rules_is_one_figure():
    """22 curves: three panels, every curve in one of them and in grey in the others."""
    rules = [f"name{i}" for i in range(22)]
    axes = {"rule": rules, "batch_size": [2, 4], "base_lr": [0.25, 0.5]}
    ds = results(np.random.default_rng(0).uniform(0.2, 0.9, (22, 2, 2)), axes)
    (drawing,) = report.default_figures(View(ds))
    panels = drawing.figure.axes
    named = [curves_of(panel) for panel in panels]
    assert [len(curves) for curves in named] == [8, 8, 6]
    assert [text for curves in named for text in curves] == rules
    np.testing.assert_allclose(named[2]["name21"][1], ds["accuracy"][21, :, :, 0].max("base_lr"))
    grey = [sum(line.get_color() == "#cccccc" for line in panel.lines) for panel in panels]
    assert grey == [14, 14, 16]
    assert {panel.get_legend().get_title().get_text() for panel in panels} == {"rule"}


def test_learning_curves_join_sparse_evaluations():
    ds = grid([[0.8], [0.7]])
    ds["test_accuracy"] = ds["test_accuracy"].where(ds["epoch"] % 2 == 0)
    epochs, _ = curves_of(report.learning_curves(View(ds)).figure.axes[0])["2 test"]
    assert epochs.tolist() == [2, 4]


def test_best_accuracy_and_stable_range_of_several_grids():
    grids = {"one": View(widths(5, 4, 1, 0)), "two": View(widths(3, 2, 1, 1))}
    found = curves_of(report.best_score_summary(grids).figure.axes[0])
    np.testing.assert_allclose(found["one"], [[2, 4, 8, 16], [GOOD, GOOD, GOOD, BAD]])
    drawing = report.stable_range_summary(grids, margin=0.05)
    panel = drawing.figure.axes[0]
    bars = [path.vertices[:, 1] for path in panel.collections[0].get_paths()]
    np.testing.assert_allclose(bars[0], [2.0**-4, 2.0**0])
    assert "within 5 points" in drawing.caption
    crosses = [line for line in panel.lines if line.get_marker() == "x"]
    assert [len(c.get_xdata()) for c in crosses] == [1]


def test_bn_batch_figure():
    found = curves_of(report.bn_batch_figure(View(bn_grid())).figure.axes[0])
    assert list(found) == ["16", "32", "64"]
    assert np.isfinite(found["16"][1]).sum() == 4
    # With base LRs swept, each point is the best of them.
    worse = bn_grid()
    worse["accuracy"] = worse["accuracy"] - 0.2
    both = xr.concat(
        [worse, bn_grid()], dim=xr.DataArray([0.1, 0.2], dims="base_lr", name="base_lr")
    )
    again = curves_of(report.bn_batch_figure(View(both)).figure.axes[0])
    np.testing.assert_allclose(again["64"], found["64"])


def test_a_figure_of_two_axes_refuses_a_third():
    ds = results(np.ones((2, 2, 2)), {"rule": ["a", "b"], "batch_size": [2, 4], "base_lr": [1, 2]})
    with pytest.raises(UserError, match="rule: has 2 values"):
        report.sweep_figure(View(ds))
    with pytest.raises(UserError, match="momentum: is not an axis"):
        report.score_vs(View(ds), "momentum")


def test_drawing_leaves_global_settings_alone_and_is_reproducible():
    before = dict(matplotlib.rcParams)
    first, second = (report.sweep_figure(View(surface(sizes=2, rates=2))) for _ in range(2))
    for kind, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        assert first.render(kind) == second.render(kind)
        assert first.render(kind).startswith(start)
    assert dict(matplotlib.rcParams) == before
    assert first._repr_png_() == first.render("png")


@pytest.mark.parametrize(
    "axes, expected",
    [
        ({"batch_size": 3, "base_lr": 3}, ["sweep", "best_accuracy", "stable_range"]),
        (
            {"rule": 2, "batch_size": 2, "base_lr": 2},
            ["best_accuracy", "stable_range", "sweep_1", "sweep_2"],
        ),
        ({"batch_size": 3, "bn_batch": 3}, ["bn_batch"]),
        (
            {"batch_size": 2, "base_lr": 2, "bn_batch": 2},
            ["best_accuracy", "stable_range", "sweep_1", "sweep_2", "bn_batch_1"],
        ),
        ({"momentum": 4}, ["accuracy_vs_momentum"]),
        ({"momentum": 3, "weight_decay": 4}, ["sweep"]),
        ({"rule": 2, "base_lr": 3}, ["accuracy_vs_base_lr"]),
        ({"rule": 2}, ["accuracy_vs_rule"]),
        ({"rule": 2, "momentum": 2}, ["accuracy_vs_momentum"]),
        ({"batch_size": 1, "base_lr": 1}, []),
        ({}, []),
    ],
)
def test_the_axes_decide_which_figures_are_drawn(axes, expected):
    words = {"rule": ["sgd", "sngm"]}
    coords = {a: words.get(a, [2.0**k for k in range(n)]) for a, n in axes.items()}
    shape = (*axes.values(), 2)
    ds = results(np.random.default_rng(0).uniform(0.2, 0.9, shape), coords)
    names = [drawing.name for drawing in report.default_figures(View(ds))]
    assert [n for n in names if not n.startswith("learning_curves")] == expected
    assert [n for n in names if n.startswith("learning_curves")]
    assert len(set(names)) == len(names)


# --- pages ---------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Checks that tags are balanced and collects what a page refers to."""

    EMPTY = ("meta", "img", "br", "link", "hr")

    def __init__(self, text):
        super().__init__()
        self.open, self.refers, self.text = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag not in self.EMPTY:
            self.open.append(tag)
        self.refers += [value for name, value in attrs if name in ("src", "href", "srcset")]
        self.refers = [value for value in self.refers if not value.startswith("#")]
        assert tag not in ("link", "iframe")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.text.append(data)


def read_page(path):
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert all(value.startswith("data:image/svg+xml;base64,") for value in page.refers)
    assert text.count("<script") <= 2
    assert "url(" not in text and "@import" not in text
    return " ".join(" ".join(page.text).replace("\u00a0", " ").split())


META = {
    "status": "done",
    "device": "two CPU cores",
    "versions": {"jax": "0.10.2"},
    "examples_lanes_per_s": 123456.7,
    "compile_seconds": 12.34,
    "wall_seconds": 72,
    "devices": ["a", "b"],
    "nothing": None,
    "memory_peak_bytes": 3 * 2**20,
    "cohorts": [{"runs": 12, "strategy": "vmap"}, {"runs": 4, "strategy": "map"}],
}


def test_report_of_a_grid(tmp_path):
    ds = surface(name="demo", config={"name": "demo", "epochs": 10, "report": {"margin": 0.05}})
    written = report.write_report(ds, tmp_path, META)
    assert written[0] == tmp_path / "report.html"
    assert all(path.is_file() and path.stat().st_size for path in written)
    assert len(set(written)) == len(written)
    on_disk = {p for p in tmp_path.rglob("*") if p.is_file()}
    assert on_disk == set(written)
    for path in written:
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.verify()
        if path.suffix == ".svg":
            assert xml.etree.ElementTree.parse(path).getroot().tag.endswith("svg")
    text = read_page(tmp_path / "report.html")
    for words in (
        "216 of 216 runs have results",
        "the stable range shrinks as m grows (margin 5 points)",
        "(margin 10 points)",
        "The best accuracy falls at large m",
        "two CPU cores",
        "versions.jax 0.10.2",
        "123,457",
        "12.3 s",
        "1 min 12 s",
        "a, b",
        "memory peak bytes 3 MiB",
        "cohorts 2 runs 4, strategy map",
        '"margin": 0.05',
    ):
        assert words in text
    assert "Partial" not in text and "nothing" not in text


def read_csv(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_tables_hold_the_numbers_in_full(tmp_path):
    ds = surface(sizes=4, rates=5)
    ds["accuracy"][0, 0, :] = NAN
    report.write_report(ds, tmp_path, META)
    rows = read_csv(tmp_path / "tables" / "accuracy.csv")
    assert len(rows) == 20
    assert rows[0]["accuracy_median"] == "" and rows[0]["seeds_finished"] == "0"
    row = next(r for r in rows if r["batch_size"] == "8" and float(r["base_lr"]) == 2.0**-4)
    values = np.sort(ds["accuracy"].sel(batch_size=8, base_lr=2.0**-4).values)
    found = [float(row[f"accuracy_{c}"]) for c in ("low", "median", "high")]
    np.testing.assert_array_equal(found, values)
    assert len(read_csv(tmp_path / "tables" / "runs.csv")) == 60
    rows = read_csv(tmp_path / "tables" / "batch_sizes.csv")
    assert [int(r["batch_size"]) for r in rows] == [2, 4, 8, 16]
    span = View(ds).stable_range(0.05)
    assert [int(r["stable_points"]) for r in rows] == span["count"].values.tolist()


def test_grid_table_marks_best_reliable_diverged_and_missing():
    ds = grid([[0.9, 0.88, CHANCE], [0.5, NAN, 0.3]], diverged=[[0, 0, 1], [0, 0, 0]])
    html = tables.grid_html(View(ds), "base_lr", "batch_size")
    Page(html)
    assert html.count('class="top"') == 1 and "<b>90.0</b>" in html and "<b>88.0</b>" in html
    assert "<b>50.0" not in html and "10.0<small> ×1</small>" in html and "<td>–</td>" in html
    assert "2<sup>−5</sup>" in html


def test_partial_results_are_reported_as_such(tmp_path):
    ds = surface()
    half = ds.copy(deep=True)
    for name in ds.data_vars:
        if name != "diverged":
            half[name][5:] = NAN
    half["diverged"][5:] = False
    report.write_report(half, tmp_path, {"status": "interrupted"})
    text = read_page(tmp_path / "report.html")
    assert "Partial results: interrupted." in text and "135 of 216 runs have results" in text
    assert "27 of 72 cells have not finished" in text
    # The axis still shows the whole plan.
    panel = report.sweep_figure(View(half)).figure.axes[0]
    assert panel.get_xlim()[1] > 256


def test_missing_cells_of_a_finished_run_are_no_partial_result(tmp_path):
    report.write_report(bn_grid(), tmp_path, {"status": "done"})
    text = read_page(tmp_path / "report.html")
    assert "Partial" not in text and "not part of the grid" in text


def test_report_before_any_run_finished(tmp_path):
    empty = surface().where(False)
    empty["diverged"] = empty["diverged"].fillna(0).astype(bool)
    written = report.write_report(empty, tmp_path, {"status": "running"})
    text = read_page(tmp_path / "report.html")
    assert "0 of 216 runs have results" in text and "No run has results yet" in text
    assert not any(path.suffix == ".png" for path in written)


def test_curves_of_runs_that_have_begun(tmp_path):
    begun = surface(sizes=3)
    begun["accuracy"][:] = NAN
    begun["test_accuracy"][..., 5:] = NAN
    written = report.write_report(begun, tmp_path, {"status": "interrupted"})
    assert [p.name for p in written if p.suffix == ".png"] == ["learning_curves.png"]


@pytest.mark.parametrize("drop", [False, True])
def test_one_point(tmp_path, drop):
    index = {"batch_size": 2, "base_lr": 3, "seed": 0}
    ds = surface().isel(index if drop else {k: [v] for k, v in index.items()})
    written = report.write_report(ds, tmp_path, {})
    assert [p.name for p in written if p.suffix == ".png"] == ["learning_curves.png"]
    assert "1 of 1 runs have results" in read_page(tmp_path / "report.html")


def test_every_run_diverged(tmp_path):
    ds = grid(np.full((3, 3), CHANCE), diverged=np.ones((3, 3)))
    ds["train_loss"][:] = NAN
    report.write_report(ds, tmp_path, META)
    assert "9 diverged" in read_page(tmp_path / "report.html")


def test_other_axes_with_words_and_zeros(tmp_path):
    axes = {
        "rule": ["sgd", "<b>sngm"],
        "weight_decay": [0.0, 1e-4, 1e-2],
        "nesterov": [False, True],
    }
    ds = results(np.random.default_rng(0).uniform(0.2, 0.9, (2, 3, 2, 2)), axes, name="<script>")
    report.write_report(ds, tmp_path, META)
    text = read_page(tmp_path / "report.html")
    assert "<script>" in text and "<b>sngm" in text and "nesterov False" in text


def test_reduced_protocol_is_said_on_the_page(tmp_path):
    ds = protocol(lambda m: 0.9 if m <= 8 else 0.7, epochs=3)
    report.write_report(ds, tmp_path, META)
    text = read_page(tmp_path / "report.html")
    assert "covers less than the paper's protocol" in text and ": 3 of 82 epochs; 3 seeds." in text
    assert "holds reduced run" in text


def test_comparison_page(tmp_path):
    grids = {"short": surface(3, 3), "long": surface(3, 3, best=0.95, key=1)}
    longer = grids["long"].reindex(epoch=np.arange(1, 21))
    written = report.write_comparison({**grids, "long": longer}, tmp_path, META)
    names = {path.name for path in written}
    assert {"report.html", "best_accuracy.png", "stable_range.svg", "sweep_2.png"} <= names
    text = read_page(tmp_path / "report.html")
    assert "short and long" in text and "Longer training" in text
    other = longer.assign_attrs(config=json.dumps({"model": {"name": "another"}}))
    report.write_comparison({**grids, "long": other}, tmp_path, META)
    assert "Longer training" not in read_page(tmp_path / "report.html")


def test_comparison_takes_slices_and_refuses_what_has_no_batch_size(tmp_path):
    values = np.random.default_rng(0).uniform(0.2, 0.9, (2, 3, 3))
    axes = {"case": ["A", "B"], "batch_size": [2, 4, 8], "base_lr": [0.1, 0.2, 0.4]}
    report.write_comparison({"one": results(values, axes)}, tmp_path, {})
    text = read_page(tmp_path / "report.html")
    assert "one, A" in text and "one, B" in text
    with pytest.raises(UserError, match="has no axis batch_size"):
        report.write_comparison({"one": results([0.5, 0.6], {"momentum": [0, 1]})}, tmp_path, {})


def test_writing_twice_gives_the_same_bytes(tmp_path):
    small = surface(sizes=3, rates=3)
    first = report.write_report(small, tmp_path / "a", META)
    second = report.write_report(small, tmp_path / "b", META)
    assert [a.read_bytes() == b.read_bytes() for a, b in zip(first, second)] == [True] * len(first)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    files.write_text(path, "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(RuntimeError("stop")))
    with pytest.raises(RuntimeError, match="stop"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_results_survive_netcdf(tmp_path):
    both = xr.concat(
        [surface(sizes=2, rates=2), surface(sizes=2, rates=2, key=1)],
        dim=xr.DataArray(["sgd", "sngm"], dims="rule", name="rule"),
    )
    both.to_netcdf(tmp_path / "results.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "results.nc", engine="h5netcdf") as loaded:
        report.write_report(loaded.load(), tmp_path, META)
    assert "rule sgd" in read_page(tmp_path / "report.html")


@pytest.mark.parametrize(
    "seconds, expected", [(4.25, "4.2 s"), (72, "1 min 12 s"), (3725, "1 h 02 min")]
)
def test_durations(seconds, expected):
    assert duration(seconds) == expected


def test_rich_text_escapes_and_raises():
    assert markup.rich("a < 2^-8 & 5 %") == "a &lt; 2<sup>−8</sup> &amp; 5\u00a0%"
    assert markup.rich("m = 8, η̃ = 2^3") == "m\u00a0=\u00a08, η̃\u00a0=\u00a02<sup>3</sup>"


def test_a_verdict_reads_as_a_sentence():
    less = {"scope": "4 of 82 epochs; 3 seeds", "reduced": True}
    one = report.Verdict("Claim", HOLDS, "Numbers.", subject="rule a", **less)
    words = "(on a reduced run: 4 of 82 epochs; 3 seeds)"
    assert str(one) == f"Claim [rule a]: holds {words}. Numbers."
    assert str(report.Verdict("C", HOLDS, "N.", scope="3 seeds")) == "C: holds (3 seeds). N."
