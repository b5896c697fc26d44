"""Elastic averaging: workers that explore on their own, held by springs to a common centre."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sbt.optim import base
from sbt.optim.convolution import WORKERS, mean_over_workers, need_parts
from sbt.ranges import COUNT


class ElasticState(NamedTuple):
    """State of :func:`elastic_averaging`; the centre is the weights themselves."""

    count: Any  # shape=(), dtype=int32: updates made
    workers: Any  # their weights, (workers, ...)
    velocity: Any  # their momentum, in units of a step; (workers, ...)


@base.RULES.register(
    "elastic_averaging",
    source="Zhang, Choromanska and LeCun 2015, arXiv 1412.6651",
    needs=("part_gradient",),
    parts="workers",
)
def elastic_averaging(
    learning_rate: base.Scalar | base.Schedule,
    momentum: base.Decay = 0.0,
    weight_decay: base.NonNegative = 0.0,
    elasticity: base.Fraction = 0.9,
    *,
    workers: Annotated[int, WORKERS] = 4,
    period: Annotated[int, COUNT] = 1,
    decay_mask: base.Mask = None,
) -> base.Rule:
    r"""Synchronous EASGD, and EAMSGD with momentum: K workers and a centre.

    .. math::

      v^k_{t+1} &= \beta v^k_t - \eta\,\big(\nabla L_{B^k_t}(y) + \lambda y\big),
        \quad y = x^k_t + \beta v^k_t \\
      x^k_{t+1} &= x^k_t + v^k_{t+1} - \tfrac{\theta}{K}\,(x^k_t - \tilde x_t) \\
      \tilde x_{t+1} &= \tilde x_t + \tfrac{\theta}{K} \textstyle\sum_k (x^k_t - \tilde x_t)

    where worker k takes the part :math:`B^k` of every batch. The elastic terms act at every
    ``period``-th update, beginning with the first; between, workers move on their own and the
    centre rests. The centre is what is evaluated and kept. :math:`\theta` is the paper's
    :math:`\beta = K\alpha`, the share by which the centre moves to the mean of the workers: 1 puts
    it there. Worker weights start where the centre does.

    Each worker sees m/K examples an update, at the rate :math:`\eta = m\tilde\eta` of the whole
    batch; for the rate of its own batch under linear scaling, divide ``base_lr`` by K. Batch norm
    takes running statistics at the centre, over the whole batch.

    Args:
      learning_rate: :math:`\eta` of a worker, in mean form: number, traced scalar or schedule.
      momentum: :math:`\beta`, Nesterov's, of each worker.
      weight_decay: :math:`\lambda`, coefficient of :math:`\tfrac12\|x\|^2` in the mean loss.
      elasticity: :math:`\theta`; the paper takes 0.9 for all K.
      workers: K, equal parts of the batch; the state holds twice as many copies of the weights.
      period: :math:`\tau`, updates between those with elastic terms.
      decay_mask: leaves to decay, as in :func:`sbt.optim.sgd`.

    Returns:
      The update rule, of the centre. ``update`` needs params and ``part_gradient=``, see
      :func:`sbt.optim.gradient_noise_convolution`; ``updates`` is not used.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt import optim
      >>> targets = jnp.asarray([1.0, 3.0])
      >>> part = lambda w, k, parts: w - targets[k]  # of (w - target)**2 / 2
      >>> rule, w = optim.elastic_averaging(0.5, elasticity=1.0, workers=2), jnp.asarray(0.0)
      >>> state = rule.init(w)
      >>> for _ in range(2):
      ...     step, state = rule.update(w, state, w, part_gradient=part)
      ...     w = w + step
      ...     print(w, state.workers)
      0.0 [0.5 1.5]
      1.0 [0.5 1.5]

    References:
      Zhang, Choromanska and LeCun, `Deep learning with Elastic Averaging SGD
      <https://arxiv.org/abs/1412.6651>`_, 2015
    """

    def copies(params: Any) -> Any:
        return jax.tree.map(lambda p: jnp.repeat(p[None], workers, 0), params)

    def init(params: Any) -> ElasticState:
        zeros = jax.tree.map(jnp.zeros_like, copies(params))
        return ElasticState(jnp.zeros([], jnp.int32), copies(params), zeros)

    def update(
        updates: Any,
        state: ElasticState,
        params: Any = None,
        *,
        part_gradient: Any = None,
        **extra: Any,
    ) -> Any:
        del updates, extra
        base.need_params(params)
        need_parts("Elastic averaging", part_gradient)
        rate = base.at_count(learning_rate, state.count)
        decay_on = base.mask_leaves(decay_mask, params)
        due = state.count % period == 0

        def velocity_of(worker: jax.Array, x: Any, v: Any) -> Any:
            point = jax.tree.map(lambda x, v: x + momentum * v, x, v)
            gradient = part_gradient(point, worker, workers)
            return jax.tree.map(
                lambda v, g, y, decayed: (
                    momentum * v - rate * (g + weight_decay * y if decayed else g)
                ),
                v,
                gradient,
                point,
                decay_on,
            )

        velocity = jax.vmap(velocity_of)(jnp.arange(workers), state.workers, state.velocity)
        stretch = jax.tree.map(
            lambda x, centre: jnp.where(due, elasticity * (x - centre), 0), state.workers, params
        )
        moved = jax.tree.map(
            lambda x, v, pull: x + v - pull / workers, state.workers, velocity, stretch
        )
        count = optax.safe_increment(state.count)
        return mean_over_workers(stretch), ElasticState(count, moved, velocity)

    return base.Rule(init, update)
