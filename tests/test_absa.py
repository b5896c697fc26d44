"""Batches that grow as the Hessian's top eigenvalue falls, against a plain loop in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lanes import compiling
from plain_loop import CLASSES, NET, N, dataset, logits
from sweeps import Watch, compiling_anew, one_device, same, shorten_windows

import sbt
from sbt.data import epoch_order
from sbt.errors import UserError
from sbt.schedules import BATCH_SCHEDULES

EPOCHS = 6
RUNS = {  # by case: m, η̃, α, κ
    "falls": (4, 0.1, 1.1, 10.0),
    "waits": (8, 0.01, 1000.0, 2.0),
    "never": (4, 0.01, 1000.0, 1000.0),
}
FIELDS = ("batch_size", "base_lr", "batch_schedule__drop", "batch_schedule__patience")


def config(**fields):
    follow = {
        field: ("case", tuple((case, run[i]) for case, run in RUNS.items()))
        for i, field in enumerate(FIELDS)
    }
    return {
        "data": {"normalize": "unit"},
        "epochs": EPOCHS,
        "micro_batch": 2,
        "rule": {"name": "sgd", "momentum": None},
        "batch_schedule": {"name": "absa", "largest": 6.0, "ratio": 2.0},
        "measure": {"names": ("hessian_eigenvalues",), "hessian_eigenvalues": {"order": 80}},
        "sweep": {"case": tuple(RUNS)},
        "follow": follow,
        **fields,
    }


def mean_loss(w, x, y):
    shapes = [(16, 5), (5,), (5, CLASSES), (CLASSES,)]
    cuts = np.cumsum([np.prod(s) for s in shapes])[:-1]
    a, b, c, d = (part.reshape(s) for part, s in zip(jnp.split(w, cuts), shapes, strict=True))
    params = {"hidden": {"kernel": a, "bias": b}, "out": {"kernel": c, "bias": d}}
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits(params, x)), y[:, None], 1)
    return -jnp.mean(picked)


def by_hand(m, rate, drop, patience, ratio=2.0, largest=6.0):
    """Top eigenvalue and batch size after every epoch: one example after another, in NumPy."""
    data = dataset()
    x, y = np.asarray(data.train_images / 255.0, np.float64), np.asarray(data.train_labels)
    key = jax.random.key(0)
    params, _ = NET.init(sbt.data.purpose_key(key, "init"), jnp.zeros((1, 4, 4, 1)))
    order = ("hidden", "kernel"), ("hidden", "bias"), ("out", "kernel"), ("out", "bias")
    w = np.concatenate([np.ravel(params[layer][part]) for layer, part in order])
    gradient, hessian = jax.jit(jax.grad(mean_loss)), jax.jit(jax.hessian(mean_loss))
    size, reference, since, batch, found = m, None, 0, [], []
    for epoch in range(EPOCHS):
        for i in np.asarray(epoch_order(key, epoch, N)):
            batch.append(i)
            if len(batch) == size:
                w = w - rate * sum(np.asarray(gradient(w, x[[j]], y[[j]])) for j in batch)
                batch = []
        top = np.linalg.eigvalsh(hessian(w, x, y))[-1]
        since += 1
        if reference is None:
            reference, flatter = top, False
        else:
            flatter = top <= reference / drop
        if flatter:
            reference = top
        if flatter or since >= patience:
            size, since = int(min(size * ratio, m * largest)), 0
        found.append((top, size))
    return np.asarray(found)


def test_lanes_grow_as_the_plain_loop_does(x64):
    with compiling(quickly=True):
        ds = sbt.run(config(), module=NET, dataset=dataset())
    sizes = {}
    for case, run in RUNS.items():
        wanted = by_hand(*run)
        found = ds.hessian_eigenvalue.sel(case=case).values.ravel()
        np.testing.assert_allclose(found[-EPOCHS:], wanted[:, 0], rtol=1e-9, err_msg=case)
        sizes[case] = wanted[:, 1].tolist()
    assert sizes["never"] == [4] * EPOCHS and sizes["waits"] == [8, 16, 16, 32, 32, 48]
    assert len(set(sizes["falls"])) > 2  # each is reached because the eigenvalue fell


def test_what_a_run_was_told_survives_an_interruption(tmp_path, monkeypatch):
    with compiling_anew(), one_device():
        whole = sbt.run(config(), module=NET, dataset=dataset())
        shorten_windows(monkeypatch, 5)
        with pytest.raises(KeyboardInterrupt):
            sbt.run(config(), tmp_path, module=NET, dataset=dataset(), progress=Watch(epochs=3))
        resumed = sbt.run(config(), tmp_path, module=NET, dataset=dataset())
    same(resumed, whole)


def test_without_its_measurement_it_is_refused_before_anything_compiles():
    with pytest.raises(UserError, match=r"config\.batch_schedule\.name.*hessian_eigenvalues"):
        sbt.run(config(measure={"names": ()}), module=NET, dataset=dataset())
    with pytest.raises(UserError, match=r"config\.batch_schedule\.largest"):
        BATCH_SCHEDULES.configured({"name": "absa", "largest": 0.5})


def test_its_limit_is_what_is_planned_for():
    assert BATCH_SCHEDULES.configured({"name": "absa", "largest": 8.0})(1.0).batch == 8
    most = config(sweep={"case": tuple(RUNS)}, batch_schedule={"name": "absa", "largest": 1e9})
    with pytest.raises(UserError, match=r"config\.batch_schedule"):
        sbt.run(most, module=NET, dataset=dataset())
