"""Devices that share a run's batches: against the plain loop, one program, and one another."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from lanes import CLASSES, N, dataset, trainer, unit
from reference import ConvNet, distance
from sweeps import Watch

from sbt.checkpoint import Checkpoints, load_weights
from sbt.errors import UserError
from sbt.sweep.run import Interrupted, run

UPDATES, EPOCHS = 12, 21
LANES = [
    {"batch_size": m, "base_lr": lr, "seed": seed, "momentum": 0.9, "weight_decay": 1e-2}
    for m, lr, seed in ((16, 0.02, 1), (32, 0.01, 2), (64, 0.005, 3))
]
PLAIN = ConvNet(classes=CLASSES, channels=(3, 4), dtype=jnp.float64)
GHOST = ConvNet(classes=CLASSES, channels=(3, 4), norm=True, dtype=jnp.float64)
NETS = {
    PLAIN: {"name": "convnet", "channels": (3, 4)},
    GHOST: {"name": "convnet", "channels": (3, 4), "norm": "batch"},
}


def reference_weights(module, lane, bn_batch, updates=UPDATES):
    settings = reference.Run(
        **{name: lane[name] for name in ("batch_size", "base_lr", "seed", "momentum")},
        weight_decay=lane["weight_decay"],
        bn_batch=bn_batch,
    )
    data = dataset()
    images = unit(data.train_images, np.float64)
    with jax.numpy_dtype_promotion("standard"):  # Flax's own batch norm mixes dtypes
        *_, last = reference.train(module, settings, images, data.train_labels, EPOCHS * N, updates)
    return last


def trained(module, config, lanes=LANES, micro_batch=None, strategy="map/im2col", devices=8):
    """(program, the state of each lane after ``UPDATES`` updates of its own)."""
    full = {"model": NETS[module], "epochs": EPOCHS, **config}
    program = trainer(lanes, full, micro_batch, strategy, devices)
    state, tick, states = program.engine.init(program.lanes), 0, []
    for position, lane in enumerate(lanes):
        until = UPDATES * lane["batch_size"] // program.cohort.tick
        state, tick = program.train(state, tick, until), until
        states.append(program.lane(state, position))
    return program, states


def check(module, d, bn_batch, lanes=LANES, micro_batch=None, strategy="map/im2col"):
    with jax.enable_x64(True):
        config = {"parallel": {"data": d}, "bn_batch": bn_batch}
        program, states = trained(module, config, lanes, micro_batch, strategy)
        assert program.cohort.sharding.devices == d
        for lane, state in zip(lanes, states, strict=True):
            wanted = reference_weights(module, lane, bn_batch)
            assert state.updates == UPDATES
            assert distance(state.params, wanted.params) < 1e-9, lane
            # Flax's own batch norm keeps float32 statistics whatever its dtype.
            assert distance(state.stats, wanted.stats) < 1e-5, lane
    return program


# --- against the plain loop ----------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 4, 8])
def test_statistics_within_a_device(d):
    """b = 2 examples share statistics whatever D; batches of 16, 32, 64 in one program."""
    program = check(GHOST, d, bn_batch=2)
    assert (program.cohort.micro_batch, program.cohort.tick) == (2, 2 * d)
    assert not program.cohort.synchronous


@pytest.mark.parametrize("d", [2, 8])
def test_usual_data_parallel_batch_norm(d):
    """b = m / D: every device normalises with its own part, nothing is accumulated."""
    check(GHOST, d, bn_batch=16 // d, lanes=LANES[:1])


@pytest.mark.parametrize("d", [2, 8])
def test_synchronous_batch_norm_is_one_big_batch(d):
    program = check(GHOST, d, bn_batch=None, lanes=LANES[:1])
    assert program.cohort.synchronous
    assert program.cohort.micro_batch == 16 // d


def test_statistics_of_some_of_the_batch_over_all_devices():
    """b = 32 of m = 64 on 4 devices, which take 16 each: 8 examples of each b on a device."""
    program = check(GHOST, 4, bn_batch=32, lanes=LANES[2:])
    assert (program.cohort.micro_batch, program.cohort.synchronous) == (8, True)


@pytest.mark.parametrize("strategy", ["vmap/im2col", "map/direct"])
def test_accumulation_where_a_share_does_not_fit(strategy):
    """m / D = 4, 8, 16 examples in pieces of 2; four rows of lanes on eight devices."""
    check(PLAIN, 4, bn_batch=None, micro_batch=2, strategy=strategy)


def test_evaluation_is_shared_too(x64):
    config = {"evaluate": {"batch": 7}, "bn_batch": 2}
    results = []
    for d in (1, 8):
        program, _ = trained(GHOST, {**config, "parallel": {"data": d}}, LANES[:1])
        lanes = program.lanes
        state = program.train(program.engine.init(lanes), 0, UPDATES * 16 // program.cohort.tick)
        results.append(jax.device_get(program.engine.evaluate(state, lanes)["test"]))
    np.testing.assert_allclose(results[0].loss[:1], results[1].loss[:1], rtol=1e-6)
    accuracy = [result.metrics["accuracy"][:1] for result in results]
    np.testing.assert_allclose(*accuracy, rtol=1e-6)


@pytest.mark.parametrize(
    "rule",
    [
        {"name": "sngm"},  # normalises the mean over all devices, not every device's gradient
        {"name": "clars"},  # needs norms of the examples' gradients
        {"name": "extrap_sgd"},  # evaluates elsewhere
        {"name": "conservative"},  # takes gradients on the whole batch several times
    ],
    ids=lambda rule: rule["name"],
)
def test_rules_on_devices_equal_rules_on_one(rule, x64):
    lane = {"batch_size": 16, "base_lr": 0.001, "seed": 0}
    ends = []
    for d in (1, 4):
        config = {"rule": rule, "parallel": {"data": d}}
        _, (state,) = trained(PLAIN, config, [lane])
        ends.append(state.params)
    assert distance(*ends) < 1e-9


# --- local SGD -----------------------------------------------------------------------------------


def local_sgd(lane, workers, steps, begins, updates=UPDATES):
    """Plain loop: each worker its own weights and momentum, averaged every so many updates."""
    data = dataset()
    images = unit(data.train_images, np.float64)
    order = reference.stream(lane["seed"], N)
    start = reference.start(PLAIN, np.uint32(lane["seed"]), images[:1])
    m, models, states = lane["batch_size"], [start] * workers, [None] * workers
    numbers = (m * lane["base_lr"], lane["momentum"], lane["weight_decay"])
    for t in range(updates):
        batch = [next(order)[1] for _ in range(m)]
        parts = np.asarray(batch).reshape(workers, -1)
        grads = [
            reference.gradient(PLAIN, model, images[part], data.train_labels[part])[0]
            for model, part in zip(models, parts, strict=True)
        ]
        if t * m / (EPOCHS * N) < begins:
            grads = [reference.mean(grads)] * workers
        for w in range(workers):
            params, states[w] = reference.update(
                models[w].params, states[w], grads[w], *map(np.float64, numbers)
            )
            models[w] = reference.Weights(params, {})
        if (t + 1) % steps == 0:
            models = [reference.Weights(reference.mean([m.params for m in models]), {})] * workers
    return models


@pytest.mark.parametrize("begins", [0.0, 0.05])
def test_local_and_post_local_sgd(begins, x64):
    lane, d, steps = LANES[0], 4, 5  # the last average after update 10 of 12
    config = {"parallel": {"data": d, "local_steps": steps, "local_from": begins}}
    program, _ = trained(PLAIN, config, [lane])
    ticks = UPDATES * 16 // program.cohort.tick
    state = program.train(program.engine.init(program.lanes), 0, ticks)
    wanted = local_sgd(lane, d, steps, begins)
    for worker in range(d):
        mine = jax.tree.map(lambda leaf, w=worker: np.asarray(leaf)[0, w], state.params)
        assert distance(mine, wanted[worker].params) < 1e-9
    assert distance(wanted[0].params, wanted[1].params) > 1e-4
    data = dataset()
    average = reference.Weights(reference.mean([w.params for w in wanted]), {})
    images = unit(data.test_images, np.float64)
    loss, accuracy = reference.evaluate(PLAIN, average, images, data.test_labels)
    got = jax.device_get(program.engine.evaluate(state, program.lanes)["test"])
    found = got.loss[0], got.metrics["accuracy"][0]
    np.testing.assert_allclose(found, (loss, accuracy), rtol=1e-6)


# --- collectives ---------------------------------------------------------------------------------

ALL_REDUCE = re.compile(r"= (.*?) all-reduce(?:-start)?\(")
OTHERS = re.compile(r"all-gather|all-to-all|collective-permute|reduce-scatter")


def operands(text):
    """Shapes that the all-reduces of a program work on."""
    return [s for line in ALL_REDUCE.findall(text) for s in re.findall(r"\w+\[[\d,]*\]", line)]


@pytest.mark.parametrize("bn_batch", [2, None])
def test_only_gradients_metrics_and_statistics_are_reduced(bn_batch):
    """One mean of every weight's gradient and statistic, two numbers; with b = m the moments."""
    config = {"parallel": {"data": 8}, "bn_batch": bn_batch}
    program, (state,) = trained(GHOST, config, LANES[:1])
    init, train, test = (compiled.as_text() for compiled in program.programs)
    assert not OTHERS.search(init + train + test)
    assert not operands(init)
    assert len(operands(test)) == 2
    reduced = sorted(operands(train))
    averaged = jax.tree.leaves((state.params, state.stats))
    expected = [f"f32[{','.join(map(str, leaf.shape))}]" for leaf in averaged]
    expected += ["f32[]", "f32[]"]  # loss, correct answers
    if bn_batch is None:
        norms = len(jax.tree.leaves(state.stats)) // 2
        assert len(reduced) == len(expected) + 4 * norms  # mean and square, there and back
    else:
        assert reduced == sorted(expected)


# --- interruption, and other numbers of devices --------------------------------------------------


CONFIG = {
    "data": {"normalize": "unit"},
    "model": {"name": "convnet", "channels": (3, 4), "norm": "batch"},
    "bn_batch": 2,
    "epochs": 4,
    "rule": {"momentum": 0.9},
    "sweep": {"batch_size": (16, 32), "base_lr": (0.01, 0.02)},
    "checkpoint": {"final_weights": True},
}


def on(d, **more):
    return {**CONFIG, **more, "parallel": {"data": d}}


def weights(directory):
    (kept,) = (directory / "weights").iterdir()
    return load_weights(kept)[:2]


def test_another_number_of_devices_goes_on(tmp_path, x64):
    """1, 8, 2, then 4 devices per run, one after another: the run that one device does alone."""
    whole = run(on(1), tmp_path / "whole", dataset=dataset())
    for d, epochs in ((1, 0.5), (8, 1.5), (2, 2.5)):
        with pytest.raises(Interrupted):
            run(on(d), tmp_path / "moved", dataset=dataset(), progress=Watch(epochs=epochs))
        saved = Checkpoints(tmp_path / "moved" / "checkpoints").latest()
        assert saved.position["plan"]["settled"]
        assert not any(examples % 32 for examples in saved.position["examples"])
    reached = max(saved.position["examples"]) / N
    assert reached >= 2.5
    watch = Watch()
    moved = run(on(4), tmp_path / "moved", dataset=dataset(), progress=watch)
    assert watch.some(f"resumed at epoch {reached:.2f}")
    for a, b in zip(*map(weights, (tmp_path / "whole", tmp_path / "moved")), strict=True):
        assert distance(a, b) < 1e-9
    np.testing.assert_allclose(moved.test_loss, whole.test_loss, rtol=1e-6)
    np.testing.assert_array_equal(moved.accuracy, whole.accuracy)


# --- what cannot be shared -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "field", "says"),
    [
        (on(3), "parallel.data", "3 devices per run do not divide the 8"),
        (on(8, sweep={}, batch_size=4, bn_batch=1), "parallel.data", "a batch of 4 examples"),
        (on(8, sweep={}, batch_size=16, bn_batch=4), "bn_batch", "4 examples cannot share"),
        (on(4, sweep={}, batch_size=16, bn_batch=2, micro_batch=8), "micro_batch", "on each of 4"),
        (on(2, model={"name": "mlp"}, bn_batch=None, micro_batch=16), "micro_batch", "each of 2"),
        (on(0), "parallel.data", "0 is out of range"),
        (on(2, sample={"name": "loss", "fraction": 0.3}), "parallel.data", "a part each"),
    ],
)  # fmt: skip
def test_one_clear_message_before_compilation(config, field, says, monkeypatch):
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda *_: pytest.fail("compiled"))
    with pytest.raises(UserError, match=re.escape(says)) as caught:
        run(config, dataset=dataset())
    assert caught.value.field == f"config.{field}"
