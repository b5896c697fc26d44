r"""Accelerated and multi-stage heavy ball for strongly convex functions.

Methods of Dang, Babanezhad & Vaswani (2024), of the form of :func:`sbt.optim.scale_by_shb`.
The paper writes them with the smoothness :math:`L` and the strong
convexity :math:`\mu`. Here the learning rate is the step size of the first update, and the problem
enters through two numbers without units: the condition number :math:`\kappa = L/\mu` and
``relative_step`` :math:`= \alpha_0 L`. So a sweep over learning rates stays a sweep over learning
rates, and :math:`\alpha_0\mu = \alpha_0 L/\kappa`.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from sbt.optim import base
from sbt.optim.shb import at_count, scale_by_shb

# W(x) / ln sqrt(2) stays below 64 for every horizon below 10^12 updates.
_MOST_STAGES = 64

Coefficients = tuple[jax.Array, jax.Array]  # step size over the learning rate, momentum


def as_floats(*values: Any) -> tuple[jax.Array, ...]:
    """Hyperparameters as scalars of one floating-point dtype (double where that is enabled)."""
    dtype = jnp.result_type(float)
    return tuple(jnp.asarray(v).astype(dtype) for v in values)


def ceil_to_int(x: jax.Array) -> jax.Array:
    """The next integer, as int32; a rounding error above an integer does not count."""
    return jnp.ceil(x * (1 - 2 * float(jnp.finfo(x.dtype).eps))).astype(jnp.int32)


def rule_from_coefficients(
    learning_rate: base.Scalar | base.Schedule, coefficients: Any
) -> base.Rule:
    """Heavy ball from a function of the update count to :data:`Coefficients`."""

    def step_size(count: jax.Array) -> jax.Array:
        (rate,) = as_floats(at_count(learning_rate, count))
        return rate * coefficients(count)[0]

    return base.chain(scale_by_shb(step_size, lambda count: coefficients(count)[1]))


def accelerated_momentum(condition_number: Any, relative_step: Any = 1.0) -> jax.Array:
    r"""Momentum of accelerated SHB, :math:`\beta = (1 - \tfrac12\sqrt{\alpha\mu})^2`.

    Args:
      condition_number: :math:`\kappa = L/\mu`.
      relative_step: :math:`a = \alpha L`; 1 for the full gradient. The authors' experiments take
        :math:`a = 1/((1 - b/n)\sqrt\kappa)` for a batch of :math:`b < n` of :math:`n` examples.

    >>> print(f'{accelerated_momentum(100.0):.4f}')
    0.9025
    """
    kappa, a = as_floats(condition_number, relative_step)
    return jnp.square(1 - jnp.sqrt(a / kappa) / 2)


def accelerated_shb(
    learning_rate: base.Scalar | base.Schedule,
    condition_number: base.AtLeastOne = 100.0,
    relative_step: base.Positive = 1.0,
) -> base.Rule:
    r"""Accelerated SHB with constant coefficients, for quadratics and large batches.

    .. math:: \alpha = a/L, \qquad \beta = (1 - \tfrac12\sqrt{\alpha\mu})^2

    It contracts like :math:`\exp(-T/\sqrt\kappa)` down to a neighbourhood set by the noise, once
    the batch exceeds a threshold that depends on :math:`\kappa`; with smaller batches it may
    diverge.

    Args:
      learning_rate: :math:`\alpha`: number, traced scalar or schedule.
      condition_number: :math:`\kappa = L/\mu \ge 1`.
      relative_step: :math:`a = \alpha L`, see :func:`accelerated_momentum`.

    Returns:
      The update rule.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt import optim
      >>> rule = optim.accelerated_shb(0.5, condition_number=4.0)
      >>> w = jnp.asarray([1.0])
      >>> state = rule.init(w)
      >>> for _ in range(2):
      ...     step, state = rule.update(jnp.asarray([1.0]), state, w)
      ...     print(step)
      [-0.5]
      [-0.78125]

    References:
      Dang, Babanezhad and Vaswani, `(Accelerated) Noise-adaptive Stochastic Heavy-Ball Momentum
      <https://arxiv.org/abs/2401.06738>`_, 2024
    """
    momentum = accelerated_momentum(condition_number, relative_step)
    return base.chain(scale_by_shb(learning_rate, momentum))


def _lambert_w(x: jax.Array) -> jax.Array:
    """The principal branch of Lambert's W for x >= 0, by Halley's iteration."""
    w = jnp.log1p(x)
    for _ in range(6):
        e = jnp.exp(w)
        f = w * e - x
        w = w - f / (e * (w + 1) - (w + 2) * f / (2 * w + 2))
    return w


def multistage_boundaries(
    total_updates: base.AtLeastOne, condition_number: base.Scalar, first_fraction: base.Scalar = 0.4
) -> tuple[jax.Array, jax.Array]:
    r"""Where the stages of :func:`multistage_shb` end.

    .. math::

      T_0 = \lceil cT \rceil, \qquad
      T_i = \Bigl\lceil (T - T_0)\, 2^{i/2} \Big/ \sum_{j=1}^{I} 2^{j/2} \Bigr\rceil
      \quad (i = 1 \dots I), \qquad
      I = \Bigl\lfloor W\bigl(\tfrac{T \ln 2}{2\sqrt\kappa}\bigr) \Big/ \ln\sqrt2 \Bigr\rfloor

    with Lambert's :math:`W`. Rounding up leaves the last stage up to :math:`I` updates short.

    Args:
      total_updates: :math:`T`; may be traced.
      condition_number: :math:`\kappa`; may be traced.
      first_fraction: :math:`c`, share of the first stage.

    Returns:
      ``(ends, last)``: int32 array of 64 entries, of which entry i < I is the update count at which
      stage i ends, and int32 :math:`I`. Stage I ends with the training.

    >>> ends, last = multistage_boundaries(1000, 100.0)
    >>> print(last, ends[:5])
    7 [400 425 460 509 578]
    """
    total, kappa, c = as_floats(total_updates, condition_number, first_fraction)
    last = jnp.floor(_lambert_w(total * jnp.log(2.0) / (2 * jnp.sqrt(kappa))) / (jnp.log(2.0) / 2))
    first = ceil_to_int(c * total)
    i = jnp.arange(1, _MOST_STAGES, dtype=total.dtype)
    share = jnp.where(i <= last, jnp.exp2(i / 2), 0)
    left = total - first.astype(total.dtype)
    lengths = ceil_to_int(left * share / jnp.maximum(jnp.sum(share), 1))
    ends = jnp.cumsum(jnp.concatenate([first[None], lengths]), dtype=jnp.int32)
    return ends, last.astype(jnp.int32)


def multistage_coefficients(
    count: jax.typing.ArrayLike,
    total_updates: base.AtLeastOne,
    condition_number: base.AtLeastOne,
    first_fraction: base.Fraction = 0.4,
    momentum: Literal["stage", "constant"] = "stage",
) -> Coefficients:
    """``(step size / learning rate, momentum)`` of update ``count`` of :func:`multistage_shb`.

    Its arguments are those of the rule; numbers may be traced.

    Args:
      count: updates made before this one.
      total_updates: see :func:`multistage_shb`.
      condition_number: see :func:`multistage_shb`.
      first_fraction: see :func:`multistage_shb`.
      momentum: see :func:`multistage_shb`.

    Returns:
      Two scalars without unit: multiply the first by the learning rate.

    Raises:
      UserError: for another ``momentum``.
    """
    base.one_of("momentum", momentum, ("stage", "constant"))
    ends, last = multistage_boundaries(total_updates, condition_number, first_fraction)
    (kappa,) = as_floats(condition_number)
    index = jnp.arange(_MOST_STAGES, dtype=jnp.int32)
    begun = jnp.asarray(count).astype(jnp.int32) >= ends
    stage = jnp.sum(begun & (index < last)).astype(kappa.dtype)
    step = jnp.exp2(-stage)
    return step, accelerated_momentum(kappa, step if momentum == "stage" else 1.0)


def multistage_shb(
    learning_rate: base.Scalar | base.Schedule,
    total_updates: base.AtLeastOne,
    condition_number: base.AtLeastOne = 100.0,
    first_fraction: base.Fraction = 0.4,
    *,
    momentum: Literal["stage", "constant"] = "stage",
) -> base.Rule:
    r"""Multi-stage SHB: accelerated, then halved steps in ever longer stages against the noise.

    .. math:: \alpha_i = \frac{1}{2^i L}, \qquad \beta_i = (1 - \tfrac12\sqrt{\alpha_i\mu})^2

    in stage :math:`i = 0 \dots I`; see :func:`multistage_boundaries` for their lengths. The theory
    asks for :math:`T \ge 2\kappa`.

    Choices: :math:`c = 0.4` as in the authors' code, and all lengths rounded up. Their code rounds
    :math:`T_0` down but starts every later stage one update late.

    Args:
      learning_rate: :math:`1/L`, step size of stage 0: number, traced scalar or schedule (which
        then multiplies the stages).
      total_updates: :math:`T`, updates in the budget; may be traced.
      condition_number: :math:`\kappa = L/\mu \ge 1`.
      first_fraction: :math:`c`, share of stage 0.
      momentum: ``'stage'`` for :math:`\beta_i` as above; ``'constant'`` for :math:`\beta_0`
        throughout, a variant of the authors' experiments.

    Returns:
      The update rule.

    Raises:
      UserError: for another ``momentum``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt.optim.shb_stages import multistage_coefficients
      >>> for count in (0, 400, 999):
      ...     step, beta = multistage_coefficients(count, 1000, 100.0)
      ...     print(f'{step:.4f} {beta:.4f}')
      1.0000 0.9025
      0.5000 0.9305
      0.0078 0.9912

    References:
      Dang, Babanezhad and Vaswani, `(Accelerated) Noise-adaptive Stochastic Heavy-Ball Momentum
      <https://arxiv.org/abs/2401.06738>`_, 2024
    """

    def at(count: jax.Array) -> Coefficients:
        return multistage_coefficients(
            count, total_updates, condition_number, first_fraction, momentum
        )

    return rule_from_coefficients(learning_rate, at)
