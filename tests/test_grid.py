"""From a config to runs and cohorts, and what is refused on the way, before anything compiles."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from sbt import config as configs
from sbt.data import from_arrays
from sbt.errors import UserError
from sbt.parallel.mesh import make_mesh
from sbt.sweep import fit
from sbt.sweep.cohort import ModelFacts, make_cohorts
from sbt.sweep.grid import make_grid
from sbt.sweep.lanes import make_lanes
from sbt.sweep.prepare import prepare
from sbt.sweep.problem import Parts, Placed
from sbt.sweep.strategy import Strategy, heuristic, parse

TINY = {
    "data": {"name": "synthetic", "train_size": 64, "test_size": 16, "image_shape": (4, 4, 1)},
    "model": {"name": "mlp", "hidden": (4,)},
}
NORMED = {"model": {"name": "mlp", "hidden": (4,), "norm": "batch"}}


@pytest.fixture(autouse=True)
def nothing_compiles(monkeypatch):
    """Planning traces and lowers; a program compiled here would be paid for in vain."""

    def refuse(*args, **kwargs):
        raise AssertionError("compiled")

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)


# --- axes and runs -------------------------------------------------------------------------------


def grid_of(**fields):
    return make_grid(configs.complete({**TINY, **fields}))


def test_runs_are_the_product_of_the_axes_in_their_order():
    grid = grid_of(sweep={"seed": (7, 3), "base_lr": (0.5, 0.25, 0.125), "weight_decay": (0.1,)})
    assert grid.axes == {"base_lr": (0.5, 0.25, 0.125), "seed": (7, 3), "weight_decay": (0.1,)}
    assert grid.shape == (3, 2, 1)
    assert [run.index for run in grid.runs] == list(np.ndindex(3, 2, 1))
    for run in grid.runs:
        config = grid.config_of(run)
        assert config.base_lr == (0.5, 0.25, 0.125)[run.index[0]]
        assert config.seed == (7, 3)[run.index[1]]
        assert config.rule.weight_decay == 0.1


def test_other_axes_come_after_the_usual_ones_in_the_order_given():
    grid = grid_of(sweep={"warmup": (0.0, 0.1), "epochs": (1, 2), "batch_size": (2, 4)})
    assert list(grid.axes) == ["batch_size", "warmup", "epochs"]
    assert grid.config_of(grid.runs[-1]).schedule.warmup == 0.1


def test_without_axes_there_is_one_run():
    grid = grid_of()
    assert (grid.axes, grid.shape) == ({}, ())
    assert [(run.index, run.settings) for run in grid.runs] == [((), {})]


def test_axes_may_name_the_section():
    grid = grid_of(sweep={"model__hidden": ((3,), (4, 5)), "rule__momentum": (0.9,)})
    assert grid.config_of(grid.runs[1]).model.hidden == (4, 5)
    assert grid.config_of(grid.runs[1]).rule.momentum == 0.9


def test_an_axis_of_rules_keeps_what_each_of_them_knows():
    config = configs.complete(
        {
            **TINY,
            "rule": {"name": "sgd", "momentum": 0.7},
            "sweep": {"rule": ("sgd", "adam", "sngm")},
            "follow": {"momentum": ("rule", (("sgd", 0.7), ("sngm", 0.7)))},
        }
    )
    grid = make_grid(config)
    rules = [grid.config_of(run).rule for run in grid.runs]
    assert [rule.name for rule in rules] == ["sgd", "adam", "sngm"]
    assert [rule.get("momentum") for rule in rules] == [0.7, None, 0.7]


def test_fields_follow_an_axis():
    grid = grid_of(
        sweep={"batch_size": (2, 4), "seed": (0, 1)},
        follow={
            "base_lr": ("batch_size", ((2, 0.5), (4, 0.25))),
            "momentum": ("seed", ((1, 0.9), (0, 0.0))),
        },
    )
    assert list(grid.axes) == ["batch_size", "seed"]
    values = [(run.settings["base_lr"], run.settings["rule.momentum"]) for run in grid.runs]
    assert values == [(0.5, 0.0), (0.5, 0.9), (0.25, 0.0), (0.25, 0.9)]


def test_impossible_points_can_be_left_out():
    axes = {"batch_size": (2, 4, 8), "bn_batch": (2, 4, 8)}
    grid = grid_of(**NORMED, sweep=axes, skip_impossible=True)
    pairs = [(run.settings["batch_size"], run.settings["bn_batch"]) for run in grid.runs]
    assert pairs == [(2, 2), (4, 2), (4, 4), (8, 2), (8, 4), (8, 8)]
    assert grid.shape == (3, 3)
    assert grid.runs[-1].index == (2, 2)


@pytest.mark.parametrize("field", ["bn_batch", "micro_batch"])
def test_the_batch_size_that_is_swept_counts_not_the_default(field):
    """64 is more than the default of m, which no run has."""
    config = {**TINY, **NORMED, field: 64}
    (cohort,) = prepare({**config, "sweep": {"batch_size": (64,)}}, Parts()).cohorts
    assert cohort.batch_sizes == (64,)
    follow = {"batch_size": ("seed", ((0, 64), (5, 64)))}
    (cohort,) = prepare({**config, "sweep": {"seed": (0, 5)}, "follow": follow}, Parts()).cohorts
    assert cohort.batch_sizes == (64, 64)


# --- what is refused -----------------------------------------------------------------------------

BATCHES = {"batch_size": (2, 4)}
BAD = [
    # field of the message, value in it, config
    ("config.batchsize", "batch_size", {"batchsize": 4}),
    ("config.evaluate.evry", "every", {"evaluate": {"evry": 1}}),
    ("config.sweep.batchsize", "batch_size", {"sweep": {"batchsize": (2, 4)}}),
    ("config.sweep.momentum", "b1", {"sweep": {"momentum": (0.9,)}, "rule": {"name": "adam"}}),
    ("config.sweep.batch_size", "no values", {"sweep": {"batch_size": ()}}),
    ("config.sweep.seed", "twice", {"sweep": {"seed": (1, 2, 1)}}),
    ("config.sweep.batch_size", "4", {"sweep": {"batch_size": 4}}),
    ("config.sweep.batch_size", "'4'", {"sweep": {"batch_size": (2, "4")}}),
    ("config.sweep.batch_size", "2.5", {"sweep": {"batch_size": (2, 2.5)}}),
    ("config.sweep.batch_size", "0", {"sweep": {"batch_size": (0, 2)}}),
    ("config.sweep.batch_size", "True", {"sweep": {"batch_size": (True,)}}),
    ("config.batch_size", "-2", {"batch_size": -2}),
    ("config.base_lr", "-0.5", {"base_lr": -0.5}),
    ("config.base_lr", "nan", {"base_lr": float("nan")}),
    ("config.base_lr", "'much'", {"base_lr": "much"}),
    ("config.sweep.base_lr", "-0.5", {"sweep": {"base_lr": (0.5, -0.5)}}),
    ("config.sweep.base_lr", "inf", {"sweep": {"base_lr": (float("inf"),)}}),
    ("config.sweep.momentum", "-0.1", {"sweep": {"momentum": (-0.1,)}}),
    ("config.rule.weight_decay", "-1", {"rule": {"name": "sgd", "weight_decay": -1.0}}),
    ("config.sweep.seed", "-1", {"sweep": {"seed": (-1,)}}),
    ("config.sweep.seed", "4294967296", {"sweep": {"seed": (2**32,)}}),
    ("config.epochs", "0", {"epochs": 0}),
    ("config.sweep.epochs", "0", {"sweep": {"epochs": (1, 0)}}),
    ("config.lr_scaling", "log", {"lr_scaling": "log"}),
    # batch sizes that do not go together
    ("config.micro_batch", "3", {"micro_batch": 3}),
    ("config.micro_batch", "2", {"micro_batch": 2, "sweep": {"batch_size": (2, 3)}}),
    ("config.micro_batch", "3", {"sweep": {"micro_batch": (3,)}}),
    ("config.micro_batch", "6", {"micro_batch": 6, "bn_batch": 4, "batch_size": 12}),
    ("config.bn_batch", "64", {"bn_batch": 64}),
    ("config.bn_batch", "4", {"sweep": {"batch_size": (2, 4), "bn_batch": (4,)}}),
    ("config.bn_batch", "5", {"bn_batch": 5}),
    ("config.bn_batch", "-4", {"bn_batch": -4, "sweep": {"batch_size": (2, 4)}}),
    ("config.micro_batch", "4", {**NORMED, "micro_batch": 4}),
    ("config.batch_size", "128", {"batch_size": 128}),
    ("config.batch_size", "128", {"sweep": {"batch_size": (2, 128)}}),
    ("config.batch_size", "two batches", {"rule": {"name": "svag"}, "batch_size": 33}),
    ("config.sweep", "possible", {"sweep": {"batch_size": (2,), "bn_batch": (4,)},
                                  "skip_impossible": True}),
    # followers
    ("config.follow.base_lr", "3.0", {"follow": {"base_lr": 3.0}}),
    ("config.follow.base_lr", "batch_size", {"follow": {"base_lr": ("batch_size", ((2, 0.1),))}}),
    ("config.follow.base_lr", "4", {"follow": {"base_lr": ("batch_size", ((2, 0.1),))},
                                    "sweep": BATCHES}),
    ("config.follow.base_lr", "-0.1", {"follow": {"base_lr": ("batch_size", ((2, 0.1), (4, -0.1)))},
                                       "sweep": BATCHES}),
    ("config.follow.base_lr", "'a'", {"follow": {"base_lr": ("batch_size", ((2, 0.1), (4, "a")))},
                                      "sweep": BATCHES}),
    ("config.follow.batch_size", "batch_size", {"follow": {"batch_size": ("seed", ((0, 4),))},
                                                "sweep": {"batch_size": (4,), "seed": (0,)}}),
    ("config.follow.nothing", "field", {"follow": {"nothing": ("seed", ((0, 2),))},
                                        "sweep": {"seed": (0,)}}),
    # names and their fields
    ("config.rule.name", "sgdd", {"rule": {"name": "sgdd"}}),
    ("config.rule.momentun", "momentum", {"rule": {"name": "sgd", "momentun": 0.9}}),
    ("config.schedule.name", "stepz", {"schedule": {"name": "stepz"}}),
    ("config.schedule.drop", "drops", {"schedule": {"name": "steps", "drop": (0.5,)}}),
    ("config.model.name", "alexnett", {"model": {"name": "alexnett"}}),
    ("config.model.hiden", "hidden", {"model": {"name": "mlp", "hiden": (3,)}}),
    ("config.sweep.model", "cnn", {"sweep": {"model": ("mlp", "cnn")}}),
    ("config.sweep.foo__bar", "engine", {"sweep": {"foo__bar": (1, 2)}}),
    ("config.sweep.engine__lane", "lanes", {"sweep": {"engine__lane": (1, 2)}}),
    ("config.sweep.rule__momentun", "momentum", {"sweep": {"rule__momentun": (0.5,)}}),
    ("config.data.name", "cifar11", {"data": {"name": "cifar11"}}),
    ("config.data.train_size", "5000", {"data": {"name": "digits", "train_size": 5000}}),
    # how to compute
    ("config.engine.strategy", "pmap", {"engine": {"strategy": "pmap"}}),
    ("config.engine.strategy", "map:0", {"engine": {"strategy": "map:0"}}),
    ("config.engine.convolution", "fft", {"engine": {"convolution": "fft"}}),
    ("config.engine.lanes", "0", {"engine": {"lanes": 0}}),
    ("config.engine.memory_gb", "-1", {"engine": {"memory_gb": -1.0}}),
    ("config.engine.precision", "float16", {"engine": {"precision": "float16"}}),
    ("config.evaluate", "3", {"evaluate": 3}),
    ("config.evaluate.every", "0", {"evaluate": {"every": 0}}),
    ("config.evaluate.statistics", "mean", {"evaluate": {"statistics": "mean"}}),
    ("config.checkpoint.keep", "0", {"checkpoint": {"keep": 0}}),
    ("config.report.last_epochs", "0", {"report": {"last_epochs": 0}}),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value", "config"), BAD)
def test_refusals_name_field_value_and_remedy(field, value, config):
    with pytest.raises(UserError) as caught:
        prepare({**TINY, **config}, Parts())
    assert caught.value.field == field
    assert value in f"{caught.value.problem} {caught.value.remedy}"
    assert len(caught.value.remedy) > 7
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_the_remedy_of_a_misspelt_field_is_the_nearest_name():
    with pytest.raises(UserError, match="did you mean batch_size"):
        prepare({**TINY, "batch_sise": 4}, Parts())


def test_a_swept_path_is_a_field():
    """Axes of sections that have no names of their own."""
    grid = grid_of(sweep={"statistics": ("running", "batch"), "evaluate__every": (1, 2)})
    assert [grid.config_of(run).evaluate.every for run in grid.runs] == [1, 2, 1, 2]


# --- strategies ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lanes", "convolution", "usual", "wanted"),
    [
        ("auto", "auto", Strategy(1, "packed"), "map/packed"),
        ("auto", "im2col", Strategy(1, "packed"), "map/im2col"),
        ("vmap", "auto", Strategy(1, "packed"), "vmap/im2col"),
        ("vmap", "stock", Strategy(1, "packed"), "vmap/stock"),
        ("map", "auto", Strategy(0, "im2col"), "map/im2col"),
        ("map", "direct", Strategy(0, "im2col"), "map/direct"),
        ("map:7", "auto", Strategy(1, "packed"), "map:7/im2col"),
        ("map:7", "direct", Strategy(0, "im2col"), "map:7/direct"),
    ],
)
def test_a_config_can_force_a_strategy_or_a_part_of_it(lanes, convolution, usual, wanted):
    assert str(parse(lanes, convolution, usual)) == wanted


@pytest.mark.parametrize(
    ("platform", "flops", "lanes", "wanted"),
    [
        ("cpu", 1e9, 108, "map/packed"),
        ("cpu", 1e5, 16, "vmap/im2col"),
        ("cpu", 1e5, 108, "map:12/im2col"),  # no lane idles
        ("cpu", 1e5, 107, "map:12/im2col"),  # one does, of 16 at once five would
        ("gpu", 1e9, 108, "vmap/im2col"),
    ],
)
def test_the_usual_strategy(platform, flops, lanes, wanted):
    found = heuristic(facts(flops=flops)(None), platform, lanes)
    assert str(found) == wanted


def test_measuring_passes_over_what_does_not_run(monkeypatch):
    """A strategy may need too much memory, or a kernel that a compiler refuses."""
    seconds = {"vmap/im2col": 3.0, "map/packed": 2.0, "map/im2col": 5.0}

    def make_engine(placed, size, strategy):
        if str(strategy) not in seconds:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED\nlong story")
        return SimpleNamespace(strategy=strategy, close=lambda: None)

    monkeypatch.setattr(fit, "make_engine", make_engine)
    monkeypatch.setattr(fit, "time_ticks", lambda engine: seconds[str(engine.strategy)])
    wanted = SimpleNamespace(strategy="measure", convolution="auto")
    cohort = SimpleNamespace(
        config=SimpleNamespace(engine=wanted),
        facts=facts(flops=1e9)(None),
        sharding=SimpleNamespace(devices=1),
    )
    placed = Placed(cohort, None, make_mesh(), None)  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="map:16/im2col does not run here: RESOURCE_EXHAUSTED$"):
        chosen = fit.choose_strategy(placed, 4)
    assert str(chosen) == "map/packed"


def test_ten_thousand_lanes_a_device_at_most_unless_the_config_says():
    placed = SimpleNamespace(
        rows=2, cohort=SimpleNamespace(config=SimpleNamespace(engine=SimpleNamespace(lanes=None)))
    )
    assert fit.most_lanes(placed, 19_999) == 20_000
    assert fit.most_lanes(placed, 30_000) == 15_000  # passes of one size
    assert fit.most_lanes(placed, 10**6) == 20_000
    assert fit.most_lanes(placed, 10, least=16) == 16
    assert fit.most_lanes(placed, 0) == 0
    placed.cohort.config.engine.lanes = 30_000
    assert fit.most_lanes(placed, 10**6) == 30_000


# --- cohorts -------------------------------------------------------------------------------------


def facts(**fields):
    """A model that planning knows only by these facts: small, without batch norm or dropout."""
    usual = {"parameters": 100, "parameter_bytes": 400, "flops": 1e5}
    usual |= {"batch_statistics": False, "dropout": False, "num_examples": 512}
    return lambda config: ModelFacts(**{**usual, **fields})


BIG = {"parameters": 10**7, "parameter_bytes": 4 * 10**7, "flops": 1e7}


def cohorts_of(facts_of, one=False, **fields):
    """(micro-batch, batch sizes) of every cohort."""
    made = make_cohorts(grid_of(**fields), facts_of, one_micro_batch=one)
    return [(cohort.micro_batch, cohort.batch_sizes) for cohort in made]


POWERS = {"batch_size": (4, 8, 16, 32, 64)}


def test_without_batch_norm_all_batch_sizes_share_a_program():
    assert cohorts_of(facts(), sweep=POWERS) == [(4, (4, 8, 16, 32, 64))]
    assert cohorts_of(facts(), sweep={"batch_size": (6, 9, 15)}) == [(3, (6, 9, 15))]
    assert cohorts_of(facts(), sweep={"batch_size": (2, 3)}) == [(1, (2, 3))]
    assert cohorts_of(facts(), batch_size=128) == [(32, (128,))]


def test_a_large_model_takes_larger_micro_batches_each_its_own_program():
    wanted = [(4, (4,)), (8, (8,)), (16, (16,)), (32, (32, 64, 96))]
    sizes = {"batch_size": (4, 8, 16, 32, 64, 96)}
    assert cohorts_of(facts(**BIG), sweep=sizes) == wanted
    # On accelerators, many lanes pay more.
    assert cohorts_of(facts(**BIG), one=True, sweep=sizes) == [(4, sizes["batch_size"])]


def test_batch_norm_over_the_whole_batch_is_a_cohort_per_batch_size():
    normed = facts(batch_statistics=True)
    runs = {"batch_size": (4, 64), "seed": (0, 1)}
    assert cohorts_of(normed, sweep=runs) == [(4, (4, 4)), (64, (64, 64))]
    assert cohorts_of(normed, one=True, sweep=runs) == [(4, (4, 4)), (64, (64, 64))]


def test_a_given_batch_norm_batch_is_one_cohort_for_all_batch_sizes():
    normed = facts(batch_statistics=True)
    assert cohorts_of(normed, bn_batch=4, sweep=POWERS) == [(4, (4, 8, 16, 32, 64))]
    assert cohorts_of(normed, bn_batch=2, micro_batch=4, sweep=POWERS) == [(4, (4, 8, 16, 32, 64))]
    column = cohorts_of(
        normed, sweep={"batch_size": (4, 8), "bn_batch": (2, 4, 8)}, skip_impossible=True
    )
    assert sorted(column) == [(2, (4, 8)), (4, (4, 8)), (8, (8,))]


def test_dropout_masks_do_not_depend_on_the_rest_of_the_grid():
    """They are drawn per tick, so that g may depend on the run's own m only."""
    alone = {m: cohorts_of(facts(dropout=True), sweep={"batch_size": (m,)})[0][0]
             for m in POWERS["batch_size"]}  # fmt: skip
    for one in (False, True):
        together = cohorts_of(facts(dropout=True), one, sweep=POWERS)
        assert {m: g for g, sizes in together for m in sizes} == alone


def test_numbers_share_a_program_and_structure_does_not():
    sweep = {"base_lr": (0.1, 0.2), "momentum": (0.0, 0.9), "weight_decay": (0.0, 0.1),
             "seed": (0, 1), "warmup": (0.0, 0.1), "case": ("a", "b")}  # fmt: skip
    (cohort,) = make_cohorts(grid_of(sweep=sweep), facts())
    assert len(cohort.runs) == 64
    structure = {"hidden": ((3,), (4,)), "epochs": (1, 2), "nesterov": (False, True)}
    made = make_cohorts(grid_of(sweep={**structure, "base_lr": (0.1, 0.2)}), facts())
    assert len(made) == 8
    assert all(len(cohort.runs) == 2 for cohort in made)
    assert {(c.config.model.hidden, c.config.epochs, c.config.rule.nesterov) for c in made} == {
        (h, e, n) for h in ((3,), (4,)) for e in (1, 2) for n in (False, True)
    }


def test_every_run_is_in_one_cohort():
    axes = {"batch_size": (2, 4, 8), "bn_batch": (2, 4), "seed": (0, 1)}
    grid = grid_of(sweep=axes, skip_impossible=True)
    made = make_cohorts(grid, facts(batch_statistics=True))
    indices = [run.index for cohort in made for run in cohort.runs]
    assert sorted(indices) == [run.index for run in grid.runs]
    assert len(set(indices)) == len(indices) == 10


@pytest.mark.parametrize(("n", "g", "epochs"), [(10, 4, 3), (12, 4, 2), (7, 6, 5), (9, 9, 2)])
def test_ticks_of_an_epoch(n, g, epochs):
    """Tick t begins at example t g of the stream, in epoch t g // n; no part of a tick is run."""
    (cohort,) = make_cohorts(
        grid_of(batch_size=g, micro_batch=g, epochs=epochs), facts(num_examples=n)
    )
    starts = [t * g // n for t in range(n * epochs // g)]
    assert cohort.ticks == len(starts)
    for epoch in range(epochs):
        begin, end = cohort.first_tick(epoch), cohort.first_tick(epoch + 1)
        assert end - begin == starts.count(epoch)
        assert starts[begin:end] == [epoch] * (end - begin)


def test_numbers_of_a_field_that_may_be_none_share_a_program():
    """What the config leaves at None, and the runs set; those that leave it share another."""
    lives = {"scaling__b2_examples": (10.0, 20.0, 40)}
    adam = {**TINY, "rule": {"name": "adam"}, "scaling": {"name": "half_life"}}
    (cohort,) = prepare({**adam, "sweep": lives}, Parts()).cohorts
    lanes = make_lanes(cohort, range(3))
    np.testing.assert_array_equal(lanes.hyper.scaling["b2_examples"], (10, 20, 40))
    for momentum in (None, 0.3):
        config = {**TINY, "rule": {"name": "sngm", "momentum": momentum}}
        sweep = {"rule__momentum": (None, 0.5, 0.9)}
        without, by = prepare({**config, "sweep": sweep}, Parts()).cohorts
        assert (len(without.runs), len(by.runs)) == (1, 2)
        found = make_lanes(by, range(2)).hyper.rule["momentum"]
        np.testing.assert_allclose(found, (0.5, 0.9))
        assert "momentum" not in make_lanes(without, [0]).hyper.rule


def test_facts_of_real_models():
    """Counted by hand: a dense layer of 16 x 4 + 4, one of 4 x 10 + 10; batch norm: 2 x 4."""
    (plain,) = prepare(TINY, Parts()).cohorts
    (normed,) = prepare({**TINY, **NORMED}, Parts()).cohorts
    assert plain.facts.parameters == 16 * 4 + 4 + 4 * 10 + 10
    assert plain.facts.parameter_bytes == 4 * plain.facts.parameters
    assert normed.facts.parameters == 16 * 4 + 2 * 4 + 4 * 10 + 10
    assert (plain.facts.batch_statistics, normed.facts.batch_statistics) == (False, True)
    assert not plain.facts.dropout
    # Two operations per weight: forward, its gradient, and (not in the first layer) the input's.
    dense = 2 * 16 * 4 * 2 + 2 * 4 * 10 * 3
    assert dense <= plain.facts.flops <= 1.5 * dense
    assert plain.facts.num_examples == 64
    images = np.zeros((8, 32, 32, 3), np.uint8)
    labels = np.arange(8)
    data = from_arrays(images, labels, images, labels)
    (dropping,) = prepare(
        {"model": {"name": "alexnet_dropout"}, "batch_size": 4}, Parts(None, data)
    ).cohorts
    assert dropping.facts.dropout
