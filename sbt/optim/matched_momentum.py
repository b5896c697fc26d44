"""SGD and SGDM at one effective learning rate."""

from typing import Any, NamedTuple

from sbt.optim import base
from sbt.optim.sgd import sgd


class MatchedPair(NamedTuple):
    """SGD and SGDM of one effective learning rate."""

    sgd: base.Rule
    sgdm: base.Rule


def sgdm_matched_lr(
    learning_rate: base.Scalar | base.Schedule,
    momentum: base.Decay = 0.9,
    weight_decay: base.NonNegative = 0.0,
    *,
    mask: base.Mask = None,
) -> MatchedPair:
    r"""SGD and SGDM with matched learning rates, :math:`\eta=\gamma/(1-\beta)` (Wang et al.).

    SGDM in its practical form, :math:`u=\beta u+g,\ w-=\gamma u`, moves
    :math:`\gamma/(1-\beta)` times the gradient in the long run. For small learning rates the two
    members of this pair then follow the same path (weakly, within :math:`O(1/\eta)` steps); they
    part where curvature limits the step, that is at large learning rates or large batches.

    Args:
      learning_rate: :math:`\eta`, of SGD; SGDM gets :math:`\gamma=(1-\beta)\eta`. Number, traced
        scalar or schedule.
      momentum: :math:`\beta \in [0, 1)` of SGDM.
      weight_decay: of both, coefficient of :math:`\tfrac12\|w\|^2` in the mean loss.
      mask: leaves to decay, as in :func:`sbt.optim.sgd`.

    Returns:
      The two rules. The SGDM rule equals :func:`sbt.optim.normalized_shb` at ``learning_rate``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt import optim
      >>> g, total = jnp.ones(1), []
      >>> for rule in optim.sgdm_matched_lr(0.1, momentum=0.5):
      ...     state, w = rule.init(g), jnp.zeros(1)
      ...     for _ in range(20):
      ...         updates, state = rule.update(g, state, w)
      ...         w = w + updates
      ...     total.append(f'{w[0]:.2f}')
      >>> print(total)  # the buffer has to fill: SGDM lags by beta / (1 - beta) steps
      ['-2.00', '-1.90']

    References:
      Wang et al., `The Marginal Value of Momentum for Small Learning Rate SGD
      <https://arxiv.org/abs/2307.15196>`_, 2024 (equations 1 and 3)
    """
    plain = sgd(learning_rate, None, weight_decay=weight_decay, mask=mask)
    if callable(learning_rate):
        schedule = learning_rate

        def gamma(count: Any) -> Any:
            return matched_sgdm_learning_rate(schedule(count), momentum)

        return MatchedPair(plain, sgd(gamma, momentum, weight_decay=weight_decay, mask=mask))
    gamma_now = matched_sgdm_learning_rate(learning_rate, momentum)
    return MatchedPair(plain, sgd(gamma_now, momentum, weight_decay=weight_decay, mask=mask))


def matched_sgdm_learning_rate(learning_rate: Any, momentum: Any) -> Any:
    r"""The SGDM rate :math:`\gamma = (1-\beta)\eta` that matches an SGD rate :math:`\eta`.

    >>> print(f'{matched_sgdm_learning_rate(0.2, 0.9):.2f}')
    0.02
    """
    return learning_rate * (1 - momentum)


def matched_sgd_learning_rate(learning_rate: Any, momentum: Any) -> Any:
    r"""The SGD rate :math:`\eta = \gamma/(1-\beta)` that matches an SGDM rate :math:`\gamma`.

    >>> print(f'{matched_sgd_learning_rate(0.02, 0.9):.2f}')
    0.20
    """
    return learning_rate / (1 - momentum)
