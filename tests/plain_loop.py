"""Lanes of a program against a plain loop of one run each, in float64.

The loop shares no code with ``sbt.train``, ``sbt.sweep`` or ``sbt.optim``: an update rule is NumPy,
the gradients are those of a network written out here. Only the definitions of the order of the
examples and of the random streams are those of ``sbt.data``.
"""

import functools
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from lanes import compiling

from sbt.data import epoch_order, from_arrays, purpose_key
from sbt.models.adapter import Model
from sbt.parallel.mesh import make_mesh
from sbt.sweep.engine import make_engine
from sbt.sweep.lanes import make_lanes
from sbt.sweep.prepare import prepare
from sbt.sweep.problem import Parts, place
from sbt.sweep.strategy import Strategy

N, TESTED, CLASSES, EPOCHS = 50, 10, 3, 3  # no batch size divides N: batches span epochs
BUDGET = N * EPOCHS
STRATEGIES = {"vmap": Strategy(0, "direct"), "map": Strategy(1, "direct")}
both = pytest.mark.parametrize("strategy", ["vmap", pytest.param("map", marks=pytest.mark.slow)])


# --- a network and data --------------------------------------------------------------------------


@functools.cache
def dataset():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, N + TESTED)
    patterns = rng.normal(size=(CLASSES, 4, 4, 1))
    images = 128 + 40 * (patterns[labels] + rng.normal(size=(N + TESTED, 4, 4, 1)))
    images = np.clip(images, 0, 255).astype(np.uint8)
    return from_arrays(images[:N], labels[:N], images[N:], labels[N:])


def init(key, x):
    a, b, c, d = jax.random.split(key, 4)
    dtype = x.dtype
    return {
        "hidden": {
            "kernel": jax.random.normal(a, (16, 5), dtype) / 2,
            "bias": jax.random.normal(b, (5,), dtype) / 4,
        },
        "out": {
            "kernel": jax.random.normal(c, (5, CLASSES), dtype),
            "bias": jax.random.normal(d, (CLASSES,), dtype) / 4,
        },
    }, {}


def logits(params, x):
    x = x.reshape(len(x), -1)
    x = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return x @ params["out"]["kernel"] + params["out"]["bias"]


def apply(params, stats, x, key, train):
    del key, train
    return logits(params, x), stats


NET = Model(init, apply)


# --- lanes ---------------------------------------------------------------------------------------


def train_lanes(runs, strategy, **config):
    """Final states of runs (field -> value) that share the rest of the config."""
    cases = tuple(map(str, range(len(runs))))
    follow = {
        field: ("case", tuple(zip(cases, (run[field] for run in runs), strict=True)))
        for field in runs[0]
    }
    settings = {
        "data": {"normalize": "unit"},
        "epochs": EPOCHS,
        "schedule": {"name": "poly", "power": 2.0},
        "sweep": {"case": cases},
        "follow": follow,
    }
    sweep = prepare(settings | config, Parts(NET, dataset()))
    devices = 2 if strategy == "map" else 1
    mesh = make_mesh(1, jax.devices()[:devices])
    ends: dict[int, Any] = {}
    for cohort in sweep.cohorts:
        placed = place(sweep.builder.problem(cohort.config), cohort, mesh)
        size = -(-len(cohort.runs) // devices) * devices
        with compiling(quickly=True):
            engine = make_engine(placed, size, STRATEGIES[strategy])
        lanes = make_lanes(cohort, list(range(len(cohort.runs))), size)
        state = engine.init(lanes)
        for epoch in range(EPOCHS):
            first, end = cohort.first_tick(epoch), cohort.first_tick(epoch + 1)
            position = first * cohort.tick - epoch * N
            state = engine.train(state, lanes, epoch, position, end - first, True)
        for i, run in enumerate(cohort.runs):
            ends[int(run.settings["case"])] = jax.tree.map(lambda x, i=i: np.asarray(x)[i], state)
    return [ends[i] for i in range(len(runs))]


# --- the plain loop ------------------------------------------------------------------------------


class Tick(NamedTuple):
    """Examples that one gradient is taken of."""

    epochs: np.ndarray
    examples: np.ndarray
    key: Any  # of the tick

    def xy(self):
        data = dataset()
        return data.train_images[self.examples] / 255.0, data.train_labels[self.examples]


class Step(NamedTuple):
    """One update of the plain loop."""

    t: int
    rate: float
    progress: float
    seed: Any  # key of the run
    ticks: list[Tick]

    def xy(self, ticks=None):
        x, y = zip(*(tick.xy() for tick in ticks or self.ticks), strict=True)
        return np.concatenate(x), np.concatenate(y)


@functools.cache
def first_weights(seed):
    key = purpose_key(jax.random.key(seed), "init")
    return jax.device_get(jax.jit(init)(key, jnp.zeros((1, 4, 4, 1)))[0])


@functools.cache
def orders_of(seed):
    return [np.asarray(epoch_order(jax.random.key(seed), epoch, N)) for epoch in range(EPOCHS)]


def plain(run, rule, *, g=4, draws=1, sizes=None):
    """Weights before and after a run.

    Args:
      run: ``batch_size``, ``base_lr``, ``seed`` and what the rule reads.
      rule: ``(step, weights, memory, run) -> weights``, in NumPy.
      g: examples of a tick, of each draw.
      draws: batches that an update draws.
      sizes: ``progress -> (batch size, factor of the rate)``.
    """
    key = jax.random.key(run["seed"])
    orders = orders_of(run["seed"])
    weights = start = first_weights(run["seed"])
    memory, t, seen = {}, 0, 0
    while True:
        progress = seen / BUDGET
        m, factor = sizes(progress) if sizes else (run["batch_size"], 1.0)
        if seen + m * draws > BUDGET:
            return start, weights, t, seen
        ticks = []
        for at in range(seen, seen + m * draws, g):
            epochs, places = np.divmod(np.arange(at, at + g), N)
            first = at - (at % (g * draws)) if draws > 1 else at
            stream = jax.random.fold_in(key, zlib.crc32(b"dropout"))
            tick_key = jax.random.fold_in(jax.random.fold_in(stream, first // N), first % N)
            examples = np.asarray([orders[e][p] for e, p in zip(epochs, places, strict=True)])
            ticks.append(Tick(epochs, examples, tick_key))
        rate = run["batch_size"] * run["base_lr"] * (1 - progress) ** 2 * factor
        weights = rule(Step(t, rate, progress, key, ticks), weights, memory, run)
        t, seen = t + 1, seen + m * draws


@jax.jit
def losses(w, x, y):
    z = logits(w, x)
    return jax.scipy.special.logsumexp(z, -1) - jnp.take_along_axis(z, y[:, None], 1)[:, 0]


@jax.jit
def weighted_gradient(w, x, y, share):
    return jax.grad(lambda w: jnp.sum(share * losses(w, x, y)))(w)


@jax.jit
def example_gradients(w, x, y):
    return jax.vmap(lambda x, y: jax.grad(lambda w: losses(w, x[None], y[None])[0])(w))(x, y)


@jax.jit
def dense_hessian(w, x, y):
    flat, unravel = ravel_pytree(w)
    return jax.hessian(lambda v: jnp.mean(losses(unravel(v), x, y)))(flat)


def grad(w, x, y):
    return jax.device_get(weighted_gradient(w, x, y, np.full(len(y), 1 / len(y))))


def each(function, *trees):
    return jax.tree.map(function, *trees)


def zeros(w):
    return each(np.zeros_like, w)


def norm(x):
    return np.sqrt(np.sum(np.square(x)))


def descend(w, direction, rate):
    return each(lambda w, d: w - rate * d, w, direction)


def heavy_ball(w, g, memory, run, rate, name="rule__momentum"):
    """u = beta u + g; w - rate u."""
    memory["u"] = each(lambda u, g: run[name] * u + g, memory.get("u", zeros(w)), g)
    return descend(w, memory["u"], rate)


def sgd(step, w, memory, run):
    del memory
    return descend(w, grad(w, *step.xy()), step.rate)


def check(runs, rule, strategy, *, config, g=4, draws=1, sizes=None):
    """Trains the runs as lanes and one by one; everything must agree."""
    states = train_lanes(runs, strategy, **config)
    for run, state in zip(runs, states, strict=True):
        own = None if sizes is None else functools.partial(sizes, run)
        start, end, updates, seen = plain(run, rule, g=g, draws=draws, sizes=own)
        assert (state.updates, state.examples, state.diverged_at) == (updates, seen, -1)
        assert updates > 5
        for before, wanted, ours in zip(*map(jax.tree.leaves, (start, end, state.params))):
            assert np.max(np.abs(wanted - before)) > 1e-5, run
            np.testing.assert_allclose(ours, wanted, rtol=1e-9, atol=1e-11)


def runs_of(*values, sizes=(4, 12)):
    """Two lanes of different batch size and seed, with a rule's hyperparameters."""
    return [
        {"batch_size": m, "seed": seed, "base_lr": lr, **hyper}
        for m, seed, (lr, hyper) in zip(sizes, (0, 3), values, strict=True)
    ]
