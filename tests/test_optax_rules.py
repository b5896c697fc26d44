"""Every optimizer of optax, by its name in a config, against an ordinary optax loop."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from test_user_rule import Linear, N, data

import sbt
from sbt.cli import main
from sbt.errors import UserError
from sbt.optim import RULES, optax_rules

EPOCHS, RATES, SIZES = 5, (0.02, 0.005), (4, 8)  # 30 updates of 4
QUICK = ("adamw", "adafactor", "lion", "lbfgs", "contrib.muon", "contrib.prodigy")
NAMES = [
    pytest.param(name, marks=() if name.removeprefix("optax.") in QUICK else pytest.mark.slow)
    for name in optax_rules()
]


def plain_weights(name, m, base_lr):
    """Weights after an ordinary loop at float64, its hyperparameters included."""
    numbers = {key: jnp.float64(value) for key, value in RULES[name].numbers.items()}
    solver = optax_rules()[name](jnp.float64(m * base_lr), **numbers)
    module, arrays = Linear(jnp.float64), data(np.float64)

    @jax.jit
    def step(params, state, x, labels):
        def value_fn(params):
            logits = module.apply({"params": params}, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, grads = jax.value_and_grad(value_fn)(params)
        given = {"value": value, "grad": grads, "value_fn": value_fn, "obj_fn": value_fn}
        given["key"] = jax.random.key(0)
        while True:
            try:
                updates, state = optax.with_extra_args_support(solver).update(
                    grads, state, params, **given
                )
                return optax.apply_updates(params, updates), state
            except TypeError as error:
                refused = [name for name in given if f"'{name}'" in str(error)]
                if not refused:
                    raise
                given = {k: v for k, v in given.items() if k not in refused}

    params = reference.start(module, np.uint32(0), arrays.train_images[:1]).params
    state, order = solver.init(params), reference.stream(0, N)
    for _ in range(EPOCHS * N // m):
        batch = [next(order)[1] for _ in range(m)]
        params, state = step(params, state, arrays.train_images[batch], arrays.train_labels[batch])
    return params


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")  # of optax: what it will change, and overflow on the way
def test_lanes_are_a_plain_optax_loop(name, x64, tmp_path):
    """Lanes of two batch sizes and two learning rates, in one program, 15 and 30 updates."""
    config = {
        "data": {"normalize": "none"},
        "epochs": EPOCHS,
        "rule": {"name": name},
        "micro_batch": None if name in ("optax.lbfgs", "optax.contrib.sophia") else 4,
        "checkpoint": {"final_weights": True},
        "engine": {"strategy": "vmap"},
        "sweep": {"batch_size": SIZES, "base_lr": RATES},
    }
    close = 1e-6 if name == "optax.lbfgs" else 1e-9  # a line search magnifies rounding
    with jax.numpy_dtype_promotion("standard"):
        results = sbt.run(
            config,
            tmp_path,
            module=Linear(jnp.float64),
            dataset=data(np.float64),
            progress=False,
        )
        for m in SIZES:
            for rate in RATES:
                params, _ = sbt.load_weights(tmp_path, batch_size=m, base_lr=rate)
                plain = plain_weights(name, m, rate)
                for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(plain)):
                    if np.isfinite(theirs).all():  # else the run is frozen where it diverged
                        np.testing.assert_allclose(ours, theirs, rtol=close, atol=close)
    assert results.sizes["batch_size"] == 2


def test_numbers_are_axes_and_whole_numbers_structure():
    with warnings.catch_warnings(action="ignore"):
        muon = RULES.configured({"name": "optax.contrib.muon", "ns_steps": 4, "beta": 0.9})
    assert muon.options["ns_steps"] == 4 and muon.numbers["beta"] == 0.9
    momentum = RULES.configured({"name": "optax.sgd", "momentum": 0.9})
    assert momentum.numbers == {"momentum": 0.9}
    assert RULES["optax.sgd"].numbers == {}


def test_a_sweep_over_optimizers_and_their_numbers():
    config = {
        "data": {"name": "synthetic", "train_size": 32, "test_size": 8, "image_shape": (2, 2, 1)},
        "model": {"name": "mlp", "hidden": (4,)},
        "epochs": 1,
        "rule": {"name": "optax.adamw"},
        "sweep": {"batch_size": (4, 8), "b1": (0.9, 0.99), "rule__weight_decay": (0.0, 0.1)},
    }
    with jax.numpy_dtype_promotion("standard"):  # as users have it, and optax needs it
        results = sbt.run(config, progress=False)
    assert results.test_loss.shape == (2, 2, 2, 1) and np.isfinite(results.test_loss).all()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "adamw"}, "did you mean optax.adamw"),
        ({"name": "optax.adamv"}, "optax.adamw"),
        ({"name": "optax.scale_by_adam"}, "unknown rule"),
        ({"name": "optax.adamw", "b3": 0.9}, "did you mean b2"),
        ({"name": "optax.contrib.muon", "ns_steps": 2.5}, "not a whole number"),
        ({"name": "optax.adamw", "b1": "0.9"}, "not a number"),
    ],
)
def test_mistakes_are_refused(fields, words):
    with pytest.raises(UserError, match=words):
        RULES.configured(fields)


def test_they_are_listed(capsys):
    assert main(["list", "optax"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("optax.adamw", "optax.contrib.muon", "optax.nadamw"))
