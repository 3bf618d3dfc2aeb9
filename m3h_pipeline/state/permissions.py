"""Who may read what lies in an out-folder: its owner alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

# What lies in an out-folder (docs/architecture.md).
_STATE = (
    "m3h.toml",
    "snapshots",
    "latest",
    "dagster",
    "mlflow",
    "cache",
    "demo-hospital",
    "scores.duckdb",
    "review.db",
    "forgotten.json",
    "ui.log",
)


def set_private_umask() -> None:
    """What this process and its children write from now on, only their user can read; the first
    call of every entry.
    """
    os.umask(0o077)


def restrict_to_owner(out: Path) -> None:
    """Make an out-folder its owner's alone, with what an earlier version left open in it.

    Below it, only what the pipeline itself writes is touched: ``--out .`` may name a folder with
    other things in it.
    """
    out.chmod(0o700)
    for name in _STATE:
        top = out / name
        if top.exists() and top.stat().st_mode & 0o077:
            for path in [top, *top.rglob("*")]:
                _close(path)


def copy_private(source: Path, to: Path) -> None:
    """Copy a file or a folder so that only its owner can read the copy, whatever the original's
    modes.
    """
    if source.is_dir():
        shutil.copytree(source, to, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copyfile(source, to)
    for path in [to, *to.rglob("*")]:
        _close(path)


def _close(path: Path) -> None:
    if not path.is_symlink():
        with suppress(OSError):  # another user's: not ours to change
            path.chmod(path.stat().st_mode & 0o700)


def copy_folder_closed(
    folder: Path, to: Path, *, ignored: Sequence[str] = (), copy_function: Any = shutil.copy2
) -> None:
    """Copy a folder with its modes; until they are set, nobody but the owner can look into it."""
    to.mkdir(mode=0o700)
    shutil.copytree(
        folder,
        to,
        ignore=shutil.ignore_patterns(*ignored),
        copy_function=copy_function,
        dirs_exist_ok=True,
    )


def create_private_file(file: Path) -> None:
    """Make an empty file that only its owner can read, before anything is written into it."""
    file.unlink(missing_ok=True)
    os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
