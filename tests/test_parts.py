"""A user's own module, data and rule: checked before anything compiles, and told apart."""

import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sbt
from sbt.errors import UserError
from sbt.models.adapter import as_model
from sbt.models.shapes import check_shapes
from sbt.report import dataset as report_dataset

SETTINGS = {"epochs": 1, "batch_size": 4, "base_lr": 0.01}


def arrays(n=12, shape=(6, 6, 1), classes=3, seed=0):
    random = np.random.default_rng(seed)
    images = random.integers(0, 255, (n, *shape), dtype=np.uint8)
    labels = np.arange(n) % classes
    return images, labels, images[:6], labels[:6]


class Linear(nn.Module):
    """Logits of a flattened input."""

    classes: int = 3
    bias: bool = True

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.classes, self.bias)(x.reshape(x.shape[0], -1))


def made(output):
    """A module whose output is a function of the logits."""

    class Made(nn.Module):
        @nn.compact
        def __call__(self, x):
            return output(nn.Dense(3)(x.reshape(x.shape[0], -1)))

    return Made()


def check(module, shape=(6, 6, 1), classes=3, whose="Net"):
    example = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    return check_shapes(as_model(module), example, classes, 4, whose)


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        (lambda y: (y, y), "returns a tuple of 2 arrays"),
        (lambda y: {"logits": y}, "returns a dict of 1 arrays"),
        (lambda y: y[:, 0], r"returns one number per example, shape \(4,\)"),
        (lambda y: y[:, :1], r"returns one number per example, shape \(4, 1\)"),
        (lambda y: y.mean(0, keepdims=True), r"returns an array of shape \(1, 3\) for 4 examples"),
        (lambda y: y.T, r"returns an array of shape \(3, 4\) for 4 examples"),
        (lambda y: y[:, :2], "returns 2 logits per example, the data set has 3 classes"),
        (lambda y: y.argmax(-1), r"returns an array of shape \(4,\)|returns one number"),
        (lambda y: y.astype(jnp.int32), "returns logits of dtype int32"),
        (lambda y: y.astype(jnp.complex64), "returns logits of dtype complex64"),
        (lambda y: None, "returns a None"),
    ],
)
def test_outputs_that_are_not_logits_are_refused_with_their_shape(output, problem):
    with pytest.raises(UserError, match=problem) as refusal:
        check(made(output))
    assert refusal.value.field == "module Net"


def test_logits_pass_also_where_the_batch_is_as_large_as_the_number_of_classes():
    check(Linear(4), classes=4)
    with pytest.raises(UserError, match=r"shape \(4, 8\) for 8 examples"):
        check(made(lambda y: jnp.pad(y, ((0, 0), (0, 1))).T), classes=4)


class NoisyAlways(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.Dense(3)(x.reshape(x.shape[0], -1))
        return y + jax.random.normal(self.make_rng("noise"), y.shape)


class OverAnAxis(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        y = nn.Dense(3)(x.reshape(x.shape[0], -1))
        return nn.BatchNorm(use_running_average=not train, axis_name="batch")(y)


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        (NoisyAlways(), "draws random numbers in evaluation"),
        (OverAnAxis(), "averages over an axis that does not exist here"),
        (made(lambda y: 1 / 0), "raised ZeroDivisionError"),
        (nn.Sequential([nn.relu]), "has no parameters"),
    ],
)
def test_modules_that_cannot_be_trained_say_why(module, problem):
    with pytest.raises(UserError, match=problem):
        check(module)


def test_layers_in_a_sequence_are_told_whether_they_are_in_training():
    layers = [lambda x: x.reshape(x.shape[0], -1), nn.BatchNorm(), nn.Dropout(0.5), nn.Dense(3)]
    model = as_model(nn.Sequential(layers))
    params, stats = check(nn.Sequential(layers))
    x = jnp.arange(8.0).reshape(2, 4)
    params, stats = model.init(jax.random.key(0), x)
    train = [model.apply(params, stats, x, jax.random.key(i), True) for i in (1, 2)]
    assert np.any(train[0][0] != train[1][0])  # other masks
    assert np.any(train[0][1]["layers_1"]["mean"] != stats["layers_1"]["mean"])
    twice = [model.apply(params, stats, x, None, False)[0] for _ in range(2)]
    np.testing.assert_array_equal(*twice)


class RequiredIsTrain(nn.Module):
    @nn.compact
    def __call__(self, x, is_train):
        return nn.Dropout(0.5, deterministic=not is_train)(nn.Dense(3)(x.reshape(x.shape[0], -1)))


class Partitioned(nn.Module):
    @nn.compact
    def __call__(self, x):
        init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
        return nn.Dense(3, kernel_init=init)(x.reshape(x.shape[0], -1))


class Logical(nn.Module):
    @nn.compact
    def __call__(self, x):
        init = nn.with_logical_partitioning(nn.initializers.lecun_normal(), ("embed", "mlp"))
        return nn.Dense(3, kernel_init=init)(x.reshape(x.shape[0], -1))


@pytest.mark.parametrize("module", [RequiredIsTrain(), Partitioned(), Logical()])
def test_modules_with_what_lanes_have_no_use_for_train(module):
    ds = sbt.run(SETTINGS, module=module, dataset=sbt.from_arrays(*arrays()))
    assert np.isfinite(ds.test_loss.values).all()


class WithConstant(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(36, 3, rngs=rngs)
        self.offset = jnp.ones((3,))

    def __call__(self, x):
        return self.layer(x.reshape(x.shape[0], -1)) + self.offset


@pytest.mark.parametrize("module", [WithConstant, WithConstant(nnx.Rngs(0))])
def test_arrays_that_are_no_variables_of_an_nnx_module_are_refused_by_name(module):
    with pytest.raises(UserError, match="keeps state in offset"):
        as_model(module)


@pytest.mark.parametrize(
    ("shape", "model", "problem"),
    [
        ((6, 6), "convnet", "cannot take examples of shape"),
        ((3, 8, 8), "convnet", "cannot take examples|shrinks examples"),
        ((8, 8, 3), "vgg16", "cannot take examples|shrinks examples"),
    ],
)
def test_images_that_a_built_in_network_cannot_take_are_refused_with_their_shape(
    shape, model, problem
):
    with pytest.raises(UserError, match=problem) as refusal:
        sbt.run(
            {**SETTINGS, "model": {"name": model}}, dataset=sbt.from_arrays(*arrays(shape=shape))
        )
    assert "height, width, channels" in refusal.value.remedy


# --- which parts a work directory was trained with ----------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("trained")
    sbt.run(SETTINGS, directory, module=Linear(), dataset=sbt.from_arrays(*arrays()))
    return directory


class Wider(nn.Module):
    classes: int = 3

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.classes)(nn.relu(nn.Dense(5)(x.reshape(x.shape[0], -1))))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"module": Wider()}, "another module=: .*Dense_1"),
        ({"module": Linear(bias=False)}, "fields.bias True before, False now"),
        ({"dataset": sbt.from_arrays(*arrays(seed=1))}, "another data set 'own': content"),
        ({"dataset": sbt.from_arrays(*arrays(9))}, "train_examples 12 before, 9 now"),
        ({"module": None}, r"was trained with your own, Linear \(module=\)"),
        ({"rule": optax.sgd}, "without one of your own"),
    ],
)
def test_other_parts_are_refused_in_a_finished_directory(trained, given, problem):
    usual = {"module": Linear(), "dataset": sbt.from_arrays(*arrays())}
    with pytest.raises(UserError, match=problem):
        sbt.run(SETTINGS, trained, **{**usual, **given})


def test_the_same_parts_give_the_results_that_are_there(trained):
    again = sbt.run(SETTINGS, trained, module=Linear(), dataset=sbt.from_arrays(*arrays()))
    np.testing.assert_array_equal(again.test_loss, sbt.load(trained).test_loss)


def test_a_directory_of_an_earlier_version_has_no_fingerprints_and_is_taken(trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "copy")
    (copy / "parts.json").unlink()
    sbt.run(SETTINGS, copy, module=Linear(), dataset=sbt.from_arrays(*arrays()))


def test_measuring_with_another_module_is_refused(tmp_path):
    config = {**SETTINGS, "checkpoint": {"final_weights": True}}
    own = {"module": Linear(), "dataset": sbt.from_arrays(*arrays())}
    sbt.run(config, tmp_path, **own)
    with pytest.raises(UserError, match="another module="):
        sbt.measure_runs(tmp_path, {"names": ("hessian_trace",)}, **{**own, "module": Wider()})


def test_reports_name_the_users_own_parts(trained):
    ds = sbt.load(trained)
    assert report_dataset.setting(ds, "model.name") == "Linear"
    assert report_dataset.setting(ds, "data.name") == "arrays (12 examples)"
    assert report_dataset.setting(ds, "rule.name") == "sgd"


def test_what_is_not_a_data_set_is_refused():
    with pytest.raises(UserError, match=r"is not a data set"):
        sbt.run(SETTINGS, dataset=arrays())
