"""The user's own module, arrays and rule: checked before anything compiles, and kept apart."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sbt
from sbt.data.dataset import checked, images_and_labels
from sbt.errors import UserCodeError, UserError
from sbt.models.adapter import as_model


def arrays(n=24, shape=(6, 6, 1), classes=3, seed=0):
    random = np.random.RandomState(seed)
    images = (255 * random.rand(n, *shape)).astype(np.uint8)
    return images, np.arange(n) % classes, images[:8], np.arange(8) % classes


def train(module=None, data=None, workdir=None, rule=None, **fields):
    config = sbt.default_config()
    config.update({"epochs": 1, "batch_size": 4, "base_lr": 0.01})
    config.update_from_flattened_dict(fields)
    dataset = sbt.from_arrays(*(arrays() if data is None else data))
    return sbt.run(config, workdir, module=module, dataset=dataset, rule=rule, progress=False)


class Net(nn.Module):
    """A linear classifier whose logits become whatever the test wants."""

    change: str = ""
    classes: int = 3

    @nn.compact
    def __call__(self, x):
        logits = nn.Dense(self.classes)(x.reshape(x.shape[0], -1))
        return eval(self.change, {"y": logits, "jnp": jnp}) if self.change else logits


# --- outputs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "found", "remedy"),
    [
        ("(y, y)", r"tuple \(0: \(8, 3\), 1: \(8, 3\)\)", "logits alone"),
        ("{'logits': y}", r"dict \(logits: \(8, 3\)\)", "logits alone"),
        ("y[:, 0]", r"\(8,\)", "3 logits per example"),
        ("y[:, :1]", r"\(8, 1\)", "3 logits per example"),
        ("y.mean(0, keepdims=True)", r"\(1, 3\)", "first axis"),
        ("y[:, :2]", r"\(8, 2\)", "labels up to 2"),
        ("jnp.concatenate([y, y], 1)", r"\(8, 6\)", "3 features"),
        ("y[:, None]", r"\(8, 1, 3\)", "flatten"),
        ("y.T", r"\(3, 8\)", "first axis"),
        ("None", "NoneType", "logits alone"),
        ("y.argmax(1)", r"\(8,\)", "3 logits"),
        ("y.astype(int)", "int32", "argmax"),
        ("y.astype(jnp.complex64)", "complex64", "real"),
    ],
)
def test_what_a_module_gives_is_checked_before_anything_compiles(change, found, remedy):
    with pytest.raises(UserError, match=found) as error:
        train(Net(change))
    assert "Net" in error.value.field
    assert remedy in error.value.remedy


def test_logits_of_half_precision_are_logits():
    assert np.isfinite(train(Net("y.astype(jnp.bfloat16)")).test_loss).all()


def test_a_module_that_raises_keeps_its_traceback():
    class Wrong(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x.reshape(7, 5))

    with pytest.raises(UserCodeError, match="module Wrong") as error:
        train(Wrong())
    assert isinstance(error.value.__cause__, TypeError)
    assert "reshape(7, 5)" in error.value.own_traceback()


class Noisy(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(3)(x.reshape(x.shape[0], -1))
        return x + jax.random.normal(self.make_rng("dropout"), x.shape)


class OverAnAxis(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(not train, axis_name="devices")(x.reshape(x.shape[0], -1))
        return nn.Dense(3)(x)


class Empty(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x.reshape(x.shape[0], -1)[:, :3]


class Whole(nn.Module):
    @nn.compact
    def __call__(self, x):
        w = self.param("w", lambda key: jnp.ones((36, 3), jnp.int32))
        return x.reshape(x.shape[0], -1) @ w.astype(x.dtype)


class NeedsMore(nn.Module):
    @nn.compact
    def __call__(self, x, mask, *, train):
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Noisy(), "random numbers in evaluation"),
        (nn.Sequential([Net(), nn.Dropout(0.5, deterministic=False)]), "random numbers"),
        (OverAnAxis(), "axis.*devices"),
        (Empty(), "no parameters"),
        (Whole(), "parameter w is of dtype int32"),
        (NeedsMore(), "needs mask besides"),
        (Net, "is a class"),
        (Net().bind({}), "bound"),
        ("net", "neither a Linen"),
        (type("NoCall", (nn.Module,), {})(), "no method __call__"),
    ],
)
def test_modules_that_cannot_be_trained_are_refused_in_words(module, message):
    with pytest.raises(UserError, match=message):
        train(module)


# --- modules at the edge -------------------------------------------------------------------------


class Partitioned(nn.Module):
    @nn.compact
    def __call__(self, x):
        kernel = nn.initializers.lecun_normal()
        x = x.reshape(x.shape[0], -1)
        x = nn.Dense(4, kernel_init=nn.with_partitioning(kernel, (None, "model")))(x)
        return nn.Dense(3, kernel_init=nn.with_logical_partitioning(kernel, ("in", "out")))(x)


class ByField(nn.Module):
    train: bool = True

    @nn.compact
    def __call__(self, x):
        x = nn.Dropout(0.5, deterministic=not self.train)(x.reshape(x.shape[0], -1))
        return nn.Dense(3)(x)


class ByIsTrain(nn.Module):
    @nn.compact
    def __call__(self, x, is_train):
        x = nn.Dropout(0.5, deterministic=not is_train)(x.reshape(x.shape[0], -1))
        return nn.Dense(3)(x)


class Constant(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(36, 3, rngs=rngs)
        self.offset = jnp.arange(3.0)

    def __call__(self, x):
        return self.layer(x.reshape(x.shape[0], -1)) + self.offset


class Remat(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.jit(nn.remat(nn.Dense))(3)(x.reshape(x.shape[0], -1))


class Spectral(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = x.reshape(x.shape[0], -1)
        self.sow("intermediates", "x", x)
        return nn.SpectralNorm(nn.Dense(3))(x, update_stats=train)


def flat(x):
    return x.reshape(x.shape[0], -1)


@pytest.mark.parametrize(
    "module",
    [
        Partitioned(),
        ByField(),
        ByIsTrain(),
        Constant,
        Constant(nnx.Rngs(0)),
        Remat(),
        Spectral(),
        nn.Sequential([flat, nn.Dense(8), nn.BatchNorm(), nn.Dropout(0.5), nn.Dense(3)]),
    ],
    ids=lambda module: getattr(module, "__name__", type(module).__name__),
)
def test_modules_at_the_edge_train(module):
    assert np.isfinite(train(module).test_loss).all()


def test_layers_of_a_sequential_are_told_and_shared_ones_stay_shared():
    layer = nn.Dense(4)
    model = as_model(nn.Sequential([layer, nn.Dropout(0.5), layer]))
    x = jnp.ones((2, 4))
    params, stats = model.init(jax.random.key(0), x)
    assert len(jax.tree.leaves(params)) == 2
    (kernel, bias) = (jax.tree.leaves(params)[i] for i in (1, 0))
    logits, _ = model.apply(params, stats, x, None, False)
    np.testing.assert_allclose(logits, (x @ kernel + bias) @ kernel + bias, rtol=1e-6)
    key = jax.random.key(1)
    trained = model.apply(params, stats, x, key, True)[0]
    assert not np.allclose(trained, logits)


def test_constants_of_an_nnx_module_are_in_its_logits():
    model = as_model(Constant)
    x = jnp.zeros((2, 36))
    params, stats = model.init(jax.random.key(0), x)
    np.testing.assert_array_equal(model.apply(params, stats, x, None, False)[0][0], [0, 1, 2])


def test_random_constants_of_an_nnx_module_are_refused():
    class Random(nnx.Module):
        def __init__(self, rngs):
            self.layer = nnx.Linear(36, 3, rngs=rngs)
            self.offset = jax.random.normal(rngs.params(), (3,))

        def __call__(self, x):
            return self.layer(x) + self.offset

    with pytest.raises(UserError, match="offset of Random is random"):
        as_model(Random)


# --- arrays --------------------------------------------------------------------------------------

X, Y, XT, YT = arrays()
F = X.astype(np.float32)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (Y + 2**31, "beyond the largest"),
        (Y + 2**32, "beyond the largest"),
        (Y.astype(np.uint64) + np.uint64(2**63), "beyond the largest"),
        (Y - 1, "negative"),
        (Y.astype(float), r"labels.astype\(int\)"),
        (Y + 0.5, "fractions"),
        (Y > 0, r"labels.astype\(int\)"),
        (np.eye(3)[Y], "argmax"),
        (Y[:, None], "ravel"),
        (Y.astype(str), "np.unique"),
        (Y.astype(object), "np.unique"),
        (Y.astype("M8[s]"), "np.unique"),
        ([[0, 1], [2]] * 12, "cannot become an array"),
        (np.ma.array(Y, mask=Y == 1), "masked"),
    ],
    ids=str,
)
def test_labels_that_are_no_class_numbers(labels, message):
    with pytest.raises(UserError, match=f"(?s){message}"):
        sbt.from_arrays(X, labels, XT, YT)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (F + 1j, "complex"),
        (X.astype(int), "neither uint8"),
        (X > 3, "neither uint8"),
        (X.astype(object), "not of numbers"),
        (X[..., :0], "nothing of size 0"),
        (X[:0], "nothing of size 0"),
        (np.where(F > 200, np.nan, F), "NaN"),
        (F.astype(float) * 1e38, "single precision"),
        (np.ma.array(F, mask=F > 9), "masked"),
        (None, "not of numbers"),
        ([[1.0, 2.0], [1.0]], "cannot become an array"),
    ],
    ids=lambda value: str(getattr(value, "dtype", "")),
)
def test_images_that_cannot_be_used(images, message):
    with pytest.raises(UserError, match=message):
        sbt.from_arrays(images, Y, XT, YT)


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x.astype(x.dtype.newbyteorder(">")),
        lambda x: x.astype(">f8" if x.ndim > 1 else ">i8"),
        jnp.asarray,
        lambda x: x.tolist() if x.ndim == 1 else x.astype(np.float64).tolist(),
        np.ma.array,
        lambda x: x.astype(jnp.bfloat16) if x.ndim > 1 else x,
        lambda x: x.astype(np.float16) if x.ndim > 1 else x.astype(np.uint64),
        lambda x: x.astype(np.longdouble) if x.ndim > 1 else x,
    ],
)
def test_arrays_of_every_kind_hold_the_same_numbers(convert):
    x = np.round(F / 2) / 4  # exact in every format
    made = sbt.from_arrays(*map(convert, (x, Y, x[:8], YT)))
    np.testing.assert_array_equal(np.asarray(made.train_images, float), np.asarray(x, float))
    np.testing.assert_array_equal(made.train_labels, Y)
    assert made.train_images.dtype.isnative
    assert made.train_labels.dtype == np.int32


def test_arrays_that_are_mapped_or_read_only_are_not_copied(tmp_path):
    np.save(tmp_path / "x.npy", F)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    made = sbt.from_arrays(mapped, Y, mapped[:8], YT)
    assert np.shares_memory(made.train_images, mapped)


@pytest.mark.parametrize("dataset", [arrays(), {"x": X}, X, "digits", None.__class__])
def test_what_is_no_data_set(dataset):
    with pytest.raises(UserError, match="not an sbt"):
        sbt.run(sbt.default_config(), module=Net(), dataset=dataset)


def test_a_data_set_made_by_hand_is_checked_too():
    with pytest.raises(UserError, match="negative"):
        checked(images_and_labels("mine", (X, Y - 1), (XT, YT), 3))


@pytest.mark.parametrize("classes", [2.5, "3", True, 0, 2**31])
def test_numbers_of_classes(classes):
    with pytest.raises(UserError):
        sbt.from_arrays(X, Y * 0, XT, YT * 0, num_classes=classes)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((6, 6), "images\\[..., None\\]"), ((3, 8, 8), "channels first"), ((2, 8, 1), "too small")],
)
def test_built_in_networks_say_what_they_take(shape, message):
    with pytest.raises(UserError, match=message):
        train(data=arrays(shape=shape))


def test_own_arrays_are_cut_to_size():
    ds = train(Net(), **{"data.train_size": 12})
    assert ds.train_examples == 12


# --- one directory, one set of parts -------------------------------------------------------------


class Tanh(nn.Module):
    hidden: str = "tanh"

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4)(x.reshape(x.shape[0], -1))
        return nn.Dense(3)(getattr(nn, self.hidden)(x))


def scaled(learning_rate, factor=1.0):
    return optax.sgd(learning_rate * factor)


def test_another_module_data_set_or_rule_is_refused(tmp_path):
    first = train(Tanh(), workdir=tmp_path, rule=scaled)
    again = train(Tanh(), workdir=tmp_path, rule=scaled)
    np.testing.assert_array_equal(first.test_loss, again.test_loss)

    class Other(nn.Module):
        hidden: str = "tanh"

        @nn.compact
        def __call__(self, x):
            return Tanh("relu")(x)

    Other.__name__ = "Tanh"
    x, y, xt, yt = arrays()
    changed = x.copy()
    changed[-1, -1, -1] += 1
    wrong = [
        ("module.*name: Tanh there, Net now", dict(module=Net(), rule=scaled)),
        ("module", dict(module=Other(), rule=scaled)),
        ("module.*hidden", dict(module=Tanh("relu"), rule=scaled)),
        ("module.*config's own", dict(rule=scaled)),
        ("training examples: 24", dict(module=Tanh(), rule=scaled, data=arrays(12))),
        ("other content", dict(module=Tanh(), rule=scaled, data=(changed, y, xt, yt))),
        ("rule", dict(module=Tanh(), rule=optax.sgd)),
    ]
    for message, parts in wrong:
        with pytest.raises(UserError, match=message):
            train(workdir=tmp_path, **parts)
    config = sbt.default_config()
    config.update({"epochs": 1, "batch_size": 4, "base_lr": 0.01})
    with pytest.raises(UserError, match="own"):
        sbt.run(config, tmp_path, progress=False)
    with pytest.raises(UserError, match="training examples"):
        sbt.measure_runs(
            tmp_path, {"names": ("hessian_trace",)}, module=Tanh(), rule=scaled,
            dataset=sbt.from_arrays(*arrays(12)), progress=False,
        )  # fmt: skip


def test_the_same_network_with_other_operations_is_another(tmp_path):
    def module(function):
        class Mine(nn.Module):
            @nn.compact
            def __call__(self, x):
                x = nn.Dense(4)(x.reshape(x.shape[0], -1))
                return nn.Dense(3)(function(x))

        return Mine()

    train(module(nn.tanh), workdir=tmp_path)
    with pytest.raises(UserError, match="operations"):
        train(module(nn.relu), workdir=tmp_path)


def test_reports_name_the_users_own_parts():
    from sbt.report import View

    view = View(train(Net(), rule=scaled))
    assert view.setting("model.name") == "Net (own module)"
    assert view.setting("data.name") == "own arrays (24 examples)"
    assert "scaled" in view.setting("rule.name")
