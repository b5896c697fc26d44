r"""Curvature that training at the edge of stability feels: of batches, and of an adaptive rule.

For gradient descent on a quadratic of curvature :math:`\lambda`, a rate :math:`\eta` is stable up
to :math:`\lambda = 2/\eta`. What is told to take the place of :math:`\lambda`:

===================================  ======================================================
plain SGD                            batch sharpness :math:`2/\eta`
momentum :math:`\beta`, small m      batch sharpness :math:`2(1-\beta)/\eta`
momentum :math:`\beta`, large m      batch sharpness :math:`2(1+\beta)/\eta`
Adam, full batch or large m          :math:`\lambda_1(P^{-1}H) = (2+2\beta_1)/((1-\beta_1)\eta)`
===================================  ======================================================

that is :math:`38/\eta` at :math:`\beta_1 = 0.9`. Momentum is heavy ball's, without the factor
:math:`1-\beta` that Adam's average has; for Adam with small batches no number is known.

References:
  Andreyev and Beneventano, `Edge of Stochastic Stability <https://arxiv.org/abs/2412.20553>`_, 2024

  Cohen et al., `Adaptive Gradient Methods at the Edge of Stability
  <https://arxiv.org/abs/2207.14484>`_, 2022
"""

import math
from typing import Annotated, Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from sbt.errors import UserError
from sbt.measure.noise import jackknife_error
from sbt.measure.registry import MEASUREMENTS, Found, Labelled, Subject
from sbt.measure.spectrum import SAMPLES, hessian_operator, lanczos, ritz
from sbt.measure.split import split_size
from sbt.measure.trees import Loss, Where, checked_count, checked_key, ravel, surface
from sbt.optim.base import one_of
from sbt.ranges import check_number

Mean = Literal["ratios", "expectations"]


class BatchSharpness(NamedTuple):
    """Curvature along gradients, and the standard error of it."""

    value: jax.Array  # shape=(), loss per parameter², as a Hessian's eigenvalue
    standard_error: jax.Array  # shape=()


def batch_sharpness(
    batch_loss: Any,
    params: Any,
    arrays: Any,
    batch_size: ArrayLike,
    *,
    batches: int = 100,
    mean: Mean = "ratios",
    micro_batch: int | None = None,
    key: jax.Array | None = None,
    where: Where = None,
) -> BatchSharpness:
    r"""Curvature of the loss of a batch along the gradient of the same batch.

    .. math::

      E_B\!\left[\frac{g_B^\top H_B\, g_B}{|g_B|^2}\right] \quad\text{or}\quad
      \frac{E_B[g_B^\top H_B\, g_B]}{E_B[|g_B|^2]}

    Each batch is drawn without replacement. Under plain SGD it is told to rise until it hovers at
    :math:`2/\eta`, where the largest eigenvalue of the whole split stays below, the lower the
    smaller the batch; thresholds of other rules stand at the head of :mod:`sbt.measure.edge`.

    Args:
      batch_loss: ``batch_loss(params, batch)``, mean loss over a batch.
      arrays: the split; tree of arrays with one leading axis of examples.
      batch_size: m, a multiple of the micro-batch; it may be traced. Where the split has fewer
        examples, as many micro-batches as it has.
      batches: how many, 2 or more. (The authors stop at a relative standard error of 0.005, after
        10 to 500 batches; a compiled program needs a number.)
      mean: of ratios, or the ratio of means.
      micro_batch: examples of a gradient; None for the batch size, which then is a number.

    Returns:
      The value, with the standard error of a mean over batches, for ``expectations`` that of the
      jackknife. NaN where a gradient vanishes. Cost: ``batches`` times a gradient and a
      Hessian-vector product of m examples.

    Raises:
      UserError: for fewer than two batches, more examples than there are, or an unknown mean.

    Examples:
      >>> loss = lambda w, x: 1.5 * jnp.mean((w - x) ** 2)
      >>> print(batch_sharpness(loss, 9.0, jnp.arange(8.0), 2, batches=5).value)
      3.0
    """
    one_of("mean", mean, get_args(Mean))
    check_number("batches", batches, SAMPLES, whole=True)
    if micro_batch is None:
        micro_batch = checked_count("batch_size", batch_size)
    size, key = split_size(arrays, micro_batch, "micro_batch"), checked_key(key)
    if micro_batch > size:
        raise UserError(
            "batch_size", f"{micro_batch} of {size} examples", "draw no more than there are"
        )
    g, count = micro_batch, jnp.minimum(jnp.asarray(batch_size), size) // micro_batch
    at = surface(batch_loss, params, where, field="batch_loss")
    arrays = jax.tree.map(jnp.asarray, arrays)

    def draw(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        order = jax.random.permutation(jax.random.fold_in(key, i), size)

        def loss(x: jax.Array, part: jax.Array) -> jax.Array:
            taken = lax.dynamic_slice_in_dim(order, part * g, g)
            return at.loss(x, jax.tree.map(lambda a: a[taken], arrays))

        zeros = jnp.zeros_like(at.point)
        whole = lax.fori_loop(
            0, count, lambda part, sum_: sum_ + jax.grad(loss)(at.point, part), zeros
        )
        gradient = whole / count.astype(whole.dtype)

        def along(part: jax.Array) -> jax.Array:
            slope = lambda x: jax.grad(loss)(x, part)  # noqa: E731
            return jnp.vdot(gradient, jax.jvp(slope, (at.point,), (gradient,))[1])

        zero = jnp.zeros((), at.point.dtype)
        bent = lax.fori_loop(0, count, lambda part, sum_: sum_ + along(part), zero)
        return bent / count.astype(bent.dtype), jnp.vdot(gradient, gradient)

    bent, square = lax.map(draw, jnp.arange(batches))
    if mean == "ratios":
        each = bent / square
        return BatchSharpness(jnp.mean(each), jnp.std(each, ddof=1) / math.sqrt(batches))
    without = (jnp.sum(bent) - bent) / (jnp.sum(square) - square)
    return BatchSharpness(jnp.sum(bent) / jnp.sum(square), jackknife_error(without))


def preconditioned_sharpness(
    loss_fn: Loss,
    params: Any,
    preconditioner: Any,
    *,
    order: int = 32,
    where: Where = None,
    key: jax.Array | None = None,
) -> jax.Array:
    r"""Largest eigenvalue of :math:`P^{-1/2} H P^{-1/2}`, :math:`P` diagonal, by Lanczos.

    For Adam :math:`P = \operatorname{diag}(\sqrt{\hat v} + \epsilon)`, :math:`\hat v` corrected
    for its start; there it is told to settle at :math:`(2 + 2\beta_1)/((1-\beta_1)\eta)`.

    Args:
      preconditioner: the diagonal of P, positive; a tree like ``params``.
      order: Lanczos steps, a Hessian-vector product each; never more than the parameters.

    Examples:
      >>> loss = lambda w: 3.0 * w[0] ** 2 + 2.0 * w[1] ** 2
      >>> print(preconditioned_sharpness(loss, jnp.ones(2), jnp.array([3.0, 0.5])).round(4))
      8.0
    """
    checked_count("order", order)
    operator, key = hessian_operator(loss_fn, params, where), checked_key(key)
    scale = 1 / jnp.sqrt(ravel(preconditioner, where)[0].astype(operator.point.dtype))
    size = operator.point.size
    start = jax.random.normal(jax.random.fold_in(key, 0), (size,), operator.point.dtype)
    found = lanczos(
        lambda v: scale * operator.product(scale * v),
        start,
        min(size, order),
        jax.random.fold_in(key, 1),
    )
    return jnp.max(ritz(found).values)


# --- measured on a run ---------------------------------------------------------------------------


@MEASUREMENTS.register(
    "batch_sharpness", cost="heavy", source="Andreyev & Beneventano 2024, arXiv:2412.20553"
)
def batch_sharpness_of(
    run: Subject, *, batches: Annotated[int, SAMPLES] = 100, mean: Mean = "ratios"
) -> Found:
    r"""Curvature of batches of the run's own size along their gradients; 2/η at SGD's edge.

    Thresholds with momentum: 2(1-β)/η for small batches, 2(1+β)/η for large ones. Under a schedule
    of the batch size it is that of the run, m, where the schedule's factor is 1.

    Args:
      run: what is measured.
      batches: how many, each a gradient and a Hessian-vector product of m examples.
      mean: of the ratios g·Hg / |g|², or ``expectations``, the ratio of the means.
    """
    found = batch_sharpness(
        run.batch_loss,
        run.params,
        run.split,
        run.batch_size,
        batches=batches,
        mean=mean,
        micro_batch=min(run.micro_batch, run.split.shape[0]),
        key=run.key,
        where=run.where,
    )
    words = "curvature of batches along their gradients"
    return {
        "batch_sharpness": Labelled(found.value, (), "", words),
        "batch_sharpness_error": Labelled(found.standard_error, (), "", "its standard error"),
    }
