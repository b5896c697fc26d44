"""TensorBoard: curves and HParams, a directory of events for every run."""

import contextlib
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sbt.log.hook import Log, LoggedRun, needed

FILE = "events.out.tfevents.sbt"  # TensorBoard reads files with tfevents in their names


@contextlib.contextmanager
def tensorboard(directory: Path) -> Iterator[Log]:
    """Appends to ``directory/run-00000/events...`` and so on, with the axes as hyperparameters.

    No file stays open, so that a sweep may have any number of runs. The first step that a process
    writes of a run takes the place of that step and all later ones, if there are any: TensorBoard's
    mark of a restart says so. What is trained, or exported, again is therefore there once.

    Raises:
      UserError: tensorboardX is not installed.
    """
    events = needed("tensorboardX.proto.event_pb2", "export", "tensorboard")
    summaries = needed("tensorboardX.proto.summary_pb2", "export", "tensorboard")
    hparams = needed("tensorboardX.summary", "export", "tensorboard").hparams
    crc = needed("tensorboardX.record_writer", "export", "tensorboard").masked_crc32c
    begun: set[int] = set()

    def log(run: LoggedRun, step: int, metrics: Mapping[str, float]) -> None:
        place = directory / run.name
        now = time.time()
        experiment, start, end = hparams(dict(run.settings), {run.score: None})
        written: list[Any] = []
        if run.number not in begun:
            begun.add(run.number)
            if (place / FILE).exists():
                restart = events.SessionLog(status=events.SessionLog.START)
                written = [events.Event(wall_time=now, step=step, session_log=restart)]
            else:
                place.mkdir(parents=True, exist_ok=True)
                written = [events.Event(wall_time=now, file_version="brain.Event:2")]
                written += [events.Event(wall_time=now, summary=one) for one in (experiment, start)]
        values = [
            summaries.Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()
        ]
        summary = summaries.Summary(value=values)
        written.append(events.Event(wall_time=now, step=step, summary=summary))
        if run.score in metrics:
            written.append(events.Event(wall_time=now, summary=end))
        with (place / FILE).open("ab") as file:
            file.write(b"".join(_record(one.SerializeToString(), crc) for one in written))

    yield log


def _record(data: bytes, crc: Any) -> bytes:
    """A record of TFRecord: length, data, and a checksum of each."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, struct.pack("<I", crc(length)), data, struct.pack("<I", crc(data))))
