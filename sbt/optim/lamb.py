"""LAMB: Adam's direction with a layer-wise step length."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from sbt.optim import base
from sbt.optim.adam import scale_by_adam


def scale_by_lamb(
    b1: base.Decay = 0.9,
    b2: base.Decay = 0.999,
    eps: base.Positive = 1e-6,
    weight_decay: base.NonNegative = 0.0,
    *,
    phi: Literal["identity", "clamp"] = "identity",
    phi_min: base.NonNegative = 0.0,
    phi_max: base.Positive = 10.0,
    mask: base.Mask = "kernels",
    ratio_mask: base.Mask = "kernels",
) -> optax.GradientTransformation:
    r"""Rescales Adam's decayed direction to the length :math:`\phi(\|w_l\|)`, layer by layer.

    .. math::

      r_t = \frac{m_t / (1-\beta_1^t)}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon}, \qquad
      u_l = r_l + \lambda w_l, \qquad
      u_l \leftarrow \frac{\phi(\|w_l\|)}{\|u_l\|}\, u_l

    where :math:`m` and :math:`v` are Adam's moving averages of :math:`g` and :math:`g^2`. Where
    :math:`\phi(\|w_l\|)` or :math:`\|u_l\|` is 0, and on leaves that ``ratio_mask`` leaves out,
    the factor is 1 (a step of AdamW): unlike LARS's, LAMB's learning rate is of Adam's size. The
    moments are kept in at least float32: at :math:`\beta_2 = 0.999` a bfloat16 average stands
    still.

    Args:
      b1: :math:`\beta_1`, decay of the first moment.
      b2: :math:`\beta_2`, decay of the second moment.
      eps: :math:`\epsilon`, in gradient units.
      weight_decay: :math:`\lambda`, outside the moments; units of 1 per parameter unit.
      phi: ``'identity'`` or ``'clamp'``, :math:`\phi(z) = \min(\max(z, \phi_{min}), \phi_{max})`.
        The paper admits both and names no bounds for its runs.
      phi_min: lower clamp, in parameter units; read with ``phi='clamp'`` only.
      phi_max: upper clamp, likewise; 10 is common in released code.
      mask: leaves to decay, see :func:`sbt.optim.sgd`.
      ratio_mask: leaves that are rescaled.

    Returns:
      The transformation; it needs params.

    Raises:
      UserError: for another ``phi``.
    """
    base.one_of("phi", phi, ("identity", "clamp"))

    adam = scale_by_adam(b1, b2, eps)

    def update(updates: Any, state: optax.ScaleByAdamState, params: Any = None) -> Any:
        base.need_params(params)
        r, state = adam.update(jax.tree.map(base.widen, updates), state)

        def rescale(u: jax.Array, p: jax.Array, adaptive: bool) -> jax.Array:
            if not adaptive:
                return u
            length, target = base.l2_norm(u), base.l2_norm(p.astype(u.dtype))
            if phi == "clamp":
                low, high = (jnp.asarray(x).astype(target.dtype) for x in (phi_min, phi_max))
                target = jnp.clip(target, low, high)
            missing = (length == 0) | (target == 0)
            one = jnp.ones_like(length)
            ratio = jnp.where(missing, one, target) / jnp.where(missing, one, length)
            return u * ratio.astype(u.dtype)

        u = jax.tree.map(
            lambda r, p, decayed: base.multiply_add(r, weight_decay, p) if decayed else r,
            r,
            params,
            base.mask_leaves(mask, params),
        )
        u = jax.tree.map(rescale, u, params, base.mask_leaves(ratio_mask, params))
        out = jax.tree.map(lambda g, x: x.astype(g.dtype), updates, u)
        return out, state

    return base.link(adam.init, update)


def lamb(
    learning_rate: base.Scalar | base.Schedule,
    b1: base.Decay = 0.9,
    b2: base.Decay = 0.999,
    eps: base.Positive = 1e-6,
    weight_decay: base.NonNegative = 0.0,
    *,
    phi: Literal["identity", "clamp"] = "identity",
    phi_min: base.NonNegative = 0.0,
    phi_max: base.Positive = 10.0,
    mask: base.Mask = "kernels",
    ratio_mask: base.Mask = "kernels",
) -> base.Rule:
    r"""LAMB: layer-wise adaptive moments for large batches.

    .. math::

      w_l \leftarrow w_l - \eta_t \frac{\phi(\|w_l\|)}{\|r_l + \lambda w_l\|}(r_l + \lambda w_l)

    with Adam's bias-corrected direction :math:`r`. ``optax.lamb`` is this with
    ``phi='identity', mask='all', ratio_mask='all'``. The paper uses :math:`\lambda = 0.01`,
    square-root scaling of the learning rate, and warm-up.

    Args:
      learning_rate: :math:`\eta`, step length of a layer relative to :math:`\phi(\|w_l\|)`
        (dimensionless for ``phi='identity'``): number, traced scalar or schedule.
      b1: see :func:`scale_by_lamb`.
      b2: see :func:`scale_by_lamb`.
      eps: see :func:`scale_by_lamb`.
      weight_decay: see :func:`scale_by_lamb`.
      phi: see :func:`scale_by_lamb`.
      phi_min: see :func:`scale_by_lamb`.
      phi_max: see :func:`scale_by_lamb`.
      mask: see :func:`scale_by_lamb`.
      ratio_mask: see :func:`scale_by_lamb`.

    Returns:
      The update rule.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt import optim
      >>> w, g = jnp.array([[3.0, 4.0]]), jnp.array([[1e-3, -1e3]])
      >>> rule = optim.lamb(0.1)
      >>> updates, _ = rule.update(g, rule.init(w), w)
      >>> print(f'{jnp.linalg.norm(updates) / jnp.linalg.norm(w):.3f}')
      0.100

    References:
      You et al., `Large Batch Optimization for Deep Learning: Training BERT in 76 minutes
      <https://arxiv.org/abs/1904.00962>`_, 2019 (algorithm 2)
    """
    link = scale_by_lamb(
        b1,
        b2,
        eps,
        weight_decay,
        phi=phi,
        phi_min=phi_min,
        phi_max=phi_max,
        mask=mask,
        ratio_mask=ratio_mask,
    )
    return base.chain(link, base.scale_by_learning_rate(learning_rate))
