"""An out-folder with three versions that wait for review."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from review_store import NAME

from m3h_pipeline import config
from m3h_pipeline.registry.audit import POSTGRES_VARIABLE
from m3h_pipeline.registry.client import open_client
from m3h_pipeline.registry.tags import STATUS


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """An MLflow database with three versions that wait, made once: its schema takes seconds."""
    out = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        # MLflow sets it where a test before has connected.
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        client = open_client(out)
    client.create_registered_model(NAME)
    for number in "123":
        source = tmp_path_factory.mktemp("model")
        (source / "MLmodel").write_text(f"version {number}")
        client.create_model_version(NAME, source=source.as_uri(), tags={STATUS: "pending"})
    return out / "mlflow" / "mlflow.db"


@pytest.fixture
def out(request, empty_store, tmp_path, monkeypatch) -> Path:
    """An out-folder whose audit table is in SQLite or, where `on_both_databases`, in PostgreSQL."""
    monkeypatch.delenv(POSTGRES_VARIABLE, raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if getattr(request, "param", "sqlite") == "postgres":
        monkeypatch.setenv(POSTGRES_VARIABLE, request.getfixturevalue("postgres")[0])
    (tmp_path / "mlflow").mkdir()
    shutil.copy(empty_store, tmp_path / "mlflow" / "mlflow.db")
    config.save(config.Config(), tmp_path)
    return tmp_path
