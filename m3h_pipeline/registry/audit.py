"""The audit table: who decided what about which version, when, why, and what came of it.

An SQL table beside Dagster's own records: in PostgreSQL where ``DAGSTER_POSTGRES_URL`` names one,
else in ``<out>/review.db``. A line is written before anything is done about it and never changed
afterwards but for its outcome, so that what was interrupted is found again. Whoever writes does so
alone (`Audit.begin`), across processes and machines.
"""

from __future__ import annotations

import datetime as dt
import os
import pwd
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from m3h_pipeline.errors import InputError

POSTGRES_VARIABLE = "DAGSTER_POSTGRES_URL"
# Decisions are APPROVED and REJECTED (m3h_pipeline/registry/tags.py), and these two.
# The decision of a line that nobody made through m3h: an alias was found moved.
FOUND = "found"
# The decision of a line by which a person moved the anchor: of nothing else about that version.
ANCHORED = "made anchor"
_LOCK_TIMEOUT_SECONDS = 60
_TABLE = sa.Table(
    "m3h_review",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.String(32), nullable=False),
    sa.Column("version", sa.String(32), nullable=False),
    sa.Column("decision", sa.String(32), nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("settled_at", sa.String(32)),
    sa.Column("outcome", sa.Text),
    sa.Column("champion", sa.String(32)),
    sa.Column("digest", sa.String(64)),
    sa.Column("system_user", sa.Text),
    sa.Column("settled_order", sa.Integer),
)
# Columns that tables of earlier versions lack: added where they are missing.
_ADDED_COLUMNS = ("digest", "system_user", "settled_order")


@dataclass(frozen=True)
class AuditLine:
    """One decision. ``outcome`` and ``champion`` (the version that is it afterwards, "" for none)
    are what is planned until ``settled_at`` says when it was done; None as long as nothing was
    planned. ``digest``: of the version's files when it was approved; ``system_user``: as whom the
    command ran, whatever name was given. ``settled_order``: 1 for the line that was settled first,
    and so on, since a clock may be set back. These three are None in lines of earlier versions.
    """

    id: int
    at: str
    version: str
    decision: str
    who: str
    why: str
    settled_at: str | None
    outcome: str | None
    champion: str | None
    digest: str | None = None
    system_user: str | None = None
    settled_order: int | None = None


class Transaction:
    """The table within one transaction."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def read_lines(self) -> list[AuditLine]:
        """All lines, the earliest first."""
        return [
            AuditLine(*row)
            for row in self._connection.execute(sa.select(_TABLE).order_by(_TABLE.c.id))
        ]

    def read_last_decision(self, version: str) -> AuditLine | None:
        """The last approval or rejection of a version."""
        for line in reversed(self.read_lines()):
            if line.version == version and line.decision not in (FOUND, ANCHORED):
                return line
        return None

    def read_last_champion(self) -> str | None:
        """Who was champion after the line that was settled last."""
        settled = [
            # Lines of earlier versions have no order, and come before those that have.
            (line.settled_order or 0, line.settled_at, line.id, line.champion)
            for line in self.read_lines()
            if line.settled_at
        ]
        if not settled:
            return None
        *_, champion = max(settled)
        return champion or None

    def read_line(self, number: int) -> AuditLine:
        """One line as it is now."""
        return AuditLine(
            *self._connection.execute(sa.select(_TABLE).where(_TABLE.c.id == number)).one()
        )

    def insert(
        self,
        version: str,
        decision: str,
        who: str,
        why: str,
        *,
        digest: str | None = None,
        system_user: str | None = None,
    ) -> int:
        """A new line, not settled yet; returns its id. Control characters are taken out of names
        and reasons.
        """
        row = {
            "at": _format_now(),
            "version": version,
            "decision": decision,
            "who": to_printable(who),
            "why": to_printable(why),
            "digest": digest,
            "system_user": system_user,
        }
        return self._connection.execute(
            sa.insert(_TABLE).values(row).returning(_TABLE.c.id)
        ).scalar_one()

    def write_plan(self, line: int, outcome: str, champion: str | None) -> None:
        """Say what is about to be done, so that it can be told from somebody else's doing if it is
        interrupted.
        """
        self._update(line, {"outcome": outcome, "champion": champion or ""})

    def mark_settled(self, line: int) -> None:
        """Say that what was planned is done."""
        last = self._connection.execute(sa.select(sa.func.max(_TABLE.c.settled_order))).scalar()
        self._update(line, {"settled_at": _format_now(), "settled_order": (last or 0) + 1})

    def _update(self, line: int, values: dict[str, Any]) -> None:
        self._connection.execute(sa.update(_TABLE).where(_TABLE.c.id == line).values(values))


class Audit:
    """The table of an out-folder, made where there is none yet."""

    def __init__(self, out: Path) -> None:
        self.out = out
        out.mkdir(parents=True, exist_ok=True)
        url = find_postgres_url(out) or f"sqlite:///{(out / 'review.db').resolve()}"
        self._is_file = url.startswith("sqlite")
        try:
            # Each use opens its own connection and closes it: a sensor ticks for months.
            self._engine = sa.create_engine(
                url,
                poolclass=sa.NullPool,
                connect_args={"timeout": _LOCK_TIMEOUT_SECONDS} if self._is_file else {},
            )
            if self._is_file:
                event.listen(self._engine, "connect", _disable_implicit_transactions)
            if not sa.inspect(self._engine).has_table(_TABLE.name):
                self._create_table()
            self._add_missing_columns()
        except (SQLAlchemyError, ModuleNotFoundError) as error:
            advice = (
                f"the folder {out} must be writable"
                if self._is_file
                else f"see {POSTGRES_VARIABLE}; it needs m3h[postgres]"
            )
            raise InputError(f"no audit table ({_get_first_line(error)}): {advice}") from None

    def read_lines(self) -> list[AuditLine]:
        """All lines, the earliest first, without waiting for a writer."""
        with self._engine.connect() as connection:
            return Transaction(connection).read_lines()

    @contextmanager
    def begin(self) -> Generator[Transaction]:
        """One transaction; nobody else writes meanwhile. What raises leaves the table as it was."""
        with self._engine.connect() as connection:
            if self._is_file:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.exec_driver_sql(f"LOCK TABLE {_TABLE.name} IN EXCLUSIVE MODE")
            try:
                yield Transaction(connection)
            except BaseException:
                self._finish(connection, "ROLLBACK")
                raise
            self._finish(connection, "COMMIT")

    def _finish(self, connection: sa.Connection, how: str) -> None:
        if self._is_file:
            connection.exec_driver_sql(how)
        elif how == "COMMIT":
            connection.commit()
        else:
            connection.rollback()

    def _create_table(self) -> None:
        try:
            with self._engine.begin() as connection:
                connection.execute(sa.schema.CreateTable(_TABLE, if_not_exists=True))
        except SQLAlchemyError:  # another process made it at the same moment
            if not sa.inspect(self._engine).has_table(_TABLE.name):
                raise

    def _add_missing_columns(self) -> None:
        """Bring a table of an earlier version to today's columns; its lines keep their values."""
        for name in self._list_missing_columns():
            kind = _TABLE.c[name].type.compile(self._engine.dialect)
            try:
                with self._engine.begin() as connection:
                    connection.exec_driver_sql(
                        f"ALTER TABLE {_TABLE.name} ADD COLUMN {name} {kind}"
                    )
            except SQLAlchemyError:  # another process added it at the same moment
                if name in self._list_missing_columns():
                    raise

    def _list_missing_columns(self) -> list[str]:
        present = {column["name"] for column in sa.inspect(self._engine).get_columns(_TABLE.name)}
        return [name for name in _ADDED_COLUMNS if name not in present]


def to_printable(text: str) -> str:
    r"""A text on one line, without characters that steer a terminal or hide others.

    >>> to_printable("Ada\x1b[2K\n approved \u202eby  Ben")
    'Ada[2K approved by Ben'
    """
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())


def get_system_user() -> str:
    """As whom this process runs, by the system's own account: no variable changes it."""
    user_id = os.getuid()
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:  # a container's number without a name
        return str(user_id)


def find_postgres_url(out: Path) -> str | None:
    """Where Dagster's records and this table lie, None for the out-folder itself.

    Raises `InputError` where the folder was made for PostgreSQL and the variable is not set.
    """
    url = os.environ.get(POSTGRES_VARIABLE)
    file = out / "dagster" / "dagster.yaml"
    if not url and file.exists() and POSTGRES_VARIABLE in file.read_text():
        raise InputError(f"{file} keeps Dagster's records in PostgreSQL: set {POSTGRES_VARIABLE}")
    return url or None


def _disable_implicit_transactions(connection: Any, _: Any) -> None:
    """Python's SQLite opens a transaction at the first write only: two could read before either
    writes.
    """
    connection.isolation_level = None


def _format_now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="microseconds")


def _get_first_line(error: BaseException) -> str:
    return str(error).splitlines()[0]
