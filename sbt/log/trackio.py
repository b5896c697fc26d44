"""Trackio: a run of Trackio for every run of the grid, in a project of the sweep's name."""

import contextlib
import contextvars
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sbt.log.hook import Log, LoggedRun, a_run_each, needed, token


@contextlib.contextmanager
def trackio(directory: Path) -> Iterator[Log]:
    """Logs every run to Trackio, where that keeps its runs (``TRACKIO_DIR``, ``TRACKIO_SPACE_ID``).

    The directory holds no more than a word that tells its runs from those of another sweep of the
    same name.

    Raises:
      UserError: trackio is not installed.
    """
    package = needed("trackio", "trackio", "trackio")
    own = token(directory)

    def begin(run: LoggedRun) -> Any:
        # In a context of its own: one that begins would end the one before.
        with contextlib.redirect_stdout(io.StringIO()):
            return contextvars.Context().run(
                package.init,
                project=os.environ.get("TRACKIO_PROJECT", run.sweep),
                name=f"{run.name}-{own}",
                group=run.sweep,
                config=dict(run.settings),
                resume="allow",
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )

    with a_run_each(begin, _end) as log:
        yield log


def _end(run: Any) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        run.finish()
