"""Set up an out-folder, and this process's environment for it."""

from __future__ import annotations

import os
from pathlib import Path

from m3h_pipeline import config as configuration
from m3h_pipeline.errors import InputError
from m3h_pipeline.errors.endings import wait_for_databases
from m3h_pipeline.jobs.encoders import check_encoders
from m3h_pipeline.registry.audit import POSTGRES_VARIABLE, find_postgres_url
from m3h_pipeline.sources.base import Source
from m3h_pipeline.sources.snapshot_label import check_label
from m3h_pipeline.state.location import record_location
from m3h_pipeline.state.opening import open_out_folder
from m3h_pipeline.state.paths import CONFIG_FILE, dagster_template
from m3h_pipeline.state.permissions import restrict_to_owner
from m3h_pipeline.state.scratch import clear_private_folders
from m3h_pipeline.state.snapshots import snapshot_labels

_POSTGRES = f"""
# Set when this folder was made: Dagster's records, and the audit table beside them, are in \
PostgreSQL.
storage:
  postgres:
    postgres_url:
      env: {POSTGRES_VARIABLE}
"""


def write_settings(out: Path, source: str | None, path: Path | None, size: str | None) -> Path:
    """``m3h init``: write m3h.toml and nothing else; returns its path."""
    file = out / CONFIG_FILE
    if file.exists():
        raise InputError(f"{file} is there already: edit it, or choose another folder with --out")
    config = configuration.create(source, path, size)
    if config.source.path and not Path(config.source.path).is_dir():
        raise InputError(
            f"{config.source.path} is not a folder: name the one that holds the data with --path"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        configuration.save(config, out)
    except OSError as error:
        raise _not_writable(out, error) from None
    return file


def prepare_run(
    out: Path,
    source: str | None = None,
    path: Path | None = None,
    size: str | None = None,
    snapshot: str | None = None,
) -> configuration.Config:
    """Check the choices before anything is written, then set up the out-folder for a run that makes
    the snapshot that m3h.toml names.
    """
    config, opened = _open_config(out, source, path, size, snapshot)
    check_label(out, config.source.snapshot, opened)
    if config.launcher.kind == "local":
        check_encoders(config.embedding)
    _check_source(out, config, opened)
    _set_up(out, config)
    return config


def prepare_folder(
    out: Path, source: str | None = None, path: Path | None = None, size: str | None = None
) -> configuration.Config:
    """Check the choices before anything is written, then set up the out-folder to serve it or to
    score in it.

    Its snapshot has no date yet where there was none: it is that of the first run.
    """
    config, opened = _open_config(out, source, path, size, None)
    _check_source(out, config, opened)
    _set_up(out, configuration.keep_snapshot(config, out))
    return config


def _open_config(
    out: Path, source: str | None, path: Path | None, size: str | None, snapshot: str | None
) -> tuple[configuration.Config, Source]:
    open_out_folder(out)
    config = configuration.configure_run(out, source, path, size, snapshot)
    opened = configuration.open_configured_source(config, out)
    configuration.build_settings(config, opened)
    return config, opened


def _check_source(out: Path, config: configuration.Config, opened: Source) -> None:
    # Where it was read before, its listing says whether it must be read again.
    if config.source.snapshot not in snapshot_labels(out):
        opened.check()


def _set_up(out: Path, config: configuration.Config) -> None:
    home = out / "dagster"
    try:
        home.mkdir(parents=True, exist_ok=True)
        restrict_to_owner(out)
        clear_private_folders(out)
        configuration.save(config, out)
        record_location(out)
        _configure_dagster(home / "dagster.yaml")
    except OSError as error:
        raise _not_writable(out, error) from None
    wait_for_databases()
    os.environ["DAGSTER_HOME"] = str(home)
    os.environ["M3H_OUT"] = str(out)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


def _configure_dagster(file: Path) -> None:
    """Write Dagster's own configuration where there is none; its records lie beside it, or in
    PostgreSQL.

    Where they lie is decided once: with the variable today and without it tomorrow there would be
    two histories.
    """
    address = find_postgres_url(file.parent.parent)
    storage = _POSTGRES if address else ""
    if address and address == os.environ.get("MLFLOW_TRACKING_URI"):
        # Both keep the state of their schema in a table of the same name.
        raise InputError(
            f"{POSTGRES_VARIABLE} and MLFLOW_TRACKING_URI must name a database each, not the same "
            "one"
        )
    if not file.exists():
        partial = file.with_name(".dagster.yaml.partial")
        partial.write_text(dagster_template().read_text() + storage)
        partial.replace(file)
    elif storage and "\nstorage:" not in file.read_text():
        raise InputError(
            f"{POSTGRES_VARIABLE} is set, but {file.parent.parent} keeps Dagster's records in "
            f"SQLite: choose a new folder with --out, or add to {file}:{_POSTGRES}and begin a new "
            "history there"
        )


def _not_writable(out: Path, error: OSError) -> InputError:
    return InputError(
        f"{out} can't be written ({error.strerror}): choose another folder with --out"
    )
