"""The experiments of Keskar et al.: kept weights, paths between them, warm starts, figures."""

import importlib
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference

import sbt
from sbt.data import purpose_key
from sbt.experiment import load_config

HERE = Path(__file__).resolve().parent.parent / "experiments" / "keskar_2017"
sys.path.insert(0, str(HERE))
drawings, solutions = map(importlib.import_module, ("drawings", "solutions"))


def tiny(file, norm="batch"):
    config = load_config(f"{HERE / file}.py:digits")
    config.data.train_size, config.data.test_size = 100, 40
    config.model.width, config.model.norm = 6, norm
    if norm == "none":  # there are no statistics to take from batches
        config.evaluate.statistics = "running"
    config.epochs = 2
    config.sweep.batch_size, config.sweep.seed = (20, 48), (0, 1)
    return config


def initial(network, seed):
    x = network.batches(network.arrays, jnp.zeros(1, jnp.int32), 0, None, False)["x"]
    return network.model.init(purpose_key(jax.random.key(seed), "init"), x)[0]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A work directory of a net without batch norm, where float32 runs can be compared."""
    directory = tmp_path_factory.mktemp("keskar")
    config = tiny("table2_4", "none")
    config.measure.sharpness.directions = 10
    return config, directory, sbt.run(config, directory)


def test_a_run_is_the_plain_training_with_the_same_batches(sweep):
    """The sweep's weights are those of a loop of its own, and those that were kept."""
    config, directory, _ = sweep
    network = solutions.make_network(config)
    rule = optax.adam(config.base_lr)

    @jax.jit
    def update(params, moments, batch):
        def loss(params):
            logits, labels = network.logits(params, batch, "train")
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

        with jax.numpy_dtype_promotion("standard"):
            step, moments = rule.update(jax.grad(loss)(params), moments, params)
        return optax.apply_updates(params, step), moments

    for batch_size, seed in ((20, 1), (48, 0)):  # 48 spans epochs
        params, order = initial(network, seed), reference.stream(seed, 100)
        moments = rule.init(params)
        for _ in range(2 * 100 // batch_size):
            batch = jnp.asarray([next(order)[1] for _ in range(batch_size)])
            params, moments = update(params, moments, batch)
        kept = sbt.load_weights(directory, batch_size=batch_size, seed=seed).params
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), params, kept)


def test_scores_and_loss_against_numpy(sweep):
    config, directory, _ = sweep
    network = solutions.make_network(config)._replace(batch=30)
    params = sbt.load_weights(directory, batch_size=20, seed=0).params
    data = network.arrays.train
    logits = np.asarray(data.examples["x"], np.float64).reshape(100, -1) / 16
    tree = params.get("params", params)
    layers = sorted(tree)
    for i, name in enumerate(layers):
        logits = logits @ np.asarray(tree[name]["kernel"]) + np.asarray(tree[name]["bias"])
        logits = np.maximum(logits, 0) if i < len(layers) - 1 else logits
    losses = optax.softmax_cross_entropy_with_integer_labels(
        jnp.asarray(logits), data.examples["label"]
    )
    loss, accuracy = network.scores("train")(params)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(
        accuracy, np.mean(logits.argmax(1) == np.asarray(data.examples["label"]))
    )


def test_paths_meet_both_solutions_and_a_point_between(sweep, tmp_path):
    config, directory, _ = sweep
    network = solutions.make_network(config)
    small, large = (sbt.load_weights(directory, batch_size=m, seed=0).params for m in (20, 48))
    found = solutions.paths_between(network, small, large)
    assert found.sizes == {"curve": 2, "split": 2, "alpha": 25}
    half = np.sqrt(0.5)
    between = {
        ("linear", 0.5): jax.tree.map(lambda a, b: (a + b) / 2, small, large),
        ("curvilinear", 0.5): jax.tree.map(lambda a, b: half * (a + b), small, large),
    }
    ends = {(c, a): p for c in solutions.CURVES for a, p in ((0.0, small), (1.0, large))}
    for (curve, alpha), params in {**between, **ends}.items():
        for split in ("train", "test"):
            loss, accuracy = network.scores(split)(params)
            one = found.sel(curve=curve, split=split, alpha=alpha)
            np.testing.assert_allclose(one.loss, loss, rtol=1e-4)
            assert abs(one.accuracy - accuracy) < 0.03
    drawing = drawings.paths(found, "pair", "A pair", drawings.paper_paths("f1"))
    assert drawing.save(tmp_path, ("png",))[0].stat().st_size > 1000


def test_batch_norm_takes_the_statistics_of_the_batch():
    """Scaling the first layer changes nothing that batch statistics do not undo."""
    network = solutions.make_network(tiny("fig06"))
    params = initial(network, 0)
    path = next(
        p for p, leaf in jax.tree_util.tree_leaves_with_path(params) if leaf.shape == (64, 6)
    )
    scaled = jax.tree_util.tree_map_with_path(lambda p, a: 3 * a if p == path else a, params)
    np.testing.assert_allclose(
        network.scores("test")(scaled)[0], network.scores("test")(params)[0], rtol=1e-3
    )


def test_warm_starts_one_by_one(tmp_path):
    """The runs of the sweep are those that start from each iterate alone."""
    first, config = tiny("fig05_iterates"), tiny("fig05_warm_start")
    for one, size in ((first, 20), (config, 48)):
        one.sweep.batch_size, one.sweep.seed, one.batch_size = None, (0,), size
    iterates = sbt.run(first, tmp_path / "first")
    config.start, config.sweep.start_epoch = str(tmp_path / "first"), (1, 2)
    config.measure.sharpness.starts = config.measure.sharpness.steps = 2
    together = sbt.run(config, tmp_path / "second")
    alone = config.copy_and_resolve_references()
    alone.start = alone.sweep.start_epoch = None
    for epoch in (1, 2):
        start = sbt.load_weights(tmp_path / "first", after=epoch)
        ds = sbt.run(alone, start=start)
        loss = together["test_loss"].sel(start_epoch=epoch).values
        np.testing.assert_allclose(loss, ds["test_loss"].values, rtol=1e-3)
    drawing = drawings.warm_start(together, iterates)
    assert drawing.save(tmp_path, ("png",))[0].stat().st_size > 1000


def test_table_and_figures_of_a_measured_sweep(sweep, tmp_path):
    config, directory, ds = sweep
    network = solutions.make_network(config)
    accuracy = solutions.training_accuracy(network, directory, ds)
    for where in ({"batch_size": 20, "seed": 1}, {"batch_size": 48, "seed": 0}):
        params = sbt.load_weights(directory, **where).params
        assert float(accuracy.sel(**where)) == pytest.approx(
            float(network.scores("train")(params)[1])
        )
    text = drawings.table(ds, accuracy)
    value = 100 * float(accuracy.sel(batch_size=48).mean("seed"))
    assert f"{value:.4g} ± " in text.splitlines()[1]
    value = 100 * float(ds.test_accuracy.isel(epoch=-1).sel(batch_size=48).mean("seed"))
    assert f"{value:.4g} ± " in text and "subspace, ε = 0.0005" in text
    for draw in (drawings.against_batch_size, drawings.sharpness_and_loss):
        assert draw(ds).save(tmp_path, ("png",))


def test_fig6_is_drawn_over_the_loss_at_the_weights(sweep):
    _, _, ds = sweep
    loss = ds.sharpness.isel(space=0, epsilon=0, drop=True) * 0 + 0.25
    panel = drawings.sharpness_and_loss(ds.assign(sharpness_loss=loss)).figure.axes[0]
    assert panel.lines[0].get_xdata().tolist() == [0.25] and "f(x)" in panel.get_xlabel()


def test_the_papers_curves_are_on_the_grid_of_ours():
    curves = json.loads((HERE / "fig03_fig07_paper.json").read_text())
    assert "arXiv:1609.04836" in curves["source"]
    for net in ("F1", "C1"):
        for curve in solutions.CURVES:
            one = curves[net][curve]
            np.testing.assert_allclose(one["alpha"], np.linspace(-1, 2, 25))
            assert {len(values) for values in one.values()} == {25}
            assert max(one["train_accuracy"]) <= 1
    assert curves["F1"]["linear"]["train_loss"][20] == pytest.approx(7.15)  # α = 1.5, as printed
