"""Compiled programs of chosen lanes for tests, and the data that they train on."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import pytest

from sbt import config as configs
from sbt.data import Dataset, from_arrays
from sbt.parallel.mesh import make_mesh
from sbt.sweep.cohort import Cohort, make_cohorts
from sbt.sweep.engine import Engine, make_engine
from sbt.sweep.grid import make_grid
from sbt.sweep.lanes import Lanes, make_lanes
from sbt.sweep.problem import Builder, Parts, place
from sbt.sweep.strategy import Strategy

CLASSES = 5
N = 99  # no batch size divides it: batches, and micro-batches too, span epochs
TESTED = 30


@functools.cache
def dataset(shape: tuple[int, ...] = (8, 8, 1), size: int = N) -> Dataset:
    """Class patterns under noise, 8-bit."""
    rng = np.random.default_rng(0)
    patterns = rng.normal(size=(CLASSES, *shape))
    labels = rng.integers(0, CLASSES, size + TESTED)
    images = 128 + 40 * (patterns[labels] + rng.normal(size=(size + TESTED, *shape)))
    images = np.clip(images, 0, 255).astype(np.uint8)
    return from_arrays(images[:size], labels[:size], images[size:], labels[size:])


def unit(images: np.ndarray, dtype: Any) -> np.ndarray:
    """What ``normalize="unit"`` means for 8-bit images."""
    return images.astype(dtype) / np.asarray(255, dtype)


@contextlib.contextmanager
def compiling(quickly: bool) -> Iterator[list[Any]]:
    """Collects the programs that are compiled ahead of time, and may hurry their compilation.

    Compilation is most of what these tests cost. ``quickly`` spares LLVM's effort on machine code;
    XLA's own passes, which might change what a program computes, all run.
    """
    programs: list[Any] = []
    original = jax.stages.Lowered.compile

    def compile(self: Any, options: Any = None) -> Any:
        hasty = {"xla_backend_optimization_level": 0} if quickly else {}
        programs.append(original(self, {**(options or {}), **hasty} or None))
        return programs[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.stages.Lowered, "compile", compile)
        yield programs


@dataclasses.dataclass
class Trainer:
    """Lanes of one compiled program."""

    cohort: Cohort
    engine: Engine
    lanes: Lanes
    programs: list[Any]  # compiled: initialisation, training, evaluation

    def train(self, state: Any, tick: int, until: int, window: int | None = None) -> Any:
        """Ticks ``tick`` to ``until``, in pieces of at most ``window``."""
        g, n = self.cohort.tick, self.cohort.facts.num_examples
        epoch = 0
        while tick < until:
            while tick >= self.cohort.first_tick(epoch + 1):
                epoch += 1
            start, end = self.cohort.first_tick(epoch), self.cohort.first_tick(epoch + 1)
            count = min(end, until, tick + (window or until)) - tick
            first, fresh = tick * g - epoch * n, tick == start
            state = self.engine.train(state, self.lanes, epoch, first, count, fresh)
            tick += count
        return state

    def lane(self, state: Any, i: int) -> Any:
        """One lane's part of a state, on the host."""
        own = state._replace(**dict.fromkeys(self.cohort.sharding.apart, ()))
        return jax.tree.map(lambda leaf: np.asarray(leaf)[i], own)


def trainer(
    runs: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    micro_batch: int | None,
    strategy: str = "vmap/im2col",
    devices: int = 1,
    module: Any = None,
    data: Dataset | None = None,
    *,
    quickly: bool = True,
) -> Trainer:
    """Compiles a program for any runs, each given by its settings (field -> value).

    The runs are the cases of a config, and their fields follow the case.
    """
    cases = [str(i) for i in range(len(runs))]
    follow = {
        field: ("case", tuple(zip(cases, (run[field] for run in runs), strict=True)))
        for field in runs[0]
    }
    full = configs.complete(
        {
            "data": {"normalize": "unit"},
            "micro_batch": micro_batch,
            **config,
            "sweep": {"case": cases},
            "follow": follow,
        }
    )
    builder = Builder(Parts(module, data or dataset()))
    (cohort,) = make_cohorts(make_grid(full), builder.facts)
    if "parallel" not in config:
        assert cohort.micro_batch == (micro_batch or runs[0]["batch_size"])
    mesh = make_mesh(cohort.sharding.devices, jax.devices()[:devices])
    placed = place(builder.problem(cohort.config, cohort.synchronous), cohort, mesh)
    over, convolution = strategy.split("/")
    head, _, count = over.partition(":")
    chosen = Strategy(0 if head == "vmap" else int(count or 1), convolution)  # type: ignore[arg-type]
    size = -(-len(runs) // placed.rows) * placed.rows
    with compiling(quickly) as programs:
        engine = make_engine(placed, size, chosen)
    return Trainer(cohort, engine, make_lanes(cohort, list(range(len(runs))), size), programs)
