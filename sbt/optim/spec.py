"""What the registry says about a rule: how to build it and which of its numbers can be swept."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import optax

from sbt.ranges import Range, ranges_of


@dataclasses.dataclass(frozen=True)
class RuleSpec:
    """One update rule as configs know it.

    Attributes:
      make: ``make(learning_rate, **hyperparameters, **options)`` builds the transformation. Every
        hyperparameter may be a traced scalar, the learning rate also a schedule; the structure of
        ``init`` does not depend on their values.
      hyperparameters: the numeric, sweepable hyperparameters with their defaults.
      options: static choices with their defaults; they may change the structure of the state.
      source: the paper (authors, year, arXiv number) and where in it.
      needs: names of the extra arguments that ``update`` needs, beyond params.
      choices: for an option, the values it takes (where they can be listed).
      optional: hyperparameters that a config may set to None, which leaves out the link (and its
        buffer); such a hyperparameter is then no longer numeric and cannot be swept.
      ranges: numbers that hyperparameters and options take; by default those annotated at the
        parameters of ``make``.
    """

    make: Callable[..., optax.GradientTransformation]
    hyperparameters: Mapping[str, float]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    source: str = ""
    needs: frozenset[str] = frozenset()
    choices: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    ranges: Mapping[str, Range] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.ranges:
            object.__setattr__(self, "ranges", ranges_of(self.make))


DECAY_MASK = ("all", "kernels")


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
