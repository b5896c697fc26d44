"""Schedules against closed forms in Python floats, exact thresholds, and traced parameters."""

import functools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from sbt.errors import UserError
from sbt.schedules import BATCH_SCHEDULES, NOISE, SCHEDULES, Settings, micro_batches, noise
from sbt.schedules import lr as S
from sbt.schedules.lr import onecycle_momentum

POINTS = [0.0, 0.01, 0.05, 0.3, 0.45, 0.5, 0.62, 0.75, 0.9, 0.99, 1.0]

CLOSED_FORMS = {
    "constant": (S.constant, {}, lambda p: 1.0),
    "steps": (S.steps, {}, lambda p: 0.1 ** ((p >= 0.5) + (p >= 0.75))),
    "uneven steps": (
        S.steps,
        {"drops": (0.3, 0.9), "factor": (0.5, 0.01)},
        lambda p: (0.5 if p >= 0.3 else 1) * (0.01 if p >= 0.9 else 1),
    ),
    "poly": (S.poly, {"power": 1.1, "end": 0.2}, lambda p: 0.2 + 0.8 * (1 - p) ** 1.1),
    "cosine": (S.cosine, {"end": 0.1}, lambda p: 0.1 + 0.9 * (1 + math.cos(math.pi * p)) / 2),
    "exponential": (S.exponential, {"final": 0.003}, lambda p: 0.003**p),
    "warm-up": (S.gradual_warmup, {}, lambda p: min(1.0, 1 / 32 + 31 / 32 * p / 0.05)),
    "no warm-up": (S.gradual_warmup, {"warmup": 0.0}, lambda p: 1.0),
    "legw": (
        S.legw,
        {"ratio": 4.0, "warmup": 0.1, "start": 0.1},
        lambda p: 2.0 * min(1.0, 0.1 + 0.9 * p / 0.4),
    ),
    "1cycle momentum": (
        onecycle_momentum,
        {"rise": 0.3, "fall": 0.75},
        lambda p: np.interp(p, [0, 0.3, 0.75, 1], [0.95, 0.85, 0.95, 0.95]),
    ),
    "1cycle": (
        S.onecycle,
        {"rise": 0.3, "fall": 0.75, "div": 25.0, "final_div": 400.0},
        lambda p: np.interp(p, [0, 0.3, 0.75, 1], [1 / 25, 1, 1 / 25, 1 / 10_000]),
    ),
    "triangular": (
        S.triangular,
        {"cycles": 2.0, "low": 0.25},
        lambda p: np.interp(p, [0, 0.25, 0.5, 0.75, 1], [0.25, 1, 0.25, 1, 0.25]),
    ),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_closed_form_in_every_way_of_calling(name, x64):
    """Scalars one by one, an array of progress, and traced parameters of float32 under vmap."""
    function, parameters, expected = CLOSED_FORMS[name]
    want = [expected(p) for p in POINTS]
    np.testing.assert_allclose([function(p, **parameters) for p in POINTS], want, atol=1e-12)
    np.testing.assert_allclose(function(jnp.array(POINTS), **parameters), want, atol=1e-12)
    traced = {k: jnp.float32(v) for k, v in parameters.items()}
    lanes = jax.jit(jax.vmap(lambda p, t: function(p, **t), in_axes=(0, None)))(
        jnp.float32(POINTS), traced
    )
    np.testing.assert_allclose(lanes, want, atol=3e-6)
    assert lanes.dtype == jnp.float32


@pytest.mark.parametrize("power, end", [(2.0, 0.0), (1.1, 0.1), (1.0, 0.0)])
def test_agrees_with_optax(power, end):
    """optax as the independent library, through the adapter."""
    total, peak = 200, 3.0
    pairs = [
        (
            S.poly,
            {"power": power, "end": end},
            optax.polynomial_schedule(peak, peak * end, power, total),
        ),
        (S.cosine, {"end": end}, optax.cosine_decay_schedule(peak, total, alpha=end)),
        (S.exponential, {"final": 0.01}, optax.exponential_decay(peak, total, 0.01)),
        (
            S.onecycle,
            {"rise": 0.3, "fall": 0.85, "div": 25.0, "final_div": 1e4},
            optax.linear_onecycle_schedule(total, peak, 0.3, 0.85, 25.0, 1e4),
        ),
        (S.gradual_warmup, {"warmup": 0.25, "start": 0.1}, optax.linear_schedule(0.3, 3.0, 50)),
    ]
    for function, parameters, theirs in pairs:
        ours = S.as_optax(functools.partial(function, **parameters), total)
        for count in (0, 1, 49, 50, 60, 123, 169, 170, 199, 200):
            with jax.numpy_dtype_promotion("standard"):  # optax mixes integers with floats
                want = theirs(jnp.int32(count))
            np.testing.assert_allclose(peak * ours(jnp.int32(count)), want, rtol=1e-5, atol=1e-6)


def test_adapter_as_the_learning_rate_of_an_optimizer():
    schedule = S.as_optax(SCHEDULES.configured({"name": "steps", "warmup": 0.25}), 8)
    rule = optax.sgd(lambda count: 2.0 * schedule(count))
    state, steps = rule.init(jnp.zeros(())), []
    for _ in range(8):
        update, state = rule.update(jnp.ones(()), state)
        steps.append(-float(update))
    first = 2 / 32
    np.testing.assert_allclose(
        steps, [first, (first + 2) / 2, 2, 2, 0.2, 0.2, 0.02, 0.02], rtol=1e-6
    )


@pytest.mark.parametrize("m", [2, 3, 7, 96])
@pytest.mark.parametrize("examples, epochs", [(50_000, 82), (50_000, 3), (1797, 7), (360, 1)])
def test_drops_are_exact_at_float32_progress(examples, epochs, m):
    """The first update at or after a drop is that of rational arithmetic."""
    total = examples * epochs

    def dropped(count, total, drop):
        progress = (count * m).astype(jnp.float32) / total
        return S.steps(progress, (drop,), 0.5) < 1

    # A constant divisor may be compiled to a multiplication by its rounded reciprocal.
    constant = jax.jit(lambda count, drop: dropped(count, jnp.float32(total), drop))
    traced = jax.jit(dropped)
    for exact in map(Fraction, ["1/2", "3/4", "3/5", "3/10", "4/5", "1/3", "1/10", "7/9"]):
        first, drop = math.ceil(exact * total / m), float(exact)
        counts = jnp.arange(first - 3, first + 3, dtype=jnp.int32)
        want = np.asarray(counts) >= first
        np.testing.assert_array_equal(constant(counts, drop), want)
        np.testing.assert_array_equal(traced(counts, jnp.float32(total), drop), want)


def test_config_with_warm_up():
    config = ml_collections.ConfigDict(
        {
            "name": "steps",
            "drops": (0.5, 0.75),
            "factor": 0.1,
            "warmup": 0.05,
            "warmup_start": 1 / 32,
        }
    )
    schedule = SCHEDULES.configured(config)
    progress = [0.0, 0.025, 0.05, 0.49, 0.5, 0.75]
    np.testing.assert_allclose(
        [schedule(p) for p in progress], [1 / 32, 33 / 64, 1, 1, 0.1, 0.01], rtol=1e-6
    )
    assert SCHEDULES.configured({})(0.7) == 1


def test_decay_may_start_after_the_warm_up():
    poly = {"name": "poly", "power": 1, "warmup": 0.2}
    schedule = SCHEDULES.configured(poly | {"after_warmup": True})
    np.testing.assert_allclose(schedule(jnp.array([0.2, 0.6, 1.0])), [1.0, 0.5, 0.0], atol=1e-6)
    together = SCHEDULES.configured(poly)
    np.testing.assert_allclose(together(jnp.array([0.2, 0.6, 1.0])), [0.8, 0.4, 0.0], atol=1e-6)


def test_lanes_of_different_batch_sizes_share_a_legw_program():
    """Warm-up stated at 128 examples; the root of k is the learning rate's own scaling."""
    schedule = SCHEDULES.configured({"warmup": 0.01, "warmup_start": 0.0, "warmup_batch": 128})
    sizes, progress = jnp.array([128, 256, 1024]), jnp.array([0.005, 0.01, 0.04, 0.2])
    ours = jax.jit(jax.vmap(lambda m: schedule(progress, batch_size=m)))(sizes)
    for row, ratio in zip(ours, [1, 2, 8]):
        by_rule = S.legw(progress, float(ratio), 0.01) / math.sqrt(ratio)
        np.testing.assert_allclose(row, by_rule, rtol=1e-6)
        np.testing.assert_allclose(
            row, np.minimum(1, np.asarray(progress) / (0.01 * ratio)), rtol=1e-6
        )
    with pytest.raises(UserError, match="batch size"):
        schedule(0.1)


def test_overrides_are_traced_and_checked():
    schedule = SCHEDULES.configured({"name": "poly", "power": 2, "warmup": 0.1})
    assert all(
        isinstance(v, float)
        for k, v in schedule.values.items()
        if not k.startswith(("after", "warmup_b"))
    )
    powers, warmups = jnp.array([1.0, 2.0, 1.0]), jnp.array([0.0, 0.0, 0.5])
    lanes = jax.vmap(lambda q, w: schedule(0.25, power=q, warmup=w))(powers, warmups)
    ramp = 1 / 32 + 31 / 32 / 2
    np.testing.assert_allclose(lanes, [0.75, 0.75**2, 0.75 * ramp], rtol=1e-6)
    with pytest.raises(UserError, match="momentum"):
        schedule(0.1, momentum=0.9)


@pytest.mark.parametrize(
    "config, named",
    [
        ({"name": "stepz"}, "stepz"),
        ({"name": "poly", "drops": (0.5,)}, "drops"),
        ({"name": "steps", "drops": (0.5, 1.5)}, "1.5"),
        ({"name": "steps", "factor": 0.0}, "factor"),
        ({"name": "steps", "factor": (0.1, -1.0)}, "-1.0"),
        ({"name": "exponential", "final": 0}, "final"),
        ({"name": "onecycle", "rise": 0.5, "fall": 0.4}, "rise"),
        ({"warmup": 1.5}, "warmup"),
        ({"warmup": -0.1}, "warmup"),
        ({"warmup": float("nan")}, "warmup"),
        ({"warmup_start": 2.0}, "warmup_start"),
    ],
)
def test_mistakes_in_a_config_are_refused(config, named):
    with pytest.raises(UserError, match=named):
        SCHEDULES.configured(config)


# --- batch size -----------------------------------------------------------------------------------


def test_small_first_epoch_is_the_papers():
    """8192 examples at 0.05, but 512 at 0.005 in the first of 100 epochs; micro-batches of 128."""
    schedule = BATCH_SCHEDULES.configured({"name": "small_first"})
    progress = jnp.array([0.0, 0.009, 0.01, 0.5])
    batch = 128 * micro_batches(64, schedule(progress).batch)
    np.testing.assert_array_equal(batch, [512, 512, 8192, 8192])
    rates = 0.05 * schedule(progress).learning_rate
    np.testing.assert_allclose(rates, [0.005, 0.005, 0.05, 0.05], rtol=1e-6)


def test_adabatch_keeps_the_rate_per_example_of_the_fixed_batch():
    schedule = BATCH_SCHEDULES.configured({"name": "adabatch"})
    for epoch in range(100):
        progress = jnp.float32(epoch) / 100
        stairs = epoch // 20
        assert micro_batches(3, schedule(progress).batch) == 3 * 2**stairs
        rate = schedule(progress).learning_rate
        np.testing.assert_allclose(rate, 0.75**stairs, rtol=1e-6)
        np.testing.assert_allclose(rate / 2**stairs, 0.375**stairs, rtol=1e-6)


@pytest.mark.parametrize("largest", [0, 5, 10, 25, 1000])
def test_smith_noise_scale_does_not_depend_on_who_changes(largest):
    """Learning rate over batch size falls by 5 at epochs 60, 120, 160 of 200 whatever the limit."""
    schedule = BATCH_SCHEDULES.configured({"name": "smith", "largest": largest})
    for epoch in (0, 59, 60, 119, 120, 159, 160, 199):
        progress = jnp.float32(epoch) / 200
        drops = (epoch >= 60) + (epoch >= 120) + (epoch >= 160)
        count = micro_batches(4, schedule(progress).batch)
        growth = min(5**drops, largest or 5**drops)
        assert count == 4 * growth and count.dtype == jnp.int32
        rate = schedule(progress).learning_rate
        np.testing.assert_allclose(rate / growth, 5.0**-drops, rtol=1e-6)


def test_batch_schedules_take_lanes_and_traced_parameters():
    schedule = BATCH_SCHEDULES.configured({"name": "small_first", "until": 0.5})
    counts, ratios = jnp.array([1, 8, 64]), jnp.array([0.5, 0.25, 1 / 16])
    small = jax.vmap(lambda k, r: micro_batches(k, schedule(0.1, ratio=r).batch))(counts, ratios)
    np.testing.assert_array_equal(small, [1, 2, 4])
    assert micro_batches(7, BATCH_SCHEDULES.configured({})(0.3).batch) == 7
    assert set(BATCH_SCHEDULES) == {"constant", "small_first", "adabatch", "smith", "absa"}


@pytest.mark.parametrize(
    "config, named",
    [
        ({"name": "smth"}, "smth"),
        ({"name": "smith", "ratio": 2.0}, "ratio"),
        ({"name": "smith", "factor": 0.0}, "factor"),
        ({"name": "adabatch", "every": -1}, "every"),
    ],
)
def test_mistakes_in_a_batch_schedule_are_refused(config, named):
    with pytest.raises(UserError, match=named):
        BATCH_SCHEDULES.configured(config)


# --- noise ----------------------------------------------------------------------------------------

RESNET = {"variance": 25.318, "gradient_bound": 1.77}


def test_degree_of_smoothing_closed_forms(x64):
    eta, b, beta, c2, k = 0.1, 256.0, 0.9, 25.318, 1.77
    sgd = eta * math.sqrt(c2 / b)
    hat = beta * (beta**2 - beta + 1) / (1 - beta) ** 2
    shb = eta * math.sqrt(c2 / b + hat * (c2 / b + k**2))
    nshb = eta * math.sqrt(c2 / b + 4 * beta**2 * (c2 / b + k**2))
    for form, value in {"sgd": sgd, "shb": shb, "nshb": nshb}.items():
        delta = noise.degree_of_smoothing(eta, b, beta, form=form, **RESNET)
        np.testing.assert_allclose(delta, value, rtol=1e-12)
        back = noise.learning_rate_for_smoothing(delta, b, beta, form=form, **RESNET)
        np.testing.assert_allclose(back, eta, rtol=1e-12)
        # Without momentum all three forms are SGD.
        np.testing.assert_allclose(
            noise.degree_of_smoothing(eta, b, 0.0, form=form, **RESNET), sgd, rtol=1e-12
        )


@pytest.mark.parametrize("q", [0.0, 1e-3, 0.3, 1.5, 10.0, 81.9, 1e4])
def test_momentum_is_the_root_of_the_cubic_below_one(q, x64):
    ours = float(noise.momentum_for_noise_factor(q))
    roots = np.roots([1, -(1 + q), 1 + 2 * q, -q])
    real = [r.real for r in roots if abs(r.imag) < 1e-9 and -1e-12 <= r.real < 1]
    assert len(real) == 1
    np.testing.assert_allclose(ours, real[0], rtol=1e-9, atol=1e-12)
    assert noise.momentum_for_noise_factor(-q) == 0


@pytest.mark.parametrize("form", ["shb", "nshb"])
@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.99])
def test_unchanged_smoothing_gives_back_the_momentum(form, beta, x64):
    delta = noise.degree_of_smoothing(0.1, 256.0, beta, form=form, **RESNET)
    ours = noise.momentum_for_smoothing(delta, 0.1, 256.0, form=form, **RESNET)
    np.testing.assert_allclose(ours, beta, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("form", ["shb", "nshb"])
@pytest.mark.parametrize("name", ["lr", "lr-batch", "beta", "lr-beta"])
def test_graduated_methods_follow_the_epoch_by_epoch_recursion(name, form, x64):
    """delta_{m+1} = ((M - m) / (M - m + 1))^p delta_m, checked from the settings themselves."""
    epochs, power = 25, 0.9
    start = Settings(0.1, 256.0, 0.9)
    delta = float(noise.degree_of_smoothing(*start, form=form, **RESNET))
    reachable = 0.0
    if name == "beta":  # no momentum smooths less than SGD at the same learning rate
        reachable = float(noise.degree_of_smoothing(0.1, 256.0, 0.0, form=form, **RESNET))
    for m in range(epochs):
        now = NOISE[name](
            (m + 0.5) / epochs,
            start,
            form=form,
            power=power,
            epochs=epochs,
            balance=0.8354,
            largest_batch=1e9,
            **RESNET,
        )
        got = noise.degree_of_smoothing(*now, form=form, **RESNET)
        np.testing.assert_allclose(got, max(delta, reachable), rtol=1e-7)
        delta *= ((epochs - (m + 1)) / (epochs - m)) ** power
    assert (now.batch_size > 256) == (name == "lr-batch")
    assert (now.learning_rate < 0.1) == (name != "beta")


def test_other_noise_schedules():
    start = Settings(0.1, 256.0, 0.9)

    def settings(name, progress, **fields):
        return NOISE.named(name)(progress, start, **({"epochs": 200, **RESNET, **fields}))

    for epoch in (0, 1, 100, 199):
        progress = jnp.float32(epoch) / 200
        assert NOISE["none"](progress, start).learning_rate == 0.1
        cosine = 0.05 * (1 + math.cos(math.pi * epoch / 200))
        np.testing.assert_allclose(
            settings("cosine", progress).learning_rate, cosine, rtol=2e-5, atol=1e-8
        )
        np.testing.assert_allclose(
            settings("exp", progress, power=0.98).learning_rate, 0.1 * 0.98**epoch, rtol=1e-5
        )
    late = settings("lr-batch", 0.999, largest_batch=5000.0)
    assert late.batch_size == 5000
    with pytest.raises(UserError, match="sgdm"):
        noise.degree_of_smoothing(0.1, 1, variance=1.0, form="sgdm")
    with pytest.raises(UserError, match="nothing"):
        settings("nothing", 0.1)


def test_variance_from_the_measured_critical_batch():
    """The authors' constants: b* eps^2 of 256 gives their 25.318 for SHB."""
    ours = noise.variance_from_critical_batch(1024, 0.5, 0.1, 0.9, "shb")
    np.testing.assert_allclose(ours, 25.318, rtol=5e-5)
    np.testing.assert_allclose(noise.variance_from_critical_batch(1024, 0.5, 0.1), 2560, rtol=1e-6)


def test_noise_settings_in_lanes():
    def delta(momentum):
        start = Settings(jnp.float32(0.1), jnp.float32(256), momentum)
        now = NOISE["beta"](0.5, start, epochs=0, **RESNET)
        return noise.degree_of_smoothing(*now, **RESNET)

    betas = jnp.array([0.5, 0.9])
    got = jax.jit(jax.vmap(delta))(betas)
    whole = [noise.degree_of_smoothing(0.1, 256.0, b, **RESNET) * 0.5**0.9 for b in (0.5, 0.9)]
    np.testing.assert_allclose(got, whole, rtol=1e-5)
