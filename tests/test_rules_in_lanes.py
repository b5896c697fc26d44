"""Every mechanism that a sweep can hold equals a plain loop of one run, in float64."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
from jax.flatten_util import ravel_pytree
from lanes import compiling
from plain_loop import (
    BUDGET,
    CLASSES,
    NET,
    STRATEGIES,
    both,
    check,
    dataset,
    dense_hessian,
    descend,
    each,
    example_gradients,
    grad,
    heavy_ball,
    logits,
    losses,
    norm,
    runs_of,
    sgd,
    weighted_gradient,
    zeros,
)

import sbt
from sbt.checks import validate
from sbt.config import complete
from sbt.data import augment_keys, pad_crop_flip, purpose_key
from sbt.errors import UserError
from sbt.optim import RULES
from sbt.schedules import BATCH_SCHEDULES, SCHEDULES
from sbt.schedules.noise import degree_of_smoothing
from sbt.sweep.lanes import make_lanes
from sbt.sweep.prepare import prepare
from sbt.sweep.problem import Parts
from sbt.train.objective import OBJECTIVES

# --- update rules --------------------------------------------------------------------------------


def sngm(step, w, memory, run):
    g = each(lambda g, w: g + run["rule__weight_decay"] * w, grad(w, *step.xy()), w)
    length = norm([norm(x) for x in jax.tree.leaves(g)])
    return heavy_ball(w, each(lambda g: g / length, g), memory, run, step.rate)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_sngm(x64, strategy):
    runs = runs_of(
        (0.01, {"rule__momentum": 0.5, "rule__weight_decay": 0.01}),
        (0.004, {"rule__momentum": 0.9, "rule__weight_decay": 0.1}),
    )
    check(runs, sngm, strategy, config={"rule": {"name": "sngm"}})


def layerwise(step, w, memory, run, below):
    """LARS and CLARS: kernels at a rate of their own, the learning rate inside the buffer."""
    g, decay, trust = grad(w, *step.xy()), run["rule__weight_decay"], run["rule__trust_coefficient"]

    def direction(w, g, n):
        if w.ndim < 2:
            return trust * run["rule__fallback_ratio"] * g
        return trust * norm(w) / (n + decay * norm(w)) * (g + decay * w)

    d = each(lambda w, g, n: step.rate * direction(w, g, n), w, g, below(step, w, g))
    return heavy_ball(w, d, memory, run, 1.0)


def lars(step, w, memory, run):
    return layerwise(step, w, memory, run, lambda step, w, g: each(norm, g))


def clars(step, w, memory, run):
    def example_norms(step, w, g):
        del g
        every = jax.device_get(example_gradients(w, *step.xy()))
        return each(lambda leaf: np.mean([norm(one) for one in leaf]), every)

    return layerwise(step, w, memory, run, example_norms)


@both
@pytest.mark.parametrize("name", ["lars", "clars"])
def test_layerwise_rates(x64, name, strategy):
    fields = ("momentum", "weight_decay", "trust_coefficient", "fallback_ratio")
    values = ((0.5, 0.01, 0.1, 1.0), (0.9, 0.1, 0.05, 2.0))
    hyper = [{f"rule__{f}": v for f, v in zip(fields, row, strict=True)} for row in values]
    runs = runs_of((0.05, hyper[0]), (0.02, hyper[1]))
    check(runs, {"lars": lars, "clars": clars}[name], strategy, config={"rule": {"name": name}})


def extrap(step, w, memory, run):
    previous = memory.get("g", zeros(w))
    point = descend(w, previous, run["rule__extrapolation"] * step.rate)
    g = grad(point, *step.xy())
    g = each(lambda g, p: g + run["rule__weight_decay"] * p, g, point)
    beta, memory["g"] = run["rule__momentum"], g
    memory["u"] = each(lambda u, g: beta * u + g, memory.get("u", zeros(w)), g)
    return descend(w, each(lambda g, u: g + beta * u, g, memory["u"]), step.rate)


@both
def test_extrap_sgd_takes_its_gradient_elsewhere(x64, strategy):
    fields = ("rule__momentum", "rule__weight_decay", "rule__extrapolation")
    runs = runs_of(
        (0.05, dict(zip(fields, (0.5, 0.01, 1.0), strict=True))),
        (0.01, dict(zip(fields, (0.9, 0.0, 0.25), strict=True))),
    )
    check(runs, extrap, strategy, config={"rule": {"name": "extrap_sgd"}})


def smoothout(step, w, memory, run):
    update_key = jax.random.fold_in(
        jax.random.fold_in(step.seed, zlib.crc32(b"rule")), np.int32(step.t)
    )
    _, key = jax.random.split(update_key)
    leaves, structure = jax.tree.flatten(w)
    noisy = []
    for i, leaf in enumerate(leaves):
        noise = jax.random.uniform(jax.random.fold_in(key, i), leaf.shape, float, -1, 1)
        noisy.append(leaf + (leaf.ndim > 1) * run["rule__amplitude"] * np.asarray(noise))
    g = grad(jax.tree.unflatten(structure, noisy), *step.xy())
    g = each(lambda g, w: g + run["rule__weight_decay"] * w, g, w)
    return heavy_ball(w, g, memory, run, step.rate)


@both
def test_smoothout_draws_one_noise_per_update(x64, strategy):
    fields = ("rule__momentum", "rule__weight_decay", "rule__amplitude")
    runs = runs_of(
        (0.05, dict(zip(fields, (0.5, 0.01, 0.1), strict=True))),
        (0.01, dict(zip(fields, (0.9, 0.0, 0.5), strict=True))),
    )
    check(runs, smoothout, strategy, config={"rule": {"name": "smoothout_sgd"}})


def cblr(step, w, memory, run):
    """The diagonal of the Hessian from one probe per tick, by the dense Hessian."""
    decay, average = run["rule__weight_decay"], run["rule__ema_decay"]
    _, unravel = ravel_pytree(w)
    estimates = []
    for tick in step.ticks:
        leaves, structure = jax.tree.flatten(w)
        keys = jax.random.split(jax.random.fold_in(tick.key, 1), len(leaves))
        signs = [jax.random.rademacher(k, x.shape, float) for k, x in zip(keys, leaves)]
        probe = np.asarray(ravel_pytree(jax.tree.unflatten(structure, signs))[0])
        estimates.append(probe * (np.asarray(dense_hessian(w, *tick.xy())) @ probe))
    h = jax.device_get(unravel(np.mean(estimates, 0)))
    memory["h"] = each(
        lambda old, h: average * old + (1 - average) * np.abs(h + decay),
        memory.get("h", zeros(w)),
        h,
    )
    corrected = each(lambda h: h / (1 - average ** (step.t + 1)), memory["h"])
    g = each(lambda g, w: g + decay * w, grad(w, *step.xy()), w)
    d = each(
        lambda g, h: (
            step.rate * (1 + g**2) ** 1.5 / np.maximum(h, run["rule__curvature_floor"]) * g
        ),
        g,
        corrected,
    )
    return heavy_ball(w, d, memory, run, 1.0)


@both
def test_cblr_sees_the_hessian_diagonal(x64, strategy):
    fields = ("momentum", "weight_decay", "ema_decay", "curvature_floor")
    values = ((0.5, 0.01, 0.9, 0.05), (0.0, 0.0, 0.0, 0.2))
    hyper = [{f"rule__{f}": v for f, v in zip(fields, row, strict=True)} for row in values]
    runs = runs_of((0.005, hyper[0]), (0.002, hyper[1]))
    check(runs, cblr, strategy, config={"rule": {"name": "cblr"}})


def svag(step, w, memory, run):
    ell = run["rule__amplification"]
    plus, minus = (1 + np.sqrt(2 * ell - 1)) / 2, (1 - np.sqrt(2 * ell - 1)) / 2
    first = grad(w, *step.xy(step.ticks[::2]))
    second = grad(w, *step.xy(step.ticks[1::2]))
    g = each(lambda a, b: plus * a + minus * b, first, second)
    return heavy_ball(w, g, memory, run, step.rate / ell)


@both
def test_svag_draws_two_batches(x64, strategy):
    runs = runs_of(
        (0.05, {"rule__momentum": 0.5, "rule__amplification": 2.0}),
        (0.02, {"rule__momentum": 0.9, "rule__amplification": 5.0}),
    )
    check(runs, svag, strategy, config={"rule": {"name": "svag"}}, draws=2)


def conservative(step, w, memory, run):
    x, y = step.xy()
    adam = memory.setdefault("adam", {"m": zeros(w), "v": zeros(w), "count": 0})
    here = w
    for _ in range(3):
        g = each(lambda g, a, b: g + run["rule__proximal"] * (a - b), grad(here, x, y), here, w)
        adam["count"] += 1
        adam["m"] = each(lambda m, g: 0.9 * m + 0.1 * g, adam["m"], g)
        adam["v"] = each(lambda v, g: 0.999 * v + 0.001 * g**2, adam["v"], g)
        c, d = 1 - 0.9 ** adam["count"], 1 - 0.999 ** adam["count"]
        move = each(lambda m, v: (m / c) / (np.sqrt(v / d) + 1e-8), adam["m"], adam["v"])  # noqa: B023
        here = descend(here, move, step.rate)
    return here


@both
def test_conservative_takes_gradients_on_one_batch_again(x64, strategy):
    runs = runs_of((0.002, {"rule__proximal": 0.5}), (0.001, {"rule__proximal": 5.0}), sizes=(6, 6))
    check(runs, conservative, strategy, config={"rule": {"name": "conservative"}}, g=6)


KAPPA, RELATIVE = 4.0, 0.25


def multistage(total):
    """(step, momentum) of every update, stage after stage."""
    stages = int(
        scipy.special.lambertw(total * np.log(2) / (2 * np.sqrt(KAPPA))).real // np.log(2**0.5)
    )
    first = int(np.ceil(0.4 * total))
    shares = [2 ** (i / 2) for i in range(1, stages + 1)]
    lengths = [int(np.ceil((total - first) * share / sum(shares))) for share in shares]
    assert stages > 1
    rows = [
        (2.0**-i, (1 - np.sqrt(2.0**-i / KAPPA) / 2) ** 2)
        for i, length in enumerate([first, *lengths])
        for _ in range(length)
    ]
    return rows[:total]


def exponential(total):
    nu = (1 / total) ** (1 / total)

    def lamb(k):
        x = nu**k * RELATIVE / KAPPA
        return (1 - 2 * nu * RELATIVE) / x * (1 - (1 - x) ** k)

    return [
        (nu**k / (1 + lamb(k + 1)), lamb(k) * (1 - nu**k * RELATIVE / KAPPA) / (1 + lamb(k + 1)))
        for k in range(total)
    ]


def mix(total):
    first = int(np.ceil(0.5 * total))
    return [(1.0, (1 - np.sqrt(RELATIVE / KAPPA)) ** 2)] * first + exponential(total - first)


@both
@pytest.mark.parametrize("name", ["multistage_shb", "exponential_shb", "mix_shb"])
def test_stages_divide_the_runs_own_number_of_updates(x64, name, strategy):
    """Not the 1000 of the registry: 37 updates of batches of 4, 12 of batches of 12."""
    coefficients = {"multistage_shb": multistage, "exponential_shb": exponential, "mix_shb": mix}

    def shb(step, w, memory, run):
        alpha, beta = coefficients[name](BUDGET // run["batch_size"])[step.t]
        g = grad(w, *step.xy())
        old = memory.get("d", zeros(w))
        memory["d"] = each(lambda d, g: beta * d - alpha * step.rate * g, old, g)
        return each(np.add, w, memory["d"])

    rule = {"name": name, "condition_number": KAPPA}
    if name != "multistage_shb":
        rule["relative_step"] = RELATIVE
    check(runs_of((0.05, {}), (0.02, {})), shb, strategy, config={"rule": rule})


# --- sample rule, batch-size schedules, objectives, copies ----------------------------------------


def discarding(choice, average):
    def rule(step, w, memory, run):
        del memory
        x, y = step.xy()
        m = len(y)
        score = np.asarray(losses(w, x, y))
        if choice == "random":
            score = np.asarray(jax.random.uniform(jax.random.fold_in(step.ticks[0].key, 3), (m,)))
        drop = int(run["sample__fraction"] * m) if step.progress < run["sample__until"] else 0
        share = np.ones(m)
        share[np.argsort(score)[:drop]] = 0
        share /= share.sum() if average == "kept" else m
        return descend(w, jax.device_get(weighted_gradient(w, x, y, share)), step.rate)

    return rule


@both
@pytest.mark.parametrize(
    ("choice", "average", "g"),
    [("loss", "kept", 12), ("loss", "kept", 4), ("loss", "batch", 12), ("random", "kept", 12)],
)
def test_sample_rule_judges_the_whole_batch(x64, choice, average, g, strategy):
    """In one piece, or in micro-batches of 4: the same examples are left out."""
    runs = runs_of(
        (0.05, {"sample__fraction": 0.25, "sample__until": 1.0}),
        (0.02, {"sample__fraction": 0.5, "sample__until": 0.5}),
        sizes=(12, 12),
    )
    config = {"sample": {"name": choice, "average": average}, "batch_size": 12, "micro_batch": g}
    check(runs, discarding(choice, average), strategy, config=config, g=12)


@pytest.mark.parametrize(
    "other",
    [
        {"objective": {"name": "adversarial"}},
        {"objective": {"name": "stability"}, "micro_batch": 4},
        {"objective": {"name": "label_smoothing"}},
        {"copies": 2},
    ],
)
def test_sample_rule_with_another_loss_is_refused(other):
    config = {"batch_size": 12, "sample": {"name": "loss", "fraction": 0.5}}
    with pytest.raises(UserError, match=r"config\.sample\.name"):
        prepare(config | other, Parts(NET, dataset()))


def small_first(run, progress):
    small = progress < run["batch_schedule__until"]
    m = run["batch_size"]
    return (m // 3, run["batch_schedule__factor"]) if small else (m, 1.0)


def adabatch(run, progress):
    stairs = int(progress / run["batch_schedule__every"] + 1e-9)
    return run["batch_size"] * 2**stairs, run["batch_schedule__factor"] ** stairs


def smith(run, progress):
    wanted = 2.0 ** sum(progress >= drop for drop in (0.3, 0.6))
    return int(run["batch_size"] * min(wanted, 2)), min(wanted, 2) / wanted


@both
@pytest.mark.parametrize("name", ["small_first", "adabatch", "smith"])
def test_batch_sizes_that_change(x64, name, strategy):
    if name == "small_first":
        fields, sizes = ("until", "factor"), small_first
        values, parameters = ((0.3, 0.1), (0.5, 0.5)), {"ratio": 1 / 3}
    elif name == "adabatch":
        fields, sizes = ("every", "factor"), adabatch
        values, parameters = ((0.3, 0.75), (0.45, 0.5)), {}
    else:
        fields, sizes = ("largest",), smith
        values, parameters = ((2.0,), (2.0,)), {"drops": (0.3, 0.6), "factor": 2.0}
    hyper = [
        {f"batch_schedule__{f}": v for f, v in zip(fields, row, strict=True)} for row in values
    ]
    sizes_of_runs = (12, 24) if name == "small_first" else (4, 8)
    runs = runs_of((0.02, hyper[0]), (0.01, hyper[1]), sizes=sizes_of_runs)
    config = {"batch_schedule": {"name": name, **parameters}, "micro_batch": 4}
    check(runs, sgd, strategy, config=config, sizes=sizes)


def adamw(step, w, memory, run):
    """AdamW of half-lives in examples and of a timescale: at every update, by its own m."""
    x, y = step.xy()
    m, count = len(y), step.t + 1
    b1, b2 = 2 ** (-m / 30), 2 ** (-m / (run["scaling__b2_examples"] * m**0.5))
    peak = step.rate / (1 - step.progress) ** 2  # before the schedule of the rate
    decay = m / (0.3 * peak * BUDGET)
    g, zero = grad(w, x, y), zeros(w)
    first = each(lambda a, g: b1 * a + (1 - b1) * g, memory.get("first", zero), g)
    second = each(lambda a, g: b2 * a + (1 - b2) * g**2, memory.get("second", zero), g)
    memory |= {"first": first, "second": second}
    c, d = 1 - b1**count, 1 - b2**count
    move = each(lambda a, b, w: (a / c) / (np.sqrt(b / d) + 1e-8) + decay * w, first, second, w)
    return descend(w, move, step.rate)


@both
@pytest.mark.parametrize("name", ["adabatch", "small_first"])
def test_decays_follow_a_batch_size_that_changes(x64, name, strategy):
    every, sizes = ("every", adabatch) if name == "adabatch" else ("until", small_first)
    hyper = [
        {f"batch_schedule__{every}": part, "batch_schedule__factor": factor,
         "scaling__b2_examples": life}
        for part, factor, life in ((0.3, 0.75, 20.0), (0.45, 0.5, 300.0))
    ]  # fmt: skip
    scaling = {"name": "half_life", "b1_examples": 30.0, "b2_growth": 0.5, "timescale": 0.3}
    schedule = {"name": name} | ({"ratio": 1 / 3} if name == "small_first" else {})
    config = {"batch_schedule": schedule, "scaling": scaling, "rule": {"name": "optax.adamw"}}
    both_sizes = (12, 24) if name == "small_first" else (4, 8)
    runs = runs_of((0.002, hyper[0]), (0.001, hyper[1]), sizes=both_sizes)
    with jax.numpy_dtype_promotion("standard"):  # which optax needs
        check(runs, adamw, strategy, config=config | {"micro_batch": 4}, sizes=sizes)


def cycled(step, w, memory, run):
    """SGD whose momentum falls from ``high`` to ``low`` at 45 % and is back at 90 %."""
    p, high, low = step.progress, run["momentum_schedule__high"], run["momentum_schedule__low"]
    beta = np.interp(p, [0, 0.45, 0.9, 1], [high, low, high, high])
    return heavy_ball(w, grad(w, *step.xy()), memory, {"beta": beta}, step.rate, "beta")


@both
def test_momentum_that_cycles(x64, strategy):
    names = ("momentum_schedule__high", "momentum_schedule__low")
    runs = runs_of(
        (0.01, dict(zip(names, (0.95, 0.5), strict=True))),
        (0.02, dict(zip(names, (0.8, 0.1), strict=True))),
    )
    check(runs, cycled, strategy, config={"momentum_schedule": {"name": "onecycle"}})


@both
@pytest.mark.parametrize("name", ["lr", "lr-beta"])
def test_noise_schedules_that_move_rate_and_momentum(x64, name, strategy):
    def noisy(step, w, memory, run):
        left, power = 1 - step.progress, run["noise__power"]
        rate = run["batch_size"] * run["base_lr"]
        beta = run["rule__momentum"]
        if name == "lr":
            rate *= left**power
        else:
            # delta falls as (1-p)^q, half of it by the rate; with K = 0 the other half is a factor
            # on the momentum's own part of delta, found here by bisection.
            rate *= left ** (power / 2)
            beta = momentum_for(beta, left ** (power / 2))
        return heavy_ball(w, grad(w, *step.xy()), memory, {"beta": beta}, rate, "beta")

    runs = runs_of(
        (0.004, {"rule__momentum": 0.9, "noise__power": 0.9}),
        (0.002, {"rule__momentum": 0.8, "noise__power": 0.5}),
    )
    config = {"schedule": {"name": "constant"}, "noise": {"name": name}}
    check(runs, noisy, strategy, config=config)


def momentum_for(beta, factor):
    """The momentum whose degree of smoothing is ``factor`` times that of ``beta`` (K = 0).

    ``degree_of_smoothing`` itself is held against the paper's formula in test_optim_momentum.
    """
    wanted = factor * float(degree_of_smoothing(1.0, 1.0, beta, variance=25.0))
    if wanted <= float(degree_of_smoothing(1.0, 1.0, 0.0, variance=25.0)):
        return 0.0
    return scipy.optimize.brentq(
        lambda b: float(degree_of_smoothing(1.0, 1.0, b, variance=25.0)) - wanted,
        0.0,
        beta,
        xtol=1e-15,
        rtol=1e-14,
    )


@both
def test_noise_schedule_that_moves_the_batch_size(x64, strategy):
    """lr-batch with balance 1: b grows as (1-p)^-q, and delta falls with it and the rate."""
    seen = {}

    def noisy(step, w, memory, run):
        return heavy_ball(w, grad(w, *step.xy()), memory, run, seen["rate"])

    runs = runs_of(
        (0.004, {"rule__momentum": 0.5, "noise__power": 0.9}),
        (0.002, {"rule__momentum": 0.8, "noise__power": 0.5}),
        sizes=(4, 8),
    )
    config = {
        "schedule": {"name": "constant"},
        "noise": {"name": "lr-batch", "largest_batch": 24.0},
        "micro_batch": 4,
    }

    def bounded(run, progress):
        m, left = run["batch_size"], (1 - progress) ** run["noise__power"]
        b = min(24.0, m / left)
        seen["rate"] = m * run["base_lr"] * left * np.sqrt(b / m)
        return max(1, int(np.round(b / 4))) * 4, 1.0

    check(runs, noisy, strategy, config=config, sizes=bounded)


def test_micro_batches_leave_room_for_a_small_first_batch():
    schedule = {"name": "small_first", "ratio": 1 / 8}
    config = {"sweep": {"batch_size": (16, 48)}, "batch_schedule": schedule}
    (cohort,) = prepare(config, Parts(NET, dataset())).cohorts
    assert cohort.micro_batch == 2


@pytest.mark.parametrize(
    "config",
    [
        {"batch_schedule": {"name": "small_first"}, "micro_batch": 4},
        {"batch_schedule": {"name": "adabatch"}, "sample": {"name": "loss", "fraction": 0.25}},
        {"batch_schedule": {"name": "smith"}, "rule": {"name": "conservative"}},
    ],
)
def test_batch_schedules_that_cannot_be_followed_are_refused(config):
    with pytest.raises(UserError, match=r"config\.batch_schedule"):
        prepare({"batch_size": 16, **config}, Parts(NET, dataset()))


def adversarial(step, w, memory, run):
    del memory
    x, y = step.xy()
    weight = run["objective__clean_weight"]
    signs = np.sign(jax.grad(lambda x: jnp.sum(losses(w, x, y)))(x))
    attacked = x + run["objective__epsilon"] * signs
    g = each(lambda a, b: weight * a + (1 - weight) * b, grad(w, x, y), grad(w, attacked, y))
    return descend(w, g, step.rate)


def stability(step, w, memory, run):
    del memory

    def loss(w, tick):
        x, y = tick.xy()
        keys = jax.random.split(jax.random.fold_in(tick.key, 2), len(y))
        noise = np.stack([jax.random.normal(k, x.shape[1:], float) for k in keys])
        clean = jax.nn.softmax(logits(w, x))
        noisy = jax.nn.log_softmax(logits(w, x + run["objective__deviation"] * noise))
        extra = -jnp.mean(jnp.sum(clean * noisy, -1))
        return jnp.mean(losses(w, x, y)) + run["objective__weight"] * extra

    every = [jax.grad(loss)(w, tick) for tick in step.ticks]
    return descend(w, each(lambda *g: np.mean(g, 0), *every), step.rate)


def label_smoothing(step, w, memory, run):
    """Cross entropy with targets of 1 - s + s/K for the class and s/K for every other."""
    del memory
    x, y = step.xy()
    targets = np.full((len(y), CLASSES), run["objective__smoothing"] / CLASSES)
    targets[np.arange(len(y)), y] += 1 - run["objective__smoothing"]

    def loss(w):
        return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits(w, x)), -1))

    return descend(w, jax.device_get(jax.grad(loss)(w)), step.rate)


@both
@pytest.mark.parametrize("name", ["adversarial", "stability", "label_smoothing"])
def test_objectives(x64, name, strategy):
    fields = {
        "adversarial": ("epsilon", "clean_weight"),
        "stability": ("deviation", "weight"),
        "label_smoothing": ("smoothing",),
    }[name]
    values = ((0.1, 0.5), (0.3, 0.25))
    hyper = [{f"objective__{f}": v for f, v in zip(fields, row)} for row in values]
    runs = runs_of((0.05, hyper[0]), (0.02, hyper[1]))
    rule = {
        "adversarial": adversarial,
        "stability": stability,
        "label_smoothing": label_smoothing,
    }[name]
    check(runs, rule, strategy, config={"objective": {"name": name}})


def augmented_twice(step, w, memory, run):
    del memory, run
    gradients = []
    for copy in range(2):
        for tick in step.ticks:
            x, y = tick.xy()
            key = purpose_key(jax.random.fold_in(step.seed, copy), "augment")
            epochs, examples = tick.epochs.astype(np.int32), tick.examples.astype(np.int32)
            x = pad_crop_flip(jnp.asarray(x), augment_keys(key, epochs, examples))
            gradients.append(grad(w, x, y))
    return descend(w, each(lambda *g: np.mean(g, 0), *gradients), step.rate)


@both
def test_copies_of_a_batch_augmented_each_anew(x64, strategy):
    """m, and with it the learning rate and the number of updates, stays that of the originals."""
    config = {"copies": 2, "data": {"normalize": "unit", "augment": "crop_flip"}}
    check(runs_of((0.05, {}), (0.02, {})), augmented_twice, strategy, config=config)


# --- all of them as axes --------------------------------------------------------------------------


def numbers():
    """(section, name, numeric field, value) of everything that a config can select."""
    for name, spec in sorted(RULES.items()):
        yield from (("rule", name, field, v) for field, v in spec.numbers.items())
    for section, names, registry in (
        ("schedule", ("steps", "poly", "cosine", "triangular", "onecycle"), SCHEDULES),
        ("batch_schedule", ("small_first", "adabatch", "smith"), BATCH_SCHEDULES),
        ("objective", tuple(OBJECTIVES), OBJECTIVES),
    ):
        for name in names:
            yield from ((section, name, f, v) for f, v in registry[name].numbers.items())
    yield from (("sample", "loss", field, 0.5) for field in ("fraction", "until"))


def _beside(section, name, field, default):
    """Another value that the field takes."""
    less, more = default * 0.75 or 0.125, default * 1.25 or 64.0
    try:
        validate(complete({section: {"name": name, field: less}}))
    except UserError:
        return more
    return less


def test_every_number_is_an_axis_and_costs_no_further_program():
    """Each is swept over two values: one cohort, whose lanes hold these values."""
    seen = set()
    parts = Parts(NET, dataset())
    for section, name, field, default in numbers():
        if (section, field) in seen and section == "rule":
            continue  # `momentum` of every rule goes the same way
        seen.add((section, field))
        values = (default, _beside(section, name, field, default))
        chosen = {"name": name} | ({"fraction": 0.5} if section == "sample" else {})
        config = {section: chosen, "sweep": {f"{section}__{field}": values}}
        sweep = prepare(config | {"epochs": 1, "batch_size": 20}, parts)
        (cohort,) = sweep.cohorts
        lanes = make_lanes(cohort, [0, 1], 2)
        np.testing.assert_allclose(getattr(lanes.hyper, section)[field], values, rtol=1e-6)
    assert {"trust_coefficient", "amplitude", "total_updates"} <= {
        f for s, f in seen if s == "rule"
    }
    assert {"schedule", "batch_schedule", "objective", "sample"} < {s for s, f in seen}


def test_names_are_axes_with_labelled_results():
    config = {
        "epochs": 1,
        "batch_size": 10,
        "sweep": {"rule": ("sgd", "sngm"), "base_lr": (0.001, 0.01)},
    }
    with compiling(quickly=True):
        ds = sbt.run(config, module=NET, dataset=dataset())
    assert set(ds.accuracy.dims) == {"rule", "base_lr"}
    assert list(ds.rule.values) == ["sgd", "sngm"]
    assert np.all(np.isfinite(ds.train_loss.values))
    assert np.unique(ds.train_loss.values).size == 4


def test_a_field_may_follow_the_rules_that_have_it():
    """Different rules of one sweep take values of fields that the others do not have."""
    follow = {"rule__trust_coefficient": ("rule", (("lars", 0.5), ("clars", 2.0)))}
    sweep = prepare(
        {"epochs": 1, "sweep": {"rule": ("sgd", "lars", "clars")}, "follow": follow},
        Parts(NET, dataset()),
    )
    values = {}
    for cohort in sweep.cohorts:
        rule = make_lanes(cohort, [0], 1).hyper.rule
        values[cohort.config.rule.name] = rule.get("trust_coefficient")
    assert values["sgd"] is None
    assert (values["lars"], values["clars"]) == (0.5, 2.0)


@pytest.mark.parametrize(
    "follow",
    [
        {"rule__trust_coefficient": ("rule", (("sgd", 0.5),))},
        {"rule__trust": ("rule", (("lars", 0.5),))},
        {"base_lr": ("rule", (("sgd", 0.5),))},
    ],
    ids=["not of this rule", "misspelt", "said for one of two"],
)
def test_a_follower_that_makes_no_sense_is_refused(follow):
    with pytest.raises(UserError, match=r"config\.follow"):
        prepare(
            {"epochs": 1, "sweep": {"rule": ("sgd", "lars")}, "follow": follow},
            Parts(NET, dataset()),
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(RULES))
def test_every_rule_trains_in_lanes(name):
    """Two lanes, a sane rate and one that no rule survives unharmed: numbers, or a flag."""
    config = {
        "epochs": 2,
        "rule": {"name": name},
        "batch_size": 20,
        "sweep": {"base_lr": (1e-4, 1e4)},
    }
    with compiling(quickly=True):
        ds = sbt.run(config, module=NET, dataset=dataset())
    assert not bool(ds.diverged[0])
    finite = np.isfinite(ds.train_loss.values[:, -1])
    assert np.all(finite | ds.diverged.values)
    assert np.all(np.isfinite(ds.accuracy.values))
