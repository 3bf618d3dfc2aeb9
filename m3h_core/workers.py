"""What a worker process of a pool owes its parent: not to outlive it."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

_SECONDS = 1.0


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
