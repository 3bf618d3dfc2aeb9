"""How the embedding benchmark measures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of one run, all threads together."""
    started = time.process_time()
    work()
    return time.process_time() - started


def medians(works: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of works that take turns."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            taken[name].append(cpu_seconds(work))
    return {name: statistics.median(values) for name, values in taken.items()}


def against(value: float, limit: float, at_most: bool = False) -> str:
    """A ratio beside its limit; one that misses it is marked."""
    missed = value > limit if at_most else value < limit
    return (
        f"{value:.2f} (limit {'at most ' if at_most else ''}{limit:g}){' MISSED' if missed else ''}"
    )
