"""Names of a rule's arguments in configs."""

import functools
import inspect
from collections.abc import Callable
from typing import Any


def rename_mask(rule: Callable[..., Any], **names: str) -> Callable[..., Any]:
    """``rule`` with keyword arguments renamed, signature included: ``rename_mask(sgd)``.

    A config knows a rule's ``mask`` as ``decay_mask``, the name that says which mask it is. The
    signature is kept explicit so that ``optax.inject_hyperparams`` can read it.

    Args:
      rule: a function ``rule(learning_rate, ...)``.
      **names: new name = old name; ``decay_mask='mask'`` when left out.
    """
    names = names or {"decay_mask": "mask"}
    new = {old: name for name, old in names.items()}
    signature = inspect.signature(rule)
    parameters = [p.replace(name=new.get(p.name, p.name)) for p in signature.parameters.values()]

    @functools.wraps(rule)
    def make(*args: Any, **kwargs: Any) -> Any:
        return rule(*args, **{names.get(name, name): value for name, value in kwargs.items()})

    make.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return make
