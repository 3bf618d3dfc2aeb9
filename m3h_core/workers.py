"""What a worker process of a pool owes its parent: not to outlive it."""

from __future__ import annotations

import os
import threading
import time
from functools import cache

_SECONDS = 1.0


@cache
def leave_with_parent() -> None:
    """End this process soon after its parent is gone, killed for instance; called again, it does nothing."""
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_SECONDS)
    os._exit(1)
