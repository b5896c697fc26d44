r"""SVAG: stochastic variance amplified gradient, SGD that tends to its diffusion limit.

.. warning::

  Every update takes **two** independent batches, so :math:`T` updates of SGD become :math:`\ell T`
  updates and :math:`2\ell` times the examples (at :math:`\ell = 1` as well, whose second batch has
  weight 0). With batch norm, each of the two batches is normalised by its own statistics: two
  gradient evaluations, not one over the union.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from sbt.optim import base
from sbt.optim.sgd import sgd


def svag_coefficients(amplification: base.Scalar) -> tuple[jax.Array, jax.Array]:
    r"""The weights of the two gradients of SVAG(:math:`\ell`).

    .. math:: c_\pm = \frac{1 \pm \sqrt{2\ell - 1}}{2}

    They sum to 1 (the mean gradient is kept) and their squares sum to :math:`\ell` (its covariance
    is multiplied by :math:`\ell`); :math:`\ell = 1` gives (1, 0), SGD.

    Args:
      amplification: :math:`\ell \ge 1`, dimensionless; need not be an integer, may be traced.

    Returns:
      ``(c_plus, c_minus)``.

    >>> print(*svag_coefficients(5.0))
    2.0 -1.0
    """
    root = jnp.sqrt(2 * jnp.asarray(amplification).astype(float) - 1)
    return (1 + root) / 2, (1 - root) / 2


def svag_gradient(first: Any, second: Any, amplification: base.Scalar) -> Any:
    r"""The SVAG gradient :math:`c_+ g_1 + c_- g_2` of two independent batches at the same point.

    Args:
      first: mean gradient of the first batch, a tree.
      second: mean gradient of the second batch, the same structure.
      amplification: :math:`\ell`, see :func:`svag_coefficients`.

    Returns:
      The combined gradient.

    >>> print(svag_gradient(jnp.ones(2), jnp.asarray([1.0, 0.0]), 5.0))
    [1. 2.]
    """
    plus, minus = svag_coefficients(amplification)
    return jax.tree.map(lambda a, b: plus * a + minus * b, first, second)


@base.RULES.register(
    "svag",
    source="Li, Malladi and Arora 2021, arXiv 2102.12470; Wang et al. 2024, arXiv 2307.15196",
    needs=("second_gradient",),
)
def svag(
    learning_rate: base.Scalar | base.Schedule,
    momentum: base.Decay | None = 0.0,
    weight_decay: base.NonNegative = 0.0,
    amplification: base.AtLeastOne = 1.0,
    *,
    decay_mask: base.Mask = None,
) -> base.Rule:
    r"""SVAG(:math:`\ell`) for SGD and SGDM: rate :math:`\eta/\ell` and gradient noise :math:`\ell`.

    .. math::

      g_t = c_+ \nabla L_{B_1}(w_t) + c_- \nabla L_{B_2}(w_t), \qquad
      u_{t+1} = \beta u_t + g_t, \qquad w_{t+1} = w_t - \tfrac{\eta}{\ell}\, u_{t+1}

    :math:`\ell` updates cover the time of one update of SGD and have the same mean and, to first
    order, the same covariance; as :math:`\ell` grows the path tends to the stochastic differential
    equation of SGD. :math:`\beta` is the same for all :math:`\ell` (Wang et al.).

    Args:
      learning_rate: :math:`\eta` of the SGD run that is approximated, in mean form of one of the
        two batches; a schedule sees the count of *these* updates, :math:`\ell` for one of SGD.
      momentum: :math:`\beta`, as in :func:`sbt.optim.sgd`.
      weight_decay: coefficient of :math:`\tfrac12\|w\|^2`, added once to the combined gradient.
      amplification: :math:`\ell \ge 1`; may be traced.
      decay_mask: leaves to decay, as in :func:`sbt.optim.sgd`.

    Returns:
      The update rule. ``update`` needs the gradient of the second batch, at the same params, as
      ``second_gradient=``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt import optim
      >>> rule = optim.svag(0.1, amplification=5.0)
      >>> w = jnp.zeros(2)
      >>> g1, g2 = jnp.array([1.0, 1.0]), jnp.array([1.0, 0.0])
      >>> print(rule.update(g1, rule.init(w), w, second_gradient=g2)[0])
      [-0.02 -0.04]

    References:
      Li, Malladi and Arora, `On the Validity of Modeling SGD with Stochastic Differential Equations
      <https://arxiv.org/abs/2102.12470>`_, 2021

      Wang et al., `The Marginal Value of Momentum for Small Learning Rate SGD
      <https://arxiv.org/abs/2307.15196>`_, 2024
    """

    def combine(
        updates: Any, state: Any, params: Any = None, *, second_gradient: Any = None, **extra: Any
    ) -> Any:
        del params, extra
        if second_gradient is None:
            raise ValueError(
                "SVAG needs update(updates, state, params, second_gradient=...), the gradient of a "
                "second, independent batch."
            )
        return svag_gradient(updates, second_gradient, amplification), state

    rate = base.map_schedule(lambda rate: jnp.asarray(rate) / amplification, learning_rate)
    return base.chain(
        base.Rule(lambda _: optax.EmptyState(), combine),
        sgd(rate, momentum, weight_decay=weight_decay, decay_mask=decay_mask),
    )
