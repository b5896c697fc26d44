"""What a model is trained to do: the loss of an example, what else is told of it, what ranks runs.

An *example* is a tree of arrays without its leading axis; a model is called on its entry ``x``. A
loss and a metric are functions of outputs and examples, ``(outputs, examples) -> (n,)``: one number
for each example, so that means over a micro-batch, a batch and a split are means over examples.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from sbt.choice import Registry
from sbt.errors import UserError, nearest, shown, user_code
from sbt.tasks.score import Score

Examples = Mapping[str, Any]  # arrays by name, each with a leading axis of examples
PerExample = Callable[[Any, Examples], jax.Array]
Direction = Literal["higher", "lower"]


class Facts(NamedTuple):
    """What a task may know of its data.

    Attributes:
      task: what the data are for; None where they do not say.
      classes: K; of tokens, the size of the vocabulary; None where there is none.
      bytes_per_token: of text, on average over the training split; None where that is unknown.
      splits: examples as they are stored, by the name of their split.
      floor: the least expected loss of any model, where that is known; else NaN.
    """

    task: str | None = None
    classes: int | None = None
    bytes_per_token: float | None = None
    splits: Mapping[str, Examples] = {}
    floor: float = math.nan

    def entry(self, name: str, task: str) -> Any:
        """An entry of the training examples.

        Raises:
          UserError: there is none of that name.
        """
        train = self.splits["train"]
        if name not in train:
            raise UserError(
                "config.task.name",
                f"{task!r} needs an entry {name!r} of each example; there are {', '.join(train)}",
                f"give sbt.from_examples one, choose another task ({', '.join(TASKS)}), or pass "
                "loss=",
            )
        return train[name]


@dataclasses.dataclass(frozen=True)
class Metric:
    """What is told of a split: a function of the mean over its examples.

    Attributes:
      each: of every example.
      long_name: in words, without the split.
      higher_is_better: its direction, where it has one.
      units: of the result; empty for what has none.
      percent: whether people read it in percent.
      guess: its value for an uninformed guess; NaN where there is none.
      floor: the value that no model passes; NaN where that is unknown.
      result: ``(mean, split) -> `` what is told of a split, by its name.
    """

    each: PerExample
    long_name: str
    higher_is_better: bool | None = None
    units: str = ""
    percent: bool = False
    guess: float = math.nan
    floor: float = math.nan
    result: Callable[[Any, str], Any] = lambda mean, split: mean


Check = Callable[[str, Any, Any], None]


def any_outputs(field: str, outputs: Any, examples: Any) -> None:
    """Takes outputs of any shape."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What is minimised, told and ranked.

    Attributes:
      name: of :data:`TASKS`, or what the user's own loss is called.
      loss: what is minimised, and how it is told; differentiable.
      metrics: what else is told of a split, by name.
      score: what ranks runs; its name is ``loss`` or that of a metric.
      check: ``(field, outputs, examples)``, in shapes: refuses outputs that the loss would take for
        something else.
      own: whose the loss is, in messages; None: it ships.
    """

    name: str
    loss: Metric
    metrics: Mapping[str, Metric]
    score: Score
    check: Check = any_outputs
    own: str | None = None

    @property
    def told(self) -> dict[str, Metric]:
        """The loss and the metrics, by name."""
        return {"loss": self.loss, **self.metrics}


def ranked(
    make: Callable[[Facts], Task],
    facts: Facts,
    *,
    score: str | None = None,
    direction: Direction | None = None,
) -> Task:
    """A task, its runs ranked by another of its metrics.

    Args:
      make: the task.
      facts: of its data.
      score: ``loss`` or the name of a metric; None: the task's own choice.
      direction: which values are better; None: as the metric says.

    Raises:
      UserError: no such metric, or one without a direction.
    """
    return rank(make(facts), score, direction)


def rank(task: Task, score: str | None, direction: Direction | None) -> Task:
    """As :func:`ranked`, of a task that is made."""
    name = task.score.name if score is None else score
    if name not in task.told:
        problem = f"{task.name!r} has no metric {shown(name)}"
        raise UserError("config.task.score", problem, nearest(name, task.told))
    if name == task.score.name and direction in (None, _word(task.score.higher_is_better)):
        return task
    return dataclasses.replace(task, score=score_of(name, task.told[name], direction))


def _word(higher: bool) -> Direction:
    return "higher" if higher else "lower"


def score_of(name: str, metric: Metric, direction: Direction | None = None) -> Score:
    """The score that a metric is; a run whose loss was not finite is infinitely bad.

    Raises:
      UserError: the metric has no direction, and none is given.
    """
    higher = metric.higher_is_better if direction is None else direction == "higher"
    if higher is None:
        raise UserError(
            "config.task.direction",
            f"nothing says whether a higher or a lower {name} is better",
            "set it to 'higher' or 'lower'",
        )
    diverged = -math.inf if higher else math.inf
    told = metric.units, metric.percent, metric.long_name
    return Score(name, higher, diverged, metric.guess, *told, metric.floor)


TASKS = Registry("task", shared=ranked, default="auto")
"""Functions from :class:`Facts` to a :class:`Task`; their keywords are ``config.task.<name>``."""


@TASKS.register("auto")
def auto(facts: Facts) -> Task:
    """What the data are for: images with labels are classified, text is predicted."""
    if facts.task is None:
        raise UserError(
            "config.task.name",
            "the data set does not say what is to be learned of it",
            f"set it to one of {', '.join([*TASKS][1:])}, or pass loss=",
        )
    return TASKS[facts.task](facts)


def own_task(task: Task | None, loss: PerExample | None, metrics: Mapping[str, Any] | None) -> Task:
    """A task with the user's own loss, or with metrics beside those that it has.

    Args:
      task: without metrics of one's own; None where the loss is given.
      loss: ``(outputs, examples) -> (n,)``; None: the task's.
      metrics: functions likewise, or :class:`Metric`, by name.

    Raises:
      UserError: what is no function, or a name that cannot stand.
    """
    given = {} if metrics is None else metrics
    if not isinstance(given, Mapping):
        remedy = "give a mapping: {'error': lambda outputs, examples: ...}"
        raise UserError("metrics", f"{shown(metrics)} is not a mapping", remedy)
    found = {}
    for name, metric in given.items():
        if not isinstance(name, str) or not name.isidentifier() or name in ("loss", "score"):
            raise UserError("metrics", f"{shown(name)} cannot be the name of one", "choose another")
        if isinstance(metric, Metric):
            found[name] = metric
            continue
        _check_function(f"metrics[{name!r}]", metric)
        found[name] = Metric(metric, name.replace("_", " "))
    if loss is None:
        assert task is not None
        return dataclasses.replace(task, metrics={**task.metrics, **found})
    _check_function("loss", loss)
    name = getattr(loss, "__name__", type(loss).__name__)
    told = Metric(loss, "loss", higher_is_better=False)
    return Task(name, told, found, score_of("loss", told), own=f"loss {name} (loss=)")


def _check_function(field: str, function: Any) -> None:
    if not callable(function):
        remedy = "give a function (outputs, examples) -> one number for each example"
        raise UserError(field, f"{shown(function)} is not a function", remedy)


def check_task(task: Task, outputs: Any, examples: Any, field: str) -> None:
    """Refuses outputs that do not suit a task, and a loss or metric that is not per example.

    Args:
      task: to be trained.
      outputs: shapes of what the model gives for the examples.
      examples: shapes of a batch.
      field: whose outputs they are, in messages.

    Raises:
      UserError: naming whose they are, or the metric.
      UserCodeError: a function of the user's raised; its exception is the cause.
    """
    task.check(field, outputs, examples)
    count = jax.tree.leaves(examples)[0].shape[0]
    for name, metric in task.told.items():
        where = (
            task.own or f"config.task.name {task.name!r}" if name == "loss" else f"metric {name}"
        )
        with user_code(where):
            found = jax.eval_shape(metric.each, outputs, examples)
        if not isinstance(found, jax.ShapeDtypeStruct) or found.shape != (count,):
            shape = getattr(found, "shape", type(found).__name__)
            raise UserError(
                where,
                f"gives {shape} for {count} examples, not ({count},): one number for each",
                "take means over the other axes, not over the first",
            )
        if name == "loss" and not jnp.issubdtype(found.dtype, jnp.floating):
            raise UserError(where, f"is of dtype {found.dtype}", "return real numbers")
