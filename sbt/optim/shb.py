r"""Stochastic heavy ball: coefficients inside the buffer, the damped form, and noise-adaptive ones.

Three forms of momentum are in use, and they differ once a coefficient varies or when learning rates
are compared between values of :math:`\beta`:

=======================  ===========================================  ==========================
form                     update                                       effective learning rate
=======================  ===========================================  ==========================
:func:`sbt.optim.sgd`    :math:`u=\beta u+g,\ w-=\eta u`              :math:`\eta/(1-\beta)`
:func:`shb`              :math:`\Delta=\beta\Delta-\alpha g`          :math:`\alpha/(1-\beta)`
:func:`normalized_shb`   :math:`u=\beta u+(1-\beta)g,\ w-=\eta u`     :math:`\eta`
=======================  ===========================================  ==========================

The other four rules are those of Dang, Babanezhad and Vaswani, `(Accelerated) Noise-adaptive
Stochastic Heavy-Ball Momentum <https://arxiv.org/abs/2401.06738>`_, 2024, for strongly convex
functions. The paper writes them with the smoothness :math:`L` and the strong convexity :math:`\mu`.
Here the learning rate is the step size of the first update, and the problem enters through two
numbers without units: the condition number :math:`\kappa = L/\mu` and ``relative_step``
:math:`= \alpha_0 L`. So a sweep over learning rates stays a sweep over learning rates, and
:math:`\alpha_0\mu = \alpha_0 L/\kappa`.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from sbt.optim import base

# W(x) / ln sqrt(2) stays below 64 for every horizon below 10^12 updates.
_MOST_STAGES = 64

_DANG = "Dang, Babanezhad and Vaswani 2024, arXiv 2401.06738"
_BUDGET = {"total_updates": 1000.0}  # of a config that states none

Coefficients = tuple[jax.Array, jax.Array]  # step size over the learning rate, momentum


def scale_by_shb(
    step_size: base.Scalar | base.Schedule, momentum: base.Scalar | base.Schedule
) -> base.Rule:
    r"""Heavy ball with step size and momentum of each update: returns the displacement.

    .. math::

      \Delta_{k+1} = \beta_k \Delta_k - \alpha_k g_k, \qquad x_{k+1} = x_k + \Delta_{k+1},
      \qquad \Delta_0 = 0

    which is :math:`x_{k+1} = x_k - \alpha_k g_k + \beta_k (x_k - x_{k-1})`. The sign and the step
    size are in the result: apply it as it is, with no learning rate after it. With constant
    coefficients the iterates are those of :func:`sbt.optim.sgd`; when :math:`\alpha_k` varies they
    are not, because there the learning rate also rescales what the buffer holds.

    Args:
      step_size: :math:`\alpha_k` (units of parameter² per unit of loss): number, traced scalar, or
        schedule of the update count.
      momentum: :math:`\beta_k`, dimensionless: the same.

    Returns:
      The transformation. Its buffer has the params' dtype and exists for every value of momentum.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt import optim
      >>> link = optim.scale_by_shb(lambda k: 0.1 / (k + 1), 0.5)
      >>> state = link.init(jnp.zeros(1))
      >>> for _ in range(3):
      ...     delta, state = link.update(jnp.ones(1), state)
      ...     print(f'{delta[0]:.4f}')
      -0.1000
      -0.1000
      -0.0833

    References:
      Polyak, `Some methods of speeding up the convergence of iteration methods
      <https://doi.org/10.1016/0041-5553(64)90137-5>`_, 1964
    """

    def link(count: jax.Array) -> optax.GradientTransformation:
        alpha, beta = base.at_count(step_size, count), base.at_count(momentum, count)
        return optax.chain(optax.scale(-alpha), optax.trace(beta))

    return base.scheduled(link)


@base.RULES.register("shb", source=_DANG)
def shb(
    learning_rate: base.Scalar | base.Schedule,
    momentum: base.Decay | base.Schedule = 0.9,
    weight_decay: base.NonNegative = 0.0,
    *,
    decay_mask: base.Mask = None,
) -> base.Rule:
    r"""Stochastic heavy ball, learning rate inside the buffer: see :func:`scale_by_shb`.

    A change of the learning rate acts on new gradients only and takes about
    :math:`1/(1-\beta)` updates to act in full. (The momentum correction of Goyal et al. turns this
    form into that of :func:`sbt.optim.sgd`.)

    Args:
      learning_rate: :math:`\alpha_k`, per update in mean form: number, traced scalar or schedule.
      momentum: :math:`\beta_k \in [0, 1)`: the same.
      weight_decay: coefficient of :math:`\tfrac12\|w\|^2` in the mean loss.
      decay_mask: leaves to decay, as in :func:`sbt.optim.sgd`.

    Returns:
      The update rule.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from sbt import optim
      >>> loss = lambda w: 0.5 * jnp.sum(w**2)
      >>> rule = optim.shb(0.1, momentum=0.9)
      >>> w = jnp.array([1.0, -2.0])
      >>> state = rule.init(w)
      >>> for _ in range(3):
      ...     updates, state = rule.update(jax.grad(loss)(w), state, w)
      ...     w = optax.apply_updates(w, updates)
      ...     print(f'{loss(w):.4f}')
      2.0250
      1.2960
      0.5905
    """
    return base.chain(base.add_l2(weight_decay, decay_mask), scale_by_shb(learning_rate, momentum))


@base.RULES.register(
    "normalized_shb",
    source="Wang et al. 2024, arXiv 2307.15196, equation 3; Sato and Iiduka 2024, arXiv 2402.02325",
)
def normalized_shb(
    learning_rate: base.Scalar | base.Schedule,
    momentum: base.Decay | base.Schedule = 0.9,
    weight_decay: base.NonNegative = 0.0,
    *,
    decay_mask: base.Mask = None,
) -> base.Rule:
    r"""Normalised heavy ball (NSHB): the damped buffer, learning rate last.

    .. math::

      u_{k+1} = \beta u_k + (1-\beta) g_k, \qquad w_{k+1} = w_k - \eta_k u_{k+1}

    :math:`\eta` is the effective learning rate for every :math:`\beta`: this is the theory form of
    Wang et al. (their equation 3), and the iterates are those of :func:`sbt.optim.sgd` with the
    learning rate :math:`\gamma = \eta (1-\beta)`. For small learning rates they follow the path of
    SGD at :math:`\eta` without momentum (weakly, within :math:`O(1/\eta)` steps); the two part
    where curvature limits the step, at large learning rates or large batches. A sweep over momentum
    keeps the other axes comparable in this form only. The buffer starts at 0 without bias
    correction: the first updates are short, the k-th by :math:`1 - \beta^k`.

    Args:
      learning_rate: :math:`\eta`, effective, per update in mean form: number, traced scalar or
        schedule.
      momentum: :math:`\beta_k \in [0, 1)`: the same; 0 is SGD.
      weight_decay: coefficient of :math:`\tfrac12\|w\|^2` in the mean loss.
      decay_mask: leaves to decay, as in :func:`sbt.optim.sgd`.

    Returns:
      The update rule.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt import optim
      >>> rule = optim.normalized_shb(1.0, momentum=0.75)
      >>> w = jnp.zeros(1)
      >>> state = rule.init(w)
      >>> for _ in range(3):
      ...     updates, state = rule.update(jnp.ones(1), state, w)
      ...     print(updates)
      [-0.25]
      [-0.4375]
      [-0.578125]

    References:
      Sato and Iiduka, `Role of Momentum in Smoothing Objective Function and Generalizability of
      Deep Neural Networks <https://arxiv.org/abs/2402.02325>`_, 2024

      Wang et al., `The Marginal Value of Momentum for Small Learning Rate SGD
      <https://arxiv.org/abs/2307.15196>`_, 2024
    """

    def average(count: jax.Array) -> optax.GradientTransformation:
        beta = base.at_count(momentum, count)
        return optax.chain(optax.scale(1 - beta), optax.trace(beta))

    return base.chain(
        base.add_l2(weight_decay, decay_mask),
        base.scheduled(average),
        base.scale_by_learning_rate(learning_rate),
    )


# --- accelerated, and in stages -------------------------------------------------------------------


def accelerated_momentum(condition_number: Any, relative_step: Any = 1.0) -> jax.Array:
    r"""Momentum of accelerated SHB, :math:`\beta = (1 - \tfrac12\sqrt{\alpha\mu})^2`.

    Args:
      condition_number: :math:`\kappa = L/\mu`.
      relative_step: :math:`a = \alpha L`; 1 for the full gradient. The authors' experiments take
        :math:`a = 1/((1 - b/n)\sqrt\kappa)` for a batch of :math:`b < n` of :math:`n` examples.

    >>> print(f'{accelerated_momentum(100.0):.4f}')
    0.9025
    """
    kappa, a = _floats(condition_number, relative_step)
    return jnp.square(1 - jnp.sqrt(a / kappa) / 2)


@base.RULES.register("accelerated_shb", source=_DANG)
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
    """
    return scale_by_shb(learning_rate, accelerated_momentum(condition_number, relative_step))


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
    total, kappa, c = _floats(total_updates, condition_number, first_fraction)
    last = jnp.floor(_lambert_w(total * jnp.log(2.0) / (2 * jnp.sqrt(kappa))) / (jnp.log(2.0) / 2))
    first = _ceil_to_int(c * total)
    i = jnp.arange(1, _MOST_STAGES, dtype=total.dtype)
    share = jnp.where(i <= last, jnp.exp2(i / 2), 0)
    left = total - first.astype(total.dtype)
    lengths = _ceil_to_int(left * share / jnp.maximum(jnp.sum(share), 1))
    ends = jnp.cumsum(jnp.concatenate([first[None], lengths]), dtype=jnp.int32)
    return ends, last.astype(jnp.int32)


def multistage_coefficients(
    count: ArrayLike,
    total_updates: base.AtLeastOne,
    condition_number: base.AtLeastOne,
    first_fraction: base.Fraction = 0.4,
    momentum: Literal["stage", "constant"] = "stage",
) -> Coefficients:
    r"""Coefficients of an update of :func:`multistage_shb`.

    .. math:: \alpha_i = \frac{1}{2^i L}, \qquad \beta_i = (1 - \tfrac12\sqrt{\alpha_i\mu})^2

    in stage :math:`i = 0 \dots I`; see :func:`multistage_boundaries` for their lengths.

    Args:
      count: updates made before this one.
      total_updates: :math:`T`, updates in the budget; may be traced.
      condition_number: :math:`\kappa = L/\mu \ge 1`; may be traced.
      first_fraction: :math:`c`, share of stage 0; may be traced.
      momentum: ``'stage'`` for :math:`\beta_i` as above; ``'constant'`` for :math:`\beta_0`
        throughout, a variant of the authors' experiments.

    Returns:
      ``(step size / learning rate, momentum)``, two scalars without unit.

    Raises:
      UserError: for another ``momentum``.

    >>> for count in (0, 400, 999):
    ...     step, beta = multistage_coefficients(count, 1000, 100.0)
    ...     print(f'{step:.4f} {beta:.4f}')
    1.0000 0.9025
    0.5000 0.9305
    0.0078 0.9912
    """
    base.one_of("momentum", momentum, ("stage", "constant"))
    ends, last = multistage_boundaries(total_updates, condition_number, first_fraction)
    (kappa,) = _floats(condition_number)
    index = jnp.arange(_MOST_STAGES, dtype=jnp.int32)
    begun = jnp.asarray(count).astype(jnp.int32) >= ends
    stage = jnp.sum(begun & (index < last)).astype(kappa.dtype)
    step = jnp.exp2(-stage)
    return step, accelerated_momentum(kappa, step if momentum == "stage" else 1.0)


@base.RULES.register("multistage_shb", source=_DANG, defaults=_BUDGET)
def multistage_shb(
    learning_rate: base.Scalar | base.Schedule,
    total_updates: base.AtLeastOne,
    condition_number: base.AtLeastOne = 100.0,
    first_fraction: base.Fraction = 0.4,
    *,
    momentum: Literal["stage", "constant"] = "stage",
) -> base.Rule:
    r"""Multi-stage SHB: accelerated, then halved steps in ever longer stages against the noise.

    Step sizes and momenta are those of :func:`multistage_coefficients`.

    Choices: :math:`c = 0.4` as in the authors' code, and all lengths rounded up. Their code rounds
    :math:`T_0` down but starts every later stage one update late. The theory asks for
    :math:`T \ge 2\kappa`.

    Args:
      learning_rate: :math:`1/L`, step size of stage 0: number, traced scalar or schedule (which
        then multiplies the stages).
      total_updates: see :func:`multistage_coefficients`, as for all that follow.
      condition_number: the same.
      first_fraction: the same.
      momentum: the same.

    Returns:
      The update rule.
    """
    return _shb_by_count(
        learning_rate,
        lambda count: multistage_coefficients(
            count, total_updates, condition_number, first_fraction, momentum
        ),
    )


# --- exponentially falling steps, alone and after an accelerated phase ----------------------------


def exponential_coefficients(
    count: ArrayLike,
    total_updates: base.AtLeastOne,
    condition_number: base.AtLeastOne,
    relative_step: base.HalfAtMost = 0.5,
    final: base.Scalar | None = None,
) -> Coefficients:
    r"""Coefficients of an update of :func:`exponential_shb`.

    .. math::

      \eta_k = \gamma \nu^k, \quad
      \lambda_k = \frac{1 - 2\eta_1 L}{\eta_k\mu}\bigl(1 - (1-\eta_k\mu)^k\bigr), \quad
      \alpha_k = \frac{\eta_k}{1+\lambda_{k+1}}, \quad
      \beta_k = \frac{\lambda_k (1-\eta_k\mu)}{1+\lambda_{k+1}}

    for updates :math:`k = 0 \dots T-1`, with :math:`\nu = T^{-1/T}`. For constant :math:`\eta`
    this :math:`\lambda` solves :math:`\lambda_{k+1} = (1-\eta\mu)\lambda_k + 1 - 2\eta L` from 0;
    it divides by :math:`\mu` where the authors' code multiplies.

    Args:
      count: :math:`k`, updates made before this one.
      total_updates: :math:`T`, updates in the budget; may be traced.
      condition_number: :math:`\kappa = L/\mu \ge 1`; may be traced.
      relative_step: :math:`\gamma L`, in (0, 1/2]; may be traced.
      final: :math:`\nu^T`, last over first step size; None for :math:`1/T`. The authors' SHB runs
        also use :math:`10\kappa/T`; 1 gives constant steps (Sebbouh et al., 2021).

    Returns:
      ``(step size / learning rate, momentum)``, two scalars without unit.

    >>> for count in (0, 10, 99):
    ...     step, beta = exponential_coefficients(count, 100, 10.0, 0.25)
    ...     print(f'{step:.4f} {beta:.4f}')
    0.6568 0.0000
    0.0996 0.7567
    0.0002 0.9705
    """
    k, total, kappa, relative = _floats(count, total_updates, condition_number, relative_step)
    (end,) = _floats(1 / total if final is None else final)

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


@base.RULES.register("exponential_shb", source=_DANG, defaults=_BUDGET)
def exponential_shb(
    learning_rate: base.Scalar | base.Schedule,
    total_updates: base.AtLeastOne,
    condition_number: base.AtLeastOne = 100.0,
    relative_step: base.HalfAtMost = 0.5,
    *,
    final: base.Scalar | None = None,
) -> base.Rule:
    r"""SHB with exponentially falling steps, for smooth strongly convex functions.

    Step sizes and momenta are those of :func:`exponential_coefficients`.

    Two things to know. At :math:`\gamma = 1/(2L)` the factor :math:`1 - 2\eta_1 L = 1 - \nu \approx
    \ln T/T` keeps the momentum nearly off for long, and with ``final=1`` (constant steps) it is 0:
    plain SGD. With :math:`\gamma = 1/(4L)`, ``relative_step=0.25``, momentum acts at once.
    :math:`\eta_0 = \gamma` here; the authors' code uses :math:`\eta_1` there as well.

    Args:
      learning_rate: :math:`\gamma`: number, traced scalar or schedule (which multiplies
        :math:`\alpha_k` only).
      total_updates: see :func:`exponential_coefficients`, as for all that follow.
      condition_number: the same.
      relative_step: the same.
      final: the same.

    Returns:
      The update rule.
    """
    return _shb_by_count(
        learning_rate,
        lambda count: exponential_coefficients(
            count, total_updates, condition_number, relative_step, final
        ),
    )


def mix_coefficients(
    count: ArrayLike,
    total_updates: base.AtLeastOne,
    condition_number: base.AtLeastOne,
    first_fraction: base.Fraction = 0.5,
    relative_step: base.HalfAtMost = 0.5,
    *,
    momentum: Literal["full", "half"] = "full",
) -> Coefficients:
    r"""Coefficients of an update of :func:`mix_shb`.

    The first :math:`T_0 = \lceil cT\rceil` updates take :math:`\alpha = 1/(2L)` and
    :math:`\beta = (1 - \sqrt{\alpha\mu})^2`; the other :math:`T_1 = T - T_0` are those of
    :func:`exponential_coefficients` with horizon :math:`T_1`, counted from :math:`k = 0`: its
    :math:`\lambda_0 = 0` empties the buffer at the change.

    Args:
      count: updates made before this one.
      total_updates: :math:`T`, updates in the budget; may be traced.
      condition_number: :math:`\kappa = L/\mu \ge 1`; may be traced.
      first_fraction: :math:`c`, share of the first phase; may be traced.
      relative_step: learning rate times :math:`L`; may be traced.
      momentum: ``'full'`` as above, ``'half'`` with :math:`\tfrac12\sqrt{\alpha\mu}`.

    Returns:
      ``(step size / learning rate, momentum)``, two scalars without unit.

    Raises:
      UserError: for another ``momentum``.
    """
    base.one_of("momentum", momentum, ("full", "half"))
    k, total, kappa, relative, c = _floats(
        count, total_updates, condition_number, relative_step, first_fraction
    )
    first = _ceil_to_int(c * total).astype(k.dtype)
    root = jnp.sqrt(relative / kappa)
    start = jnp.square(1 - (root if momentum == "full" else root / 2))
    # Both arms are computed: keep the second one finite during the first phase.
    step, beta = exponential_coefficients(
        jnp.maximum(k - first, 0), jnp.maximum(total - first, 1), kappa, relative
    )
    early = k < first
    return jnp.where(early, jnp.ones_like(step), step), jnp.where(early, start, beta)


@base.RULES.register("mix_shb", source=_DANG, defaults=_BUDGET)
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

    Step sizes and momenta are those of :func:`mix_coefficients`.

    The paper's text leaves open whether the first phase carries the ½ of :func:`accelerated_shb`
    inside the square; the authors' loop does not, so ``'full'`` is the default. Their code makes
    the first phase one update longer and starts the second at :math:`k = 1` with
    :math:`\lambda = 0`.

    Args:
      learning_rate: :math:`1/(2L)`, step size of the first phase: number, traced scalar, schedule.
      total_updates: see :func:`mix_coefficients`, as for all that follow.
      condition_number: the same.
      first_fraction: the same.
      relative_step: the same.
      momentum: the same.

    Returns:
      The update rule.

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
    """
    return _shb_by_count(
        learning_rate,
        lambda count: mix_coefficients(
            count, total_updates, condition_number, first_fraction, relative_step, momentum=momentum
        ),
    )


def _shb_by_count(
    learning_rate: base.Scalar | base.Schedule, coefficients: Callable[[Any], Coefficients]
) -> base.Rule:
    """Heavy ball from a function of the update count to :data:`Coefficients`."""

    def step_size(count: jax.Array) -> jax.Array:
        (rate,) = _floats(base.at_count(learning_rate, count))
        return rate * coefficients(count)[0]

    return scale_by_shb(step_size, lambda count: coefficients(count)[1])


def _floats(*values: Any) -> tuple[jax.Array, ...]:
    """Hyperparameters as scalars of one floating-point dtype (double where that is enabled)."""
    dtype = jnp.result_type(float)
    return tuple(jnp.asarray(v).astype(dtype) for v in values)


def _ceil_to_int(x: jax.Array) -> jax.Array:
    """The next integer, as int32; a rounding error above an integer does not count."""
    return jnp.ceil(x * (1 - 2 * float(jnp.finfo(x.dtype).eps))).astype(jnp.int32)


def _lambert_w(x: jax.Array) -> jax.Array:
    """The principal branch of Lambert's W for x >= 0, by Halley's iteration."""
    w = jnp.log1p(x)
    for _ in range(6):
        e = jnp.exp(w)
        f = w * e - x
        w = w - f / (e * (w + 1) - (w + 2) * f / (2 * w + 2))
    return w
