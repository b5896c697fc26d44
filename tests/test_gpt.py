"""The transformer: against loops over places in numpy, and its lanes against flax and optax."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from lanes import trainer
from reference import distance

import sbt
from sbt.errors import UserError
from sbt.models.gpt import rotary
from sbt.models.registry import build_model

VOCABULARY = 11


def shapes(fields, vocabulary):
    module = build_model(fields, vocabulary)
    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    init = functools.partial(module.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), tokens)["params"]


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


# --- against the paper ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "vocabulary", "body", "total", "budget"),
    [
        ("gpt_30m", 50257, 10_616_832, 49e6, 598_310_400),
        ("gpt_19m", 32101, 18_874_368, 52e6, 706_201_600),
        ("gpt_124m", 50257, 84_934_656, 162e6, 2_470_640_640),
    ],
)
def test_sizes_and_token_budgets_of_the_paper(name, vocabulary, body, total, budget):
    params = shapes({"name": name}, vocabulary)
    embedding = size(params["embedding"])
    assert size(params) - embedding - size(params["logits"]) == body
    assert round(size(params) / 1e6) == round(total / 1e6)
    assert 20 * (body + embedding) == budget


def test_initial_spreads():
    module = build_model({"name": "gpt", "width": 128, "heads": 4, "depth": 1}, 512)
    params = module.init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32), train=False)["params"]
    d, heads, head = 128, 4, 32
    variances = {
        "embedding": 1 / d,
        "logits": 1 / d,
        "up_0": 2 / (d + 4 * d),
        "down_0": 2 / (d + 4 * d),
        "qkv": 2 / (3 * heads * (d + head)),  # 3 and heads count as a receptive field
        "out": 2 / (heads * (head + d)),
    }
    flat = {**params, **params["Attention_0"]}
    for name, variance in variances.items():
        assert np.var(flat[name]) == pytest.approx(variance, rel=0.05), name
    for name in ("up_0", "down_0", "qkv", "out"):  # uniform ones end at sqrt(3) spreads
        assert np.abs(flat[name]).max() == pytest.approx(math.sqrt(3 * variances[name]), rel=0.01)


# --- against loops in numpy -----------------------------------------------------------------------


def rms(x, scale=1.0):
    return scale * x / np.sqrt(np.mean(x * x) + 1e-6)


def turned(x, place):
    half = len(x) // 2
    y = np.empty_like(x)
    for i in range(half):
        z = complex(x[i], x[i + half]) * np.exp(1j * place * 10_000.0 ** (-i / half))
        y[i], y[i + half] = z.real, z.imag
    return y


def plainly(params, tokens, depth, qk_norm):
    """Logits of one sequence, place by place."""
    scale = params.get
    y = [params["embedding"][t] for t in tokens]
    for layer in range(depth):
        own = params[f"Attention_{layer}"]
        _, heads, _, head = own["qkv"].shape
        before = [rms(v, scale(f"scale_{layer}_attention", 1.0)) for v in y]
        after = [v.copy() for v in y]
        for a in range(heads):
            q, k, v = ([x @ own["qkv"][c, a] for x in before] for c in range(3))
            if qk_norm:
                q = [rms(x, own.get("q_scale", 1.0)) for x in q]
                k = [rms(x, own.get("k_scale", 1.0)) for x in k]
            q, k = ([turned(x, t) for t, x in enumerate(xs)] for xs in (q, k))
            for t in range(len(tokens)):
                weights = np.exp([q[t] @ k[s] / math.sqrt(head) for s in range(t + 1)])
                weights /= weights.sum()
                after[t] += sum(w * v[s] for s, w in enumerate(weights)) @ own["out"][a]
        y = after
        for t, x in enumerate(y):
            h = rms(x, scale(f"scale_{layer}_mlp", 1.0)) @ params[f"up_{layer}"]
            h = h * (1 + np.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3))) / 2
            y[t] = x + h @ params[f"down_{layer}"]
    return np.stack([params["logits"] @ rms(x, scale("scale", 1.0)) for x in y])


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"head": 8, "expansion": 3},
        {"scaled": True},
        {"qk_norm": False, "heads": 1},
    ],
)
def test_loops_over_places_give_the_same_logits(fields):
    fields = {"name": "gpt", "width": 12, "depth": 2, "heads": 3, **fields}
    fields["heads"] = fields["heads"] if "head" in fields else 2
    with jax.enable_x64(True):
        module = build_model(fields, VOCABULARY, dtype=jnp.float64)
        tokens = np.random.default_rng(0).integers(0, VOCABULARY, (2, 7)).astype(np.int32)
        params = module.init(jax.random.key(1), tokens, train=False)["params"]
        leaves, tree = jax.tree.flatten(params)
        random = np.random.default_rng(2)  # scales must not stay at 1
        leaves = [np.asarray(x) + 0.3 * random.normal(size=x.shape) for x in leaves]
        params = jax.tree.unflatten(tree, leaves)
        found = module.apply({"params": params}, tokens, train=True)
    for one, logits in zip(tokens, found, strict=True):
        expected = plainly(params, one, fields["depth"], fields.get("qk_norm", True))
        np.testing.assert_allclose(logits, expected, rtol=1e-11, atol=1e-11)


def test_no_place_sees_a_later_one():
    module = build_model({"name": "gpt"}, VOCABULARY)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, VOCABULARY, (1, 9)))
    variables = module.init(jax.random.key(0), tokens, train=False)
    before = module.apply(variables, tokens, train=False)
    after = module.apply(variables, tokens.at[0, 5].add(1) % VOCABULARY, train=False)
    moved = np.abs(after - before).max(axis=(0, 2))
    assert not moved[:5].any() and (moved[5:] > 1e-4).all()


def test_products_of_rotated_vectors_depend_on_their_distance_alone():
    random = np.random.default_rng(0)
    q, k = (jnp.tile(jnp.asarray(random.normal(size=6)), (1, 12, 1, 1)) for _ in "qk")
    products = np.einsum("ntah,nsah->ts", rotary(q), rotary(k))
    for apart in range(-11, 12):
        diagonal = np.diagonal(products, apart)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-5)
    assert np.ptp(products) > 0.1
    np.testing.assert_allclose(
        np.linalg.norm(rotary(q), axis=-1), np.linalg.norm(q, axis=-1), rtol=1e-5
    )


def test_products_with_the_hessian_are_those_of_differences():
    with jax.enable_x64(True):
        module = build_model({"name": "gpt", "width": 8, "depth": 1}, VOCABULARY, dtype=jnp.float64)
        tokens = np.random.default_rng(0).integers(0, VOCABULARY, (2, 5)).astype(np.int32)
        params = module.init(jax.random.key(0), tokens, train=False)["params"]

        def loss(params):
            logits = module.apply({"params": params}, tokens, train=True)
            return -jax.nn.log_softmax(logits)[..., 3].mean()

        v = jax.tree.map(
            lambda x: jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), params
        )
        gradient = jax.jit(jax.grad(loss))
        product = jax.jvp(gradient, (params,), (v,))[1]
        ends = [
            gradient(jax.tree.map(lambda p, d, s=s: p + s * d, params, v)) for s in (1e-5, -1e-5)
        ]
        found = jax.tree.map(lambda a, b: (a - b) / 2e-5, *ends)
        for a, b in zip(jax.tree.leaves(product), jax.tree.leaves(found), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-7 * float(jnp.abs(a).max() + 1))


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"width": 10, "heads": 4}, "4 heads do not share a width of 10"),
        ({"width": 6, "heads": 2}, "2 heads do not share a width of 6"),
        ({"head": 3}, "do not share"),
    ],
)
def test_heads_that_do_not_fit_are_refused(fields, words):
    with pytest.raises(UserError, match=words):
        shapes({"name": "gpt", **fields}, VOCABULARY)


def test_images_are_refused():
    module = build_model({"name": "gpt"}, 10)
    with pytest.raises(UserError, match="takes tokens"):
        module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)


# --- in lanes -------------------------------------------------------------------------------------

PLACES, SEQUENCES, EPOCHS, UPDATES = 5, 67, 30, 30  # no batch size divides them
SIZES, G = (1, 2, 8, 64), 1
TINY = {"name": "gpt", "width": 8, "depth": 1, "heads": 2}
RULES = {
    "optax.sgd": (2.0**-3, {"momentum": 0.9}),
    "optax.adamw": (2.0**-7, {"b2": 0.95, "weight_decay": 0.1}),
    "optax.adafactor": (2.0**-6, {"decay_rate": 0.9, "min_dim_size_to_factor": 8}),
    "optax.contrib.muon": (2.0**-6, {"adam_b2": 0.95}),
}


class Users(nn.Module):
    """A transformer of flax's own layers, as a user would write one."""

    dtype = jnp.float64

    @nn.compact
    def __call__(self, x):
        kinds = {"dtype": self.dtype, "param_dtype": self.dtype}
        y = nn.Embed(VOCABULARY, 8, **kinds)(x)
        # Without biases: that of the keys has gradient zero, and Adam would divide its rounding.
        attention = nn.MultiHeadDotProductAttention(2, **kinds, use_bias=False, deterministic=True)
        y = y + attention(nn.LayerNorm(**kinds)(y), mask=nn.make_causal_mask(x, dtype=self.dtype))
        y = y + nn.Dense(8, **kinds)(nn.gelu(nn.Dense(16, **kinds)(nn.LayerNorm(**kinds)(y))))
        return nn.Dense(VOCABULARY, **kinds)(nn.LayerNorm(**kinds)(y))


@functools.cache
def text():
    """A chain in which the token that follows depends on the last one."""
    random = np.random.default_rng(0)
    steps = random.choice([1, 3], size=(SEQUENCES, PLACES + 1), p=[0.8, 0.2])
    tokens = (np.cumsum(steps, axis=1) % VOCABULARY).astype(np.int32)
    mask = (random.random((SEQUENCES, PLACES)) < 0.8).astype(np.int32)
    mask[:, 0] = 1
    return {"x": tokens[:, :-1], "label": tokens[:, 1:], "mask": mask}


def first_weights(module, seed):
    key = jax.random.fold_in(jax.random.key(seed), reference.zlib.crc32(b"init"))
    train = {} if isinstance(module, Users) else {"train": False}
    return module.init(key, text()["x"][:1], **train)["params"]


@functools.cache
def plain(module, rule, m, seed=0):
    """The first weights and those after the updates, by a loop over whole batches."""
    rate, fields = RULES[rule]
    optimizer = functools.reduce(getattr, rule.split(".")[1:], optax)

    def make(rate):
        # Of Python's numbers optax makes float32 ones, Adafactor's decay among them.
        double = {k: jnp.float64(v) if isinstance(v, float) else v for k, v in fields.items()}
        return optimizer(rate, **double)

    train = {} if isinstance(module, Users) else {"train": True}

    @jax.jit
    def step(params, state, batch, rate):
        def loss(params):
            logits = module.apply({"params": params}, batch["x"], **train)
            each = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
            return ((each * batch["mask"]).sum(1) / batch["mask"].sum(1)).mean()

        updates, state = make(rate).update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        params = first = first_weights(module, seed)
        state, order = make(rate).init(params), reference.stream(seed, SEQUENCES)
        for t in range(UPDATES):
            batch = [next(order)[1] for _ in range(m)]
            progress = t * m / (EPOCHS * SEQUENCES)
            now = rate * 0.5 * (1 + np.cos(np.pi * progress))
            params, state = step(params, state, {k: v[batch] for k, v in text().items()}, now)
        return jax.device_get((first, params))


def lanes_of(rule, strategy, devices, own=None):
    rate, fields = RULES[rule]
    runs = [{"batch_size": m, "base_lr": rate, "seed": 0} for m in SIZES]
    config = {
        "data": {},
        "model": TINY,
        "task": {"name": "next_token"},
        "rule": {"name": rule, **fields},
        "lr_scaling": "none",
        "schedule": {"name": "cosine"},
        "epochs": EPOCHS,
    }
    data = sbt.from_examples(text(), text())
    return trainer(runs, config, G, strategy, devices, own, data)


@pytest.mark.parametrize(
    ("rule", "strategy", "devices", "users"),
    [
        ("optax.adamw", "map/packed", 2, False),
        ("optax.contrib.muon", "vmap/im2col", 1, True),
        *[
            pytest.param(rule, f"{strategy}/direct", devices, users, marks=pytest.mark.slow)
            for rule in RULES
            for strategy in ("vmap", "map", "map:3")
            for devices in (1, 2)
            for users in (False, True)
        ],
    ],
)
def test_lanes_are_a_plain_flax_and_optax_loop(rule, strategy, devices, users):
    module = Users() if users else build_model(TINY, VOCABULARY, dtype=jnp.float64)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        program = lanes_of(rule, strategy, devices, module if users else None)
        state, tick = program.engine.init(program.lanes), 0
        for position, m in enumerate(SIZES):
            state, tick = program.train(state, tick, UPDATES * m // G), UPDATES * m // G
            mine = program.lane(state, position)
            assert (mine.updates, mine.accumulated, mine.diverged_at) == (UPDATES, 0, -1)
            first, last = plain(module, rule, m)
            assert distance(first, last) > 1e-2
            assert distance(mine.params, last) < 1e-9, m


@pytest.mark.parametrize(
    "strategy", ["map/packed", pytest.param("vmap/im2col", marks=pytest.mark.slow)]
)
def test_windows_give_the_same_bits(strategy):
    states = []
    program = lanes_of("optax.adamw", strategy, 2)
    for window in (None, 7):
        state = program.train(program.engine.init(program.lanes), 0, 100, window)
        states.append(jax.device_get(state))
    assert jax.tree.all(jax.tree.map(np.array_equal, *states))
