"""What a model is trained to do: the loss of an example, what else is told of it, what ranks runs.

An *example* is a tree of arrays without its leading axis; a model is called on its entry ``x``. A
loss and a metric are functions of outputs and examples, ``(outputs, examples) -> (n,)``: one number
for each example, so that means over a micro-batch, a batch and a split are means over examples.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from sbt.choice import Registry
from sbt.tasks.score import Score

Examples = Mapping[str, Any]  # arrays by name, each with a leading axis of examples
PerExample = Callable[[Any, Examples], jax.Array]


class Facts(NamedTuple):
    """What a task may know of its data.

    Attributes:
      classes: K; of tokens, the size of the vocabulary; None where there is none.
      bytes_per_token: of text, on average over the training split; None where that is unknown.
      variance: mean squared distance of the targets from their mean, by split; empty where there
        are no targets.
    """

    classes: int | None = None
    bytes_per_token: float | None = None
    variance: Mapping[str, float] = {}


@dataclasses.dataclass(frozen=True)
class Metric:
    """What is told of a split: a function of the mean over its examples.

    Attributes:
      each: of every example.
      long_name: in words, without the split.
      units: of the result; empty for what has none.
      percent: whether people read it in percent.
      result: ``(mean, split) -> `` what is told; the mean itself by default.
    """

    each: PerExample
    long_name: str
    units: str = ""
    percent: bool = False
    result: Callable[[float, str], float] = lambda mean, split: mean


@dataclasses.dataclass(frozen=True)
class Task:
    """What is minimised, told and ranked.

    Attributes:
      name: of :data:`TASKS`, or what the user's own loss is called.
      loss: of each example, differentiable.
      units: of the loss.
      metrics: what is told of a split beside the loss, by name.
      score: what ranks runs; its name is ``loss`` or one of the metrics.
      outputs: ``(examples, classes) -> `` shape that the model's outputs must have, a text for
        messages and ...; None: any that the loss takes.
    """

    name: str
    loss: PerExample
    units: str
    metrics: Mapping[str, Metric]
    score: Score
    outputs: Callable[[Any], tuple[int, ...]] | None = None


TASKS = Registry("task")
"""Functions from :class:`Facts` to a :class:`Task`; their keywords are ``config.task.<name>``."""
