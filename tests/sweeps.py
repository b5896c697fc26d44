"""What tests of whole sweeps share: fresh programs, short windows, a watcher that interrupts."""

import contextlib
import dataclasses
import os
import signal

import jax
import pytest
import xarray as xr
from lanes import compiling

from sbt.parallel import mesh
from sbt.sweep import loop, prepare
from sbt.sweep import run as runs
from sbt.sweep.progress import Silent


@contextlib.contextmanager
def compiling_anew():
    """Hastily, see ``lanes.compiling``; nothing is taken from the disk cache of programs."""
    enabled = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    with compiling(quickly=True) as programs:
        yield programs
    jax.config.update("jax_enable_compilation_cache", enabled)


@contextlib.contextmanager
def one_device():
    """Sweeps see the first device alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "make_mesh", lambda data: mesh.make_mesh(data, jax.devices()[:1]))
        yield


def shorten_windows(patch, ticks):
    """Windows of so many ticks: a sweep looks at the clock and the signals after each."""
    fit = runs.fit

    def fit_short(*args, **kwargs):
        return dataclasses.replace(fit(*args, **kwargs), first_window=ticks)

    patch.setattr(loop, "WINDOW_SECONDS", 0.0)
    patch.setattr(loop, "LEAST_TICKS", 1)
    patch.setattr(runs, "fit", fit_short)


class Watch(Silent):
    """Remembers the notes, and the epoch and number of lanes of every window.

    Sends a signal to this process, once, when so many windows or epochs are done, or so few lanes
    are in work.
    """

    def __init__(self, windows=None, epochs=None, lanes=0, number=signal.SIGTERM):
        self.notes, self.seen, self.sent = [], [], False
        self.windows, self.epochs, self.lanes, self.number = windows, epochs, lanes, number

    def note(self, text):
        self.notes.append(text)

    def update(self, status):
        if status.doing:
            return
        self.seen.append((round(status.epoch, 2), status.lanes))
        due = len(self.seen) == self.windows or 0 < status.lanes <= self.lanes
        due = due or (self.epochs is not None and status.epoch >= self.epochs)
        if due and not self.sent:
            self.sent = True
            os.kill(os.getpid(), self.number)

    def some(self, text):
        """Notes that hold a text."""
        return [note for note in self.notes if text in note]


def same(dataset, other):
    """Bit-identical results."""
    xr.testing.assert_identical(dataset.drop_attrs(), other.drop_attrs())
