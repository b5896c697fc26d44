"""What every update rule is made of: the rule protocol, dtype-stable links, masks and norms.

The links repeat three of optax's with one difference: optax multiplies a leaf by a *traced* float32
hyperparameter as it is, which turns a bfloat16 leaf into float32 (or fails, where promotion is
strict). Here the arithmetic runs in at least float32 and the result keeps the leaf's dtype.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Protocol

import jax
import jax.numpy as jnp
import optax

from sbt.choice import Names
from sbt.errors import UserError, shown
from sbt.ranges import BELOW_ONE, FRACTION, NON_NEGATIVE, POSITIVE, Range

Scalar = float | jax.Array
# Hyperparameters by the numbers that they take.
Decay = Annotated[Scalar, BELOW_ONE]  # momentum, and the rate of a moving average
NonNegative = Annotated[Scalar, NON_NEGATIVE]
Positive = Annotated[Scalar, POSITIVE]
Fraction = Annotated[Scalar, FRACTION]
AtLeastOne = Annotated[Scalar, Range(1)]
HalfAtMost = Annotated[Scalar, Range(0, 0.5, open_low=True)]
Schedule = Callable[[Any], Any]
# A tree of bools (or a prefix), a callable from params to one, 'all', 'kernels' or None (all).
Mask = Annotated[Any, Names("all", "kernels")]
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
        rule = super().__new__(cls, *_on_arrays(init, update))

        def evaluate_at_arrays(params: Any, state: Any, key: jax.Array | None = None) -> Any:
            return evaluate_at(jax.tree.map(jnp.asarray, params), state, key)

        rule.evaluate_at = evaluate_at_arrays
        return rule


def _on_arrays(init: Any, update: Any) -> tuple[Any, Any]:
    """``init`` and ``update`` that take Python numbers for arrays, as JAX does."""

    def as_arrays(tree: Any) -> Any:
        return jax.tree.map(jnp.asarray, tree)

    @functools.wraps(init)
    def init_arrays(params: Any) -> Any:
        return init(as_arrays(params))

    @functools.wraps(update)
    def update_arrays(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        return update(as_arrays(updates), state, as_arrays(params), **extra)

    return init_arrays, update_arrays


def link(init: Any, update: Any) -> optax.GradientTransformation:
    """A link of a chain from functions of trees of arrays."""
    return optax.GradientTransformation(*_on_arrays(init, update))


def link_with_extra(init: Any, update: Any) -> optax.GradientTransformationExtraArgs:
    """The same, of an ``update`` that takes further arguments by name."""
    return optax.GradientTransformationExtraArgs(*_on_arrays(init, update))


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
        for position, (each, its_state) in enumerate(zip(links, state, strict=True)):
            its_key = None if key is None else jax.random.fold_in(key, position)
            params = evaluation_point(each, params, its_state, its_key)
        return params

    return Rule(inner.init, optax.with_extra_args_support(inner).update, evaluate_at)


def wide_dtype(*arrays: jax.Array) -> Any:
    """The dtype in which rules do arithmetic on these leaves: the widest, at least float32.

    It is complex where one of the leaves is. Rules that are linear in the gradient, or divide by
    norms, take complex leaves as optax's do: the gradient is used as it is given (``jax.grad``
    returns the conjugate of the direction of steepest ascent).
    """
    real = max([jnp.dtype("float32"), *map(real_dtype, arrays)], key=lambda d: jnp.finfo(d).bits)
    if not any(jnp.iscomplexobj(x) for x in arrays):
        return real
    return jnp.dtype("complex128" if jnp.finfo(real).bits > 32 else "complex64")


def real_dtype(x: jax.Array) -> Any:
    """The dtype of the magnitudes of ``x``."""
    return jnp.finfo(x.dtype).dtype if jnp.iscomplexobj(x) else x.dtype


def need_real(rule: str, *trees: Any) -> None:
    """Refuses complex leaves for a rule that orders the entries of a leaf, or has no limit there.

    Raises:
      UserError: naming the rule.
    """
    for leaf in jax.tree.leaves(trees):
        if jnp.iscomplexobj(leaf):
            raise UserError(
                rule,
                f"a leaf of dtype {leaf.dtype} is complex",
                "use optax.contrib.split_real_and_imaginary around it, or another rule",
            )


def widen(x: jax.Array) -> jax.Array:
    """``x`` in at least float32."""
    return x.astype(wide_dtype(x))


def scalar_like(value: Any, x: jax.Array) -> jax.Array:
    """A hyperparameter (Python number or traced scalar) in the dtype of ``widen(x)``.

    Raises:
      UserError: it is neither.
    """
    need_scalar("a hyperparameter of the rule", value)
    return jnp.asarray(value).astype(wide_dtype(x))


def need_scalar(field: str, value: Any) -> None:
    """Refuses what is not a number: neither Python's nor an array.

    Raises:
      UserError: naming the argument.
    """
    number = isinstance(value, int | float) or hasattr(value, "dtype")
    if isinstance(value, bool) or not number:
        raise UserError(field, f"{shown(value)} is not a number", "give a number or a scalar array")


def multiply_add(x: jax.Array, factor: Any, y: jax.Array) -> jax.Array:
    """``x + factor * y`` in at least float32, returned in the dtype of ``x``."""
    wide = widen(x)
    return (wide + scalar_like(factor, x) * y.astype(wide.dtype)).astype(x.dtype)


def multiply(x: jax.Array, factor: Any) -> jax.Array:
    """``factor * x`` in at least float32, returned in the dtype of ``x``."""
    return (scalar_like(factor, x) * widen(x)).astype(x.dtype)


def sqrt(x: jax.Array) -> jax.Array:
    """The square root, with derivative 0 (not infinity) at 0."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, jnp.ones_like(x))), x)


def magnitude(x: jax.Array) -> jax.Array:
    """The absolute value of real or complex entries, with derivative 0 at 0."""
    return sqrt(square(x)) if jnp.iscomplexobj(x) else jnp.abs(x)


def square(x: jax.Array) -> jax.Array:
    """The squared absolute value of real or complex entries."""
    if jnp.iscomplexobj(x):
        return jnp.square(jnp.real(x)) + jnp.square(jnp.imag(x))
    return jnp.square(x)


def kernels(params: Any) -> Any:
    """The mask that leaves biases and normalisation scales out: True where ``ndim >= 2``."""
    return jax.tree.map(lambda p: jnp.ndim(p) >= 2, params)


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


def on_mask(inner: optax.GradientTransformation, mask: Mask) -> optax.GradientTransformation:
    """``inner`` on the leaves that ``mask`` selects; the other leaves pass unchanged."""
    mask = resolve_mask(mask)
    return inner if mask is None else optax.masked(inner, mask)


def mask_leaves(mask: Mask, params: Any) -> Any:
    """``mask`` as one bool per leaf of ``params``, for rules that read several masks at once."""
    mask = resolve_mask(mask)
    mask = mask(params) if callable(mask) else mask
    return jax.tree.broadcast(True if mask is None else mask, params)


def one_of(field: str, value: Any, choices: Sequence[str]) -> None:
    """Refuses a value that is none of the names that an argument takes.

    Raises:
      UserError: naming them.
    """
    if not isinstance(value, str) or value not in choices:
        remedy = f"use {', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}"
        raise UserError(field, f"unknown {field} {shown(value)}", remedy)


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

    need_scalar("weight_decay", weight_decay)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        need_params(params)
        return jax.tree.map(lambda g, p: multiply_add(g, weight_decay, p), updates, params), state

    return on_mask(link(lambda _: optax.EmptyState(), update), mask)


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
    need_scalar("momentum", momentum)

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

    return link(init, update)


def scale_by_learning_rate(learning_rate: Scalar | Schedule) -> optax.GradientTransformation:
    r"""Multiplies by :math:`-\eta`, a number, a traced scalar or a schedule of the update count."""
    if callable(learning_rate):
        schedule = learning_rate

        def update(updates: Any, state: Any, params: Any = None) -> Any:
            del params
            step = -jnp.asarray(schedule(state.count))
            new_state = optax.ScaleByScheduleState(optax.safe_increment(state.count))
            return jax.tree.map(lambda g: multiply(g, step), updates), new_state

        return link(lambda _: optax.ScaleByScheduleState(jnp.zeros([], jnp.int32)), update)

    need_scalar("learning_rate", learning_rate)

    def update_constant(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        return jax.tree.map(lambda g: -multiply(g, learning_rate), updates), state

    return link(lambda _: optax.EmptyState(), update_constant)


def _power_of_two(size: jax.Array) -> jax.Array:
    """The power of two in (size / 2, size], or the smallest normal one where ``size`` is less."""
    _, exponent = jnp.frexp(size)
    return jnp.ldexp(jnp.ones_like(size), jnp.maximum(exponent - 1, jnp.finfo(size.dtype).minexp))


def l2_norm(tree: Any) -> jax.Array:
    """Euclidean norm of all leaves together, in at least float32.

    Entries are divided by a power of two near the largest magnitude before they are squared: a
    float32 gradient of size 1e-25 has a norm (its square does not), so that rules which divide by
    norms do not depend on the scale of the loss. An empty tree has norm 0. The derivative at 0 is
    taken as 0, so that a zero gradient leaves derivatives with respect to hyperparameters finite.
    """
    leaves = [widen(jnp.asarray(x)) for x in jax.tree.leaves(tree)]
    if not leaves:
        return jnp.zeros([], jnp.float32)
    dtype = max(map(real_dtype, leaves), key=lambda d: jnp.finfo(d).bits)
    sizes = [jnp.max(jnp.abs(x), initial=0).astype(dtype) for x in leaves]
    unit = _power_of_two(jax.lax.stop_gradient(jnp.max(jnp.stack(sizes))))

    def sum_of_squares(x: jax.Array) -> jax.Array:
        parts = (jnp.real(x), jnp.imag(x)) if jnp.iscomplexobj(x) else (x,)
        return jnp.sum(
            jnp.stack([jnp.sum(jnp.square(part.astype(dtype) / unit)) for part in parts])
        )

    return unit * sqrt(jnp.sum(jnp.stack([sum_of_squares(x) for x in leaves])))
