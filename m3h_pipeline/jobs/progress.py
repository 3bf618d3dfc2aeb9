"""How far a job is, said at most once in some seconds."""

from __future__ import annotations

import time

from m3h_pipeline.jobs.job import Log


def limit_rate(seconds: float, log: Log) -> Log:
    """A log function that lets a line through at most once in so many seconds: progress, not a
    flood.
    """
    last = time.monotonic()

    def limited(line: str) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            log(line)

    return limited


class Progress:
    """Called with (done, total): how far it is, how much a second, and the time left as it went
    until now.

    Counts from the first call, so that what an earlier run had done does not flatter the rate.
    """

    def __init__(self, what: str, log: Log, seconds: float = 5) -> None:
        self.what = what
        self.log = limit_rate(seconds, log)
        self.began = time.monotonic()
        self.first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        """Say so, at most once in so many seconds."""
        if self.first is None:
            self.first = done
            self.began = time.monotonic()
            return
        rate = (done - self.first) / max(time.monotonic() - self.began, 1e-3)
        left = (
            f", {rate:.3g} a second, {format_duration((total - done) / rate)} left" if rate else ""
        )
        self.log(f"{self.what} {done} of {total}{left}")


def format_duration(seconds: float) -> str:
    """
    >>> format_duration(42.4), format_duration(4000)
    ('42 s', '67 min')
    """
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
