"""A command that asks for large pages starts once more: same process, same arguments."""

import os
import subprocess
import sys

import pytest

from sbt import pages

SCRIPT = """
import os, sys
from sbt.pages import restart_with_large_pages
print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), *sys.argv[1:], flush=True)
restart_with_large_pages()
"""


def start(**environment):
    """What a process prints at each start of its own."""
    inherited = {k: v for k, v in os.environ.items() if k != pages.VARIABLE}
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT, "--name", "two words"],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.split(" ", 2) for line in found.stdout.splitlines()]


@pytest.mark.skipif(not pages._on_glibc(), reason="glibc alone has the setting")
def test_restarts_once_with_the_same_arguments():
    (pid, before, arguments), second = start()
    assert before == "None"
    assert second == [pid, pages.TUNABLE, arguments]
    assert arguments == "--name two words"


def test_what_the_user_set_stands():
    assert len(start(GLIBC_TUNABLES="glibc.malloc.check=0")) == 1


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.delenv(pages.VARIABLE, raising=False)
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("restarted"))
    monkeypatch.setattr(os, "confstr_names", {})
    pages.restart_with_large_pages()
