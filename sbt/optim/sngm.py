"""Stochastic normalised gradient descent with momentum (SNGM)."""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax

from sbt.optim import base


def normalize_by_norm(norm: base.Norm = "global") -> optax.GradientTransformation:
    r"""Divides the gradient by its Euclidean norm: :math:`g \leftarrow g / \|g\|_2`.

    The division is exact: no epsilon is added to the norm, so multiplying the loss by a constant
    changes nothing, however small the gradient. A zero gradient stays zero (the quotient is not
    defined there, and zero keeps the momentum buffer free to decay).

    Normalise the gradient of the *whole* batch: under data parallelism after the mean over devices,
    with accumulation after the last micro-batch (inside ``optax.MultiSteps``).

    Args:
      norm: ``'global'`` takes one norm over all leaves; ``'layer'`` one per leaf, which makes the
        update up to :math:`\sqrt{\#\text{leaves}}` longer.

    Returns:
      The transformation; it has no state and does not need params.

    Raises:
      UserError: for another ``norm``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt import optim
      >>> link = optim.normalize_by_norm()
      >>> print(link.update(jnp.array([3e-30, 4e-30]), link.init(None))[0])
      [0.6 0.8]
      >>> print(link.update(jnp.zeros(2), link.init(None))[0])
      [0. 0.]
    """
    base.one_of("norm", norm, get_args(base.Norm))

    def normalised(tree: Any) -> Any:
        length = base.l2_norm(tree)
        divisor = jnp.where(length == 0, 1, length)
        return jax.tree.map(lambda g: g / divisor, tree)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        del params, extra
        return normalised(updates) if norm == "global" else jax.tree.map(normalised, updates), state

    return base.Rule(lambda _: optax.EmptyState(), update)


@base.RULES.register("sngm", source="Zhao et al. 2020, arXiv 2007.13985, algorithm 1")
def sngm(
    learning_rate: base.Scalar | base.Schedule,
    momentum: base.Decay | None = 0.9,
    weight_decay: base.NonNegative | None = 0.0,
    *,
    decay: Literal["coupled", "decoupled"] = "coupled",
    norm: base.Norm = "global",
    decay_mask: base.Mask = None,
) -> base.Rule:
    r"""SNGM: momentum on the normalised mini-batch gradient.

    .. math::

      u_{t+1} = \beta u_t + \frac{g_t}{\|g_t\|_2}, \qquad w_{t+1} = w_t - \eta_t u_{t+1}

    so that :math:`\|u_t\| \le (1-\beta^t)/(1-\beta)` and no step is longer than
    :math:`\eta/(1-\beta)`, whatever the gradient: :math:`\eta` is a length, in units of the
    parameters. The *gradient* is normalised and then accumulated without damping; normalising the
    momentum (Cutkosky and Mehta) is another method.

    What the paper leaves open: a zero gradient (here :math:`g/\|g\| := 0`), and the place of weight
    decay. ``'coupled'`` treats it as part of the objective and adds :math:`\lambda w_t` to the
    gradient before the normalisation, so that its share :math:`\lambda\|w\|/\|g\|` grows as the
    gradient shrinks; ``'decoupled'`` subtracts :math:`\eta_t\lambda w_t` outside both the
    normalisation and the buffer.
    The paper pairs the rule with :math:`\eta_t = \eta_0 (1 - t/T)^p`.

    Args:
      learning_rate: :math:`\eta`, step length in parameter units: number, traced scalar, schedule.
      momentum: :math:`\beta \in [0, 1)`; None keeps no buffer (normalised SGD).
      weight_decay: :math:`\lambda`; units of loss per parameter² if coupled, 1 per parameter unit
        of step length if decoupled. None for none.
      decay: ``'coupled'`` (inside the normalisation) or ``'decoupled'`` (outside).
      norm: ``'global'`` (the paper's algorithm) or ``'layer'`` (its block-wise variant, reported to
        bring no gain; for steps of equal length divide :math:`\eta` by
        :math:`\sqrt{\#\text{leaves}}`).
      decay_mask: leaves to decay, as in :func:`sbt.optim.sgd`.

    Returns:
      The update rule.

    Raises:
      UserError: for another ``decay`` or ``norm``.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from sbt import optim
      >>> loss = lambda w: 1000 * jnp.sum(1 - jnp.cos(w))
      >>> rule = optim.sngm(optax.polynomial_schedule(0.2, 0.0, 1.1, 20), momentum=0.5)
      >>> w = jnp.array([2.0, -1.0])
      >>> state = rule.init(w)
      >>> for step in range(20):
      ...     updates, state = rule.update(jax.grad(loss)(w), state, w)
      ...     w = optax.apply_updates(w, updates)
      ...     if step % 5 == 4:
      ...         print(f'{jnp.linalg.norm(w):.3f}')
      0.868
      0.146
      0.007
      0.012

    References:
      Zhao et al., `Stochastic Normalized Gradient Descent with Momentum for Large-Batch Training
      <https://arxiv.org/abs/2007.13985>`_, 2020
    """
    base.one_of("decay", decay, ("coupled", "decoupled"))
    links = [normalize_by_norm(norm), base.heavy_ball(momentum)]
    if weight_decay is not None:
        links.insert(0 if decay == "coupled" else 2, base.add_l2(weight_decay, decay_mask))
    return base.chain(*links, base.scale_by_learning_rate(learning_rate))
