"""Conservative training: a proximal problem on every batch, solved by a few inner iterations."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sbt.errors import UserError
from sbt.optim import base
from sbt.optim.adam import scale_by_adam
from sbt.ranges import COUNT

Gradient = Callable[[Any], Any]


class ConservativeState(NamedTuple):
    """State of :func:`conservative`."""

    count: Any  # shape=(), dtype=int32: batches used
    inner: Any  # state of the inner optimiser after the last batch


def conservative_step(
    gradient: Gradient,
    params: Any,
    inner: optax.GradientTransformation,
    inner_state: Any,
    *,
    proximal: base.NonNegative = 1e-3,
    iterations: int = 3,
    first_gradient: Any = None,
) -> tuple[Any, Any]:
    r"""Approximately minimises the batch loss plus a pull towards the present point.

    .. math:: x_{k+1} \approx \arg\min_x\ \frac{1}{|B_k|}\sum_{i \in B_k} f_i(x)
              + \frac{\lambda}{2} \|x - x_k\|_2^2

    by ``iterations`` steps of ``inner`` from :math:`x_k`, all on the same batch, with gradients
    :math:`\nabla f_{B_k}(x) + \lambda (x - x_k)`.

    Args:
      gradient: params to the mean gradient of the *fixed* batch.
      params: :math:`x_k`.
      inner: any optax transformation, learning rate included.
      inner_state: of ``inner``; ``inner.init(params)`` to start afresh.
      proximal: :math:`\lambda`, loss per parameter²; may be traced.
      iterations: inner steps, at least 1.
      first_gradient: ``gradient(params)`` if it is known already; saves one evaluation.

    Returns:
      ``(x_{k+1}, inner_state)``.

    Raises:
      UserError: for fewer than one iteration.
    """
    if iterations < 1:
        raise UserError("iterations", f"{iterations} inner iterations", "use 1 or more")

    def move(x: Any, state: Any, g: Any) -> tuple[Any, Any]:
        pulled = jax.tree.map(lambda g, x, x0: g + proximal * (x - x0), g, x, params)
        updates, state = inner.update(pulled, state, x)
        return optax.apply_updates(x, updates), state

    def body(_: Any, carry: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        x, state, g = carry
        x, state = move(x, state, g)
        return x, state, gradient(x)

    g = gradient(params) if first_gradient is None else first_gradient
    # The last iteration stands outside so that no gradient is taken in vain.
    x, state, g = jax.lax.fori_loop(0, iterations - 1, body, (params, inner_state, g))
    return move(x, state, g)


@base.RULES.register(
    "conservative", source="Keskar et al. 2017, arXiv 1609.04836, appendix E", needs=("grad_fn",)
)
def conservative(
    learning_rate: base.Scalar | base.Schedule = 1e-3,
    proximal: base.NonNegative = 1e-3,
    b1: base.Decay = 0.9,
    b2: base.Decay = 0.999,
    eps: base.Positive = 1e-8,
    *,
    iterations: Annotated[int, COUNT] = 3,
    moments: Literal["carried", "fresh"] = "carried",
) -> base.Rule:
    r"""Conservative training with inner ADAM (Keskar et al., appendix E).

    One update is :func:`conservative_step`: three ADAM iterations on one batch at
    :math:`\lambda = 10^{-3}`. It costs ``iterations`` gradients per update.

    The paper gives neither the learning rate of the inner ADAM nor whether its moments outlive a
    batch. Here: ADAM's defaults (0.9, 0.999, 1e-8), and moments carried over (what repeating a
    library's training step on the same batch does). ``'fresh'`` empties them for every batch; the
    first of the inner steps then has length :math:`\eta` in every coordinate.

    Args:
      learning_rate: :math:`\eta`, of the inner ADAM: number, traced scalar, or schedule of the
        update count (one value for all inner iterations).
      proximal: :math:`\lambda`, loss per parameter²; may be traced.
      b1: of :func:`sbt.optim.scale_by_adam`.
      b2: the same.
      eps: the same.
      iterations: inner iterations.
      moments: ``'carried'`` or ``'fresh'``.

    Returns:
      The update rule. ``update`` needs params and ``grad_fn=``, a function of the params that gives
      the mean gradient of the same batch; ``updates`` is its value at the params.

    Raises:
      UserError: for another ``moments``.

    Examples:
      >>> import jax, jax.numpy as jnp, optax
      >>> from sbt import optim
      >>> grad_fn = jax.grad(lambda w: jnp.sum((w - 1) ** 2))
      >>> rule = optim.conservative(0.1)
      >>> w = jnp.zeros(2)
      >>> state = rule.init(w)
      >>> updates, state = rule.update(grad_fn(w), state, w, grad_fn=grad_fn)
      >>> print(*(f'{u:.4f}' for u in updates))
      0.2984 0.2984

    References:
      Keskar et al., `On Large-Batch Training for Deep Learning: Generalization Gap and Sharp Minima
      <https://arxiv.org/abs/1609.04836>`_, 2017 (appendix E)

      Li et al., `Efficient Mini-batch Training for Stochastic Optimization
      <https://doi.org/10.1145/2623330.2623612>`_, 2014
    """
    base.one_of("moments", moments, ("carried", "fresh"))
    adam = scale_by_adam(b1, b2, eps)

    def init(params: Any) -> ConservativeState:
        inner = (adam.init(params), optax.EmptyState()) if moments == "carried" else ()
        return ConservativeState(jnp.zeros([], jnp.int32), inner)

    def update(
        updates: Any,
        state: ConservativeState,
        params: Any = None,
        *,
        grad_fn: Gradient | None = None,
        **extra: Any,
    ) -> Any:
        del extra
        base.need_params(params)
        if grad_fn is None:
            raise ValueError(
                "Conservative training needs update(updates, state, params, grad_fn=...), the "
                "gradient of the same batch as a function of the params."
            )
        rate = optax.scale_by_learning_rate(base.at_count(learning_rate, state.count))
        inner = optax.chain(adam, rate)
        x, inner_state = conservative_step(
            grad_fn,
            params,
            inner,
            state.inner if moments == "carried" else inner.init(params),
            proximal=proximal,
            iterations=iterations,
            first_gradient=updates,
        )
        step = jax.tree.map(lambda new, old: new - old, x, params)
        count = optax.safe_increment(state.count)
        return step, ConservativeState(count, inner_state if moments == "carried" else ())

    return base.Rule(init, update)
