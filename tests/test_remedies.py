"""Remedies for large batches: against NumPy, SciPy and optax, and against their own definitions."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.ndimage

from sbt import optim
from sbt.data.augment import AffineDraws, affine, affine_draws, random_affine
from sbt.errors import UserError
from sbt.optim import remedies
from sbt.optim.sample_rule import accumulated_gradient, discard_count, discard_weights

STEPS = 25
HESSIAN = np.array([1.0, 0.3, 2.0])
OFFSETS = np.random.default_rng(0).normal(size=(STEPS, 3))
START = np.array([1.0, -2.0, 0.5])


def gradients(k, x):
    return HESSIAN * (x - OFFSETS[k])


def same(ours, theirs, tolerance=1e-10):
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


# --- Adam and conservative training ---------------------------------------------------------------


def test_adam_is_optax_adam_with_an_l2_term(x64):
    ours = optim.adam(0.1, 0.8, 0.95, 1e-4, weight_decay=0.02)
    theirs = optax.chain(optax.add_decayed_weights(0.02), optax.adam(0.1, 0.8, 0.95, 1e-4))
    x = y = jnp.asarray(START)
    state, other = ours.init(x), theirs.init(y)
    for k in range(STEPS):
        updates, state = ours.update(jnp.asarray(gradients(k, x)), state, x)
        x = x + updates
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power
            updates, other = theirs.update(jnp.asarray(gradients(k, y)), other, y)
        y = y + updates
    same(x, y)


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("moments", ["carried", "fresh"])
def test_conservative_training_is_adam_on_the_proximal_problem(moments, iterations, x64):
    rate, lam = 0.05, 0.7
    rule = optim.conservative(rate, lam, iterations=iterations, moments=moments)
    params = {"w": jnp.asarray(START)}
    state = rule.init(params)
    x, m, v, t = START.copy(), np.zeros(3), np.zeros(3), 0

    @jax.jit
    def step(params, state, offset):
        def grad_fn(p):
            return {"w": jnp.asarray(HESSIAN) * (p["w"] - offset)}

        updates, state = rule.update(grad_fn(params), state, params, grad_fn=grad_fn)
        return optax.apply_updates(params, updates), state

    for k in range(STEPS):
        params, state = step(params, state, jnp.asarray(OFFSETS[k]))
        anchor = x.copy()
        if moments == "fresh":
            m, v, t = np.zeros(3), np.zeros(3), 0
        for _ in range(iterations):
            g = gradients(k, x) + lam * (x - anchor)
            t += 1
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            x = x - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        same(params["w"], x, 1e-9)


def test_conservative_step_solves_the_proximal_problem(x64):
    """Many gradient steps on a quadratic: (H + lambda) x = H c + lambda x_k."""
    lam = 0.5
    x, _ = optim.conservative_step(
        lambda x: jnp.asarray(HESSIAN) * (x - jnp.asarray(OFFSETS[0])),
        jnp.asarray(START),
        optax.sgd(0.3),
        optax.sgd(0.3).init(jnp.asarray(START)),
        proximal=lam,
        iterations=200,
    )
    same(x, (HESSIAN * OFFSETS[0] + lam * START) / (HESSIAN + lam))


def test_conservative_training_takes_schedules_and_says_what_it_needs():
    rule = optim.conservative(lambda count: jnp.where(count == 0, 0.5, 0.05), iterations=1)
    x, grad_fn = jnp.zeros(1), jnp.ones_like
    state = rule.init(x)
    for size in (0.5, 0.05):
        updates, state = rule.update(grad_fn(x), state, x, grad_fn=grad_fn)
        np.testing.assert_allclose(updates, [-size], rtol=1e-5)
    with pytest.raises(ValueError, match="grad_fn"):
        rule.update(x, state, x)
    with pytest.raises(UserError, match="kept"):
        optim.conservative(0.1, moments="kept")
    with pytest.raises(UserError, match="iterations"):
        optim.conservative_step(grad_fn, x, optax.sgd(1.0), optax.sgd(1.0).init(x), iterations=0)


# --- Hoffer ---------------------------------------------------------------------------------------


def test_hoffer_sgd(x64):
    ours = optim.hoffer_sgd(0.05, 0.9, 0.01, 1.5)
    x, state = jnp.asarray(START), ours.init(jnp.asarray(START))
    y, u, clipped = START.copy(), np.zeros(3), 0
    for k in range(STEPS):
        updates, state = ours.update(jnp.asarray(gradients(k, x)), state, x)
        x = x + updates
        g = gradients(k, y)
        norm = np.linalg.norm(g)
        clipped += norm > 1.5
        u = 0.9 * u + g * min(1, 1.5 / norm) + 0.01 * y
        y = y - 0.05 * u
        same(x, y)
    assert 0 < clipped < STEPS


def test_clipping_is_by_the_norm_over_all_leaves():
    tree = {"a": jnp.asarray([3.0]), "b": jnp.asarray([[4.0]])}
    for limit in (1.0, 4.9, 5.1):
        ours, _ = optim.clip_by_global_norm(limit).update(tree, ())
        theirs, _ = optax.clip_by_global_norm(limit).update(tree, optax.EmptyState())
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), ours, theirs)
    zero = jax.tree.map(jnp.zeros_like, tree)
    assert not any(
        np.any(x) for x in jax.tree.leaves(optim.clip_by_global_norm(1.0).update(zero, ())[0])
    )


# --- SmoothOut ------------------------------------------------------------------------------------


def params_of_a_net():
    rng = np.random.default_rng(1)
    return {
        "conv": jnp.asarray(rng.normal(size=(3, 3, 4, 8)), jnp.float32),
        "dense": {
            "kernel": jnp.asarray(rng.normal(size=(8, 10)), jnp.float32),
            "bias": jnp.ones(10),
        },
        "norm": {"scale": jnp.ones(8)},
    }


def noise_of(rule, params, key, state=None):
    state = rule.init(params) if state is None else state
    point = rule.evaluate_at(params, state, key)
    return jax.tree.map(lambda a, b: np.asarray(a - b), point, params)


def test_smoothout_noise_is_uniform_on_the_kernels():
    params = {"w": jnp.zeros((200, 500)), "scale": jnp.ones(8)}
    noise = noise_of(optim.smoothout(optax.sgd(0.1), 0.02), params, jax.random.key(0))
    w = noise["w"] / 0.02
    assert np.abs(w).max() <= 1 and np.abs(w).max() > 0.999
    assert abs(w.mean()) < 4 / math.sqrt(3 * w.size) and abs(w.var() - 1 / 3) < 0.01
    # Quarters of the interval are equally likely.
    counts = np.histogram(w, bins=4, range=(-1, 1))[0]
    assert np.all(np.abs(counts - w.size / 4) < 5 * math.sqrt(w.size * 3 / 16))
    np.testing.assert_array_equal(noise["scale"], 0)


def test_smoothout_masks_and_keys():
    params, key = params_of_a_net(), jax.random.key(3)
    everywhere = noise_of(optim.smoothout(optax.sgd(0.1), 0.1, noise_mask="all"), params, key)
    assert all(np.any(x) for x in jax.tree.leaves(everywhere))
    kernels = noise_of(optim.smoothout(optax.sgd(0.1), 0.1), params, key)
    assert not np.any(kernels["norm"]["scale"]) and not np.any(kernels["dense"]["bias"])
    np.testing.assert_array_equal(kernels["conv"], everywhere["conv"])
    again = noise_of(optim.smoothout(optax.sgd(0.1), 0.1), params, key)
    np.testing.assert_array_equal(kernels["conv"], again["conv"])
    other = noise_of(optim.smoothout(optax.sgd(0.1), 0.1), params, jax.random.key(4))
    assert not np.allclose(kernels["conv"], other["conv"])
    flat = kernels["conv"].ravel()[:80], kernels["dense"]["kernel"].ravel()[:80]
    assert not np.allclose(*flat)  # leaves do not share their noise
    with pytest.raises(ValueError, match="key"):
        optim.smoothout(optax.sgd(0.1), 0.1).evaluate_at(
            params, optim.smoothout(optax.sgd(0.1), 0.1).init(params)
        )


def test_ada_smoothout_rescales_every_output_filter():
    params = params_of_a_net()
    rule = optim.smoothout(optax.sgd(0.1), 0.05, adaptive=True)
    noise = noise_of(rule, params, jax.random.key(0))
    for n, w in [
        (noise["conv"], params["conv"]),
        (noise["dense"]["kernel"], params["dense"]["kernel"]),
    ]:
        lengths = [np.linalg.norm(np.reshape(x, (-1, x.shape[-1])), axis=0) for x in (n, w)]
        np.testing.assert_allclose(lengths[0], 0.05 * lengths[1], rtol=1e-4)
    zero = noise_of(rule, {"w": jnp.zeros((2, 2))}, jax.random.key(0))
    np.testing.assert_array_equal(zero["w"], 0)


def test_smoothout_steps_from_the_unperturbed_weights(x64):
    """A plain loop: gradient at x + noise, momentum step from x; amplitude from its schedule."""
    rule = optim.smoothout(
        optax.sgd(0.1, 0.9), lambda t: 0.3 * (1.0 + t) ** -0.275, noise_mask="all"
    )
    x, state = jnp.asarray(START), rule.init(jnp.asarray(START))
    y, u = START.copy(), np.zeros(3)
    unit = optim.smoothout(optax.identity(), 1.0, noise_mask="all")
    for k in range(STEPS):
        key = jax.random.fold_in(jax.random.key(1), k)
        point = optim.evaluation_point(rule, x, state, key)
        updates, state = rule.update(jnp.asarray(gradients(k, point)), state, x)
        x = x + updates
        noise = noise_of(unit, jnp.zeros(3), key)
        u = 0.9 * u + gradients(k, y + 0.3 * (1 + k) ** -0.275 * noise)
        y = y - 0.1 * u
        same(x, y)


def test_smoothout_descends_the_box_average():
    """Mean gradient of sin over the box: (cos(x-a) ... ) = cos(x) sin(a) / a."""
    rule = optim.smoothout(optax.sgd(0.1), 1.5, noise_mask="all")
    x = jnp.float32([0.3])
    state = rule.init(x)
    keys = jax.random.split(jax.random.key(0), 100_000)
    points = jax.vmap(lambda key: rule.evaluate_at(x, state, key))(keys)
    np.testing.assert_allclose(
        jnp.mean(jnp.cos(points)), math.cos(0.3) * math.sin(1.5) / 1.5, atol=5e-3
    )


def test_smoothout_composes_with_other_evaluation_points():
    inner = optim.extrap_sgd(0.1, extrapolation=0.5)
    rule = optim.smoothout(inner, 0.01, noise_mask="all")
    x = jnp.ones(2)
    state = rule.init(x)
    _, state = rule.update(x, state, x)
    shift = np.asarray(
        rule.evaluate_at(x, state, jax.random.key(0)) - inner.evaluate_at(x, state.inner)
    )
    assert np.all(np.abs(shift) <= 0.01 + 1e-6) and np.any(shift)
    chained = optim.chain(optim.clip_by_global_norm(1.0), rule)
    assert np.any(chained.evaluate_at(x, chained.init(x), jax.random.key(0)) != x)


# --- adversarial and stability training -----------------------------------------------------------


def logits(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]


def net():
    rng = np.random.default_rng(2)
    return {"w": jnp.asarray(rng.normal(size=(5, 7))), "v": jnp.asarray(rng.normal(size=(7, 3)))}


INPUTS = np.random.default_rng(3).normal(size=(4, 5))
LABELS = np.array([0, 2, 1, 1])


@jax.jit
def mean_loss(params, x):
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), LABELS).mean()


def test_adversarial_inputs_and_loss(x64):
    """Signs by central differences of the loss; the mixed loss and its gradient by hand."""
    params, eps, h = net(), 0.1, 1e-6
    signs = np.zeros_like(INPUTS)
    for i in np.ndindex(*INPUTS.shape):
        e = np.zeros_like(INPUTS)
        e[i] = h
        signs[i] = np.sign(mean_loss(params, INPUTS + e) - mean_loss(params, INPUTS - e))
    attacked = remedies.fast_gradient_sign(lambda x: mean_loss(params, x), jnp.asarray(INPUTS), eps)
    same(attacked, INPUTS + eps * signs)
    bounded = remedies.fast_gradient_sign(
        lambda x: mean_loss(params, x), jnp.asarray(INPUTS), eps, low=-0.5, high=0.5
    )
    same(bounded, np.clip(INPUTS + eps * signs, -0.5, 0.5))

    def ours(params):
        return remedies.adversarial_loss(
            lambda x: mean_loss(params, x), jnp.asarray(INPUTS), eps, 0.25
        )

    def by_hand(params):
        return 0.25 * mean_loss(params, INPUTS) + 0.75 * mean_loss(params, attacked)

    same(ours(params), by_hand(params))
    jax.tree.map(same, jax.grad(ours)(params), jax.grad(by_hand)(params))
    assert ours(params) > mean_loss(params, INPUTS)


def test_stability_loss(x64):
    params = net()
    keys = jax.random.split(jax.random.key(0), 4)

    def log_p(x):
        return jax.nn.log_softmax(logits(params, x))

    ours = remedies.stability_loss(log_p, jnp.asarray(INPUTS), keys, 0.3, 0.05)
    noise = np.stack([jax.random.normal(k, (5,), float) for k in keys])
    p, q = (np.exp(np.asarray(log_p(jnp.asarray(x)))) for x in (INPUTS, INPUTS + 0.3 * noise))
    same(ours, 0.05 * np.mean(-np.sum(p * np.log(q), axis=1)))
    # The noise of an example is its own: the mean over single examples is the same.
    alone = [
        remedies.stability_loss(log_p, jnp.asarray(INPUTS[i : i + 1]), keys[i : i + 1], 0.3, 0.05)
        for i in range(4)
    ]
    same(np.mean(alone), ours)


# --- discarding small losses ----------------------------------------------------------------------


@pytest.mark.parametrize("m", [1, 7, 10, 100, 8192])
def test_the_number_dropped_is_exact_even_with_ties(m):
    losses = jnp.asarray(np.random.default_rng(0).integers(0, 3, m), jnp.float32)
    order = np.argsort(np.asarray(losses), kind="stable")
    weigh = jax.jit(discard_weights)
    for percent in (0, 10, 29, 30, 57, 58, 70, 90, 99):
        weights = np.asarray(weigh(losses, percent / 100))
        dropped = percent * m // 100
        assert discard_count(m, percent / 100) == dropped
        assert np.sum(weights == 0) == dropped
        np.testing.assert_allclose(weights[weights > 0], 1 / (m - dropped), rtol=1e-6)
        np.testing.assert_array_equal(np.flatnonzero(weights == 0), np.sort(order[:dropped]))


def test_progress_control_and_normalisation():
    losses = jnp.asarray(np.random.default_rng(1).permutation(20), jnp.float32)
    drop = functools.partial(
        jax.jit(discard_weights, static_argnames=("choice", "average")), losses, 0.3
    )
    early, late = drop(progress=0.49, until=0.5), drop(progress=0.5, until=0.5)
    assert np.sum(early == 0) == 6
    np.testing.assert_allclose(late, 1 / 20)
    by_batch = drop(average="batch")
    np.testing.assert_allclose(by_batch, early * 14 / 20, rtol=1e-6)
    key = jax.random.key(0)
    control = drop(choice="random", key=key)
    assert np.sum(control == 0) == 6 and not np.array_equal(control, early)
    np.testing.assert_array_equal(control, discard_weights(-losses, 0.3, choice="random", key=key))
    every = jax.vmap(lambda key: drop(choice="random", key=key))(jax.random.split(key, 400))
    hits = np.sum(every == 0, axis=0)
    assert np.all(np.abs(hits - 120) < 5 * math.sqrt(400 * 0.3 * 0.7))


def test_discarding_in_lanes_and_with_what_is_not_a_number(x64):
    losses = jnp.asarray([[3.0, 1.0, 2.0, 4.0], [1.0, jnp.nan, 0.5, 2.0]])
    fractions = jnp.asarray([0.25, 0.5])
    weights = jax.jit(jax.vmap(discard_weights))(losses, fractions)
    same(weights, [[1 / 3, 0, 1 / 3, 1 / 3], [0, 0.5, 0, 0.5]])
    assert not np.any(jax.grad(lambda x: jnp.sum(discard_weights(x, 0.5) * 2))(losses[0]))


@pytest.mark.parametrize(
    "arguments, named",
    [
        ({"fraction": 1.0}, "fraction"),
        ({"fraction": -0.1}, "fraction"),
        ({"fraction": 0.1, "choice": "large"}, "large"),
        ({"fraction": 0.1, "choice": "random"}, "key"),
        ({"fraction": 0.1, "average": "sum"}, "sum"),
    ],
)
def test_mistakes_in_discarding_are_refused(arguments, named):
    with pytest.raises(UserError, match=named):
        discard_weights(jnp.ones(4), **arguments)


@pytest.mark.parametrize("pieces, average", [(1, "kept"), (3, "kept"), (12, "kept"), (2, "batch")])
def test_accumulated_gradient_is_that_of_the_whole_batch(pieces, average, x64):
    rng = np.random.default_rng(4)
    batch = {
        "x": jnp.asarray(rng.normal(size=(12, 5))),
        "label": jnp.asarray(rng.integers(0, 3, 12)),
    }
    params = net()

    def losses_of(params, batch):
        return optax.softmax_cross_entropy_with_integer_labels(
            logits(params, batch["x"]), batch["label"]
        )

    weigh = functools.partial(discard_weights, fraction=0.4, average=average)
    losses, ours = jax.jit(
        lambda params: accumulated_gradient(losses_of, params, batch, pieces, weigh)
    )(params)
    every = np.asarray(losses_of(params, batch))
    same(losses, every)
    kept = np.sort(np.argsort(every)[4:])  # floor(0.4 * 12) = 4 are dropped

    def whole(params):
        return jnp.sum(losses_of(params, batch)[kept]) / (8 if average == "kept" else 12)

    jax.tree.map(same, ours, jax.grad(whole)(params))
    # Judging every micro-batch by itself drops other examples.
    if pieces == 3:
        alone = [np.asarray(weigh(every[i : i + 4])) for i in (0, 4, 8)]
        assert not np.array_equal(np.concatenate(alone) > 0, np.isin(np.arange(12), kept))


def test_a_batch_that_cannot_be_cut_is_refused():
    with pytest.raises(UserError, match="5"):
        accumulated_gradient(lambda p, x: p * x, 1.0, jnp.ones(12), 5, jnp.ones_like)


# --- affine augmentation --------------------------------------------------------------------------


def images(n=3, height=9, width=7, channels=2, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(5).normal(size=(n, height, width, channels)), dtype)


def still(n):
    return AffineDraws(jnp.zeros(n), jnp.zeros((n, 2)), jnp.zeros(n, bool))


def test_no_motion_and_flip_are_exact():
    x = images()
    np.testing.assert_array_equal(affine(x, still(3)), x)
    flips = jnp.asarray([True, False, True])
    ours = affine(x, still(3)._replace(flips=flips))
    np.testing.assert_array_equal(ours, jnp.where(flips[:, None, None, None], x[:, :, ::-1], x))


def test_shifts_repeat_the_edge():
    x = np.asarray(images(1)[0])
    ours = affine(x[None], still(1)._replace(shifts=jnp.asarray([[2.0, -3.0]])))[0]
    padded = np.pad(x, ((2, 0), (0, 3), (0, 0)), mode="edge")
    np.testing.assert_allclose(ours, padded[:9, 3:], atol=1e-6)
    half = affine(x[None], still(1)._replace(shifts=jnp.asarray([[0.5, 0.0]])))[0]
    np.testing.assert_allclose(half[1:], (x[1:] + x[:-1]) / 2, atol=1e-6)


def test_a_quarter_turn_is_counter_clockwise():
    x = images(1, 8, 8)
    ours = affine(x, still(1)._replace(angles=jnp.asarray([np.pi / 2])))
    np.testing.assert_allclose(ours[0], np.rot90(x[0]), atol=1e-5)


def test_against_scipy():
    """scipy.ndimage.affine_transform with the matrix of the whole motion."""
    x = np.asarray(images(6, 12, 10, 3))
    keys = jax.random.split(jax.random.key(1), 6)
    draws = affine_draws(keys, 12, 10, max_rotation=40.0, max_shift=0.3)
    ours = jax.jit(affine)(jnp.asarray(x), draws)
    centre = np.array([5.5, 4.5])
    assert len(set(np.asarray(draws.flips).tolist())) == 2
    for i in range(6):
        angle, shift = float(draws.angles[i]), np.asarray(draws.shifts[i], float)
        source = x[i, :, ::-1] if draws.flips[i] else x[i]
        c, s = math.cos(angle), math.sin(angle)
        turn = np.array([[c, s], [-s, c]])
        for channel in range(3):
            theirs = scipy.ndimage.affine_transform(
                source[..., channel].astype(float),
                turn,
                offset=centre - turn @ (centre + shift),
                order=1,
                mode="nearest",
            )
            np.testing.assert_allclose(ours[i, ..., channel], theirs, atol=1e-4)


def test_draws_have_the_stated_ranges():
    draws = affine_draws(jax.random.split(jax.random.key(0), 4000), 32, 20)
    limits = np.array([0.2 * 32, 0.2 * 20])
    for values, limit in [(draws.angles, np.deg2rad(10)), *zip(draws.shifts.T, limits)]:
        assert np.abs(values).max() <= limit and np.abs(values).max() > 0.99 * limit
        assert abs(np.mean(values)) < 4 * limit / math.sqrt(3 * 4000)
    assert abs(np.mean(draws.flips) - 0.5) < 0.04
    corr = np.corrcoef([draws.angles, *draws.shifts.T, draws.flips])
    assert np.abs(corr - np.eye(4)).max() < 0.08


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_an_image_does_not_depend_on_its_batch(dtype):
    x, keys = images(4, dtype=dtype), jax.random.split(jax.random.key(2), 4)
    augment = jax.jit(random_affine)
    together = augment(x, keys)
    assert together.dtype == dtype and together.shape == x.shape
    alone = jnp.concatenate([augment(x[i : i + 1], keys[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(together.astype(jnp.float32), alone.astype(jnp.float32), atol=1e-6)
    assert not np.allclose(together.astype(jnp.float32), x.astype(jnp.float32), atol=0.1)
