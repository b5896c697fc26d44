"""What every update rule is made of: the rule protocol, one precision, masks and norms."""

import functools
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sbt.choice import Names, Registry
from sbt.errors import UserError, shown
from sbt.ranges import BELOW_ONE, FRACTION, NON_NEGATIVE, POSITIVE, Range

Scalar = float | jax.Array
RULES = Registry("rule")  # functions rule(learning_rate, ...), each registered where it stands

# Hyperparameters by the numbers that they take.
Decay = Annotated[Scalar, BELOW_ONE]  # momentum, and the rate of a moving average
NonNegative = Annotated[Scalar, NON_NEGATIVE]
Positive = Annotated[Scalar, POSITIVE]
Fraction = Annotated[Scalar, FRACTION]
BelowOne = Annotated[Scalar, BELOW_ONE]
AtLeastOne = Annotated[Scalar, Range(1)]
HalfAtMost = Annotated[Scalar, Range(0, 0.5, open_low=True)]
Schedule = Callable[[Any], Any]
# A tree of bools (or a prefix), a callable from params to one, 'all', 'kernels' or None (all).
Mask = Annotated[Any, Names("all", "kernels")]
Norm = Literal["global", "layer"]


# --- the protocol ---------------------------------------------------------------------------------


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

    The functions that make a rule compute in at least float32, under ordinary dtype promotion, and
    need not think of dtypes: gradients, state and params are cast to that on the way in, updates
    and state back to what they were on the way out. So a traced float32 hyperparameter leaves a
    bfloat16 leaf bfloat16, where optax's own arithmetic would promote it, or fail. A state keeps
    the dtypes that ``init`` gave it.

    Args:
      init: as in optax.
      update: as in optax, with extra arguments.
      evaluate_at: function of (params, state, key); the identity by default. It must return a tree
        of the params' structure, and must not depend on the mini-batch.
    """

    evaluate_at: EvaluateAt = staticmethod(at_params)

    def __new__(cls, init: Any, update: Any, evaluate_at: EvaluateAt = at_params) -> "Rule":
        @functools.wraps(init)
        def init_arrays(params: Any) -> Any:
            with jax.numpy_dtype_promotion("standard"):
                return init(_arrays(params))

        @functools.wraps(update)
        def update_wide(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
            given = _arrays(updates)
            with jax.numpy_dtype_promotion("standard"):
                out, after = update(_wide(given), _wide(state), _wide(_arrays(params)), **extra)
            return _cast_like(out, given), _cast_like(after, state)

        def point_wide(params: Any, state: Any, key: jax.Array | None = None) -> Any:
            given = _arrays(params)
            with jax.numpy_dtype_promotion("standard"):
                return _cast_like(evaluate_at(_wide(given), _wide(state), key), given)

        rule = super().__new__(cls, init_arrays, update_wide)
        rule.evaluate_at = point_wide
        return rule


def _arrays(tree: Any) -> Any:
    """Python numbers as arrays, as JAX takes them."""
    return jax.tree.map(jnp.asarray, tree)


def _wide(tree: Any) -> Any:
    def leaf(x: Any) -> Any:
        return widen(x) if jnp.issubdtype(jnp.result_type(x), jnp.inexact) else x

    return jax.tree.map(leaf, tree)


def _cast_like(tree: Any, like: Any) -> Any:
    def leaf(x: Any, y: Any) -> Any:
        dtype = jnp.result_type(y)
        return x if jnp.issubdtype(dtype, jax.dtypes.extended) else jnp.asarray(x).astype(dtype)

    return jax.tree.map(leaf, tree, like)


def evaluation_point(
    rule: optax.GradientTransformation, params: Any, state: Any, key: jax.Array | None = None
) -> Any:
    """Where ``rule`` wants its next gradient; ``params`` for an ordinary optax transformation."""
    return getattr(rule, "evaluate_at", at_params)(params, state, key)


def ignores_scale(make: Callable[[float], optax.GradientTransformation]) -> bool:
    """Whether a rule moves weights by the same for a gradient and for a multiple of it.

    So do sign descent, Adam and its kin (but for their ε), normalised and orthogonalised gradients.
    Found out by three updates of a small matrix.

    Args:
      make: a learning rate to a rule that needs nothing but gradients.
    """
    rng = np.random.RandomState(0)
    weights, *grads = ({"kernel": rng.standard_normal((4, 3))} for _ in range(4))

    def moved(scale: float) -> Any:
        rule, params = optax.with_extra_args_support(make(0.1)), jax.tree.map(jnp.asarray, weights)
        state, key = rule.init(params), jax.random.key(0)
        for grad in grads:
            scaled = jax.tree.map(lambda g: jnp.asarray(scale * g), grad)
            updates, state = rule.update(scaled, state, params, key=key)
            params = optax.apply_updates(params, updates)
        return params["kernel"]

    with jax.numpy_dtype_promotion("standard"):
        return bool(np.allclose(moved(1.0), moved(4.0), rtol=1e-3, atol=1e-4))


def chain(*links: optax.GradientTransformation) -> Rule:
    """``optax.chain`` that keeps the links' ``evaluate_at``, in at least float32 throughout.

    The points compose in the order of the links, each with a key of its own, ``fold_in(key,
    position)``.
    The state is that of ``optax.chain``: a tuple with one entry per link.
    """
    inner = optax.with_extra_args_support(optax.chain(*links))

    def evaluate_at(params: Any, state: Any, key: jax.Array | None = None) -> Any:
        for position, (each, its_state) in enumerate(zip(links, state, strict=True)):
            its_key = None if key is None else jax.random.fold_in(key, position)
            params = evaluation_point(each, params, its_state, its_key)
        return params

    return Rule(inner.init, inner.update, evaluate_at)


# --- hyperparameters ------------------------------------------------------------------------------


def need_numbers(**values: Any) -> None:
    """Refuses what is not a number: neither Python's nor an array.

    Raises:
      UserError: naming the argument.
    """
    for field, value in values.items():
        number = isinstance(value, int | float) or hasattr(value, "dtype")
        if isinstance(value, bool) or not number:
            remedy = "give a number or a scalar array"
            raise UserError(field, f"{shown(value)} is not a number", remedy)


def one_of(field: str, value: Any, choices: Sequence[str]) -> None:
    """Refuses a value that is none of the names that an argument takes.

    Raises:
      UserError: naming them.
    """
    if not isinstance(value, str) or value not in choices:
        remedy = f"use {', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}"
        raise UserError(field, f"unknown {field} {shown(value)}", remedy)


def at_count(value: Scalar | Schedule, count: jax.Array) -> Any:
    """The value of a hyperparameter at an update: schedules are called, the rest is returned."""
    return value(count) if callable(value) else value


def map_schedule(function: Callable[[Any], Any], value: Scalar | Schedule) -> Any:
    """``function`` of a number, or the schedule of its values."""
    return (lambda count: function(value(count))) if callable(value) else function(value)


class ScheduledState(NamedTuple):
    """State of :func:`scheduled`."""

    count: Any  # shape=(), dtype=int32: updates made
    inner: Any


def scheduled(make: Callable[[Any], optax.GradientTransformation]) -> Rule:
    """The link ``make(count)`` of every update: its hyperparameters may follow the count.

    ``optax.inject_hyperparams`` does this too, and keeps the hyperparameters in the state.
    """

    def init(params: Any) -> ScheduledState:
        count = jnp.zeros([], jnp.int32)
        return ScheduledState(count, make(count).init(params))

    def update(updates: Any, state: ScheduledState, params: Any = None, **extra: Any) -> Any:
        del extra
        out, inner = make(state.count).update(updates, state.inner, params)
        return out, ScheduledState(optax.safe_increment(state.count), inner)

    return Rule(init, update)


# --- masks ----------------------------------------------------------------------------------------


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
        raise UserError("mask", f"unknown mask {mask!r}", "use 'all' or 'kernels'")
    return None if mask == "all" else kernels


def mask_leaves(mask: Mask, params: Any) -> Any:
    """``mask`` as one bool per leaf of ``params``, for rules that read several masks at once."""
    mask = resolve_mask(mask)
    mask = mask(params) if callable(mask) else mask
    return jax.tree.broadcast(True if mask is None else mask, params)


# --- links: optax's, with the values checked ------------------------------------------------------


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
    need_numbers(weight_decay=weight_decay)
    inner = optax.add_decayed_weights(weight_decay, resolve_mask(mask))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        need_params(params)
        return inner.update(updates, state, params)

    return optax.GradientTransformation(inner.init, update)


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
    need_numbers(momentum=momentum)
    return optax.trace(momentum, nesterov)


def scale_by_learning_rate(learning_rate: Scalar | Schedule) -> optax.GradientTransformation:
    r"""Multiplies by :math:`-\eta`, a number, a traced scalar or a schedule of the update count."""
    if not callable(learning_rate):
        need_numbers(learning_rate=learning_rate)
    return optax.scale_by_learning_rate(learning_rate)


# --- arithmetic -----------------------------------------------------------------------------------


def widen(x: jax.Array) -> jax.Array:
    """``x`` in at least float32, the precision in which rules compute.

    Rules that are linear in the gradient, or divide by norms, take complex leaves as optax's do:
    the gradient is used as it is given (``jax.grad`` returns the conjugate of the direction of
    steepest ascent).
    """
    with jax.numpy_dtype_promotion("standard"):
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))


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


def sqrt(x: jax.Array) -> jax.Array:
    """The square root, with derivative 0 (not infinity) at 0."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), x)


def square(x: jax.Array) -> jax.Array:
    """The squared absolute value of real or complex entries."""
    if jnp.iscomplexobj(x):
        return jnp.square(jnp.real(x)) + jnp.square(jnp.imag(x))
    return jnp.square(x)


def multiply_add(x: jax.Array, factor: Any, y: jax.Array) -> jax.Array:
    """``x + factor * y`` in at least float32, returned in the dtype of ``x``."""
    with jax.numpy_dtype_promotion("standard"):
        return (widen(x) + factor * widen(y)).astype(x.dtype)


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
    with jax.numpy_dtype_promotion("standard"):
        largest = jnp.max(jnp.stack([jnp.max(jnp.abs(x), initial=0) for x in leaves]))
        unit = _power_of_two(jax.lax.stop_gradient(largest))
        return unit * sqrt(jnp.sum(jnp.stack([jnp.sum(square(x / unit)) for x in leaves])))
