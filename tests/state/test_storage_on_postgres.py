"""Dagster's and MLflow's records on PostgreSQL: one variable each, dumped and restored as
docs/operations.md says.
"""

from __future__ import annotations

import shutil
import subprocess

import dagster as dg
import pytest
import sqlalchemy as sa

from m3h_pipeline.cli.out_folder import prepare_folder
from m3h_pipeline.errors import InputError
from m3h_pipeline.registry import tracking
from m3h_pipeline.registry.audit import POSTGRES_VARIABLE, Audit
from m3h_pipeline.registry.client import open_client
from m3h_pipeline.registry.promotion import apply_decisions
from m3h_pipeline.registry.review import decide
from m3h_pipeline.registry.tags import APPROVED, STATUS
from m3h_pipeline.registry.versions import RegistryState
from m3h_pipeline.state.mlflow_store import mlflow_uri


def test_where_the_records_lie_is_decided_once(tmp_path, monkeypatch):
    for variable in ("DAGSTER_HOME", "M3H_OUT", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(variable, "")
    monkeypatch.setenv(POSTGRES_VARIABLE, "postgresql://somebody:secret@db/m3h")
    prepare_folder(tmp_path / "large", "demo", None, "tiny")
    file = tmp_path / "large" / "dagster" / "dagster.yaml"
    assert "env: DAGSTER_POSTGRES_URL" in file.read_text()
    assert "secret" not in file.read_text()
    monkeypatch.delenv(POSTGRES_VARIABLE)
    with pytest.raises(
        InputError, match="keeps Dagster's records in PostgreSQL: set DAGSTER_POSTGRES_URL"
    ):
        prepare_folder(tmp_path / "large")
    with pytest.raises(InputError, match="set DAGSTER_POSTGRES_URL"):
        Audit(tmp_path / "large")
    prepare_folder(tmp_path / "small", "demo", None, "tiny")
    monkeypatch.setenv(POSTGRES_VARIABLE, "postgresql://somebody:secret@db/m3h")
    with pytest.raises(InputError, match="keeps Dagster's records in SQLite"):
        prepare_folder(tmp_path / "small")


def test_a_dump_restores_runs_versions_and_the_audit_table(postgres, tmp_path, monkeypatch):
    if shutil.which("pg_dump") is None:
        pytest.skip("there is no pg_dump: apt-get install postgresql-client")
    for variable in ("DAGSTER_HOME", "M3H_OUT", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(variable, "")
    for variable, address in zip((POSTGRES_VARIABLE, "MLFLOW_TRACKING_URI"), postgres, strict=True):
        monkeypatch.setenv(variable, address)
    out = tmp_path / "out"
    prepare_folder(out, "demo", None, "tiny")
    client = open_client(out)
    assert mlflow_uri(out) == postgres[1]
    client.create_registered_model(tracking.MODEL_NAME)
    source = tmp_path / "model"
    source.mkdir()
    (source / "MLmodel").write_text("")
    client.create_model_version(
        tracking.MODEL_NAME, source=source.as_uri(), tags={STATUS: "pending"}
    )
    decide(out, APPROVED, None, "Ada", "the first")
    apply_decisions(out)
    with dg.DagsterInstance.get() as instance:
        instance.add_dynamic_partitions("snapshot", ["2026-01-01"])
        run = instance.create_run_for_job(
            dg.Definitions(jobs=[_job]).resolve_job_def("nothing")
        ).run_id
    before = Audit(out).read_lines()

    for address in postgres:
        dump = tmp_path / f"{address.rsplit('_')[-1]}.dump"
        subprocess.run(["pg_dump", "--format=custom", f"--file={dump}", address], check=True)
        _empty(address)
    with pytest.raises(InputError):
        apply_decisions(out)
    for address in postgres:
        _empty(address)
        dump = tmp_path / f"{address.rsplit('_')[-1]}.dump"
        subprocess.run(
            ["pg_restore", "--exit-on-error", "--no-owner", f"--dbname={address}", dump], check=True
        )

    assert Audit(out).read_lines() == before
    assert dict(RegistryState.fetch(open_client(out)).aliases) == {
        "anchor": "1",
        "champion": "1",
    }
    with dg.DagsterInstance.get() as instance:
        assert instance.get_dynamic_partitions("snapshot") == ["2026-01-01"]
        assert instance.get_run_by_id(run) is not None


def test_one_database_for_both_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv(POSTGRES_VARIABLE, "postgresql://db/m3h")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://db/m3h")
    with pytest.raises(InputError, match="a database each"):
        prepare_folder(tmp_path, "demo", None, "tiny")


@dg.job(name="nothing")
def _job() -> None:
    pass


def _empty(url: str) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
