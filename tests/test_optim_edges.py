"""Edges that every rule of the registry must take: donated states, odd leaves, derivatives at 0."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sbt import optim
from sbt.errors import UserError
from sbt.optim import RULES, evaluation_point
from sbt.optim.curvature import median

NAMES = sorted(RULES)
NOISY = ("gradient_noise_sgd", "covariance_noise_sgd", "entropy_sgd", "smoothout_sgd")
REAL = ("cblr", "mclr", *NOISY)  # rules of real weights


def extras(name, grads, params):
    """What a rule needs beyond the gradient, of the right shapes."""
    given = {
        "example_norms": jax.tree.map(lambda g: jnp.sum(jnp.abs(g)), grads),
        "hessian_diagonal": jax.tree.map(jnp.ones_like, params),
        "second_gradient": grads,
        "grad_fn": lambda params: grads,
        "part_gradient": lambda params, part, parts: grads,
        "example_squares": jax.tree.map(lambda g: jnp.square(jnp.abs(g)), grads),
        "batch_size": 64.0,
    }
    return {need: given[need] for need in RULES[name].needs}


def updated(name, grads, params, learning_rate=0.1, hyperparameters=None, updates=1):
    """The params after some updates by the same gradient."""
    make = RULES.configured({"name": name})
    rule = make(learning_rate, **(hyperparameters or {}))
    state = rule.init(params)
    for _ in range(updates):
        evaluation_point(rule, params, state, jax.random.key(0))
        known = {"key": jax.random.key(0), **extras(name, grads, params)}
        step, state = rule.update(grads, state, params, **known)
        params = optax.apply_updates(params, step)
    return params


@pytest.mark.parametrize("name", NAMES)
def test_no_two_leaves_of_a_fresh_state_share_a_buffer(name):
    make = RULES.configured({"name": name})
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    leaves = jax.tree.leaves((params, make(0.1).init(params)))
    buffers = [leaf.unsafe_buffer_pointer() for leaf in leaves]
    assert len(set(buffers)) == len(buffers)


def test_a_step_may_donate_its_state():
    params = {"kernel": jnp.ones((2, 3))}
    rule = optim.adam(0.1)
    step = jax.jit(rule.update, donate_argnums=1)
    _, state = step(params, rule.init(params), params)
    assert int(state[1].count) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_python_number_is_a_parameter(name):
    found = updated(name, {"w": 0.5}, {"w": 1.0})
    wanted = updated(name, {"w": jnp.float32(0.5)}, {"w": jnp.float32(1.0)})
    np.testing.assert_array_equal(found["w"], wanted["w"])


@pytest.mark.parametrize("name", NAMES)
def test_a_leaf_without_entries_changes_nothing(name):
    params = {"kernel": jnp.ones((2, 2)), "none": jnp.zeros((0, 2))}
    grads = {"kernel": jnp.full((2, 2), 0.5), "none": jnp.zeros((0, 2))}
    found = updated(name, grads, params, updates=2)
    assert found["none"].shape == (0, 2)
    assert np.isfinite(found["kernel"]).all() and not (found["kernel"] == 1).all()


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_with_respect_to_hyperparameters_are_finite_at_a_zero_gradient(name):
    spec = RULES.configured({"name": name})
    hyperparameters = {k: jnp.float32(v) for k, v in spec.numbers.items() if k != "seed"}
    params = {"kernel": jnp.ones((2, 2)), "zeros": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
    still = jax.tree.map(jnp.zeros_like, params)

    @jax.jit
    @jax.grad
    def derivative(settings):
        learning_rate, hyperparameters = settings
        after = updated(name, still, params, learning_rate, hyperparameters, updates=2)
        return sum(jnp.sum(leaf * (leaf + 1)) for leaf in jax.tree.leaves(after))

    for leaf in jax.tree.leaves(derivative((jnp.float32(0.1), hyperparameters))):
        assert np.isfinite(leaf)


# --- complex leaves -------------------------------------------------------------------------------

COMPLEX = jnp.asarray([[1.0 + 2.0j, -0.5j], [0.25, -1.0 + 1.0j]])


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (lambda: optim.sgd(0.1, momentum=0.9), lambda: optax.sgd(0.1, momentum=0.9)),
        (lambda: optim.adam(0.1), lambda: optax.adam(0.1)),
        (lambda: optim.hoffer_sgd(0.1, 0.9, max_norm=1.0),
         lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, 0.9))),
        (lambda: optim.lars(0.1, trust_coefficient=0.01, form="optax"),
         lambda: optax.lars(0.1, trust_coefficient=0.01)),
    ],
)  # fmt: skip
def test_complex_leaves_train_as_with_optax(ours, theirs):
    ends = []
    for rule in (ours(), theirs()):
        params = {"w": COMPLEX}
        state = rule.init(params)
        for _ in range(4):
            grads = jax.tree.map(lambda w: w * (1 + 0.5j), params)
            with jax.numpy_dtype_promotion("standard"):  # optax's own
                step, state = rule.update(grads, state, params)
            params = optax.apply_updates(params, step)
        ends.append(params["w"])
    np.testing.assert_allclose(*ends, rtol=1e-4)  # in single precision


@pytest.mark.parametrize("name", NAMES)
def test_a_complex_leaf_is_turned_with_its_gradient_or_refused(name):
    """A rule that takes complex leaves does not know where the real axis points."""
    if name in REAL:
        with pytest.raises(UserError, match="complex"):
            updated(name, {"w": COMPLEX}, {"w": COMPLEX})
        return
    turn = jnp.exp(0.7j)
    plain = updated(name, {"w": 0.5j * COMPLEX}, {"w": COMPLEX}, updates=2)["w"]
    turned = updated(name, {"w": 0.5j * turn * COMPLEX}, {"w": turn * COMPLEX}, updates=2)["w"]
    assert not np.allclose(plain, COMPLEX, rtol=1e-6)
    np.testing.assert_allclose(turned, turn * plain, rtol=1e-4)


# --- the median, and the bound of CBLR's radius ---------------------------------------------------


@pytest.mark.parametrize("kind, wanted", [("midpoint", (2.0, 3.0)), ("lower", (1.0, 4.0))])
def test_the_derivative_of_the_median_is_that_of_the_middle_entries(kind, wanted):
    x, direction = jnp.asarray([5.0, 1.0, 3.0, -2.0]), jnp.asarray([9.0, 4.0, 2.0, 8.0])
    assert jax.jvp(lambda x: median(x, kind), (x,), (direction,)) == wanted


def test_the_median_of_nothing_is_no_number():
    assert np.isnan(median(jnp.zeros((0, 3))))


def test_the_radius_of_cblr_has_a_ceiling():
    w, g, h = jnp.asarray([1.0, 1.0]), jnp.asarray([0.0, 10.0]) + 0.1, jnp.asarray([2.0, 2.0])
    for ceiling, bound in ((None, np.inf), (3.0, 3.0)):
        make = RULES.configured({"name": "cblr", "radius_ceiling": ceiling})
        updates, _ = (rule := make(0.5)).update(g, rule.init(w), w, hessian_diagonal=h)
        radius = np.minimum((1 + np.asarray(g) ** 2) ** 1.5 / 2, bound)
        np.testing.assert_allclose(updates, -0.5 * radius * g, rtol=1e-6)
