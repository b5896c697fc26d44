"""Small-batch training: a whole batch size x learning rate x seed grid as one compiled program.

``sbt.run(config)`` trains a grid and returns an ``xarray.Dataset``; ``sbt.load(directory)`` reads
one back. ``sbt.optim``, ``sbt.measure``, ``sbt.models``, ``sbt.nn`` and ``sbt.data`` are libraries
of their own, for use with or without the engine.
"""

from typing import TYPE_CHECKING

from sbt.lazy import loader

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

__getattr__ = loader(
    __name__,
    {
        "UserError": "sbt.errors",
        "advise": "sbt.advice.advise",
        "default_config": "sbt.config:default",
        "from_arrays": "sbt.data",
        "from_examples": "sbt.data",
        "load": "sbt.results",
        "load_weights": "sbt.sweep.weights",
        "measure_runs": "sbt.sweep.afterwards",
        "octaves": "sbt.search",
        "run": "sbt.sweep.run",
    },
)
