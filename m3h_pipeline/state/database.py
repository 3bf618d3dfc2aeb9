"""DuckDB to work in: in memory up to a limit, beyond it in a spill folder; results go to
Parquet.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from m3h_pipeline.errors import InputError


@contextmanager
def open_database(spill: Path, memory_limit: str = "4GB") -> Generator[duckdb.DuckDBPyConnection]:
    """An empty database whose spill folder is removed afterwards.

    Raises `InputError` where the memory limit is unreadable or too low for the work, or the folder
    can't be made.
    """
    shutil.rmtree(spill, ignore_errors=True)
    try:
        spill.mkdir(parents=True)
    except OSError as error:
        raise InputError(
            f"the spill folder {spill} can't be made ({error.strerror}): choose another"
        ) from None
    try:
        connection = duckdb.connect(
            config={
                "memory_limit": memory_limit,
                "temp_directory": str(spill),
                # Nothing is fetched from the network.
                "autoinstall_known_extensions": "false",
            }
        )
        connection.execute("SET GLOBAL TimeZone = 'UTC'")
    except (duckdb.ParserException, duckdb.InvalidInputException):
        shutil.rmtree(spill, ignore_errors=True)
        raise InputError(f"memory_limit {memory_limit!r} is not a size; write it as 4GB") from None
    try:
        yield connection
    except duckdb.OutOfMemoryException:
        raise InputError(
            f"the work does not fit into memory_limit = {memory_limit} and the free disk space: "
            "raise either"
        ) from None
    finally:
        connection.close()
        shutil.rmtree(spill, ignore_errors=True)


@contextmanager
def use_one_thread(connection: duckdb.DuckDBPyConnection) -> Generator[None]:
    """Each query on the thread that asks for it: where its work can't be shared, one that helps
    takes the work, and the one that asks waits busily.
    """
    row = connection.execute("SELECT current_setting('threads')").fetchone()
    connection.execute("SET threads = 1")
    try:
        yield
    finally:
        connection.execute(f"SET threads = {row[0] if row else 1}")


def spill_folder(to: Path, spill: Path | None = None) -> Path:
    """Where the work on the folder ``to`` spills: within it, or in a folder of its own below
    ``spill``.

    Its name follows from ``to`` alone, so that what a killed run left there is removed by the next.
    """
    if spill is None:
        return to / ".spill"
    return spill / f"m3h-spill-{hashlib.sha256(str(to.absolute()).encode()).hexdigest()[:16]}"


def write_parquet(
    connection: duckdb.DuckDBPyConnection, query: str, file: Path, group: int = 122_880
) -> int:
    """Write a query's rows in its order; return how many. ``group``: rows that are read back at a
    time, at most.
    """
    options = f"FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {group}"
    count = connection.execute(f"COPY ({query}) TO {quote_literal(file)} ({options})").fetchone()
    return int(count[0]) if count else 0


def quote_literal(value: object) -> str:
    """A text as an SQL literal.

    >>> quote_literal("o'clock"), quote_literal(None)
    ("'o''clock'", 'NULL')
    """
    if value is None:
        return "NULL"
    return "'" + str(value).replace("'", "''") + "'"


def quote_identifier(name: str) -> str:
    """A name as SQL takes it.

    >>> print(quote_identifier('the "best" of'))
    "the ""best"" of"
    """
    return '"' + name.replace('"', '""') + '"'
