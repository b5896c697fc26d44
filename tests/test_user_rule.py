"""A user's own update rule in a sweep: what it may be, and what tells it from another."""

import functools
import json
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
import reference

import sbt
from sbt import fingerprint, optim
from sbt.errors import UserCodeError, UserError
from sbt.optim import RULES, foreign


def decayed(learning_rate, decay=0.5, dtype=jnp.bfloat16, mask=lambda p: p, table=None):
    del decay, dtype, mask, table
    return optax.sgd(learning_rate)


@pytest.mark.parametrize(
    "rule",
    [
        optax.sgd,
        optax.adafactor,
        decayed,
        lambda learning_rate: optax.sgd(learning_rate, 0.9),
        functools.partial(decayed, table=jnp.arange(3.0)),
        optax.inject_hyperparams(optax.sgd),
    ],
)
def test_the_signature_of_a_rule_fits_json_and_holds_no_address(rule):
    text = json.dumps(fingerprint.of_rule(rule))
    assert fingerprint.of_rule(rule) == json.loads(text)
    assert "0x" not in text


def test_the_signature_tells_rules_apart():
    rules = [
        optax.sgd,
        optax.adam,
        functools.partial(optax.sgd, momentum=0.9),
        functools.partial(optax.sgd, momentum=0.5),
        functools.partial(decayed, table=jnp.arange(3.0)),
        functools.partial(decayed, table=jnp.ones(3)),
        lambda learning_rate: optax.sgd(learning_rate, 0.9),
        lambda learning_rate: optax.sgd(learning_rate, 0.5),
        lambda learning_rate: optax.lion(learning_rate, 0.5),
    ]
    assert len({json.dumps(fingerprint.of_rule(rule)) for rule in rules}) == len(rules)


# --- training with it -----------------------------------------------------------------------------


class Linear(nn.Module):
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, x, train=False):
        del train
        dense = nn.Dense(3, dtype=self.dtype, param_dtype=self.dtype)
        return dense(x.reshape(x.shape[0], -1))


N, EPOCHS, M, BASE_LR = 24, 2, 4, 0.02


def data(dtype=np.float32):
    rng = np.random.default_rng(0)
    labels = np.arange(N) % 3
    images = (rng.normal(size=(3, 5))[labels] + rng.normal(size=(N, 5)) / 2).astype(dtype)
    return sbt.from_arrays(images, labels, images, labels)


def swept(rule, dtype=jnp.float32, **fields):
    config = {"data": {"normalize": "none"}, "epochs": EPOCHS, "batch_size": M, "base_lr": BASE_LR}
    with jax.numpy_dtype_promotion("standard"):
        return sbt.run(config | fields, module=Linear(dtype), dataset=data(dtype), rule=rule)


def losses(rule, **fields):
    return swept(rule, **fields)["test_loss"].values


def plain_losses(rule, dtype, takes):
    """Test loss after each epoch of an ordinary optax loop."""
    module, arrays = Linear(dtype), data(dtype)
    solver = rule(M * BASE_LR)

    @jax.jit
    def step(params, state, x, labels):
        def value_fn(params, *_):
            logits = module.apply({"params": params}, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, grads = jax.value_and_grad(value_fn)(params)
        known = {"value": value, "grad": grads, "value_fn": value_fn}
        known |= {"grad_fn": jax.grad(value_fn), "obj_fn": value_fn}
        given = {name: known[name] for name in takes}
        updates, state = solver.update(grads, state, params, **given)
        return optax.apply_updates(params, updates), state

    params = reference.start(module, np.uint32(0), arrays.train_images[:1]).params
    state, order, found = solver.init(params), reference.stream(0, N), []
    for update in range(EPOCHS * N // M):
        batch = [next(order)[1] for _ in range(M)]
        with jax.numpy_dtype_promotion("standard"):
            params, state = step(
                params, state, arrays.train_images[batch], arrays.train_labels[batch]
            )
        if (update + 1) % (N // M) == 0:
            weights = reference.Weights(params, {})
            loss, _ = reference.evaluate(module, weights, arrays.test_images, arrays.test_labels)
            found.append(loss)
    return found


def sam(learning_rate, opaque_mode=True):
    return optax.contrib.sam(optax.sgd(learning_rate), optax.sgd(0.05), opaque_mode=opaque_mode)


def several_steps(learning_rate, every=2):
    return optax.MultiSteps(optax.sgd(learning_rate), every)


@pytest.mark.parametrize(
    "rule, takes",
    [
        (optax.inject_hyperparams(optax.adam), ()),
        (optax.rprop, ()),
        (optax.adafactor, ()),
        (optax.contrib.muon, ()),
        (several_steps, ()),
        (optax.polyak_sgd, ("value",)),
        (optax.contrib.momo, ("value",)),
        (optax.lbfgs, ("value", "grad", "value_fn")),
        (sam, ("grad_fn",)),
    ],
)
def test_a_rule_of_optax_trains_as_in_an_optax_loop(rule, takes, x64):
    del x64
    found = losses(rule, dtype=jnp.float64)  # which results hold in single precision
    # Two roundings of a float32 sum: weights are compared to 1e-9 in test_optax_rules.
    np.testing.assert_allclose(found, plain_losses(rule, jnp.float64, takes), rtol=2.4e-7)


def test_a_rule_that_starts_from_its_rate_takes_no_schedule():
    with pytest.raises(UserError, match="schedule"):
        losses(optax.rprop, schedule={"name": "cosine"})


# --- what a rule may be ---------------------------------------------------------------------------

OPTAX = """
adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad fromage lamb
lars lbfgs lion nadam nadamw noisy_sgd novograd optimistic_adam optimistic_gradient_descent
polyak_sgd radam rmsprop rprop sgd sign_sgd sm3 yogi
"""
CONTRIB = """
acprop ademamix adopt cocob dadapt_adamw dog dowg galore madgrad momo momo_adam muon prodigy
schedule_free_adamw schedule_free_sgd simplified_ademamix sophia
"""
ALIASES = [
    *(getattr(optax, name) for name in OPTAX.split()),
    *(getattr(optax.contrib, name) for name in CONTRIB.split()),
    *(s.make for _, s in sorted(RULES.items()) if "total_updates" not in s.numbers),
]
PARAMS = {
    "Dense_0": {
        "kernel": jax.ShapeDtypeStruct((20, 6), jnp.float32),
        "bias": jax.ShapeDtypeStruct((6,), jnp.float32),
    }
}


def checked(rule, fields=None):
    """The spec of a rule that has passed every check before compilation."""
    with (
        warnings.catch_warnings(action="ignore"),  # optax's, of what it will change
        jax.numpy_dtype_promotion("standard"),
        foreign.known(rule),
    ):
        config = foreign.section(fields or {})
        spec = RULES.configured(config)
        json.dumps({**spec.numbers, **spec.options})
        foreign.check(config, PARAMS)
        return spec


@pytest.mark.parametrize("rule", ALIASES, ids=lambda rule: getattr(rule, "__name__", "partial"))
def test_every_alias_of_optax_and_every_rule_of_ours_may_be_passed(rule):
    checked(rule)


def test_whole_numbers_and_what_json_cannot_hold_are_not_swept():
    spec = checked(optax.adafactor)
    assert "min_dim_size_to_factor" in spec.options and "decay_rate" in spec.numbers
    assert "dtype_momentum" not in {**spec.options, **spec.numbers}
    assert "ns_steps" in checked(optax.contrib.muon).options


def branches(learning_rate, momentum=0.5, scale=2.0):
    if momentum > 0.1:
        return optax.sgd(learning_rate * scale, momentum)
    return optax.sgd(learning_rate * scale)


def test_a_number_that_a_rule_has_to_know_is_an_option():
    spec = checked(branches)
    assert dict(spec.numbers) == {"scale": 2.0} and spec.options == {"momentum": 0.5}


def with_update(update):
    return lambda learning_rate: optax.GradientTransformationExtraArgs(lambda p: (), update)


@pytest.mark.parametrize(
    "rule, words",
    [
        (3, "not a function"),
        (optax.sgd(0.1), "pass a function"),
        (lambda: optax.sgd(0.1), "no learning rate"),
        (lambda learning_rate, power: optax.sgd(learning_rate), "'power' has no default"),
        (lambda learning_rate: None, "not an optax transformation"),
        (lambda learning_rate: optax.sgd(float(learning_rate)), "know its learning rate"),
        (with_update(lambda u, s, p, **_: None), "returns None"),
        (with_update(lambda u, s, p, **_: (None, s)), "another structure"),
        (with_update(lambda u, s, p, **_: (u, (1,))), "another structure"),
        (with_update(lambda u, s, p, **_: (jax.tree.map(jnp.sum, u), s)), "not float32"),
        (with_update(lambda u, s, p, *, curvature, **_: (u, s)), "needs 'curvature'"),
    ],
)
def test_what_is_not_a_rule_is_refused_before_anything_compiles(rule, words):
    with pytest.raises(UserError, match=words) as caught:
        checked(rule)
    assert not isinstance(caught.value, UserCodeError)


def test_an_exception_in_a_rule_keeps_its_traceback():
    def broken(learning_rate):
        return learning_rate.no_such_thing

    with pytest.raises(UserCodeError, match="AttributeError") as caught:
        checked(broken)
    assert "no_such_thing" in caught.value.own_traceback()


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"momentun": 0.9}, "did you mean momentum"),
        ({"name": "adam", "b1": 0.5}, "has no effect"),
        ({"name": "sgd", "b1": 0.5}, "no such parameter"),
        ({"nesterov": 1}, "nesterov"),
        ({"momentum": "high"}, "momentum"),
    ],
)
def test_a_field_that_a_rule_does_not_have_or_take_is_refused(fields, words):
    def rule(learning_rate, momentum=0.9, nesterov=False):
        return optim.sgd(learning_rate, momentum, nesterov)

    with pytest.raises(UserError, match=words):
        checked(rule, fields)
    assert checked(rule, {"name": "sgd", "decay_mask": "all"}).numbers["momentum"] == 0.9
