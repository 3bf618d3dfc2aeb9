"""A file's bytes on their way to DuckDB: unpacked and hashed once, and refused where they are cut
off, damaged or made to exhaust a machine.
"""

from __future__ import annotations

import codecs
import fcntl
import hashlib
import os
import select
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from m3h_pipeline.errors import InputError
from m3h_pipeline.files.gzip_file import BLOCK_SIZE, open_unpacked
from m3h_pipeline.sources.raw_tables.table import RawTable

# A file without ends of lines is refused before anybody holds such a line in memory.
_LONGEST_LINE = 100_000_000
# Tables pack to a tenth or a twentieth. What is made to exhaust a machine packs to a thousandth;
# below these bytes, read or not, it does no harm.
_MAX_PACKING = 250
_HARMLESS_SIZE = 1_000_000_000
_PIPE_SIZE = 1 << 20


@contextmanager
def scan_while_loading(
    table: RawTable, end_row: Sequence[str], stopped: threading.Event
) -> Generator[tuple[str, Future[tuple[str, bool]]]]:
    """What DuckDB is to read of a file, and the result of `_scan_file`, once it was read.

    A text is scanned on its way into the pipe that DuckDB reads: it is read, and unpacked, once.
    Where DuckDB stops early (it may keep its end of the pipe), the rest is scanned alone; once it
    was ``stopped``, not even that.
    """
    (read_end, write_end) = (None, None) if table.is_parquet else _open_pipe()
    unread = threading.Event()
    try:
        with ThreadPoolExecutor(1) as pool:
            scan = pool.submit(
                _scan_file, table.file, stopped, write_end, unread, ",".join(end_row)
            )
            try:
                yield str(table.file) if read_end is None else f"/dev/fd/{read_end}", scan
            except BaseException:
                stopped.set()
                raise
            finally:
                unread.set()
                if read_end is not None:
                    os.close(read_end)
    except BaseException:
        # Ctrl-C while the rest is scanned.
        stopped.set()
        raise


def _open_pipe() -> tuple[int, int]:
    read_end, write_end = os.pipe()
    # Linux's 64 KiB would cost a change of threads each; elsewhere, or where that is forbidden,
    # they do.
    with suppress(AttributeError, OSError):
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    os.set_blocking(write_end, False)
    return read_end, write_end


def _write_to_pipe(write_end: int, text: bytes, unread: threading.Event) -> None:
    """Write a text into a pipe, as long as somebody reads."""
    rest = memoryview(text)
    with suppress(BrokenPipeError):
        while rest and not unread.is_set():
            try:
                rest = rest[os.write(write_end, rest) :]
            except BlockingIOError:
                select.select([], [write_end], [], 0.05)


def _scan_file(
    file: Path,
    stopped: threading.Event,
    write_end: int | None,
    unread: threading.Event,
    end_row: str,
) -> tuple[str, bool]:
    """SHA-256 of the file as it lies, and whether its text is UTF-8; a damaged gzip file raises
    `InputError`.

    ``write_end``: of a pipe that is given the text, as far as it is UTF-8 and not ``unread``, and
    the line ``end_row``, and closed; none for what is no text. Once it was ``stopped``, the result
    is of no use.
    """
    digest = hashlib.sha256()
    decoder = codecs.getincrementaldecoder("utf-8")()
    is_text = True
    cut = b""
    newline = b""
    last = b""
    limits = _Limits(file, is_limited=write_end is not None)

    def count(block: memoryview) -> None:
        limits.packed += len(block)
        digest.update(block)

    try:
        with open_unpacked(file, count) as stream:
            while not stopped.is_set() and (content := stream.read1(BLOCK_SIZE)):
                limits.add(content)
                if write_end is None or not is_text:
                    continue
                try:
                    decoder.decode(content)
                except UnicodeDecodeError:
                    is_text = False
                    continue
                newline = newline or _find_newline(content)
                last = content[-1:]
                # A character may be cut in two by the end of the block.
                text = cut + content
                cut = decoder.getstate()[0]
                _write_to_pipe(write_end, text[: len(text) - len(cut)], unread)
        if write_end is not None and is_text and not cut:
            line_end = b"" if last in (b"\n", b"\r") else newline
            _write_to_pipe(write_end, line_end + end_row.encode() + newline, unread)
    finally:
        if write_end is not None:
            os.close(write_end)
    return digest.hexdigest(), is_text and not cut


def _find_newline(content: bytes) -> bytes:
    """How the first line of a text ends."""
    return b"\r\n" if content.partition(b"\n")[0].endswith(b"\r") else b"\n"


@dataclass
class _Limits:
    """How much of a file was read, packed and unpacked, and how long its line is by now; not
    ``is_limited``: Parquet.
    """

    file: Path
    is_limited: bool
    packed: int = 0
    unpacked: int = 0
    line: int = 0

    def add(self, content: bytes) -> None:
        """Count what was unpacked; raises `InputError` where no hospital exports such a file."""
        if not self.is_limited:
            return
        self.unpacked += len(content)
        end = content.rfind(b"\n")
        self.line = self.line + len(content) if end < 0 else len(content) - end - 1
        if self.line > _LONGEST_LINE:
            raise InputError(
                f"{self.file} has a line of more than {_LONGEST_LINE // 1_000_000} MB: that is no "
                "row of a table; export the table again"
            )
        if self.unpacked > _HARMLESS_SIZE and self.unpacked > _MAX_PACKING * self.packed:
            raise InputError(
                f"{self.file} unpacks to more than {_MAX_PACKING} times its size "
                f"({self.unpacked / 1e9:.1f} GB so far), as no table of records does: export the "
                "table again, or unpack it if it is right"
            )
