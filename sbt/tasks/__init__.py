"""Tasks: what an example is, its loss, its metrics, the score that ranks runs."""

from sbt.tasks.score import Score, of_attrs

__all__ = ["Score", "of_attrs"]
