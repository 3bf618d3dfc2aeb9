"""How a command ends that was interrupted or that the machine let down: one paragraph, and a state
to go on from.

What a step has finished is kept, and a step that was under way goes on in the next run
(m3h_pipeline/state/steps.py). So what is left to do is to say so: Ctrl-C and SIGTERM, a full
disk, and a database that others keep locked.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from m3h_pipeline.errors import InputError

# A job's exit codes, as sysexits.h has them, for where its last words can't be written.
DISK_FULL = 74
DATABASE_LOCKED = 75
PATIENCE_VARIABLE = "M3H_DATABASE_PATIENCE"
_PATIENCE_SECONDS = 120

_GOES_ON = "What was finished is kept, and the same command goes on from there"
_FULL = (
    f"the disk is full, or a quota is used up: {{what}}. Free space (`m3h snapshot list` shows old "
    "snapshots, [retention] in m3h.toml removes them), or put the out-folder on a larger disk. "
    f"{_GOES_ON}"
)
_LOCKED = (
    f"a database stayed locked by another program: {{what}}. Look for one that has mlflow.db or a "
    f"file under dagster/ open (a backup, a viewer of SQLite files, another m3h). {_GOES_ON}. The "
    f"wait is {PATIENCE_VARIABLE} seconds, {_PATIENCE_SECONDS} where that isn't set"
)
_PHRASES = {
    DISK_FULL: (
        "no space left on device",
        "database or disk is full",
        "disk quota exceeded",
        "file too large",
        "could not write all bytes",
    ),
    DATABASE_LOCKED: ("database is locked", "database table is locked"),
}
_PARAGRAPHS = {DISK_FULL: _FULL, DATABASE_LOCKED: _LOCKED}


class RunFailed(Exception):
    """A run ended without success; the message is the paragraph that says why."""


def find_exit_code(text: str) -> int | None:
    """`DISK_FULL` or `DATABASE_LOCKED` where a message tells of it, else None.

    >>> find_exit_code("OSError: [Errno 28] No space left on device: 'a'") == DISK_FULL
    True
    >>> find_exit_code("KeyError: 'a'")
    """
    lower = text.lower()
    for code, phrases in _PHRASES.items():
        if any(phrase in lower for phrase in phrases):
            return code
    return None


def explain(text: str) -> str | None:
    """The paragraph for a message of a full disk or a locked database; None for any other."""
    code = find_exit_code(text)
    if code is None:
        return None
    lines = [line.strip() for line in text.splitlines()]
    message = next(line for line in lines if find_exit_code(line) == code)
    return _PARAGRAPHS[code].format(what=message[:300])


def explain_exit(code: int) -> str | None:
    """The same for a job's exit code."""
    return _PARAGRAPHS[code].format(what="a job could not go on") if code in _PARAGRAPHS else None


def collect_messages(error: BaseException) -> str:
    """The messages of an error and of what it came from, a line each."""
    return "\n".join(list_messages(error))


def list_messages(error: Any, *, with_context: bool = True) -> list[str]:
    """The messages of an error and of what it came from, the innermost last.

    ``error``: an exception, or Dagster's record of one (`dagster.SerializableErrorInfo`; None where
    it has none). ``with_context``: where nothing is named as the cause, what was being handled.
    """
    lines = []
    while error is not None:
        if isinstance(error, BaseException):
            lines.append(f"{type(error).__name__}: {error}")
            cause = error.__cause__
            context = error.__context__
        else:
            lines.append(error.message.strip())
            cause = error.cause
            context = error.context
        error = cause or (context if with_context else None)
    return lines


def run_to_end(command: Callable[[], int]) -> int:
    """Run a command; returns its exit code, 128 + the signal's number where it was interrupted.

    Raises `InputError` for a full disk and for a database that stayed locked.
    """
    with _note_signals() as received:
        failed = ""
        try:
            code = command()
        except (InputError, SystemExit):
            raise
        except RunFailed as error:
            code = 1
            failed = str(error)
        except KeyboardInterrupt:
            code = 1
        except Exception as error:
            paragraph = explain(collect_messages(error))
            if paragraph is None and not received():
                raise
            code = 1
            failed = paragraph or ""
        number = received()
    if code and number:
        print(f"stopped by {_format_signal(number)}. {_GOES_ON}.", file=sys.stderr)
        return 128 + number
    if failed:
        print(f"error: {failed}", file=sys.stderr)
    return code


def _format_signal(number: int) -> str:
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


@contextmanager
def _note_signals() -> Generator[Callable[[], int | None]]:
    """Yields what says which of SIGINT and SIGTERM came first, if any; SIGTERM interrupts as Ctrl-C
    does.

    By way of the wake-up descriptor: Dagster replaces the handlers while a run is under way.
    """
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    received_numbers: list[int] = []

    def received() -> int | None:
        with suppress(BlockingIOError):
            received_numbers.extend(os.read(reader, 4096))
        return next(
            (number for number in received_numbers if number in (signal.SIGINT, signal.SIGTERM)),
            None,
        )

    earlier_writer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    earlier_handler = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, earlier_handler)
        signal.set_wakeup_fd(earlier_writer)
        os.close(reader)
        os.close(writer)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def wait_for_databases() -> None:
    """From now on each SQLite database that this process opens is waited for, for so long as the
    variable says.

    MLflow and Dagster wait 20 and 30 s of their own accord; a backup can take longer.
    """
    import sqlalchemy as sa
    from sqlalchemy import event

    if not event.contains(sa.Engine, "connect", _set_timeout):
        event.listen(sa.Engine, "connect", _set_timeout)
        event.listen(sa.Engine, "before_cursor_execute", _replace_timeout, retval=True)


def _get_timeout_ms() -> int:
    return int(1000 * float(os.environ.get(PATIENCE_VARIABLE, _PATIENCE_SECONDS)))


def _set_timeout(connection: Any, _: Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute(f"PRAGMA busy_timeout = {_get_timeout_ms()}")


def _replace_timeout(
    connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
) -> tuple[str, Any]:
    """MLflow sets its own time at the beginning of each session."""
    if statement.startswith("PRAGMA busy_timeout"):
        return f"PRAGMA busy_timeout = {_get_timeout_ms()}", parameters
    return statement, parameters
