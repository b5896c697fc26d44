"""Every field of the config, given what nobody means: refused in plain words, or a valid config."""

import itertools
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from sbt import config as configs
from sbt.checks import validate
from sbt.config import FIELDS, SECTIONS, complete, from_json, to_json
from sbt.errors import UserError
from sbt.measure import MEASUREMENTS
from sbt.overrides import apply_overrides
from sbt.ranges import Range
from sbt.sweep.grid import make_grid
from sbt.sweep.prepare import prepare
from sbt.sweep.problem import Parts


class Hostile:
    """An object that cannot even be shown."""

    def __repr__(self):
        raise RuntimeError("no")


HOSTILE = (
    *(None, True, False, 0, 1, -1, 2, 0.0, -0.0, 0.5, 1.0, 1.5, -0.1, 1e308, 10**20, 10**400),
    *(-(10**400), 10**5000, float("nan"), float("inf"), -float("inf"), 1j, 5e-324, 2**31, 2**63),
    *(
        "",
        "abc",
        "None",
        "..",
        "a/b",
        "\0",
        "\n",
        "\ud800",
        "(",
        "x" * 10**5,
        "1",
        "𝜂",
        b"",
        b"abc",
    ),
    *((), (1,), ("a",), (0.5, 0.5), (-1,), (None,), (1, "a"), ((1,), 2), [], [1], {}, {"name": 1}),
    *({"a": {"b": 1}}, {1: 2}, set(), {1}, frozenset({2}), object(), Hostile(), int, len),
    *(range(3), range(10**12), iter((1,)), (i for i in (1, 2)), slice(3), Ellipsis, NotImplemented),
    *(np.float32(0.5), np.int64(3), np.bool_(True), np.str_("a"), np.array(1), np.array([1, 2])),
    *(np.zeros((2, 0)), np.array([1j]), np.array(["a"]), np.datetime64("2020-01-01")),
    *(np.array([None, object()]), jnp.ones(()), jnp.arange(3), SimpleNamespace(shape=3), ...),
)
TEXTS = (
    *("", " ", "abc", "None", "none", "True", "true", "0", "1", "-1", "1.5", "1e-3", "2**-8"),
    *("0x10", "nan", "inf", "-inf", "1e999", "10**20", "10**400", "10**10**10", "9" * 5000),
    *("1/0", "(-1)**.5", "()", "(1,)", "(1, 2", "[", "[1, 2]", "{}", "{1: 2}", "'a'", '"a', ","),
    *("'a', 'b'", "a,b", ";", "lambda: 1", "__import__('os')", "range(3)", "range(10**12)", "1j"),
    *("f'{1}'", "1 if 1 else 2", "(" * 1000, "-" * 5000 + "1", "\0", "\n", "é", "a b", "b'a'"),
    *("--config.seed=1", "=", "..."),
)


def tells(field, call, start="config"):
    """What a call gives, or None where it is clearly refused: the message names the field."""
    try:
        return call()
    except UserError as error:
        message = f"{error.field}: {error.problem} {error.remedy}"
        assert error.field.removeprefix("--").startswith(start), message
        named = field.split(".")[-1] in error.field or error.field in f"config.{field}"
        assert named or f"config.{field} " in error.remedy, message
        assert error.problem and len(error.remedy) > 5 and len(message) < 3000, message
        for jargon in ("literal", "malformed", "override", "NoneType", "unhashable"):
            assert jargon not in message, message
        return None


def nested(path, value):
    """``a.b`` -> {"a": {"b": value}}."""
    for part in reversed(path.split(".")):
        value = {part: value}
    return value


def checked(config):
    """As far as nothing has to be loaded or traced: complete, valid, a grid, and JSON and back."""
    full = complete(config)
    validate(full)
    make_grid(full)
    assert from_json(to_json(full)).to_dict() == full.to_dict()
    return full


# --- every field, every value ---------------------------------------------------------------------


@pytest.mark.parametrize("path", FIELDS)
def test_a_field_takes_a_value_or_says_why_not(path):
    for value in HOSTILE:
        full = tells(path, lambda value=value: checked(nested(path, value)))
        if full is not None:
            taken = full
            for part in path.split("."):
                taken = taken[part]
            field = FIELDS[path]
            assert taken is None or type(taken) is field.kind
            assert taken is not None or field.default is None


def walk_texts(every):
    for number, path in enumerate(FIELDS):
        for text in TEXTS[number % every :: every]:
            argument = f"--config.{path}={text}"
            tells(path, lambda argument=argument: validate(apply_overrides({}, [argument])))


def test_a_field_takes_a_text_of_the_command_line_or_says_why_not():
    walk_texts(every=4)


@pytest.mark.slow
def test_a_field_takes_any_text_of_the_command_line_or_says_why_not():
    walk_texts(every=1)


def own_fields():
    """(section, name, field) of every field that depends on a name."""
    for section, known in SECTIONS.items():
        for name in known:
            for field in configs.fields_of(section, name):
                yield section, name, field


@pytest.mark.parametrize("section", SECTIONS)
def test_the_name_of_a_section(section):
    for value in HOSTILE:
        for config in ({section: {"name": value}}, {section: value}, {"sweep": {section: value}}):
            tells(section, lambda config=config: checked(config))
    for text in TEXTS:
        tells(section, lambda text=text: apply_overrides({}, [f"--config.{section}.name={text}"]))
        tells(section, lambda text=text: apply_overrides({}, [f"--config.{section}={text}"]))


# Without a fraction a sample rule does nothing, and is refused for that.
BESIDE = {("sample", rule): {"fraction": 0.3} for rule in ("loss", "random")}


def walk_own_fields(every):
    """``every``: of all pairs of a field and a value, one in so many."""
    seen = set()
    for number, (section, name, field) in enumerate(own_fields()):
        new = (section, field) not in seen  # models and rules share fields
        seen.add((section, field))
        for position, value in enumerate(HOSTILE):
            if new or (position + number) % every == 0:
                config = {section: {"name": name, **BESIDE.get((section, name), {}), field: value}}
                tells(f"{section}.{field}", lambda config=config: checked(config))
        for position, text in enumerate(TEXTS):
            if (position + number) % every == 0:
                beside = BESIDE.get((section, name), {})
                overrides = [
                    f"--config.{section}.name={name}",
                    *(f"--config.{section}.{key}={given}" for key, given in beside.items()),
                    f"--config.{section}.{field}={text}",
                ]
                tells(
                    f"{section}.{field}",
                    lambda overrides=overrides: validate(apply_overrides({}, overrides)),
                )


def test_fields_that_depend_on_a_name():
    walk_own_fields(every=40)


@pytest.mark.slow
def test_all_fields_that_depend_on_a_name():
    walk_own_fields(every=1)


def test_settings_of_measurements():
    for name, measurement in MEASUREMENTS.items():
        for setting in measurement.fields:
            path = f"measure.{name}.{setting}"
            for value in HOSTILE[::2]:
                config = {"measure": {"names": (name,), name: {setting: value}}}
                tells(path, lambda config=config: checked(config))
            for text in TEXTS[::4]:
                argument = f"--config.{path}={text}"
                tells(path, lambda argument=argument: validate(apply_overrides({}, [argument])))


def test_axes_and_what_follows_them():
    for name in ("seed", "base_lr", "momentum", "rule", "case", "channels", "nothing"):
        for value in HOSTILE:
            values = (value, (value,), [0.5, value], {"a": value})
            for config in ({"sweep": {name: v}} for v in values):
                tells(name, lambda config=config: checked(config))
            rules = (value, (value, value), ("seed", value), ("seed", ((0, value), (1, value))))
            for rule in rules:
                config = {"sweep": {"seed": (0, 1)}, "follow": {name: rule}}
                tells(name, lambda config=config: checked(config))
        for text in TEXTS:
            for section in ("sweep", "follow"):
                argument = f"--config.{section}.{name}={text}"
                tells(name, lambda argument=argument: make_grid(apply_overrides({}, [argument])))


def test_whole_configs():
    for value in HOSTILE:
        tells("config", lambda value=value: complete(value))
        for section in configs.default():
            tells(section, lambda section=section, value=value: checked({section: value}))


DATA = {"name": "synthetic", "train_size": 32, "test_size": 8, "image_shape": (4, 4, 1)}
TINY = {"data": DATA, "model": {"name": "mlp", "hidden": (3,)}, "batch_size": 4, "epochs": 1}
SEEDS = {"seed": (0, 1)}

NOBODY_MEANS = [
    # field, in the message, config
    ("name", "''", {"name": ""}),
    ("name", "'..'", {"name": ".."}),
    ("name", "'../x'", {"name": "../x"}),
    ("name", "'a/b'", {"name": "a/b"}),
    ("name", "'.x'", {"name": ".x"}),
    ("name", "' '", {"name": " "}),
    ("name", "x...x", {"name": "x" * 101}),
    ("name", "characters", {"name": "a\nb"}),
    ("batch_size", "True", {"batch_size": True}),
    ("batch_size", "2147483648", {"batch_size": 2**31}),
    ("copies", "at most 1024", {"copies": 10**20}),
    ("epochs", "at most 2147483647", {"epochs": 10**20}),
    ("base_lr", "1e+300", {"base_lr": 1e300}),
    ("sample.fraction", "sample.name is 'all'", {"sample": {"fraction": 0.1}}),
    ("sample.until", "sample.name is 'all'", {"sample": {"until": 0.5}}),
    ("sample.average", "sample.name is 'all'", {"sample": {"average": "batch"}}),
    ("sample.fraction", "is swept", {"sweep": {"fraction": (0.0, 0.1)}}),
    ("sample.name", "sample.fraction is 0.0", {"sample": {"name": "loss"}}),
    ("sample.until", "1.5", {"sample": {"name": "loss", "fraction": 0.1, "until": 1.5}}),
    ("bn_batch", "no batch norm", {"bn_batch": 2}),
    ("bn_batch", "no batch norm", {"sweep": {"bn_batch": (2, 4)}}),
    ("evaluate.statistics", "no batch norm", {"evaluate": {"statistics": "precise"}}),
    ("report.margin", "5", {"report": {"margin": 5}}),
    ("report.margin", "1", {"report": {"margin": 1}}),
    ("report.claims", "'best_bach'", {"report": {"claims": (("best_bach", {"sizes": (2,)}),)}}),
    ("report.curves_base_lr", "0.5", {"report": {"curves_base_lr": 0.5}}),
    ("parallel.local_from", "2", {"parallel": {"local_from": 2}}),
    ("parallel.local_from", "local_steps is 1", {"parallel": {"local_from": 0.5}}),
    ("parallel.local_steps", "data is 1", {"parallel": {"local_steps": 2}}),
    ("parallel.data", "7", {"parallel": {"data": 7}}),
    ("engine.workers", "stream is False", {"engine": {"workers": 2}}),
    ("engine.memory_gb", "above 0", {"engine": {"memory_gb": 0}}),
    ("engine.strategy", "map:LANES", {"engine": {"strategy": "map:99999999999999999999"}}),
    ("measure.names", "''", {"measure": {"names": ("",)}}),
    ("measure.names", "tuple", {"measure": {"names": "sharpness"}}),
    ("measure.names", "twice", {"measure": {"names": ("strides", "strides")}}),
    ("measure.where", "regular", {"measure": {"where": "("}}),
    ("checkpoint.minutes", "-1", {"checkpoint": {"minutes": -1}}),
    ("sweep.name", "one for all runs", {"sweep": {"name": ("a", "b")}}),
    ("sweep.engine__lanes", "one for all runs", {"sweep": {"engine__lanes": (1, 2)}}),
    ("sweep.report__margin", "one for all runs", {"sweep": {"report__margin": (0.1, 0.2)}}),
    ("sweep.seed", "1,000,000,000", {"sweep": {"seed": range(10**9)}}),
    ("sweep", "4,000,000", {"sweep": {"seed": range(2000), "case": [*map(str, range(2000))]}}),
    ("sweep.seed", "{0, 1}", {"sweep": {"seed": {0, 1}}}),
    ("sweep.seed", "generator", {"sweep": {"seed": (i for i in (0, 1))}}),
    ("sweep.rule.momentum", "rule__momentum", {"sweep": {"rule.momentum": (0.5,)}}),
    (
        "follow.base_lr",
        "twice",
        {"sweep": SEEDS, "follow": {"base_lr": ("seed", ((0, 1), (0, 2)))}},
    ),
    ("follow.base_lr", "seed", {"sweep": SEEDS, "follow": {"base_lr": ("epochs", ((1, 1),))}}),
    ("data.nam", "name", {"data": {**DATA, "nam": 1}}),
    ("data.image_size", "stream", {"data": {**DATA, "image_size": 32}}),
    ("data.noise", "'x'", {"data": {**DATA, "noise": "x"}}),
    ("data.noise", "nan", {"data": {**DATA, "noise": float("nan")}}),
    ("data.image_shape", "()", {"data": {**DATA, "image_shape": ()}}),
    ("data.num_classes", "1", {"data": {**DATA, "num_classes": 1}}),
    ("data", "memory", {"data": {**DATA, "train_size": 2**30, "image_shape": (64, 64, 3)}}),
    ("model.hidden", "0", {"model": {"name": "mlp", "hidden": (0,)}}),
    ("model.hidden", "-1", {"model": {"name": "mlp", "hidden": (-1,)}}),
    ("model.dropout", "1.0", {"model": {"name": "alexnet_dropout", "dropout": 1.0}}),
    ("model.name", "text", {"model": {"name": ("mlp",)}}),
    ("rule", "section", {"rule": "sgd"}),
    ("objective.epsilon", "-1", {"objective": {"name": "adversarial", "epsilon": -1}}),
    ("noise.power", "'x'", {"noise": {"name": "lr", "power": "x"}}),
]


@pytest.mark.parametrize(("field", "says", "config"), NOBODY_MEANS)
def test_values_that_nobody_means(field, says, config):
    with pytest.raises(UserError) as caught:
        prepare({**TINY, **config}, Parts())
    assert caught.value.field == f"config.{field}"
    assert says in f"{caught.value.problem} {caught.value.remedy}"


def test_axes_may_be_arrays_ranges_and_lists():
    for values in (range(2), [0, 1], np.arange(2), jnp.arange(2), np.array([0, 1], np.uint8)):
        assert make_grid(complete({"sweep": {"seed": values}})).axes == {"seed": (0, 1)}
    rates = np.logspace(-2, -1, 2)
    assert make_grid(complete({"sweep": {"base_lr": rates}})).axes == {"base_lr": tuple(rates)}
    config = configs.default()
    config.sweep.base_lr = rates[:1]
    assert make_grid(complete(config)).axes == {"base_lr": (0.01,)}


def test_numbers_are_of_the_kind_of_their_field():
    """An int among the noise's floats would not reach the lanes, which differ in floats alone."""
    full = complete({"base_lr": 1, "rule": {"name": "sgd", "momentum": 0}, "seed": np.int64(3),
                     "noise": {"name": "lr", "variance": 9}, "name": np.str_("a")})  # fmt: skip
    kinds = [full.base_lr, full.rule.momentum, full.seed, full.noise.variance, full.name]
    assert [type(value) for value in kinds] == [float, float, int, float, str]


def test_a_config_says_which_fields_it_has():
    config = configs.default()
    with pytest.raises(UserError, match=r"config\.engine\.lane.*\n.*did you mean lanes"):
        config.engine.lane = 3
    with pytest.raises(UserError, match=r"config\.batchsize.*\n.*did you mean batch_size"):
        config["batchsize"] = 3
    assert not hasattr(config, "batchsize")
    config.batch_size = "many"  # checked where it is used
    with pytest.raises(UserError, match="'many' is not a whole number"):
        complete(config)


def test_every_field_says_what_it_takes():
    for path, field in FIELDS.items():
        assert field.about and len(f"{path} {field.about}") < 100
        assert configs.taken(path, field.default) == field.default
        wanted = (int, float) if isinstance(field.allowed, Range) else (str,)
        assert field.allowed is None or field.kind in wanted


def test_prepare_refuses_as_clearly():
    """The data and the model are there as well; a sample of fields and values."""
    values = (1, 0.5, "abc", 2**31 - 1, (1,))
    for path, value in itertools.product(FIELDS, values):
        section, _, leaf = path.rpartition(".")
        config = {**TINY, **({section: {**TINY.get(section, {}), leaf: value}} if section else
                             {leaf: value})}  # fmt: skip
        if path == "data.name":
            continue  # would look for a data set
        try:
            prepare(config, Parts())
        except UserError as error:
            assert error.field.startswith("config."), error
