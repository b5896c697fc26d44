"""Gradient noise convolution: every worker's gradient where its own last step would have led."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sbt.optim import base
from sbt.optim.sgd import sgd
from sbt.ranges import Range

WORKERS = Range(2, 2**16)


def mean_over_workers(tree: Any) -> Any:
    """The mean over the leading axis of all leaves."""
    return jax.tree.map(lambda leaf: jnp.mean(leaf, 0), tree)


def need_parts(rule: str, part_gradient: Any) -> None:
    """Refuses an update without the gradients of parts of its batch."""
    if part_gradient is None:
        raise ValueError(
            f"{rule} needs update(updates, state, params, part_gradient=...), a function (params, "
            "part, parts) -> mean gradient of that one of equal parts of the batch."
        )


class ConvolutionState(NamedTuple):
    """State of the link of :func:`gradient_noise_convolution`."""

    count: Any  # shape=(), dtype=int32: updates made
    noise: Any  # of every worker at the last update: its gradient less the mean; (workers, ...)


@base.RULES.register(
    "gradient_noise_convolution",
    source="Haruki et al. 2019, arXiv 1906.10822",
    needs=("part_gradient",),
    parts="workers",
)
def gradient_noise_convolution(
    learning_rate: base.Scalar | base.Schedule,
    momentum: base.Decay | None = 0.0,
    weight_decay: base.NonNegative = 0.0,
    scale: base.NonNegative = 1.0,
    *,
    workers: Annotated[int, WORKERS] = 4,
    decay_mask: base.Mask = None,
) -> base.Rule:
    r"""SGD on the loss averaged over the gradient noise of K workers that share every batch.

    .. math::

      g^k_t = \nabla L_{B^k_t}\big(w_t - s\,\eta_t\, n^k_{t-1}\big), \qquad
      n^k_t = g^k_t - \bar g_t, \qquad \bar g_t = \tfrac1K \textstyle\sum_k g^k_t, \qquad
      w_{t+1} = w_t - \eta_t u_{t+1}, \quad u_{t+1} = \beta u_t + \bar g_t + \lambda w_t

    for parts :math:`B^1 \ldots B^K` of the batch, and :math:`n_{-1} = 0`. The noise of the workers'
    gradients is large where the loss is sharp, so sharp directions are smoothed most; it sums to 0
    over workers. With :math:`s = 1` and no momentum, worker k looks where its own last step would
    have taken it, :math:`w_{t-1} - \eta g^k_{t-1}`, and only then the steps are averaged.

    Known to us are the idea and its name, that the perturbation of a worker is the deviation of its
    gradient from the mean and comes at no further gradient. Our choices: the noise is that of the
    last update, multiplied by the learning rate and ``scale``.

    Args:
      learning_rate: :math:`\eta`, in mean form of the whole batch: number, traced scalar or
        schedule.
      momentum: as in :func:`sbt.optim.sgd`.
      weight_decay: as in :func:`sbt.optim.sgd`; of the unperturbed weights.
      scale: :math:`s`, dimensionless; 0 is :func:`sbt.optim.sgd`.
      workers: K, equal parts of the batch; the state holds as many copies of the weights.
      decay_mask: leaves to decay, as in :func:`sbt.optim.sgd`.

    Returns:
      The update rule. ``update`` needs ``part_gradient=``, a function ``(params, part, parts)`` to
      the mean gradient of that one of equal parts of the batch; ``updates`` is not used.

    Examples:
      >>> import jax.numpy as jnp
      >>> from sbt import optim
      >>> targets = jnp.asarray([1.0, 3.0])
      >>> part = lambda w, k, parts: w - targets[k]  # of (w - target)**2 / 2
      >>> rule, w = optim.gradient_noise_convolution(0.5, None, workers=2), jnp.asarray(0.0)
      >>> state = rule.init(w)
      >>> for _ in range(2):
      ...     step, state = rule.update(w, state, w, part_gradient=part)
      ...     w = w + step
      ...     print(w, state[0].noise)
      1.0 [ 1. -1.]
      1.5 [ 0.5 -0.5]

    References:
      Haruki et al., `Gradient Noise Convolution (GNC): Smoothing Loss Function for Distributed
      Large-Batch SGD <https://arxiv.org/abs/1906.10822>`_, 2019
    """

    def init(params: Any) -> ConvolutionState:
        noise = jax.tree.map(lambda p: jnp.zeros((workers, *p.shape), p.dtype), params)
        return ConvolutionState(jnp.zeros([], jnp.int32), noise)

    def update(
        updates: Any,
        state: ConvolutionState,
        params: Any = None,
        *,
        part_gradient: Any = None,
        **extra: Any,
    ) -> Any:
        del updates, extra
        base.need_params(params)
        need_parts("Gradient noise convolution", part_gradient)
        length = scale * base.at_count(learning_rate, state.count)

        def of_worker(worker: jax.Array, noise: Any) -> Any:
            point = jax.tree.map(lambda p, n: p - length * n, params, noise)
            return part_gradient(point, worker, workers)

        each = jax.vmap(of_worker)(jnp.arange(workers), state.noise)
        mean = mean_over_workers(each)
        noise = jax.tree.map(jnp.subtract, each, mean)
        return mean, ConvolutionState(optax.safe_increment(state.count), noise)

    return base.chain(
        base.Rule(init, update),
        sgd(learning_rate, momentum, weight_decay=weight_decay, decay_mask=decay_mask),
    )
