"""Where words stand in an out-folder, and who can read what lies there."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import polars as pl


def list_files(out: Path) -> Iterator[Path]:
    """All files but locks and the demo's source."""
    return (
        file
        for file in sorted(out.rglob("*"))
        if file.is_file()
        and not file.name.endswith(".lock")
        and "demo-hospital" not in file.relative_to(out).parts
    )


def files_with(out: Path, words: list[str]) -> list[Path]:
    """Files in which one of the words stands, Parquet decoded."""
    matches = []
    for file in list_files(out):
        text = file.read_bytes()
        if file.suffix == ".parquet":
            text += pl.read_parquet(file).write_json().encode()
        if any(word.encode() in text for word in words):
            matches.append(file.relative_to(out))
    return matches


def paths_open_to_others(out: Path) -> list[str]:
    """What in an out-folder others than its owner can read, write or enter."""
    return [str(path) for path in (out, *out.rglob("*")) if _is_open_to_others(path)]


def _is_open_to_others(path: Path) -> bool:
    try:
        status = path.lstat()
    except FileNotFoundError:  # what servers write for a moment: SQLite's -wal
        return False
    return not stat.S_ISLNK(status.st_mode) and bool(status.st_mode & 0o077)
