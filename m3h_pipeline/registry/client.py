"""MLflow's client of an out-folder, and what is said where MLflow does not answer."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from m3h_pipeline.errors import InputError
from m3h_pipeline.registry import tracking
from m3h_pipeline.state.mlflow_store import mlflow_uri
from m3h_pipeline.state.opening import open_out_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient


def open_client(out: Path) -> MlflowClient:
    """MLflow's client; a server that is down is noticed within seconds, not minutes."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    open_out_folder(out)
    from mlflow import MlflowClient

    uri = mlflow_uri(out)
    with raise_if_unreachable(uri):
        tracking.connect(uri, out / "mlflow" / "artifacts")
    return MlflowClient(uri)


@contextmanager
def raise_if_unreachable(uri: str) -> Generator[None]:
    """What fails within because MLflow does not answer becomes an `InputError` that says so."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise InputError(
            f"MLflow at {_hide_password(uri)} can't be reached or refuses ({type(error).__name__})"
        ) from error


def _hide_password(uri: str) -> str:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(uri).render_as_string(hide_password=True)
    except ArgumentError:
        return uri
