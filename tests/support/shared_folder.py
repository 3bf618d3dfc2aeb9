"""A folder that costs much to make, made once for all workers of pytest-xdist."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class SharedFolder:
    """A folder of this run of pytest, which tests read; those that change it take a copy.

    It is made in its place, not renamed: an out-folder's records name files by their whole paths.
    """

    def __init__(self, factory: pytest.TempPathFactory, name: str) -> None:
        base = factory.getbasetemp()
        # Each worker of pytest-xdist has a folder of its own in that of the whole run.
        root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
        root.mkdir(exist_ok=True)
        self.path = root / name
        self._lock = root / f"{name}.lock"
        self._made = root / f"{name}.made"
        self._failure = root / f"{name}.failure"

    def make(self, build: Callable[[Path], object]) -> SharedFolder:
        """Build it unless another worker has; what failed once fails for everybody."""
        with self.alone():
            if self._failure.exists():
                pytest.fail(self._failure.read_text())
            if not self._made.exists():
                try:
                    build(self.path)
                except BaseException as error:
                    self._failure.write_text(f"{self.path.name} could not be made: {error}")
                    raise
                self._made.touch()
        return self

    @contextmanager
    def alone(self) -> Iterator[Path]:
        """The folder, while no other worker copies or makes it."""
        with self._lock.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self.path

    def copy_to(self, to: Path) -> Path:
        """A copy of its own for a test that changes it: databases too, so no links."""
        with self.alone():
            return Path(shutil.copytree(self.path, to))
