"""What every update rule is made of: the rule protocol, dtype-stable links, masks and norms.

The links repeat three of optax's with one difference: optax multiplies a leaf by a *traced* float32
hyperparameter as it is, which turns a bfloat16 leaf into float32 (or fails, where promotion is
strict). Here the arithmetic runs in at least float32 and the result keeps the leaf's dtype.
"""

from collections.abc import Callable
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import optax

from sbt.errors import UserError

Scalar = float | jax.Array
Schedule = Callable[[Any], Any]
Mask = Any  # a tree of bools (or a prefix), a callable from params to one, 'all', 'kernels' or None
Norm = Literal["global", "layer"]


class EvaluateAt(Protocol):
    """Maps ``(params, state, key)`` to the point where the next gradient is taken."""

    def __call__(self, params: Any, state: Any, key: jax.Array | None = None) -> Any: ...


def at_params(params: Any, state: Any, key: jax.Array | None = None) -> Any:
    """The ordinary point of evaluation: the parameters themselves."""
    del state, key
    return params


class Rule(optax.GradientTransformationExtraArgs):
    """An optax transformation that may ask for its gradient elsewhere than at the parameters.

    It *is* an ``optax.GradientTransformationExtraArgs`` (``init``, ``update``), so it chains with
    anything from optax. What optax has no place for is the third member: ::

        key = jax.random.fold_in(rule_key, update_index)
        point = rule.evaluate_at(params, state, key)
        grads = jax.grad(loss)(point, batch)
        updates, state = rule.update(grads, state, params)  # params, not the point
        params = optax.apply_updates(params, updates)

    The point is fixed between two updates: with gradient accumulation all micro-batches of one
    update share it, unless a rule's own documentation says that each may draw a fresh key.
    ``optax.chain`` and other wrappers forget ``evaluate_at``; :func:`chain` keeps it.

    Args:
      init: as in optax.
      update: as in optax, with extra arguments.
      evaluate_at: function of (params, state, key); the identity by default. It must return a tree
        of the params' structure, shapes and dtypes, and must not depend on the mini-batch.
    """

    evaluate_at: EvaluateAt = staticmethod(at_params)

    def __new__(cls, init: Any, update: Any, evaluate_at: EvaluateAt = at_params) -> "Rule":
        rule = super().__new__(cls, init, update)
        rule.evaluate_at = evaluate_at
        return rule


def evaluation_point(
    rule: optax.GradientTransformation, params: Any, state: Any, key: jax.Array | None = None
) -> Any:
    """Where ``rule`` wants its next gradient; ``params`` for an ordinary optax transformation."""
    return getattr(rule, "evaluate_at", at_params)(params, state, key)


def chain(*links: optax.GradientTransformation) -> Rule:
    """``optax.chain`` that keeps the links' ``evaluate_at``.

    The points compose in the order of the links, each with a key of its own, ``fold_in(key,
    position)``.
    The state is that of ``optax.chain``: a tuple with one entry per link.
    """
    inner = optax.chain(*links)

    def evaluate_at(params: Any, state: Any, key: jax.Array | None = None) -> Any:
        for position, (link, link_state) in enumerate(zip(links, state, strict=True)):
            link_key = None if key is None else jax.random.fold_in(key, position)
            params = evaluation_point(link, params, link_state, link_key)
        return params

    return Rule(inner.init, optax.with_extra_args_support(inner).update, evaluate_at)


def wide_dtype(*arrays: jax.Array) -> Any:
    """The dtype in which rules do arithmetic on these leaves: the widest, at least float32."""
    return max([jnp.dtype("float32"), *(x.dtype for x in arrays)], key=lambda d: jnp.finfo(d).bits)


def widen(x: jax.Array) -> jax.Array:
    """``x`` in at least float32."""
    return x.astype(wide_dtype(x))


def scalar_like(value: Any, x: jax.Array) -> jax.Array:
    """A hyperparameter (Python number or traced scalar) in the dtype of ``widen(x)``."""
    return jnp.asarray(value).astype(wide_dtype(x))


def multiply_add(x: jax.Array, factor: Any, y: jax.Array) -> jax.Array:
    """``x + factor * y`` in at least float32, returned in the dtype of ``x``."""
    wide = widen(x)
    return (wide + scalar_like(factor, x) * y.astype(wide.dtype)).astype(x.dtype)


def multiply(x: jax.Array, factor: Any) -> jax.Array:
    """``factor * x`` in at least float32, returned in the dtype of ``x``."""
    return (scalar_like(factor, x) * widen(x)).astype(x.dtype)


def kernels(params: Any) -> Any:
    """The mask that leaves biases and normalisation scales out: True where ``ndim >= 2``."""
    return jax.tree.map(lambda p: p.ndim >= 2, params)


def resolve_mask(mask: Mask) -> Any:
    """Turns the names that a config can hold (``'all'``, ``'kernels'``) into optax masks.

    Raises:
      UserError: for any other name.
    """
    if not isinstance(mask, str):
        return mask
    if mask not in ("all", "kernels"):
        raise UserError("mask", f"no mask is called {mask!r}", "use 'all' or 'kernels'")
    return None if mask == "all" else kernels


def on_mask(link: optax.GradientTransformation, mask: Mask) -> optax.GradientTransformation:
    """``link`` on the leaves that ``mask`` selects; the other leaves pass unchanged."""
    mask = resolve_mask(mask)
    return link if mask is None else optax.masked(link, mask)


def mask_leaves(mask: Mask, params: Any) -> Any:
    """``mask`` as one bool per leaf of ``params``, for rules that read several masks at once."""
    mask = resolve_mask(mask)
    mask = mask(params) if callable(mask) else mask
    return jax.tree.broadcast(True if mask is None else mask, params)


def need_params(params: Any) -> None:
    """Refuses a call of ``update`` without params where the rule is a function of them."""
    if params is None:
        raise ValueError(
            "This rule needs the parameters: update(updates, state, params), not without params."
        )


def add_l2(weight_decay: Scalar, mask: Mask = None) -> optax.GradientTransformation:
    r"""Adds the gradient of an L2 term: :math:`g \leftarrow g + \lambda w`.

    Args:
      weight_decay: :math:`\lambda`, per unit of the *mean* loss (number or traced scalar).
      mask: leaves to decay: None or ``'all'``, ``'kernels'``, a tree of bools, or a callable.
    """

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        need_params(params)
        return jax.tree.map(lambda g, p: multiply_add(g, weight_decay, p), updates, params), state

    return on_mask(optax.GradientTransformation(lambda _: optax.EmptyState(), update), mask)


def heavy_ball(momentum: Scalar | None, nesterov: bool = False) -> optax.GradientTransformation:
    r"""The undamped momentum buffer :math:`u \leftarrow \beta u + g`, which it returns.

    With ``nesterov``, :math:`g + \beta u` for the new :math:`u` (Sutskever's form, as in PyTorch
    and optax). The buffer has the params' dtype and is there for every numeric ``momentum``, 0
    and traced ones included; None means no buffer at all and gives the identity.

    Args:
      momentum: :math:`\beta`, in [0, 1): number, traced scalar, or None.
      nesterov: return the look-ahead instead of the buffer.
    """
    if momentum is None:
        return optax.identity()

    def init(params: Any) -> optax.TraceState:
        return optax.TraceState(jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        trace = jax.tree.map(
            lambda g, u: multiply_add(g, momentum, u).astype(u.dtype), updates, state.trace
        )
        out = jax.tree.map(lambda g, u: u.astype(g.dtype), updates, trace)
        if nesterov:
            out = jax.tree.map(lambda g, u: multiply_add(g, momentum, u), updates, trace)
        return out, optax.TraceState(trace)

    return optax.GradientTransformation(init, update)


def scale_by_learning_rate(learning_rate: Scalar | Schedule) -> optax.GradientTransformation:
    r"""Multiplies by :math:`-\eta`, a number, a traced scalar or a schedule of the update count."""
    if callable(learning_rate):
        schedule = learning_rate

        def update(updates: Any, state: Any, params: Any = None) -> Any:
            del params
            step = -jnp.asarray(schedule(state.count))
            new_state = optax.ScaleByScheduleState(optax.safe_increment(state.count))
            return jax.tree.map(lambda g: multiply(g, step), updates), new_state

        return optax.GradientTransformation(
            lambda _: optax.ScaleByScheduleState(jnp.zeros([], jnp.int32)), update
        )

    def update_constant(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        return jax.tree.map(lambda g: -multiply(g, learning_rate), updates), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update_constant)


def _power_of_two(size: jax.Array) -> jax.Array:
    """The power of two in (size / 2, size], or the smallest normal one where ``size`` is less."""
    _, exponent = jnp.frexp(size)
    return jnp.ldexp(jnp.ones_like(size), jnp.maximum(exponent - 1, jnp.finfo(size.dtype).minexp))


def l2_norm(tree: Any) -> jax.Array:
    """Euclidean norm of all leaves together, in at least float32.

    Entries are divided by a power of two near the largest magnitude before they are squared: a
    float32 gradient of size 1e-25 has a norm (its square does not), so that rules which divide by
    norms do not depend on the scale of the loss. An empty tree has norm 0.
    """
    leaves = [widen(x) for x in jax.tree.leaves(tree)]
    if not leaves:
        return jnp.zeros([], jnp.float32)
    dtype = wide_dtype(*leaves)
    sizes = [jnp.max(jnp.abs(x), initial=0).astype(dtype) for x in leaves]
    unit = _power_of_two(jnp.max(jnp.stack(sizes)))
    squares = [jnp.sum(jnp.square(x.astype(dtype) / unit)) for x in leaves]
    return unit * jnp.sqrt(jnp.sum(jnp.stack(squares)))
