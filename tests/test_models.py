"""The built-in models: sizes, structure, initialisation, and forward passes written out again."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sbt.errors import UserError
from sbt.models.adapter import as_model
from sbt.models.registry import INPUT_SHAPE, MODELS, build_model, describe_models

# Trainable parameters for the standard data, from the papers' reference sheets and public ports.
COUNTS = {
    "alexnet": 472_794,
    "alexnet_dropout": 23_272_266,
    "resnet8": 75_290,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet18": 11_173_962,
    "resnet50": 25_557_032,
    "vgg16": 14_724_042,
    "wrn16_4": 2_748_890,
    "wrn28_10": 36_479_194,
    "f1": 1_462_794,
    "f2": 2_780_085,
    "c1": 1_757_834,
    "c2": 14_991_946,
    "c3": 1_775_204,
    "c4": 15_038_116,
    "convnet": (9 * 8 + 8) + (9 * 8 * 16 + 16) + (64 * 10 + 10),
    "mlp": (64 * 64 + 64) * 2 + (64 * 10 + 10),
    "simple_cnn": (25 + 1) * 32 + (25 * 32 + 1) * 64 + (49 * 64 + 1) * 1024 + 1025 * 10,
    "resnet8_preact": 28 * 16 + 2 * 145 * 16 + (145 + 289) * 32 + (289 + 577) * 64 + 65 * 10,
    # 12 D^2 per layer, and two embeddings of V D.
    "gpt": 12 * 2 * 64**2 + 2 * 256 * 64,
    "gpt_19m": 12 * 6 * 512**2 + 2 * 32101 * 512,
    "gpt_30m": 12 * 6 * 384**2 + 2 * 50257 * 384,
    "gpt_124m": 12 * 12 * 768**2 + 2 * 50257 * 768,
}


def shapes_of(module, shape):
    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    return jax.eval_shape(functools.partial(module.init, train=False), jax.random.key(0), x)


def count(module, shape):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes_of(module, shape)["params"]))


def layers_of(module, shape):
    """Every layer called, in order: (class name, what defines it), and its output's shape."""
    seen = []
    described = {
        "Conv": lambda m: (m.features, m.kernel_size[0], m.strides[0]),
        "Dense": lambda m: m.features,
        "Dropout": lambda m: m.rate,
        "BatchNorm": lambda m: m.epsilon,
    }

    def watch(call, args, kwargs, context):
        y = call(*args, **kwargs)
        kind = type(context.module).__name__
        if kind in described and context.method_name == "__call__":
            seen.append(((kind, described[kind](context.module)), y.shape[1:], context.module))
        return y

    with nn.intercept_methods(watch):
        shapes_of(module, shape)
    return seen


def kinds(module, shape):
    return [what for what, _, _ in layers_of(module, shape)]


# --- sizes ---------------------------------------------------------------------------------------


def test_every_model_is_counted():
    rows = describe_models()
    described = {row.name: row.parameters for row in rows}
    assert described == COUNTS
    assert all(row.source and row.doc for row in rows)


@pytest.mark.parametrize(
    ("name", "fields", "classes", "expected"),
    [
        ("alexnet", {}, 100, 495_924),
        ("resnet32", {}, 100, 470_004),
        # A norm's scale and shift instead of the bias: one more per channel of a normed layer.
        ("alexnet", {"norm": "batch"}, 10, 472_794 + 288 + 512),
        ("alexnet", {"norm": "batch_conv"}, 10, 472_794 + 288),
        # The bias of a convolution in place of its norm's scale and shift.
        ("resnet8", {"norm": "none"}, 10, 75_290 - (16 + 2 * (16 + 32 + 64))),
        # Type B adds two 1x1 convolutions with their norms.
        ("resnet8", {"shortcut": "B"}, 10, 75_290 + 16 * 32 + 32 * 64 + 2 * (32 + 64)),
    ],
)
def test_counts_of_variants(name, fields, classes, expected):
    module = build_model({"name": name, **fields}, classes)
    assert count(module, MODELS[name].facts.get("input_shape", INPUT_SHAPE)) == expected


CLASSIFIERS = sorted(name for name in MODELS if not name.startswith("gpt"))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_logits_have_the_number_of_classes_and_statistics_only_batch_norm(name):
    shape = MODELS[name].facts.get("input_shape", INPUT_SHAPE)
    module = build_model({"name": name}, 7)
    variables = shapes_of(module, shape)
    x = jax.ShapeDtypeStruct((4, *shape), jnp.float32)
    y = jax.eval_shape(functools.partial(module.apply, train=False), variables, x)
    assert (y.shape, y.dtype) == ((4, 7), jnp.float32)
    assert ("batch_stats" in variables) == (module.norm.startswith("batch"))


# --- structure -----------------------------------------------------------------------------------


def test_gao_and_zhong_alexnet():
    layers = layers_of(build_model({"name": "alexnet_dropout"}, 10), (32, 32, 3))
    convs = [("Conv", (64, 3, 2))] + [("Conv", (w, 3, 1)) for w in (192, 384, 256, 256)]
    head = [("Dropout", 0.5), ("Dense", 4096)] * 2 + [("Dense", 10)]
    assert [what for what, _, _ in layers] == convs + head
    assert [shape[0] for _, shape, _ in layers[:5]] == [16, 8, 4, 4, 4]
    assert layers[5][1] == (1024,)
    assert all(m.padding == ((1, 1), (1, 1)) for (kind, _), _, m in layers if kind == "Conv")


def test_keskar_networks():
    bn, drop = ("BatchNorm", 1e-6), ("Dropout", 0.5)
    c1 = layers_of(build_model({"name": "c1"}, 10), (32, 32, 3))
    assert [what for what, _, _ in c1] == [
        *[("Conv", (64, 5, 1)), bn] * 2,
        *[("Dense", 384), bn, drop, ("Dense", 192), bn, drop, ("Dense", 10)],
    ]
    stacks = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
    expected = []
    for stack in stacks:
        for i, width in enumerate(stack):
            expected += [("Conv", (width, 3, 1)), bn]
            if i < len(stack) - 1:
                expected.append(("Dropout", 0.4))
    expected[2] = ("Dropout", 0.3)
    c2 = layers_of(build_model({"name": "c2"}, 10), (32, 32, 3))
    assert [w for w, _, _ in c2] == [*expected, drop, ("Dense", 512), bn, drop, ("Dense", 10)]
    assert all(m.use_bias for (kind, _), _, m in c1 + c2 if kind in ("Conv", "Dense"))
    f1 = kinds(build_model({"name": "f1"}, 10), (28, 28, 1))
    assert f1 == [("Dense", 512), bn] * 5 + [("Dense", 10)]


def test_vgg():
    layers = layers_of(build_model({"name": "vgg16"}, 10), (32, 32, 3))
    convs = [(what[1][0], shape[0]) for what, shape, _ in layers if what[0] == "Conv"]
    sizes = [(64, 32)] * 2 + [(128, 16)] * 2 + [(256, 8)] * 3 + [(512, 4)] * 3 + [(512, 2)] * 3
    assert convs == sizes


@pytest.mark.parametrize("strided", ["1x1", "3x3"])
def test_resnet_50(strided):
    layers = layers_of(build_model({"name": "resnet50", "strided": strided}, 1000), (224, 224, 3))
    convs = [(what[1], shape) for what, shape, _ in layers if what[0] == "Conv"]
    assert len(convs) == 1 + 16 * 3 + 4
    assert convs[0] == ((64, 7, 2), (112, 112, 64))
    assert [shape[0] for (width, _, _), shape in convs if width == 2048] == [7] * 4
    halving = [kernel for (width, kernel, stride), _ in convs[1:] if stride == 2 and width <= 512]
    shortcuts = [width for (width, _, stride), _ in convs if stride == 2 and width >= 512]
    assert halving.count(3) == (3 if strided == "3x3" else 0)
    assert halving.count(1) == (3 if strided == "1x1" else 0) + (512 in shortcuts)


def test_depths():
    for name, convs in (("resnet56", 55), ("resnet18", 17 + 3), ("wrn16_4", 13 + 3)):
        found = kinds(build_model({"name": name}, 10), (32, 32, 3))
        assert sum(kind == "Conv" for kind, _ in found) == convs


# --- forward passes, written out once more -------------------------------------------------------


def drawn(model, shape, dtype=np.float32):
    """Parameters nowhere at their initial zeros and ones, so that each of them matters."""
    rng = np.random.default_rng(0)

    def draw(a):
        fan_in = max(1, a.size / a.shape[-1])
        return jnp.asarray((rng.normal(size=a.shape) * np.sqrt(2 / fan_in)).astype(dtype))

    x = jax.ShapeDtypeStruct((1, *shape), dtype)
    abstract = jax.eval_shape(model.init, jax.random.key(1), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(abstract)} == {np.dtype(dtype)}
    params, stats = jax.tree.map(draw, abstract)
    return params, jax.tree.map(jnp.abs, stats)


def conv(x, p, stride=1, pad=None):
    k = p["kernel"].shape[0] // 2
    pad = [(k, k)] * 2 if pad is None else pad
    y = lax.conv_general_dilated(
        x, p["kernel"], (stride, stride), pad, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y + p["bias"] if "bias" in p else y


def dense(x, p):
    return x @ p["kernel"] + p.get("bias", 0.0)


def bn(x, p, epsilon=1e-5):
    axes = tuple(range(x.ndim - 1))
    mean, var = x.mean(axes), x.var(axes)
    return (x - mean) / jnp.sqrt(var + epsilon) * p["scale"] + p["bias"]


def pool(x, k, s, pad):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, k, k, 1), (1, s, s, 1), pad)


def relu(x):
    return jnp.maximum(x, 0.0)


def convnet(p, x):
    for i in range(2):
        x = pool(relu(bn(conv(x, p[f"Conv_{i}"]), p[f"BatchNorm_{i}"])), 2, 2, "VALID")
    return dense(x.reshape(len(x), -1), p["Dense_0"])


def alexnet(p, x, norm):
    on_conv, on_dense = norm != "none", norm == "batch"
    for i in range(5):
        x = conv(x, p[f"Conv_{i}"])
        x = relu(bn(x, p[f"BatchNorm_{i}"]) if on_conv else x)
        x = pool(x, 3, 2, "SAME") if i in (0, 1, 4) else x
    x = x.reshape(len(x), -1)
    for i in range(2):
        x = dense(x, p[f"Dense_{i}"])
        x = relu(bn(x, p[f"BatchNorm_{5 + i}"]) if on_dense else x)
    return dense(x, p["Dense_2"])


def resnet8(p, x, norm, shortcut):
    def normed(x, q, i):
        return bn(x, q[f"BatchNorm_{i}"]) if norm == "batch" else x

    x = relu(normed(conv(x, p["Conv_0"]), p, 0))
    for i in range(3):
        q, stride = p[f"BasicBlock_{i}"], 1 if i == 0 else 2
        y = relu(normed(conv(x, q["Conv_0"], stride), q, 0))
        y = normed(conv(y, q["Conv_1"]), q, 1)
        if stride == 2 and shortcut == "A":
            x = x[:, ::2, ::2]
            x = jnp.concatenate([x, jnp.zeros_like(x)], axis=-1)
        elif stride == 2:
            x = normed(conv(x, q["Conv_2"], stride), q, 2)
        x = relu(x + y)
    return dense(x.mean((1, 2)), p["Dense_0"])


def resnet50(p, x):
    x = relu(bn(conv(x, p["Conv_0"], 2), p["BatchNorm_0"]))
    x = pool(x, 3, 2, [(0, 0), (1, 1), (1, 1), (0, 0)])
    for i in range(2):
        q, stride = p[f"Bottleneck_{i}"], 1 if i == 0 else 2
        y = relu(bn(conv(x, q["Conv_0"], stride), q["BatchNorm_0"]))
        y = relu(bn(conv(y, q["Conv_1"]), q["BatchNorm_1"]))
        y = bn(conv(y, q["Conv_2"]), q["BatchNorm_2"])
        x = relu(bn(conv(x, q["Conv_3"], stride), q["BatchNorm_3"]) + y)
    return dense(x.mean((1, 2)), p["Dense_0"])


def wrn(p, x):
    x = conv(x, p["Conv_0"])
    for i in range(3):
        q, stride = p[f"PreActivationBlock_{i}"], 1 if i == 0 else 2
        y = relu(bn(x, q["BatchNorm_0"]))
        convs = iter(("Conv_0", "Conv_1", "Conv_2"))
        x = conv(y, q[next(convs)], stride)
        y = relu(bn(conv(y, q[next(convs)], stride), q["BatchNorm_1"]))
        x = x + conv(y, q[next(convs)])
    return dense(relu(bn(x, p["BatchNorm_0"])).mean((1, 2)), p["Dense_0"])


def c1(p, x):
    norm = functools.partial(bn, epsilon=1e-6)
    for i in range(2):
        x = pool(relu(norm(conv(x, p[f"Conv_{i}"]), p[f"BatchNorm_{i}"])), 3, 2, "SAME")
    x = x.reshape(len(x), -1)
    for i in range(2):
        x = relu(norm(dense(x, p[f"Dense_{i}"]), p[f"BatchNorm_{2 + i}"]))
    return dense(x, p["Dense_2"])


FORWARD = [
    ("convnet", {"norm": "batch"}, (8, 8, 1), convnet),
    *[
        ("alexnet", {"norm": n}, (16, 16, 3), functools.partial(alexnet, norm=n))
        for n in ("none", "batch", "batch_conv")
    ],
    *[
        (
            "resnet8",
            {"norm": n, "shortcut": s},
            (16, 16, 3),
            functools.partial(resnet8, norm=n, shortcut=s),
        )
        for n, s in (("batch", "A"), ("none", "A"), ("batch", "B"))
    ],
    ("resnet50", {"stages": (1, 1)}, (32, 32, 3), resnet50),
    ("wrn16_4", {}, (8, 8, 3), None),
    ("c1", {"dropout": 0.0}, (8, 8, 3), c1),
]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", "fields", "shape", "forward"), FORWARD)
def test_forward_pass(name, fields, shape, forward):
    module = build_model({"name": name, **fields}, 5, dtype=jnp.float64)
    if name == "wrn16_4":
        module, forward = module.clone(depth=10, widen=2), wrn
    model = as_model(module)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, *shape)))
    params, stats = drawn(model, shape, np.float64)
    logits, _ = jax.jit(model.apply, static_argnums=4)(params, stats, x, jax.random.key(3), True)
    assert np.std(logits) > 1e-2
    np.testing.assert_allclose(logits, jax.jit(forward)(params, x), rtol=1e-9, atol=1e-9)


# --- initialisation ------------------------------------------------------------------------------


def initial(name, fields, shape):
    # A generator that compiles in a fifth of the time.
    key = jax.random.key(0, impl="unsafe_rbg")
    model = as_model(build_model({"name": name, **fields}, 10))
    return jax.jit(model.init)(key, jnp.zeros((1, *shape)))[0]


def test_he_initialisation_of_all_weights():
    params = initial("alexnet", {}, (32, 32, 3))
    for layer in params.values():
        kernel = np.asarray(layer["kernel"], np.float64)
        fan_in, z = kernel[..., 0].size, kernel / np.sqrt(2 / kernel[..., 0].size)
        tolerance = 4 / np.sqrt(kernel.size)
        assert abs(z.mean()) < tolerance, fan_in
        assert abs(z.std() - 1) < tolerance
        if kernel.size > 10_000:  # not cut at two standard deviations
            assert abs((np.abs(z) > 2).mean() - 0.0455) < 0.01
        assert not np.any(layer["bias"])


def test_initialisation_of_keskar_and_of_gao_and_zhong():
    params = initial("c1", {}, (32, 32, 3))
    for name, fans in (("Conv_1", (1600, 1600)), ("Dense_0", (4096, 384))):
        kernel, limit = np.asarray(params[name]["kernel"]), np.sqrt(6 / sum(fans))
        assert 0.99 * limit < np.abs(kernel).max() <= limit * (1 + 1e-6)
        assert abs(kernel.std() / (limit / np.sqrt(3)) - 1) < 0.02
        assert not np.any(params[name]["bias"])
    params = initial("alexnet_dropout", {}, (32, 32, 3))
    for name, fan_in in (("Conv_1", 576), ("Conv_4", 2304), ("Dense_1", 4096), ("Dense_2", 4096)):
        for leaf in params[name].values():
            values = np.asarray(leaf).ravel()
            assert np.abs(values).max() <= fan_in**-0.5 * (1 + 1e-6)
            assert abs(values.std() / (fan_in**-0.5 / np.sqrt(3)) - 1) < max(
                0.02, 2 / np.sqrt(values.size)
            )


def test_last_scale_zero_makes_every_block_its_shortcut():
    params = initial("resnet8", {"zero_last_scale": True}, (8, 8, 3))
    blocks = [p for name, p in params.items() if name.startswith("BasicBlock")]
    assert len(blocks) == 3
    for block in blocks:
        assert not np.any(block["BatchNorm_1"]["scale"])
        assert np.all(block["BatchNorm_0"]["scale"] == 1)


# --- modes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bn_eval", ["running", "batch"])
def test_evaluation_leaves_the_state_and_uses_the_statistics_asked_for(bn_eval):
    fields = {"name": "convnet", "norm": "batch", "bn_eval": bn_eval}
    model = as_model(build_model(fields, 10, bn_batch=2))
    apply = jax.jit(model.apply, static_argnums=4)
    x = 5.0 + jax.random.normal(jax.random.key(0), (6, 8, 8, 1))
    params, stats = drawn(model, (8, 8, 1))
    _, moved = apply(params, stats, x, jax.random.key(2), True)
    assert all(np.any(a != b) for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(moved)))
    logits, after = apply(params, moved, x[:5], None, False)  # 5 is no multiple of b
    jax.tree.map(np.testing.assert_array_equal, after, moved)
    other = jax.tree.map(lambda s: s + 1.0, moved)
    changed = np.any(np.asarray(apply(params, other, x[:5], None, False)[0] != logits))
    assert changed == (bn_eval == "running")


def test_batch_statistics_use_groups_of_bn_batch():
    model = as_model(build_model({"name": "convnet", "norm": "batch"}, 10, bn_batch=2))
    x = jax.random.normal(jax.random.key(0), (6, 8, 8, 1))
    params, stats = drawn(model, (8, 8, 1))
    apply = jax.jit(lambda x: model.apply(params, stats, x, None, True)[0])
    parts = [apply(x[i : i + 2]) for i in (0, 2, 4)]
    np.testing.assert_allclose(apply(x), jnp.concatenate(parts), rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="bn_batch"):
        apply(x[:5])


def test_dropout_follows_its_key_and_only_in_training():
    model = as_model(build_model({"name": "c1", "norm": "none"}, 10))
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    params, stats = drawn(model, (4, 4, 3))
    assert stats == {}
    apply = jax.jit(model.apply, static_argnums=4)
    a, b, again = (apply(params, {}, x, jax.random.key(i), True)[0] for i in (1, 2, 1))
    assert np.any(a != b)
    np.testing.assert_array_equal(a, again)
    quiet = [apply(params, {}, x, jax.random.key(i), False)[0] for i in (1, 2)]
    np.testing.assert_array_equal(*quiet)


def test_bfloat16_computes_in_it_and_keeps_float32_parameters():
    fields = {"name": "convnet", "norm": "batch"}
    coarse, exact = (
        as_model(build_model(fields, 10, dtype=dtype)) for dtype in (jnp.bfloat16, jnp.float32)
    )
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    params, stats = drawn(coarse, (8, 8, 1))
    logits, expected = (
        jax.jit(m.apply, static_argnums=4)(params, stats, x, None, True)[0] for m in (coarse, exact)
    )
    assert logits.dtype == jnp.float32
    difference = np.abs(np.asarray(logits - expected))
    assert 1e-4 < difference.max() < 0.1 * np.abs(np.asarray(expected)).max()


def test_norms_other_than_batch_have_no_statistics():
    for norm in ("group", "layer"):
        model = as_model(build_model({"name": "resnet8", "norm": norm}, 10))
        x = jax.random.normal(jax.random.key(0), (3, 8, 8, 3))
        params, stats = model.init(jax.random.key(1), x)
        assert stats == {}
        alone = jnp.concatenate(
            [model.apply(params, {}, x[i : i + 1], None, True)[0] for i in range(3)]
        )
        together = model.apply(params, {}, x, None, True)[0]
        np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-5)


# --- registry ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "field", "hint"),
    [
        ({"name": "resnet23"}, "config.model.name", "resnet20"),
        ({"name": "transformer"}, "config.model.name", "Known: alexnet"),
        ({}, "config.model.name", "Known"),
        ({"name": "alexnet", "nrom": "batch"}, "config.model.nrom", "norm"),
        ({"name": "resnet20", "depth": 32}, "config.model.depth", "stands for 20"),
        ({"name": "alexnet", "num_classes": 5}, "config.model.num_classes", "data"),
        ({"name": "alexnet", "bn_batch": 5}, "config.model.bn_batch", "config.bn_batch"),
        ({"name": "c1", "dropout": "0.5"}, "config.model.dropout", "at least 0 and below 1"),
        ({"name": "resnet8", "zero_last_scale": 1}, "config.model.zero_last_scale", "False"),
        ({"name": "mlp", "hidden": 64}, "config.model.hidden", "(64, 64)"),
    ],
)
def test_mistakes_in_the_model_section(config, field, hint):
    with pytest.raises(UserError) as caught:
        build_model(config, 10)
    assert caught.value.field == field
    assert hint in caught.value.remedy


def test_fields_of_the_config_reach_the_module():
    module = build_model({"name": "mlp", "hidden": [3], "bn_momentum": 0}, 4, 2, jnp.float64)
    assert (module.hidden, module.num_classes, module.bn_batch) == ((3,), 4, 2)
    assert (module.bn_momentum, module.dtype) == (0, jnp.float64)
    assert "bn_batch" in {f.name for f in dataclasses.fields(module)}


@pytest.mark.parametrize(
    ("name", "fields", "field"),
    [
        ("resnet8", {"norm": "bach"}, "config.model.norm"),
        ("resnet8", {"norm": "batch_conv"}, "config.model.norm"),
        ("resnet8", {"shortcut": "C"}, "config.model.shortcut"),
        ("resnet50", {"strided": "5x5"}, "config.model.strided"),
    ],
)
def test_unknown_choices(name, fields, field):
    with pytest.raises(UserError) as caught:
        shapes_of(build_model({"name": name, **fields}, 10), (32, 32, 3))
    assert caught.value.field == field


def test_impossible_depths():
    for name, depth in (("resnet20", 21), ("resnet20", 2), ("wrn16_4", 4), ("wrn16_4", 17)):
        with pytest.raises(UserError, match=r"model\.depth"):
            shapes_of(build_model({"name": name}, 10).clone(depth=depth), (32, 32, 3))
