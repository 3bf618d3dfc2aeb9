"""Where encoders run: the device, its number format, and work done ahead of it in threads."""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def compute_device() -> Any:
    """The torch device that encoders run on: the first GPU where there is one, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def on_gpu() -> bool:
    """Whether encoders run on a GPU."""
    return compute_device().type == "cuda"


def precision() -> str:
    """The number format of an encoder's matrix products: bfloat16 on a GPU or a processor that
    multiplies in it, else float32.

    It is part of what vectors are cached by: those of one format do not mix with those of the
    other.
    """
    import torch

    if on_gpu():
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    instructions = torch.cpu.get_capabilities()
    # Where they are missing, PyTorch emulates bfloat16, which is slower than float32.
    native = instructions.get("avx512_bf16") or instructions.get("amx_bf16")
    return "bfloat16" if native else "float32"


def autocast(on_cpu: bool = True) -> Any:
    """A context in which a network computes in :func:`precision`; without ``on_cpu`` on a GPU
    alone.
    """
    import torch

    enabled = precision() == "bfloat16" and (on_cpu or on_gpu())
    return torch.autocast(compute_device().type, dtype=torch.bfloat16, enabled=enabled)


def to_device(tensor: Any) -> Any:
    """A CPU tensor on the device; to a GPU from pinned memory, without waiting for it."""
    return tensor.pin_memory().to(compute_device(), non_blocking=True) if on_gpu() else tensor


def count_cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def release_memory() -> None:
    """Between blocks of work: hand freed memory back to the system.

    Batches of ever other sizes leave the heap in pieces that glibc keeps: without this a long job
    grows by some 25 KB a note. Elsewhere than on glibc it does nothing.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def map_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], workers: int, window: int
) -> Iterator[Result]:
    """``work`` of each item, in order, done in threads while the caller is busy; at most ``window``
    items ahead.

    Threads, not processes: image decoders and tokenizers leave Python's lock, so that threads use
    all cores, share the encoder's memory and end with the process.

    >>> list(map_ahead(lambda x: x * x, range(5), workers=2, window=2))
    [0, 1, 4, 9, 16]
    """
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > window:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
