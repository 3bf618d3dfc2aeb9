"""Locks of an out-folder that the system frees when a process ends, however it ends."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

_STATE_LOCK = ".lock"


@contextmanager
def hold_lock(file: Path, *, shared: bool = False, wait: bool = True) -> Generator[None]:
    """Hold the lock of a file, exclusively or shared with others; what the file holds stays.

    Raises `BlockingIOError` where it is taken and ``wait`` is False.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if not wait:
        operation |= fcntl.LOCK_NB
    with file.open("a") as stream:
        fcntl.flock(stream, operation)
        yield


def is_locked(file: Path) -> bool:
    """Whether a process holds the lock of a file, in whatever way."""
    try:
        with hold_lock(file, wait=False):
            return False
    except BlockingIOError:
        return True


def lock_shared(out: Path) -> AbstractContextManager[None]:
    """Lock an out-folder to make steps: many may at a time, none beside `lock_exclusively`."""
    return hold_lock(out / _STATE_LOCK, shared=True)


@contextmanager
def lock_exclusively(
    out: Path, *, wait: bool = True, on_wait: Callable[[], object] = lambda: None
) -> Generator[None]:
    """Lock an out-folder to change or remove finished steps: no step is made meanwhile.

    Calls ``on_wait`` once where a run is under way; raises `BlockingIOError` instead where ``wait``
    is False.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(hold_lock(out / _STATE_LOCK, wait=False))
        except BlockingIOError:
            if not wait:
                raise
            on_wait()
            stack.enter_context(hold_lock(out / _STATE_LOCK))
        yield
