"""Any Flax module as a pair of pure functions: what the training code knows of a model."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from sbt.errors import UserError

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
    """

    init: Callable[[jax.Array, jax.Array], tuple[Params, Stats]]
    apply: Callable[[Params, Stats, jax.Array, jax.Array | None, bool], tuple[jax.Array, Stats]]


def as_model(module: Any) -> Model:
    """Wraps a Flax module.

    Args:
      module: one of

        - a Linen module, called as ``module(x)`` or with any of the arguments ``train``,
          ``training``, ``is_training``, ``deterministic``, ``use_running_average``. Its collections
          may be ``params`` and ``batch_stats``.
        - an NNX module class, or a function ``rngs -> nnx.Module``: each ``init`` constructs it
          with a stream of the given key. Variables may be ``nnx.Param``, ``nnx.BatchStat`` and rng
          streams; ``train()`` or ``eval()`` is set for every call.
        - an NNX module that exists already: ``init`` returns the values that it holds, *whatever
          the key*, so that all seeds start from the same point.
        - a :class:`Model`, returned as it is.

    Raises:
      UserError: ``module`` is none of these, or has state of another kind.
    """
    if isinstance(module, Model):
        return module
    if isinstance(module, nn.Module):
        return _linen(module)
    if isinstance(module, nnx.Module):
        return _nnx(lambda _: nnx.clone(module))
    if callable(module) and not (isinstance(module, type) and issubclass(module, nn.Module)):
        return _nnx(module)
    raise UserError(
        "model",
        f"{module!r} is neither a Linen module nor an NNX module, class or factory",
        "Pass MyModule(...) of flax.linen, or lambda rngs: MyModule(..., rngs=rngs) of flax.nnx.",
    )


def _mode(module_class: type, train: bool) -> dict[str, Any]:
    """Values of those arguments of ``__call__`` that tell training from evaluation."""
    says_train = dict.fromkeys(("train", "training", "is_training"), train)
    says_eval = dict.fromkeys(("deterministic", "use_running_average"), not train)
    known = {**says_train, **says_eval}
    names = inspect.signature(module_class.__call__).parameters
    return {name: known[name] for name in names if name in known}


def _linen(module: nn.Module) -> Model:
    def init(key: jax.Array, x: jax.Array) -> tuple[Params, Stats]:
        variables = nn.meta.unbox(dict(module.init(key, x, **_mode(type(module), train=False))))
        params, stats = variables.pop("params", {}), variables.pop("batch_stats", {})
        if variables:
            raise UserError(
                "model",
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
        logits, new = module.apply(
            {"params": params, "batch_stats": stats},
            x,
            rngs=rngs,
            mutable=["batch_stats"],
            **_mode(type(module), train),
        )
        return logits, new.get("batch_stats", stats) if train else stats

    return Model(init, apply)


def _nnx(factory: Callable[..., Any]) -> Model:
    by_name = "rngs" in inspect.signature(factory).parameters

    def build(key: jax.Array) -> Any:
        rngs = nnx.Rngs(key)
        module = factory(rngs=rngs) if by_name else factory(rngs)
        if not isinstance(module, nnx.Module):
            raise UserError("model", f"the factory made {module!r}", "Return an nnx.Module.")
        return module

    shapes = nnx.eval_shape(build, jax.random.key(0))
    graph, of_params, of_stats, of_rngs, rest = _split(shapes)
    if jax.tree.leaves(rest):
        names = sorted(".".join(map(str, path)) for path, _ in nnx.to_flat_state(rest))
        raise UserError(
            "model",
            f"{type(shapes).__name__} keeps state in {', '.join(names)}",
            "Variables other than Param, BatchStat and rng streams cannot be trained in lanes.",
        )

    def init(key: jax.Array, x: jax.Array) -> tuple[Params, Stats]:
        del x  # an NNX module knows the shape of its input
        _, params, stats, _, _ = _split(build(key))
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
        logits = module(x, **_mode(type(shapes), train))
        return logits, _to_dict(nnx.state(module, nnx.BatchStat)) if train else stats

    return Model(init, apply)


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
