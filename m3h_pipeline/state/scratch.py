"""A private folder of an out-folder, for files that a command needs only while it runs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from m3h_pipeline.state.locks import hold_lock

_FOLDER = ".scratch"


@contextmanager
def open_private_folder(out: Path) -> Generator[Path]:
    """An empty folder that only its owner can read, gone afterwards."""
    clear_private_folders(out)
    with hold_lock(_lock(out), shared=True):
        parent = out / _FOLDER
        parent.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            yield Path(folder)


def clear_private_folders(out: Path) -> None:
    """Remove what killed processes left, unless another one is at work there."""
    if (out / _FOLDER).exists():
        with suppress(BlockingIOError), hold_lock(_lock(out), wait=False):
            shutil.rmtree(out / _FOLDER)


def _lock(out: Path) -> Path:
    return out / f"{_FOLDER}.lock"
