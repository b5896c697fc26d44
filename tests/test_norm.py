"""Batch norm of a stated size: against Flax, plain numpy, finite differences and real devices."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

from sbt.errors import UserError
from sbt.nn.norm import BatchNorm, make_norm

SHAPES = [(8, 5, 4, 3), (12, 7)]


def batch(shape, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(2.0, 3.0, shape).astype(dtype))


def variables(features, seed=1, dtype=np.float64):
    rng = np.random.default_rng(seed)

    def draw(low):
        return jnp.asarray(rng.uniform(low, 2.0, features).astype(dtype))

    return {
        "params": {"scale": draw(-2.0), "bias": draw(-2.0)},
        "batch_stats": {"mean": draw(-2.0), "var": draw(0.5)},
    }


def plain(x, scale, bias, epsilon=1e-5):
    """Textbook formula in numpy, and the statistics."""
    axes = tuple(range(x.ndim - 1))
    mean, var = x.mean(axes), x.var(axes)
    return (x - mean) / np.sqrt(var + epsilon) * scale + bias, mean, var


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("momentum", [0.9, 0.97])
def test_equals_flax(shape, running, momentum):
    x, v = batch(shape), variables(shape[-1])
    ours = BatchNorm(momentum=momentum, param_dtype=jnp.float64)
    theirs = nn.BatchNorm(momentum=momentum, param_dtype=jnp.float64, use_fast_variance=False)

    def both(module, params, x):
        with jax.numpy_dtype_promotion("standard"):  # Flax mixes dtypes
            y, new = module.apply({**v, "params": params}, x, running, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(y)), (y, new)

    results = [
        jax.value_and_grad(lambda p, x, m=m: both(m, p, x), argnums=(0, 1), has_aux=True)(
            v["params"], x
        )
        for m in (ours, theirs)
    ]
    difference = jax.tree.map(lambda a, b: np.abs(a - b).max(), *results)
    assert jax.tree.structure(results[0]) == jax.tree.structure(results[1])
    assert max(jax.tree.leaves(difference)) < 1e-12


@pytest.mark.parametrize("use_scale", [True, False])
@pytest.mark.parametrize("use_bias", [True, False])
def test_variables_are_those_of_flax(use_scale, use_bias):
    x = batch((4, 6), dtype=np.float32)
    kwargs = {"use_scale": use_scale, "use_bias": use_bias}
    ours = BatchNorm(**kwargs).init(jax.random.key(0), x, use_running_average=False)
    theirs = nn.BatchNorm(**kwargs).init(jax.random.key(0), x, use_running_average=False)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("b", [1, 2, 4])
def test_groups_equal_a_loop_over_groups(shape, b):
    x, v = batch(shape), variables(shape[-1])
    module = BatchNorm(batch=b, momentum=0.9, param_dtype=jnp.float64)
    y, new = module.apply(v, x, use_running_average=False, mutable=["batch_stats"])
    scale, bias = np.asarray(v["params"]["scale"]), np.asarray(v["params"]["bias"])
    parts = [plain(np.asarray(x)[i : i + b], scale, bias) for i in range(0, shape[0], b)]
    np.testing.assert_allclose(y, np.concatenate([p[0] for p in parts]), rtol=0, atol=1e-12)
    for i, name in enumerate(("mean", "var"), start=1):
        average = np.mean([p[i] for p in parts], axis=0)
        expected = 0.9 * np.asarray(v["batch_stats"][name]) + 0.1 * average
        np.testing.assert_allclose(new["batch_stats"][name], expected, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_running_statistics_are_linear_in_the_micro_batches():
    x, v = batch((12, 3, 3, 2)), variables(2)
    module = BatchNorm(batch=2, param_dtype=jnp.float64)

    def update(x):
        return module.apply(v, x, False, mutable=["batch_stats"])[1]

    whole = update(x)
    parts = [update(x[i : i + 4]) for i in range(0, 12, 4)]
    average = jax.tree.map(lambda *leaves: sum(leaves) / 3, *parts)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), average, whole)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("b", [None, 3])
def test_gradients_of_first_and_second_order(b):
    x, v = batch((6, 2, 2, 2)), variables(2)
    module = BatchNorm(batch=b, param_dtype=jnp.float64)

    def f(x, params):
        y = module.apply({**v, "params": params}, x, use_running_average=False)
        return jnp.sum(jnp.sin(y) * batch(y.shape, seed=2))

    check_grads(
        jax.jit(f), (x, v["params"]), order=2, modes=("fwd", "rev"), eps=1e-4, rtol=1e-5, atol=1e-5
    )


@pytest.mark.usefixtures("x64")
def test_synchronous_statistics_over_four_devices():
    x, v = batch((8, 3, 3, 2)), variables(2)
    weights = batch(x.shape, seed=5)
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,), devices=jax.devices()[:4])

    def call(module, x):
        return module.apply(v, x, use_running_average=False, mutable=["batch_stats"])

    synchronous = BatchNorm(axis_name="data", param_dtype=jnp.float64)
    spread = jax.shard_map(
        lambda x: call(synchronous, x), mesh=mesh, in_specs=P("data"), out_specs=(P("data"), P())
    )

    def whole(x):
        return call(BatchNorm(param_dtype=jnp.float64), x)

    y, new = jax.jit(spread)(x)
    expected, expected_new = jax.jit(whole)(x)
    np.testing.assert_allclose(y, expected, atol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), new, expected_new)
    grads = [
        jax.jit(jax.grad(lambda x, f=f: jnp.sum(weights * f(x)[0] ** 2)))(x)
        for f in (spread, whole)
    ]
    np.testing.assert_allclose(*grads, atol=1e-11)
    # The same module without the axis normalises per device, which is ghost batches of 2.
    local = jax.shard_map(
        lambda x: call(BatchNorm(param_dtype=jnp.float64), x)[0],
        mesh=mesh,
        in_specs=P("data"),
        out_specs=P("data"),
    )
    ghost = call(BatchNorm(batch=2, param_dtype=jnp.float64), x)[0]
    np.testing.assert_allclose(jax.jit(local)(x), ghost, atol=1e-12)


def test_variance_survives_a_large_mean():
    x = np.random.default_rng(0).normal(3e4, 1.0, (512, 4)).astype(np.float32)
    module = BatchNorm()
    v = module.init(jax.random.key(0), x, True)
    y, new = module.apply(v, jnp.asarray(x), False, mutable=["batch_stats"])
    var = (np.asarray(new["batch_stats"]["var"], np.float64) - 0.97) / 0.03
    np.testing.assert_allclose(var, x.astype(np.float64).var(axis=0), rtol=1e-3)
    np.testing.assert_allclose(np.asarray(y).std(axis=0), 1.0, rtol=1e-3)


def test_bfloat16_input_has_float32_statistics():
    x = batch((256, 3), dtype=np.float32).astype(jnp.bfloat16)
    module = BatchNorm(momentum=0.0)
    v = module.init(jax.random.key(0), x, True)
    y, new = module.apply(v, x, False, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert new["batch_stats"]["mean"].dtype == jnp.float32
    exact = np.asarray(x.astype(jnp.float32), np.float64)
    np.testing.assert_allclose(new["batch_stats"]["mean"], exact.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["var"], exact.var(axis=0), rtol=1e-5)


def test_batch_statistics_without_touching_the_running_ones():
    x, v = batch((8, 3), dtype=np.float32), variables(3, dtype=np.float32)
    module = BatchNorm()
    expected = plain(np.asarray(x), *(np.asarray(v["params"][k]) for k in ("scale", "bias")))[0]
    frozen = module.apply(v, x, use_running_average=False)
    told, new = module.apply(
        v, x, use_running_average=False, update_running_average=False, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(frozen, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(told, frozen)
    jax.tree.map(np.testing.assert_array_equal, new["batch_stats"], v["batch_stats"])


def test_under_vmap_over_lanes():
    x, v = batch((3, 8, 2, 2, 4), dtype=np.float32), variables(4, dtype=np.float32)
    module = BatchNorm(batch=4)

    def call(x):
        return module.apply(v, x, False, mutable=["batch_stats"])

    together = jax.vmap(call)(x)
    for lane in range(3):
        alone = call(x[lane])
        jax.tree.map(
            lambda a, b, lane=lane: np.testing.assert_allclose(a[lane], b, rtol=1e-5, atol=1e-5),
            together,
            alone,
        )


@pytest.mark.parametrize(
    ("fields", "n"), [({"batch": 3}, 8), ({"batch": 0}, 8), ({"batch": 4, "axis_name": "data"}, 8)]
)
def test_impossible_groups_are_refused(fields, n):
    x, v = batch((n, 3), dtype=np.float32), variables(3, dtype=np.float32)
    with pytest.raises(UserError, match="bn_batch"):
        BatchNorm(**fields).apply(v, x, use_running_average=False)


class Normed(nn.Module):
    kind: str
    train_flag: bool = True
    fields: dict | None = None

    @nn.compact
    def __call__(self, x):
        return make_norm(self.kind, self.train_flag, **(self.fields or {}))(x)


def group_norm(x, groups, epsilon):
    n, h, w, c = x.shape
    z = x.reshape(n, h * w, groups, c // groups)
    z = (z - z.mean((1, 3), keepdims=True)) / np.sqrt(z.var((1, 3), keepdims=True) + epsilon)
    return z.reshape(x.shape)


@pytest.mark.parametrize(
    ("kind", "channels", "groups"),
    [("group", 64, 32), ("group", 48, 24), ("group", 7, 7), ("group", 74, 2), ("layer", 48, 1)],
)
def test_group_and_layer_norm(kind, channels, groups):
    x = batch((2, 3, 3, channels), dtype=np.float32)
    module = Normed(kind, fields={"epsilon": 1e-3})
    y, v = module.init_with_output(jax.random.key(0), x)
    assert set(v) == {"params"}
    np.testing.assert_allclose(y, group_norm(np.asarray(x), groups, 1e-3), rtol=1e-4, atol=1e-5)


def test_no_norm_is_the_identity():
    x = batch((2, 3), dtype=np.float32)
    y, v = Normed("none").init_with_output(jax.random.key(0), x)
    assert v == {}
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_evaluation_statistics(statistics):
    """Groups are a matter of training; an evaluation batch need not be a multiple of b."""
    x, v = batch((7, 3), dtype=np.float32), variables(3, dtype=np.float32)
    module = Normed("batch", train_flag=False, fields={"batch": 4, "eval_statistics": statistics})
    v = {kind: {"BatchNorm_0": values} for kind, values in v.items()}
    y, new = module.apply(v, x, mutable=["batch_stats"])
    scale, bias = (np.asarray(v["params"]["BatchNorm_0"][k]) for k in ("scale", "bias"))
    mean, var = (np.asarray(v["batch_stats"]["BatchNorm_0"][k]) for k in ("mean", "var"))
    expected = (np.asarray(x) - mean) / np.sqrt(var + 1e-5) * scale + bias
    if statistics == "batch":
        expected = plain(np.asarray(x), scale, bias)[0]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, new["batch_stats"], v["batch_stats"])


@pytest.mark.parametrize(
    ("kind", "fields", "field"),
    [
        ("bach", {}, "config.model.norm"),
        ("batch", {"eval_statistics": "runing"}, "config.model.bn_eval"),
        ("batch", {"momentum": 1.0}, "config.model.bn_momentum"),
        ("batch", {"momentum": -0.1}, "config.model.bn_momentum"),
    ],
)
def test_unknown_choices_are_refused(kind, fields, field):
    with pytest.raises(UserError) as caught:
        make_norm(kind, True, **fields)
    assert caught.value.field == field
