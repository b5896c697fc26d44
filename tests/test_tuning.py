"""Claims about tuning, on losses that are written down as formulas of their hyperparameters."""

import itertools

import numpy as np
import pytest
import xarray as xr

from sbt.config import to_json
from sbt.intervals import draws
from sbt.parabola import best_positions
from sbt.report import FAILS, HOLDS, OPEN, View, tuning
from sbt.report.seeds import bootstrap
from sbt.report.tuning import basin, half_life, rescaled
from sbt.tasks.score import Score

SIZES = (1, 4, 16, 64)
DECAYS = tuple(sorted(0.95 ** (1 / 4**k) for k in range(4)))
RATES = tuple(2.0**k for k in range(-10, -2))
LOSS = Score("loss", False, np.inf, 5.5, "nats per token", False, "loss")


def view(loss, seeds=3, noise=0.0, config=None, **axes):
    """Results of a sweep whose loss is a function of its axes, with noise that seeds bring."""
    random = np.random.default_rng(0)
    own = random.normal(size=seeds)  # what a seed adds everywhere, which pairing takes away
    shape = [len(v) for v in axes.values()]
    values = np.empty((*shape, seeds))
    for place in itertools.product(*map(range, shape)):
        point = {name: axes[name][i] for name, i in zip(axes, place, strict=True)}
        values[place] = loss(**point) + own + noise * random.normal(size=seeds)
    dims = (*axes, "seed")
    found = xr.Dataset(
        {
            "loss": (dims, values),
            "diverged": (dims, np.zeros(values.shape, bool)),
            "finished": (dims, np.ones(values.shape, bool)),
        },
        coords={**{name: list(v) for name, v in axes.items()}, "seed": range(seeds)},
        attrs={**LOSS.attrs, "config": to_json(config or {"lr_scaling": "none"})},
    )
    return View(found)


def judged(claim, grid, *args, **named):
    name, arguments = claim(*args, **named)
    (verdict,) = claim.judged(grid, arguments)
    assert verdict.source and name in tuning.claim.__globals__["CLAIMS"]
    return verdict


def by_half_life(best, width=100.0):
    """Loss that is least at a half-life of ``best(m)`` examples, quadratic in its log2."""

    def loss(batch_size, rule__b2, **_):
        examples = half_life(rule__b2) * batch_size
        return (np.log2(examples) - np.log2(best(batch_size))) ** 2 / width

    return loss


LIFE = half_life(0.95) * 64


def test_half_lives_of_the_papers_examples():
    assert 1024 * 512 * half_life(0.95) == pytest.approx(7_084_917.3)
    assert 1024 * half_life(0.9999) == pytest.approx(7_097_472.2)
    assert rescaled(0.95, 1, 512) == pytest.approx(0.9998998228, abs=1e-10)
    assert rescaled(0.95, 1, 16) == pytest.approx(0.9967993023, abs=1e-10)
    assert half_life(0.0) == 0


@pytest.mark.parametrize(
    ("best", "outcome", "transfers"),
    [
        (lambda m: LIFE, HOLDS, HOLDS),  # the best half-life is the same for all
        (lambda m: LIFE * m / 64, FAILS, FAILS),  # the best decay is
    ],
)
def test_which_of_decay_and_half_life_carries_over(best, outcome, transfers):
    grid = view(by_half_life(best), noise=1e-4, batch_size=SIZES, rule__b2=DECAYS)
    assert judged(tuning.fixed_decay_fails, grid, "rule__b2", 0.95, 0.02).verdict == outcome
    assert judged(tuning.half_life_transfers, grid, "rule__b2").verdict == transfers


def test_what_seeds_do_not_tell_apart_is_open():
    loss = by_half_life(lambda m: LIFE)
    for grid in (
        view(loss, noise=0.5, batch_size=SIZES, rule__b2=DECAYS),
        view(loss, seeds=2, batch_size=SIZES, rule__b2=DECAYS),
        view(lambda **_: 3.0, batch_size=SIZES),
    ):
        assert judged(tuning.fixed_decay_fails, grid).verdict == OPEN
        assert judged(tuning.half_life_transfers, grid).verdict == OPEN


def test_choosing_the_best_of_noise_loses_nothing_on_other_seeds():
    sizes = tuple(range(1, 301))
    noise = view(lambda **_: 0.0, noise=1.0, batch_size=sizes, rule__b2=DECAYS)
    rule = np.full(len(sizes), 0.95)
    lost = tuning.held_out(noise, lambda by, of: tuning.regret(by, of, "rule__b2", rule))
    assert abs(np.mean([one.value for one in lost])) < 0.15
    assert np.mean([one.low <= 0 <= one.high for one in lost]) > 0.9
    seen = tuning.gains(noise).mean("seed")  # the same seeds to choose and to judge by
    assert tuning.regret(seen, seen, "rule__b2", rule).mean() > 0.4


@pytest.mark.parametrize(("margin", "outcome"), [(0.05, HOLDS), (0.01, FAILS)])
def test_one_value_for_all(margin, outcome):
    # b1 = 0.5 loses 0.02 at the best rate, more elsewhere.
    def loss(batch_size, base_lr, rule__b1):
        return (0.02 if rule__b1 == 0.5 else 0.0) + abs(np.log2(base_lr) + 5)

    grid = view(loss, batch_size=SIZES, base_lr=RATES, rule__b1=(0.0, 0.5, 0.9))
    verdict = judged(tuning.fixed_value_suffices, grid, "rule__b1", 0.5, margin)
    assert (verdict.verdict, "0.02" in verdict.numbers) == (outcome, True)


def test_width_of_a_basin():
    x = np.arange(-4.0, 5.0)
    assert basin(x, -np.abs(x), 1.5) == pytest.approx(3.0)
    assert basin(x, -np.abs(x - 4), 1.5) == pytest.approx(1.5)  # cut at the end
    assert basin(x, np.where(x > 0, -np.inf, -np.abs(x)), 1.5) == pytest.approx(1.5)


@pytest.mark.parametrize(("sign", "outcome"), [(1, HOLDS), (0, FAILS), (-1, FAILS)])
def test_basins(sign, outcome):
    def loss(batch_size, base_lr):
        return batch_size ** (sign / 2) * 0.01 * (np.log2(base_lr) + 6) ** 2

    grid = view(loss, batch_size=SIZES, base_lr=RATES)
    assert judged(tuning.basin_narrows, grid).verdict == outcome


def test_a_parabola_is_found_exactly():
    x = np.arange(-12.0, -5.0)
    assert best_positions(x, -(3 + 0.02 * (x + 9.3) ** 2)) == pytest.approx(-9.3)
    assert np.isnan(best_positions(x, x))


@pytest.mark.parametrize(
    ("power", "scaling", "exponent"),
    [(0.2, "none", 0.2), (0.5, "none", 0.5), (0.2, "linear", 1.2), (0.0, "sqrt", 0.5)],
)
def test_exponent_of_the_best_rate(power, scaling, exponent):
    def loss(batch_size, base_lr):
        return 0.02 * (np.log2(base_lr) + 8 - power * np.log2(batch_size)) ** 2

    grid = view(loss, config={"lr_scaling": scaling}, batch_size=SIZES, base_lr=RATES)
    above = judged(tuning.rate_grows_slower, grid, exponent + 0.01)
    below = judged(tuning.rate_grows_slower, grid, exponent - 0.01)
    assert (above.verdict, below.verdict) == (HOLDS, FAILS)
    at_the_end = view(lambda batch_size, base_lr: base_lr, batch_size=SIZES, base_lr=RATES)
    assert judged(tuning.rate_grows_slower, at_the_end, 0.5).verdict == OPEN


@pytest.mark.parametrize("follows", [True, False])
def test_exponents_count_with_the_power_by_which_rates_follow_m(follows):
    """A best base rate that is the same at all m, under eta = rate m^0.3: the exponent is 0.3."""

    def loss(batch_size, base_lr):
        return 0.02 * (np.log2(base_lr) + 6) ** 2

    table = ("batch_size", tuple((m, 0.3) for m in SIZES))
    config = {"follow": {"scaling__power": table}} if follows else {"scaling": {"power": 0.3}}
    grid = view(loss, config=config, batch_size=SIZES, base_lr=RATES)
    assert judged(tuning.rate_grows_slower, grid, 0.31).verdict == HOLDS
    assert judged(tuning.rate_grows_slower, grid, 0.29).verdict == FAILS


@pytest.mark.parametrize(
    ("gains", "outcome"),
    [((0.1, 0.05, 0.0, 0.0), HOLDS), ((0.1,) * 4, FAILS), ((0.0, 0.0, 0.0, 0.1), FAILS)],
)
def test_what_a_law_gains_at_small_batch_sizes(gains, outcome):
    def loss(scaling, batch_size, base_lr):
        gained = dict(zip(SIZES, gains, strict=True))[batch_size] * (scaling == "half_life")
        return abs(np.log2(base_lr) + 5) - gained

    axes = {"scaling": ("fixed", "half_life"), "batch_size": SIZES, "base_lr": RATES}
    verdict = judged(tuning.law_helps, view(loss, noise=1e-4, **axes))
    assert verdict.verdict == outcome
    assert judged(tuning.law_helps, view(loss, **axes), "sde").verdict == OPEN


@pytest.mark.parametrize(
    ("stochastic", "nearest", "outcomes"),
    [
        ((0.01,) * 4, (0.3, 0.2, 0.1, 0.0), (HOLDS, HOLDS)),
        ((0.03, 0.0, 0.0, 0.0), (0.1,) * 3 + (0.2,), (FAILS, FAILS)),
    ],
)
def test_what_rounding_loses(stochastic, nearest, outcomes):
    lost = {"none": (0.0,) * 4, "stochastic": stochastic, "nearest": nearest}

    def loss(rounding, batch_size, base_lr):
        return abs(np.log2(base_lr) + 5) + lost[rounding][SIZES.index(batch_size)]

    axes = {"rounding": tuple(lost), "batch_size": SIZES, "base_lr": RATES}
    grid = view(loss, noise=1e-4, **axes)
    claims = (tuning.stochastic_rounding_suffices, tuning.nearest_rounding_hurts_small_batches)
    assert tuple(judged(one, grid).verdict for one in claims) == outcomes


@pytest.mark.parametrize(("sign", "outcome"), [(1, HOLDS), (-1, FAILS)])
def test_gaps_between_optimizers(sign, outcome):
    def loss(rule, batch_size, base_lr):
        return (rule == "sgd") * batch_size ** (sign / 4) * 0.1 + abs(np.log2(base_lr) + 5)

    grid = view(loss, rule=("adam", "sgd"), batch_size=SIZES, base_lr=RATES)
    assert judged(tuning.optimizers_part, grid).verdict == outcome


def test_shares_of_the_grid():
    def loss(batch_size, base_lr):
        return batch_size * 0.015 * abs(np.log2(base_lr) + 6)

    grid = view(loss, batch_size=(1, 64), base_lr=RATES)
    verdict = judged(tuning.small_batches_forgive, grid, 0.02)
    assert verdict.verdict == HOLDS and verdict.numbers.startswith("38% against 12%")  # 3, 1 of 8


def test_draws_are_all_of_few_seeds_and_intervals_are_paired():
    assert len({tuple(d) for d in draws(3).tolist()}) == 27 and draws(6).shape == (2000, 6)
    grid = view(lambda base_lr: base_lr, base_lr=(0.0, 1.0))
    found = bootstrap(grid, lambda gain: float(gain[0] - gain[1]))
    np.testing.assert_allclose(found, 1.0)
