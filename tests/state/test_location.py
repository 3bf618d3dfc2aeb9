"""A moved or copied out-folder: what its records name, what is left alone, and when it is
refused.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from m3h_pipeline import config
from m3h_pipeline.errors import InputError
from m3h_pipeline.registry import tracking
from m3h_pipeline.state import location, pages
from m3h_pipeline.state.location import record_location, update_location
from m3h_pipeline.state.locks import lock_shared
from m3h_pipeline.state.mlflow_store import EXPERIMENT, mlflow_uri
from m3h_pipeline.state.steps import produce, read_step


@pytest.fixture(scope="module")
def used(tmp_path_factory) -> Path:
    """An out-folder with a registered version, a run's artefact, images of its own and others'."""
    out = tmp_path_factory.mktemp("place") / "a folder"
    out.mkdir()
    source = config.SourceConfig(name="tables", path=f"{out}/data")
    config.save(config.Config(source=source), out)
    record_location(out)
    uri = mlflow_uri(out)
    tracking.connect(uri, out / "mlflow" / "artifacts")
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    run = client.create_run(experiment.experiment_id)
    client.log_text(run.info.run_id, "what was learned", "model/weights.txt")
    model = client.create_logged_model(
        experiment.experiment_id, name="m", source_run_id=run.info.run_id
    )
    client.create_registered_model("m3h")
    client.create_model_version("m3h", f"{run.info.artifact_uri}/model", run.info.run_id)
    client.create_model_version(
        "m3h", f"models:/{model.model_id}", run.info.run_id, model_id=model.model_id
    )
    neighbour = f"{(out / 'mlflow' / 'artifacts').as_uri()}-of-others/model"
    client.create_model_version("m3h", neighbour, run.info.run_id)

    def build(to: Path) -> dict[str, int]:
        paths = [f"{out}/demo/1.jpg", f"{out}-of-others/2.jpg", "/elsewhere/3.jpg", None]
        pl.DataFrame({"path": paths}).write_parquet(to / "images.parquet")
        return {}

    produce(out / "snapshots" / "2026-01-01" / "valid_images", "key", build)
    return out


@pytest.fixture
def moved(used, tmp_path, monkeypatch) -> tuple[Path, Path]:
    """Where the folder was, and where it is."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    old = tmp_path / "old"
    shutil.copytree(used, old)
    update_location(old)
    new = tmp_path / "new"
    old.rename(new)
    return old, new


def cells_that_name(out: Path, place: Path) -> list[str]:
    """Every cell of MLflow's store with a path below the place."""
    paths = []
    with closing(sqlite3.connect(out / "mlflow" / "mlflow.db")) as store:
        for (table,) in store.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table'"
        ).fetchall():
            cursor = store.execute(f'SELECT * FROM "{table}"')
            names = [column[0] for column in cursor.description]
            for row in cursor:
                paths += [
                    f"{table}.{name}"
                    for name, value in zip(names, row, strict=True)
                    if f"{place}/" in str(value)
                ]
    return paths


def images(out: Path) -> list[str | None]:
    step = read_step(out / "snapshots" / "2026-01-01" / "valid_images")
    assert step.key == "key"
    return pl.read_parquet(step.folder / "images.parquet")["path"].to_list()


@pytest.mark.slow(3)
def test_all_records_name_the_new_place(used, moved, capsys):
    old, new = moved
    assert set(cells_that_name(new, old)) == {
        "experiments.artifact_location", "runs.artifact_uri", "logged_models.artifact_location",
        "model_versions.source", "model_versions.storage_location",
    }  # fmt: skip
    update_location(new)
    assert f"{new} was at {old} before" in capsys.readouterr().err
    assert cells_that_name(new, old) == []
    at = MlflowClient(mlflow_uri(new))
    for version in "12":
        assert f"{new}/mlflow/artifacts/" in at.get_model_version_download_uri("m3h", version)
    place = download_artifacts(
        at.get_model_version_download_uri("m3h", "1"), tracking_uri=at.tracking_uri
    )
    assert Path(place).is_relative_to(new)
    assert (Path(place) / "weights.txt").read_text() == "what was learned"
    # A neighbour that merely begins alike, here that of the first place, is left as it is.
    assert at.get_model_version("m3h", "3").source.endswith(
        "a%20folder/mlflow/artifacts-of-others/model"
    )
    assert images(new) == [f"{new}/demo/1.jpg", f"{used}-of-others/2.jpg", "/elsewhere/3.jpg", None]
    assert config.load(new).source.path == f"{new}/data"
    with closing(sqlite3.connect(new / "mlflow" / location.BACKUP)) as backup:
        stored = backup.execute(
            "SELECT artifact_location FROM experiments WHERE name = 'm3h'"
        ).fetchone()[0]
    assert stored == f"file://{old}/mlflow/artifacts"
    before = (new / "mlflow" / "mlflow.db").read_bytes()
    update_location(new)
    assert capsys.readouterr().err == ""
    assert (new / "mlflow" / "mlflow.db").read_bytes() == before


def test_a_folder_older_than_the_record_is_known_by_mlflow_s_store(moved):
    old, new = moved
    (new / location.FILE).unlink()
    update_location(new)
    assert cells_that_name(new, old) == []


def test_a_kill_between_two_renames_loses_no_step(moved):
    _, new = moved
    images_step = new / "snapshots" / "2026-01-01" / "valid_images"
    shutil.copytree(images_step, images_step.with_name(".valid_images.partial"))
    images_step.rename(images_step.with_name(".valid_images.old"))
    update_location(new)
    assert images(new)[0] == f"{new}/demo/1.jpg"
    assert [folder.name for folder in images_step.parent.iterdir() if folder.is_dir()] == [
        "valid_images"
    ]


@pytest.mark.parametrize("where", ["beside", "within its old place"])
def test_what_was_interrupted_is_done_again(moved, monkeypatch, where):
    old, new = moved
    if where == "within its old place":
        inner = old / "inner"
        old.mkdir()
        new.rename(inner)
        new = inner

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(location, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            update_location(new)
    assert not location._is_here(new, new)
    update_location(new)
    assert location._is_here(new, new)
    assert images(new)[0] == f"{new}/demo/1.jpg"
    assert config.load(new).source.path == f"{new}/data"
    artifacts = f"file://{new}/mlflow/artifacts"
    assert (
        MlflowClient(mlflow_uri(new)).get_experiment_by_name("m3h").artifact_location == artifacts
    )
    with closing(sqlite3.connect(new / "mlflow" / location.BACKUP)) as backup:
        assert artifacts not in "".join(backup.iterdump())


def test_a_link_to_the_folder_changes_nothing(moved):
    old, new = moved
    old.symlink_to(new)
    before = (new / "mlflow" / "mlflow.db").read_bytes()
    update_location(new)
    assert (new / "mlflow" / "mlflow.db").read_bytes() == before
    assert images(new)[0] == f"{old}/demo/1.jpg"
    old.unlink()
    update_location(new)
    assert cells_that_name(new, old) == []


def test_while_somebody_is_at_work_it_is_refused(moved):
    old, new = moved
    with (
        lock_shared(new),
        pytest.raises(InputError, match=rf"moved or copied from {old} while a run is at work"),
    ):
        update_location(new)
    with (
        pages.lock_server(new),
        pytest.raises(InputError, match="while `m3h ui` serves it: end that first"),
    ):
        update_location(new)
    assert cells_that_name(new, new) == []
    update_location(new)


def test_a_server_s_artefacts_are_its_own(moved, monkeypatch):
    _, new = moved
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    before = (new / "mlflow" / "mlflow.db").read_bytes()
    update_location(new)
    assert (new / "mlflow" / "mlflow.db").read_bytes() == before
    assert images(new)[0] == f"{new}/demo/1.jpg"


def test_a_database_that_is_elsewhere_is_refused_with_what_mends_it(moved, monkeypatch):
    old, new = moved
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://m3h@db/m3h_mlflow")
    with pytest.raises(InputError) as refused:
        update_location(new)
    mends = str(refused.value).rpartition(": ")[2]
    assert mends == f"ln -s {new} {old}"
    old.mkdir()
    with pytest.raises(InputError, match=f"{new} is a copy of {old}"):
        update_location(new)
    old.rmdir()
    assert os.system(mends) == 0
    update_location(new)
