"""Files that may be packed with gzip: they are unpacked here, and nowhere else."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from gzip import BadGzipFile
from pathlib import Path
from typing import Any

from isal import igzip, isal_zlib

from m3h_pipeline.errors import InputError

# Bytes that are unpacked at a time.
BLOCK_SIZE = 1 << 16


@contextmanager
def open_unpacked(
    file: Path, on_packed: Callable[[memoryview], object] | None = None
) -> Generator[io.BufferedReader[Any] | igzip.IGzipFile]:
    """The bytes of a file, of a ``.gz`` the unpacked ones; an `InputError` where reading them shows
    that it was cut off or is damaged.

    ``on_packed`` is called with the bytes as they lie in the file, a block at a time.
    """
    with ExitStack() as opened:
        packed = opened.enter_context(io.BufferedReader(_WatchedFile(file, on_packed)))
        if file.suffix != ".gz":
            yield packed
            return
        try:
            yield opened.enter_context(igzip.IGzipFile(mode="rb", fileobj=packed))
        except EOFError:
            raise InputError(f"{file} ends too early, it was cut off: copy it again") from None
        # isal's stub calls its error an instance.
        except (BadGzipFile, isal_zlib.error):  # ty: ignore[invalid-exception-caught]
            raise InputError(f"{file} is damaged, it can't be unpacked: copy it again") from None


class _WatchedFile(io.FileIO):
    def __init__(self, file: Path, on_read: Callable[[memoryview], object] | None) -> None:
        super().__init__(file)
        self._on_read = on_read

    def readinto(self, buffer: Any) -> int:
        size = super().readinto(buffer)
        if self._on_read:
            self._on_read(memoryview(buffer)[:size])
        return size
