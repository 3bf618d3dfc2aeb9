"""Work side by side: a process that does not outlive its parent, threads that don't wait for
torch's own.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

_SECONDS = 1.0


@contextmanager
def single_torch_thread() -> Generator[None]:
    """Within, torch computes with one thread for each of ours: in products of the size of these
    networks its own threads wait for one another most of the time.
    """
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def bound_to_this_process() -> dict[str, Any]:
    """Settings of a ``joblib.Parallel`` whose processes end soon after this one is gone, killed for
    instance.

    >>> sorted(bound_to_this_process())
    ['initargs', 'initializer']
    """
    return {"initializer": _leave_with, "initargs": (os.getpid(),)}


def _leave_with(parent: int) -> None:
    # By its number: a worker that is still starting while its parent dies has somebody else for a
    # parent already.
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_SECONDS)
    os._exit(1)
