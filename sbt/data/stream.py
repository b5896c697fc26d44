"""Windows of the endless stream of training examples, read ahead of need by worker processes.

The stream is that of :mod:`sbt.data.order`: position p holds the same example, in the same view,
whatever the number of workers, the lengths of the windows, or where reading began. So a position
(a number of examples) is all that resuming needs: Grain opens the stream at any position, and no
state of its iterators is ever saved.

How many examples per second this machine can decode and augment:

    python -m sbt.data.stream [NAME] [--data_dir=DIR] [--workers=W] [--size=224] [--seconds=10]

NAME is a prepared TFDS set. Without it, JPEGs as large as ImageNet's usual one (500 x 375 pixels,
about 95 kB) are made up in memory; then no disk is measured. Training keeps up as long as this
rate, divided by the number of seeds in the sweep, exceeds the examples per second that *one* lane
takes from the stream (all lanes of a seed share them). With --workers=0 the CPU time that is
printed is that of decoding; its inverse is what a core can do.
"""

import argparse
import io
import multiprocessing
import multiprocessing.resource_tracker
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from sbt.data.dataset import Files
from sbt.data.encoded import EncodedSet, open_encoded
from sbt.data.imagenet import AUGMENTATIONS, RESIZE, View
from sbt.data.order import epoch_order
from sbt.data.tfds_reader import Images
from sbt.errors import UserError
from sbt.tasks.base import Examples

BLOCK = 16  # positions that a worker hands over at a time
AHEAD = 4  # blocks that a worker prepares ahead
ENDLESS = 2**31 - 1  # positions are counted in 32 bits on the device
_SHARED_MEMORY = Path("/dev/shm")
_STOPPING = (signal.SIGINT, signal.SIGTERM)


class Window(NamedTuple):
    """Consecutive examples of one or more streams, one row per stream.

    Attributes:
      examples: arrays by name, each ``(rows, count, ...)``: of images ``x``, uint8 ``(rows, count,
        size, size, channels)``, and ``label``, int32 ``(rows, count)``.
      numbers: int32 ``(rows, count)``: index of each example in its split.
    """

    examples: Examples
    numbers: np.ndarray


class TrainingPositions:
    """Position -> the examples that every seed sees there, in their training views.

    Args:
      files: of the training split.
      seeds: one row each.
    """

    def __init__(self, files: Files, seeds: tuple[int, ...]):
        self._files, self._seeds = files, seeds
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return ENDLESS

    @property
    def rows(self) -> int:
        return len(self._seeds)

    def __getitem__(self, position: int) -> dict[str, Any]:
        epoch, offset = divmod(position, self._files.train_examples)
        numbers = self._order(epoch)[:, offset]
        found = [
            self._files.training_example(int(i), seed, epoch)
            for seed, i in zip(self._seeds, numbers, strict=True)
        ]
        return {"examples": _stacked(found), "number": numbers}

    def _order(self, epoch: int) -> np.ndarray:
        """Permutations of an epoch, ``(rows, N)``. Threads work on two epochs at a boundary."""
        known = self._orders
        if epoch not in known:
            count = self._files.train_examples
            keys = [jax.random.key(np.uint32(seed)) for seed in self._seeds]
            orders = [np.asarray(epoch_order(key, epoch, count)) for key in keys]
            last = {e: order for e, order in known.items() if e == epoch - 1}
            known = self._orders = {**last, epoch: np.stack(orders)}
        return known[epoch]


class TestPositions:
    """Position -> example of the test split, in file order, over and over.

    Args:
      files: of the test split.
      period: positions of one round, at least as many as there are examples; the surplus repeats
        the first examples (see :func:`sbt.data.pipeline.eval_batches`).
    """

    __test__ = False  # pytest: no tests in here
    rows = 1

    def __init__(self, files: Files, period: int):
        self._files, self._period = files, period

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, position: int) -> dict[str, Any]:
        example = position % self._period % self._files.test_examples
        found = self._files.test_example(example)
        return {"examples": _stacked([found]), "number": np.asarray([example], np.int32)}


def _stacked(examples: list[Examples]) -> Examples:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *map(dict, examples))


class Stream:
    """Reads windows of positions; cheap while one window follows the other.

    Args:
      positions: random access by position.
      files: that they are in, which tell the shapes.
      workers: processes; 0: threads of this process; None: one less than there are cores.

    Raises:
      UserError: Grain is not installed, or there is too little shared memory for the workers.
    """

    def __init__(
        self, positions: TrainingPositions | TestPositions, files: Files, workers: int | None
    ):
        _need_grain()
        if workers is None:
            workers = max(1, len(os.sched_getaffinity(0)) - 1)
        self._positions, self._workers = positions, workers
        self._like = dict(files.test_example(0))
        self._blocks: Any = None
        self._block: dict[str, Any] = {}
        self._used = self._next = 0
        if workers:
            each = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(self._like))
            _need_shared_memory(workers * (AHEAD + 2) * BLOCK * positions.rows * each)

    def window(self, first: int, count: int) -> Window:
        """Examples ``first`` to ``first + count`` of every row.

        A window that begins where the last one ended is (partly) ready; any other makes the
        workers start anew.
        """
        if first != self._next or self._blocks is None:
            self.close()
            self._open(first)
        rows = self._positions.rows

        def room(leaf: Any) -> np.ndarray:
            return np.empty((rows, count, *np.shape(leaf)), np.asarray(leaf).dtype)

        window = Window(jax.tree.map(room, self._like), np.empty((rows, count), np.int32))
        filled = 0
        while filled < count:
            if self._used == len(self._block.get("number", ())):
                self._block, self._used = next(self._blocks), 0
            take = min(count - filled, len(self._block["number"]) - self._used)
            there, here = slice(filled, filled + take), slice(self._used, self._used + take)
            made = Window(self._block["examples"], self._block["number"])
            for out, part in zip(jax.tree.leaves(window), jax.tree.leaves(made), strict=True):
                out[:, there] = part[here].swapaxes(0, 1)
            filled, self._used = filled + take, self._used + take
        self._next = first + count
        return window

    def _open(self, first: int) -> None:
        import grain
        from absl import flags

        if not flags.FLAGS.is_parsed():  # a notebook; Grain reads its own, and defaults will do
            flags.FLAGS.mark_as_parsed()
        blocks = grain.MapDataset.source(self._positions)[first:].batch(BLOCK)
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
        ahead = blocks.to_iter_dataset(options)
        if self._workers:
            processes = grain.MultiprocessingOptions(self._workers, per_worker_buffer_size=AHEAD)
            ahead = ahead.mp_prefetch(processes, worker_init_fn=_start_worker)
            # Labels are cheaper to send than to share.
            sharing = grain.experimental.DatasetOptions(min_shm_size=4096)
            ahead = grain.experimental.WithOptionsIterDataset(ahead, sharing)
        # Workers start now and inherit what is blocked, until they can ignore it themselves. Before
        # a process's first worker Python starts a helper, and unblocks these signals after that.
        multiprocessing.resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        try:
            self._blocks, self._next = iter(ahead), first
            self._block, self._used = next(self._blocks), 0
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def close(self) -> None:
        """Stops the workers. The stream may be read again; they start anew then."""
        if self._blocks is not None:
            self._blocks.close()
        self._blocks, self._block, self._used = None, {}, 0


def training_stream(files: Files, seeds: tuple[int, ...], workers: int | None = None) -> Stream:
    """The training split as each seed sees it, epoch after epoch.

    Args:
      files: an opened set.
      seeds: one row of every window each.
      workers: see `Stream`.
    """
    return Stream(TrainingPositions(files, seeds), files, workers)


def test_stream(files: Files, period: int, workers: int | None = None) -> Stream:
    """The test split in file order; after ``period`` positions it begins again."""
    return Stream(TestPositions(files, period), files, workers)


test_stream.__test__ = False  # type: ignore[attr-defined]  # pytest: not a test


def _start_worker(index: int, count: int) -> None:
    """Makes a process a quiet servant of its parent: no accelerator, no signals, no afterlife."""
    del index, count
    jax.config.update("jax_platforms", "cpu")
    # Whoever stops the run tells its whole process group; the parent still wants its windows then,
    # to come to a place where it can save.
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def _need_grain() -> None:
    try:
        import grain  # noqa: F401
    except ImportError as error:
        raise UserError(
            "config.data.stream",
            f"needs the package grain: {error}",
            "pip install grain, or set config.data.stream = False for a set that fits in memory.",
        ) from error


def _need_shared_memory(wanted: int) -> None:
    """Containers often get 64 MB, and a worker that finds none left dies of SIGBUS."""
    if _SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).free < wanted:
        free = shutil.disk_usage(_SHARED_MEMORY).free
        raise UserError(
            "config.engine.workers",
            f"the workers pass up to {wanted / 2**20:.0f} MiB of examples through "
            f"{_SHARED_MEMORY}, where {free / 2**20:.0f} MiB are free",
            "Use fewer workers (0: threads of this process), or give the container more "
            "(docker run --shm-size=4g; Kubernetes: an emptyDir of medium Memory on /dev/shm).",
        )


# --- how fast -------------------------------------------------------------------------------------

WIDTH, HEIGHT, GRAIN, QUALITY = 500, 375, 16, 92  # gives about 95 kB
WARM_UP = 256  # examples: what was decoded while the workers started would count as speed


def photographs(count: int) -> list[dict[str, Any]]:
    """Smooth pictures with film grain, which compress about as well as photographs."""
    rng = np.random.RandomState(0)
    records = []
    for label in range(count):
        low = rng.randint(0, 256, (HEIGHT // 16, WIDTH // 16, 3)).astype(np.uint8)
        smooth = Image.fromarray(low).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        noisy = np.asarray(smooth, int) + rng.randint(-GRAIN, GRAIN + 1, (HEIGHT, WIDTH, 1))
        file = io.BytesIO()
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(file, "jpeg", quality=QUALITY)
        records.append({"image": file.getvalue(), "label": label})
    return records


def measure(data: EncodedSet, workers: int, seconds: float) -> tuple[float, float]:
    """Examples per second of one seed's training stream, its start not counted.

    Returns:
      That rate, and the seconds of CPU time that this process (not its workers) spent on each.
    """
    stream = training_stream(data, (0,), workers)
    try:
        stream.window(0, WARM_UP)
        position, step = WARM_UP, 64
        started, worked = time.monotonic(), time.process_time()
        while (elapsed := time.monotonic() - started) < seconds:
            stream.window(position, step)
            position += step
        count = position - WARM_UP
        return count / elapsed, (time.process_time() - worked) / count
    finally:
        stream.close()


def main(argv: list[str] | None = None) -> int:
    """Command line of the module."""
    parser = argparse.ArgumentParser(prog="python -m sbt.data.stream", description=__doc__)
    parser.add_argument("name", nargs="?", help="prepared TFDS set; none: JPEGs in memory")
    parser.add_argument("--data_dir", help="TFDS directory (TFDS_DATA_DIR, ~/tensorflow_datasets)")
    parser.add_argument("--workers", type=int, help="processes; 0: threads of this one")
    parser.add_argument("--size", type=int, default=224, help="side of the square, in pixels")
    parser.add_argument("--augment", default="resized_crop", choices=(*AUGMENTATIONS, "none"))
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args(argv)
    cores = len(os.sched_getaffinity(0))
    workers = max(1, cores - 1) if args.workers is None else args.workers
    if args.name is None:
        images = Images(photographs(64), "image", "label")
        view = View(args.size, round(RESIZE * args.size), augment=args.augment)
        data = EncodedSet("JPEGs in memory", images, images, 64, view)
    else:
        fields = {"name": args.name, "data_dir": args.data_dir, "image_size": args.size}
        data = open_encoded({**fields, "augment": args.augment})
    rate, own = measure(data, workers, args.seconds)
    kilobytes = np.mean([len(data.train[i][0]) for i in range(min(64, len(data.train)))]) / 1e3
    print(
        f"{rate:.0f} examples/s: {data.name} ({kilobytes:.0f} kB each), {args.augment} to "
        f"{args.size} px, {workers} workers, {cores} cores; {1e3 * own:.2f} ms of CPU time each in "
        "this process"
    )
    return 0


if __name__ == "__main__":
    from sbt.data import stream  # noqa: PLW0406  workers unpickle classes by this module's name

    try:
        sys.exit(stream.main())
    except UserError as error:
        sys.exit(f"error: {error}")
