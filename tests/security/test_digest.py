"""What scores is what was approved: every change to a version's files is refused before it is
loaded.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from mlflow import MlflowClient

from m3h_pipeline import config
from m3h_pipeline.cli.main import main
from m3h_pipeline.errors import InputError
from m3h_pipeline.jobs import champion, score
from m3h_pipeline.registry import tracking
from m3h_pipeline.registry.approval import find_anchor_approval, find_approval, verify
from m3h_pipeline.registry.audit import POSTGRES_VARIABLE, Audit, get_system_user
from m3h_pipeline.registry.client import open_client
from m3h_pipeline.registry.digests import fetch_approved
from m3h_pipeline.registry.listing import format_overview
from m3h_pipeline.registry.promotion import apply_decisions
from m3h_pipeline.registry.review import decide, roll_back
from m3h_pipeline.registry.tags import ANSWER, APPROVED, REJECTED, STATUS

MODEL = Path(__file__).parents[1] / "scoring" / "model_format_1" / "model"
NAME = tracking.MODEL_NAME


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory) -> Path:
    """An MLflow database without versions, made once: its schema takes seconds."""
    out = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        open_client(out).create_registered_model(NAME)
    return out / "mlflow" / "mlflow.db"


@pytest.fixture
def out(empty_store, tmp_path, monkeypatch) -> Path:
    """An out-folder with two registered versions, real models both, that wait for review."""
    for variable in (POSTGRES_VARIABLE, "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    out = tmp_path / "out"
    (out / "mlflow").mkdir(parents=True)
    shutil.copy(empty_store, out / "mlflow" / "mlflow.db")
    config.save(config.Config(), out)
    for number in "12":
        shutil.copytree(MODEL, stored(out, number))
        tags = {STATUS: "pending"}
        client(out).create_model_version(NAME, source=stored(out, number).as_uri(), tags=tags)
    return out


def client(out: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{out}/mlflow/mlflow.db")


def stored(out: Path, version: str) -> Path:
    return out / "mlflow" / "artifacts" / version


def job_config(out: Path) -> dict[str, str]:
    return {
        "uri": f"sqlite:///{out}/mlflow/mlflow.db",
        "artifacts": str(out / "mlflow" / "artifacts"),
    }


def swap_weights(model: Path) -> None:
    file = model / "artifacts" / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def add_a_line(model: Path) -> None:
    with (model / "serving.py").open("a") as file:
        file.write("import os; os.environ['M3H_TEST_INTRUDER'] = 'was here'\n")


def add_a_file(model: Path) -> None:
    (model / "artifacts" / "sitecustomize.py").write_text("")


def remove_a_file(model: Path) -> None:
    (model / "requirements.txt").unlink()


def rename_a_file(model: Path) -> None:
    (model / "requirements.txt").rename(model / "requirement.txt")


ATTACKS = [swap_weights, add_a_line, add_a_file, remove_a_file, rename_a_file]


def test_an_approved_version_is_loaded_by_score_and_gate(out, tmp_path):
    decide(out, APPROVED, "1", "Ada", "good")
    approved = find_approval(out, "1")
    assert approved["by"] == "Ada"
    (private := tmp_path / "private").mkdir()
    folder, served = score.load("1", approved, private)
    assert folder.is_relative_to(private)
    artifacts = served.unwrap_python_model().model
    assert artifacts.tasks
    model, embedders = champion.load("1", approved, job_config(out), tmp_path)
    assert len(model.tasks) == len(artifacts.tasks)
    assert embedders
    assert "version 1 holds the files that were approved at" in verify(out, None, None)


@pytest.mark.parametrize("attack", ATTACKS)
def test_files_that_changed_after_the_approval_are_refused(
    out, tmp_path, attack: Callable[[Path], None]
):
    decide(out, APPROVED, "1", "Ada", "good")
    approved = find_approval(out, "1")
    attack(stored(out, "1"))
    (private := tmp_path / "private").mkdir()
    message = (
        "version 1 of m3h in MLflow are not those that were approved at .* by Ada.*nothing is "
        "scored"
    )
    with pytest.raises(InputError, match=message):
        score.load("1", approved, private)
    with pytest.raises(InputError, match=message):
        champion.load("1", approved, job_config(out), tmp_path)
    with pytest.raises(InputError, match="m3h review reject 1"):
        verify(out, "1", None)
    assert "M3H_TEST_INTRUDER" not in os.environ


def test_a_link_to_somewhere_else_is_refused(out, tmp_path):
    decide(out, APPROVED, "1", "Ada", "good")
    other = shutil.move(stored(out, "1") / "serving.py", tmp_path / "serving.py")
    (stored(out, "1") / "serving.py").symlink_to(other)
    with pytest.raises(InputError, match="can't be loaded from MLflow"):
        verify(out, "1", None)


def test_what_is_loaded_is_the_copy_that_was_compared(out, tmp_path):
    decide(out, APPROVED, "1", "Ada", "good")
    (private := tmp_path / "private").mkdir()
    folder = fetch_approved("1", find_approval(out, "1"), private)
    for attack in (swap_weights, add_a_line):
        attack(stored(out, "1"))
    for file in ("serving.py", "artifacts/model/model.safetensors"):
        assert (folder / file).read_bytes() == (MODEL / file).read_bytes()


def test_mlflow_s_note_and_bytecode_count_for_nothing_and_are_not_loaded(out, tmp_path):
    """A server that runs the model from the store leaves both there."""
    decide(out, APPROVED, "1", "Ada", "good")
    (bytecode := stored(out, "1") / "code" / "__pycache__").mkdir(parents=True)
    (bytecode / "m3h_core.cpython-311.pyc").write_bytes(b"hostile")
    (stored(out, "1") / "registered_model_meta").write_text("model_name: other")
    to = tmp_path / "served"
    assert str(to) in verify(out, "1", to)
    assert to.stat().st_mode & 0o077 == 0
    names = {path.relative_to(to).as_posix() for path in to.rglob("*") if path.is_file()}
    assert names == {
        path.relative_to(MODEL).as_posix() for path in MODEL.rglob("*") if path.is_file()
    }
    with pytest.raises(InputError, match="is there already"):
        verify(out, "1", to)


def test_the_audit_line_decides_not_tags_nor_aliases(out):
    client(out).set_registered_model_alias(NAME, "champion", "2")
    client(out).set_model_version_tag(NAME, "2", "digest", "0" * 64)
    apply_decisions(out)
    assert find_approval(out, "2") is None
    with pytest.raises(
        InputError, match=r"has no approval that names its files.*m3h review approve 2"
    ):
        verify(out, None, None)
    decide(out, APPROVED, "2", "Ada", "")
    assert "version 2 holds the files" in verify(out, None, None)
    decide(out, REJECTED, "2", "Ben", "")
    assert find_approval(out, "2") is None
    assert find_anchor_approval(out, "2")["by"] == "Ada"


def test_no_approval_blesses_files_that_changed_since_the_last_one(out):
    for version in "12":
        decide(out, APPROVED, version, "Ada", "")
    add_a_line(stored(out, "1"))
    with pytest.raises(InputError, match="not those that were approved"):
        decide(out, APPROVED, "1", "Ben", "")
    client(out).delete_registered_model_alias(NAME, "champion")
    with pytest.raises(InputError, match="not those that were approved"):
        roll_back(out, "Ben", "")
    shutil.rmtree(stored(out, "2"))
    with pytest.raises(InputError, match="can't be loaded from MLflow"):
        decide(out, APPROVED, "2", "Ben", "")


def test_an_approval_in_mlflow_s_pages_names_the_files_too(out):
    client(out).set_model_version_tag(NAME, "1", STATUS, APPROVED)
    apply_decisions(out)
    assert "version 1 holds the files" in verify(out, None, None)
    swap_weights(stored(out, "1"))
    with pytest.raises(InputError, match=r"approved at .* by unknown"):
        verify(out, None, None)


def make_earlier_table(address: str) -> None:
    """The audit table as it was before digests, with a settled approval of version 1 in it."""
    engine = sa.create_engine(address)
    number = "INTEGER NOT NULL" if address.startswith("sqlite") else "SERIAL NOT NULL"
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"CREATE TABLE m3h_review (id {number} PRIMARY KEY, at VARCHAR(32) NOT NULL, "
            "version VARCHAR(32) NOT NULL, decision VARCHAR(32) NOT NULL, who TEXT NOT NULL, "
            "why TEXT NOT NULL, settled_at VARCHAR(32), outcome TEXT, champion VARCHAR(32))"
        )
        connection.exec_driver_sql(
            "INSERT INTO m3h_review (at, version, decision, who, why, settled_at, outcome, "
            "champion) VALUES ('2026-01-01T00:00:00', '1', 'approved', 'Ada', 'good', "
            "'2026-01-01T00:00:01', 'champion', '1')"
        )
    engine.dispose()


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_an_audit_table_of_an_earlier_version_opens(tmp_path, monkeypatch, request, database):
    monkeypatch.delenv(POSTGRES_VARIABLE, raising=False)
    address = f"sqlite:///{tmp_path}/review.db"
    if database == "postgres":
        address = request.getfixturevalue("postgres")[0]
        monkeypatch.setenv(POSTGRES_VARIABLE, address)
    make_earlier_table(address)
    (line,) = Audit(tmp_path).read_lines()
    assert (line.who, line.champion, line.digest, line.system_user) == ("Ada", "1", None, None)
    with Audit(tmp_path).begin() as transaction:
        number = transaction.insert("2", APPROVED, "Ben", "", digest="0" * 64, system_user="root")
        assert transaction.read_last_champion() == "1"
        transaction.write_plan(number, "champion", "2")
        transaction.mark_settled(number)
        assert transaction.read_last_champion() == "2"
    assert [line.digest for line in Audit(tmp_path).read_lines()] == [None, "0" * 64]


def test_a_champion_of_an_earlier_version_is_approved_again(out):
    make_earlier_table(f"sqlite:///{out}/review.db")
    client(out).set_registered_model_alias(NAME, "champion", "1")
    client(out).set_model_version_tag(NAME, "1", STATUS, APPROVED)
    asked = CliRunner().invoke(main, ["review", "verify", "--out", str(out)])
    assert asked.exit_code == 1
    assert f"m3h review approve 1 --out {out}" in asked.output
    assert (
        decide(out, APPROVED, "1", "Ben", "looked again") == "version 1, approved by Ben: champion"
    )
    assert find_approval(out, "1")["by"] == "Ben"
    with pytest.raises(InputError, match="version 1 is the champion already"):
        decide(out, APPROVED, "1", "Ben", "")
    assert len(Audit(out).read_lines()) == 2


def test_the_system_s_user_stands_beside_the_claimed_name_without_control_characters(
    out, monkeypatch
):
    monkeypatch.setenv("LOGNAME", "somebody-else")
    decide(
        out, APPROVED, "1", "Ada\x1b[2J\n2026-01-01Z  version 2  approved by Ben", "a\tb\r\u202ec"
    )
    line = Audit(out).read_lines()[-1]
    assert line.who == "Ada[2J 2026-01-01Z version 2 approved by Ben"
    assert line.why == "a b c"
    assert line.system_user == get_system_user() != "somebody-else"
    assert f"system user {get_system_user()}" in format_overview(out)
    tag = sqlite3.connect(out / "mlflow" / "mlflow.db").execute(
        "SELECT value FROM model_version_tags WHERE key = 'validation_by'"
    )
    assert tag.fetchone() == (line.who,)
    decide(out, APPROVED, "2", None, "")
    assert Audit(out).read_lines()[-1].who == get_system_user()


def test_a_misspelt_status_is_answered_once_where_it_was_set(out):
    at = client(out)
    at.set_model_version_tag(NAME, "1", STATUS, "Aproved")
    at.set_model_version_tag(NAME, "2", "validation-status", "approved")
    answers = apply_decisions(out)
    assert len(answers) == 2
    assert "validation_status is 'Aproved', which decides nothing" in answers[0]
    assert "did you mean approved?" in answers[0]
    assert "did you mean validation_status?" in answers[1]
    assert apply_decisions(out) == []
    assert "did you mean approved?" in at.get_model_version(NAME, "1").tags[ANSWER]
    assert "did you mean validation_status?" in format_overview(out)
    assert Audit(out).read_lines() == []
    at.set_model_version_tag(NAME, "1", STATUS, APPROVED)
    apply_decisions(out)
    assert ANSWER not in at.get_model_version(NAME, "1").tags
    assert Audit(out).read_lines()[-1].version == "1"
