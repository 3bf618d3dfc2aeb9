"""What jobs on other machines need, and is checked first: a shared folder, an MLflow server."""

from __future__ import annotations

import urllib.error
import urllib.request
import uuid
from pathlib import Path
from urllib.parse import urlsplit

from m3h_pipeline.errors import InputError


def check_storage(storage: str, out: Path) -> None:
    """The shared folder must be there, hold the out-folder, and be writable."""
    from fsspec.core import url_to_fs
    from fsspec.implementations.local import LocalFileSystem

    if not storage:
        raise InputError(
            "m3h.toml: [launcher] storage is empty: name the shared folder that holds the "
            "out-folder"
        )
    try:
        files, root = url_to_fs(storage)
    except (ImportError, ValueError) as error:
        raise InputError(
            f"m3h.toml: [launcher] storage = {storage!r} can't be opened: {error}"
        ) from None
    if not isinstance(files, LocalFileSystem):
        raise InputError(
            f"m3h.toml: [launcher] storage = {storage!r}: jobs map files into memory and lock "
            "folders, which an object store can't do; name a folder, for instance where the store "
            "is mounted"
        )
    if not out.resolve().is_relative_to(Path(root).resolve()):
        raise InputError(
            f"{out.resolve()} is not within [launcher] storage = {storage!r}: other machines can't "
            "see it; choose an out-folder there with --out"
        )
    probe = out / f".probe-{uuid.uuid4().hex}"
    try:
        files.pipe_file(str(probe), b"m3h")
        files.rm_file(str(probe))
    except OSError as error:
        raise InputError(f"{out} can't be written ({error.strerror})") from None


def check_mlflow(uri: str) -> None:
    """A server that answers, with no password in its address: the address is written into files."""
    where = urlsplit(uri)
    if where.scheme not in ("http", "https"):
        raise InputError(
            "jobs on other machines need an MLflow server: set MLFLOW_TRACKING_URI to its http "
            f"address (now: {where.scheme or 'none'})"
        )
    if where.password:
        raise InputError(
            "MLFLOW_TRACKING_URI holds a password, which would be written into files: give it as "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=10):
            return
    except (urllib.error.URLError, OSError) as error:
        raise InputError(
            f"the MLflow server {uri} does not answer ({error}): is MLFLOW_TRACKING_URI right?"
        ) from None
