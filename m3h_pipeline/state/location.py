"""Where an out-folder lies: a moved or copied one takes its records along.

``<out>/location.json`` says which place the folder's records name. MLflow's store, the tables of
images and m3h.toml hold absolute paths below that place. At another place they would lead nowhere,
or, of a copy, into the original: scores would come from somebody else's artefacts. So whoever opens
the folder calls `update_location` first, which makes all of them name the place where the folder
lies now. What a server of MLflow keeps is the server's own, and nothing of it is changed.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

import polars as pl
import pyarrow.parquet as pq

from m3h_pipeline.errors import InputError
from m3h_pipeline.state.data_files import read_json, write_json
from m3h_pipeline.state.locks import hold_lock, lock_exclusively
from m3h_pipeline.state.mlflow_store import EXPERIMENT, mlflow_uri
from m3h_pipeline.state.pages import is_served
from m3h_pipeline.state.paths import CONFIG_FILE
from m3h_pipeline.state.permissions import create_private_file
from m3h_pipeline.state.steps import clear_leftovers, revise

FILE = "location.json"
BACKUP = "mlflow.db.before-move"
_LOCK = ".location.lock"
# How the columns of MLflow's tables are named that hold the address of artefacts.
_ADDRESSES = ("uri", "location", "source", "root")


def update_location(out: Path) -> None:
    """Make the records of an out-folder name the place where it lies; quick where they do.

    Can be killed at any moment and is then done again. Raises `InputError` where the folder can't
    be used at its new place, with what mends it.
    """
    here = out.resolve()
    if _is_here(out, here) or not (out / CONFIG_FILE).exists():
        return
    old = _recorded(out)
    # As long as the old name leads here too, what holds it is right.
    if old is None or _is_same(old, here):
        return
    where = f"{here} was moved or copied from {old}"
    if is_served(out):
        raise InputError(f"{where} while `m3h ui` serves it: end that first")
    try:
        # Two commands at once: the second finds it done.
        with hold_lock(out / _LOCK):
            if not _is_here(out, here):
                with lock_exclusively(out, wait=False):
                    _move(out, old, here)
                    write_json(out / FILE, {"path": str(here)})
    except BlockingIOError:
        raise InputError(f"{where} while a run is at work in it: wait for it to end") from None
    except OSError as error:
        raise InputError(f"{where}, and its records can't be changed ({error})") from error


def record_location(out: Path) -> None:
    """Say which place the records of an out-folder name, where nothing says so yet."""
    if not (out / FILE).exists():
        write_json(out / FILE, {"path": str(_recorded(out) or out.resolve())})


def _is_here(out: Path, here: Path) -> bool:
    try:
        return read_json(out / FILE)["path"] == str(here)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_same(old: Path, here: Path) -> bool:
    """Whether both names lead to one folder: through a link, or another mount."""
    try:
        return os.path.samefile(old, here)
    except OSError:
        return False


def _recorded(out: Path) -> Path | None:
    """Where the folder was; of one that is older than the record, MLflow's store says so."""
    if (out / FILE).exists():
        try:
            return Path(read_json(out / FILE)["path"])
        except (ValueError, KeyError, TypeError):
            pass
    database = out / "mlflow" / "mlflow.db"
    if not database.exists():
        return None
    query = "SELECT artifact_location FROM experiments WHERE name = ?"
    try:
        with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as store:
            row = store.execute(query, [EXPERIMENT]).fetchone()
    except sqlite3.Error:
        return None
    artifacts = _path_of(row[0]) if row else None
    is_ours = artifacts is not None and artifacts.parts[-2:] == ("mlflow", "artifacts")
    return artifacts.parent.parent if artifacts and is_ours else None


def _path_of(address: str) -> Path | None:
    parts = urlsplit(address)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _move(out: Path, old: Path, here: Path) -> None:
    uri = mlflow_uri(out)
    own = here / "mlflow" / "mlflow.db"
    is_own = uri == f"sqlite:///{own}"
    if not is_own and not uri.startswith("http"):
        raise InputError(_shared_database(old, here))
    for snapshot in sorted((out / "snapshots").glob("[!.]*")):
        _move_images(snapshot, old, here)
    _move_settings(out / CONFIG_FILE, old, here)
    note = f"note: {here} was at {old} before; its records name the new place now"
    if is_own and own.exists() and _move_store(own, _artifacts(old), _artifacts(here)):
        note += f" (MLflow's store as it was: {own.with_name(BACKUP)})"
    print(note, file=sys.stderr)


def _artifacts(place: Path) -> str:
    return (place / "mlflow" / "artifacts").as_uri()


def _shared_database(old: Path, here: Path) -> str:
    database = "MLFLOW_TRACKING_URI names a database that holds addresses below"
    if old.exists():
        return (
            f"{here} is a copy of {old}, and {database} the original: use the original with "
            f"--out {old}, or begin a new folder with a database of its own"
        )
    return (
        f"{here} was moved from {old}, and {database} the old place. Let the old name lead to the "
        f"new place: ln -s {here} {old}"
    )


def _move_store(database: Path, old: str, new: str) -> bool:
    """Rewrite the addresses of artefacts in MLflow's SQLite store, in one transaction, after a
    backup.

    Returns whether there were any: a second time, after a kill, the backup stays as it is.
    """
    backup = database.with_name(BACKUP)
    partial = backup.with_name(f".{BACKUP}.partial")
    partial.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(database, timeout=60)) as store:
            columns = [place for place in _address_columns(store) if _holds(store, *place, old)]
            if not columns:
                return False
            with closing(sqlite3.connect(partial)) as copy:
                store.backup(copy)
            shutil.copymode(database, partial)
            os.replace(partial, backup)
            with store:
                store.execute("BEGIN IMMEDIATE")
                for table, column in columns:
                    _replace_prefix(store, table, column, old, new)
            return True
    except sqlite3.Error as error:
        raise InputError(f"MLflow's store {database} can't be changed ({error})") from error


def _address_columns(store: sqlite3.Connection) -> list[tuple[str, str]]:
    tables = store.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return [
        (table, column)
        for (table,) in tables
        for _, column, *_ in store.execute(f'PRAGMA table_info("{table}")').fetchall()
        if column.endswith(_ADDRESSES)
    ]


def _holds(store: sqlite3.Connection, table: str, column: str, old: str) -> bool:
    query = f'SELECT EXISTS (SELECT 1 FROM "{table}" WHERE {_below(column)})'
    return bool(store.execute(query, _below_values(old)).fetchone()[0])


def _replace_prefix(store: sqlite3.Connection, table: str, column: str, old: str, new: str) -> None:
    query = f'UPDATE "{table}" SET "{column}" = ? || substr("{column}", ?) WHERE {_below(column)}'
    store.execute(query, [new, len(old) + 1, *_below_values(old)])


def _below(column: str) -> str:
    """The address itself and what lies below it; one that merely begins alike is another
    place's.
    """
    return f'"{column}" = ? OR substr("{column}", 1, ?) = ?'


def _below_values(old: str) -> list[str | int]:
    return [old, len(old) + 1, f"{old}/"]


def _move_images(snapshot: Path, old: Path, here: Path) -> None:
    """Images are read where they lie: those within the out-folder (the demo's) have moved with
    it.
    """
    # A folder that a kill caught between the two renames of a change.
    for caught in list(snapshot.rglob(".*.old")):
        clear_leftovers(caught.parent, caught.name[1 : -len(".old")])
    for folder in sorted(file.parent for file in snapshot.rglob("step.json")):
        is_hidden = any(part.startswith(".") for part in folder.relative_to(snapshot).parts)
        tables = [] if is_hidden else sorted(folder.glob("*.parquet"))
        files = [file.name for file in tables if _holds_paths(file, old, here)]
        if files:
            revise(folder, _rewriter(files, old, here))


def _holds_paths(file: Path, old: Path, here: Path) -> bool:
    if pl.read_parquet_schema(file).get("path") != pl.String:
        return False
    return pl.scan_parquet(file).select(_is_below(old, here).any()).collect().item()


def _is_below(old: Path, here: Path) -> pl.Expr:
    below = pl.col("path").str.starts_with(f"{old}/")
    # A second time, after a kill, of a folder that was moved into its own old place.
    if here.is_relative_to(old):
        below &= ~pl.col("path").str.starts_with(f"{here}/")
    return below.fill_null(False)


def _rewriter(files: list[str], old: Path, here: Path) -> Callable[[Path], None]:
    def rewrite(copy: Path) -> None:
        moved = pl.lit(str(here)) + pl.col("path").str.slice(len(str(old)))
        value = pl.when(_is_below(old, here)).then(moved).otherwise(pl.col("path"))
        for name in files:
            file = copy / name
            partial = file.with_name(f".{name}.partial")
            create_private_file(partial)
            # In groups as before: what reads the file relies on their size.
            group = max(pq.ParquetFile(file).metadata.row_group(0).num_rows, 1)
            table = pl.scan_parquet(file).with_columns(value.alias("path"))
            table.sink_parquet(
                partial, compression="zstd", row_group_size=group, engine="streaming"
            )
            shutil.copymode(file, partial)
            os.replace(partial, file)

    return rewrite


def _move_settings(file: Path, old: Path, here: Path) -> None:
    """In m3h.toml, each value that is a path below the old place."""
    text = file.read_text()
    done = ""
    if here.is_relative_to(old):
        done = f"(?!{re.escape(str(here.relative_to(old)))}/)"
    below = re.compile(f"([\"']){re.escape(str(old))}/{done}")
    moved = below.sub(lambda match: f"{match[1]}{here}/", text)
    if moved != text:
        partial = file.with_name(f".{file.name}.partial")
        partial.write_text(moved)
        partial.replace(file)
