"""What the compiled programs read: all the data, lying on the devices, or windows of a stream.

Either way the programs are the same: they read the examples that an order names out of arrays. With
streamed data the arrays hold a window of the stream and the order counts through it; the next
window is decoded and copied to the devices while one is trained on.
"""

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from sbt.data import Arrays, Split, eval_batches, stream_window
from sbt.data.dataset import SampledSet
from sbt.data.imagenet import AUGMENTATIONS
from sbt.data.stream import test_stream, training_stream
from sbt.errors import UserError
from sbt.parallel.mesh import put
from sbt.sweep.cohort import Cohort
from sbt.sweep.problem import Placed, Problem

# A window holds so many bytes of inputs on a device; three may be there at a time.
WINDOW_BYTES = {"cpu": 2**25, "other": 2**28}
NO_SPLIT: Any = ()
# Epochs that lanes may be in at a time where runs take the lanes of others. Each costs an
# evaluation of all lanes, and an order of the training set on the devices.
EPOCHS_IN_FLIGHT = 3


class Piece(NamedTuple):
    """What one call of the training program reads.

    Attributes:
      arrays: the data.
      orders: int32 ``(in_flight · seeds, …)``, positions in ``arrays``; a row for each seed, for
        one epoch after another.
      base: where ``orders`` begins, in examples from the start of the epoch.
      ticks: for how many they suffice.
    """

    arrays: Any
    orders: jax.Array
    base: int
    ticks: int


class Round(NamedTuple):
    """What one call of the evaluation program reads: some batches of the test split."""

    arrays: Any
    indices: jax.Array
    weights: jax.Array


class Feed(Protocol):
    """The source of what the programs of a cohort read.

    Attributes:
      most_ticks: more than a piece ever suffices for.
      in_flight: different epochs that the lanes of a piece may be in.
    """

    most_ticks: int
    in_flight: int

    def shapes(self) -> tuple[Any, Any, dict[str, Round]]:
        """Shapes of arrays and orders of a piece, and of a round of each split that is evaluated,
        with their shardings."""

    def piece(self, epochs: Sequence[int], first: int, ticks: int) -> Piece:
        """What the next ticks read, or as many of them as are at hand.

        Args:
          epochs: that first examples belong to, at most ``in_flight`` of them.
          first: position of the first example in the epoch; used where there is but one.
          ticks: wanted.
        """

    def rounds(self, split: str) -> Iterator[Round]:
        """The whole split, once."""

    def close(self) -> None:
        """Ends what runs in the background; a further call would start it again."""


def make_feed(placed: Placed, lanes: int, evaluation_batch: int) -> Feed:
    """The feed that a problem's data needs.

    Args:
      placed: what is trained.
      lanes: of the program; where runs have to wait for one, lanes may part in their epochs.
      evaluation_batch: examples per step of an evaluation.
    """
    if placed.problem.streamed:
        return Streamed(placed, evaluation_batch)
    in_flight = EPOCHS_IN_FLIGHT if len(placed.cohort.runs) > lanes else 1
    return Resident(placed, evaluation_batch, in_flight)


def check(problem: Problem, cohort: Cohort, measured: bool) -> None:
    """Refuses what needs all of a streamed set at hand.

    Raises:
      UserError: naming it.
    """
    if not problem.streamed:
        return
    config = cohort.config
    small = "choose another, or set config.data.stream = False for a set that fits in memory"
    if config.evaluate.statistics == "precise":
        raise UserError(
            "config.evaluate.statistics", "'precise' needs the data set in memory", small
        )
    if measured:
        raise UserError("config.measure.names", "measurements need the data set in memory", small)
    if config.copies > 1 and config.data.augment in AUGMENTATIONS:
        raise UserError(
            "config.copies",
            f"{config.data.augment!r} makes one view of an example, for all copies",
            "set it to 1, or augment on the device: config.data.augment = 'crop_flip'",
        )


class Resident:
    """All data on the devices: every call reads the same arrays, in an order of its epoch."""

    most_ticks = 2**31 - 1

    def __init__(self, placed: Placed, evaluation_batch: int, in_flight: int):
        cohort, problem = placed.cohort, placed.problem
        self.in_flight = in_flight
        self._arrays, self._everywhere = placed.arrays, placed.everywhere
        self._length = problem.num_examples, cohort.tick - 1
        seeds = cohort.seeds
        self._keys = jax.vmap(jax.random.key)(np.asarray(seeds, np.uint32))
        sizes = {"test": problem.dataset.test_examples}
        if held_out := problem.dataset.validation_examples:
            sizes["validation"] = held_out
        self._rounds = {
            split: Round(
                self._arrays.tested_on(split),
                *put(
                    eval_batches(size, min(evaluation_batch, size), cohort.sharding.devices),
                    self._everywhere,
                ),
            )
            for split, size in sizes.items()
        }
        self._epochs: list[int] = []
        self._orders = self._keys  # of no epoch yet

    def shapes(self) -> tuple[Any, Any, dict[str, Round]]:
        shape = self.in_flight * len(self._keys), sum(self._length)
        orders = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=self._everywhere)
        return self._arrays, orders, self._rounds

    def piece(self, epochs: Sequence[int], first: int, ticks: int) -> Piece:
        del first
        epochs = list(epochs)
        if epochs != self._epochs:  # one order serves all calls of an epoch
            filled = epochs + epochs[-1:] * (self.in_flight - len(epochs))
            made = {e: np.asarray(_orders(self._keys, np.int32(e), *self._length)) for e in epochs}
            orders = np.concatenate([made[epoch] for epoch in filled])
            self._epochs, self._orders = epochs, put(orders, self._everywhere)
        return Piece(self._arrays, self._orders, 0, ticks)

    def rounds(self, split: str) -> Iterator[Round]:
        yield self._rounds[split]

    def close(self) -> None:
        pass


@functools.partial(jax.jit, static_argnames=("num_examples", "extra"))
def _orders(keys: jax.Array, epoch: jax.Array, num_examples: int, extra: int) -> jax.Array:
    """The streams of all seeds from the start of an epoch; compiled once for all engines."""
    return jax.vmap(lambda key: stream_window(key, epoch, num_examples, extra))(keys)


class Streamed:
    """Windows of the streams of all seeds, one behind the other in ``arrays``."""

    in_flight = 1

    def __init__(self, placed: Placed, evaluation_batch: int):
        cohort, problem = placed.cohort, placed.problem
        data = problem.dataset
        assert isinstance(data, SampledSet)
        self._examples, self._tick = problem.num_examples, cohort.tick
        self._everywhere = placed.everywhere
        self._moments = put((problem.arrays.mean, problem.arrays.std), self._everywhere)
        seeds, workers = cohort.seeds, cohort.config.engine.workers
        files, sharing = data.files, cohort.sharding.devices
        self._like = jax.tree.map(lambda leaf: leaf[0], dict(data.test))
        each = sum(leaf.nbytes for leaf in jax.tree.leaves(self._like["x"]))
        on_cpu = placed.platform == "cpu"
        budget = WINDOW_BYTES["cpu"] // placed.mesh.size if on_cpu else WINDOW_BYTES["other"]

        fits = budget // (len(seeds) * each * cohort.tick)
        self.most_ticks = max(1, min(fits, -(-problem.num_examples // cohort.tick)))
        length = self.most_ticks * cohort.tick
        rows = np.arange(len(seeds) * length, dtype=np.int32).reshape(len(seeds), length)
        self._orders = put(rows, self._everywhere)

        batches = -(-data.test_examples // evaluation_batch)
        at_once = min(max(1, budget // (evaluation_batch * each)), batches)
        at_once = -(-at_once // sharing) * sharing  # each device of a run takes as many
        _, weights = eval_batches(data.test_examples, evaluation_batch, multiple=at_once)
        self._weights = weights.reshape(-1, at_once, evaluation_batch)
        indices = np.arange(at_once * evaluation_batch, dtype=np.int32)
        self._indices = put(indices.reshape(at_once, -1), self._everywhere)

        self._train = _Ahead(
            lambda: training_stream(files, seeds, workers), length, self._on_devices
        )
        self._test = _Ahead(
            lambda: test_stream(files, weights.size, workers), indices.size, self._on_devices
        )
        self._tested = 0

    def shapes(self) -> tuple[Any, Any, dict[str, Round]]:
        like: Any = jax.ShapeDtypeStruct
        weights = like(self._indices.shape, jnp.float32, sharding=self._everywhere)
        train, test = (self._split_shapes(a.size) for a in (self._orders, self._indices))
        mean, std = self._moments
        return (
            Arrays(train, NO_SPLIT, mean, std),
            self._orders,
            {"test": Round(Arrays(NO_SPLIT, test, mean, std), self._indices, weights)},
        )

    def _split_shapes(self, count: int) -> Split:
        shape: Any = functools.partial(jax.ShapeDtypeStruct, sharding=self._everywhere)
        numbers = shape((count,), jnp.int32)
        like = self._like
        examples = jax.tree.map(lambda leaf: shape((count, *leaf.shape), leaf.dtype), like)
        return Split(examples, numbers)

    def _on_devices(self, window: Any) -> Split:
        """Rows of the seeds one behind the other."""
        flat = jax.tree.map(lambda part: part.reshape(-1, *part.shape[2:]), window)
        return put(Split(*flat), self._everywhere)

    def piece(self, epochs: Sequence[int], first: int, ticks: int) -> Piece:
        (epoch,) = epochs
        position = epoch * self._examples + first
        begin, split = self._train.at(position)
        at_hand = self.most_ticks - (position - begin) // self._tick
        arrays = Arrays(split, NO_SPLIT, *self._moments)
        return Piece(arrays, self._orders, begin - epoch * self._examples, min(ticks, at_hand))

    def rounds(self, split: str) -> Iterator[Round]:
        assert split == "test"
        # The test split goes round and round, so that the next evaluation is begun already.
        for weights in self._weights:
            _, window = self._test.at(self._tested)
            self._tested += self._indices.size
            arrays = Arrays(NO_SPLIT, window, *self._moments)
            yield Round(arrays, self._indices, put(weights, self._everywhere))

    def close(self) -> None:
        self._train.close()
        self._test.close()
        self._tested = 0


class _Ahead:
    """Windows of one length, on the devices; the next one is made while one is in use.

    Args:
      open_stream: called when the first window is wanted.
      length: of every window.
      place: puts a window on the devices.
    """

    def __init__(self, open_stream: Any, length: int, place: Any):
        self._open, self._length, self._place = open_stream, length, place
        self._stream: Any = None
        self._thread: Any = None
        self._windows: list[tuple[int, Future[Split]]] = []  # at most two, consecutive

    def at(self, position: int) -> tuple[int, Split]:
        """The window that holds a position, and where it begins."""
        if self._stream is None:
            self._stream = self._open()
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="sbt-feed")
        while self._windows and position >= self._windows[0][0] + self._length:
            self._windows.pop(0)
        if not self._windows or position < self._windows[0][0]:  # a jump
            self._windows = []
            self._request(position)
        if len(self._windows) == 1:
            self._request(self._windows[0][0] + self._length)
        begin, window = self._windows[0]
        return begin, window.result()

    def _request(self, begin: int) -> None:
        def make() -> Split:
            return self._place(self._stream.window(begin, self._length))

        self._windows.append((begin, self._thread.submit(make)))

    def close(self) -> None:
        """Waits for what is being made, and stops the workers."""
        if self._stream is not None:
            self._thread.shutdown(cancel_futures=True)
            self._stream.close()
        self._stream, self._windows = None, []
