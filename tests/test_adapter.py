"""A user's own Flax module, Linen or NNX, as two pure functions."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sbt.errors import UserError
from sbt.models.adapter import Model, as_model

X = jax.random.normal(jax.random.key(0), (6, 4)) + 2.0


def body(x, off):
    """Dense, batch norm, dropout, dense; ``off`` is true in evaluation."""
    x = nn.Dense(5)(x)
    x = nn.BatchNorm(use_running_average=off, momentum=0.9)(x)
    x = nn.Dropout(0.5, deterministic=off)(nn.relu(x))
    return nn.Dense(3)(x)


class WithTrain(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return body(x, not train)


class WithTraining(nn.Module):
    @nn.compact
    def __call__(self, x, *, training: bool = False):
        return body(x, not training)


class WithIsTraining(nn.Module):
    @nn.compact
    def __call__(self, x, is_training=True):
        return body(x, not is_training)


class WithDeterministic(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic):
        return body(x, deterministic)


class WithBoth(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic, use_running_average):
        assert deterministic == use_running_average
        return body(x, use_running_average)


@pytest.mark.parametrize(
    "module", [WithTrain(), WithTraining(), WithIsTraining(), WithDeterministic(), WithBoth()]
)
def test_linen_modules_with_a_flag(module):
    model, reference = as_model(module), WithTrain()
    params, stats = model.init(jax.random.key(1), X)
    variables = reference.init(jax.random.key(1), X, train=False)
    jax.tree.map(np.testing.assert_array_equal, params, variables["params"])
    jax.tree.map(np.testing.assert_array_equal, stats, variables["batch_stats"])

    logits, new = model.apply(params, stats, X, jax.random.key(2), True)
    expected, updated = reference.apply(
        variables, X, train=True, rngs={"dropout": jax.random.key(2)}, mutable=["batch_stats"]
    )
    np.testing.assert_array_equal(logits, expected)
    jax.tree.map(np.testing.assert_array_equal, new, updated["batch_stats"])

    logits, after = model.apply(params, new, X, None, False)
    expected = reference.apply({"params": params, "batch_stats": new}, X, train=False)
    np.testing.assert_array_equal(logits, expected)
    assert after is new


def test_linen_without_flag_or_statistics():
    module = nn.Sequential([nn.Dense(5), nn.relu, nn.Dense(3)])
    model = as_model(module)
    params, stats = model.init(jax.random.key(1), X)
    assert stats == {}
    for train in (True, False):
        logits, new = model.apply(params, stats, X, jax.random.key(2), train)
        assert new == {}
        np.testing.assert_array_equal(logits, module.apply({"params": params}, X))


def test_linen_that_always_moves_its_statistics_keeps_them_in_evaluation():
    class Always(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.BatchNorm(use_running_average=False)(x)

    model = as_model(Always())
    params, stats = model.init(jax.random.key(1), X)
    moved = model.apply(params, stats, X, None, True)[1]
    kept = model.apply(params, stats, X, None, False)[1]
    jax.tree.map(np.testing.assert_array_equal, kept, stats)
    assert np.any(moved["BatchNorm_0"]["mean"] != stats["BatchNorm_0"]["mean"])


def test_linen_with_a_random_stream_of_its_own():
    class Noisy(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x + jax.random.normal(self.make_rng("noise"), x.shape)

    model = as_model(Noisy())
    a, b, again = (model.apply({}, {}, X, jax.random.key(i), True)[0] for i in (1, 2, 1))
    assert np.any(a != b)
    np.testing.assert_array_equal(a, again)


def test_boxed_parameters_come_unboxed():
    kernel_init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
    params, _ = as_model(nn.Dense(3, kernel_init=kernel_init)).init(jax.random.key(1), X)
    assert isinstance(params["kernel"], jax.Array)


class Net(nnx.Module):
    def __init__(self, rngs, width=5):
        self.first = nnx.List([nnx.Linear(4, width, rngs=rngs)])
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(width, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(nnx.relu(self.norm(self.first[0](x)))))


@pytest.mark.parametrize("given", [Net, lambda r: Net(rngs=r), Net(nnx.Rngs(0))])
def test_nnx(given):
    model = as_model(given)
    params, stats = model.init(jax.random.key(1), X)
    assert jax.tree.map(jnp.shape, params) == {
        "first": {"0": {"kernel": (4, 5), "bias": (5,)}},
        "norm": {"scale": (5,), "bias": (5,)},
        "last": {"kernel": (5, 3), "bias": (3,)},
    }
    assert jax.tree.map(jnp.shape, stats) == {"norm": {"mean": (5,), "var": (5,)}}

    def forward(x, mean, var):
        """The network without dropout."""
        x = x @ params["first"]["0"]["kernel"] + params["first"]["0"]["bias"]
        x = (x - mean) / jnp.sqrt(var + 1e-5) * params["norm"]["scale"] + params["norm"]["bias"]
        return jax.nn.relu(x) @ params["last"]["kernel"] + params["last"]["bias"]

    _, new = jax.jit(model.apply, static_argnums=4)(params, stats, X, jax.random.key(2), True)
    hidden = X @ params["first"]["0"]["kernel"] + params["first"]["0"]["bias"]
    np.testing.assert_allclose(new["norm"]["mean"], 0.1 * hidden.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(new["norm"]["var"], 0.9 + 0.1 * hidden.var(0), rtol=1e-4, atol=1e-5)
    logits, after = model.apply(params, new, X, None, False)
    assert after is new
    expected = forward(X, new["norm"]["mean"], new["norm"]["var"])
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    # Dropout: by key, in training only, and the mean over keys is the network without it.
    masks = jax.vmap(lambda k: model.apply(params, stats, X, k, True)[0])
    keys = jax.random.split(jax.random.key(3), 4000)
    draws = masks(keys)
    np.testing.assert_allclose(draws[0], masks(keys[:1])[0], rtol=1e-5)
    assert np.any(draws[0] != draws[1])
    np.testing.assert_allclose(draws.mean(0), forward(X, hidden.mean(0), hidden.var(0)), atol=0.1)


def test_nnx_starts_from_the_key_except_where_the_module_exists():
    existing = Net(nnx.Rngs(0))
    for given, fresh in ((Net, True), (existing, False)):
        model = as_model(given)
        a, b = (model.init(jax.random.key(i), X)[0]["last"]["kernel"] for i in (1, 2))
        assert np.any(a != b) == fresh
    np.testing.assert_array_equal(a, existing.last.kernel[...])


def test_nnx_leaves_the_given_module_alone():
    existing = Net(nnx.Rngs(0))
    before = jax.tree.map(jnp.copy, nnx.to_pure_dict(nnx.state(existing, nnx.BatchStat)))
    model = as_model(existing)
    params, stats = model.init(jax.random.key(1), X)
    model.apply(params, stats, X, None, False)
    model.apply(params, stats, X, jax.random.key(1), True)
    assert existing.dropout.deterministic is False
    after = nnx.to_pure_dict(nnx.state(existing, nnx.BatchStat))
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_nnx_with_a_flag():
    class Flagged(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(4, 3, rngs=rngs)

        def __call__(self, x, train):
            return self.linear(x) if train else 0.0 * self.linear(x)

    model = as_model(Flagged)
    params, stats = model.init(jax.random.key(1), X)
    assert stats == {}
    assert np.any(model.apply(params, stats, X, None, True)[0])
    assert not np.any(model.apply(params, stats, X, None, False)[0])


@pytest.mark.parametrize("module", [WithTrain(), Net])
def test_lanes_train_under_vmap_and_scan(module):
    """Two lanes in one compiled loop are what each is alone."""
    model = as_model(module)

    def train(key):
        def step(carry, i):
            params, stats = carry

            def loss(params):
                logits, new = model.apply(params, stats, X, jax.random.fold_in(key, i), True)
                return jnp.mean(jnp.square(logits)), new

            grads, new = jax.grad(loss, has_aux=True)(params)
            return (jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), new), None

        return jax.lax.scan(step, model.init(key, X), jnp.arange(3))[0]

    keys = jax.random.split(jax.random.key(4), 2)
    together = jax.jit(jax.vmap(train))(keys)
    for lane in range(2):
        alone = jax.jit(train)(keys[lane])
        jax.tree.map(
            lambda a, b, lane=lane: np.testing.assert_allclose(a[lane], b, rtol=1e-4, atol=1e-5),
            together,
            alone,
        )


class Cached(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(4, 3, rngs=rngs)
        self.seen = nnx.Cache(jnp.zeros(()))

    def __call__(self, x):
        return self.linear(x)


class Counting(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.variable("counters", "calls", lambda: jnp.zeros(()))
        return x


@pytest.mark.parametrize(
    ("module", "match"),
    [
        (Cached, "seen"),
        (Counting(), "counters"),
        (WithTrain, "neither"),
        (3, "neither"),
        (lambda rngs: rngs, "factory"),
    ],
)
def test_what_cannot_be_adapted(module, match):
    with pytest.raises(UserError, match=match):
        as_model(module).init(jax.random.key(0), X)


def test_a_model_is_a_model():
    model = as_model(nn.Dense(3))
    assert as_model(model) is model
    assert isinstance(hash(model), int)
    assert isinstance(model, Model)
