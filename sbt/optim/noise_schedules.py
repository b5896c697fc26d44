r"""Schedules of gradient noise: learning rate, batch and momentum at once (Sato & Iiduka, 2024).

Implicit graduated optimisation lowers :math:`\delta` along :math:`\delta(p) = \delta_0 (1-p)^q`,
:math:`p` being progress (the paper's factors :math:`\gamma_m = ((M-m)/(M-m+1))^q` multiply to
this). The methods differ in which of the three quantities brings it about.

References:
  Sato and Iiduka, `Role of Momentum in Smoothing Objective Function and Generalizability of Deep
  Neural Networks <https://arxiv.org/abs/2402.02325>`_, 2024
"""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from sbt.errors import UserError
from sbt.optim.schedule_shapes import as_progress, cosine, exponential, poly, reached
from sbt.optim.smoothing_degree import (
    Form,
    degree_of_smoothing,
    learning_rate_for_smoothing,
    momentum_for_noise_factor,
    momentum_for_smoothing,
    shb_noise_factor,
    variance_from_critical_batch,
)
from sbt.ranges import COUNT, NON_NEGATIVE, POSITIVE

__all__ = [
    "BATCH_BALANCE",
    "NOISE_SCHEDULES",
    "NoiseSettings",
    "degree_of_smoothing",
    "learning_rate_for_smoothing",
    "momentum_for_noise_factor",
    "momentum_for_smoothing",
    "noise_settings",
    "shb_noise_factor",
    "variance_from_critical_batch",
]

# The authors' exponents of batch growth, by batch size at the start.
BATCH_BALANCE = {16: 1.503, 32: 1.335, 64: 1.169, 128: 1.0, 256: 0.8354, 512: 2 / 3, 1024: 0.5}


class NoiseSettings(NamedTuple):
    """What an update uses."""

    learning_rate: jax.Array  # mean form
    batch_size: jax.Array  # examples, not rounded
    momentum: jax.Array


def _constant(progress: jax.Array, start: NoiseSettings, **_: Any) -> NoiseSettings:
    return start


def _scaled_rate(progress: jax.Array, start: NoiseSettings, multiplier: Any) -> NoiseSettings:
    return start._replace(learning_rate=start.learning_rate * multiplier)


def _lr(progress: jax.Array, start: NoiseSettings, *, power: Any, **_: Any) -> NoiseSettings:
    return _scaled_rate(progress, start, poly(progress, power))


def _cosine(progress: jax.Array, start: NoiseSettings, **_: Any) -> NoiseSettings:
    return _scaled_rate(progress, start, cosine(progress))


def _exp(
    progress: jax.Array, start: NoiseSettings, *, power: Any, epochs: Any, **_: Any
) -> NoiseSettings:
    return _scaled_rate(progress, start, exponential(progress, power**epochs))


def _lr_batch(
    progress: jax.Array,
    start: NoiseSettings,
    *,
    power: Any,
    balance: Any,
    largest_batch: Any,
    constants: dict[str, Any],
    **_: Any,
) -> NoiseSettings:
    delta = degree_of_smoothing(*start, **constants) * poly(progress, power)
    left = poly(progress, power * balance)
    batch = jnp.minimum(start.batch_size / jnp.where(left > 0, left, 1e-30), largest_batch)
    rate = learning_rate_for_smoothing(delta, batch, start.momentum, **constants)
    return NoiseSettings(rate, batch, start.momentum)


def _beta(
    progress: jax.Array, start: NoiseSettings, *, power: Any, constants: dict[str, Any], **_: Any
) -> NoiseSettings:
    delta = degree_of_smoothing(*start, **constants) * poly(progress, power)
    momentum = momentum_for_smoothing(delta, start.learning_rate, start.batch_size, **constants)
    return start._replace(momentum=momentum)


def _lr_beta(
    progress: jax.Array, start: NoiseSettings, *, power: Any, constants: dict[str, Any], **_: Any
) -> NoiseSettings:
    delta = degree_of_smoothing(*start, **constants) * poly(progress, power)
    rate = start.learning_rate * poly(progress, power / 2)
    safe = jnp.where(rate > 0, rate, start.learning_rate)
    momentum = momentum_for_smoothing(delta, safe, start.batch_size, **constants)
    return NoiseSettings(rate, start.batch_size, momentum)


NOISE_SCHEDULES: dict[str, Callable[..., NoiseSettings]] = {
    "constant": _constant,
    "lr": _lr,
    "lr-batch": _lr_batch,
    "beta": _beta,
    "lr-beta": _lr_beta,
    "cosine": _cosine,
    "exp": _exp,
}


def noise_settings(
    name: str,
    progress: ArrayLike,
    start: NoiseSettings,
    *,
    variance: Annotated[ArrayLike, POSITIVE],
    gradient_bound: Annotated[ArrayLike, NON_NEGATIVE] = 0.0,
    form: Form = "shb",
    power: Annotated[ArrayLike, POSITIVE] = 0.9,
    epochs: Annotated[ArrayLike, NON_NEGATIVE] = 200.0,
    balance: Annotated[ArrayLike, NON_NEGATIVE] = 1.0,
    largest_batch: Annotated[ArrayLike, COUNT] = 50_000.0,
) -> NoiseSettings:
    r"""Learning rate, batch size and momentum at some progress, under one of the paper's methods.

    ==============  ================================================================================
    ``constant``    nothing changes
    ``lr``          :math:`\eta = \eta_0 (1-p)^q`
    ``lr-batch``    :math:`b = b_0 (1-p)^{-q\cdot{\rm balance}}`, :math:`\eta` solved from
                    :math:`\delta`
    ``beta``        :math:`\beta` solved from :math:`\delta`; 0 once even that smooths too much
    ``lr-beta``     :math:`\eta = \eta_0 (1-p)^{q/2}`, :math:`\beta` solved from :math:`\delta`
    ``cosine``      :math:`\eta = \eta_0 (1 + \cos \pi p) / 2`
    ``exp``         :math:`\eta` times ``power`` every epoch
    ==============  ================================================================================

    In the authors' code the factor of the first epoch is :math:`(M/(M+1))^q`, one epoch off the
    text; here :math:`\delta` falls as the text says, together with ``lr``. Their code makes a new
    optimiser every epoch, which empties the momentum buffer: a choice of the caller here.

    Args:
      name: a key of :data:`NOISE_SCHEDULES`.
      progress: fraction of the budget.
      start: the values at progress 0.
      variance: :math:`C^2`.
      gradient_bound: :math:`K`.
      form: of the momentum, see :mod:`sbt.optim.smoothing_degree`.
      power: :math:`q`; for ``exp`` the factor of an epoch.
      epochs: :math:`M`: progress is rounded down to whole epochs; 0 leaves it continuous (and is
        not for ``exp``).
      balance: exponent of the batch growth over :math:`q`; the authors' values are in
        :data:`BATCH_BALANCE`.
      largest_batch: bound on the batch size, at most the number of training examples.

    Returns:
      The settings; the batch size is not rounded.

    Raises:
      UserError: for another ``name`` or ``form``.

    Examples:
      >>> import jax.numpy as jnp
      >>> start = NoiseSettings(jnp.asarray(0.1), jnp.asarray(256.0), jnp.asarray(0.9))
      >>> for name in ('lr', 'lr-batch', 'beta', 'lr-beta'):
      ...     now = noise_settings(name, 0.5, start, variance=25.318, gradient_bound=1.77)
      ...     delta = degree_of_smoothing(*now, variance=25.318, gradient_bound=1.77)
      ...     print(name, *(f'{x:.4g}' for x in (*now, delta)))
      lr 0.05359 256 0.9 0.872
      lr-batch 0.05398 477.7 0.9 0.872
      beta 0.1 256 0.8264 0.872
      lr-beta 0.0732 256 0.8677 0.872
    """
    if name not in NOISE_SCHEDULES:
        raise UserError(
            "name",
            f"no noise schedule is called {name!r}",
            f"use one of {', '.join(sorted(NOISE_SCHEDULES))}",
        )
    p = as_progress(progress)

    def cast(value: ArrayLike) -> jax.Array:
        return jnp.asarray(value).astype(p.dtype)

    m = cast(epochs)
    following = jnp.round(p * m)
    whole = following - jnp.where(reached(p * m, following), 0, 1)
    p = jnp.where(m > 0, whole / jnp.where(m > 0, m, 1), p)
    return NOISE_SCHEDULES[name](
        p,
        NoiseSettings(*map(cast, start)),
        power=cast(power),
        epochs=m,
        balance=cast(balance),
        largest_batch=cast(largest_batch),
        constants={"variance": variance, "gradient_bound": gradient_bound, "form": form},
    )
