"""Claims about any variable, on numbers that are written down: each holds, fails, or stays open."""

import numpy as np
import pytest
import xarray as xr

from sbt.config import from_json, to_json
from sbt.report import FAILS, HOLDS, OPEN, View, statements, verdicts
from sbt.report.claims import CLAIMS, scope_of
from sbt.tasks.score import Score

SIZES = (2, 8, 32, 128)
RATES = (0.1, 0.2, 0.4)
LOSS = Score("loss", False, np.inf, 5.5, "", False, "loss")


def view(value, noise=0.0, seeds=4, config=None, **axes):
    """Results that hold ``x``, a function of the axes: what a seed adds everywhere pairs away."""
    random = np.random.default_rng(1)
    own = 0.1 * random.normal(size=seeds)
    axes = axes or {"batch_size": SIZES}
    x = np.empty((*map(len, axes.values()), seeds))
    for place in np.ndindex(x.shape[:-1]):
        point = {name: values[i] for (name, values), i in zip(axes.items(), place, strict=True)}
        x[place] = value(**point) * np.exp(own) * np.exp(noise * random.normal(size=seeds))
    grid = [axis for axis in axes if axis not in ("epoch", "layer")]
    shape = tuple(len(axes[axis]) for axis in grid)
    flat = ((*grid, "seed"), np.ones((*shape, seeds)))
    found = xr.Dataset(
        {
            "x": ((*axes, "seed"), x),
            "loss": flat,
            "finished": flat,
            "diverged": (flat[0], flat[1] < 0),
        },
        coords={**{name: list(values) for name, values in axes.items()}, "seed": range(seeds)},
        attrs={**LOSS.attrs, "config": to_json(config or {"lr_scaling": "none"})},
    )
    return View(found)


def outcome(claim, grid, *args, **named):
    """The verdict of a claim as results carry it: through JSON, by its name."""
    config = from_json(to_json({"report": {"claims": (claim("So it is", "x", *args, **named),)}}))
    ((name, arguments),) = config.report.claims
    (verdict,) = CLAIMS[name].judged(grid, arguments)
    assert verdict.claim == "So it is" and verdict.numbers
    return verdict


ENDS = {"more": {"batch_size": "last"}, "less": {"batch_size": "first"}}


def power(p):
    return lambda batch_size, **_: float(batch_size) ** p


@pytest.mark.parametrize(
    "claim, named, holds, fails",
    [
        (statements.exceeds, ENDS, power(0.5), power(-0.5)),
        (statements.exceeds, {**ENDS, "margin": -0.1}, power(0.0), power(-2.0)),
        # 64 times the batch: 8 = √64 times as much
        (statements.ratio_at_least, {**ENDS, "factor": 7.9}, power(0.5), power(0.49)),
        (
            statements.nearly_equal,
            {"one": {"batch_size": 2}, "other": {"batch_size": 8}, "margin": 1e-3},
            power(0.0),
            power(1.0),
        ),
        (statements.falls, {"along": "batch_size"}, power(-0.3), power(0.3)),
        (statements.rises, {"along": "batch_size"}, power(0.3), power(0.0)),
        (
            statements.slope_in,
            {"along": "batch_size", "low": -0.55, "high": -0.45},
            power(-0.5),
            power(-1.0),
        ),
        (
            statements.slope_in,
            {"along": "batch_size", "low": -0.55, "high": -0.45, "between": (2, 32)},
            lambda batch_size: max(batch_size, 1) ** -0.5 if batch_size <= 32 else 7.0,
            lambda batch_size: 1.0 if batch_size <= 32 else 1e-9,
        ),
        (statements.spans, {"along": "batch_size", "factor": 60}, power(1.0), power(0.5)),
        (
            statements.best_lies_among,
            {"along": "batch_size", "values": (2, 8), "best": "highest"},
            power(-1.0),
            power(1.0),
        ),
        (
            statements.best_lies_among,
            {"along": "batch_size", "values": "inner", "best": "lowest"},
            lambda batch_size: (np.log2(batch_size) - 4) ** 2 + 1,
            power(1.0),
        ),
    ],
)  # fmt: skip
def test_of_a_sweep_of_batch_sizes(claim, named, holds, fails):
    assert outcome(claim, view(holds, 1e-6), **named).verdict == HOLDS
    assert outcome(claim, view(fails, 1e-6), **named).verdict == FAILS
    few = outcome(claim, view(holds, 1e-6, seeds=2), **named)
    assert few.verdict == OPEN and "2 of at least 3 seeds" in few.numbers
    one, other = view(holds, 1e-6).ds, view(fails, 1e-6).ds
    apart = View(one.assign(x=one.x.where(one.seed % 2 == 0, other.x)))  # seeds that disagree
    assert outcome(claim, apart, **named).verdict == OPEN


def test_of_a_range():
    grid = view(lambda batch_size: 1.0, seeds=4)
    x = grid.ds["x"].isel(batch_size=0).values
    low, high = x.min(), x.max()
    wide = {"at": {"batch_size": 2}}
    assert outcome(statements.lies_in, grid, low=-1e3, high=1e3, **wide).verdict == HOLDS
    assert outcome(statements.lies_in, grid, low=1e3, **wide).verdict == FAILS
    assert outcome(statements.lies_in, grid, low=(low + high) / 2, **wide).verdict == OPEN


@pytest.mark.parametrize(("grows", "verdict"), [(1.0, HOLDS), (-1.0, FAILS)])
def test_of_a_gap(grows, verdict):
    axes = {"rule": ("sgd", "sngm"), "batch_size": SIZES}
    places = {"more": {"rule": "sngm"}, "less": {"rule": "sgd"}, "along": "batch_size"}

    def value(rule, batch_size):
        return 1.0 + (rule == "sngm") * batch_size**grows

    assert outcome(statements.gap_grows, view(value, 1e-9, **axes), **places).verdict == verdict
    assert outcome(statements.gap_grows, view(value, 3.0, **axes), **places).verdict == OPEN


def test_of_scatter():
    """Standard deviations over seeds in the ratio 1 : 10, 10 : 1, and 1 : 1."""
    base = view(lambda batch_size: 1.0, seeds=8, batch_size=(2, 8))
    noise = np.random.default_rng(0).normal(size=(2, 8))

    def grid(a, b):
        return View(base.ds.assign(x=(("batch_size", "seed"), noise * [[a], [b]])))

    places = {"less": {"batch_size": 2}, "more": {"batch_size": 8}}
    for scales, verdict in (((1, 10), HOLDS), ((10, 1), FAILS), ((1, 1), OPEN)):
        assert outcome(statements.scatters_less, grid(*scales), **places).verdict == verdict
    # All runs at chance: their mean is not one of them, and rounding leaves a deviation.
    stuck = View(base.ds.assign(x=(("batch_size", "seed"), np.stack([noise[0], np.full(8, 0.1)]))))
    told = outcome(statements.scatters_less, stuck, **places)
    assert told.verdict == OPEN and "all seeds are equal" in told.numbers


@pytest.mark.parametrize(
    ("exponent", "noise", "verdict"), [(-1, 1e-9, HOLDS), (-0.5, 1e-9, FAILS), (-1, 2.0, OPEN)]
)
def test_of_where_something_breaks(exponent, noise, verdict):
    """Nothing is lost up to a batch of 1024 L^exponent."""
    axes = {"smoothness": (1, 4, 16), "batch_size": tuple(2**k for k in range(1, 15))}

    def value(smoothness, batch_size):
        return 1 + max(0.0, batch_size / (1024.0 * smoothness**exponent) - 1)

    found = outcome(
        statements.break_exponent_in, view(value, noise, **axes),
        along="batch_size", across="smoothness", low=-1.25, high=-0.75,
    )  # fmt: skip
    assert found.verdict == verdict
    if noise < 1 and exponent == -1:
        assert "breaks at 1024, 256, 64" in found.numbers


@pytest.mark.parametrize(
    ("exponent", "noise", "verdict"), [(-2, 1e-9, HOLDS), (-1, 1e-9, FAILS), (-2, 1.0, OPEN)]
)
def test_of_where_something_is_best(exponent, noise, verdict):
    """b + b*²/b is symmetric about b* = 64 ε^exponent on logarithmic axes."""
    axes = {"tolerance": (0.5, 1, 2), "batch_size": tuple(2**k for k in range(1, 12))}

    def value(tolerance, batch_size):
        best = 64.0 * tolerance**exponent
        return batch_size + best**2 / batch_size

    place = {"along": "batch_size", "across": "tolerance", "low": -2.25, "high": -1.75}
    found = outcome(statements.best_exponent_in, view(value, noise, **axes), best="lowest", **place)
    assert found.verdict == verdict
    if noise < 1 and exponent == -2:
        assert "best at 256, 64, 16" in found.numbers
    at_the_end = outcome(statements.best_exponent_in, view(value, 1e-9, **axes), **place)
    assert at_the_end.verdict == OPEN and "end of batch_size" in at_the_end.numbers


def test_a_tuned_axis_is_chosen_by_the_other_seeds():
    """At the best rate of each batch size, 0.4 at the last one, the larger batch has more."""
    axes = {"batch_size": SIZES, "base_lr": RATES}

    def value(batch_size, base_lr):
        best = 0.1 if batch_size < 100 else 0.4
        return batch_size / 100 if base_lr == best else batch_size / 1e4

    tuned = {"tune": "base_lr", "best": "highest"}
    found = outcome(
        statements.ratio_at_least, view(value, 1e-6, **axes), **ENDS, factor=63, **tuned
    )
    assert found.verdict == HOLDS
    untuned = outcome(statements.ratio_at_least, view(value, 1e-6, **axes), **ENDS, factor=63)
    assert untuned.verdict == FAILS and "base lr" in untuned.numbers.replace("_", " ")
    chosen = statements.numbers(view(value, **axes), "x", {"batch_size": 128}, (), "base_lr")
    assert chosen.dims == ("seed",)


def test_two_variables_of_one_place():
    grid = view(power(1.0))
    both = View(grid.ds.assign(y=3 * grid.ds.x))
    named = {"more": {"variable": "y"}, "less": {}, "at": {"batch_size": 8}}
    assert outcome(statements.ratio_at_least, both, **named, factor=2.9).verdict == HOLDS
    assert outcome(statements.ratio_at_least, both, **named, factor=3.1).verdict == FAILS


def test_epochs():
    """The last one counts; with "all", every one."""
    axes = {"batch_size": (2, 8), "epoch": (1, 2, 3)}
    grid = view(
        lambda batch_size, epoch: 2.0 if (batch_size, epoch) == (8, 1) else 1.0, 1e-9, **axes
    )
    pair = {"one": {"batch_size": 2}, "other": {"batch_size": 8}, "margin": 1e-3}
    assert outcome(statements.nearly_equal, grid, **pair).verdict == HOLDS
    found = outcome(statements.nearly_equal, grid, **pair, at={"epoch": "all"})
    assert found.verdict != HOLDS


@pytest.mark.parametrize("finished, verdict", [(1.0, HOLDS), (0.0, OPEN)])
def test_the_last_epoch_is_that_of_each_run(finished, verdict):
    """Runs that are shorter end before the file does; one that was interrupted has not ended."""
    ends = xr.DataArray([2, 4], dims="batch_size", coords={"batch_size": [2, 8]})
    grid = view(lambda batch_size, epoch: float(epoch), batch_size=(2, 8), epoch=(1, 2, 3, 4))
    ds = grid.ds.assign(x=grid.ds["x"].where(grid.ds["epoch"] <= ends))
    ds["epochs_done"] = ds["finished"].copy(data=np.ones((2, 4))) * ends
    ds["finished"] = ds["finished"] * xr.where(ds["batch_size"] == 2, finished, 1.0)
    found = outcome(statements.ratio_at_least, View(ds), factor=1.9, **ENDS)
    assert found.verdict == verdict
    assert found.numbers.startswith("2 [") == (verdict == HOLDS), found.numbers


def test_what_the_results_cannot_decide_says_why():
    grid = view(power(1.0))
    for named, why in (
        ({"more": {"batch_size": 3}, "less": {"batch_size": 2}}, "has no 3"),
        ({**ENDS, "at": {"space": "full"}}, "do not vary space"),
    ):
        found = outcome(statements.exceeds, grid, **named)
        assert found.verdict == OPEN and why in found.numbers
    missing = View(grid.ds.assign(x=grid.ds.x.where(grid.ds.batch_size > 2)))
    assert "4 of 4 numbers are missing" in outcome(statements.exceeds, missing, **ENDS).numbers
    none = View(grid.ds.drop_vars("x"))
    assert "hold no 'x'" in outcome(statements.falls, none, along="batch_size").numbers


def test_the_scope_of_less_than_the_protocol():
    """Trials, settings and momentum are told where they are less than the source's."""
    protocol = (("seeds", 5), ("settings", (("model.width", 512),)), ("epochs", 1),
                ("momentum", 0.9), ("data", "digits"), ("model", ("mlp",)))  # fmt: skip
    config = {
        "model": {"name": "mlp", "width": 128},
        "rule": {"name": "sgd", "momentum": 0.9},
        "report": {"protocol": protocol, "last_epochs": 5},
        "epochs": 1,
    }
    words, less = scope_of(view(power(1.0), config=config))
    assert less and "4 of 5 seeds" in words
    assert "model.width 128 instead of 512" in words and "momentum" not in words


def test_a_momentum_that_follows_an_axis_is_not_told_as_another():
    protocol = (("momentum", 0.9), ("data", "digits"), ("epochs", 1))
    config = {
        "rule": {"name": "sgd"},
        "follow": {"rule__momentum": ("rule", (("sgd", 0.9),))},
        "report": {"protocol": protocol},
    }
    assert "momentum" not in scope_of(view(power(1.0), config=config))[0]
    del config["follow"]
    assert "momentum 0" in scope_of(view(power(1.0), config=config))[0]


def test_a_value_of_its_own_comes_before_the_word():
    """The layer "all" is one of the layers: those beside it, which fail, are not meant."""
    grid = view(
        lambda batch_size, layer: batch_size if layer == "all" else 1 / batch_size,
        batch_size=SIZES,
        layer=("a", "all", "b"),
    )
    ends = {"more": {"batch_size": "last"}, "less": {"batch_size": "first"}}
    assert outcome(statements.exceeds, grid, **ends, at={"layer": "all"}).verdict == HOLDS
    assert outcome(statements.exceeds, grid, **ends).verdict != HOLDS


def test_they_are_judged_once_on_the_whole_grid():
    """Not slice by slice along the axes that other claims do not know."""
    claims = (statements.ratio_at_least("Sharper", "x", factor=2, at={"layer": "all"}, **ENDS),)
    axes = {"batch_size": SIZES, "rule": ("a", "b"), "layer": (0, 1)}
    grid = view(
        lambda batch_size, **_: batch_size, 1e-9, config={"report": {"claims": claims}}, **axes
    )
    (found,) = (v for v in verdicts(grid) if v.claim == "Sharper")
    assert found.verdict == HOLDS and found.subject == "" and "rule a, layer 0" in found.numbers
