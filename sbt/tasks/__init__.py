"""Tasks: what an example is, its loss, its metrics, the score that ranks runs."""

from sbt.tasks.base import TASKS, Examples, Facts, Metric, Task
from sbt.tasks.classification import classification
from sbt.tasks.next_token import next_token
from sbt.tasks.regression import regression
from sbt.tasks.score import Score, of_attrs

__all__ = [
    "TASKS",
    "Examples",
    "Facts",
    "Metric",
    "Score",
    "Task",
    "classification",
    "next_token",
    "of_attrs",
    "regression",
]
