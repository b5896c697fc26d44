"""The same demands on every registered rule: it joins this matrix by being in ``RULES``."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sbt.optim import RULES, evaluation_point

TARGET = {"kernel": np.array([[1.0, -2.0], [0.5, 3.0], [-1.0, 1.5]]), "bias": np.array([0.7, -0.4])}
CURVATURE = {"kernel": np.array([[1.0, 0.3]] * 3), "bias": np.array([0.5, 1.0])}
VARIANTS = [{"name": name} for name in sorted(RULES)] + [
    {"name": name, option: value}
    for name, spec in sorted(RULES.items())
    for option, values in spec.choices.items()
    for value in values
    if value != spec.options[option]
]
NO_MASKS = [c for c in VARIANTS if not any(key.endswith("_mask") for key in c)]  # they all decay 0
every_rule = pytest.mark.parametrize("name", sorted(RULES))


def as_tree(tree, dtype=None):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def start(dtype=None, scale=1.0):
    rng = np.random.default_rng(0)
    return as_tree({k: scale * rng.normal(size=v.shape) for k, v in TARGET.items()}, dtype)


def gradient(params, shift=0.0):
    """Of a quadratic with its minimum at TARGET (+ shift); masked leaves stay as they are."""
    h, target = (as_tree(t, params["kernel"].dtype) for t in (CURVATURE, TARGET))
    return {
        k: w if isinstance(w, optax.MaskedNode) else h[k] * (w - target[k] - shift)
        for k, w in params.items()
    }


def loss(params):
    h, target = as_tree(CURVATURE, params["bias"].dtype), as_tree(TARGET, params["bias"].dtype)
    return 0.5 * sum(jnp.sum(h[k] * jnp.square(w - target[k])) for k, w in params.items())


EXTRAS = {
    "hessian_diagonal": lambda params, shift: {
        k: jnp.asarray(CURVATURE[k], w.dtype) for k, w in params.items()
    },
    "example_norms": lambda params, shift: {
        k: jnp.full((), 2.0, w.dtype) for k, w in params.items()
    },
    "example_squares": lambda params, shift: jax.tree.map(jnp.square, gradient(params, shift)),
    "batch_size": lambda params, shift: jnp.asarray(64.0),
    "second_gradient": gradient,
    "grad_fn": lambda params, shift: jax.tree_util.Partial(scaled_gradient, jnp.ones(()), shift),
    "part_gradient": lambda params, shift: jax.tree_util.Partial(
        scaled_gradient, jnp.ones(()), shift
    ),
}
# Rules that move weights even where there is no gradient: they add noise of a size of their own.
RESTLESS = ("gradient_noise_sgd", "entropy_sgd")


def scaled_gradient(slope, shift, params, *part):
    return jax.tree.map(lambda g: slope.astype(g.dtype) * g, gradient(params, shift))


def extra_args(name, params, shift=0.0):
    """What the engine gives a rule: a key, and what it needs."""
    needed = {need: EXTRAS[need](params, shift) for need in RULES[name].needs}
    return {"key": jax.random.key(0), **needed}


def one_step(name, rule, params, state, key=None, shift=0.0):
    point = evaluation_point(rule, params, state, key)
    grads = gradient(point, shift)
    extra = extra_args(name, params, shift) | ({} if key is None else {"key": key})
    updates, state = rule.update(grads, state, params, **extra)
    return optax.apply_updates(params, updates), state


def keys(count):
    return [jax.random.fold_in(jax.random.key(1), i) for i in range(count)]


def trajectory(name, make, steps, params):
    """The last iterate and state when the rule is rebuilt at every update, as the engine does."""
    state = make(0).init(params)
    for i, key in enumerate(keys(steps)):
        params, state = one_step(name, make(i), params, state, key)
    return params, state


def assert_trees_close(a, b, rtol=1e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol)


def all_finite(tree):
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return all(bool(jnp.all(jnp.isfinite(x))) for x in floats)


def types(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, getattr(x, "weak_type", False)), tree)


@every_rule
def test_converges_on_a_quadratic_at_some_learning_rate(name):
    """Lanes of six learning rates over five decades, decayed linearly to 0: the best arrives."""
    make = RULES.configured({"name": name})
    steps = 400

    def run(peak):
        def body(i, carry):
            left = 1 - i.astype(jnp.float32) / steps
            return one_step(name, make(peak * left), *carry, jax.random.fold_in(keys(1)[0], i))

        params = start()
        return loss(jax.lax.fori_loop(0, steps, body, (params, make(peak).init(params)))[0])

    final = jax.jit(jax.vmap(run))(jnp.logspace(-3, 2, 6))
    assert float(jnp.nanmin(final)) < 1e-3 * float(loss(start()))


@every_rule
def test_traced_hyperparameters_under_vmap_equal_single_runs(name, x64):
    """One lane per hyperparameter, in which that one differs; single runs take Python numbers."""
    make = spec = RULES.configured({"name": name})
    hyper = dict(spec.numbers)
    lanes = [(0.1, hyper), (0.03, hyper)]
    lanes += [(0.05, hyper | {k: v / 2 if v else 0.1}) for k, v in hyper.items()]
    steps = 3

    @jax.jit
    @jax.vmap
    def together(rate, hyper):
        return trajectory(name, lambda i: make(rate, **hyper), steps, start())[0]

    rates = jnp.array([rate for rate, _ in lanes])
    stacked = {k: jnp.array([h[k] for _, h in lanes]) for k in hyper}
    ours = together(rates, stacked)
    for lane, (rate, values) in enumerate(lanes):
        rule = make(rate, **values)
        single, _ = trajectory(name, lambda i, rule=rule: rule, steps, start())
        assert_trees_close(jax.tree.map(lambda x, lane=lane: x[lane], ours), single, 1e-9)
    assert not np.allclose(ours["kernel"][0], ours["kernel"][1])


@every_rule
def test_schedule_equals_rebuilding_with_its_values(name, x64):
    make = RULES.configured({"name": name})
    rates = jnp.array([0.1, 0.02, 0.07, 0.05])
    scheduled = make(lambda count: rates[count])
    ours, _ = trajectory(name, lambda i: scheduled, 4, start())
    rebuilt, _ = trajectory(name, lambda i: make(rates[i]), 4, start())
    assert_trees_close(ours, rebuilt, 1e-7)


@every_rule
def test_chains_with_optax_and_takes_inject_hyperparams(name):
    make = spec = RULES.configured({"name": name})
    params, extra = start(), extra_args(name, start())
    rule = make(0.1)
    chained = optax.chain(optax.clip_by_global_norm(1e6), make(0.1), optax.scale(2.0))
    injected = optax.inject_hyperparams(spec.make, static_args=tuple(spec.options))(
        0.1, **spec.numbers, **spec.options
    )
    states = [r.init(params) for r in (rule, chained, injected)]
    for _ in range(2):
        grads = gradient(params)
        outs = [
            r.update(grads, s, params, **extra)
            for r, s in zip((rule, chained, injected), states, strict=True)
        ]
        (u, _), (twice, _), (same, injected_state) = outs
        states = [state for _, state in outs]
        assert_trees_close(jax.tree.map(lambda x: 2 * x, u), twice, 1e-6)
        assert_trees_close(u, same, 1e-5)
        params = optax.apply_updates(params, u)
    assert set(spec.numbers) <= set(injected_state.hyperparams)
    assert_trees_close(optax.tree.map_params(rule, lambda x: x, states[0]), states[0], 0)


@every_rule
def test_accumulation_equals_the_big_batch(name):
    """optax.MultiSteps over micro-batches of different minima, against their mean gradient."""
    make = RULES.configured({"name": name})
    rule, shifts = make(0.1), [0.5, -1.0, 0.25, 0.25]
    many = optax.MultiSteps(rule, len(shifts))
    big, small = start(), start()
    big_state, small_state = rule.init(big), many.init(small)
    with jax.numpy_dtype_promotion("standard"):  # optax divides a float by an integer count
        micro = jax.jit(functools.partial(one_step_of, name, many, rule))
        for key in keys(2):
            big, big_state = one_step(name, rule, big, big_state, key)
            for shift in shifts:
                small, small_state = micro(small, small_state, key, shift)
    assert_trees_close(small, big, 2e-5)


def one_step_of(name, many, rule, params, state, key, shift):
    point = evaluation_point(rule, params, state.inner_opt_state, key)
    grads = gradient(point, shift)
    extra = extra_args(name, params) | {"key": key}
    updates, state = many.update(grads, state, params, **extra)
    return optax.apply_updates(params, updates), state


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("config", VARIANTS, ids=lambda c: "-".join(map(str, c.values())))
def test_types_are_stable_and_independent_of_the_hyperparameters(config, dtype):
    """Traced float32 hyperparameters: updates keep the gradient's dtype, the state its types."""
    make = spec = RULES.configured(config)
    params = start(dtype)

    def step(rate, hyper, key):
        rule = make(rate, **hyper)
        state = rule.init(params)
        point = evaluation_point(rule, params, state, key)
        extra = extra_args(config["name"], params)
        updates, new = rule.update(gradient(point), state, params, **extra)
        return updates, state, new, point

    traced = {k: jnp.float32(v) for k, v in spec.numbers.items()}
    shapes = jax.eval_shape(step, jnp.float32(0.1), traced, jax.random.key(0))
    updates, state, new, point = shapes
    assert types(updates) == types(point) == types(params)
    assert types(state) == types(new)
    constant = make(0.0, **dict.fromkeys(spec.numbers, 0.0)).init(params)
    assert jax.tree.structure(constant) == jax.tree.structure(state)
    assert types(constant) == types(state)


@pytest.mark.parametrize("config", NO_MASKS, ids=lambda c: "-".join(map(str, c.values())))
def test_jit_changes_nothing(config, x64):
    make = RULES.configured(config)
    rule = make(0.1)
    step = functools.partial(one_step, config["name"], rule)
    compiled = jax.jit(step)
    ours = theirs = (start(), rule.init(start()))
    for key in keys(2):
        ours, theirs = compiled(*ours, key), step(*theirs, key)
    assert_trees_close(ours[0], theirs[0], 1e-9)


@every_rule
def test_masked_leaves_are_left_alone(name):
    make = RULES.configured({"name": name})
    params, rule = start(), make(0.1)
    mask = {"kernel": True, "bias": False}
    masked = optax.masked(rule, mask, mask_compatible_extra_args=True)
    kernel = {"kernel": params["kernel"]}
    state, alone = masked.init(params), rule.init(kernel)
    for _ in range(2):
        grads = gradient(params)
        updates, state = masked.update(grads, state, params, **extra_args(name, params))
        expected, alone = rule.update(
            {"kernel": grads["kernel"]}, alone, kernel, **extra_args(name, kernel)
        )
        assert_trees_close(updates["kernel"], expected["kernel"], 1e-6)
        np.testing.assert_array_equal(updates["bias"], grads["bias"])


@every_rule
def test_a_nan_stays_in_its_lane(name):
    make = RULES.configured({"name": name})
    rule = make(0.1)

    @jax.jit
    @jax.vmap
    def run(shift):
        params = start()
        state = rule.init(params)
        for key in keys(2):
            params, state = one_step(name, rule, params, state, key, shift)
        return params

    healthy, sick = run(jnp.zeros(3)), run(jnp.array([0.0, jnp.nan, 0.0]))
    for k in TARGET:
        np.testing.assert_array_equal(healthy[k][::2], sick[k][::2])
        assert np.all(np.isfinite(healthy[k]))
        assert not np.any(np.isfinite(sick[k][1]))


@pytest.mark.parametrize("weights, slope", [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
@every_rule
def test_zero_weights_and_zero_gradients_stay_finite(name, weights, slope):
    make = RULES.configured({"name": name})
    rule, params = make(0.1), start(scale=weights)
    state = rule.init(params)
    for key in keys(3):
        point = evaluation_point(rule, params, state, key)
        grads = jax.tree.map(lambda g: slope * g, gradient(point))
        extra = extra_args(name, params)
        scaled = {
            need: jax.tree.map(lambda x: slope * x, extra[need]) for need in RULES[name].needs
        }
        updates, state = rule.update(grads, state, params, **extra | scaled)
        assert all_finite(updates) and all_finite(state)
        if not slope and name not in RESTLESS:
            assert all(np.all(u == 0) for u in jax.tree.leaves(updates))
        params = optax.apply_updates(params, updates)
