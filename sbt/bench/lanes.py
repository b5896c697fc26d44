"""sbt's own side: lanes of the programs that ``sbt run`` trains with, and what peers start from."""

import dataclasses
import functools
import math
from collections.abc import Container
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sbt.bench.workload import (
    COMMAND_BUFFERS,
    NETWORKS,
    SBT,
    SHARED,
    SYNCHRONOUS,
    TRAIN_SIZE,
    Cell,
    Network,
    Position,
    Setting,
    Skip,
    Workload,
)
from sbt.config import default
from sbt.data import Dataset, epoch_order, load, purpose_key
from sbt.sweep.engine import make_engine
from sbt.sweep.fit import choose_strategy, memory_budget
from sbt.sweep.lanes import make_lanes
from sbt.sweep.prepare import prepare
from sbt.sweep.problem import Parts, Placed
from sbt.sweep.strategy import Strategy

EPOCHS = 100_000  # more than any window reaches; a run that ended would cost nothing
SEEDS = 4


def prepared(setting: Setting, train_size: int = TRAIN_SIZE) -> Placed:
    """A setting's cohort, through the checks and the planning of every sweep."""
    sizes = {"train_size": train_size, "test_size": 64}
    data = dict(NETWORKS[setting.network].data) | sizes
    parts = Parts(dataset=_loaded(tuple(data.items())))
    sweep = prepare(_config(setting, data), parts)
    (cohort,) = sweep.cohorts
    return sweep.place(cohort)


@functools.lru_cache(maxsize=4)
def _loaded(data: tuple[tuple[str, Any], ...]) -> Dataset:
    """What a config's ``data`` section names."""
    return load(dict(data))


def _config(setting: Setting, data: dict[str, Any]) -> ConfigDict:
    """The sweep whose lanes are timed: base learning rates within a factor of two, a few seeds."""
    lanes, network = setting.lanes, NETWORKS[setting.network]
    seeds = math.gcd(lanes, SEEDS)
    config = default()
    config.name, config.epochs = "bench", EPOCHS
    config.data, config.model = data, dict(network.model)
    config.batch_size = setting.batch_size
    if setting.method in (SHARED, SYNCHRONOUS):
        config.parallel.data = jax.device_count()
        config.micro_batch = setting.batch_size // config.parallel.data
        if setting.method == SHARED and network.batch_norm:
            config.bn_batch = config.micro_batch
    config.rule = dict(network.rule)
    config.sweep.base_lr = tuple(
        network.base_lr * (1 - i / (2 * lanes)) for i in range(lanes // seeds)
    )
    config.sweep.seed = tuple(range(seeds))
    strategy, _, convolution = setting.strategy.partition("/")
    config.engine.strategy = strategy or "auto"
    config.engine.convolution = convolution or "auto"
    config.engine.precision = setting.precision
    return config


def sbt_workload(
    setting: Setting, train_size: int = TRAIN_SIZE, known: Container[Setting] = ()
) -> Workload | None:
    """Lanes in the engine that ``sbt run`` would compile for them, or one run on all devices.

    Args:
      setting: what to train.
      train_size: examples of an epoch.
      known: settings that need not be compiled again; for one of these the result is None.

    Raises:
      Skip: they do not fit the memory.
    """
    placed = prepared(setting, train_size)
    cohort, devices = placed.cohort, placed.rows
    size = -(-setting.lanes // devices) * devices
    budget = memory_budget(None, jax.local_devices()[0], len(placed.mesh.local_devices))
    _refuse(2 * cohort.facts.parameter_bytes * size / devices, budget)
    usual = cohort.config.copy_and_resolve_references()
    usual.engine.strategy = usual.engine.convolution = "auto"
    as_usual = dataclasses.replace(placed, cohort=dataclasses.replace(cohort, config=usual))
    automatic = choose_strategy(as_usual, size)
    strategy = choose_strategy(placed, size)
    if 1 < strategy.at_once >= size // devices:
        strategy = dataclasses.replace(strategy, at_once=0)  # so many at a time are all
    lanes_alone = setting.method == SBT
    named = dataclasses.replace(setting, strategy=str(strategy) if lanes_alone else "")
    if named in known:
        return None
    options = COMMAND_BUFFERS[setting.command_buffers]
    engine = make_engine(placed, size, strategy, options or None)
    _refuse(engine.bytes_per_device, budget)
    lanes = make_lanes(cohort, range(setting.lanes), size)
    m, g, n = setting.batch_size, cohort.tick, cohort.facts.num_examples

    def start() -> Position:
        return Position(engine.init(lanes), 0)

    def advance(at: Position, updates: int) -> Position:
        state, tick = at.state, at.updates * m // g
        until = tick + updates * m // g
        if until > cohort.ticks:
            raise Skip(f"{until} ticks are more than a run of {cohort.ticks}")
        while tick < until:
            epoch = tick * g // n
            begin, end = cohort.first_tick(epoch), cohort.first_tick(epoch + 1)
            count = min(end, until) - tick
            state = engine.train(state, lanes, epoch, tick * g - epoch * n, count, tick == begin)
            tick += count
        return Position(jax.block_until_ready(state), at.updates + updates)

    def healthy(at: Position) -> bool:
        diverged = np.asarray(at.state.diverged_at)[: setting.lanes]
        consumed = np.asarray(at.state.examples)[: setting.lanes]
        return bool(np.all(diverged < 0) and np.all(consumed == at.updates * m))

    parts = f"{g} examples at a time" if g < m else ""
    cell = Cell(
        named,
        automatic=lanes_alone and strategy == automatic and not options,
        at_once=devices * (strategy.at_once or size // devices),
        detail=parts if lanes_alone else _shares(placed, strategy),
        compile_seconds=engine.compile_seconds,
        memory_bytes=engine.bytes_per_device * placed.mesh.size,
    )
    return Workload(start, advance, healthy, cell)


def _shares(placed: Placed, strategy: Strategy) -> str:
    """How devices share a batch, in words."""
    cohort = placed.cohort
    text = f"{cohort.micro_batch} examples on each of {cohort.sharding.devices} devices"
    if cohort.facts.batch_statistics:
        text += f", statistics of {cohort.tick if cohort.synchronous else cohort.micro_batch}"
    return f"{text}, {strategy}"


def _refuse(need: float, budget: float) -> None:
    if need > budget:
        raise Skip(f"needs {need / 2**30:.1f} GB per device, {budget / 2**30:.1f} are free")


@dataclasses.dataclass(frozen=True)
class Task:
    """What a peer trains: the same data, order, initial weights and learning rates as the lanes.

    Attributes:
      network: what.
      setting: how.
      x: what the network is given: images as float32, normalised, NHWC (peers need not normalise
        at every step as lanes do), or tokens, int32.
      labels: int32, of every example or every token.
      orders: of the first epoch, one row per seed; peers repeat it.
      params: initial weights, one tree per seed.
      stats: initial running statistics.
      seeds: of every lane, an index into ``orders`` and ``params``.
      learning_rates: of every lane, in mean form.
    """

    network: Network
    setting: Setting
    x: np.ndarray
    labels: np.ndarray
    orders: np.ndarray
    params: tuple[Any, ...]
    stats: Any
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]

    @property
    def updates_per_epoch(self) -> int:
        return len(self.labels) // self.setting.batch_size


def make_task(setting: Setting, train_size: int = TRAIN_SIZE) -> Task:
    """A peer's task, taken from the very sweep that the lanes of this setting train."""
    alike = dataclasses.replace(setting, method="", strategy="auto")
    return dataclasses.replace(_task(alike, train_size), setting=setting)


@functools.lru_cache(maxsize=4)
def _task(setting: Setting, train_size: int) -> Task:
    placed = prepared(setting, train_size)
    cohort, problem = placed.cohort, placed.problem
    seeds = tuple(int(run.settings["seed"]) for run in cohort.runs)
    rates = tuple(float(run.settings["base_lr"]) * setting.batch_size for run in cohort.runs)
    example = problem.example()
    n = problem.num_examples
    keys = [jax.random.key(seed) for seed in sorted(set(seeds))]
    with jax.default_device(jax.local_devices()[0]):
        every = jnp.arange(n, dtype=jnp.int32)
        examples = problem.batches(problem.arrays, every, 0, keys[0], True)
        init = jax.jit(problem.model.init)
        zeros = jnp.zeros(example.shape, example.dtype)
        starts = [jax.device_get(init(purpose_key(key, "init"), zeros)) for key in keys]
        orders = np.stack([np.asarray(epoch_order(key, 0, n)) for key in keys])
    return Task(
        network=NETWORKS[setting.network],
        setting=setting,
        x=np.asarray(examples["x"]).astype(example.dtype),
        labels=np.asarray(examples["label"]),
        orders=orders,
        params=tuple(params for params, _ in starts),
        stats=starts[0][1],
        seeds=seeds,
        learning_rates=rates,
    )
