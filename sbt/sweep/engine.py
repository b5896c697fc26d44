"""Compiles a cohort: init, train and evaluate for a stack of lanes, sharded over the devices.

``shard_map`` outside and the strategy inside: a device sees only its own lanes, and no collective
can appear in the program (``jit`` with sharded lanes silently gathers them, openxla/xla#47945) but
those of data parallelism, which :mod:`sbt.train.shards` names.
"""

import dataclasses
import functools
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from sbt.checkpoint import unpack
from sbt.data import purpose_key
from sbt.lapack import decomposes_batches
from sbt.measure.online import Online, new_epoch
from sbt.models.check import zeros
from sbt.parallel.mesh import LANE_AXIS, fetch, handed, put
from sbt.sweep.feed import Round, make_feed
from sbt.sweep.lanes import (
    Lanes,
    make_lanes,
    own_state,
    stacked_state,
    state_shapes,
    state_specs,
)
from sbt.sweep.problem import Placed, make_program
from sbt.sweep.strategy import Strategy, over_lanes
from sbt.train import evaluate as evaluation
from sbt.train import step
from sbt.train.state import Hyper, Sums, TrainState, no_sums

EVALUATION_BATCH = {True: 64, False: 512}  # on CPU: what stays in its caches
PRECISE_BATCHES = 64  # micro-batches that "precise" batch statistics average


@dataclasses.dataclass(frozen=True)
class Engine:
    """Compiled functions for passes of ``lanes`` lanes of one cohort.

    Attributes:
      placed: what they train, and where.
      init: ``lanes -> state``.
      train: ``(state, lanes, epochs, firsts, ticks, fresh) -> state``; the old state is consumed.
        Of all lanes or of each: the epoch whose order it reads, where in it, and whether its
        metrics start at zero.
      evaluate: ``(state, lanes) -> Evaluation`` of each split, per lane, on the host.
      lanes: how many, a multiple of the number of devices.
      in_flight: different epochs that the lanes may be in at a time.
      strategy: how lanes are executed.
      online: measurements of the program, in the order of ``state.observed``.
      compile_seconds: spent here.
      bytes_per_device: arguments, results and temporaries of the largest program, data included.
      most_ticks: that ``train`` does without waiting for data.
      close: ends what feeds the programs in the background.
    """

    placed: Placed
    init: Callable[[Lanes], TrainState]
    train: Callable[..., TrainState]
    evaluate: Callable[[TrainState, Lanes], dict[str, evaluation.Evaluation]]
    lanes: int
    in_flight: int
    strategy: Strategy
    online: tuple[Online, ...]
    compile_seconds: float
    bytes_per_device: int
    most_ticks: int
    close: Callable[[], None]


def make_engine(
    placed: Placed,
    size: int,
    strategy: Strategy,
    compiler_options: dict[str, Any] | None = None,
) -> Engine:
    """Compiles a cohort's programs for passes of ``size`` lanes.

    Args:
      placed: what to train.
      size: lanes per pass, a multiple of ``placed.rows``.
      strategy: how lanes are executed.
      compiler_options: for XLA, of the training program.
    """
    cohort, problem, mesh = placed.cohort, placed.problem, placed.mesh
    program = make_program(problem, cohort, strategy.convolution)
    sharded, replicated = placed.by_lane, placed.everywhere
    sharing = cohort.sharding
    seed_keys = jax.vmap(jax.random.key)(np.asarray(cohort.seeds, np.uint32))
    on_cpu = placed.platform == "cpu"
    tested, evaluate = problem.dataset.test_examples, cohort.config.evaluate
    # The statistics of a batch are a matter of its size, on whatever platform.
    usual = EVALUATION_BATCH[on_cpu and evaluate.statistics != "batch"]
    feed = make_feed(placed, size, min(evaluate.batch or usual, tested))
    precise = evaluate.statistics == "precise" and cohort.facts.batch_statistics

    def init(hyper: Hyper, slots: jax.Array, used: jax.Array, start: Any) -> TrainState:
        if start is None:
            example = zeros(problem.example())
            keys, own = seed_keys, slots
            if len(keys) > len(slots):  # more seeds than lanes
                keys, own = keys[slots], jnp.arange(len(slots))
            start = jax.lax.map(
                lambda key: problem.model.init(purpose_key(key, "init"), example), keys
            )
            start = *jax.tree.map(lambda leaf: leaf[own], start), ()
        params, stats, rule = start
        state = jax.vmap(functools.partial(step.state_from, program))(hyper, params, stats)
        if rule:
            state = state._replace(opt_state=unpack(rule, state.opt_state))
        state = state._replace(diverged_at=jnp.where(used, state.diverged_at, 0))
        return stacked_state(state, sharing)

    def train(
        state: TrainState,
        hyper: Hyper,
        rows: jax.Array,
        arrays: Any,
        orders: jax.Array,
        epochs: jax.Array,
        firsts: jax.Array,
        fresh: jax.Array,
        base: jax.Array,
        ticks: jax.Array,
    ) -> TrainState:
        def lane(
            state: TrainState, hyper: Hyper, row: jax.Array, epoch: jax.Array, first: jax.Array
        ) -> TrainState:
            order = orders[row]
            return step.train(program, state, hyper, arrays, order, epoch, first, ticks, base)

        def begin(state: TrainState, fresh: jax.Array) -> TrainState:
            zero = jax.tree.map(
                lambda s, z: jnp.where(fresh, z, s), state.sums, no_sums(problem.task)
            )
            observed = new_epoch(program.online, state.observed, fresh)
            return state._replace(sums=zero, observed=observed)

        run = over_lanes(strategy, lane, skip=lambda state: state.diverged_at >= 0)
        state = jax.vmap(begin)(own_state(state, sharing), fresh)
        return stacked_state(run(state, hyper, rows, epochs, firsts), sharing)

    def test(state: TrainState, hyper: Hyper, part: Round) -> Sums:
        def lane(state: TrainState, hyper: Hyper) -> Sums:
            if precise:
                most = PRECISE_BATCHES // sharing.devices
                count = max(1, min(most, problem.num_examples // program.micro_batch))
                state = evaluation.precise_statistics(program, state, hyper, part.arrays, count)
            if sharing.local:
                params, stats = sharing.mean((state.params, state.stats))
                state = state._replace(params=params, stats=stats)
            return evaluation.evaluate(program, state, *part)

        return over_lanes(strategy, lane)(own_state(state, sharing), hyper)

    # check_vma would refuse gradient rules (custom_vjp) that do not know of mesh axes, a user's
    # included; it guards collectives, and there are none.
    over_devices = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)
    lane, every, states = P(LANE_AXIS), P(), state_specs(sharing)
    jit_init = jax.jit(over_devices(init, in_specs=(lane,) * 4, out_specs=states))
    jit_train = jax.jit(
        over_devices(
            train,
            in_specs=(states, lane, lane, every, every, lane, lane, lane, every, every),
            out_specs=states,
        ),
        donate_argnums=(0,),
    )
    jit_test = jax.jit(over_devices(test, in_specs=(states, lane, every), out_specs=lane))

    # Compile ahead of time: the time and the memory are reported, and no call later can recompile.
    started = time.perf_counter()
    template = make_lanes(cohort, [0], size)

    def begin(lanes: Lanes) -> Any:
        start = None if placed.start is None else placed.start.stacked(cohort, lanes.members)
        return put((lanes.hyper, lanes.seed_slot, lanes.used, start), sharded)

    first = begin(template)
    hyper, slots, used, _ = first
    state_shape = state_shapes(jax.eval_shape(jit_init, *first), states, mesh)
    arrays_shape, orders_shape, parts_shape = feed.shapes()
    number = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated)
    lowered_train = jit_train.lower(
        state_shape, hyper, slots, arrays_shape, orders_shape, slots, slots, used, number, number
    )
    lowered_tests = {
        split: jit_test.lower(state_shape, hyper, shape) for split, shape in parts_shape.items()
    }
    if on_cpu and any(map(decomposes_batches, (lowered_train, *lowered_tests.values()))):
        if strategy.at_once != 1:
            feed.close()
            return make_engine(placed, size, _one_at_a_time(placed, strategy), compiler_options)
        warnings.warn(
            "the rule or the model decomposes batches of matrices, in which LAPACK can stand still "
            "on a CPU: decompose one after another (jax.lax.map) if training does not go on",
            stacklevel=2,
        )
    # It runs once: polishing its machine code took LLVM longer than all the rest.
    hasty: Any = {"xla_backend_optimization_level": 0} if on_cpu else None
    compiled_init = jit_init.lower(*first).compile(hasty)
    compiled_train = lowered_train.compile(compiler_options)
    compiled_tests = {split: lowered.compile() for split, lowered in lowered_tests.items()}
    seconds = time.perf_counter() - started

    @functools.lru_cache(maxsize=1)  # the lanes stay the same for many epochs
    def placed_hyper(lanes: Lanes) -> Any:
        return put(lanes.hyper, sharded)

    def run_init(lanes: Lanes) -> TrainState:
        return compiled_init(*begin(lanes))

    def run_train(
        state: TrainState,
        lanes: Lanes,
        epochs: np.ndarray | int,
        firsts: np.ndarray | int,
        ticks: int,
        fresh: np.ndarray | bool,
    ) -> TrainState:
        epochs, firsts = (np.broadcast_to(a, size).astype(np.int32) for a in (epochs, firsts))
        fresh = np.broadcast_to(fresh, size)
        read, which = np.unique(epochs, return_inverse=True)
        rows = (which * len(seed_keys) + lanes.seed_slot).astype(np.int32)
        hyper = placed_hyper(lanes)
        while ticks:
            arrays, orders, base, count = feed.piece(read.tolist(), int(firsts[0]), ticks)
            row, *own = handed((rows, epochs, firsts, fresh), sharded)
            shared = handed((np.int32(base), np.int32(count)), replicated)
            state = compiled_train(state, hyper, row, arrays, orders, *own, *shared)
            firsts, ticks = firsts + np.int32(count * program.tick), ticks - count
            fresh = np.zeros(size, bool)
        return state

    def run_test(state: TrainState, lanes: Lanes) -> dict[str, evaluation.Evaluation]:
        hyper, found = placed_hyper(lanes), {}
        for split, compiled in compiled_tests.items():
            parts = [compiled(state, hyper, part) for part in feed.rounds(split)]
            # On the host: as operations of JAX, these few sums would be programs to compile.
            with np.errstate(all="ignore"):  # a run that diverged may have any loss
                total = functools.reduce(lambda a, b: jax.tree.map(np.add, a, b), fetch(parts))
                found[split] = evaluation.means(total)
        return found

    return Engine(
        placed=placed,
        init=run_init,
        train=run_train,
        evaluate=run_test,
        lanes=size,
        in_flight=feed.in_flight,
        strategy=strategy,
        online=program.online,
        compile_seconds=seconds,
        bytes_per_device=max(
            map(_bytes, (compiled_init, compiled_train, *compiled_tests.values()))
        ),
        most_ticks=feed.most_ticks,
        close=feed.close,
    )


def _one_at_a_time(placed: Placed, strategy: Strategy) -> Strategy:
    """A strategy that hands LAPACK no lanes at once; told where the config names another."""
    chosen = Strategy(1, strategy.convolution)
    if placed.cohort.config.engine.strategy not in ("auto", "measure"):
        warnings.warn(
            f"{chosen} in place of {strategy}: the rule or the model decomposes matrices, and "
            "LAPACK can stand still on those of several lanes",
            stacklevel=3,
        )
    return chosen


def _bytes(compiled: Any) -> int:
    analysis = compiled.memory_analysis()
    return int(
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
    )
