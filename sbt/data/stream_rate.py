"""How many examples per second this machine can decode and augment.

    python -m sbt.data.stream_rate [NAME] [--data_dir=DIR] [--workers=W] [--size=224] [--seconds=10]

NAME is a prepared TFDS set. Without it, JPEGs as large as ImageNet's usual one (500 x 375 pixels,
about 95 kB) are made up in memory; then no disk is measured. Training keeps up as long as this
rate, divided by the number of seeds in the sweep, exceeds the examples per second that *one* lane
takes from the stream (all lanes of a seed share them). With --workers=0 the CPU time that is
printed is that of decoding; its inverse is what a core can do.
"""

import argparse
import io
import os
import sys
import time
from typing import Any

import numpy as np
from PIL import Image

from sbt.data.encoded import EncodedSet, Images, open_encoded
from sbt.data.imagenet import AUGMENTATIONS, RESIZE, View
from sbt.data.stream import training_stream
from sbt.errors import UserError

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
    parser = argparse.ArgumentParser(prog="python -m sbt.data.stream_rate", description=__doc__)
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
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
