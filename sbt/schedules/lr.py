r"""Learning-rate schedules: functions of progress, times a warm-up that all of them share.

*Progress* is the fraction of the training budget already spent, counted in examples, in [0, 1]. A
schedule maps it to a *multiplier of the peak learning rate* (dimensionless). Runs of different
batch sizes take different numbers of updates over the same budget, so only a function of progress
means the same thing for all of them.

Progress may be a scalar or an array of any shape, and every parameter a Python number or a traced
scalar: one compiled program can hold lanes with different warm-ups, powers or drop points.

Thresholds are exact. ``count * m / total`` carries up to two rounding errors when it reaches, say,
3/5, so a threshold counts as reached two ulps below its value. That is less than one update for
every budget below four million updates in float32.

A schedule that a config names is one of :data:`SCHEDULES`, under the warm-up of :func:`warmed_up`:

>>> schedule = SCHEDULES.configured({"name": "steps", "drops": (0.5, 0.75), "warmup": 0.05})
>>> print(schedule(jnp.asarray([0.0, 0.05, 0.5])))
[0.03125 1.      0.1    ]
>>> print(schedule(0.5, factor=0.2))
0.2
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from sbt.choice import Registry
from sbt.errors import UserError, shown
from sbt.ranges import BELOW_ONE, COUNT, FRACTION, NON_NEGATIVE, POSITIVE, Range, check_rising

Positive = Annotated[ArrayLike, POSITIVE]
NonNegative = Annotated[ArrayLike, NON_NEGATIVE]
Fraction = Annotated[ArrayLike, FRACTION]
BelowOne = Annotated[ArrayLike, BELOW_ONE]
AtLeastOne = Annotated[ArrayLike, Range(1)]
# A drop, a place or a length where 0 would never act or divide by zero.
PART = Range(0, 1, open_low=True)
Part = Annotated[ArrayLike, PART]
Within = Annotated[ArrayLike, Range(0, 1, open_low=True, open_high=True)]


def as_progress(progress: ArrayLike) -> jax.Array:
    """Progress as a floating-point array, clipped to [0, 1]."""
    value = jnp.asarray(progress)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        value = value.astype(float)
    return jnp.clip(value, 0, 1)


def reached(progress: jax.Array, threshold: ArrayLike) -> jax.Array:
    """Whether ``progress >= threshold``, forgiving the rounding of ``count * m / total``."""
    limit = jnp.asarray(threshold, progress.dtype)
    return progress >= limit * (1 - 2 * float(jnp.finfo(progress.dtype).eps))


def gradual_warmup(
    progress: ArrayLike, warmup: Fraction = 0.05, start: Fraction = 1 / 32
) -> jax.Array:
    r"""The ramp of Goyal et al. (2017): linear from ``start`` to 1, a little at every update.

    .. math:: r(p) = s + (1 - s)\,\min(1, p / w)

    The defaults are the warm-up of Masters & Luschi (2018, section 3.4): :math:`\eta/32` to
    :math:`\eta` over the first 5 % of training, for every batch size. Goyal's own is ``warmup = 5 /
    epochs``, ``start = 0.1 / eta``. The factor multiplies a schedule.

    Args:
      progress: fraction of the budget.
      warmup: length, a fraction of the budget; 0 gives 1 everywhere.
      start: first value, a fraction of the peak. With 0 the first update does nothing.

    Returns:
      The factor, shaped like ``progress``.
    """
    progress = as_progress(progress)
    warmup, start = (jnp.asarray(x, progress.dtype) for x in (warmup, start))
    ramp = start + (1 - start) * progress / jnp.where(warmup > 0, warmup, 1)
    return jnp.where(reached(progress, warmup), jnp.ones_like(ramp), ramp)


def warmed_up(
    curve: Callable[..., jax.Array],
    progress: ArrayLike,
    *,
    batch_size: ArrayLike | None = None,
    warmup: Fraction = 0.0,
    warmup_start: Fraction = 1 / 32,
    warmup_batch: Annotated[int, Range(0, COUNT.high)] = 0,
    after_warmup: bool = False,
    **parameters: Any,
) -> jax.Array:
    """A schedule under a warm-up, :func:`gradual_warmup` or, with ``warmup_batch``, :func:`legw`'s.

    Args:
      curve: the schedule without it.
      progress: fraction of the budget.
      batch_size: m, examples per update; needed (and used) only with ``warmup_batch``.
      warmup: length, a fraction of the budget; 0 is none.
      warmup_start: first value, a fraction of the peak.
      warmup_batch: 0, or the batch size for which ``warmup`` is stated: others warm up in
        proportion. A batch size, not a quantity that lanes differ in.
      after_warmup: False: the schedule runs from progress 0 and the ramp multiplies it, so that
        drops stay where the protocol puts them. True: the schedule starts when the warm-up ends,
        over the remaining budget.
      **parameters: of the curve.

    Returns:
      The multiplier of the peak learning rate, shaped like ``progress``.

    Raises:
      UserError: the batch size is missing.
    """
    progress = as_progress(progress)
    length = jnp.asarray(warmup, progress.dtype)
    if batch_size is not None:
        base = jnp.asarray(warmup_batch, progress.dtype)
        ratio = jnp.asarray(batch_size).astype(progress.dtype) / jnp.where(base > 0, base, 1)
        length = jnp.where(base > 0, length * ratio, length)
    elif isinstance(warmup_batch, jax.core.Tracer) or warmup_batch:
        raise UserError(
            "config.schedule.warmup_batch",
            "a warm-up stated for one batch size needs the batch size of the run",
            "call schedule(progress, batch_size=m).",
        )
    seen = progress
    if after_warmup:
        rest = jnp.where(length < 1, 1 - length, 1)
        seen = jnp.where(reached(progress, length), (progress - length) / rest, 0)
    return gradual_warmup(progress, length, warmup_start) * curve(seen, **parameters)


SCHEDULES = Registry("schedule", shared=warmed_up, default="constant")
# The momentum itself as a function of progress.
MOMENTUM_SCHEDULES = Registry("momentum_schedule", default="constant")


def check_drops(where: str, values: Mapping[str, Any]) -> None:
    """Refuses drops that do not rise, or a number of factors that is not that of the drops."""
    drops, factor = values["drops"], values["factor"]
    check_rising(f"{where}.drops", drops)
    count = len(drops) if isinstance(drops, tuple) else 1
    if isinstance(factor, tuple) and len(factor) != count:
        raise UserError(
            f"{where}.factor",
            f"{shown(factor)} has {len(factor)} numbers for {count} drops",
            "give one for each drop, or one number for all",
        )


def check_cycle(where: str, values: Mapping[str, Any]) -> None:
    """Refuses a fall that does not come after the rise."""
    if not values["rise"] < values["fall"]:
        raise UserError(
            f"{where}.fall",
            f"{values['fall']!r} does not come after the rise, {values['rise']!r}",
            "make fall the larger one",
        )


@SCHEDULES.register("constant")
def constant(progress: ArrayLike) -> jax.Array:
    """1 throughout."""
    return jnp.ones_like(as_progress(progress))


@SCHEDULES.register(
    "steps", source="Masters and Luschi 2018, arXiv 1804.07612, section 4", check=check_drops
)
def steps(
    progress: ArrayLike,
    drops: Annotated[ArrayLike | Sequence[ArrayLike], PART] = (0.5, 0.75),
    factor: Annotated[ArrayLike | Sequence[ArrayLike], PART] = 0.1,
) -> jax.Array:
    r"""A staircase: multiplied by ``factor`` at every drop.

    .. math:: s(p) = \prod_{i\,:\,d_i \le p} f_i

    with drops :math:`d_i` and factors :math:`f_i`.

    The defaults are the CIFAR protocol of Masters & Luschi (2018): a tenth at 50 % of the budget
    and a tenth again at 75 %.

    Args:
      progress: fraction of the budget.
      drops: progress at which each drop happens; the update *at* the drop already has the new rate.
      factor: multiplier of each drop; one number, or one per drop.

    Returns:
      The multiplier, shaped like ``progress``.

    Examples:
      >>> print(steps(jnp.asarray([0.0, 0.49, 0.5, 0.75])))
      [1.   1.   0.1  0.01]
    """
    progress = as_progress(progress)
    drops = jnp.asarray(drops, progress.dtype)
    factor = jnp.broadcast_to(jnp.asarray(factor, progress.dtype), drops.shape)
    passed = reached(progress[..., None], drops)
    return jnp.prod(jnp.where(passed, factor, jnp.ones_like(factor)), axis=-1)


@SCHEDULES.register("poly", source="You, Gitman and Ginsburg 2017, arXiv 1708.03888")
def poly(progress: ArrayLike, power: NonNegative = 2.0, end: Fraction = 0.0) -> jax.Array:
    r"""Polynomial decay, from 1 to ``end``.

    .. math:: s(p) = e + (1 - e)\,(1 - p)^q

    with :math:`e` for ``end`` and :math:`q` for ``power``: 2 is the value of LARS (You
    et al., 2017), 1 is linear decay.
    """
    progress = as_progress(progress)
    power, end = (jnp.asarray(x, progress.dtype) for x in (power, end))
    return end + (1 - end) * (1 - progress) ** power


@SCHEDULES.register("cosine", source="Loshchilov and Hutter 2017, arXiv 1608.03983")
def cosine(progress: ArrayLike, end: Fraction = 0.0) -> jax.Array:
    r"""Half a cosine from 1 to ``end`` (Loshchilov & Hutter, 2017, without restarts).

    .. math:: s(p) = e + (1 - e)\,\frac{1 + \cos \pi p}{2}
    """
    progress = as_progress(progress)
    end = jnp.asarray(end, progress.dtype)
    return end + (1 - end) * (1 + jnp.cos(jnp.pi * progress)) / 2


@SCHEDULES.register("exponential", source="Dang, Babanezhad and Vaswani 2024, arXiv 2401.06738")
def exponential(progress: ArrayLike, final: Part = 0.01) -> jax.Array:
    r"""Exponential decay, from 1 to ``final``, which is greater than 0.

    .. math:: s(p) = f^{\,p}

    with :math:`f` for ``final``. The exponential step sizes :math:`\nu^k,\ \nu = T^{-1/T}` of
    Dang, Babanezhad & Vaswani (2024) are ``final = 1 / T``.
    """
    progress = as_progress(progress)
    return jnp.asarray(final, progress.dtype) ** progress


@SCHEDULES.register("triangular", source="Smith 2017, arXiv 1506.01186")
def triangular(progress: ArrayLike, cycles: Positive = 1.0, low: Fraction = 0.1) -> jax.Array:
    r"""Cyclical learning rate (Smith, 2017): up from ``low`` to 1 and back, ``cycles`` times.

    .. math:: s(p) = l + (1 - l)\,(1 - |2x - 1|), \qquad x = np - \lfloor np \rfloor

    with :math:`l` for ``low`` and :math:`n` for ``cycles``.

    Smith & Topin's super-convergence run (0.1 to 3.0, step size half of the budget) is
    ``cycles=1, low=1/30``.
    """
    progress = as_progress(progress)
    cycles, low = (jnp.asarray(x, progress.dtype) for x in (cycles, low))
    position = progress * cycles
    position = position - jnp.floor(position)
    return low + (1 - low) * (1 - jnp.abs(2 * position - 1))


@SCHEDULES.register("range_test", source="Smith 2017, arXiv 1506.01186, section 3.3")
def range_test(
    progress: ArrayLike, low: Part = 1e-3, rise: Literal["linear", "exponential"] = "linear"
) -> jax.Array:
    r"""The learning-rate range test: up from ``low`` to 1 over the whole budget.

    .. math:: s(p) = l + (1 - l)\,p \qquad \text{or} \qquad s(p) = l^{\,1 - p}

    A short training, a few epochs, whose peak is larger than any rate that trains; the measurement
    ``range_test`` reads its result. Smith raises the rate linearly; ``exponential`` looks at every
    octave as long.

    Args:
      progress: fraction of the budget.
      low: first value, a fraction of the peak.
      rise: ``linear`` or ``exponential``.

    Returns:
      The multiplier, shaped like ``progress``.

    Examples:
      >>> print(range_test(jnp.asarray([0.0, 0.5, 1.0]), 0.01, "exponential"))
      [0.01 0.1  1.  ]
    """
    progress = as_progress(progress)
    low = jnp.asarray(low, progress.dtype)
    if rise == "exponential":
        return low ** (1 - progress)
    return low + (1 - low) * progress


@SCHEDULES.register("onecycle", source="Smith 2018, arXiv 1803.09820", check=check_cycle)
def onecycle(
    progress: ArrayLike,
    rise: Within = 0.45,
    fall: Part = 0.9,
    div: AtLeastOne = 10.0,
    final_div: AtLeastOne = 100.0,
) -> jax.Array:
    r"""1cycle (Smith, 2018): up, down and further down, all linear.

    .. math:: \tfrac1d \to 1 \to \tfrac1d \to \tfrac{1}{d\,d_f}
              \quad\text{at}\quad p = 0,\ \text{rise},\ \text{fall},\ 1

    with :math:`d` for ``div`` and :math:`d_f` for ``final_div``.

    Args:
      progress: fraction of the budget.
      rise: progress at which the peak is reached.
      fall: progress at which the rate is back at ``1/div``; from there it is annihilated.
      div: peak over first rate.
      final_div: first rate over last rate.

    Returns:
      The multiplier, shaped like ``progress``. See :func:`onecycle_momentum` for its partner.
    """
    progress = as_progress(progress)
    div, final_div = (jnp.asarray(x, progress.dtype) for x in (div, final_div))
    up, down, last = _cycle_phases(progress, rise, fall)
    first = 1 / div
    value = first + (1 - first) * (up - down)
    return value + (first / final_div - first) * last


def legw(
    progress: ArrayLike, ratio: Positive, warmup: Fraction, start: Fraction = 0.0
) -> jax.Array:
    r"""Linear-epoch gradual warm-up (You et al., 2019) for a batch ``ratio`` times larger.

    A batch :math:`k` times larger takes a peak learning rate (mean form) :math:`\sqrt k` times
    larger and a warm-up of :math:`k` times as many *epochs*:

    .. math:: \sqrt{k}\; r(p;\ k w, s)

    with :math:`r` of :func:`gradual_warmup`. In a config it is ``lr_scaling='sqrt'``, which brings
    the :math:`\sqrt k`, with ``schedule.warmup_batch``, which brings the stretched warm-up.

    Args:
      progress: fraction of the budget.
      ratio: batch size over the one that was tuned, :math:`k`.
      warmup: length of the warm-up at the tuned batch size, a fraction of the budget.
      start: first value, a fraction of the peak.

    Returns:
      The factor, shaped like ``progress``. A warm-up stretched beyond the budget never peaks.
    """
    progress = as_progress(progress)
    ratio = jnp.asarray(ratio, progress.dtype)
    ramp = warmed_up(
        constant, progress, batch_size=ratio, warmup=warmup, warmup_start=start, warmup_batch=1
    )
    return jnp.sqrt(ratio) * ramp


@MOMENTUM_SCHEDULES.register("constant")
def steady(progress: ArrayLike) -> None:
    """Leaves the momentum to the rule."""


@MOMENTUM_SCHEDULES.register("onecycle", source="Smith 2018, arXiv 1803.09820", check=check_cycle)
def onecycle_momentum(
    progress: ArrayLike,
    rise: Within = 0.45,
    fall: Part = 0.9,
    high: BelowOne = 0.95,
    low: BelowOne = 0.85,
) -> jax.Array:
    """High while the learning rate of :func:`onecycle` is low.

    ``high`` to ``low`` until ``rise``, back to ``high`` at ``fall``, and constant from there.

    Args:
      progress: fraction of the budget.
      rise: progress at which the learning rate peaks and the momentum is lowest.
      fall: progress at which both are back.
      high: momentum at the ends.
      low: momentum at the peak.

    Returns:
      The momentum, shaped like ``progress``.

    Examples:
      >>> print(onecycle_momentum(jnp.asarray([0.0, 0.45, 0.9, 1.0])))
      [0.95 0.85 0.95 0.95]
    """
    progress = as_progress(progress)
    high, low = (jnp.asarray(x, progress.dtype) for x in (high, low))
    up, down, _ = _cycle_phases(progress, rise, fall)
    return high + (low - high) * (up - down)


def _cycle_phases(
    progress: jax.Array, rise: ArrayLike, fall: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """How far (0..1) the rising, falling and annihilating phases of a 1cycle have come."""
    rise, fall = (jnp.asarray(x, progress.dtype) for x in (rise, fall))
    up = jnp.clip(progress / rise, 0, 1)
    down = jnp.clip((progress - rise) / (fall - rise), 0, 1)
    length = jnp.where(fall < 1, 1 - fall, 1)
    return up, down, jnp.clip((progress - fall) / length, 0, 1)


def as_optax(
    schedule: Callable[..., jax.Array], total_updates: ArrayLike, **overrides: Any
) -> Callable[[ArrayLike], jax.Array]:
    """An optax schedule (update count to value) made of a schedule of progress.

    Update ``count`` (from 0) sees the progress made before it, ``count / total_updates``. A
    learning rate is ``lambda count: peak * as_optax(schedule, total)(count)``.

    Args:
      schedule: any function of this module, or one of :data:`SCHEDULES` as configured.
      total_updates: updates in the budget; may be traced.
      **overrides: passed on to the schedule.

    Returns:
      The function of the update count.
    """

    def of_count(count: ArrayLike) -> jax.Array:
        dtype = jnp.result_type(float)
        done = jnp.asarray(count).astype(dtype) / jnp.asarray(total_updates).astype(dtype)
        return schedule(done, **overrides)

    return of_count
