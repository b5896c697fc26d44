"""Any Flax module as a pair of pure functions: what the training code knows of a model."""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from sbt.errors import UserError, shown

Params = Any
Stats = Any


@dataclasses.dataclass(frozen=True)
class Model:
    """A network as two pure functions, for use under ``jit``, ``grad``, ``vmap`` and ``scan``.

    Attributes:
      init: ``(key, x) -> (params, stats)``. ``x`` gives shape and dtype of an input batch.
      apply: ``(params, stats, x, key, train) -> (logits, new_stats)``. ``train`` is a Python bool:
        with True the network normalises with batch statistics, draws dropout masks from ``key``
        and returns moved running statistics; with False it returns ``stats`` as they came, and
        ``key`` may be None. ``stats`` is an empty dict for a network that has none.
      name: the class of the module that it was made of.
    """

    init: Callable[[jax.Array, jax.Array], tuple[Params, Stats]]
    apply: Callable[[Params, Stats, jax.Array, jax.Array | None, bool], tuple[jax.Array, Stats]]
    name: str = ""


def as_model(module: Any) -> Model:
    """Wraps a Flax module.

    Args:
      module: one of

        - a Linen module, called as ``module(x)`` or with any of the arguments ``train``,
          ``training``, ``is_train``, ``is_training``, or ``deterministic``,
          ``use_running_average``, ``eval``, ``is_eval``, ``inference``; a field of such a name does
          as well, and layers of an ``nn.Sequential`` that leave ``deterministic`` or
          ``use_running_average`` open are told too. Its collections may be ``params`` and
          ``batch_stats``. Names of mesh axes at its parameters are ignored.
        - an NNX module class, or a function ``rngs -> nnx.Module``: each ``init`` constructs it
          with a stream of the given key. Variables may be ``nnx.Param``, ``nnx.BatchStat`` and rng
          streams; ``train()`` or ``eval()`` is set for every call. Plain arrays among its
          attributes are constants, which must not depend on the key.
        - an NNX module that exists already: ``init`` returns the values that it holds, *whatever
          the key*, so that all seeds start from the same point.
        - a :class:`Model`, returned as it is.

    Raises:
      UserError: ``module`` is none of these, needs further arguments, or has state of another kind.
    """
    if isinstance(module, Model):
        return module
    if isinstance(module, nn.Module):
        if module.scope is not None:
            remedy = "Pass the module as it was made, or module.unbind()[0]."
            raise UserError("module", f"{type(module).__name__} is bound to variables", remedy)
        return _linen(module)
    if isinstance(module, nnx.Module):
        return _nnx(lambda _: nnx.clone(module))
    linen_class = isinstance(module, type) and issubclass(module, nn.Module)
    if callable(module) and not linen_class:
        return _nnx(module)
    remedy = "Pass MyModule(...) of flax.linen, or lambda rngs: MyModule(..., rngs=rngs) of nnx."
    if linen_class:
        remedy = f"It is a class: pass an instance, {module.__name__}()."
    raise UserError(
        "module",
        f"{shown(module)} is neither a Linen module nor an NNX module, class or factory",
        remedy,
    )


_SAYS_TRAIN = ("train", "training", "is_train", "is_training")
_LEFT_OPEN = ("deterministic", "use_running_average")  # by layers whose field is None
_SAYS_EVALUATION = (*_LEFT_OPEN, "eval", "is_eval", "inference")


def _modes(train: bool) -> dict[str, bool]:
    return dict.fromkeys(_SAYS_TRAIN, train) | dict.fromkeys(_SAYS_EVALUATION, not train)


def _mode(module_class: type, train: bool) -> dict[str, Any]:
    """Values of those arguments of ``__call__`` that tell training from evaluation.

    Raises:
      UserError: ``__call__`` cannot be called with an input and these alone.
    """
    name = module_class.__name__
    if not any("__call__" in base.__dict__ for base in module_class.__mro__):
        raise UserError("module", f"{name} has no method __call__", "Give it one: x -> logits.")
    modes = _modes(train)
    _, *parameters = inspect.signature(module_class.__call__).parameters.values()
    wanting = [
        p.name
        for i, p in enumerate(parameters)
        if p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        and p.name not in modes
        and (i > 0 or p.kind is p.KEYWORD_ONLY)
    ]
    if wanting:
        raise UserError(
            "module",
            f"__call__ of {name} needs {', '.join(wanting)} besides the input",
            f"Give defaults, or make them fields of {name}: sbt calls it with the input and, where "
            f"it has one, {', '.join(_SAYS_TRAIN[:2])} or {_LEFT_OPEN[0]}.",
        )
    return {p.name: modes[p.name] for p in parameters if p.name in modes}


def _told(module: nn.Module, train: bool) -> nn.Module:
    """The module, its fields set that tell training from evaluation (see :func:`as_model`)."""
    arguments = inspect.signature(type(module).__call__).parameters
    names = {field.name for field in dataclasses.fields(module)} - set(arguments)
    told: dict[str, Any] = {n: mode for n, mode in _modes(train).items() if n in names}
    return _layers_told(module.clone(**told) if told else module, train, {})


def _layers_told(module: Any, train: bool, known: dict[int, Any]) -> Any:
    """A Sequential, which calls its layers with nothing but the input, with those told that ask."""
    if id(module) in known:  # a layer that stands in two places stays one
        return known[id(module)]
    told = module
    if isinstance(module, nn.Sequential):
        layers = [_layer_told(layer, train, known) for layer in module.layers]
        if any(new is not old for new, old in zip(layers, module.layers, strict=True)):
            told = module.clone(layers=layers)
    known[id(module)] = told
    return told


def _layer_told(layer: Any, train: bool, known: dict[int, Any]) -> Any:
    if not isinstance(layer, nn.Module) or isinstance(layer, nn.Sequential):
        return _layers_told(layer, train, known)
    if id(layer) not in known:
        names = {field.name for field in dataclasses.fields(layer)}
        told: dict[str, Any] = {
            n: not train for n in _LEFT_OPEN if n in names and getattr(layer, n) is None
        }
        known[id(layer)] = layer.clone(**told) if told else layer
    return known[id(layer)]


@contextlib.contextmanager
def _no_mesh() -> Iterator[None]:
    """Flax lays parameters that carry names of mesh axes out over the current mesh, as it makes
    them; the mesh of a sweep has other axes, and every lane has parameters of its own."""
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
        yield


def _unboxed(tree: Any) -> Any:
    def value(leaf: Any) -> Any:
        while isinstance(leaf, nn.meta.AxisMetadata):
            if isinstance(leaf, nn.meta.Partitioned):
                leaf = leaf.unbox(apply_constraint=False)
            else:
                leaf = leaf.unbox()
        return leaf

    return jax.tree.map(value, tree, is_leaf=lambda leaf: isinstance(leaf, nn.meta.AxisMetadata))


def _linen(module: nn.Module) -> Model:
    modes = {train: _mode(type(module), train) for train in (True, False)}
    modules = {train: _told(module, train) for train in (True, False)}

    def init(key: jax.Array, x: jax.Array) -> tuple[Params, Stats]:
        with _no_mesh():
            variables = _unboxed(dict(modules[False].init(key, x, **modes[False])))
        params, stats = variables.pop("params", {}), variables.pop("batch_stats", {})
        if variables:
            raise UserError(
                "module",
                f"{type(module).__name__} keeps state in {', '.join(sorted(variables))}",
                "Collections other than params and batch_stats cannot be trained in lanes.",
            )
        return params, stats

    def apply(
        params: Params, stats: Stats, x: jax.Array, key: jax.Array | None, train: bool
    ) -> tuple[jax.Array, Stats]:
        # Flax serves streams that were not given (a module's own "noise") from "params".
        rngs = None if key is None else {"dropout": key, "params": jax.random.fold_in(key, 1)}
        # Mutable in evaluation too, for modules that always move their statistics; not kept there.
        logits, new = modules[train].apply(
            {"params": params, "batch_stats": stats},
            x,
            rngs=rngs,
            mutable=["batch_stats"],
            **modes[train],
        )
        return logits, new.get("batch_stats", stats) if train else stats

    return Model(init, apply, type(module).__name__)


def _nnx(factory: Callable[..., Any]) -> Model:
    try:
        by_name = "rngs" in inspect.signature(factory).parameters
    except (TypeError, ValueError):  # a builtin
        by_name = False

    def build(key: jax.Array) -> Any:
        rngs = nnx.Rngs(key)
        with _no_mesh():
            module = factory(rngs=rngs) if by_name else factory(rngs)
        if not isinstance(module, nnx.Module):
            raise UserError("module", f"the factory made {shown(module)}", "Return an nnx.Module.")
        return module

    seen: list[Any] = []

    def parts(key: jax.Array) -> Any:
        module = build(key)
        graph, *states = _split(module)
        # While it is traced an array that is no Variable is not among its state.
        bare = any(isinstance(v, jax.Array | np.ndarray) for _, v in nnx.iter_graph(module))
        seen[:] = type(module), graph, bare
        return tuple(states)

    # Not nnx.eval_shape, which leaves a tracer where a module has a plain array.
    of_params, of_stats, of_rngs, rest = jax.eval_shape(parts, jax.random.key(0))
    module_class, graph, bare = seen
    modes = {train: _mode(module_class, train) for train in (True, False)}
    names = [
        ".".join(map(str, path))
        for path, leaf in nnx.to_flat_state(rest)
        if isinstance(leaf, nnx.Variable)
    ]
    if names:
        raise UserError(
            "module",
            f"{module_class.__name__} keeps state in {', '.join(sorted(names))}",
            "Variables other than Param, BatchStat and rng streams cannot be trained in lanes.",
        )
    if bare or jax.tree.leaves(rest):
        graph, *_, rest = _split(build(jax.random.key(0)))
        _check_constants(module_class, rest, _split(build(jax.random.key(1)))[-1])

    def init(key: jax.Array, x: jax.Array) -> tuple[Params, Stats]:
        del x  # an NNX module knows the shape of its input
        params, stats, *_ = parts(key)
        return _to_dict(params), _to_dict(stats)

    def apply(
        params: Params, stats: Stats, x: jax.Array, key: jax.Array | None, train: bool
    ) -> tuple[jax.Array, Stats]:
        module = nnx.merge(
            graph,
            _from_dict(of_params, params),
            _from_dict(of_stats, stats),
            _streams(of_rngs, jax.random.key(0) if key is None else key),
            rest,
        )
        if train:
            module.train()
        else:
            module.eval()
        logits = module(x, **modes[train])
        return logits, _to_dict(nnx.state(module, nnx.BatchStat)) if train else stats

    return Model(init, apply, module_class.__name__)


def _check_constants(module_class: type, first: Any, second: Any) -> None:
    """Refuses plain arrays of a module that differ from key to key."""
    for (path, a), (_, b) in zip(nnx.to_flat_state(first), nnx.to_flat_state(second), strict=True):
        if not np.array_equal(np.asarray(a), np.asarray(b)):
            raise UserError(
                "module",
                f"the array {'.'.join(map(str, path))} of {module_class.__name__} is random",
                "Make it an nnx.Param (trained) or an nnx.BatchStat (not), which every run has.",
            )


def _split(module: Any) -> Any:
    return nnx.split(module, nnx.Param, nnx.BatchStat, nnx.RngState, ...)


def _to_dict(state: Any) -> Any:
    """A state as nested dicts of arrays; list positions become strings, as in any checkpoint."""
    flat = {tuple(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(state)}
    return traverse_util.unflatten_dict(flat)


def _from_dict(state: Any, values: Mapping[str, Any]) -> Any:
    flat = traverse_util.flatten_dict(values)
    return nnx.from_flat_state(
        [
            (path, leaf.replace(flat[tuple(map(str, path))]))
            for path, leaf in nnx.to_flat_state(state)
        ]
    )


def _streams(state: Any, key: jax.Array) -> Any:
    """Rng streams restarted: each from a key of its own, derived from ``key``, at count 0."""
    streams = []
    for i, (path, leaf) in enumerate(nnx.to_flat_state(state)):
        if isinstance(leaf, nnx.RngKey):
            value = jax.random.fold_in(key, i)
        else:
            value = jnp.zeros(leaf.shape, leaf.dtype)
        streams.append((path, leaf.replace(value)))
    return nnx.from_flat_state(streams)
