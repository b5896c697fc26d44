"""Weights & Biases: a run of W&B for every run of the grid, in a group of the sweep's name."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sbt.log.hook import Log, LoggedRun, a_run_each, needed, token

# What a run of W&B does for a process that trains one model, and costs seconds for hundreds.
_QUIET = {
    "console": "off", "silent": True, "disable_git": True, "save_code": False,
    "x_disable_stats": True, "x_disable_meta": True, "x_disable_machine_info": True,
    "x_save_requirements": False,
}  # fmt: skip


@contextlib.contextmanager
def wandb(directory: Path) -> Iterator[Log]:
    """Logs every run to W&B: online, or, with ``WANDB_MODE=offline``, to files in the directory.

    The project is ``WANDB_PROJECT``, else the sweep's name. ``wandb sync`` uploads what was written
    offline; a run that was interrupted and goes on keeps its identity there.

    Raises:
      UserError: wandb is not installed.
    """
    package = needed("wandb", "wandb", "wandb")
    settings = package.Settings(**_QUIET)
    own = token(directory)

    def begin(run: LoggedRun) -> Any:
        return package.init(
            project=os.environ.get("WANDB_PROJECT", run.sweep),
            group=run.sweep,
            name=run.name,
            id=f"{own}-{run.number:05d}",
            config=dict(run.settings),
            dir=str(directory),
            resume="allow",
            reinit="create_new",
            settings=settings,
        )

    with a_run_each(begin, lambda run: run.finish()) as log:
        yield log
