"""Adam, with moments in at least float32."""

import jax
import jax.numpy as jnp
import optax

from sbt.optim import base


def scale_by_adam(
    b1: base.Decay = 0.9, b2: base.Scalar = 0.999, eps: base.Scalar = 1e-8
) -> optax.GradientTransformation:
    r"""Adam's bias-corrected direction.

    .. math::

      m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \quad
      v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2, \quad
      r_t = \frac{m_t / (1-\beta_1^t)}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon}

    ``optax.scale_by_adam``, with moments in at least float32: at :math:`\beta_2 = 0.999` a bfloat16
    average stands still. Of complex entries it averages squared absolute values.

    Args:
      b1: :math:`\beta_1 \in [0, 1)`, may be traced.
      b2: :math:`\beta_2 \in [0, 1)`, may be traced.
      eps: :math:`\epsilon`, in units of a gradient, added outside the root.

    Returns:
      The transformation; its moments are float32 at least.
    """

    base.need_numbers(b1=b1, b2=b2, eps=eps)
    # As arrays, whose 1 - b is that of the bias correction. eps_root is lost in rounding; with it a
    # zero gradient has derivative 0, not NaN.
    b1, b2 = jnp.asarray(b1), jnp.asarray(b2)
    tiny = float(jnp.finfo(jnp.float32).tiny)
    inner = optax.with_extra_args_support(optax.scale_by_adam(b1, b2, eps, eps_root=tiny))
    return base.Rule(lambda params: inner.init(jax.tree.map(base.widen, params)), inner.update)


@base.RULES.register("adam", source="Kingma and Ba 2015, arXiv 1412.6980, algorithm 1")
def adam(
    learning_rate: base.Scalar | base.Schedule,
    b1: base.Decay = 0.9,
    b2: base.Decay = 0.999,
    eps: base.Positive = 1e-8,
    weight_decay: base.NonNegative = 0.0,
    *,
    decay_mask: base.Mask = None,
) -> base.Rule:
    r"""Adam with an L2 term: :func:`scale_by_adam` times :math:`-\eta`.

    Keskar et al. train everything with it, at a library's defaults: :math:`\eta = 10^{-3}` for
    every batch size, so ``lr_scaling='none'`` in a config.

    Args:
      learning_rate: :math:`\eta`, length of a first step in every coordinate, in parameter units:
        number, traced scalar or schedule.
      b1: see :func:`scale_by_adam`.
      b2: see :func:`scale_by_adam`.
      eps: see :func:`scale_by_adam`.
      weight_decay: coefficient of :math:`\tfrac12\|w\|^2` in the mean loss. It enters the moments;
        for AdamW chain :func:`scale_by_adam` with ``optax.add_decayed_weights``.
      decay_mask: leaves to decay, as in :func:`sbt.optim.sgd`.

    Returns:
      The update rule.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt import optim
      >>> rule = optim.adam(0.1)
      >>> w = jnp.array([1.0, -2.0])
      >>> print(rule.update(10 * w, rule.init(w), w)[0])
      [-0.1  0.1]

    References:
      Kingma and Ba, `Adam: A Method for Stochastic Optimization
      <https://arxiv.org/abs/1412.6980>`_, 2015 (algorithm 1)
    """
    return base.chain(
        base.add_l2(weight_decay, decay_mask),
        scale_by_adam(b1, b2, eps),
        base.scale_by_learning_rate(learning_rate),
    )
