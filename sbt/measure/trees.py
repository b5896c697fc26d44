"""Parameters as one vector, and the door of every measurement: selection of layers, checks."""

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from sbt.errors import UserError, shown
from sbt.nn.conv import Implementation, lane_friendly
from sbt.ranges import COUNT, Range, check_number

P = ParamSpec("P")
T = TypeVar("T")

Where = Callable[[str], bool] | str | None
"""Which leaves take part: a predicate of the path, a regular expression searched in it, or all.

Paths read ``params/Dense_0/kernel``.
"""

Loss = Callable[[Any], jax.Array]
"""Maps params to the mean loss over a whole split, a scalar."""


def fast(
    function: Callable[P, T], field: str = "loss_fn", implementation: Implementation | None = None
) -> Callable[P, T]:
    """The same function, the convolutions of Flax modules in a form that is fast in compiled loops.

    Stock convolutions have gradients, and products with the Hessian, that XLA:CPU runs 10 to 30
    times slower inside the loops of which measurements are made. Modules that bring a convolution
    of their own, or are called in a :func:`sbt.nn.conv.lane_friendly` of their own, keep it.

    Args:
      function: calls Flax modules, or none.
      field: what the caller knows it as.
      implementation: None for the fastest on this machine, one network at a time.

    Raises:
      UserError: it is not a function.
    """
    if not callable(function):
        problem = f"{shown(function)} is not a function"
        raise UserError(field, problem, "give a function of the parameters")
    if implementation is None:
        implementation = "packed" if jax.default_backend() == "cpu" else "direct"
    chosen: Implementation = implementation

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with lane_friendly(chosen):
            return function(*args, **kwargs)

    return run


def as_loss(
    function: Callable[P, Any], field: str = "loss_fn", implementation: Implementation | None = None
) -> Callable[P, jax.Array]:
    """A :func:`fast` function that is sure to return one real number.

    Raises:
      UserError: it is not a function or, when it is called, returns anything else.
    """
    run = fast(function, field, implementation)

    @functools.wraps(run)
    def loss(*args: P.args, **kwargs: P.kwargs) -> jax.Array:
        value = run(*args, **kwargs)
        shape, kind = getattr(value, "shape", ()), getattr(value, "dtype", type(value))
        if shape != () or not jnp.issubdtype(kind, jnp.floating):
            name = getattr(kind, "name", None) or kind.__name__
            what = f"an array of shape {shape}" if shape else f"a value of type {name}"
            raise UserError(field, f"returns {what}", "return the mean loss, one real number")
        return value

    return loss


def checked_key(key: Any) -> jax.Array:
    """A key for random numbers; ``jax.random.key(0)`` for None.

    Raises:
      UserError: it is not a key.
    """
    if key is None:
        return jax.random.key(0)
    kind, axes = getattr(key, "dtype", np.dtype(bool)), getattr(key, "ndim", None)
    typed, raw = jnp.issubdtype(kind, jax.dtypes.prng_key), kind == jnp.uint32
    if not (typed and axes == 0) and not (raw and axes == 1):
        raise UserError("key", f"{shown(key)} is not a key", "give one, as jax.random.key(0)")
    return key


def checked_count(field: str, value: Any, least: int = 1) -> int:
    """A whole number of at least ``least``.

    Raises:
      UserError: it is anything else.
    """
    return int(check_number(field, value, Range(least, COUNT.high), whole=True))


def leaf_path(path: Sequence[Any]) -> str:
    """The path of a leaf as users write it: ``params/Dense_0/kernel``."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


_ARRAYS = "give a tree of arrays, as a Flax module's init returns it"


def is_float(leaf: Any) -> bool:
    """Whether a leaf holds real numbers; counters and keys are never measured."""
    try:
        return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    except (TypeError, ValueError):
        raise UserError("params", f"the leaf {shown(leaf)} is not an array", _ARRAYS) from None


def wide(dtype: Any) -> Any:
    """At least float32: what is accumulated or perturbed is never kept in half precision."""
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else jnp.dtype(dtype)


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """A product that is never rounded to fewer bits (TF32): orthogonality rests on it."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def selected(params: Any, where: Where = None) -> list[tuple[str, bool]]:
    """Path of every leaf and whether ``where`` selects it.

    Raises:
      UserError: if nothing is selected.
    """
    accept = _accept(where)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    paths = [(leaf_path(path), is_float(leaf)) for path, leaf in leaves]
    chosen = [(path, real and (accept is None or bool(accept(path)))) for path, real in paths]
    if not any(taken for _, taken in chosen):
        known = ", ".join(path for path, real in paths if real) or "none: the tree has no weights"
        raise UserError("where", "the filter selects no parameter", f"available leaves: {known}")
    return chosen


def leaves_of(tree: Any, where: Where = None) -> list[jax.Array]:
    """The leaves that ``where`` selects.

    Raises:
      UserError: if nothing is selected.
    """
    chosen = zip(selected(tree, where), jax.tree.leaves(tree))
    return [leaf for (_, taken), leaf in chosen if taken]


def _accept(where: Any) -> Callable[[str], Any] | None:
    remedy = "give None for all, part of a path such as 'Dense_0/kernel', or a predicate of it"
    if isinstance(where, str):
        try:
            return re.compile(where).search
        except (re.error, RecursionError, OverflowError) as error:
            problem = f"{shown(where)} is not a regular expression: {error}"
            raise UserError("where", problem, remedy) from None
    if where is None or callable(where):
        return where
    raise UserError("where", f"{shown(where)} selects no parameters", remedy)


def check_finite(params: Any, field: str = "params") -> None:
    """Refuses parameters that are not finite, as those of a diverged run.

    Values that are being traced (under ``jit`` or ``vmap``) cannot be looked at; there every
    measurement of such a lane is NaN, and its neighbours are untouched.

    Raises:
      UserError: naming the first leaf that holds a value that is not finite.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if isinstance(leaf, jax.core.Tracer) or not is_float(leaf):
            continue
        bad = int(np.size(leaf) - np.isfinite(np.asarray(leaf, np.float64)).sum())
        if bad:
            raise UserError(
                f"{field}.{leaf_path(path)}",
                f"{bad} of {np.size(leaf)} values are not finite",
                "the run has diverged: measure an earlier checkpoint, or leave the run out",
            )


def ravel(params: Any, where: Where = None) -> tuple[jax.Array, Callable[[jax.Array], Any]]:
    """Selected leaves as one vector, and the way back.

    Args:
      params: any tree.
      where: which leaves, see :data:`Where`.

    Returns:
      A vector of at least float32, and a function of such a vector that puts it into the tree. It
      keeps the vector's dtype: a perturbation that half precision would round away is not lost.
      Leaves that are not selected stay as they are.

    Raises:
      UserError: if nothing is selected.

    Examples:
      >>> tree = {'bias': jnp.zeros(2), 'kernel': jnp.ones((2, 1))}
      >>> vector, unravel = ravel(tree, 'kernel')
      >>> print(vector, unravel(2 * vector)['bias'], unravel(2 * vector)['kernel'].ravel())
      [1. 1.] [0. 0.] [2. 2.]
    """
    parts, fill = parts_of(params, where)

    def unravel(vector: jax.Array) -> Any:
        filled, start = [], 0
        for part in parts:
            filled.append(vector[start : start + part.size].reshape(part.shape))
            start += part.size
        return fill(filled)

    return jnp.concatenate([part.ravel() for part in parts]), unravel


def parts_of(
    params: Any, where: Where = None
) -> tuple[list[jax.Array], Callable[[list[jax.Array]], Any]]:
    """Selected leaves as :func:`ravel` takes them, before they are one vector, and the way back.

    Raises:
      UserError: if nothing is selected.
    """
    leaves, structure = jax.tree.flatten(params)
    taken = [i for i, (_, chosen) in enumerate(selected(params, where)) if chosen]
    # The widest of them; joining dtypes is left to no promotion rule.
    dtype = max((wide(jnp.result_type(leaves[i])) for i in taken), key=lambda d: jnp.finfo(d).bits)

    def fill(parts: list[jax.Array]) -> Any:
        filled = list(leaves)
        for i, part in zip(taken, parts, strict=True):
            filled[i] = part
        return jax.tree.unflatten(structure, filled)

    return [jnp.asarray(leaves[i]).astype(dtype) for i in taken], fill


class Surface(NamedTuple):
    """A loss as a function of the vector of the selected parameters."""

    loss: Callable[..., jax.Array]  # vector, shape=(n,), and the rest of the arguments -> scalar
    point: jax.Array  # shape=(n,)
    unravel: Callable[[jax.Array], Any]  # vector -> tree like params


def surface(
    loss_fn: Callable[..., Any],
    params: Any,
    where: Where = None,
    *,
    field: str = "loss_fn",
    implementation: Implementation | None = None,
) -> Surface:
    """The loss around a point, checked: where every measurement begins.

    Args:
      loss_fn: ``params -> scalar``, or of more arguments after the parameters.
      params: the point, any tree.
      where: the parameters that count.
      field: what the caller knows the loss as.
      implementation: of convolutions, see :func:`fast`.

    Raises:
      UserError: no function, parameters that are not finite, or a filter that selects nothing;
        when it is called, a loss that is not one number.
    """
    loss = as_loss(loss_fn, field, implementation)
    check_finite(params)
    point, unravel = ravel(params, where)
    return Surface(lambda x, *rest: loss(unravel(x), *rest), point, unravel)


def unravel_by_leaf(params: Any, vector: jax.Array, where: Where = None) -> dict[str, jax.Array]:
    """A vector of :func:`ravel` cut into the selected leaves: path -> array of the leaf's shape."""
    parts, start = {}, 0
    for (path, chosen), leaf in zip(selected(params, where), jax.tree.leaves(params)):
        if chosen:
            parts[path] = vector[start : start + np.size(leaf)].reshape(np.shape(leaf))
            start += np.size(leaf)
    return parts
