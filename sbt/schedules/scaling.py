"""How learning rate, decays and weight decay follow the batch size."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np

from sbt.choice import Registry
from sbt.errors import UserError
from sbt.ranges import POSITIVE, Range

Scaling = Literal["linear", "sqrt", "none"]
SCALINGS = get_args(Scaling)
POWERS = {"linear": 1.0, "sqrt": 0.5, "none": 0.0}


def scaled_learning_rate(
    learning_rate: Any,
    batch_size: Any,
    scaling: Scaling | Any = "linear",
    reference_batch: Any = 1,
) -> Any:
    r"""Learning rate in mean form at batch size :math:`m`, from that at :math:`m_0`.

    .. math:: \eta = \eta_0 \left(\frac{m}{m_0}\right)^\alpha

    With :math:`m_0 = 1`, the default, :math:`\eta_0` is the learning rate per example
    :math:`\tilde\eta` (``base_lr``) of the sum form
    :math:`w \leftarrow w - \tilde\eta \sum_{i \in B} \nabla L_i`: linear scaling,
    :math:`\eta = m\tilde\eta`, keeps the expected update per example, and the variance of an update
    grows with :math:`m`. Square-root scaling keeps that variance, so far as gradient noise
    dominates it. The way back is ``scaled_learning_rate(eta, 1, reference_batch=m)``.

    Args:
      learning_rate: :math:`\eta_0`, at ``reference_batch``: number or array.
      batch_size: :math:`m`, examples per update: number or array, of integers too.
      scaling: :math:`\alpha`, number or array; or its name, ``'linear'`` (1), ``'sqrt'``
        (:math:`\frac12`) or ``'none'`` (0).
      reference_batch: :math:`m_0`, the batch size that ``learning_rate`` was chosen for.

    Returns:
      :math:`\eta`, per update of the mean gradient.

    Raises:
      UserError: for another ``scaling``.

    Examples:
      >>> scaled_learning_rate(0.001, 32), scaled_learning_rate(0.1, 1024, reference_batch=256)
      (0.032, 0.4)
      >>> print(f"{scaled_learning_rate(0.1, 1024, 'sqrt', 256):.3f}")
      0.200

    References:
      Masters and Luschi, `Revisiting Small Batch Training for Deep Neural Networks
      <https://arxiv.org/abs/1804.07612>`_, 2018 (equations 1-6)

      Goyal et al., `Accurate, Large Minibatch SGD <https://arxiv.org/abs/1706.02677>`_, 2017

      Krizhevsky, `One weird trick for parallelizing convolutional neural networks
      <https://arxiv.org/abs/1404.5997>`_, 2014 (the square root)
    """
    if jnp.issubdtype(getattr(batch_size, "dtype", float), jnp.integer):
        batch_size = batch_size.astype(getattr(learning_rate, "dtype", jnp.result_type(float)))
    ratio = batch_size / reference_batch
    if not isinstance(scaling, str):
        return learning_rate * ratio**scaling
    # What the powers 1, 1/2 and 0 are, without the rounding of a power.
    if scaling == "linear":
        return learning_rate * ratio
    if scaling == "sqrt":
        return learning_rate * jnp.sqrt(ratio)
    if scaling == "none":
        return learning_rate
    raise UserError("scaling", f"unknown scaling {scaling!r}", "use 'linear', 'sqrt' or 'none'")


# --- decays ---------------------------------------------------------------------------------------


def decay_of_half_life(half_life: Any, per_update: Any) -> Any:
    r"""The decay of a moving average that halves what is so long ago.

    .. math:: \beta = 2^{-n / t_{1/2}}

    Args:
      half_life: :math:`t_{1/2}`, in examples or in tokens: number or array.
      per_update: :math:`n`, examples or tokens of an update.

    Examples:
      >>> print(f"{decay_of_half_life(1e7, 512.0):.11f}")
      0.99996451149

    References:
      Marek et al., `Small Batch Size Training for Language Models
      <https://arxiv.org/abs/2507.07101>`_, 2025 (section 2)
    """
    return 2.0 ** (-per_update / half_life)


def half_life_of_decay(decay: Any, per_update: Any) -> Any:
    r"""The inverse of :func:`decay_of_half_life`: :math:`t_{1/2} = n \ln\frac12 / \ln\beta`.

    On the host, in double precision: decays close to 1 lose their digits in single. 0 of decay 0.

    Examples:
      >>> print(f"{half_life_of_decay(0.95, 512 * 1024):.1f}")
      7084917.3
    """
    with np.errstate(divide="ignore"):
        return per_update * np.log(0.5) / np.log(decay)


def rescaled_decay(decay: Any, ratio: Any) -> Any:
    r"""A decay at another batch size, its half-life in examples being kept: :math:`\beta^\kappa`.

    Args:
      decay: :math:`\beta`, at the reference batch size.
      ratio: :math:`\kappa`, the batch size over that.

    Examples:
      >>> print(f"{rescaled_decay(0.95, 1 / 512):.10f}")
      0.9998998228

    References:
      Marek et al. 2025, equation 2
    """
    return decay**ratio


def sde_decay(decay: Any, ratio: Any) -> Any:
    r"""A decay at another batch size, by the limit of small steps: :math:`1 - \kappa (1 - \beta)`.

    The first order of :func:`rescaled_decay` in :math:`1 - \beta`.

    References:
      Malladi et al., `On the SDEs and Scaling Rules for Adaptive Gradient Algorithms
      <https://arxiv.org/abs/2205.10287>`_, 2022
    """
    return 1.0 - ratio * (1.0 - decay)


# --- laws -----------------------------------------------------------------------------------------


class Scaled(NamedTuple):
    """What a law takes and gives, of one update.

    Attributes:
      learning_rate: given, the base rate η̃; taken, η at its peak, in mean form: before any
        schedule.
      rule: numeric hyperparameters of the rule.
    """

    learning_rate: Any
    rule: Mapping[str, Any]


class Size(NamedTuple):
    """How large an update is.

    Attributes:
      batch: m, examples of this update.
      tokens: T, of each example; 0 where they are not counted.
      budget: D, examples of the whole training.
      own: m that the run is named after, from which a batch schedule moves; None: the same.
      factor: what that schedule makes of η.
    """

    batch: Any
    tokens: int
    budget: Any
    own: Any = None
    factor: Any = 1.0


# A rule's decays by their role: those of its first average, of its second, of its momentum buffer.
ROLES = {"b1": ("b1", "beta"), "b2": ("b2", "decay", "adam_b2"), "momentum": ("momentum",)}
DECAYS = (*(name for names in ROLES.values() for name in names), "b3", "adam_b1")
Exponent = Annotated[float, Range(-4, 4)]
Amount = Annotated[float, POSITIVE]


def with_rate(
    law: Callable[..., Scaled],
    base: Scaled,
    size: Size,
    scaling: Scaling,
    *,
    power: Exponent | None = None,
    timescale: Amount | None = None,
    **fields: Any,
) -> Scaled:
    r"""What all laws share: the learning rate, and a weight decay of constant timescale.

    Decays and weight decay follow the m of the update. The rate follows the run's own m alone: a
    batch schedule states what becomes of it.

    Args:
      law: of the decays.
      base: rate and hyperparameters of the config.
      size: of the update.
      scaling: ``config.lr_scaling``, a name of ``power``.
      power: :math:`\alpha`, see :func:`scaled_learning_rate`; None: that of ``scaling``.
      timescale: :math:`\tau = m / (\eta \lambda D)`, the fraction of the training over which
        weights are forgotten, from which :math:`\lambda` follows (Bergsma et al. 2025,
        arXiv 2505.13738); None: weight decay is what ``config.rule`` says.
      **fields: of the law.
    """
    own = size.batch if size.own is None else size.own
    rate = scaled_learning_rate(base.learning_rate, own, scaling if power is None else power)
    now = law(base._replace(learning_rate=rate), size, **fields)
    if timescale is not None:
        decay = size.batch / (timescale * rate * size.factor * size.budget)
        now = now._replace(rule={**now.rule, "weight_decay": decay})
    return now


LAWS = Registry("scaling", shared=with_rate, default="fixed")


@LAWS.register("fixed")
def fixed(now: Scaled, size: Size) -> Scaled:
    """Decays are what config.rule says, whatever the batch size."""
    return now


@LAWS.register("half_life", source="Marek et al. 2025, arXiv 2507.07101, section 2")
def half_life(
    now: Scaled,
    size: Size,
    *,
    b1_examples: Amount | None = None,
    b2_examples: Amount | None = None,
    momentum_examples: Amount | None = None,
    b1_tokens: Amount | None = None,
    b2_tokens: Amount | None = None,
    momentum_tokens: Amount | None = None,
    decay_rate_tokens: Amount | None = None,
    b1_growth: Exponent | None = None,
    b2_growth: Exponent | None = None,
) -> Scaled:
    r"""Decays of a half-life in examples or tokens, in place of those of config.rule.

    The half-life is :math:`t\, m^\gamma`: with a growth :math:`\gamma` of 0, the default, it is
    the same at all batch sizes, and with 1 the decay is. ``b1`` stands for ``beta`` in a rule that
    calls its first average so, ``b2`` for ``decay`` or ``adam_b2``. ``decay_rate_tokens`` makes the
    *exponent* of Adafactor of the same formula, as the code of Marek et al. does.
    """
    lives = {
        "b1": (b1_examples, b1_tokens, b1_growth),
        "b2": (b2_examples, b2_tokens, b2_growth),
        "momentum": (momentum_examples, momentum_tokens, None),
        "decay_rate": (None, decay_rate_tokens, None),
    }
    found = dict(now.rule)
    for role, (examples, tokens, growth) in lives.items():
        grown = 1.0 if growth is None else size.batch**growth
        for life, per_update in ((tokens, size.batch * size.tokens), (examples, size.batch)):
            if life is not None:
                found[decay_in(now.rule, role)] = decay_of_half_life(life * grown, per_update)
    return now._replace(rule=found)


def decay_in(rule: Mapping[str, Any], role: str) -> str:
    """What a rule calls the decay of some role; the role itself where it has none."""
    return next((name for name in ROLES.get(role, ()) if name in rule), role)


def _at(now: Scaled, change: Callable[[Any], Any]) -> dict[str, Any]:
    changed = {name: change(now.rule[name]) for name in DECAYS if name in now.rule}
    return {**now.rule, **changed}


@LAWS.register("rescaled", source="Marek et al. 2025, arXiv 2507.07101, equation 2")
def rescaled(now: Scaled, size: Size, *, reference: Amount = 32.0) -> Scaled:
    """The decays of config.rule hold at a reference batch size; their half-lives are kept."""
    ratio = size.batch / reference
    return now._replace(rule=_at(now, lambda decay: rescaled_decay(decay, ratio)))


@LAWS.register("sde", source="Malladi et al. 2022, arXiv 2205.10287")
def sde(now: Scaled, size: Size, *, reference: Amount = 32.0) -> Scaled:
    """As rescaled, to first order, and eps ∝ 1/√m; the rule for the rate is power = 0.5."""
    ratio = size.batch / reference
    found = _at(now, lambda decay: sde_decay(decay, ratio))
    if "eps" in found:
        found["eps"] = found["eps"] / jnp.sqrt(ratio)
    return now._replace(rule=found)
