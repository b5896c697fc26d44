r"""Heavy ball with exponentially falling steps, alone and after an accelerated phase.

Methods of Dang, Babanezhad & Vaswani (2024), of the form of :func:`sbt.optim.scale_by_shb`, in the
units of :mod:`sbt.optim.shb_stages`: learning rate, condition number :math:`\kappa = L/\mu`, and
``relative_step``, the learning rate times :math:`L`.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from sbt.optim import base
from sbt.optim.shb_stages import Coefficients, as_floats, ceil_to_int, rule_from_coefficients


def exponential_coefficients(
    count: jax.typing.ArrayLike,
    total_updates: base.AtLeastOne,
    condition_number: base.AtLeastOne,
    relative_step: base.HalfAtMost = 0.5,
    final: base.Scalar | None = None,
) -> Coefficients:
    """``(step size / learning rate, momentum)`` of update ``count`` of :func:`exponential_shb`.

    Its arguments are those of the rule; numbers may be traced.

    Args:
      count: updates made before this one.
      total_updates: see :func:`exponential_shb`.
      condition_number: see :func:`exponential_shb`.
      relative_step: see :func:`exponential_shb`.
      final: see :func:`exponential_shb`.

    Returns:
      Two scalars without unit: multiply the first by the learning rate.
    """
    k, total, kappa, relative = as_floats(count, total_updates, condition_number, relative_step)
    (end,) = as_floats(1 / total if final is None else final)

    def eta(k: jax.Array) -> jax.Array:  # over gamma
        return end ** (k / total)

    def eta_mu(k: jax.Array) -> jax.Array:
        return eta(k) * relative / kappa

    def lamb(k: jax.Array) -> jax.Array:
        # (1 - (1 - x)^k) / x without cancellation for small x
        geometric = -jnp.expm1(k * jnp.log1p(-eta_mu(k))) / eta_mu(k)
        return (1 - 2 * relative * eta(jnp.ones_like(k))) * geometric

    after = 1 + lamb(k + 1)
    return eta(k) / after, lamb(k) * (1 - eta_mu(k)) / after


def exponential_shb(
    learning_rate: base.Scalar | base.Schedule,
    total_updates: base.AtLeastOne,
    condition_number: base.AtLeastOne = 100.0,
    relative_step: base.HalfAtMost = 0.5,
    *,
    final: base.Scalar | None = None,
) -> base.Rule:
    r"""SHB with exponentially falling steps, for smooth strongly convex functions.

    .. math::

      \eta_k = \gamma \nu^k, \quad
      \lambda_k = \frac{1 - 2\eta_1 L}{\eta_k\mu}\bigl(1 - (1-\eta_k\mu)^k\bigr), \quad
      \alpha_k = \frac{\eta_k}{1+\lambda_{k+1}}, \quad
      \beta_k = \frac{\lambda_k (1-\eta_k\mu)}{1+\lambda_{k+1}}

    for updates :math:`k = 0 \dots T-1`, with :math:`\nu = T^{-1/T}`. For constant :math:`\eta`
    this :math:`\lambda` solves :math:`\lambda_{k+1} = (1-\eta\mu)\lambda_k + 1 - 2\eta L` from 0;
    it divides by :math:`\mu` where the authors' code multiplies.

    Two things to know. At :math:`\gamma = 1/(2L)` the factor :math:`1 - 2\eta_1 L = 1 - \nu \approx
    \ln T/T` keeps the momentum nearly off for long, and with ``final=1`` (constant steps) it is 0:
    plain SGD. With :math:`\gamma = 1/(4L)`, ``relative_step=0.25``, momentum acts at once.
    :math:`\eta_0 = \gamma` here; the authors' code uses :math:`\eta_1` there as well.

    Args:
      learning_rate: :math:`\gamma`: number, traced scalar or schedule (which multiplies
        :math:`\alpha_k` only).
      total_updates: :math:`T`, updates in the budget; may be traced.
      condition_number: :math:`\kappa = L/\mu \ge 1`.
      relative_step: :math:`\gamma L`, in (0, 1/2].
      final: :math:`\nu^T`, last over first step size; None for :math:`1/T`. The authors' SHB runs
        also use :math:`10\kappa/T`; 1 gives constant steps (Sebbouh et al., 2021).

    Returns:
      The update rule.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt.optim.shb_exponential import exponential_coefficients
      >>> for count in (0, 10, 99):
      ...     step, beta = exponential_coefficients(count, 100, 10.0, 0.25)
      ...     print(f'{step:.4f} {beta:.4f}')
      0.6568 0.0000
      0.0996 0.7567
      0.0002 0.9705

    References:
      Dang, Babanezhad and Vaswani, `(Accelerated) Noise-adaptive Stochastic Heavy-Ball Momentum
      <https://arxiv.org/abs/2401.06738>`_, 2024
    """

    def at(count: jax.Array) -> Coefficients:
        return exponential_coefficients(
            count, total_updates, condition_number, relative_step, final
        )

    return rule_from_coefficients(learning_rate, at)


def mix_coefficients(
    count: jax.typing.ArrayLike,
    total_updates: base.AtLeastOne,
    condition_number: base.AtLeastOne,
    first_fraction: base.Fraction = 0.5,
    relative_step: base.HalfAtMost = 0.5,
    *,
    momentum: Literal["full", "half"] = "full",
) -> Coefficients:
    """``(step size / learning rate, momentum)`` of update ``count`` of :func:`mix_shb`.

    Its arguments are those of the rule; numbers may be traced.

    Args:
      count: updates made before this one.
      total_updates: see :func:`mix_shb`.
      condition_number: see :func:`mix_shb`.
      first_fraction: see :func:`mix_shb`.
      relative_step: see :func:`mix_shb`.
      momentum: see :func:`mix_shb`.

    Returns:
      Two scalars without unit: multiply the first by the learning rate.

    Raises:
      UserError: for another ``momentum``.
    """
    base.one_of("momentum", momentum, ("full", "half"))
    k, total, kappa, relative, c = as_floats(
        count, total_updates, condition_number, relative_step, first_fraction
    )
    first = ceil_to_int(c * total).astype(k.dtype)
    root = jnp.sqrt(relative / kappa)
    start = jnp.square(1 - (root if momentum == "full" else root / 2))
    # Both arms are computed: keep the second one finite during the first phase.
    step, beta = exponential_coefficients(
        jnp.maximum(k - first, 0), jnp.maximum(total - first, 1), kappa, relative
    )
    early = k < first
    return jnp.where(early, jnp.ones_like(step), step), jnp.where(early, start, beta)


def mix_shb(
    learning_rate: base.Scalar | base.Schedule,
    total_updates: base.AtLeastOne,
    condition_number: base.AtLeastOne = 100.0,
    first_fraction: base.Fraction = 0.5,
    relative_step: base.HalfAtMost = 0.5,
    *,
    momentum: Literal["full", "half"] = "full",
) -> base.Rule:
    r"""Mix-SHB: constant accelerated SHB first, then :func:`exponential_shb` over the rest.

    The first :math:`T_0 = \lceil cT\rceil` updates take :math:`\alpha = 1/(2L)` and
    :math:`\beta = (1 - \sqrt{\alpha\mu})^2`; the other :math:`T_1 = T - T_0` are those of
    :func:`exponential_shb` with horizon :math:`T_1`, counted from :math:`k = 0`: its
    :math:`\lambda_0 = 0` empties the buffer at the change.

    The paper's text leaves open whether the first phase carries the ½ of :func:`accelerated_shb`
    inside the square; the authors' loop does not, so ``'full'`` is the default. Their code makes
    the first phase one update longer and starts the second at :math:`k = 1` with
    :math:`\lambda = 0`.

    Args:
      learning_rate: :math:`1/(2L)`, step size of the first phase: number, traced scalar, schedule.
      total_updates: :math:`T`, updates in the budget; may be traced.
      condition_number: :math:`\kappa = L/\mu \ge 1`.
      first_fraction: :math:`c`, share of the first phase.
      relative_step: learning rate times :math:`L`.
      momentum: ``'full'`` as above, ``'half'`` with :math:`\tfrac12\sqrt{\alpha\mu}`.

    Returns:
      The update rule.

    Raises:
      UserError: for another ``momentum``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt import optim
      >>> rule = optim.mix_shb(0.5, 10, condition_number=4.0)
      >>> w = jnp.asarray([1.0])
      >>> state = rule.init(w)
      >>> for _ in range(2):
      ...     step, state = rule.update(jnp.asarray([1.0]), state, w)
      ...     print(step)
      [-0.5]
      [-0.7089466]

    References:
      Dang, Babanezhad and Vaswani, `(Accelerated) Noise-adaptive Stochastic Heavy-Ball Momentum
      <https://arxiv.org/abs/2401.06738>`_, 2024
    """

    def at(count: jax.Array) -> Coefficients:
        return mix_coefficients(
            count,
            total_updates,
            condition_number,
            first_fraction,
            relative_step,
            momentum=momentum,
        )

    return rule_from_coefficients(learning_rate, at)
