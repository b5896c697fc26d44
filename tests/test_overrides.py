"""Fields set on the command line: what a text means, and which of several holds."""

import doctest
import math
import time

import pytest

import sbt.overrides
from sbt.config import default
from sbt.errors import UserError
from sbt.overrides import apply_overrides, axis, value_of
from sbt.sweep.grid import make_grid
from sbt.usage import split_overrides


def test_doctests():
    assert doctest.testmod(sbt.overrides).failed == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3", -3),
        ("0x10", 16),
        ("1_000", 1000),
        ("1e-3", 1e-3),
        ("2**-8", 2.0**-8),
        ("3*2**-4 - 1/8", 3 / 16 - 1 / 8),
        ("(2**-8, -2**-6)", (2.0**-8, -(2.0**-6))),
        ("[1, (2, 3)]", (1, (2, 3))),
        ("{2: 0.5, 4: 0.25}", ((2, 0.5), (4, 0.25))),
        ("range(2, 8, 3)", range(2, 8, 3)),
        ("true", True),
        ("None", None),
        ("'a b'", "a b"),
        ("sgd", "sgd"),
        ("inf", math.inf),
        # what is no value is a text, and refused where a number is wanted
        ("map:4", "map:4"),
        ("2**", "2**"),
        ("1/0", "1/0"),
        ("(-1)**0.5", "(-1)**0.5"),
        ("'a'*3", "'a'*3"),
        ("2**True", "2**True"),
        ("abs(-1)", "abs(-1)"),
        ("().__class__", "().__class__"),
    ],
)
def test_values(text, value):
    assert value_of(text) == value
    assert type(value_of(text)) is type(value)


@pytest.mark.parametrize("text", ["10**10**10", "9**9**9**9", "(" * 10**5, "-" * 10**4 + "1"])
def test_arithmetic_has_bounds(text):
    begin = time.monotonic()
    assert value_of(text) == text
    assert time.monotonic() - begin < 1


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("(0., .9)", (0.0, 0.9)),
        ("0,1,2", (0, 1, 2)),
        ("3", (3,)),
        ("sgd", ("sgd",)),
        ("sgd,sngm", ("sgd", "sngm")),
        ("lr, lr-batch", ("lr", "lr-batch")),
        ("(lr-batch, 'beta')", ("lr-batch", "beta")),
        ("((8, 16), (4,))", ((8, 16), (4,))),
        ("range(3)", range(3)),
        ("None", None),
        ("()", ()),
        ("", ()),
    ],
)
def test_axes(text, values):
    assert axis(text) == values


def test_any_axis_and_what_follows_it():
    config = apply_overrides(
        {},
        [
            "--config.sweep.rule=sgd,sngm",
            "--config.sweep.momentum=(0., .9)",
            "--config.sweep.warmup=0,2**-4",
            "--config.sweep.rule__decay_mask=all,kernels",
            '--config.follow.base_lr=("rule", (("sgd", 2**-6), ("sngm", 0.5)))',
        ],
    )
    grid = make_grid(config)
    assert dict(grid.axes) == {
        "momentum": (0.0, 0.9),
        "rule": ("sgd", "sngm"),
        "warmup": (0, 0.0625),
        "rule__decay_mask": ("all", "kernels"),
    }
    assert {r.settings["base_lr"] for r in grid.runs} == {2.0**-6, 0.5}
    assert make_grid(apply_overrides(config, ["--config.follow.base_lr=None"])).runs
    ranged = apply_overrides({}, ["--config.sweep.seed=range(3)"])
    assert make_grid(ranged).axes == {"seed": (0, 1, 2)}


OPTIONAL = {
    "data.data_dir": "/data",
    "data.train_size": 8,
    "micro_batch": 4,
    "bn_batch": 4,
    "evaluate.batch": 8,
    "engine.memory_gb": 2.0,
    "engine.lanes": 2,
    "measure.examples": 8,
    "report.curves_base_lr": 0.5,
    "sweep.seed": (0, 1),
    "sweep.rule": ("sgd", "sngm"),
    "rule.momentum": 0.5,
}


@pytest.mark.parametrize("path", OPTIONAL)
def test_none_unsets_what_is_optional(path):
    config, (*sections, leaf) = default(), path.split(".")
    section = config[sections[0]] if sections else config
    section[leaf] = OPTIONAL[path]
    assert _get(apply_overrides(config, []), path) == OPTIONAL[path]
    assert _get(apply_overrides(config, [f"--config.{path}=None"]), path) is None


def _get(config, path):
    for part in path.split("."):
        config = config[part]
    return config


def test_the_last_of_several_holds_and_names_come_first():
    config = apply_overrides(
        {"rule": {"name": "sgd", "momentum": 0.5}},
        [
            "--config.rule.b1=0.5",
            "--config.rule.name=sngm",
            "--config.rule.name=adam",
            "--config.epochs=3",
            "--config.epochs=0x10",
        ],
    )
    assert (config.rule.name, config.rule.b1, config.epochs) == ("adam", 0.5, 16)
    assert "momentum" not in config.rule
    again = apply_overrides(config, ["--config.rule.name=adam"])  # the same: its fields stay
    assert again.rule.b1 == 0.5


def test_texts_numbers_and_truth_values():
    config = apply_overrides(
        {},
        [
            "--config.base_lr=1",
            "--config.case=2**3",
            "--config.name='mine'",
            "--config.measure.where=",
            "--config.measure=sharpness,strides",
            "--config.data.stream=true",
            "--config.rule.nesterov=1",
            "--config.model.channels=4,8",
        ],
    )
    assert config.base_lr == 1.0 and isinstance(config.base_lr, float)
    assert (config.case, config.name, config.measure.where) == ("2**3", "mine", "")
    assert config.measure.names == ("sharpness", "strides")
    assert config.data.stream is True and config.rule.nesterov is True
    assert config.model.channels == (4, 8)
    assert apply_overrides(config, ["--config.measure="]).measure.names == ()


@pytest.mark.parametrize(
    ("override", "field", "says"),
    [
        ("--config.epochs=1.0", "config.epochs", "whole number"),
        ("--config.epochs=many", "config.epochs", "'many' is not a whole number"),
        ("--config.epochs=", "config.epochs", "'' is not a whole number"),
        ("--config.epochs=None", "config.epochs", "None is not a whole number"),
        ("--config.base_lr=10**400", "config.base_lr", "out of range"),
        ("--config.data.stream=yes", "config.data.stream", "True or False"),
        ("--config.rule=sgd", "--config.rule", "--config.rule.name=VALUE"),
        ("--config.sweep=3", "--config.sweep", "--config.sweep.batch_size=VALUE"),
        ("--config.model.nothing=3", "--config.model.nothing", "channels"),
        ("--config.engine.lane=3", "--config.engine.lane", "lanes"),
        ("--config.epochs.x=3", "--config.epochs", "Known"),
        ("--config.measure.sharpnes.steps=3", "--config.measure.sharpnes", "sharpness"),
        ("--config.lr_scaling=Linear", "config.lr_scaling", "linear"),
        ("--config.=3", "--config.=3", "FIELD"),
    ],
)
def test_refusals(override, field, says):
    with pytest.raises(UserError) as caught:
        apply_overrides({}, [override])
    assert caught.value.field == field
    assert says in f"{caught.value.problem} {caught.value.remedy}"


def test_overrides_among_other_arguments():
    arguments = [
        "a.py",
        "--config.seed=1",
        "--workdir",
        "d",
        "--config.name",
        "x",
        "--config.a=b=c",
    ]
    rest, overrides = split_overrides(arguments)
    assert rest == ["a.py", "--workdir", "d"]
    assert overrides == ["--config.seed=1", "--config.name=x", "--config.a=b=c"]
    with pytest.raises(UserError, match=r"write --config\.seed=VALUE"):
        split_overrides(["--config.seed"])
