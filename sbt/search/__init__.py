"""Searches: which runs of a grid begin, in which order, and which stop early."""

from sbt.search import grid as _grid  # noqa: F401  registers
from sbt.search import halving as _halving  # noqa: F401  registers
from sbt.search.base import SEARCHES, Search, Told
from sbt.search.log import Log

__all__ = ["SEARCHES", "Log", "Search", "Told"]
