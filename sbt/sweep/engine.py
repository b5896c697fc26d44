"""Compiles a cohort: init, train and evaluate for a stack of lanes, sharded over the devices.

``shard_map`` outside and the strategy inside: a device sees only its own lanes, and no collective
can appear in the program (``jit`` with sharded lanes silently gathers them, openxla/xla#47945).
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sbt.config import chosen_fields
from sbt.data import eval_batches, purpose_key, stream_window
from sbt.optim import make_batch_schedule, make_rule, make_schedule
from sbt.sweep.plan import Cohort, settings_array
from sbt.sweep.problem import Problem, make_program
from sbt.sweep.strategy import Strategy, candidates, heuristic, over_lanes, parse
from sbt.train import evaluate as evaluation
from sbt.train import step
from sbt.train.state import Hyper, TrainState, no_sums

EVALUATION_BATCH = {True: 64, False: 512}  # on CPU: what stays in its caches
PRECISE_BATCHES = 64  # micro-batches that "precise" batch statistics average


@dataclasses.dataclass(frozen=True)
class Lanes:
    """What tells the lanes of one pass apart; every leaf has a leading lane axis."""

    hyper: Hyper
    seed_slot: jax.Array | np.ndarray  # int32, the lane's row of the orders
    used: np.ndarray  # bool, False for lanes that only fill the devices up


@dataclasses.dataclass(frozen=True)
class Engine:
    """Compiled functions for passes of ``lanes`` lanes of one cohort.

    Attributes:
      init: ``lanes -> state``.
      train: ``(state, lanes, epoch, first, ticks, fresh) -> state``; the old state is consumed.
      evaluate: ``(state, lanes) -> Evaluation``, per lane.
      lanes: size of a pass, a multiple of the number of devices.
      strategy: how lanes are executed.
      compile_seconds: spent here.
      bytes_per_device: arguments, results and temporaries of the largest program, data included.
    """

    init: Callable[[Lanes], TrainState]
    train: Callable[..., TrainState]
    evaluate: Callable[[TrainState, Lanes], evaluation.Evaluation]
    lanes: int
    strategy: Strategy
    compile_seconds: float
    bytes_per_device: int


def lane_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All local devices along one axis, ``lane``."""
    devices = list(devices or jax.local_devices())
    return jax.make_mesh((len(devices),), ("lane",), devices=devices, axis_types=(AxisType.Auto,))


def seeds_of(cohort: Cohort) -> list[int]:
    """The distinct seeds of a cohort, sorted."""
    return sorted(set(settings_array(cohort, "seed", cohort.config.seed)))


def make_lanes(cohort: Cohort, runs: Sequence[int], size: int) -> Lanes:
    """The lanes of a pass.

    Args:
      cohort: their cohort.
      runs: positions in ``cohort.runs``.
      size: lanes of the program; the surplus repeats the last run and is never trained.
    """
    chosen = [*runs, *[runs[-1]] * (size - len(runs))]
    config, dtype = cohort.config, np.dtype(jnp.result_type(float))

    def values(path: str, default: Any, kind: Any) -> np.ndarray:
        every = settings_array(cohort, path, default)
        return np.asarray([every[i] for i in chosen], kind)

    def numbers(section: str, defaults: Mapping[str, Any]) -> dict[str, np.ndarray]:
        numeric = {name: value for name, value in defaults.items() if isinstance(value, float)}
        return {name: values(f"{section}.{name}", v, dtype) for name, v in numeric.items()}

    seeds = values("seed", config.seed, np.uint32)
    slots = np.searchsorted(np.asarray(seeds_of(cohort)), seeds).astype(np.int32)
    sizes = values("batch_size", config.batch_size, np.int32)
    rule = numbers("rule", make_rule(config.rule)[0].hyperparameters)
    if "total_updates" in rule and "rule.total_updates" not in cohort.runs[0].settings:
        # Multi-stage rules divide a number of updates; in a sweep it is the budget's.
        rule["total_updates"] = (cohort.total_examples // (sizes * cohort.draws)).astype(dtype)
    hyper = Hyper(
        key=jax.vmap(jax.random.key)(seeds),
        batch_size=sizes,
        base_lr=values("base_lr", config.base_lr, dtype),
        rule=rule,
        schedule=numbers("schedule", make_schedule(config.schedule).parameters),
        batch_schedule=numbers(
            "batch_schedule", make_batch_schedule(config.batch_schedule).parameters
        ),
        momentum_schedule=numbers("momentum_schedule", chosen_fields(config, "momentum_schedule")),
        noise=numbers("noise", chosen_fields(config, "noise")),
        objective=numbers("objective", chosen_fields(config, "objective")),
        sample=numbers("sample", config.sample),
    )
    used = np.arange(size) < len(runs)
    return Lanes(hyper, slots, used)


def make_engine(
    problem: Problem, cohort: Cohort, mesh: Mesh, size: int, arrays: Any, strategy: Strategy
) -> Engine:
    """Compiles a cohort's programs for passes of ``size`` lanes.

    Args:
      problem: data and model.
      cohort: what to train.
      mesh: from :func:`lane_mesh`.
      size: lanes per pass, a multiple of the mesh's size.
      arrays: the problem's arrays, on every device of the mesh.
      strategy: how lanes are executed.
    """
    program = make_program(problem, cohort, strategy.convolution)
    sharded, replicated = NamedSharding(mesh, P("lane")), NamedSharding(mesh, P())
    seed_keys = jax.vmap(jax.random.key)(np.asarray(seeds_of(cohort), np.uint32))
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    tested, evaluate = len(problem.dataset.test_labels), cohort.config.evaluate
    # The statistics of a batch are a matter of its size, on whatever platform.
    usual = EVALUATION_BATCH[on_cpu and evaluate.statistics != "batch"]
    indices, weights = eval_batches(tested, min(evaluate.batch or usual, tested))
    precise = evaluate.statistics == "precise" and cohort.facts.batch_statistics

    def init(hyper: Hyper, slots: jax.Array, used: jax.Array) -> TrainState:
        example = jnp.zeros(problem.example().shape, problem.example().dtype)
        params, stats = jax.lax.map(
            lambda key: problem.model.init(purpose_key(key, "init"), example), seed_keys
        )
        params, stats = jax.tree.map(lambda leaf: leaf[slots], (params, stats))
        state = jax.vmap(functools.partial(step.state_from, program))(hyper, params, stats)
        return state._replace(diverged_at=jnp.where(used, state.diverged_at, 0))

    def train(
        state: TrainState,
        hyper: Hyper,
        slots: jax.Array,
        arrays: Any,
        orders: jax.Array,
        epoch: jax.Array,
        first: jax.Array,
        ticks: jax.Array,
        fresh: jax.Array,
    ) -> TrainState:
        def lane(state: TrainState, hyper: Hyper, slot: jax.Array) -> TrainState:
            return step.train(program, state, hyper, arrays, orders[slot], epoch, first, ticks)

        zero = jax.tree.map(lambda s, z: jnp.where(fresh, z, s), state.sums, no_sums())
        run = over_lanes(strategy, lane, skip=lambda state: state.diverged_at >= 0)
        return run(state._replace(sums=zero), hyper, slots)

    def test(state: TrainState, hyper: Hyper, arrays: Any) -> evaluation.Evaluation:
        def lane(state: TrainState, hyper: Hyper) -> evaluation.Evaluation:
            if precise:
                count = max(1, min(PRECISE_BATCHES, problem.num_examples // program.micro_batch))
                state = evaluation.precise_statistics(program, state, hyper, arrays, count)
            return evaluation.evaluate(
                program, state, arrays, jnp.asarray(indices), jnp.asarray(weights)
            )

        return over_lanes(strategy, lane)(state, hyper)

    def orders_of(epoch: int) -> jax.Array:
        orders = _orders(seed_keys, np.int32(epoch), problem.num_examples, cohort.tick - 1)
        return jax.device_put(orders, replicated)

    # check_vma would refuse gradient rules (custom_vjp) that do not know of mesh axes, a user's
    # included; it guards collectives, and there are none.
    over_devices = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)
    lane, every = P("lane"), P()
    jit_init = jax.jit(init, out_shardings=sharded)
    jit_train = jax.jit(
        over_devices(
            train,
            in_specs=(lane, lane, lane, every, every, every, every, every, every),
            out_specs=lane,
        ),
        donate_argnums=(0,),
    )
    jit_test = jax.jit(over_devices(test, in_specs=(lane, lane, every), out_specs=lane))

    # Compile ahead of time: the time and the memory are reported, and no call later can recompile.
    started = time.perf_counter()
    template = make_lanes(cohort, [0], size)
    hyper, slots, used = jax.device_put(
        (template.hyper, template.seed_slot, template.used), sharded
    )
    # It runs once: polishing its machine code took LLVM longer than all the rest.
    hasty: Any = {"xla_backend_optimization_level": 0} if on_cpu else None
    compiled_init = jit_init.lower(hyper, slots, used).compile(hasty)
    state_shape = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharded),
        jax.eval_shape(init, hyper, slots, used),
    )
    orders_shape = jax.ShapeDtypeStruct(
        (len(seed_keys), problem.num_examples + cohort.tick - 1),
        jnp.int32,
        sharding=replicated,
    )
    number = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated)
    flag = jax.ShapeDtypeStruct((), jnp.bool_, sharding=replicated)
    compiled_train = jit_train.lower(
        state_shape, hyper, slots, arrays, orders_shape, number, number, number, flag
    ).compile()
    compiled_test = jit_test.lower(state_shape, hyper, arrays).compile()
    seconds = time.perf_counter() - started

    orders = _Latest(orders_of)
    put = functools.partial(jax.device_put, device=sharded)

    def run_init(lanes: Lanes) -> TrainState:
        return compiled_init(put(lanes.hyper), put(lanes.seed_slot), put(lanes.used))

    def run_train(
        state: TrainState, lanes: Lanes, epoch: int, first: int, ticks: int, fresh: bool
    ) -> TrainState:
        numbers = jax.device_put(
            (np.int32(epoch), np.int32(first), np.int32(ticks), np.bool_(fresh)), replicated
        )
        return compiled_train(
            state, put(lanes.hyper), put(lanes.seed_slot), arrays, orders(epoch), *numbers
        )

    def run_test(state: TrainState, lanes: Lanes) -> evaluation.Evaluation:
        return compiled_test(state, put(lanes.hyper), arrays)

    return Engine(
        init=run_init,
        train=run_train,
        evaluate=run_test,
        lanes=size,
        strategy=strategy,
        compile_seconds=seconds,
        bytes_per_device=max(map(_bytes, (compiled_init, compiled_train, compiled_test))),
    )


@functools.partial(jax.jit, static_argnames=("num_examples", "extra"))
def _orders(keys: jax.Array, epoch: jax.Array, num_examples: int, extra: int) -> jax.Array:
    """The streams of all seeds from the start of an epoch; compiled once for all engines."""
    return jax.vmap(lambda key: stream_window(key, epoch, num_examples, extra))(keys)


def _bytes(compiled: Any) -> int:
    analysis = compiled.memory_analysis()
    return int(
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
    )


class _Latest:
    """Remembers the last result: the order of an epoch serves all of its windows."""

    def __init__(self, function: Callable[[int], Any]):
        self._function, self._epoch, self._value = function, -1, None

    def __call__(self, epoch: int) -> Any:
        if epoch != self._epoch:
            self._epoch, self._value = epoch, self._function(epoch)
        return self._value


def choose_strategy(
    problem: Problem, cohort: Cohort, mesh: Mesh, size: int, arrays: Any
) -> Strategy:
    """The strategy that the config names, or the likely best one, or the fastest measured."""
    wanted = cohort.config.engine
    platform = mesh.devices.flat[0].platform
    usual = heuristic(cohort.facts, cohort.micro_batch, platform)
    if wanted.strategy != "measure":
        return parse(wanted.strategy, wanted.convolution, usual)
    timings = {}
    for candidate in candidates(platform):
        if wanted.convolution in ("auto", candidate.convolution):
            engine = make_engine(problem, cohort, mesh, size, arrays, candidate)
            timings[candidate] = time_ticks(engine, cohort)
    return min(timings, key=lambda s: timings[s]) if timings else usual


def time_ticks(engine: Engine, cohort: Cohort, seconds: float = 0.5) -> float:
    """Seconds per tick of a full pass, from a short run that is thrown away."""
    lanes = make_lanes(cohort, list(range(min(len(cohort.runs), engine.lanes))), engine.lanes)
    state, ticks = engine.train(engine.init(lanes), lanes, 0, 0, 1, False), 1  # warms up
    jax.block_until_ready(state)
    most = max(1, problem_ticks(cohort))
    while True:
        started = time.perf_counter()
        state = jax.block_until_ready(engine.train(state, lanes, 0, 0, ticks, False))
        elapsed = time.perf_counter() - started
        if elapsed >= seconds or ticks == most:
            return elapsed / ticks
        ticks = min(most, max(2 * ticks, int(ticks * seconds / max(elapsed, 1e-6))))


def problem_ticks(cohort: Cohort) -> int:
    """Ticks of the first epoch."""
    return cohort.first_tick(1)
