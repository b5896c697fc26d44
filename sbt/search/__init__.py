"""Searches: which runs of a grid begin, in which order, and which stop early."""

from sbt.search import grid as _grid  # noqa: F401  registers
from sbt.search import halving as _halving  # noqa: F401  registers
from sbt.search import optuna as _optuna  # noqa: F401  registers
from sbt.search import refine as _refine  # noqa: F401  registers
from sbt.search import stable_limit as _stable_limit  # noqa: F401  registers
from sbt.search.base import SEARCHES, Search, Told
from sbt.search.log import Log
from sbt.search.stable_limit import octaves

__all__ = ["SEARCHES", "Log", "Search", "Told", "octaves"]
