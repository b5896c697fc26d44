"""Every measurement that is registered, on every kind of network, through the path users take."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from lanes import compiling

import sbt
from sbt import config as configs
from sbt import measure
from sbt.errors import UserError
from sbt.measure import MEASUREMENTS
from sbt.measure.registry import RULE_STATE
from sbt.sweep.lanes import make_lanes
from sbt.sweep.observe import Trained, make_subject
from sbt.sweep.prepare import prepare
from sbt.sweep.problem import Parts
from sbt.sweep.weights import kept_weights

N, CLASSES = 24, 3

# A network of another kind belongs here.
NETWORKS = {
    "convolutions and batch norm": {"name": "convnet", "norm": "batch"},
    "dense": {"name": "mlp", "hidden": (4,)},
    "attention": {
        "name": "gpt",
        "width": 8,
        "depth": 1,
        "heads": 1,
        "expansion": 2,
        "scaled": True,
    },
}
WITHOUT_NORMS = ("dense",)
FAST = {
    "names": tuple(MEASUREMENTS),
    "sharpness": {"directions": 2, "starts": 1, "steps": 1, "epsilons": (1e-2,)},
    "hessian_eigenvalues": {"order": 2},
    "hessian_trace": {"samples": 2},
    "hessian_density": {"order": 2, "points": 4},
    "noise_scale": {"micro_batch": 4, "count": 2, "repeats": 2},
    "gradient_size": {"batch_sizes": (4,), "repeats": 1},
    "discarded_gradient": {"fractions": (0.5,)},
    "curvature_radius": {"samples": 4},
    "batch_sharpness": {"batches": 2},
    "gradient_noise_interaction": {"batches": 2},
    "preconditioned_sharpness": {"order": 2},
}


def tokens():
    """Sequences of a pattern that a model can learn, with masked places."""
    rows = (np.arange(N)[:, None] + np.arange(6) ** 2) % CLASSES
    x, label = rows[:, :-1].astype(np.int32), rows[:, 1:].astype(np.int32)
    train = {"x": x, "label": label, "mask": np.arange(5)[None] != np.arange(N)[:, None] % 5}
    return sbt.from_examples(train, {name: rows[:6] for name, rows in train.items()})


def data(network=None):
    if network == "attention":
        return tokens()
    rng = np.random.default_rng(0)
    images = (255 * rng.random((N, 8, 8, 1))).astype(np.uint8)
    return sbt.from_arrays(images, np.arange(N) % CLASSES, images[:6], np.arange(6) % CLASSES)


def sweep(model, **fields):
    config = sbt.default_config()
    config.epochs, config.base_lr, config.batch_size, config.micro_batch = 1, 1e-3, 8, 4
    config.bn_batch = 4 if model.get("norm") == "batch" else None
    config.model = model
    config.task.name = "next_token" if model["name"] == "gpt" else "auto"
    config.checkpoint.final_weights = True
    for name, value in fields.items():
        config[name] = value
    return config


@pytest.fixture(autouse=True)
def quickly():
    with compiling(quickly=True):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_every_measurement_in_training_and_afterwards(network, tmp_path):
    left_out = {"norm_noise_scale"} if network in WITHOUT_NORMS else set()
    every = tuple(name for name in MEASUREMENTS if name not in left_out)
    measure = {**FAST, "names": every}
    adam = {"name": "adam"}  # whose state every measurement can look at
    config = sweep(NETWORKS[network], measure=measure, rule=adam)
    during = sbt.run(config, dataset=data(network))
    sbt.run(sweep(NETWORKS[network], rule=adam), tmp_path, dataset=data(network))
    known = [MEASUREMENTS[name] for name in every]
    names = tuple(
        one.name for one in known if one.facts["cost"] != "free" and RULE_STATE not in one.needs
    )
    after = sbt.measure_runs(tmp_path, {**FAST, "names": names}, dataset=data(network))
    for name, variable in during.data_vars.items():
        if "measurement" not in variable.attrs:
            continue
        if "epoch" not in variable.dims and name in after:
            # Online measurements have a layer "all", which then stands in every variable.
            same = variable.sel({dim: after[name][dim] for dim in after[name].dims})
            np.testing.assert_allclose(after[name], same, rtol=2e-3, atol=1e-5, err_msg=name)
        if not name.startswith(("noise_scale", "accumulated_noise_scale", "curvature_radius")):
            assert np.isfinite(variable).all(), name


def test_measurements_of_a_transformer_in_the_units_of_its_task():
    measured = {**FAST, "names": ("batch_sharpness", "fluctuation")}
    dataset = sbt.run(sweep(NETWORKS["attention"], measure=measured), dataset=tokens())
    for name in ("batch_sharpness", "batch_sharpness_error", "batch_loss_std"):
        assert "measurement" in dataset[name].attrs and np.isfinite(dataset[name]).all()
    assert dataset["batch_loss_std"].attrs["units"] == "nats per token"


@pytest.mark.parametrize(
    "network",
    [
        "dense",
        pytest.param("convolutions and batch norm", marks=pytest.mark.slow),
        pytest.param("attention", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("rule", ["adam", "optax.rmsprop"])
def test_curvature_as_a_rule_feels_it(network, rule, tmp_path, x64):
    """Against the eigenvalue of the dense matrix, of the weights and the state that are kept."""
    name = "preconditioned_sharpness"
    kept = {"final_weights": True, "rule_state": True}
    model = {**NETWORKS[network], **({"channels": (2,)} if "norm" in network else {})}
    config = sweep(model, rule={"name": rule}, checkpoint=kept)
    config.measure = {"names": (name,), name: {"order": 300}}
    with jax.numpy_dtype_promotion("standard"):
        found = sbt.run(config, tmp_path, dataset=data(network))[name]
        (row,) = (row for rows in kept_weights(None, tmp_path) for row in rows.values())
        planned = prepare(config, Parts(None, data(network)))
        (cohort,) = planned.cohorts
        hyper = jax.tree.map(lambda leaf: leaf[0], make_lanes(cohort, [0]).hyper)
        placed, seen = planned.place(cohort), Trained(*row.weights(), hyper, None)
        loss = make_subject(placed, seen, placed.arrays, jax.random.key(0)).loss
        flat, unravel = ravel_pytree(row.weights().params)
        hessian = np.asarray(jax.jit(jax.hessian(lambda w: loss(unravel(w))))(flat))
    states, leaves = row.rule(), jax.tree.leaves(row.weights().params)
    square = np.concatenate([np.ravel(leaf) for leaf in states[-len(leaves) :]])
    if rule == "adam":
        count = int(states[0])
        assert count == N // 8
        divisor = np.sqrt(square / (1 - 0.999**count)) + 1e-8
    else:
        divisor = np.sqrt(square + 1e-8)
    expected = np.linalg.eigvalsh(hessian / np.sqrt(np.outer(divisor, divisor)))[-1]
    np.testing.assert_allclose(found.item(), expected, rtol=1e-6)


def test_a_model_without_norms_has_no_noise_scale_of_them():
    config = sweep(NETWORKS["dense"], measure={"names": ("norm_noise_scale",)})
    with pytest.raises(UserError, match="no parameters of normalisation layers"):
        sbt.run(config, dataset=data())


class Conv(nn.Module):
    """A user's own."""

    @nn.compact
    def __call__(self, x):
        x = nn.max_pool(nn.relu(nn.Conv(3, (3, 3))(x)), (2, 2), (2, 2))
        return nn.Dense(CLASSES)(nn.relu(nn.Conv(4, (3, 3), strides=2)(x)).mean((1, 2)))


def test_products_with_the_hessian_of_a_network_with_convolutions(tmp_path):
    names = ("hessian_trace", "training_set")
    config = sweep({"name": "convnet"}, measure={**FAST, "names": names})
    dataset = sbt.run(config, tmp_path, module=Conv(), dataset=data())
    assert np.isfinite(dataset["hessian_trace"]).all()
    params = sbt.load_weights(tmp_path).params
    assert jax.tree.map(np.shape, params)["Dense_0"]["kernel"] == (4, CLASSES)
    assert dataset["train_accuracy_evaluated"].size == 1
    for bad in ({"batch_sizes": 8}, {"seed": 3}):
        with pytest.raises(UserError):
            sbt.load_weights(tmp_path, **bad)


def test_a_users_network_has_the_hessian_of_stock_convolutions(x64):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 8, 8, 1)))
    params = Conv().init(jax.random.key(0), x.astype(jnp.float32))
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)

    def batch_loss(params, batch):
        return jnp.mean(jnp.square(Conv().apply(params, batch)))

    ours = measure.hessian_operator(measure.over_split(batch_loss, x, 4), params)
    stock = jax.grad(lambda w: batch_loss(ours.unravel(w), x))
    along = jnp.cos(jnp.arange(ours.point.size, dtype=jnp.float64))
    with compiling(quickly=True):
        expected = jax.jvp(stock, (ours.point,), (along,))[1]
    np.testing.assert_allclose(ours.product(along), expected, rtol=1e-9, atol=1e-10)


# --- what is refused -----------------------------------------------------------------------------


def test_the_state_of_a_rule_is_there_in_training_alone(tmp_path):
    measure = {"names": ("preconditioned_sharpness",)}
    for rule in ("sgd", "optax.contrib.muon", "lamb"):
        with (
            jax.numpy_dtype_promotion("standard"),
            pytest.raises(UserError, match="mean of squared gradients"),
        ):
            config = sweep(NETWORKS["dense"], measure=measure, rule={"name": rule})
            sbt.run(config, dataset=data())
    adam = sweep(NETWORKS["dense"], rule={"name": "adam"})
    (tmp_path / "config.json").write_text(configs.to_json(adam))
    local = {"data": 2, "local_steps": 2}
    config = sweep(NETWORKS["dense"], measure=measure, rule={"name": "adam"}, parallel=local)
    with pytest.raises(UserError, match="devices have a state each"):
        sbt.run(config, dataset=data())
    with pytest.raises(UserError, match="measure while training"):
        sbt.measure_runs(tmp_path, measure, dataset=data())


@pytest.mark.parametrize(
    ("section", "field", "says"),
    [
        ({"sharpness": {"spaces": ("foo",)}}, "sharpness.spaces", "Known: full, subspace"),
        ({"sharpness": {"spaces": (3,)}}, "sharpness.spaces", "one of full, subspace"),
        ({"sharpness": {"epsilons": 0.1}}, "sharpness.epsilons", "a tuple, such as (0.001"),
        ({"sharpness": {"epsilons": ((0.1,),)}}, "sharpness.epsilons", "give a number"),
        ({"sharpness": {"steps": 10**400}}, "sharpness.steps", "whole number"),
        ({"hessian_trace": {"samples": "many"}}, "hessian_trace.samples", "whole number"),
        ({"hessian_trace": {"samples": 1}}, "hessian_trace.samples", "of at least 2"),
        ({"curvature_radius": {"trim": 0.5}}, "curvature_radius.trim", "below 0.5"),
        ({"curvature_radius": {"statistic": None}}, "curvature_radius.statistic", "median"),
        ({"noise_scale": {"count": 1}}, "noise_scale.count", "of at least 2"),
        ({"discarded_gradient": {"fractions": (1.0,)}}, "discarded_gradient.fractions", "below 1"),
    ],
)
def test_settings_that_no_measurement_takes(section, field, says):
    with pytest.raises(UserError) as error:
        sbt.run(sweep(NETWORKS["dense"], measure=section), dataset=data())
    assert error.value.field == f"config.measure.{field}"
    assert says in str(error.value)


def test_a_noise_scale_from_micro_batches_needs_several():
    section = {"names": ("accumulated_noise_scale",)}
    config = sweep(NETWORKS["dense"], measure=section, micro_batch=8)
    with pytest.raises(UserError, match="each batch is one micro-batch"):
        sbt.run(config, dataset=data())


@pytest.mark.parametrize(
    "section", [{"names": "sharpness"}, {"nmes": ("sharpness",)}, 3, {"names": ("sharpnes",)}]
)
def test_measuring_afterwards_is_checked_as_a_run_is(section, tmp_path):
    (tmp_path / "config.json").write_text(configs.to_json(sweep(NETWORKS["dense"])))
    with pytest.raises(UserError):
        sbt.measure_runs(tmp_path, section)


# --- the functions -------------------------------------------------------------------------------


def test_leaves_without_entries_and_numbers_as_leaves():
    params = {"none": jnp.zeros((0, 2)), "w": jnp.ones(3), "x": 2.0}
    radii = measure.layer_radii(params, params)
    assert np.isnan(radii["none"].value) and radii["none"].size == 0
    np.testing.assert_allclose([radii["w"].value, radii["x"].value], 1)

    def loss(params):
        return jnp.sum(params["w"] ** 2) * params["x"]

    np.testing.assert_allclose(measure.exact_diagonal(loss, params), [4, 4, 4, 0])
    assert np.isfinite(measure.sharpness(loss, params).value)


def test_a_subspace_of_given_directions(x64):
    matrix = np.random.default_rng(0).normal(size=(7, 3))
    plane = measure.matrix_subspace(matrix)
    z, x = np.arange(1.0, 4.0), np.arange(7.0)
    np.testing.assert_allclose(plane.out(z), matrix @ z)
    np.testing.assert_allclose(plane.back(x), matrix.T @ x)
    np.testing.assert_allclose(plane.pinv(x), np.linalg.pinv(matrix) @ x)
    for wrong in (np.ones((4, 2)), np.ones(3), "text", np.full((3, 1), np.nan), np.ones((2, 3))):
        with pytest.raises(UserError):
            measure.matrix_subspace(wrong)


def test_the_error_of_a_noise_scale_is_that_of_repeated_sampling(x64):
    arrays = jnp.asarray(np.random.default_rng(0).normal(size=(4000, 20)))

    def loss(w, batch):
        return 0.5 * jnp.mean(jnp.sum(jnp.square(w - batch), axis=-1))

    def found(key):
        return measure.measure_noise_scale(
            loss, jnp.full(20, 0.3), arrays, micro_batch=5, count=4, repeats=40, key=key
        )

    many = jax.jit(jax.vmap(found))(jax.random.split(jax.random.key(0), 100))
    spread, stated = np.std(many.value), np.median(many.standard_error)
    assert 0.8 < stated / spread < 1.25


@pytest.mark.parametrize(
    "call",
    [
        lambda w: measure.hessian_trace(jnp.sum, w, samples="many"),
        lambda w: measure.hessian_trace(jnp.sum, w, where="("),
        lambda w: measure.hessian_trace(jnp.sum, w, where=5),
        lambda w: measure.top_eigenvalues(jnp.sum, w, "one"),
        lambda w: measure.sharpness(jnp.sum, w, "wide"),
        lambda w: measure.sharpness(jnp.sum, w, starts=1.5),
        lambda w: measure.sharpness(jnp.sum, w, subspace="all"),
        lambda w: measure.over_split(jnp.sum, w, "2"),
        lambda w: measure.random_subspace("a", 2, jax.random.key(0)),
        lambda w: measure.layer_radii(w, w[:2]),
        lambda w: measure.hessian_trace(jnp.sum, {"w": "text"}),
        lambda w: measure.hessian_trace(jnp.sum, w, key=3),
        lambda w: measure.hessian_trace(jnp.sum, w, chunk="a"),
        lambda w: measure.hessian_trace("loss", w),
        lambda w: measure.hessian_trace(jnp.square, w),
        lambda w: measure.hessian_trace(lambda w: (jnp.sum(w), w), w),
        lambda w: measure.hessian_trace(lambda w: jnp.sum(w > 0), w),
        lambda w: measure.spectral_density(jnp.sum, w, probes="two"),
        lambda w: measure.spectral_density(jnp.sum, w, width=None),
        lambda w: measure.top_eigenvalues(jnp.sum, w, order=1.5),
        lambda w: measure.top_eigenvalues(jnp.sum, w, which=["largest"]),
        lambda w: measure.exact_diagonal(jnp.sum, w, chunk="a"),
        lambda w: measure.sharpness(jnp.square, w),
        lambda w: measure.sharpness(jnp.sum, w, key="key"),
        lambda w: measure.sharpness_scipy(jnp.sum, w, iterations="ten"),
        lambda w: measure.over_split(3, w, 2),
        lambda w: measure.over_split(lambda w, x: x, w, 2)(w),
        lambda w: measure.average_over_split(None, w, 2),
        lambda w: measure.example_gradient_moments(jnp.dot, w, w, chunk="a"),
        lambda w: measure.example_gradient_moments(jnp.add, w, w),
        lambda w: measure.measure_gradient_size(jnp.vdot, w, w, ("a",)),
        lambda w: measure.measure_gradient_size(jnp.vdot, w, w, (2,), repeats=0),
        lambda w: measure.measure_noise_scale(jnp.vdot, w, w, micro_batch=1, count="2"),
        lambda w: measure.gradient_by_discarded_fraction(jnp.dot, w, w, (0.5,), key=3),
        lambda w: measure.interpolate(jnp.sum, w, w, points="many"),
        lambda w: measure.interpolate(5, w, w),
        lambda w: measure.random_direction(w, 3),
        lambda w: measure.loss_slice(jnp.sum, w, [w], chunk=0),
        lambda w: measure.random_subspace(3, 2, 0),
        lambda w: measure.hessian_trace(jnp.sum, w, key=jax.random.split(jax.random.key(0))),
    ],
)
def test_wrong_types_are_refused_in_words(call):
    with pytest.raises(UserError):
        call(jnp.ones(3))


def test_damaged_weights_are_one_line(tmp_path):
    sbt.run(sweep(NETWORKS["dense"]), tmp_path, dataset=data())
    for path in (tmp_path / "weights").rglob("*"):
        if path.is_file() and "manifest" not in path.name and path.stat().st_size > 40:
            path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError):
        sbt.load_weights(tmp_path)
