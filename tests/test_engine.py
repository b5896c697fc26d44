"""Every lane equals the plain loop of ``reference.py``: strategies, devices, neighbours, groupings.

Equality is a matter of double precision: two correct float32 programs of a net with batch norm part
by per cents within 30 updates, because ReLU and max-pool switch sides. So the semantics are tested
in float64 to 1e-9, and float32 by single steps, and by longer runs without batch norm.
"""

import contextlib
import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from jax.sharding import PartitionSpec as P
from lanes import CLASSES, N, dataset, trainer, unit
from reference import MLP, AlexNet, ConvNet, ResNet8, distance

from sbt.data import augment_keys, from_arrays, pad_crop_flip, purpose_key
from sbt.nn.conv import IMPLEMENTATIONS
from sbt.optim import RULES, evaluation_point
from sbt.parallel.mesh import make_mesh

EPOCHS = 21  # the least that holds 32 updates of 64 examples
UPDATES = 32
SCHEDULE = {"name": "steps", "drops": (0.5, 0.75), "factor": 0.2, "warmup": 0.05}


def settings(m, log_lr, seed=0, momentum=0.0, decay=0.0, warmup=0.05, factor=0.2):
    """One lane."""
    return {
        "batch_size": m,
        "base_lr": 2.0**log_lr,
        "seed": seed,
        "momentum": momentum,
        "weight_decay": decay,
        "warmup": warmup,
        "factor": factor,
    }


LANES = (
    settings(2, -5, 0, momentum=0.5, warmup=0.01),
    settings(4, -6, 1, decay=1e-2),
    settings(8, -7, 2**32 - 1, momentum=0.9, decay=1e-3, factor=0.5),
    settings(8, -4, 0, warmup=0.0),
    settings(16, -8, 0, momentum=0.9, warmup=0.2),
    settings(32, -7, 2, decay=1e-3),
    settings(64, -8, 1, momentum=0.5, decay=1e-2, factor=0.1),
)
ALL = tuple(range(len(LANES)))


@contextlib.contextmanager
def precision(dtype):
    """Float64 or float32; not strict, because Flax's own batch norm mixes dtypes."""
    with jax.enable_x64(dtype == jnp.float64), jax.numpy_dtype_promotion("standard"):
        yield


def plain_run(lane, bn_batch=None, scale=float):
    drops, factor, warmup = SCHEDULE["drops"], lane["factor"], lane["warmup"]
    return reference.Run(
        batch_size=lane["batch_size"],
        base_lr=lane["base_lr"],
        seed=lane["seed"],
        momentum=lane["momentum"],
        weight_decay=lane["weight_decay"],
        bn_batch=bn_batch,
        schedule=reference.steps_with_warmup(drops, factor, warmup),
        scale=scale,
    )


@functools.cache
def plain(module, i, bn_batch=None, updates=UPDATES, shape=(8, 8, 1), epochs=EPOCHS):
    """Weights of ``LANES[i]`` before the first and after the last update of the plain loop."""
    data, dtype = dataset(shape), module.dtype
    with precision(dtype):
        run, images = plain_run(LANES[i], bn_batch), unit(data.train_images, dtype)
        every = reference.train(module, run, images, data.train_labels, epochs * N, updates)
        first, *_, last = every
    return jax.device_get((first, last))


def config_of(model, bn_batch=None, epochs=EPOCHS, **more):
    return {
        "model": model, "bn_batch": bn_batch, "epochs": epochs, "schedule": SCHEDULE, **more
    }  # fmt: skip


COLLECTIVE = re.compile(r"all-gather|all-reduce|all-to-all|collective|reduce-scatter")


def check_lanes(module, g, strategy, devices, model=None, lanes=ALL, bn_batch=None, updates=UPDATES,
                shape=(8, 8, 1)):  # fmt: skip
    """Trains lanes in one program; each must be at the plain loop's weights after ``updates``.

    Args:
      module: for the plain loop, and for the engine where no ``model`` is named.
    """
    own = module if model is None else None
    with precision(jnp.float64) if own else jax.enable_x64(True):
        program = trainer(
            [LANES[i] for i in lanes],
            config_of(model or {"name": "convnet"}, bn_batch),
            g,
            strategy,
            devices,
            own,
            dataset(shape),
        )
        state, tick = program.engine.init(program.lanes), 0
        for position, i in enumerate(lanes):
            until = updates * LANES[i]["batch_size"] // g
            state, tick = program.train(state, tick, until), until
            mine = program.lane(state, position)
            assert (mine.updates, mine.accumulated, mine.diverged_at) == (updates, 0, -1)
            assert mine.examples == updates * LANES[i]["batch_size"]
            first, last = plain(module, i, bn_batch, updates, shape)
            assert distance(first.params, last.params) > 1e-3
            assert distance(mine.params, last.params) < 1e-9, LANES[i]
            # Flax's own batch norm keeps float32 statistics whatever its dtype.
            assert distance(mine.stats, last.stats) < (1e-5 if own else 1e-9), LANES[i]
    for compiled in program.programs[1:]:
        assert not COLLECTIVE.search(compiled.as_text())
    return program, state, tick


# --- float64: what a lane computes ---------------------------------------------------------------

NETS = {
    "plain": (ConvNet(classes=CLASSES, channels=(3, 4), dtype=jnp.float64), None),
    "ghost": (ConvNet(classes=CLASSES, channels=(3, 4), norm=True, dtype=jnp.float64), 2),
}
CONVNET = {
    "plain": {"name": "convnet", "channels": (3, 4)},
    "ghost": {"name": "convnet", "channels": (3, 4), "norm": "batch"},
}
SOME = [
    ("plain", "vmap/stock", 2),
    ("plain", "map/packed", 8),
    ("plain", "map:3/im2col", 1),
    ("ghost", "vmap/im2col", 8),
    ("ghost", "vmap/stock", 1),
    ("ghost", "map/packed", 2),
    ("ghost", "map:3/im2col", 2),
]
REST = [
    (net, f"{over}/{convolution}", devices)
    for net in NETS
    for over in ("vmap", "map", "map:3")
    for convolution in IMPLEMENTATIONS
    for devices in (1, 2, 8)
    if (net, f"{over}/{convolution}", devices) not in SOME
]


def slowly(cases):
    return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]


@pytest.mark.parametrize(("net", "strategy", "devices"), [*SOME, *slowly(REST)])
def test_batch_sizes_2_to_64_in_one_program(net, strategy, devices):
    module, bn_batch = NETS[net]
    # XLA's own gradients of convolutions in a loop are slow on CPU: m up to 16.
    lanes = ALL[:5] if strategy.endswith("stock") else ALL
    check_lanes(module, 2, strategy, devices, CONVNET[net], lanes, bn_batch)


def test_whole_training():
    """To the last update of every lane: 1039 of m = 2, 32 of m = 64, through warm-up and drops."""
    module, _ = NETS["plain"]
    program, state, tick = check_lanes(module, 2, "vmap/im2col", 1, CONVNET["plain"])
    with jax.enable_x64(True):
        state = program.train(state, tick, program.cohort.ticks)
    for i in ALL:
        updates = EPOCHS * N // LANES[i]["batch_size"]
        mine = program.lane(state, i)
        assert mine.updates == updates
        assert distance(mine.params, plain(module, i, None, updates)[1].params) < 1e-9


@pytest.mark.parametrize(
    ("g", "lanes", "strategy", "devices"),
    [
        (8, (2, 3), "vmap/im2col", 2),
        (64, (6,), "map/im2col", 1),
        *slowly([(2, (0,), "map/direct", 1), (4, (1,), "vmap/stock", 1),
                 (16, (4,), "map/stock", 2), (32, (5,), "vmap/im2col", 8)]),
    ],
)  # fmt: skip
def test_batch_norm_over_the_whole_batch(g, lanes, strategy, devices):
    """Without ``bn_batch``, b = g = m, and nothing is accumulated."""
    _, state, _ = check_lanes(NETS["ghost"][0], g, strategy, devices, CONVNET["ghost"], lanes)
    assert state.average == ()


@pytest.mark.parametrize("strategy", ["map/im2col", *slowly([["vmap/im2col"], ["map:2/direct"]])])
def test_several_groups_of_batch_norm_in_a_micro_batch(strategy):
    """g = 8 examples per tick, b = 4 of them share statistics."""
    lanes = (2, 3, 4, 6)
    check_lanes(NETS["ghost"][0], 8, strategy, 1, CONVNET["ghost"], lanes, bn_batch=4)


@pytest.mark.parametrize(
    ("shortcut", "strategy", "devices"),
    [
        ("B", "vmap/im2col", 2),
        *slowly([("A", "map/direct", 8), ("A", "vmap/im2col", 1), ("B", "map/direct", 1),
                 ("A", "map:2/stock", 1), ("B", "map:2/im2col", 2)]),
    ],
)  # fmt: skip
def test_residual_net(shortcut, strategy, devices):
    """Strides of 2, 1x1 convolutions (B) and zero-padded channels (A), ghost batches of 4."""
    module = ResNet8(classes=CLASSES, norm=True, dtype=jnp.float64, width=2, shortcut=shortcut)
    model = {"name": "resnet8", "width": 2, "shortcut": shortcut}
    check_lanes(module, 4, strategy, devices, model, (1, 3, 6), bn_batch=4)


NARROW = {"widths": (3, 4), "kernels": (5, 3), "pooled": (0, 1), "hidden": (6,)}


@pytest.mark.parametrize(
    ("bn_batch", "strategy", "devices"),
    [
        (4, "vmap/im2col", 1),
        *slowly([(None, "vmap/im2col", 8), (None, "map/direct", 2), (4, "map/direct", 8)]),
    ],
)
def test_a_users_own_module(bn_batch, strategy, devices):
    """A plain Flax module, its batch norm included, as it is."""
    module = AlexNet(classes=CLASSES, norm=bn_batch is not None, dtype=jnp.float64, **NARROW)
    lanes = (1, 3, 6) if bn_batch else (0, 3, 6)
    check_lanes(module, bn_batch or 2, strategy, devices, lanes=lanes, bn_batch=bn_batch)


BUILT_IN = {
    "alexnet": ({"name": "alexnet", "norm": "batch"}, AlexNet),
    "resnet8": ({"name": "resnet8"}, ResNet8),
}


@pytest.mark.parametrize(
    ("name", "strategy", "side"),
    [
        ("alexnet", "map/direct", 8),
        ("resnet8", "map/direct", 8),
        *slowly([(name, strategy, 32) for name in ("alexnet", "resnet8")
                 for strategy in ("map/direct", "vmap/im2col", "vmap/stock")]),
    ],
)  # fmt: skip
def test_built_in_nets_of_the_paper(name, strategy, side):
    """Their true widths, for three updates of 16 examples in ghost batches of 8."""
    model, module = BUILT_IN[name]
    module = module(classes=CLASSES, norm=True, dtype=jnp.float64)
    check_lanes(module, 8, strategy, 1, model, (4,), bn_batch=8, updates=3, shape=(side, side, 3))


MLP64 = MLP(classes=CLASSES, dtype=jnp.float64)


@pytest.mark.parametrize("g", [1, 2, 8, *slowly([[4]])])
def test_micro_batch_and_neighbours_do_not_matter(g):
    """The lane alone and in company, at any position, with and without accumulation."""
    lanes = {1: (0, 2), 2: (2, 4, 6), 4: (2, 3, 5), 8: (2,)}[g]
    check_lanes(MLP64, g, "vmap/im2col", 1, lanes=lanes)


def test_training_metrics_are_those_of_the_weights_before_each_update():
    """Mean loss and accuracy over an epoch, each example seen by the weights of its time."""
    data, lanes = dataset(), (1, 4)
    with precision(jnp.float64):
        program = trainer([LANES[i] for i in lanes], config_of({"name": "mlp"}), 4, module=MLP64)
        state = program.train(program.engine.init(program.lanes), 0, 48)  # 25 ticks, 23 ticks
        images = unit(data.train_images, np.float64)
        for position, i in enumerate(lanes):
            sums, run = program.lane(state, position).sums, plain_run(LANES[i])
            order = [example for _, example in itertools.islice(reference.stream(run.seed, N), 192)]
            updates = 192 // run.batch_size
            every = reference.train(MLP64, run, images, data.train_labels, EPOCHS * N, updates)
            losses, right = [], []
            for first, weights in zip(range(0, 192, run.batch_size), every, strict=False):
                batch = np.asarray(order[first : first + run.batch_size])
                logits = MLP64.apply({"params": weights.params}, images[batch], train=True)
                labels = data.train_labels[batch]
                losses += optax.softmax_cross_entropy_with_integer_labels(logits, labels).tolist()
                right += (logits.argmax(-1) == labels).tolist()
            assert sums.examples == 92
            np.testing.assert_allclose(sums.loss, sum(losses[100:]), rtol=1e-6)
            assert sums.metrics["accuracy"] == sum(right[100:])


@pytest.mark.parametrize(("scaling", "scale"), [("sqrt", np.sqrt), ("none", lambda m: 1.0)])
def test_scaling_of_the_learning_rate(scaling, scale):
    data = dataset()
    with precision(jnp.float64):
        config = config_of({"name": "mlp"}, lr_scaling=scaling)
        program = trainer([LANES[1], LANES[4]], config, 4, "map/direct", module=MLP64)
        state = program.train(program.engine.init(program.lanes), 0, 40)
        images = unit(data.train_images, np.float64)
        for position, i in enumerate((1, 4)):
            run = plain_run(LANES[i], scale=scale)
            updates = 40 * 4 // run.batch_size
            every = reference.train(MLP64, run, images, data.train_labels, EPOCHS * N, updates)
            *_, last = every
            assert distance(program.lane(state, position).params, last.params) < 1e-9


def test_augmentation_follows_the_example_not_the_batch():
    """Crops and flips are those of (seed, epoch, example), across the end of an epoch too."""
    data = dataset()

    def augment(x, epochs, examples, key):
        keys = augment_keys(purpose_key(key, "augment"), jnp.asarray(epochs), jnp.asarray(examples))
        return pad_crop_flip(jnp.asarray(x), keys)

    with precision(jnp.float64):
        config = config_of({"name": "mlp"}, data={"normalize": "unit", "augment": "crop_flip"})
        program = trainer([LANES[1], LANES[6]], config, 4, "map/direct", module=MLP64)
        state = program.train(program.engine.init(program.lanes), 0, 64)
        images = unit(data.train_images, np.float64)
        for position, i in enumerate((1, 6)):
            run = plain_run(LANES[i])
            every = list(
                reference.train(MLP64, run, images, data.train_labels, EPOCHS * N,
                                256 // run.batch_size, augment)
            )  # fmt: skip
            assert distance(program.lane(state, position).params, every[-1].params) < 1e-9
    assert distance(every[-1].params, plain(MLP64, 6, None, 4)[1].params) > 1e-3


def test_a_rule_that_looks_elsewhere_for_its_gradient():
    """All micro-batches of an update take their gradients at the point that the rule asks for."""
    data, lane = dataset(), {"batch_size": 8, "base_lr": 2.0**-4, "seed": 3}
    make = RULES.configured({"name": "extrap_sgd", "momentum": 0.9})
    with precision(jnp.float64):
        config = {"epochs": 9, "rule": {"name": "extrap_sgd", "momentum": 0.9}}
        program = trainer([lane], config, 2, module=MLP64)
        state = program.train(program.engine.init(program.lanes), 0, 80)

        rule = make(8 * lane["base_lr"])
        weights = reference.start(MLP64, 3, unit(data.train_images[:1], np.float64))
        params, opt_state = weights.params, rule.init(weights.params)
        order = reference.stream(3, N)
        for _ in range(20):
            examples = np.asarray([next(order)[1] for _ in range(8)])
            point = reference.Weights(evaluation_point(rule, params, opt_state), {})
            x, labels = unit(data.train_images[examples], np.float64), data.train_labels[examples]
            grads, _ = reference.gradient(MLP64, point, x, labels)
            updates, opt_state = rule.update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
    assert distance(program.lane(state, 0).params, params) < 1e-9


# --- float32 -------------------------------------------------------------------------------------

NORMED = ConvNet(classes=CLASSES, channels=(3, 4), norm=True)


def changes(before, after):
    """All changes of the weights in one vector."""
    leaves = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return np.concatenate([np.ravel(b - a) for a, b in leaves])


def check_one_step(module, model, strategy, g, lanes, shape=(8, 8, 1)):
    """First changes from fresh weights, median over the weights of their relative differences."""
    runs = [LANES[i] for i in lanes]
    config = config_of(model, bn_batch=g)
    program = trainer(runs, config, g, strategy, data=dataset(shape), quickly=False)
    state, tick = program.engine.init(program.lanes), 0
    fresh = jax.device_get(state.params)
    for position, i in enumerate(lanes):
        until = LANES[i]["batch_size"] // g
        state, tick = program.train(state, tick, until), until
        first, last = plain(module, i, g, 1, shape)
        after = program.lane(state, position)
        start = jax.tree.map(lambda x, p=position: x[p], fresh)
        assert distance(start, first.params) < 1e-6
        assert distance(after.stats, last.stats) < 1e-4
        mine, theirs = changes(start, after.params), changes(first.params, last.params)
        moved = theirs != 0
        assert moved.mean() > 0.5
        assert np.median(np.abs(mine - theirs)[moved] / np.abs(theirs[moved])) < 3e-5


@pytest.mark.parametrize("strategy", ["vmap/im2col", "map/direct", *slowly([["vmap/stock"]])])
def test_one_step_in_float32(strategy):
    """A forgotten weight decay would show at 1e-4, a wrong ghost batch at 0.2."""
    check_one_step(NORMED, CONVNET["ghost"], strategy, 2, ALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(BUILT_IN))
@pytest.mark.parametrize("strategy", ["vmap/im2col", "map/direct", "map:2/im2col"])
def test_one_step_of_the_nets_of_the_paper_in_float32(name, strategy):
    model, module = BUILT_IN[name]
    module = module(classes=CLASSES, norm=True)
    check_one_step(module, model, strategy, 8, (3, 4), (32, 32, 3))


@pytest.mark.parametrize(
    ("strategy", "devices"),
    [("vmap/im2col", 2), *slowly([("map/direct", 8), ("vmap/stock", 1), ("map:3/im2col", 2)])],
)
def test_100_updates_in_float32_without_batch_norm(strategy, devices):
    epochs, updates, lanes = 17, 100, (0, 3)
    module = ConvNet(classes=CLASSES, channels=(3, 4))
    config = config_of(CONVNET["plain"], epochs=epochs)
    program = trainer([LANES[i] for i in lanes], config, 2, strategy, devices, quickly=False)
    state, tick = program.engine.init(program.lanes), 0
    for position, i in enumerate(lanes):
        until = updates * LANES[i]["batch_size"] // 2
        state, tick = program.train(state, tick, until), until
        first, last = plain(module, i, None, updates, epochs=epochs)
        assert distance(first.params, last.params) > 1e-2
        assert distance(program.lane(state, position).params, last.params) < 1e-5


@pytest.mark.slow
def test_long_float32_runs_agree_within_the_noise_of_rounding():
    """After three epochs with batch norm, at a learning rate at which rounding errors grow.

    The noise is measured: the plain loop again, from weights moved by 1e-7 of themselves.
    """
    size, epochs, g, seeds = 400, 3, 4, range(6)
    data, module = dataset((8, 8, 1), size), NORMED.clone(channels=(6, 8))
    runs = [settings(16, -6, seed, momentum=0.9) for seed in seeds]
    model = {"name": "convnet", "channels": (6, 8), "norm": "batch"}
    config = config_of(model, g, epochs)
    program = trainer(runs, config, g, "vmap/im2col", 2, data=data, quickly=False)
    state = program.train(program.engine.init(program.lanes), 0, program.cohort.ticks)
    result = program.engine.evaluate(state, program.lanes)["test"]

    def plainly(run, moved):
        images, tested = (unit(x, np.float32) for x in (data.train_images, data.test_images))
        begin = reference.start
        with pytest.MonkeyPatch.context() as patch, precision(jnp.float32):
            patch.setattr(reference, "start", lambda *args: jax.tree.map(
                lambda leaf: leaf * np.float32(1 + moved), begin(*args)))  # fmt: skip
            *_, last = reference.train(
                module, plain_run(run, g), images, data.train_labels, epochs * size, epochs * 25
            )
            return reference.evaluate(module, last, tested, data.test_labels)

    loss, accuracy = np.transpose([plainly(run, 0.0) for run in runs])
    moved_loss, moved_accuracy = np.transpose([plainly(run, 1e-7) for run in runs])
    assert 0.6 < accuracy.mean() < 0.95
    noise = np.linalg.norm(moved_loss - loss)
    assert noise / np.linalg.norm(loss) > 3e-7  # it has grown
    assert np.linalg.norm(result.loss - loss) < 10 * noise
    tolerance = np.abs(moved_accuracy - accuracy).max() + 1e-6
    assert np.abs(result.metrics["accuracy"] - accuracy).max() <= 3 * tolerance


def test_bfloat16_computes_in_16_bits_and_keeps_32():
    lanes = (3, 4)
    config = config_of(CONVNET["ghost"], 4, engine={"precision": "bfloat16"})
    program = trainer([LANES[i] for i in lanes], config, 4, "map/direct")
    state = program.engine.init(program.lanes)
    fresh = program.lane(state, 0)
    state = program.train(state, 0, 2)
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.stats))} == {
        jnp.dtype("float32")
    }
    first, last = plain(NORMED, 3, 4, 1)
    mine = changes(fresh.params, program.lane(state, 0).params)
    theirs = changes(first.params, last.params)
    error = np.linalg.norm(mine - theirs) / np.linalg.norm(theirs)
    assert 1e-4 < error < 0.2  # 8 bits of mantissa: neither float32 nor nonsense
    state = program.train(state, 2, program.cohort.ticks)
    assert (np.asarray(state.diverged_at) == -1).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    assert (
        np.asarray(program.engine.evaluate(state, program.lanes)["test"].metrics["accuracy"]) > 0.5
    ).all()


# --- what a lane does not depend on --------------------------------------------------------------


def equal(a, b):
    """Bit-identical trees."""
    same = jax.tree.map(lambda x, y: np.array_equal(x, y, equal_nan=True), a, b)
    return jax.tree.all(same)


@pytest.mark.parametrize("strategy", ["vmap/im2col", "map/direct"])
def test_windows_give_the_same_bits(strategy):
    """However an epoch is cut into calls: every leaf of the state, metrics included."""
    module = MLP(classes=CLASSES, norm=True)
    program = trainer([LANES[i] for i in (1, 4, 3)], config_of({"name": "mlp"}, 4), 4, strategy, 2,
                      module)  # fmt: skip
    states = []
    for window in (None, 1, 3):
        state = program.train(program.engine.init(program.lanes), 0, 160, window)
        states.append(jax.device_get(state._replace(diverged_at=state.diverged_at[:3])))
    assert states[0].updates.tolist()[:3] == [160, 40, 80]
    assert equal(states[0], states[1])
    assert equal(states[0], states[2])


def test_dropout_depends_on_the_run_alone():
    """Same masks for every strategy, device and neighbour; others at every tick and seed."""
    module = MLP(classes=CLASSES, dtype=jnp.float64, hidden=(16,), dropout=0.5)
    runs = [settings(8, -5, seed) for seed in (0, 1)]
    with precision(jnp.float64):

        def trained(runs, strategy, devices, module=module):
            program = trainer(runs, config_of({"name": "mlp"}), 8, strategy, devices, module)
            state = program.train(program.engine.init(program.lanes), 0, 30)
            return [program.lane(state, i).params for i in range(len(runs))]

        (alone,) = trained(runs[:1], "map/direct", 1)
        other, _, again = trained([runs[1], settings(16, -3, 0), runs[0]], "vmap/im2col", 2)
        (without,) = trained(runs[:1], "map/direct", 1, module.clone(dropout=0.0))
        assert distance(again, alone) < 1e-9
        assert distance(other, alone) > 1e-2
        assert distance(without, alone) > 1e-2


# --- divergence ----------------------------------------------------------------------------------


def bad_update(module, run, data):
    """Updates before the first batch whose loss is not finite, in the plain loop."""
    images, order = unit(data.train_images, np.float32), reference.stream(run.seed, N)
    every = reference.train(module, run, images, data.train_labels, EPOCHS * N, 30)
    for update, weights in enumerate(every):
        examples = np.asarray([next(order)[1] for _ in range(run.batch_size)])
        logits = module.apply({"params": weights.params}, images[examples], train=True)
        labels = data.train_labels[examples]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        if not np.isfinite(losses).all():
            return update
    raise AssertionError("never")


@pytest.mark.parametrize(("strategy", "devices"), [("vmap/im2col", 2), ("map/direct", 1)])
def test_a_diverged_lane_freezes_and_leaves_its_neighbours_alone(strategy, devices):
    module, g = MLP(classes=CLASSES, hidden=(6, 6)), 4
    calm, wild = settings(8, -6, 1, momentum=0.9), settings(16, 2, 2, decay=0.05, warmup=0.0)
    tick = bad_update(module, plain_run(wild), dataset()) * 4
    assert tick > 8

    def build(middle):
        config = config_of({"name": "mlp"})
        return trainer([calm, middle, calm], config, g, strategy, devices, module)

    program = build(wild)
    state = program.train(program.engine.init(program.lanes), 0, tick)
    before = program.lane(state, 1)
    assert before.diverged_at == -1
    state = program.train(state, tick, tick + 1)
    at = program.lane(state, 1)
    assert at.diverged_at == tick * g
    assert equal(at._replace(diverged_at=before.diverged_at), before)
    state = program.train(state, tick + 1, program.cohort.ticks)
    end = program.lane(state, 1)
    assert equal(end._replace(sums=at.sums), at)
    assert end.sums.examples == 0  # metrics of the last epoch: nothing was learnt

    tame = build(settings(16, -8, 2))
    other = tame.train(tame.engine.init(tame.lanes), 0, tame.cohort.ticks)
    for i in (0, 2):
        assert equal(program.lane(state, i), tame.lane(other, i))
        assert program.lane(state, i).diverged_at == -1
    assert tame.lane(other, 1).diverged_at == -1


@pytest.mark.parametrize("strategy", ["vmap/im2col", "map/direct"])
def test_divergence_in_the_middle_of_a_batch(strategy):
    """An example that no arithmetic survives: lanes freeze at the very tick that holds it."""
    images = unit(dataset().train_images, np.float32)
    poisoned = images.copy()
    poisoned[17] = 3e38
    labels = dataset().train_labels
    data = from_arrays(poisoned, labels, images[:8], labels[:8], num_classes=CLASSES)
    runs = [settings(m, -6, seed) for m, seed in ((16, 0), (16, 1), (8, 2), (2, 2))]
    g, module = 2, MLP(classes=CLASSES)
    config = config_of({"name": "mlp"}, data={"normalize": "none"})
    program = trainer(runs, config, g, strategy, 2, module, data)
    state = program.train(program.engine.init(program.lanes), 0, program.cohort.first_tick(1))
    for i, run in enumerate(runs):
        order = [example for _, example in itertools.islice(reference.stream(run["seed"], N), N)]
        seen = order.index(17) // g * g
        lane = program.lane(state, i)
        assert lane.diverged_at == seen
        assert (lane.updates, lane.accumulated) == divmod(seen // g, run["batch_size"] // g)
        assert lane.sums.examples == seen
        plain_lane = plain_run(run)
        *_, last = reference.train(
            module, plain_lane, images, labels, EPOCHS * N, int(lane.updates)
        )
        assert distance(lane.params, last.params) < 1e-5
    assert any(np.asarray(state.accumulated)[:3] > 0)


def test_what_a_collective_looks_like():
    """The pattern that no lane program may match does match one."""
    mesh = make_mesh()
    total = jax.shard_map(
        lambda x: jax.lax.psum(x, "lane"), mesh=mesh, in_specs=P("lane"), out_specs=P()
    )
    text = jax.jit(total).lower(jnp.ones(8)).compile().as_text()
    assert COLLECTIVE.search(text)


# --- evaluation ----------------------------------------------------------------------------------


def evaluated(statistics, strategy):
    """A lane with batch norm after some updates, and what the engine says of it."""
    config = config_of(CONVNET["ghost"], 4, evaluate={"statistics": statistics, "batch": 8})
    program = trainer([LANES[i] for i in (3, 4)], config, 4, strategy)
    state = program.train(program.engine.init(program.lanes), 0, 200)
    result = jax.device_get(program.engine.evaluate(state, program.lanes)["test"])
    lane = program.lane(state, 0)
    weights = reference.Weights(lane.params, lane.stats)
    return weights, result.loss[0], result.metrics["accuracy"][0]


def test_evaluation_with_running_statistics():
    """30 examples in pieces of 8: what fills the last piece up does not count."""
    data = dataset()
    weights, loss, accuracy = evaluated("running", "vmap/im2col")
    images = unit(data.test_images, np.float32)
    wanted = reference.evaluate(NORMED, weights, images, data.test_labels)
    np.testing.assert_allclose((loss, accuracy), wanted, rtol=2e-6)


def test_evaluation_with_the_statistics_of_the_batch():
    """Of 8 examples at a time; the last 6 of the 30 are joined by the first 2."""
    data = dataset()
    weights, loss, accuracy = evaluated("batch", "map/direct")
    images, losses, right = unit(data.test_images, np.float32), [], []
    variables = {"params": weights.params, "batch_stats": weights.stats}
    for first in range(0, 30, 8):
        examples = np.arange(first, first + 8) % 30
        counted = examples[: 30 - first]
        logits, _ = NORMED.apply(variables, images[examples], train=True, mutable=["batch_stats"])
        logits, labels = logits[: len(counted)], data.test_labels[counted]
        losses.append(optax.softmax_cross_entropy_with_integer_labels(logits, labels))
        right.append(logits.argmax(-1) == labels)
    wanted = np.concatenate(losses).mean(), np.concatenate(right).mean()
    np.testing.assert_allclose((loss, accuracy), wanted, rtol=2e-5)
    running = reference.evaluate(NORMED, weights, images, data.test_labels)
    assert abs(running[0] - loss) > 1e-2


def test_evaluation_with_precise_statistics():
    """Statistics of the present weights: the mean over the ghost batches of the training set."""
    data = dataset()
    weights, loss, accuracy = evaluated("precise", "map/im2col")
    images = unit(data.train_images, np.float32)
    momentum = 0.97  # of the moving average: what one batch adds to zero is (1 - 0.97) of itself
    zero = reference.Weights(weights.params, jax.tree.map(np.zeros_like, weights.stats))
    parts = [
        reference.gradient(NORMED, zero, images[i : i + 4], data.train_labels[i : i + 4])[1]
        for i in range(0, 4 * (N // 4), 4)
    ]
    stats = jax.tree.map(lambda s: s / (1 - momentum), reference.mean(parts))
    wanted = reference.evaluate(
        NORMED,
        reference.Weights(weights.params, stats),
        unit(data.test_images, np.float32),
        data.test_labels,
    )
    np.testing.assert_allclose((loss, accuracy), wanted, rtol=2e-4)
    assert distance(stats, weights.stats) > 1e-2
