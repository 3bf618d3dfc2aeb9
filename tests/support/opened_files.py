"""Which files are opened below a folder, in order, by whatever process and library.

DuckDB, Polars and safetensors open files outside Python, and jobs are processes of their own, so an
audit hook of Python's would not see them. This is Linux's inotify, whose events of one reader come
in the order in which they happened.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

_OPEN = 0x20
_CLOSE = 0x08 | 0x10
_NEW = 0x100 | 0x80  # made here, or moved to here
_IS_FOLDER = 0x40000000
_HEADER = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class FileEvent(NamedTuple):
    """A file that was opened, or closed."""

    path: Path
    is_open: bool


class _Watcher:
    def __init__(self, root: Path, is_wanted: Callable[[Path], bool]) -> None:
        self.events: list[FileEvent] = []
        self._is_wanted = is_wanted
        self._folders: dict[int, Path] = {}
        self._notify = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._notify < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self._stopping, self._stop = os.pipe()
        self._watch(root)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        os.write(self._stop, b"x")
        self._thread.join()
        for descriptor in (self._notify, self._stopping, self._stop):
            os.close(descriptor)

    def _watch(self, folder: Path) -> None:
        """Watch a folder and those within; one that was renamed is known by its new name."""
        number = _libc.inotify_add_watch(self._notify, os.fsencode(folder), _OPEN | _CLOSE | _NEW)
        if number < 0:  # gone already
            return
        self._folders[number] = folder
        try:
            inside = [entry for entry in folder.iterdir() if entry.is_dir()]
        except FileNotFoundError:
            return
        for entry in filter(self._is_wanted, inside):
            self._watch(entry)

    def _run(self) -> None:
        stopping = False
        while not stopping:
            ready, _, _ = select.select([self._notify, self._stopping], [], [])
            # What happened before the stop is still read.
            stopping = self._stopping in ready
            self._read_all()

    def _read_all(self) -> None:
        while True:
            try:
                data = os.read(self._notify, 1 << 20)
            except BlockingIOError:
                return
            at = 0
            while at < len(data):
                number, mask, _, length = _HEADER.unpack_from(data, at)
                at += _HEADER.size
                name = data[at : at + length].rstrip(b"\0")
                at += length
                if name and number in self._folders:
                    self._handle(self._folders[number] / os.fsdecode(name), mask)

    def _handle(self, path: Path, mask: int) -> None:
        if not mask & _IS_FOLDER:
            if mask & (_OPEN | _CLOSE):
                self.events.append(FileEvent(path, bool(mask & _OPEN)))
        elif mask & _NEW and self._is_wanted(path):
            self._watch(path)


@contextmanager
def watch_files(
    root: Path, is_wanted: Callable[[Path], bool] = lambda folder: True
) -> Generator[list[FileEvent]]:
    """The files opened and closed in ``root`` and in the wanted folders below, also new ones."""
    watcher = _Watcher(root, is_wanted)
    try:
        yield watcher.events
    finally:
        watcher.stop()
