"""Measurements on sweeps: in training and afterwards, against pure functions and a plain loop."""

import shutil
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
import xarray as xr
from lanes import trainer
from sweeps import Watch, compiling_anew

from sbt import cli, measure, results
from sbt.checkpoint import load_weights
from sbt.config import complete
from sbt.data import load
from sbt.errors import UserError
from sbt.measure import MEASUREMENTS, Labelled
from sbt.measure.record import MARK, Measured
from sbt.report import View, measured_figures, write_report
from sbt.sweep.afterwards import measure_runs
from sbt.sweep.run import Interrupted, run

N, TESTED, CLASSES, EPOCHS, G = 94, 40, 4, 3, 4
HUGE = 1e20  # a base learning rate that leaves no weight finite
ONLINE = ("strides", "accumulated_noise_scale", "fluctuation", "range_test", "stationarity")
NAMES = ("sharpness", "hessian_trace", "gradient_moments", "discarded_gradient", "distance")
CONFIG = {
    "name": "measured",
    "data": {"name": "synthetic", "train_size": N, "test_size": TESTED, "num_classes": CLASSES,
             "image_shape": (4, 4, 1), "noise": 0.3, "normalize": "unit"},
    "model": {"name": "mlp", "hidden": (8,)},
    "epochs": EPOCHS,
    "sweep": {"batch_size": (4, 8), "base_lr": (2.0**-7, HUGE), "seed": (0, 1)},
    "checkpoint": {"minutes": 1e6, "final_weights": True},
}  # fmt: skip
SETTINGS = {
    "sharpness": {"directions": 5, "starts": 2, "steps": 5, "epsilons": (1e-2, 1e-3)},
    "hessian_trace": {"samples": 4},
    "discarded_gradient": {"fractions": (0.5,)},
    "batch": 40,  # two batches and a shorter one
}
MODULE = reference.MLP(classes=CLASSES, hidden=(8,))


@pytest.fixture(scope="module", autouse=True)
def quickly():
    with compiling_anew():
        yield


@pytest.fixture(scope="module")
def plain():
    return run(CONFIG)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Directory and results of a sweep that is measured while it trains."""
    directory = tmp_path_factory.mktemp("measured") / "run"
    names = (*NAMES, *ONLINE)
    sweep = {**CONFIG, "measure": {**SETTINGS, "names": names, "every": 2, "at_start": True}}
    return directory, run(sweep, directory)


# --- in training ---------------------------------------------------------------------------------


def test_training_is_the_same_with_and_without(plain, measured):
    for name in plain.data_vars:
        np.testing.assert_array_equal(plain[name], measured[1][name], err_msg=str(name))


def test_dimensions_and_labels(measured):
    dataset = measured[1]
    assert dataset["measured_epoch"].values.tolist() == [0, 2, 3]
    axes = ("batch_size", "base_lr", "seed")
    assert dataset["sharpness"].dims == (*axes, "measured_epoch", "space", "epsilon")
    assert dataset["space"].values.tolist() == ["full", "subspace"]
    assert dataset["epsilon"].values.tolist() == [1e-2, 1e-3]
    assert dataset["parameter_stride"].dims == (*axes, "epoch", "layer")
    assert dataset["layer"].values.tolist() == [
        "all", "Dense_0/bias", "Dense_0/kernel", "Dense_1/bias", "Dense_1/kernel",
    ]  # fmt: skip
    assert dataset["sharpness"].attrs["long_name"]
    xr.testing.assert_identical(results.load(measured[0]), dataset)


def test_a_run_without_finite_weights_is_nan_and_its_neighbours_are_not(measured):
    dataset = measured[1]
    for name in ("sharpness", "hessian_trace", "covariance_trace", "distance_from_start"):
        assert not np.isnan(dataset[name].sel(base_lr=2.0**-7)).any()
        assert not np.isnan(dataset[name].sel(measured_epoch=0)).any()
        assert np.isnan(dataset[name].sel(base_lr=HUGE)[:, :, 1:]).all()


def test_at_the_start_nothing_depends_on_the_run_but_its_seed(measured):
    start = measured[1].sel(measured_epoch=0)
    np.testing.assert_allclose(start["distance_from_start"], 0, atol=1e-5)
    for name in ("sharpness", "hessian_trace", "covariance_trace"):
        first = start[name][:1, :1]
        np.testing.assert_allclose(start[name], np.broadcast_to(first, start[name].shape), 1e-6)


@pytest.fixture(scope="module")
def subject(measured):
    """Final weights of the runs by grid position; loss and data, by Flax and optax alone."""
    data = load(complete(CONFIG).data)
    x, y = jnp.asarray(data.train_images / np.float32(255)), jnp.asarray(data.train_labels)

    def batch_loss(params, batch):
        logits = MODULE.apply({"params": params}, batch[0], train=False)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    (place,) = (measured[0] / "weights").iterdir()
    params, _, points = load_weights(place)
    rows = {tuple(p): jax.tree.map(lambda a, i=i: a[i], params) for i, p in enumerate(points)}
    return rows, batch_loss, (x, y)


def key_of(name):
    return jax.random.fold_in(jax.random.key(0), zlib.crc32(name.encode()))


@pytest.mark.parametrize("point", [(1, 0, 1)])
def test_lanes_measure_what_the_pure_functions_do(measured, subject, point):
    rows, batch_loss, (x, y) = subject
    weights, found = rows[point], measured[1].isel(measured_epoch=-1)
    at = dict(zip(("batch_size", "base_lr", "seed"), point))
    found = found.isel(at)

    def loss(params):
        return batch_loss(params, (x, y))

    trace = measure.hessian_trace(loss, weights, samples=4, key=key_of("hessian_trace"))
    np.testing.assert_allclose(found["hessian_trace"], trace.value, rtol=1e-3)
    np.testing.assert_allclose(found["hessian_trace_error"], trace.standard_error, rtol=1e-3)

    key = key_of("sharpness")
    basis = measure.random_subspace(172, 5, jax.random.fold_in(key, 0))
    for space, directions in (("full", None), ("subspace", basis)):
        sharp = measure.sharpness(
            loss, weights, 1e-2, subspace=directions, starts=2, steps=5,
            key=jax.random.fold_in(key, 1),
        )  # fmt: skip
        value = found["sharpness"].sel(space=space, epsilon=1e-2)
        np.testing.assert_allclose(value, sharp.value, rtol=1e-3)

    def gradient(i):
        grads = jax.grad(batch_loss)(weights, (x[i : i + 1], y[i : i + 1]))
        return np.concatenate([np.ravel(g) for g in jax.tree.leaves(grads)])

    each = np.stack([gradient(i) for i in range(N)])
    np.testing.assert_allclose(found["covariance_trace"], each.var(0).sum(), rtol=1e-4)
    np.testing.assert_allclose(found["gradient_square"], (each.mean(0) ** 2).sum(), rtol=1e-3)
    np.testing.assert_allclose(
        found["discarded_gradient"].sel(fraction=0.0), np.abs(each.mean(0)).mean(), rtol=1e-4
    )
    losses = np.asarray([loss_of(batch_loss, weights, x, y, i) for i in range(N)])
    kept = np.argsort(losses)[N // 2 :]
    np.testing.assert_allclose(
        found["discarded_gradient"].sel(fraction=0.5), np.abs(each[kept].mean(0)).mean(), rtol=1e-3
    )
    start = reference.start(MODULE, np.uint32(point[2]), x[:1]).params
    np.testing.assert_allclose(
        found["distance_from_start"], measure.distance(start, weights), rtol=1e-3
    )


def loss_of(batch_loss, weights, x, y, i):
    return float(batch_loss(weights, (x[i : i + 1], y[i : i + 1])))


@pytest.mark.parametrize("m", [4, 8])
def test_online_measurements_add_up_what_a_plain_loop_does(measured, subject, m):
    """Per epoch, for SGD without momentum: strides, gradients, micro-batch norms, batch losses."""
    _, batch_loss, (x, y) = subject
    rate, updates = m * 2.0**-7, EPOCHS * N // m
    lane = reference.Run(m, 2.0**-7)
    steps = list(reference.train(MODULE, lane, x, y, N * EPOCHS, updates))
    order = reference.stream(0, N)
    value_and_grad = jax.jit(jax.value_and_grad(batch_loss))

    def flat(tree):
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(float)

    losses, strides, small, large, gradients = [], [], [], [], []
    for t in range(updates):
        examples = np.asarray([next(order)[1] for _ in range(m)])
        parts = [
            value_and_grad(steps[t].params, (x[piece], y[piece]))
            for piece in examples.reshape(-1, G)
        ]
        losses.append(np.mean([loss for loss, _ in parts]))
        each = np.stack([flat(grads) for _, grads in parts])
        strides.append(np.abs(flat(steps[t + 1].params) - flat(steps[t].params)).mean())
        small.append((each**2).sum(1).mean())
        large.append((each.mean(0) ** 2).sum())
        gradients.append(each.mean(0))
    gradients = np.stack(gradients)
    found = measured[1].sel(batch_size=m, base_lr=2.0**-7, seed=0)
    # Micro-batches of an epoch are those that end in it, and an update counts at its last one.
    ends = [(e * N // G) * G // m for e in range(EPOCHS + 1)]
    for epoch in range(EPOCHS):
        part = slice(ends[epoch], ends[epoch + 1])
        here = found.sel(epoch=epoch + 1)
        whole = here.sel(layer="all")
        np.testing.assert_allclose(whole["path_length"], np.sum(strides[part]), rtol=1e-3)
        np.testing.assert_allclose(
            whole["normalised_stride"], np.mean(strides[part]) / rate, rtol=1e-3
        )
        np.testing.assert_allclose(
            whole["gradient_magnitude"], np.abs(gradients[part]).mean(), rtol=1e-3
        )
        mean_square = (gradients[part] ** 2).mean()
        np.testing.assert_allclose(whole["gradient_mean_square"], mean_square, rtol=1e-3)
        np.testing.assert_allclose(whole["loss_stride"], rate * mean_square, rtol=1e-3)
        bias = here["gradient_magnitude"].sel(layer="Dense_0/bias")
        np.testing.assert_allclose(bias, np.abs(gradients[part, :8]).mean(), rtol=1e-3)
        of_epoch = np.asarray(losses[part])
        np.testing.assert_allclose(here["batch_loss_std"], of_epoch.std(ddof=1), rtol=1e-3)
        np.testing.assert_allclose(
            here["batch_loss_fluctuation"], np.sqrt(np.mean(np.diff(of_epoch) ** 2) / 2), rtol=1e-3
        )
        if m == G:
            assert np.isnan(here["accumulated_noise_scale"])
            continue
        b, big = np.mean(small[part]), np.mean(large[part])
        trace = (b - big) / (1 / G - 1 / m)
        square = (m * big - G * b) / (m - G) + trace / N
        np.testing.assert_allclose(here["accumulated_covariance_trace"], trace, rtol=1e-3)
        np.testing.assert_allclose(here["accumulated_gradient_square"], square, rtol=2e-3)
        expected = trace / square if square > 0 else np.nan
        np.testing.assert_allclose(here["accumulated_noise_scale"], expected, rtol=2e-3)


@pytest.mark.slow
def test_devices_that_share_a_run_measure_the_same():
    names = ("hessian_trace", "strides", "fluctuation", "accumulated_noise_scale")
    grid = {"sweep": {"batch_size": (8, 16)}, "epochs": 1, "measure": {**SETTINGS, "names": names}}
    grid = {**CONFIG, **grid, "data": {**CONFIG["data"], "train_size": 96}}
    alone, shared = run(grid), run({**grid, "parallel": {"data": 2}})
    for name in ("hessian_trace", "parameter_stride", "loss_stride", "batch_loss_std"):
        np.testing.assert_allclose(alone[name], shared[name], rtol=1e-4, err_msg=name)
    # Two devices take half a batch of 8 each: two sizes are there to compare.
    assert np.isnan(alone["accumulated_covariance_trace"]).sel(batch_size=8).all()
    assert (shared["accumulated_covariance_trace"] > 0).all()


@pytest.mark.parametrize(
    ("strategy", "sizes"),
    [
        ("vmap/im2col", (4, 8)),
        ("map/direct", (4, 8)),
        pytest.param("vmap/im2col", (4, 4), marks=pytest.mark.slow),
        pytest.param("map/direct", (4, 4), marks=pytest.mark.slow),
    ],
)
def test_online_measurements_leave_every_bit_of_training_alone(strategy, sizes):
    runs = [{"batch_size": m, "base_lr": lr, "seed": 0} for m, lr in zip(sizes, (0.01, 0.003))]
    settings = {"epochs": 2, "model": {"name": "convnet"},
                "rule": {"name": "sgd", "momentum": 0.9, "weight_decay": 1e-3}}  # fmt: skip

    def state(names):
        lanes = trainer(runs, {**settings, "measure": {"names": names}}, 4, strategy)
        trained = lanes.train(lanes.engine.init(lanes.lanes), 0, lanes.cohort.ticks)
        return jax.device_get(trained._replace(observed=())), trained.observed

    (without, none), (together, observed) = state(()), state(ONLINE)
    assert none == () and len(observed) == len(ONLINE)
    jax.tree.map(np.testing.assert_array_equal, without, together)
    assert (np.asarray(observed[0].sums.updates) > 0).all()


def test_a_resumed_sweep_keeps_what_was_measured(measured, tmp_path):
    names = ("distance", *ONLINE)
    sweep = {**CONFIG, "measure": {"names": names, "every": 2, "at_start": True}}
    with pytest.raises(Interrupted):
        run(sweep, tmp_path, progress=Watch(epochs=0.9))
    partial = results.load(tmp_path)
    assert partial["measured_epoch"].values.tolist() == [0]
    resumed = run(sweep, tmp_path)
    for name in resumed.data_vars:
        np.testing.assert_array_equal(resumed[name], measured[1][name], err_msg=str(name))


def test_the_report_shows_what_was_measured(measured, tmp_path):
    dataset = measured[1].sel(base_lr=[2.0**-7])
    drawings = {drawing.name: drawing for drawing in measured_figures(View(dataset))}
    assert {"measured_sharpness", "measured_parameter_stride"} <= set(drawings)
    assert "measured_hessian_trace_error" not in drawings
    left, right = drawings["measured_hessian_trace"].figure.axes
    at_the_end = dataset["hessian_trace"].squeeze("base_lr")[..., -1].median("seed")
    np.testing.assert_allclose(left.lines[0].get_ydata(), at_the_end)
    in_time = dataset["hessian_trace"].squeeze("base_lr").sel(batch_size=4).median("seed")
    np.testing.assert_allclose(right.lines[0].get_ydata(), in_time)
    page, *files = write_report(dataset, tmp_path, {"status": "done"})
    assert "<h3>Measurements</h3>" in page.read_text()
    assert any(path.name == "measured_sharpness.png" for path in files)


def test_names_are_compared_in_the_figures_of_measured_variables():
    """A curve for each rule, at the learning rate that is best for it."""
    axes = {"rule": ["sgd", "sngm"], "batch_size": [2, 8], "base_lr": [0.1, 0.2], "seed": [0, 1]}
    shape = tuple(map(len, axes.values()))
    accuracy = np.full(shape, 0.5)
    accuracy[0, :, 1] = accuracy[1, :, 0] = 0.9  # sgd likes the larger rate, sngm the smaller
    noise = np.arange(np.prod(shape), dtype=float).reshape(shape)
    dims = tuple(axes)
    ds = xr.Dataset(
        {
            "accuracy": (dims, accuracy),
            "test_accuracy": ((*dims, "epoch"), accuracy[..., None]),
            "diverged": (dims, np.zeros(shape, bool)),
            "finished": (dims, np.ones(shape, bool)),
            "epochs_done": (dims, np.ones(shape, int)),
            "noise": ((*dims, "measured_epoch"), noise[..., None], {MARK: "noise"}),
        },
        {**axes, "epoch": [1], "measured_epoch": [1]},
        {"chance": 0.1},
    )
    (drawing,) = measured_figures(View(ds))
    (panel,) = drawing.figure.axes
    assert "the best base learning rate of each" in drawing.caption
    expected = [noise[0, :, 1].mean(-1), noise[1, :, 0].mean(-1)]
    for line, values in zip(panel.lines, expected, strict=True):
        np.testing.assert_allclose(line.get_ydata(), values)
    assert [text.get_text() for text in panel.get_legend().get_texts()] == axes["rule"]


# --- afterwards ----------------------------------------------------------------------------------


@pytest.fixture
def bare(measured, tmp_path):
    """The same sweep as if nothing had been measured."""
    directory = tmp_path / "bare"
    shutil.copytree(measured[0], directory)
    dataset = measured[1]
    dataset = dataset.drop_vars([n for n, v in dataset.data_vars.items() if MARK in v.attrs])
    own = ("measured_epoch", "space", "epsilon", "fraction", "layer")
    results.write(dataset.drop_vars(own), directory)
    return directory


def test_afterwards_as_in_training(measured, bare, capsys):
    """Final weights, in the file that was there; a second call adds to the first."""
    chosen = "sharpness,hessian_trace,gradient_moments,discarded_gradient"
    options = [f"--config.measure.{k}.{name}={value!r}" for k, section in SETTINGS.items()
               if k != "batch" for name, value in section.items()]  # fmt: skip
    options += ["--config.measure.batch=40"]
    assert cli.main(["measure", str(bare), f"--config.measure={chosen}", *options]) == 0
    assert "8 of 8 runs measured" in capsys.readouterr().out
    found, whole = results.load(bare), measured[1]
    assert found["measured_epoch"].values.tolist() == [EPOCHS]
    for name in ("sharpness", "hessian_trace", "covariance_trace", "discarded_gradient"):
        during = whole[name].sel(measured_epoch=[EPOCHS])
        np.testing.assert_allclose(found[name], during, rtol=1e-5, err_msg=name)
    np.testing.assert_array_equal(found["test_loss"], whole["test_loss"])

    both = measure_runs(bare, {"names": ("distance",)})
    assert {"sharpness", "distance_from_start"} <= set(both.data_vars)
    xr.testing.assert_identical(results.load(bare), both)
    np.testing.assert_allclose(
        both["distance_from_start"], whole["distance_from_start"][..., -1:], rtol=1e-5
    )


def test_weights_that_were_not_kept(tmp_path, capsys):
    directory = tmp_path / "w"
    quick = {**CONFIG, "epochs": 1, "checkpoint": {}, "sweep": {"batch_size": (4,)}}
    run(quick, directory)
    assert cli.main(["measure", str(directory), "--config.measure=distance"]) == 2
    assert "checkpoint.final_weights=True" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--config.measure=sharpnes"], "did you mean sharpness"),
        (["--config.measure=strides"], "names no measurement of weights"),
        (["--config.measure.names=()"], "names no measurement of weights"),
        (["--config.epochs=4"], "is what the sweep was trained with"),
        (["--config.measure=distance", "--config.measure.where=Conv"], "selects no parameter"),
    ],
)
def test_what_sbt_measure_refuses(bare, capsys, arguments, says):
    assert cli.main(["measure", str(bare), *arguments]) == 2
    assert says in capsys.readouterr().err


def test_a_directory_without_a_sweep(tmp_path, capsys):
    assert cli.main(["measure", str(tmp_path), "--config.measure=distance"]) == 2
    assert "holds no sweep" in capsys.readouterr().err


# --- refused before anything compiles ------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "field"),
    [
        ({"names": ("sharpnes",)}, "config.measure.names"),
        ({"every": 0}, "config.measure.every"),
        ({"mode": "test"}, "config.measure.mode"),
        ({"where": "("}, "config.measure.where"),
        ({"sharpness": {"epsilons": ()}}, "config.measure.sharpness.epsilons"),
        ({"sharpness": {"steps": 0}}, "config.measure.sharpness.steps"),
        ({"sharpness": {"stepz": 1}}, "config.measure.sharpness.stepz"),
        ({"names": ("sharpness",), "sharpness": {"directions": 173}}, "config.measure.sharpness"),
        ({"names": ("distance",), "where": "Conv"}, "config.measure.distance"),
        ({"names": ("gradient_size",), "gradient_size": {"batch_sizes": (N + 1,)}},
         "config.measure.gradient_size"),
        ({"names": ("gradient_moments",), "mode": "training"}, "config.measure.mode"),
        ({"names": ("hessian_eigenvalues",), "hessian_eigenvalues": {"which": "top"}},
         "config.measure.hessian_eigenvalues"),
    ],
)  # fmt: skip
def test_refused(section, field, monkeypatch):
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda self: pytest.fail("compiled"))
    training = {"bn_batch": 4, "model": {"name": "mlp", "hidden": (8,), "norm": "batch"}}
    model = training if section.get("mode") == "training" else {}
    with pytest.raises(UserError) as error:
        run({**CONFIG, **model, "measure": section})
    assert error.value.field.startswith(field)
    assert error.value.remedy


@pytest.mark.parametrize(
    "model", [{"name": "f1"}, {"name": "mlp", "norm": "batch", "bn_eval": "batch"}]
)
def test_gradients_of_single_examples_need_statistics_of_their_own(model, monkeypatch):
    """F1 evaluates on batch statistics by default: those of one example make every output alike."""

    def refuse(*args, **kwargs):
        raise Interrupted

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    config = {**CONFIG, "bn_batch": 4, "measure": {"names": ("gradient_moments",)}}
    with pytest.raises(UserError, match="bn_eval: single examples"):
        run({**config, "model": model})
    with pytest.raises(Interrupted):  # nothing to refuse: on to compiling
        run({**config, "model": {**model, "bn_eval": "running"}})


def test_the_registry_says_what_things_cost():
    for name, measurement in MEASUREMENTS.items():
        assert measurement.about and measurement.source, name
        assert (measurement.facts["cost"] == "free") == (name in ONLINE)


# --- the tables ----------------------------------------------------------------------------------


def test_tables_grow_as_labels_come():
    table = Measured({"m": 2})

    def found(values, labels):
        return {"v": Labelled(np.asarray(values, float), (("rank", labels),))}

    table.record([(1,)], 5, found([[1.0, 2.0]], (1, 3)))
    table.record([(0,), (1,)], 0, found([[7.0], [8.0]], (2,)))
    data, labels = table.variables(epochs=5)
    assert labels["measured_epoch"].tolist() == [0, 5] and labels["rank"].tolist() == [1, 2, 3]
    nan = np.nan
    expected = [[[nan, 7, nan], [nan] * 3], [[nan, 8, nan], [1, nan, 2]]]
    np.testing.assert_array_equal(data["v"][1], expected)
