"""Entropy-SGD: descent on the local entropy, whose gradient a short Langevin walk estimates."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sbt.optim import base
from sbt.optim.convolution import need_parts
from sbt.ranges import COUNT


class EntropyState(NamedTuple):
    """State of the link of :func:`entropy_sgd`."""

    count: Any  # shape=(), dtype=int32: updates made


@base.RULES.register(
    "entropy_sgd",
    source="Chaudhari et al. 2017, arXiv 1611.01838, algorithm 1",
    needs=("part_gradient",),
    parts="langevin_steps",
)
def entropy_sgd(
    learning_rate: base.Scalar | base.Schedule,
    momentum: base.Decay | None = 0.0,
    weight_decay: base.NonNegative = 0.0,
    scope: base.Positive = 0.03,
    scope_growth: base.NonNegative = 0.0,
    inner_rate: base.Positive = 0.1,
    thermal_noise: base.NonNegative = 1e-4,
    averaging: base.Fraction = 0.75,
    *,
    langevin_steps: Annotated[int, COUNT] = 4,
    decay_mask: base.Mask = None,
) -> base.Rule:
    r"""Entropy-SGD: an outer step along the gradient of the local entropy.

    One update, from :math:`x' = \mu = w`, for the parts :math:`l = 1 \ldots L` of the batch:

    .. math::

      x' &\leftarrow x' - \eta'\,\big(\nabla L_{B^l}(x') + \lambda x' - \gamma (w - x')\big)
           + \sqrt{\eta'}\,\epsilon\, N(0, I) \\
      \mu &\leftarrow (1 - \alpha)\,\mu + \alpha x'

    and then :math:`w \leftarrow w - \eta u`, :math:`u \leftarrow \beta u + \gamma_t (w - \mu)`,
    with the scope :math:`\gamma_t = \gamma_0 (1 + \gamma_1)^t`. :math:`\gamma (w - \mu)` estimates
    the gradient of :math:`-\log \int e^{-L(x') - \gamma \|w - x'\|^2 / 2}\,dx'`, which is low in
    wide valleys; the larger :math:`\gamma`, the closer the walk stays.

    Every Langevin step of the paper takes a mini-batch of its own, and counts as one when it
    compares epochs. So it is here: a *batch* of m examples is that of a whole update, and a step
    takes m/L of them. Where batch norm is used, each step has the statistics of its part, and
    running statistics are taken at :math:`w`, over the whole batch.

    Momentum is the paper's option (it uses Nesterov's form, in the walk as well); here it is heavy
    ball, of the outer step alone. Learning rate and scope are tuned per network there: the
    defaults for them are ours.

    Args:
      learning_rate: :math:`\eta`, of the outer step: :math:`\eta\gamma` is the share of the way to
        :math:`\mu`, 1 goes there. Number, traced scalar or schedule.
      momentum: :math:`\beta`, as in :func:`sbt.optim.sgd`.
      weight_decay: :math:`\lambda`, part of the loss that the walk sees.
      scope: :math:`\gamma_0`, loss per parameter².
      scope_growth: :math:`\gamma_1`, by the update.
      inner_rate: :math:`\eta'`, in mean form of the m/L examples of a step.
      thermal_noise: :math:`\epsilon`; the paper's is 1e-4.
      averaging: :math:`\alpha`, weight of the newest; the paper's is 0.75.
      langevin_steps: L; the paper takes up to 20.
      decay_mask: leaves to decay, as in :func:`sbt.optim.sgd`.

    Returns:
      The update rule. ``update`` needs params, ``key=`` and ``part_gradient=``, see
      :func:`sbt.optim.gradient_noise_convolution`; ``updates`` is not used.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from sbt import optim
      >>> part = lambda w, l, parts: w - 1.0  # of (w - 1)**2 / 2
      >>> rule = optim.entropy_sgd(1.0, None, scope=1.0, inner_rate=0.25, thermal_noise=0.0,
      ...                          averaging=1.0, langevin_steps=2)
      >>> w, arguments = jnp.asarray(0.0), {'part_gradient': part, 'key': jax.random.key(0)}
      >>> print(rule.update(w, rule.init(w), w, **arguments)[0])  # x' = 1/4, 3/8
      0.375

    References:
      Chaudhari et al., `Entropy-SGD: Biasing Gradient Descent Into Wide Valleys
      <https://arxiv.org/abs/1611.01838>`_, 2017
    """

    def init(params: Any) -> EntropyState:
        del params
        return EntropyState(jnp.zeros([], jnp.int32))

    def update(
        updates: Any,
        state: EntropyState,
        params: Any = None,
        *,
        key: Any = None,
        part_gradient: Any = None,
        **extra: Any,
    ) -> Any:
        del updates, extra
        base.need_params(params)
        base.need_real("entropy_sgd", params)
        need_parts("Entropy-SGD", part_gradient)
        if key is None:
            raise ValueError("Entropy-SGD draws noise: update(updates, state, params, key=...).")
        gamma = scope * (1.0 + jnp.asarray(scope_growth)) ** state.count
        decay_on = base.mask_leaves(decay_mask, params)
        heat = base.sqrt(jnp.asarray(inner_rate)) * thermal_noise

        def walk(step: jax.Array, at: tuple[Any, Any]) -> tuple[Any, Any]:
            x, mu = at
            gradient = part_gradient(x, step, langevin_steps)
            noise = optax.tree.random_like(jax.random.fold_in(key, step), params, jax.random.normal)

            def moved(x: jax.Array, g: jax.Array, w: jax.Array, n: jax.Array, decayed: bool) -> Any:
                loss = g + weight_decay * x if decayed else g
                after = x - inner_rate * (loss - gamma * (w - x)) + heat * n
                return after.astype(x.dtype)

            def averaged(mu: jax.Array, x: jax.Array) -> jax.Array:
                return ((1 - averaging) * mu + averaging * x).astype(mu.dtype)

            x = jax.tree.map(moved, x, gradient, params, noise, decay_on)
            return x, jax.tree.map(averaged, mu, x)

        _, mu = jax.lax.fori_loop(0, langevin_steps, walk, (params, params))
        descent = jax.tree.map(lambda w, mu: gamma * (w - mu), params, mu)
        return descent, EntropyState(optax.safe_increment(state.count))

    return base.chain(
        base.Rule(init, update),
        base.heavy_ball(momentum),
        base.scale_by_learning_rate(learning_rate),
    )
