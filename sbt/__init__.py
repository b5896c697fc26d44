"""Small-batch training: a whole batch size x learning rate x seed grid as one compiled program.

``sbt.run(config)`` trains a grid and returns an ``xarray.Dataset``; ``sbt.load(directory)`` reads
one back. ``sbt.optim``, ``sbt.measure``, ``sbt.models``, ``sbt.nn`` and ``sbt.data`` are libraries
of their own, for use with or without the engine.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sbt.advice.advise import advise
    from sbt.config import default as default_config
    from sbt.data import from_arrays, from_examples
    from sbt.errors import UserError
    from sbt.results import load
    from sbt.search import octaves
    from sbt.sweep.afterwards import measure_runs
    from sbt.sweep.run import run
    from sbt.sweep.weights import load_weights

__version__ = "0.1.0"

__all__ = [
    "UserError",
    "advise",
    "default_config",
    "from_arrays",
    "from_examples",
    "load",
    "load_weights",
    "measure_runs",
    "octaves",
    "run",
]

_WHERE = {
    "UserError": ("sbt.errors", "UserError"),
    "advise": ("sbt.advice.advise", "advise"),
    "default_config": ("sbt.config", "default"),
    "from_arrays": ("sbt.data", "from_arrays"),
    "from_examples": ("sbt.data", "from_examples"),
    "load": ("sbt.results", "load"),
    "load_weights": ("sbt.sweep.weights", "load_weights"),
    "measure_runs": ("sbt.sweep.afterwards", "measure_runs"),
    "octaves": ("sbt.search", "octaves"),
    "run": ("sbt.sweep.run", "run"),
}


def __getattr__(name: str) -> Any:
    """Loads the public functions when they are first used: ``import sbt.optim`` stays light."""
    if name in _WHERE:
        module, attribute = _WHERE[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module 'sbt' has no attribute {name!r}")
