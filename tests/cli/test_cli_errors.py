"""Bad input: one clear error, no traceback, exit code not 0, and the earlier results untouched."""

import gzip
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from command_line import m3h

from m3h_pipeline.cli.main import main
from m3h_pipeline.config import EmbeddingConfig
from m3h_pipeline.jobs.encoders import check_encoders

pytestmark = pytest.mark.slow(20)


def assert_clear(result: subprocess.CompletedProcess, *words: str) -> None:
    assert result.returncode != 0
    assert "Traceback" not in result.stderr + result.stdout
    errors = [line for line in result.stderr.splitlines() if line.lower().startswith("error")]
    assert len(errors) == 1, result.stderr
    message = " ".join(result.stderr.split())
    for word in words:
        assert word in message, result.stderr


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """A small hospital in MIMIC-IV's layout."""
    from m3h_pipeline.demo import write_demo_hospital

    folder = tmp_path_factory.mktemp("hospital") / "files"
    write_demo_hospital(folder, 20, 0)
    return folder


@pytest.fixture
def broken(hospital, tmp_path):
    """A copy of the hospital for a test to break."""
    return Path(shutil.copytree(hospital, tmp_path / "hospital"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["review", "list"],
        ["review", "show", "7"],
        ["review", "approve"],
        ["review", "rollback"],
        ["score"],
        ["forget", "p1", "--yes"],
        ["run", "--source", "tables"],
        ["run", "--snapshot", "yesterday"],
        ["demo-hospital", "--to", "."],
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_paragraph(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.strip().splitlines()) == 1
    assert not result.stdout
    assert not list(tmp_path.iterdir())


def test_missing_folder(tmp_path):
    result = m3h(
        "run", "--source", "mimic-iv", "--path", tmp_path / "nowhere", "--out", tmp_path / "out"
    )
    assert_clear(result, "nowhere")
    assert not (tmp_path / "out").exists()


def test_source_without_path(tmp_path):
    assert_clear(m3h("run", "--source", "mimic-iv", "--out", tmp_path / "out"), "--path")


def test_folder_of_another_kind(tmp_path):
    (tmp_path / "folder").mkdir()
    assert_clear(
        m3h(
            "run", "--source", "mimic-iv", "--path", tmp_path / "folder", "--out", tmp_path / "out"
        ),
        "hosp",
    )


def test_truncated_gzip(broken, tmp_path):
    file = broken / "hosp" / "labevents.csv.gz"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    result = m3h("run", "--source", "mimic-iv", "--path", broken, "--out", tmp_path / "out")
    assert_clear(result, "labevents.csv.gz")


def test_table_without_a_needed_column(broken, tmp_path):
    file = broken / "hosp" / "admissions.csv.gz"
    text = (
        gzip.decompress(file.read_bytes())
        .decode("utf-8", "replace")
        .replace("admittime", "arrival", 1)
    )
    file.write_bytes(gzip.compress(text.encode()))
    result = m3h("run", "--source", "mimic-iv", "--path", broken, "--out", tmp_path / "out")
    assert_clear(result, "admissions.csv.gz", "admittime")


def test_empty_table(broken, tmp_path):
    file = broken / "hosp" / "admissions.csv.gz"
    header = gzip.decompress(file.read_bytes()).split(b"\n", 1)[0] + b"\n"
    file.write_bytes(gzip.compress(header))
    assert_clear(
        m3h("run", "--source", "mimic-iv", "--path", broken, "--out", tmp_path / "out"),
        "admissions",
    )


def test_out_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    result = m3h("run", "--source", "demo", "--size", "tiny", "--out", tmp_path / "file" / "out")
    assert_clear(result, "--out")


def test_another_sources_out_folder(hospital, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "m3h.toml").write_text("[source]\nname = 'demo'\nsize = 'tiny'\n")
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    result = m3h("run", "--source", "mimic-iv", "--path", hospital, "--out", out)
    assert_clear(result, "one out-folder holds one source")
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before


def test_wrong_configuration(tmp_path):
    (tmp_path / "m3h.toml").write_text("[training]\nepochs = 0\n")
    assert_clear(m3h("run", "--out", tmp_path), "training.epochs")


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("vision = 'resnet1800'", "vision: timm has no model 'resnet1800'"),
        (
            "language = '/nowhere/bert'",
            "language: checkpoint '/nowhere/bert' is neither a folder nor a hub name",
        ),
    ],
)
def test_an_encoder_that_can_t_be_had_is_refused_before_anything_is_read(
    tmp_path, hospital, setting, says
):
    settings = f"[source]\nname = 'mimic-iv'\npath = '{hospital}'\n\n[embedding]\n{setting}\n"
    (tmp_path / "m3h.toml").write_text(settings)
    result = CliRunner().invoke(main, ["run", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert f"Error: m3h.toml: [embedding] {says}" in result.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["m3h.toml"]
    assert (tmp_path / "m3h.toml").read_text() == settings


def test_an_encoder_that_can_be_had_is_let_pass():
    check_encoders(EmbeddingConfig(image_size=64))


def test_demo_hospital_does_not_overwrite(tmp_path):
    assert_clear(m3h("demo-hospital", "--to", tmp_path), "is there already")


def test_a_patient_whom_no_snapshot_knows(tmp_path):
    assert_clear(m3h("forget", "4711", "--yes", "--out", tmp_path), "m3h.toml is not there")
    (tmp_path / "m3h.toml").write_text("[source]\nname = 'demo'\n")
    assert_clear(
        m3h("forget", "4711", "--yes", "--out", tmp_path),
        "knows the subject '4711'",
        "nothing was erased",
    )
    assert not (tmp_path / "forgotten.json").exists()


def test_a_snapshot_of_the_past(hospital, tmp_path):
    ingested = tmp_path / "snapshots" / "2026-01-02" / "ingested"
    ingested.mkdir(parents=True)
    (ingested / "step.json").write_text('{"key": "", "version": "", "info": {}}')
    source = f"[source]\nname = 'mimic-iv'\npath = '{hospital}'\nsnapshot = '2026-01-02'\n"
    (tmp_path / "m3h.toml").write_text(source)
    result = m3h("run", "--snapshot", "2025-12-31", "--out", tmp_path)
    assert_clear(
        result, "snapshot 2025-12-31 lies before the newest one", "Choose a label after 2026-01-02"
    )
    assert (tmp_path / "m3h.toml").read_text() == source
