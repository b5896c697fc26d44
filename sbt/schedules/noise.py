r"""Gradient noise: the degree to which it smooths the objective, and schedules of it.

In their view the noise of the search direction smooths the objective,
:math:`\hat f_\delta(x) = E_u f(x - \delta u)`, by a *degree of smoothing* :math:`\delta`, a length
in parameter space. It follows from the learning rate :math:`\eta`, the batch size :math:`b`, the
momentum :math:`\beta`, the variance :math:`C^2` of a per-example gradient and a bound :math:`K` on
the norm of the full gradient:

.. math::

  \delta_{\rm SGD} = \eta\sqrt{C^2/b}, \qquad
  \delta_{\rm SHB} = \eta\sqrt{C^2/b + \hat\beta\,(C^2/b + K^2)}, \qquad
  \delta_{\rm NSHB} = \eta\sqrt{C^2/b + 4\beta^2\,(C^2/b + K^2)}

with :math:`\hat\beta = \beta(\beta^2-\beta+1)/(1-\beta)^2`. SHB is :func:`sbt.optim.sgd` with
momentum, NSHB is :func:`sbt.optim.normalized_shb`.

All functions take numbers or traced scalars.

Implicit graduated optimisation lowers :math:`\delta` along :math:`\delta(p) = \delta_0 (1-p)^q`,
:math:`p` being progress (the paper's factors :math:`\gamma_m = ((M-m)/(M-m+1))^q` multiply to
this). The schedules below, :data:`NOISE`, differ in which of learning rate, batch size and momentum
brings it about.

In the authors' code the factor of the first epoch is :math:`(M/(M+1))^q`, one epoch off the text;
here :math:`\delta` falls as the text says, together with ``lr``. Their code makes a new optimiser
every epoch, which empties the momentum buffer: a choice of the caller here.

Examples:
  >>> start = Settings(jnp.asarray(0.1), jnp.asarray(256.0), jnp.asarray(0.9))
  >>> for name in ("lr", "lr-batch", "beta", "lr-beta"):
  ...     now = NOISE[name](0.5, start, variance=25.318, gradient_bound=1.77)
  ...     delta = degree_of_smoothing(*now, variance=25.318, gradient_bound=1.77)
  ...     print(name, *(f"{x:.4g}" for x in (*now, delta)))
  lr 0.05359 256 0.9 0.872
  lr-batch 0.05398 477.7 0.9 0.872
  beta 0.1 256 0.8264 0.872
  lr-beta 0.0732 256 0.8677 0.872

References:
  Sato and Iiduka, `Role of Momentum in Smoothing Objective Function and Generalizability of Deep
  Neural Networks <https://arxiv.org/abs/2402.02325>`_, 2024 (v4 is retitled "Momentum Does Not
  Reduce Stochastic Noise in Stochastic Gradient Descent")
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from sbt.choice import Registry
from sbt.errors import UserError, shown
from sbt.ranges import COUNT, NON_NEGATIVE, POSITIVE
from sbt.schedules import lr as curves
from sbt.schedules.lr import as_progress, poly, reached
from sbt.schedules.settings import Settings

# The authors' exponents of batch growth, by batch size at the start.
BATCH_BALANCE = {16: 1.503, 32: 1.335, 64: 1.169, 128: 1.0, 256: 0.8354, 512: 2 / 3, 1024: 0.5}

Form = Literal["sgd", "shb", "nshb"]


def _floats(*values: ArrayLike) -> tuple[jax.Array, ...]:
    dtype = jnp.result_type(float)
    return tuple(jnp.asarray(v).astype(dtype) for v in values)


def _momentum_factor(beta: jax.Array, form: str) -> jax.Array:
    if form == "sgd":
        return jnp.zeros_like(beta)
    if form == "shb":
        return shb_noise_factor(beta)
    if form == "nshb":
        return 4 * beta * beta
    raise UserError("form", f"unknown form {shown(form)}", "use 'sgd', 'shb' or 'nshb'")


def shb_noise_factor(momentum: ArrayLike) -> jax.Array:
    r""":math:`\hat\beta = \beta(\beta^2-\beta+1)/(1-\beta)^2`, which grows from 0 without bound.

    >>> print(f'{shb_noise_factor(0.5):.2f} {shb_noise_factor(0.9):.2f}')
    1.50 81.90
    """
    (beta,) = _floats(momentum)
    return beta * (beta * beta - beta + 1) / jnp.square(1 - beta)


def degree_of_smoothing(
    learning_rate: ArrayLike,
    batch_size: ArrayLike,
    momentum: ArrayLike = 0.0,
    *,
    variance: ArrayLike,
    gradient_bound: ArrayLike = 0.0,
    form: Form = "shb",
) -> jax.Array:
    r"""The degree of smoothing :math:`\delta`, a length in parameter space.

    Args:
      learning_rate: :math:`\eta`, in mean form.
      batch_size: :math:`b`, examples per update.
      momentum: :math:`\beta \in [0, 1)`; ignored by ``'sgd'``.
      variance: :math:`C^2`, expected squared distance of a per-example gradient from the full one.
      gradient_bound: :math:`K`, bound on the norm of the full gradient.
      form: ``'sgd'``, ``'shb'`` or ``'nshb'``, see the module.

    Raises:
      UserError: for another ``form``.

    >>> print(f"{degree_of_smoothing(0.1, 256, 0.9, variance=25.318, gradient_bound=1.77):.4f}")
    1.6272
    """
    eta, b, beta, c2, k = _floats(learning_rate, batch_size, momentum, variance, gradient_bound)
    extra = _momentum_factor(beta, form) * (c2 / b + k * k)
    return eta * jnp.sqrt(c2 / b + extra)


def learning_rate_for_smoothing(
    smoothing: ArrayLike,
    batch_size: ArrayLike,
    momentum: ArrayLike = 0.0,
    *,
    variance: ArrayLike,
    gradient_bound: ArrayLike = 0.0,
    form: Form = "shb",
) -> jax.Array:
    r"""The learning rate :math:`\eta` that gives a degree of smoothing.

    Args:
      smoothing: :math:`\delta`.
      batch_size: :math:`b`; the other arguments are those of :func:`degree_of_smoothing`.
      momentum: :math:`\beta`.
      variance: :math:`C^2`.
      gradient_bound: :math:`K`.
      form: ``'sgd'``, ``'shb'`` or ``'nshb'``.
    """
    per_rate = degree_of_smoothing(
        1.0, batch_size, momentum, variance=variance, gradient_bound=gradient_bound, form=form
    )
    return jnp.asarray(smoothing).astype(per_rate.dtype) / per_rate


def momentum_for_noise_factor(noise_factor: ArrayLike) -> jax.Array:
    r"""The :math:`\beta \in [0, 1)` with :math:`\hat\beta` = ``noise_factor`` :math:`=: q`.

    It is the root in [0, 1) of the paper's cubic

    .. math:: \beta^3 - (1+q)\beta^2 + (1+2q)\beta - q = 0,

    of which there is exactly one, because :math:`\hat\beta` increases from 0 without bound there;
    further roots lie above 1. Found by bisection to the last bit.

    Args:
      noise_factor: :math:`q`; 0 or less gives 0.

    >>> print(f'{momentum_for_noise_factor(81.9):.4f}')
    0.9000
    """
    (q,) = _floats(noise_factor)

    def halve(_: Any, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high) / 2
        below = shb_noise_factor(middle) < q
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    start = (jnp.zeros_like(q), jnp.ones_like(q))
    low, high = jax.lax.fori_loop(0, int(jnp.finfo(q.dtype).nmant) + 8, halve, start)
    return jnp.where(q > 0, (low + high) / 2, jnp.zeros_like(q))


def momentum_for_smoothing(
    smoothing: ArrayLike,
    learning_rate: ArrayLike,
    batch_size: ArrayLike,
    *,
    variance: ArrayLike,
    gradient_bound: ArrayLike = 0.0,
    form: Form = "shb",
) -> jax.Array:
    r"""The momentum that gives a degree of smoothing, or 0 where even that smooths more.

    .. math::

      q = \frac{\delta^2/\eta^2 - C^2/b}{C^2/b + K^2}, \qquad
      \beta_{\rm SHB} = \hat\beta^{-1}(q), \qquad \beta_{\rm NSHB} = \tfrac12\sqrt q

    Args:
      smoothing: :math:`\delta`.
      learning_rate: :math:`\eta`.
      batch_size: :math:`b`.
      variance: :math:`C^2`.
      gradient_bound: :math:`K`.
      form: ``'shb'`` or ``'nshb'``.

    Raises:
      UserError: for another ``form``.
    """
    delta, eta, b, c2, k = _floats(smoothing, learning_rate, batch_size, variance, gradient_bound)
    q = (jnp.square(delta / eta) - c2 / b) / (c2 / b + k * k)
    if form == "shb":
        return momentum_for_noise_factor(q)
    if form == "nshb":
        return jnp.sqrt(jnp.maximum(q, 0)) / 2
    raise UserError("form", f"{form!r} has no momentum to choose", "use 'shb' or 'nshb'")


def variance_from_critical_batch(
    critical_batch: ArrayLike,
    tolerance: ArrayLike,
    learning_rate: ArrayLike,
    momentum: ArrayLike = 0.0,
    form: Form = "sgd",
) -> jax.Array:
    r"""Estimates :math:`C^2` from a measured critical batch size :math:`b^\star`.

    .. math::

      C^2_{\rm SGD} = \frac{b^\star\epsilon^2}{\eta}, \qquad
      C^2_{\rm SHB} = \frac{b^\star\epsilon^2\,\beta(1-\beta)^2}{\eta\,(\beta^2-\beta+1)}

    :math:`b^\star` minimises the examples until the running mean of the mini-batch gradient norm is
    at most :math:`\epsilon`. The SHB form is inferred from the constants of the authors' code
    (:math:`b^\star\epsilon^2 = 256,\ \eta = 0.1,\ \beta = 0.9` give their 25.318); one without
    :math:`\eta` and with one power of :math:`1-\beta` fits the same numbers. None is known for
    NSHB.

    Args:
      critical_batch: :math:`b^\star`, examples.
      tolerance: :math:`\epsilon`, a gradient norm.
      learning_rate: :math:`\eta` of the measurement.
      momentum: :math:`\beta` of the measurement.
      form: ``'sgd'`` or ``'shb'``.

    Raises:
      UserError: for another ``form``.

    >>> print(f"{variance_from_critical_batch(1024, 0.5, 0.1, 0.9, form='shb'):.3f}")
    25.319
    """
    b, epsilon, eta, beta = _floats(critical_batch, tolerance, learning_rate, momentum)
    if form == "sgd":
        return b * epsilon**2 / eta
    if form == "shb":
        return b * epsilon**2 * beta * (1 - beta) ** 2 / (eta * (beta * beta - beta + 1))
    raise UserError("form", f"no inversion is known for {form!r}", "use 'sgd' or 'shb'")


def in_epochs(
    method: Callable[..., Settings],
    progress: ArrayLike,
    start: Settings,
    *,
    variance: Annotated[ArrayLike, POSITIVE] = 25.0,
    gradient_bound: Annotated[ArrayLike, NON_NEGATIVE] = 0.0,
    form: Form = "shb",
    power: Annotated[ArrayLike, POSITIVE] = 0.9,
    epochs: Annotated[ArrayLike, NON_NEGATIVE] = 0.0,
    balance: Annotated[ArrayLike, NON_NEGATIVE] = 1.0,
    largest_batch: Annotated[ArrayLike, COUNT] = 50_000.0,
) -> Settings:
    r"""Learning rate, batch size and momentum at some progress, under one of the paper's methods.

    Args:
      method: one of this module.
      progress: fraction of the budget.
      start: the values at progress 0.
      variance: :math:`C^2`.
      gradient_bound: :math:`K`.
      form: of the momentum.
      power: :math:`q`; for ``exp`` the factor of an epoch.
      epochs: :math:`M`: progress is rounded down to whole epochs; 0 leaves it continuous (and is
        not for ``exp``).
      balance: exponent of the batch growth over :math:`q`; the authors' values are in
        :data:`BATCH_BALANCE`.
      largest_batch: bound on the batch size, at most the number of training examples.

    Returns:
      The settings; the batch size is not rounded.

    Raises:
      UserError: for another ``form``.
    """
    p = as_progress(progress)

    def cast(value: ArrayLike) -> jax.Array:
        return jnp.asarray(value).astype(p.dtype)

    m = cast(epochs)
    following = jnp.round(p * m)
    whole = following - jnp.where(reached(p * m, following), 0, 1)
    p = jnp.where(m > 0, whole / jnp.where(m > 0, m, 1), p)
    return method(
        p,
        Settings(*map(cast, start)),
        power=cast(power),
        epochs=m,
        balance=cast(balance),
        largest_batch=cast(largest_batch),
        constants={"variance": variance, "gradient_bound": gradient_bound, "form": form},
    )


NOISE = Registry(
    "noise", shared=in_epochs, elsewhere={"form": "It follows from config.rule.name."},
    default="none",
)  # fmt: skip
_SOURCE = "Sato and Iiduka 2024, arXiv 2402.02325"


def _check_epochs(where: str, values: Mapping[str, Any]) -> None:
    if values["epochs"] == 0:
        problem = "0 epochs, and 'exp' multiplies once in each"
        raise UserError(f"{where}.epochs", problem, "give more")


@NOISE.register("none", alone=True)
def none(progress: ArrayLike, start: Settings) -> Settings:
    """Nothing changes."""
    return start


def _scaled_rate(start: Settings, multiplier: jax.Array) -> Settings:
    return start._replace(learning_rate=start.learning_rate * multiplier)


@NOISE.register("lr", source=_SOURCE)
def lr(progress: jax.Array, start: Settings, *, power: Any, **_: Any) -> Settings:
    r"""By the learning rate: :math:`\eta = \eta_0 (1-p)^q`."""
    return _scaled_rate(start, poly(progress, power))


@NOISE.register("cosine", source=_SOURCE)
def cosine(progress: jax.Array, start: Settings, **_: Any) -> Settings:
    r"""Cosine annealing: :math:`\eta = \eta_0 (1 + \cos \pi p) / 2`."""
    return _scaled_rate(start, curves.cosine(progress))


@NOISE.register(
    "exp",
    source=_SOURCE,
    check=_check_epochs,
    defaults={"power": 0.99, "epochs": 200.0},
)
def exp(progress: jax.Array, start: Settings, *, power: Any, epochs: Any, **_: Any) -> Settings:
    r"""The learning rate times ``power`` every epoch: :math:`\eta = \eta_0 q^{pM}`."""
    return _scaled_rate(start, curves.exponential(progress, power**epochs))


@NOISE.register("lr-batch", source=_SOURCE)
def lr_batch(
    progress: jax.Array,
    start: Settings,
    *,
    power: Any,
    balance: Any,
    largest_batch: Any,
    constants: dict[str, Any],
    **_: Any,
) -> Settings:
    r"""By rate and batch: :math:`b = b_0 (1-p)^{-qr}`, and :math:`\eta` solved from :math:`\delta`.

    The exponent :math:`r` is ``balance``.
    """
    delta = degree_of_smoothing(*start, **constants) * poly(progress, power)
    left = poly(progress, power * balance)
    batch = jnp.minimum(start.batch_size / jnp.where(left > 0, left, 1e-30), largest_batch)
    rate = learning_rate_for_smoothing(delta, batch, start.momentum, **constants)
    return Settings(rate, batch, start.momentum)


@NOISE.register("beta", source=_SOURCE)
def beta(
    progress: jax.Array, start: Settings, *, power: Any, constants: dict[str, Any], **_: Any
) -> Settings:
    r"""By momentum: :math:`\beta` solved from :math:`\delta`; 0 once that smooths too much."""
    delta = degree_of_smoothing(*start, **constants) * poly(progress, power)
    momentum = momentum_for_smoothing(delta, start.learning_rate, start.batch_size, **constants)
    return start._replace(momentum=momentum)


@NOISE.register("lr-beta", source=_SOURCE)
def lr_beta(
    progress: jax.Array, start: Settings, *, power: Any, constants: dict[str, Any], **_: Any
) -> Settings:
    r"""By both: :math:`\eta = \eta_0 (1-p)^{q/2}`, :math:`\beta` solved from :math:`\delta`."""
    delta = degree_of_smoothing(*start, **constants) * poly(progress, power)
    rate = start.learning_rate * poly(progress, power / 2)
    safe = jnp.where(rate > 0, rate, start.learning_rate)
    momentum = momentum_for_smoothing(delta, safe, start.batch_size, **constants)
    return Settings(rate, start.batch_size, momentum)
