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

import functools
import math
from typing import Annotated, Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike

from sbt.errors import UserError
from sbt.measure.noise import jackknife_error
from sbt.measure.registry import MEASUREMENTS, RULE_STATE, STEPS, Found, Labelled, Rule, Subject
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
    drawn = _Draws(batch_loss, params, arrays, batch_size, micro_batch, key, where)

    def draw(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        gradient = drawn.gradient(i)

        def along(x: jax.Array, part: jax.Array) -> jax.Array:
            slope = jax.grad(lambda x: drawn.loss(x, i, part))
            return jnp.vdot(gradient, jax.jvp(slope, (x,), (gradient,))[1])

        return drawn.mean(along, jnp.zeros((), gradient.dtype)), jnp.vdot(gradient, gradient)

    bent, square = lax.map(draw, jnp.arange(batches))
    if mean == "ratios":
        each = bent / square
        return BatchSharpness(jnp.mean(each), jnp.std(each, ddof=1) / math.sqrt(batches))
    without = (jnp.sum(bent) - bent) / (jnp.sum(square) - square)
    return BatchSharpness(jnp.sum(bent) / jnp.sum(square), jackknife_error(without))


class _Draws:
    """Batches of a split, drawn without replacement; their number of micro-batches may be traced.

    Raises:
      UserError: more examples than there are.
    """

    def __init__(
        self,
        batch_loss: Any,
        params: Any,
        arrays: Any,
        batch_size: ArrayLike,
        micro_batch: int | None,
        key: jax.Array | None,
        where: Where,
    ):
        if micro_batch is None:
            micro_batch = checked_count("batch_size", batch_size)
        size, self._key = split_size(arrays, micro_batch, "micro_batch"), checked_key(key)
        if micro_batch > size:
            remedy = "draw no more than there are"
            raise UserError("batch_size", f"{micro_batch} of {size} examples", remedy)
        self._size, self._micro_batch = size, micro_batch
        self._count = jnp.minimum(jnp.asarray(batch_size), size) // micro_batch
        self._at = surface(batch_loss, params, where, field="batch_loss")
        self._arrays = jax.tree.map(jnp.asarray, arrays)

    def loss(self, x: jax.Array, i: jax.Array, part: jax.Array) -> jax.Array:
        """Mean loss of a micro-batch of batch ``i``, at any point."""
        order = jax.random.permutation(jax.random.fold_in(self._key, i), self._size)
        g = self._micro_batch
        taken = lax.dynamic_slice_in_dim(order, part * g, g)
        return self._at.loss(x, jax.tree.map(lambda a: a[taken], self._arrays))

    def mean(self, each: Any, zero: jax.Array) -> jax.Array:
        """Mean over the micro-batches of a batch of ``each(point, part)``."""
        point = self._at.point
        total = lax.fori_loop(0, self._count, lambda part, sum_: sum_ + each(point, part), zero)
        return total / self._count.astype(total.dtype)

    def gradient(self, i: jax.Array) -> jax.Array:
        """Of batch ``i``, flat."""
        each = jax.grad(self.loss)
        return self.mean(lambda x, part: each(x, i, part), jnp.zeros_like(self._at.point))


def gradient_noise_interaction(
    loss_fn: Loss,
    batch_loss: Any,
    params: Any,
    arrays: Any,
    batch_size: ArrayLike,
    *,
    batches: int = 100,
    micro_batch: int | None = None,
    key: jax.Array | None = None,
    where: Where = None,
) -> BatchSharpness:
    r"""Curvature of the whole loss along gradients of batches, over that of the whole gradient.

    .. math:: E_B[g_B^\top H g_B] \,/\, |\nabla L|^2

    with :math:`H` and :math:`\nabla L` of the whole split: the gradient-noise interaction. At
    :math:`2/\eta` a step of SGD leaves a quadratic loss as it is on average. It says that the loss
    is stationary, not that training is at the edge of stability: every noisy quadratic arrives
    there, whatever its curvature.

    Args:
      loss_fn: mean loss over the split.
      batch_loss: and what follows, as in :func:`batch_sharpness`.

    Returns:
      The value, and its standard error over batches. NaN where the gradient vanishes. Cost:
      ``batches`` times a gradient of m examples and a Hessian-vector product of the split.

    Raises:
      UserError: for fewer than two batches, or more examples than there are.

    Examples:
      >>> each = lambda w, x: 1.5 * jnp.mean((w - x) ** 2)
      >>> x = jnp.arange(8.0)
      >>> whole = lambda w: each(w, x)
      >>> print(gradient_noise_interaction(whole, each, 9.0, x, 8, batches=5).value)
      3.0
    """
    check_number("batches", batches, SAMPLES, whole=True)
    drawn = _Draws(batch_loss, params, arrays, batch_size, micro_batch, key, where)
    hessian = hessian_operator(loss_fn, params, where)
    whole = jax.grad(surface(loss_fn, params, where).loss)(hessian.point)

    def draw(i: jax.Array) -> jax.Array:
        gradient = drawn.gradient(i)
        return jnp.vdot(gradient, hessian.product(gradient))

    each = lax.map(draw, jnp.arange(batches)) / jnp.vdot(whole, whole)
    return BatchSharpness(jnp.mean(each), jnp.std(each, ddof=1) / math.sqrt(batches))


# Rules of whose steps a mean of squared gradients says only a part.
_OTHERWISE = ("adamax", "adamaxw", "lamb")
_ADAM = optax.ScaleByAdamState
_NUMBER = int | float | jax.Array


@functools.cache
def _rms() -> tuple[type, ...]:
    """States of RMSProp: that of a bias correction has no public name.

    Not on import: making one starts the devices, which several processes must first be told of.
    """
    with jax.ensure_compile_time_eval():
        return optax.ScaleByRmsState, type(optax.scale_by_rms(bias_correction=True).init(()))


def preconditioner(rule: Rule, params: Any) -> Any:
    r"""The diagonal by which Adam and RMSProp divide, a tree like ``params``.

    .. math:: P = \operatorname{diag}\left(\sqrt{\hat v + \epsilon_r} + \epsilon\right)

    :math:`\hat v` is the mean of squared gradients, corrected for its start where the rule corrects
    it; RMSProp of optax has :math:`\epsilon` inside the root. The mean is found in the state of any
    chain; decay and :math:`\epsilon` are the rule's hyperparameters ``b2`` (RMSProp: ``decay``) and
    ``eps``. Before the first update it is NaN.

    Raises:
      UserError: the rule has no such mean for every weight, several, or not these hyperparameters.
    """
    field, remedy = "config.rule.name", "measure it of Adam, AdamW or RMSProp"
    holds = (_ADAM, *_rms())
    leaves = jax.tree.leaves(rule.state, is_leaf=lambda node: isinstance(node, holds))
    found = [node for node in leaves if isinstance(node, holds)]
    if len(found) != 1 or rule.name.rpartition(".")[2] in _OTHERWISE:
        problem = f"{rule.name!r} does not divide by the root of one mean of squared gradients"
        raise UserError(field, problem, remedy)
    (state,) = found
    shapes: list[Any] = [jax.tree.structure(tree) for tree in (state.nu, params)]
    if shapes[0] != shapes[1]:
        problem = f"{rule.name!r} divides only some of the weights by a mean of squared gradients"
        raise UserError(field, problem, remedy)
    decay = "b2" if isinstance(state, _ADAM) else "decay"
    missing = [name for name in (decay, "eps") if not isinstance(rule.values.get(name), _NUMBER)]
    if missing:
        problem = f"{rule.name!r} has no number {' or '.join(map(repr, missing))}"
        raise UserError(field, problem, "give the function of the rule keywords of these names")
    eps, root = rule.values["eps"], rule.values.get("eps_root", 0.0)
    if isinstance(state, _rms()) and rule.values.get("eps_in_sqrt", True):
        eps, root = 0.0, eps
    count = state.count if "count" in state._fields else None  # tuples have another

    def divisor(square: jax.Array) -> jax.Array:
        start = 1.0 if count is None else 1 - rule.values[decay] ** count
        return jnp.sqrt(square / start + root) + eps

    with jax.numpy_dtype_promotion("standard"):
        return jax.tree.map(divisor, state.nu)


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

    For Adam :math:`P` is :func:`preconditioner`; there it is told to settle at
    :math:`(2 + 2\beta_1)/((1-\beta_1)\eta)`.

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


@MEASUREMENTS.register(
    "gradient_noise_interaction",
    cost="heavy",
    source="Andreyev & Beneventano 2024, arXiv:2412.20553",
)
def gradient_noise_interaction_of(run: Subject, *, batches: Annotated[int, SAMPLES] = 100) -> Found:
    r"""Curvature along gradients of batches over the squared gradient; 2/η where the loss rests.

    Args:
      run: what is measured; the batch size is as in batch_sharpness.
      batches: how many, each a gradient of m examples and a Hessian-vector product of the split.
    """
    found = gradient_noise_interaction(
        run.loss,
        run.batch_loss,
        run.params,
        run.split,
        run.batch_size,
        batches=batches,
        micro_batch=min(run.micro_batch, run.split.shape[0]),
        key=run.key,
        where=run.where,
    )
    words = "gradient-noise interaction"
    return {
        "gradient_noise_interaction": Labelled(found.value, (), "", words),
        "gradient_noise_interaction_error": Labelled(
            found.standard_error, (), "", "its standard error"
        ),
    }


@MEASUREMENTS.register(
    "preconditioned_sharpness",
    cost="heavy",
    needs=(RULE_STATE,),
    source="Cohen et al. 2022, arXiv:2207.14484",
)
def preconditioned_sharpness_of(run: Subject, *, order: Annotated[int, STEPS] = 32) -> Found:
    r"""Largest curvature as Adam or RMSProp feels it, in training; 38/η at its edge (b1 = 0.9).

    Args:
      run: what is measured, with the state of its rule.
      order: Lanczos steps, a Hessian-vector product over the split each.
    """
    assert run.rule is not None
    value = preconditioned_sharpness(
        run.loss,
        run.params,
        preconditioner(run.rule, run.params),
        order=order,
        where=run.where,
        key=run.key,
    )
    words = "preconditioned sharpness"
    return {"preconditioned_sharpness": Labelled(value, (), "", words)}
