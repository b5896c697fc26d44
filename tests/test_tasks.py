"""Any task in lanes: examples, losses, metrics and schedules of one's own, and the score."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sbt
from sbt.data import epoch_order
from sbt.data.order import purpose_key
from sbt.errors import UserCodeError, UserError
from sbt.tasks import TASKS, Facts, Metric, of_attrs
from sbt.tasks.score import Score

N, TESTED, T, V = 24, 10, 5, 7
RNG = np.random.RandomState(0)
TOKENS = RNG.randint(0, V, (N + TESTED, T + 1)).astype(np.uint16)
INPUTS = RNG.standard_normal((N + TESTED, 4))
TARGETS = np.stack([np.sin(INPUTS.sum(1)), INPUTS[:, 0] ** 2], axis=1)


class Sequences(nn.Module):
    """Tokens to logits, place by place."""

    vocabulary: int = V

    @nn.compact
    def __call__(self, x):
        y = nn.Embed(self.vocabulary, 6, dtype=REAL, param_dtype=REAL)(x)
        y = jnp.cumsum(y, axis=1)
        return nn.Dense(self.vocabulary, dtype=REAL, param_dtype=REAL)(nn.tanh(y))


class Line(nn.Module):
    """Real numbers to real numbers."""

    outputs: int = 2

    @nn.compact
    def __call__(self, x):
        y = nn.tanh(nn.Dense(8, dtype=REAL, param_dtype=REAL)(x))
        return nn.Dense(self.outputs, dtype=REAL, param_dtype=REAL)(y)


class Two(nn.Module):
    """Two inputs, as a mapping."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, dtype=REAL, param_dtype=REAL)(x["a"] + x["b"][:, None])


REAL = jnp.float64
pytestmark = pytest.mark.usefixtures("x64")


def sequences(mask=None, tokens=TOKENS):
    splits = []
    for part in (slice(N), slice(N, None)):
        split = {"x": tokens[part, :-1], "label": tokens[part, 1:]}
        splits.append(split if mask is None else split | {"mask": mask[part]})
    return sbt.from_examples(*splits)


def numbers(targets=TARGETS):
    first = {"x": INPUTS[:N], "target": targets[:N]}
    return sbt.from_examples(first, {"x": INPUTS[N:], "target": targets[N:]})


def plainly(module, data, loss, seed, m, rate, epochs, momentum=0.9, schedule=lambda p: 1.0):
    """A flax module, optax and a loop; ``loss(outputs, examples) -> (n,)``, written by the test."""
    key = jax.random.key(seed)
    train = {name: jnp.asarray(a, _kind(a)) for name, a in data.train.items()}
    params = module.init(purpose_key(key, "init"), train["x"][:1])
    order = np.concatenate([epoch_order(key, e, N) for e in range(epochs + 1)])

    def mean(params, batch):
        return jnp.mean(loss(module.apply(params, batch["x"]), batch))

    state = optax.trace(momentum).init(params)
    for i, start in enumerate(range(0, epochs * N, m)):
        batch = {name: leaf[order[start : start + m]] for name, leaf in train.items()}
        grads = jax.grad(mean)(params, batch)
        updates, state = optax.trace(momentum).update(grads, state)
        eta = m * rate * schedule(i * m / (epochs * N))
        params = jax.tree.map(lambda p, u, eta=eta: p - eta * u, params, updates)
    test = {name: jnp.asarray(a, _kind(a)) for name, a in data.test.items()}
    outputs = module.apply(params, test["x"])
    return outputs, test, float(jnp.mean(loss(outputs, test)))


def _kind(a):
    return jnp.int32 if a.dtype.kind in "iu" else REAL


def tokens_loss(logits, examples):
    chosen = jax.nn.one_hot(examples["label"], V, dtype=REAL)
    picked = -jnp.sum(jax.nn.log_softmax(logits) * chosen, axis=-1)
    if "mask" not in examples:
        return picked.mean(1)
    mask = examples["mask"].astype(REAL)
    return jnp.sum(picked * mask, 1) / jnp.sum(mask, 1)


GRID = {"batch_size": (1, 4, 12), "seed": (0, 1)}
COMMON = {"epochs": 2, "rule": {"name": "sgd", "momentum": 0.9}, "sweep": GRID}


@pytest.mark.parametrize("masked", [False, True])
def test_next_token_lanes_are_the_plain_loop(masked):
    mask = None
    if masked:
        mask = (RNG.uniform(size=(N + TESTED, T)) < 0.6).astype(np.int32)
        mask[:, 0] = 1
    data = sequences(mask)
    config = {**COMMON, "task": {"name": "next_token"}, "base_lr": 2.0**-6}
    ds = sbt.run(config, module=Sequences(), dataset=data)
    assert ds.attrs["score"] == "loss" and "accuracy" not in ds
    for m in GRID["batch_size"]:
        logits, test, loss = plainly(Sequences(), data, tokens_loss, 1, m, 2.0**-6, 2)
        cell = ds.sel(batch_size=m, seed=1)
        np.testing.assert_allclose(cell["test_loss"][-1], loss, rtol=1e-6)
        right = (np.asarray(logits).argmax(-1) == np.asarray(test["label"])).astype(float)
        if masked:
            counted = np.asarray(test["mask"])
            right = np.sum(right * counted, 1) / np.sum(counted, 1)
        np.testing.assert_allclose(cell["test_accuracy"][-1], np.mean(right), rtol=1e-6)


def test_regression_lanes_are_the_plain_loop():
    data = numbers()
    config = {**COMMON, "task": {"name": "regression"}, "base_lr": 2.0**-8}
    ds = sbt.run(config, module=Line(), dataset=data)
    for m in GRID["batch_size"]:
        outputs, _, loss = plainly(
            Line(), data, lambda o, e: jnp.mean((o - e["target"]) ** 2, 1), 0, m, 2.0**-8, 2
        )
        cell = ds.sel(batch_size=m, seed=0)
        np.testing.assert_allclose(cell["test_loss"][-1], loss, rtol=1e-6)
        residual = np.sum((np.asarray(outputs) - TARGETS[N:]) ** 2)
        total = np.sum((TARGETS[N:] - TARGETS[N:].mean(0)) ** 2)
        np.testing.assert_allclose(cell["test_r2"][-1], 1 - residual / total, rtol=1e-5)


def huber(outputs, examples):
    return jnp.mean(optax.losses.huber_loss(outputs, examples["target"]), axis=1)


def worst(outputs, examples):
    return jnp.max(jnp.abs(outputs - examples["target"]), axis=1)


def falling(progress):
    return 1 - 0.75 * progress


def test_a_loss_a_metric_and_a_schedule_of_ones_own(tmp_path):
    data, module = numbers(), Line()
    config = {**COMMON, "base_lr": 2.0**-7, "task": {"score": "worst", "direction": "lower"}}
    parts = {"module": module, "dataset": data, "loss": huber, "metrics": {"worst": worst}}
    ds = sbt.run(config, tmp_path, **parts, schedule=falling)
    score = of_attrs(ds.attrs)
    assert (score.name, score.higher_is_better, score.diverged) == ("worst", False, math.inf)
    outputs, test, loss = plainly(module, data, huber, 1, 4, 2.0**-7, 2, schedule=falling)
    cell = ds.sel(batch_size=4, seed=1)
    np.testing.assert_allclose(cell["test_loss"][-1], loss, rtol=1e-6)
    np.testing.assert_allclose(
        cell["test_worst"][-1], np.abs(outputs - test["target"]).max(1).mean(), rtol=1e-6
    )
    same = sbt.run(config, tmp_path, **parts, schedule=falling)
    assert same.identical(ds)
    with pytest.raises(UserError, match="loss"):
        sbt.run(config, tmp_path, **{**parts, "loss": worst}, schedule=falling)


def test_inputs_may_be_trees():
    splits = [
        {"x": {"a": INPUTS[part], "b": INPUTS[part, 0]}, "target": TARGETS[part]}
        for part in (slice(N), slice(N, None))
    ]
    config = {**COMMON, "epochs": 1, "task": {"name": "regression"}}
    ds = sbt.run(config, module=Two(), dataset=sbt.from_examples(*splits))
    assert np.isfinite(ds["test_loss"]).all()


def test_a_run_that_diverges_is_infinitely_bad():
    config = {
        **COMMON, "task": {"name": "regression"},
        "batch_size": 4, "sweep": {"base_lr": (2.0**-8, 1e30)},
    }  # fmt: skip
    ds = sbt.run(config, module=Line(), dataset=numbers())
    assert ds["diverged"].values.tolist() == [False, True]
    assert np.isfinite(ds["loss"][0]) and ds["loss"][1] == np.inf


# --- the score -----------------------------------------------------------------------------------

FACTS = Facts("classification", 4, None, {"train": {"x": np.zeros(3), "label": np.arange(3)}})


def by(**fields):
    return TASKS.configured({"name": "classification", **fields})(FACTS).score


def test_a_task_is_ranked_by_another_metric():
    assert TASKS["auto"](FACTS).score == Score(diverged=0.25, guess=0.25)
    by_loss = by(score="loss")
    assert (by_loss.name, by_loss.higher_is_better, by_loss.diverged) == ("loss", False, math.inf)
    upside_down = by(score="loss", direction="higher")
    assert (upside_down.higher_is_better, upside_down.diverged) == (True, -math.inf)


def test_a_score_survives_a_results_file():
    score = by(score="loss")
    stored = {name: np.asarray(v) for name, v in score.attrs.items()}
    read = of_attrs({name: v.item() for name, v in stored.items()})
    assert (read.name, read.units, read.diverged) == ("loss", "nats", math.inf)
    assert score.text(1.23456) == "1.235 nats" and Score().text(0.5) == "50.0 %"


# --- what is refused -----------------------------------------------------------------------------


def refused(message, config=None, **parts):
    config = {"epochs": 1, "batch_size": 4, **(config or {})}
    given = {"module": Line(), "dataset": numbers(), "loss": huber, **parts}
    with pytest.raises(UserError, match=message):
        sbt.run(
            {"epochs": 1, **(config or {})}, **{k: v for k, v in given.items() if v is not None}
        )


@pytest.mark.parametrize(
    "loss, message",
    [
        (lambda outputs, examples: jnp.mean(outputs), "one number for each"),
        (lambda outputs, examples: outputs, "one number for each"),
        (lambda outputs, examples: jnp.argmax(outputs, -1), "real numbers"),
        (3, "not a function"),
    ],
)
def test_losses_that_are_not_per_example(loss, message):
    refused(message, loss=loss)


@pytest.mark.parametrize(
    "metrics, message",
    [
        ({"mean": lambda outputs, examples: jnp.mean(outputs)}, "metric mean"),
        ({"loss": huber}, "cannot be the name"),
        ({"a b": huber}, "cannot be the name"),
        ([huber], "not a mapping"),
        ({"x": 1}, "not a function"),
    ],
)
def test_metrics_that_are_not_per_example(metrics, message):
    refused(message, metrics=metrics)


def test_a_score_without_a_direction():
    metrics = {"worst": worst}
    refused("config.task.direction", {"task": {"score": "worst"}}, metrics=metrics)
    refused("config.task.score", {"task": {"score": "wurst"}}, metrics=metrics)
    told = Metric(worst, "worst error", higher_is_better=False)
    ds = sbt.run(
        {"epochs": 1, "batch_size": 4, "task": {"score": "worst"}},
        module=Line(), dataset=numbers(), loss=huber, metrics={"worst": told},
    )  # fmt: skip
    assert ds.attrs["score"] == "worst"


def test_exceptions_of_a_loss_are_ones_own():
    def broken(outputs, examples):
        return outputs - examples["targets"]

    with pytest.raises(UserCodeError) as caught:
        sbt.run({"batch_size": 4}, module=Line(), dataset=numbers(), loss=broken)
    assert isinstance(caught.value.__cause__, KeyError)


def test_tasks_that_do_not_fit_the_data():
    refused("does not say", loss=None)
    refused("needs an entry 'label'", {"task": {"name": "classification"}}, loss=None)
    refused("has no effect", {"task": {"name": "regression"}})
    refused("make its vocabulary 7", {"task": {"name": "next_token"}},
            module=Sequences(5), dataset=sequences(), loss=None)  # fmt: skip
    refused("shape", {"task": {"name": "regression"}}, module=Line(3), loss=None)
    refused("is for images", {"data": {"augment": "crop_flip"}})
    refused("needs inputs of real numbers",
            {"task": {"name": "next_token"}, "objective": {"name": "adversarial"}},
            module=Sequences(), dataset=sequences(), loss=None)  # fmt: skip


@pytest.mark.parametrize(
    "train, test, message",
    [
        ({"y": INPUTS}, {"y": INPUTS}, "no entry 'x'"),
        ([INPUTS], [INPUTS], "no entry 'x'"),
        ({"x": INPUTS, "y": INPUTS[:3]}, {"x": INPUTS}, "different lengths"),
        ({"x": INPUTS, "y": INPUTS}, {"x": INPUTS}, "missing"),
        ({"x": INPUTS}, {"x": INPUTS[:, :2]}, "same entries"),
        ({"x": INPUTS * np.nan}, {"x": INPUTS}, "NaN"),
        ({"x": np.array([2**40])}, {"x": np.array([1])}, "32 bits"),
        ({"x": np.array(1.0)}, {"x": np.array(1.0)}, "leading axis"),
        ({"x": ["a", "b"]}, {"x": ["a", "b"]}, "not of numbers"),
        ({"x": None}, {"x": None}, "x"),
    ],
)
def test_examples_that_cannot_be_used(train, test, message):
    with pytest.raises(UserError, match=message):
        sbt.from_examples(train, test)
