"""A hospital's own tables (csv.gz, csv or Parquet) read into DuckDB as text, each row with its
number in the file.

Reading never stops at a wrong row. A file that is not what a strict CSV reader takes (broken UTF-8,
a wrong number of fields, unbalanced quotes) is read through a repaired copy in which such rows are
marked, and no other row is lost.
"""

from __future__ import annotations

import codecs
import csv
import fcntl
import gzip
import hashlib
import io
import itertools
import os
import secrets
import select
import threading
import weakref
import zlib
from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import duckdb
from isal import isal_zlib

from m3h_pipeline.errors import InputError
from m3h_pipeline.files.encoding import refuse_another_encoding
from m3h_pipeline.files.regular import is_regular_file
from m3h_pipeline.sources.headers import (
    count_of,
    left_over,
    listed,
    looks_like_a_row,
    places,
    renamings,
    what_is_there,
)
from m3h_pipeline.state.database import identifier, literal

SUFFIXES = (".csv.gz", ".csv", ".parquet")
# A longer row is no row but a lost quote or a binary accident; the longest notes have some 60,000
# characters.
_LONGEST_ROW = 1_000_000
# A file without ends of lines is refused before anybody holds such a line in memory.
_ENDLESS_LINE = 100_000_000
# Tables pack to a tenth or a twentieth. What is made to exhaust a machine packs to a thousandth;
# below these bytes, read or not, it does no harm.
_MOST_PACKED = 250
_HARMLESS = 1_000_000_000
_MOST_BLANK = 1 << 26
_BLOCK = 1 << 16
_PIPE = 1 << 20
# HAIM's file has 4,900; one that has far more is no table of rows, and DuckDB takes minutes to say
# so.
_MOST_COLUMNS = 20_000
_UNDECODABLE = "\ufffd"
# The column that a repaired copy has more.
_MARK = "m3h_broken"


@dataclass(frozen=True)
class RawTable:
    """One file of a source: its place, its name below the source's root, and its columns in lower
    case.
    """

    file: Path
    name: str
    columns: tuple[str, ...]

    @property
    def is_parquet(self) -> bool:
        """Parquet, else CSV."""
        return self.file.suffix == ".parquet"


def find_file(root: Path, *names: str) -> Path | None:
    """The first of these tables that is there, as csv.gz, csv or Parquet."""
    candidates = (root / f"{name}{suffix}" for name in names for suffix in SUFFIXES)
    return next((file for file in candidates if is_regular_file(file)), None)


def open_table(
    root: Path,
    file: Path,
    needed: Iterable[str],
    other_names: Mapping[str, Sequence[str]] | None = None,
    others: Collection[str] | None = None,
) -> RawTable:
    """Look at a file's header and first row.

    ``other_names``: column -> what others call it. ``others``: the columns that it may have beside
    the needed ones, where any more are no part of it; a single one of these is then likely to be
    the one that is missing.

    Raises `InputError` where the file is unreadable, lacks a needed column or has no rows.
    """
    needed = list(needed)
    header, has_rows = _look(file)
    if len(header) > _MOST_COLUMNS:
        raise InputError(
            f"{file} has {len(header):,} columns, more than the {_MOST_COLUMNS:,} that a table may "
            "have: export it again, and give long vectors as embeddings"
        )
    # Pandas writes its index as a column without a name.
    names = (name.strip().lower() or f"column{i}" for i, name in enumerate(header))
    table = RawTable(file, file.relative_to(root).as_posix(), tuple(names))
    vocabulary = {*needed, *(others or ())}.union(*(other_names or {}).values())
    if missing := [name for name in needed if name not in table.columns]:
        if len(table.columns) == 1 and (mark := _other_separator(table.columns[0])):
            raise InputError(f"{file} is separated by {mark}: save it with commas")
        if looks_like_a_row(table.columns, needed):
            raise InputError(
                f"{file} lacks the column {listed(missing)}; its first line "
                f"({count_of(len(table.columns))}) looks like a row, not like a header: export the "
                "table again with its header"
            )
        raise InputError(
            f"{file} lacks the column {listed(missing)}; "
            f"{what_is_there(table.columns, vocabulary)}: "
            + (
                renamings(
                    missing, (name for name in table.columns if name not in needed), other_names
                )
                or left_over(missing, table.columns, needed, others)
                or "export the table again, with its header"
            )
        )
    if twins := sorted({name for name in table.columns if table.columns.count(name) > 1}):
        named = f" {', '.join(twins)}" if vocabulary.issuperset(twins) else ""
        raise InputError(
            f"{file} has a column{named} twice (its columns {places(table.columns, twins)} have "
            "the same name): export the table again"
        )
    if not has_rows:
        raise InputError(f"{file} has a header but no rows: export the table again")
    return table


def _other_separator(header: str) -> str | None:
    names = {";": "semicolons", "\t": "tabs", "|": "bars"}
    return next((name for mark, name in names.items() if mark in header), None)


class RawReader:
    """Loads raw tables into a DuckDB connection; ``checksums`` holds the SHA-256 of each file by
    its name.

    Several may be loaded at once, in threads: each has a cursor of its own. So the tables are no
    temporary ones, which other cursors don't see.

    A file is looked through besides. For one, DuckDB takes a gzip file that was cut off at a line's
    end for whole. For another, bytes that are no UTF-8, in a file of which only some columns are
    read, can break its connection for good (1.5): they never reach it.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, scratch: Path) -> None:
        self._connection = connection
        self._cursors: weakref.WeakSet[duckdb.DuckDBPyConnection] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.scratch = scratch
        self.checksums: dict[str, str] = {}

    def load(
        self,
        table: RawTable,
        name: str,
        columns: Sequence[str],
        where: str = "TRUE",
        derived: Mapping[str, str] | None = None,
        keep: bool = True,
    ) -> int:
        """Create the table ``name`` of the rows where the condition holds; return the number of
        rows in the file.

        Its columns are the given ones as text (not to ``keep`` them: only what is derived),
        ``derived`` ones (name -> SQL over the file's columns, which are text), ``source_row`` (from
        1) and ``broken`` (what is wrong with the row as a whole, else null). A row that can't be
        split into fields has only nulls and is kept whatever the condition. Raises `InputError`
        where the file is damaged.
        """
        selected = [identifier(column) for column in columns] if keep else []
        selected += [f'{sql} AS "{column}"' for column, sql in (derived or {}).items()]
        wanted = ", ".join(selected)
        rows = None
        damaged = False
        end = _end(len(table.columns))
        with _looked_through(table, end, self._ended) as (file, look):
            try:
                if table.is_parquet:
                    rows = self._load_parquet(table, name, wanted, where)
                else:
                    rows = self._load_csv(file, table.columns, end, name, wanted, where)
            except (duckdb.OutOfMemoryException, duckdb.InterruptException):
                raise
            except duckdb.Error as error:
                # DuckDB's messages quote the row, so they go no further.
                damaged = table.is_parquet or not isinstance(error, duckdb.InvalidInputException)
        self.checksums[table.name], is_text = look.result()
        if damaged and is_text:
            raise InputError(f"{table.file} can't be read: it is damaged; copy it again")
        if not is_text:
            # What was looked at when it was opened is its beginning.
            refuse_another_encoding(table.file, limit=None)
        if rows is None or not is_text:
            return self._load_repaired(table, name, columns, wanted, where)
        return rows

    def _load_parquet(self, table: RawTable, name: str, wanted: str, where: str) -> int:
        as_text = ", ".join(
            f"CAST({name} AS VARCHAR) AS {name}" for name in map(identifier, table.columns)
        )
        self._execute(
            f"""CREATE OR REPLACE TABLE {name} AS
            SELECT {wanted}, source_row, NULL::VARCHAR AS broken
            FROM (SELECT {as_text}, file_row_number + 1 AS source_row
                FROM read_parquet({literal(table.file)}, file_row_number = true))
            WHERE {where}"""
        )
        return self._one(f"SELECT num_rows FROM parquet_file_metadata({literal(table.file)})")

    def _load_repaired(
        self, table: RawTable, name: str, columns: Sequence[str], wanted: str, where: str
    ) -> int:
        copy = self.scratch / f"{name}.repaired.csv"
        end = _end(len(table.columns) + 1)
        with _text(table.file) as lines, copy.open("w", encoding="utf-8", newline="") as to:
            _repair(self._until_ended(lines), len(table.columns), to)
            to.write(f"{','.join(end)}\r\n")
        marks = [
            f"CASE WHEN contains({identifier(column)}, '{_UNDECODABLE}') THEN "
            f"{literal(f'{column}: not UTF-8')} END"
            for column in columns
        ]
        broken = f"nullif(concat_ws('; ', {_MARK}, {', '.join(marks)}), '')"
        rows = self._load_csv(copy, (*table.columns, _MARK), end, name, wanted, where, broken)
        assert rows is not None, "the repaired copy has no end"
        copy.unlink()
        return rows

    def _load_csv(
        self,
        file: Path | str,
        header: Sequence[str],
        end: Sequence[str],
        name: str,
        wanted: str,
        where: str,
        broken: str = "NULL::VARCHAR",
    ) -> int | None:
        schema = ", ".join(f"{literal(column)}: 'VARCHAR'" for column in header)
        # The row at the end takes the number of rows out of the same, only, pass over the file:
        # row_number keeps the file's order. What is derived is derived of the wanted rows alone.
        is_end = f"{identifier(header[0])} IS NOT DISTINCT FROM {literal(end[0])}"
        self._execute(
            f"""CREATE OR REPLACE TABLE {name} AS
            SELECT {wanted}, source_row, {broken} AS broken, {is_end} AS is_end FROM (
                SELECT *, row_number() OVER () AS source_row
                FROM read_csv({literal(file)}, columns = {{{schema}}}, auto_detect = false, header = true,
                    delim = ',', quote = '"', escape = '"', max_line_size = {_LONGEST_ROW}))
            WHERE ({where}) OR {broken} IS NOT NULL OR {is_end}"""
        )
        rows = self._one(f"SELECT coalesce(max(source_row), 0) - 1 FROM {name} WHERE is_end")
        if rows < 0:
            # An open quote swallowed it.
            return None
        assert self._one(f"SELECT count(*) FROM {name} WHERE source_row > {rows}") == 1, (
            "rows came out of order"
        )
        self._execute(f"DELETE FROM {name} WHERE is_end")
        self._execute(f"ALTER TABLE {name} DROP is_end")
        return rows

    def interrupt(self) -> None:
        """End what is being loaded, in whatever threads, with an error; nothing is loaded any
        more.
        """
        self._ended.set()
        with self._lock:
            for cursor in self._cursors:
                cursor.interrupt()

    def _until_ended(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            if self._ended.is_set():
                raise duckdb.InterruptException("interrupted")
            yield line

    def _execute(self, query: str) -> duckdb.DuckDBPyConnection:
        cursor = self._connection.cursor()
        with self._lock:
            self._cursors.add(cursor)
        if self._ended.is_set():
            raise duckdb.InterruptException("interrupted")
        return cursor.execute(query)

    def _one(self, query: str) -> int:
        row = self._execute(query).fetchone()
        assert row is not None
        return int(row[0])


def _look(file: Path) -> tuple[list[str], bool]:
    """Names of the columns, and whether there are rows."""
    try:
        if file.suffix == ".parquet":
            with duckdb.connect() as connection:
                found = connection.execute(
                    f"DESCRIBE SELECT * FROM read_parquet({literal(file)})"
                ).fetchall()
                count = connection.execute(
                    f"SELECT num_rows FROM parquet_file_metadata({literal(file)})"
                ).fetchall()
            return [str(row[0]) for row in found], count[0][0] > 0
        with _text(file) as lines:
            first = lines.readline(_LONGEST_ROW)
            has_rows = _has_rows(lines)
    except EOFError:
        raise InputError(f"{file} ends too early, it was cut off: copy it again") from None
    except (OSError, zlib.error, duckdb.Error) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it is damaged"
        raise InputError(f"{file} can't be read ({why}): copy it again") from None
    refuse_another_encoding(file)
    if "\0" in first:
        raise InputError(f"{file} is no text: save it as CSV UTF-8")
    if len(first) == _LONGEST_ROW:
        raise InputError(
            f"{file} has a first line of more than {_LONGEST_ROW:,} characters: that is no header; "
            "export the table again"
        )
    if not first.strip():
        raise InputError(f"{file} is empty: export the table again, with its header")
    csv.field_size_limit(_LONGEST_ROW)
    return next(csv.reader([first])), has_rows


def _has_rows(lines: TextIO) -> bool:
    """Whether anything follows, within what a table may have of empty lines."""
    pieces = iter(lambda: lines.read(_BLOCK), "")
    return any(piece.strip() for piece in itertools.islice(pieces, _MOST_BLANK // _BLOCK))


def _text(file: Path) -> TextIO:
    """Lines of a CSV file with their ends; bytes that are no UTF-8 become U+FFFD."""
    if file.stat().st_size == 0:
        return io.StringIO()
    binary = gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb")  # noqa: SIM115 closed by its wrapper
    return io.TextIOWrapper(binary, encoding="utf-8-sig", errors="replace", newline="\n")


def _end(width: int) -> list[str]:
    """A row that no file has, to be its last."""
    return [secrets.token_hex(16), *[""] * (width - 1)]


@contextmanager
def _looked_through(
    table: RawTable, end: Sequence[str], ended: threading.Event
) -> Generator[tuple[str, Future[tuple[str, bool]]]]:
    """What DuckDB is to read of a file, and what `_look_through` says of it, once it was read.

    A text is looked through on its way into the pipe that DuckDB reads: it is read, and unpacked,
    once. Where DuckDB stops early (it may keep its end of the pipe), the rest is looked through
    alone; once it ``ended``, not even that.
    """
    (out, into) = (None, None) if table.is_parquet else _pipe()
    unread = threading.Event()
    try:
        with ThreadPoolExecutor(1) as pool:
            look = pool.submit(_look_through, table.file, ended, into, unread, ",".join(end))
            try:
                yield str(table.file) if out is None else f"/dev/fd/{out}", look
            except BaseException:
                ended.set()
                raise
            finally:
                unread.set()
                if out is not None:
                    os.close(out)
    except BaseException:
        # Ctrl-C while the rest is looked through.
        ended.set()
        raise


def _pipe() -> tuple[int, int]:
    out, into = os.pipe()
    # Linux's 64 KiB would cost a change of threads each; elsewhere, or where that is forbidden,
    # they do.
    with suppress(AttributeError, OSError):
        fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, _PIPE)
    os.set_blocking(into, False)
    return out, into


def _send(into: int, text: bytes, unread: threading.Event) -> None:
    """Write a text into a pipe, as long as somebody reads."""
    rest = memoryview(text)
    with suppress(BrokenPipeError):
        while rest and not unread.is_set():
            try:
                rest = rest[os.write(into, rest) :]
            except BlockingIOError:
                select.select([], [into], [], 0.05)


def _look_through(
    file: Path, ended: threading.Event, into: int | None, unread: threading.Event, end: str
) -> tuple[str, bool]:
    """SHA-256 of the file as it lies, and whether its text is UTF-8; a damaged gzip file raises
    `InputError`.

    ``into``: the end of a pipe that is given the text, as far as it is UTF-8 and not ``unread``,
    and the line ``end``, and closed; none for what is no text. Once it has ``ended``, what it says
    is of no use.
    """
    digest = hashlib.sha256()
    decoder = codecs.getincrementaldecoder("utf-8")()
    is_text = True
    cut = b""
    newline = b""
    last = b""
    size = _Size(file, limited=into is not None)
    try:
        for block, content in _blocks(file):
            if ended.is_set():
                break
            size.add(len(block), content)
            digest.update(block)
            if into is None or not is_text:
                continue
            try:
                decoder.decode(content)
            except UnicodeDecodeError:
                is_text = False
                continue
            newline = newline or (b"\r\n" if content.partition(b"\n")[0].endswith(b"\r") else b"\n")
            last = content[-1:] or last
            # A character may be cut in two by the end of the block.
            text = cut + content
            cut = decoder.getstate()[0]
            _send(into, text[: len(text) - len(cut)], unread)
        if into is not None and is_text and not cut:
            _send(
                into, (b"" if last in (b"\n", b"\r") else newline) + end.encode() + newline, unread
            )
    except EOFError:
        raise InputError(f"{file} ends too early, it was cut off: copy it again") from None
    except isal_zlib.error:  # ty: ignore[invalid-exception-caught] its stub gives an instance
        raise InputError(f"{file} is damaged, its gzip check sum is wrong: copy it again") from None
    finally:
        if into is not None:
            os.close(into)
    return digest.hexdigest(), is_text and not cut


@dataclass
class _Size:
    """How much of a file was read, packed and unpacked, and how long its line is by now; not
    ``limited``: Parquet.
    """

    file: Path
    limited: bool
    packed: int = 0
    unpacked: int = 0
    line: int = 0

    def add(self, packed: int, content: bytes) -> None:
        """Count a block; raises `InputError` where the file is none that a hospital exports."""
        if not self.limited:
            return
        self.packed += packed
        self.unpacked += len(content)
        end = content.rfind(b"\n")
        self.line = self.line + len(content) if end < 0 else len(content) - end - 1
        if self.line > _ENDLESS_LINE:
            raise InputError(
                f"{self.file} has a line of more than {_ENDLESS_LINE // 1_000_000} MB: that is no "
                "row of a table; export the table again"
            )
        if self.unpacked > _HARMLESS and self.unpacked > _MOST_PACKED * self.packed:
            raise InputError(
                f"{self.file} unpacks to more than {_MOST_PACKED} times its size "
                f"({self.unpacked / 1e9:.1f} GB so far), as no table of records does: export the "
                "table again, or unpack it if it is right"
            )


def _blocks(file: Path) -> Iterator[tuple[bytes, bytes]]:
    """The file in blocks, each as it lies and as it reads; of a gzip file every member must be
    whole.
    """
    inflate = isal_zlib.decompressobj(wbits=31)
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            if file.suffix != ".gz":
                yield block, block
                continue
            content = []
            rest = block
            # Zeros may fill up what lies behind a member, and be part of one.
            while rest.strip(b"\0") if inflate.eof else rest:
                if inflate.eof:
                    # A gzip file may be several, one after the other.
                    inflate = isal_zlib.decompressobj(wbits=31)
                content.append(inflate.decompress(rest))
                rest = inflate.unused_data
            yield block, b"".join(content)
    if file.suffix == ".gz" and not inflate.eof:
        raise EOFError


def _repair(lines: Iterable[str], width: int, to: TextIO) -> None:
    """Copy a CSV text with one more column that says what is wrong with a row; such a row has no
    fields.

    >>> out = io.StringIO(newline="")
    >>> _repair(['a,b\\n', '1,2\\n', '3\\n', '4,"x\\n', '5,6\\n', '7,"two\\n', 'lines"\\n'], 2, out)
    >>> print(out.getvalue().replace("\\r", ""), end="")
    a,b,m3h_broken
    1,2,
    ,,"row: 1 fields, expected 2"
    ,,row: a quote or line end is out of place
    5,6,
    7,"two
    lines",
    """
    csv.field_size_limit(_LONGEST_ROW)
    writer = csv.writer(to)
    for number, (fields, broken) in enumerate(_records(lines, width)):
        row = [""] * width if broken else fields
        writer.writerow([*row, _MARK if number == 0 else broken])


def _records(lines: Iterable[str], width: int) -> Iterator[tuple[list[str], str]]:
    """Fields of each record and what is wrong with it.

    An open quote may go on in the next lines. Where that leads to no record of the right width, the
    first line alone is wrong, and reading goes on at the second.
    """
    source = iter(lines)
    ahead: deque[str] = deque()
    while (first := ahead.popleft() if ahead else next(source, None)) is not None:
        if not first.strip("\r\n"):
            # DuckDB, too, takes an empty line for none.
            continue
        more: list[str] = []
        quotes = first.count('"')
        size = len(first)
        while quotes % 2 and size < _LONGEST_ROW:
            line = ahead.popleft() if ahead else next(source, None)
            if line is None:
                break
            more.append(line)
            quotes = quotes + line.count('"')
            size = size + len(line)
        fields = _fields("".join([first, *more]))
        if more and (fields is None or len(fields) != width):
            ahead.extendleft(reversed(more))
            fields = _fields(first)
        if fields is not None and len(fields) == width:
            yield fields, ""
        elif len(first) >= _LONGEST_ROW:
            yield [], "row: too long"
        elif fields is None:
            yield [], "row: a quote or line end is out of place"
        else:
            yield [], f"row: {len(fields)} fields, expected {width}"


def _fields(record: str) -> list[str] | None:
    """The fields of one record, None where it is too long or its quotes are wrong."""
    if len(record) >= _LONGEST_ROW:
        return None
    try:
        rows = list(csv.reader(io.StringIO(record, newline=""), strict=True))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else None
