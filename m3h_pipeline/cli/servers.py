"""The process above the servers of ``m3h ui``: it ends them all, whoever of their family is killed.

``python -m m3h_pipeline.cli.servers`` reads the servers' commands as JSON from its standard input,
starts them, and stays until it is asked to end, until one of them ends, or until its own parent is
gone, which no signal can keep it from seeing. Then everything that came from it gets SIGTERM, and
after a grace SIGKILL: code servers, workers, runs and their jobs too, in whatever session they are.
They can be found because orphans below this process become its children (Linux; elsewhere the
servers' own process groups are all that is ended).
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

import psutil

GRACE_SECONDS = 15
_POLL_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """From now on a process below this one whose parent ends becomes a child of this one."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_descendants(groups: Sequence[int] = ()) -> None:
    """End every process below this one, and the process groups: SIGTERM, and SIGKILL after a
    grace.
    """
    _signal_all(signal.SIGTERM, groups)
    _wait_for_none(GRACE_SECONDS)
    _signal_all(signal.SIGKILL, groups)
    _wait_for_none(GRACE_SECONDS)


def _signal_all(number: signal.Signals, groups: Sequence[int]) -> None:
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
    in_groups = set(groups)
    for process in _descendants():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) not in in_groups:
                process.send_signal(number)


def _wait_for_none(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while _descendants() and time.monotonic() < deadline:
        _reap()
        time.sleep(0.1)


def _descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _reap() -> set[int]:
    """The children that have ended since the last call."""
    ended: set[int] = set()
    with suppress(ChildProcessError):
        while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
            ended.add(pid)
    return ended


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value)


def _end_with_parent() -> None:
    """In a server, should the process above it be killed too."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def supervise(commands: Sequence[Sequence[str]], parent: int) -> int:
    """Run servers until it is time to end; the exit code is 1 where one of them ended by itself."""
    adopt_orphans()
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: asked.append(number))
    # A session each, so that a signal to a server's group reaches its workers.
    servers = [
        subprocess.Popen(command, start_new_session=True, preexec_fn=_end_with_parent)
        for command in commands
    ]
    pids = [server.pid for server in servers]
    has_ended = False
    while not asked and not has_ended and os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
        has_ended = not _reap().isdisjoint(pids)
    end_descendants(pids)
    return 1 if has_ended else 0


if __name__ == "__main__":
    _work = json.load(sys.stdin)
    sys.exit(supervise(_work["commands"], _work["parent"]))
