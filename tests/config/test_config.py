"""m3h.toml: written once, read by all, with errors that say what to change."""

import datetime as dt
import inspect
import tomllib
from collections.abc import Iterator
from dataclasses import fields

import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from m3h_core import FitConfig
from m3h_pipeline import config
from m3h_pipeline.cli.main import main
from m3h_pipeline.config import toml_text
from m3h_pipeline.config.reference import PAGE, write_reference
from m3h_pipeline.errors import InputError
from m3h_pipeline.registry import tracking
from m3h_pipeline.state.pages import is_served, lock_server, record_server
from m3h_pipeline.state.paths import CONFIG_FILE


def test_round_trip(tmp_path):
    chosen = config.configure_run(tmp_path, "demo", None, "tiny", None)
    config.save(chosen, tmp_path)
    assert config.load(tmp_path) == chosen
    assert chosen.source.snapshot == config.DEMO_SNAPSHOT


def test_second_run_needs_no_options(tmp_path):
    config.save(config.configure_run(tmp_path, "demo", None, "tiny", None), tmp_path)
    assert config.configure_run(tmp_path, None, None, None, None).source.size == "tiny"


@pytest.mark.parametrize(
    ("source", "path", "says"),
    [("mimic-iv", "elsewhere", "one out-folder holds one source"), ("demo", None, None)],
)
def test_another_source_is_refused(tmp_path, source, path, says):
    config.save(config.configure_run(tmp_path, "demo", None, None, None), tmp_path)
    if says is None:
        config.configure_run(tmp_path, source, None, None, None)
        return
    with pytest.raises(InputError, match=says):
        config.configure_run(tmp_path, source, tmp_path / path, None, None)


def sections(section: BaseModel, name: str = "") -> Iterator[tuple[str, BaseModel]]:
    """Each section of a configuration by its name."""
    yield name, section
    for field in type(section).model_fields:
        if isinstance(below := getattr(section, field), BaseModel):
            yield from sections(below, f"{name}.{field}".lstrip("."))


def test_every_setting_is_written_with_its_default_below_what_it_means():
    lines = toml_text.format_toml(config.Config()).splitlines()
    assert max(map(len, lines)) <= 100
    assert config.Config.model_validate(tomllib.loads("\n".join(lines))) == config.Config()
    for name, section in sections(config.Config()):
        if not name:
            continue
        start = lines.index(f"[{name}]")
        assert lines[start - 1].startswith("# "), name
        end = next((i for i in range(start + 1, len(lines)) if not lines[i]), len(lines))
        settings = [i for i in range(start + 1, end) if not lines[i].startswith("#")]
        assert all(lines[i - 1].startswith("# ") for i in settings), name
        fields = type(section).model_fields
        assert [lines[i].split(" = ")[0] for i in settings] == [
            field for field in fields if not isinstance(getattr(section, field), BaseModel)
        ]
        assert all(fields[lines[i].split(" = ")[0]].description for i in settings), name


BY_HAND = """\
# Written by a person.
[source]
name = "demo"   # to try it
size = "tiny"

# few, while we try
[training]
epochs = 10 # enough

# where it runs
[launcher.k8s]
image = 'ours'
"""


def test_what_a_person_wrote_stays_when_a_setting_changes(tmp_path):
    file = tmp_path / CONFIG_FILE
    file.write_bytes(BY_HAND.replace("\n", "\r\n").encode())
    chosen = config.configure_run(tmp_path, None, None, None, "2026-05-01")
    training = chosen.training.model_copy(update={"epochs": 12, "seed": 3})
    config.save(chosen.model_copy(update={"training": training}), tmp_path)
    text = file.read_bytes().decode().replace("\r\n", "\n")
    expected = BY_HAND.replace("10 # enough", "12 # enough\nseed = 3")
    assert text == expected.replace('"tiny"\n', '"tiny"\nsnapshot = "2026-05-01"\n')
    config.save(config.load(tmp_path), tmp_path)
    assert file.read_bytes().decode().replace("\r\n", "\n") == text


def test_without_a_date_a_hospital_is_dated_today_and_the_demo_as_ever(tmp_path):
    today = dt.date.today().isoformat()
    (tmp_path / CONFIG_FILE).write_text(f"[source]\nname = 'tables'\npath = '{tmp_path}'\n")
    chosen = config.configure_run(tmp_path, None, None, None, None)
    assert chosen.source.snapshot == today
    # Once written, it is the same after midnight.
    config.save(config.set_snapshot(chosen, "2026-01-31"), tmp_path)
    assert config.configure_run(tmp_path, None, None, None, None).source.snapshot == "2026-01-31"
    (tmp_path / CONFIG_FILE).write_text("[source]\nname = 'demo'\n")
    assert (
        config.configure_run(tmp_path, None, None, None, None).source.snapshot
        == config.DEMO_SNAPSHOT
    )


def test_init_writes_settings_that_are_edited_before_the_first_run(tmp_path):
    hospital = tmp_path / "hospital"
    out = tmp_path / "out"
    hospital.mkdir()
    asked = ["init", "--source", "tables", "--path", str(hospital), "--out", str(out)]
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 0, result.stderr
    assert f"m3h run --out {out}" in result.stdout
    assert [file.name for file in out.iterdir()] == [CONFIG_FILE]
    file = out / CONFIG_FILE
    file.write_text(file.read_text().replace("\nepochs = 60\n", "\nepochs = 7 # mine\n"))
    edited = file.read_text()
    chosen = config.configure_run(out, None, None, None, None)
    assert (chosen.training.epochs, chosen.source.name, chosen.source.path) == (
        7,
        "tables",
        str(hospital),
    )
    assert chosen.source.snapshot == dt.date.today().isoformat()
    config.save(chosen, out)
    assert file.read_text() == edited.replace('snapshot = ""', f'snapshot = "{dt.date.today()}"')
    again = CliRunner().invoke(main, asked)
    assert again.exit_code == 1
    assert "is there already" in again.stderr
    assert "epochs = 7 # mine" in file.read_text()


def test_init_refuses_a_folder_that_is_not_there(tmp_path):
    result = CliRunner().invoke(
        main, ["init", "--source", "haim", "--path", "nowhere", "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 1
    assert "nowhere is not a folder" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[source]\nname = 'oracle'\n", r"source\.name"),
        ("[traning]\nseed = 1\n", "traning"),
        ("[cohort]\nprediction_hours = -3\n", r"cohort\.prediction_hours"),
        ("source = [", "not valid TOML"),
        (
            "[source]\nsnapshot = 'tomorrow'\n",
            "source.snapshot: 'tomorrow' is not a date; write it as 2026-01-31",
        ),
        ("[source]\nsnapshot = 2026-01-31T02:00:00\n", "is not a date"),
    ],
)
def test_wrong_file_names_the_key(tmp_path, text, says):
    (tmp_path / CONFIG_FILE).write_text(text)
    with pytest.raises(InputError, match=says):
        config.load(tmp_path)


def test_source_without_path(tmp_path):
    with pytest.raises(InputError, match="needs --path"):
        config.configure_run(tmp_path, "mimic-iv", None, None, None)


def test_a_file_in_another_encoding_is_named(tmp_path):
    (tmp_path / CONFIG_FILE).write_bytes("# für uns\n[training]\n".encode("latin-1"))
    with pytest.raises(InputError, match="is not in UTF-8: save it in that encoding"):
        config.load(tmp_path)


@pytest.mark.parametrize(
    "label", ["yesterday", "2026-1-5", "20260105", "2026-02-30", "2026-W01-1", ""]
)
def test_snapshot_must_be_a_date(tmp_path, label):
    with pytest.raises(InputError, match="not a date"):
        config.configure_run(tmp_path, "demo", None, None, label)


def test_a_date_may_be_written_without_quotes(tmp_path):
    (tmp_path / CONFIG_FILE).write_text("[source]\nsnapshot = 2026-01-31\n")
    assert config.load(tmp_path).source.snapshot == "2026-01-31"


def test_links_lead_to_the_server_without_its_password_or_to_what_m3h_ui_serves(
    monkeypatch, tmp_path
):
    import mlflow

    monkeypatch.delenv(tracking.PAGE_VARIABLE, raising=False)
    for uri, page in [
        ("https://me:secret@mlflow.hospital:5000/", "https://mlflow.hospital:5000"),
        ("sqlite:////srv/mlflow.db", "http://127.0.0.1:5000"),
    ]:
        monkeypatch.setattr(mlflow, "get_tracking_uri", lambda uri=uri: uri)
        assert tracking.find_page(tmp_path) == page
    with lock_server(tmp_path) as lock:
        record_server(lock, 3001, 5001)
        assert is_served(tmp_path)
    assert not is_served(tmp_path)
    assert tracking.find_page(tmp_path) == "http://127.0.0.1:5001"
    monkeypatch.setenv(tracking.PAGE_VARIABLE, "http://127.0.0.1:5002")
    assert tracking.find_page(tmp_path) == "http://127.0.0.1:5002"


def test_the_model_section_is_fitconfig_as_a_whole():
    """One text and one default each: there are none in m3h_pipeline."""
    # Of [training] and the machine; the pipeline makes no series with steps.
    elsewhere = {"seed", "epochs", "device", "steps"}
    names = [field.name for field in fields(FitConfig) if field.name not in elsewhere]
    assert list(config.ModelConfig.model_fields) == names
    assert FitConfig(**config.Config().model.model_dump()) == FitConfig()
    source = inspect.getsource(FitConfig)
    for name, about in config.ModelConfig.model_fields.items():
        assert about.description, name
        assert about.description.splitlines()[0] in source


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("dropout = 1.5", r"model\.dropout: dropout must lie in \[0, 1\), not 1\.5"),
        ("hidden = [0]", r"model\.hidden: hidden must hold sizes of at least 1, not \(0,\)"),
        ("learning_rate = nan", r"model\.learning_rate: .*above 0, not nan"),
        ("members = 0", r"model\.members: members must be at least 1, not 0"),
        ("weighting = 'x'", r"model\.weighting: weighting 'x' is not one of equal, uncertainty"),
        ("weighting = 'mgda'", r"model\.weighting: .* it was removed: see docs/decisions/0027"),
        ("epochs = 3", r"there is no setting model\.epochs"),
    ],
)
def test_an_impossible_model_is_named_by_file_and_setting(tmp_path, line, says):
    (tmp_path / CONFIG_FILE).write_text(f"[model]\n{line}\n")
    with pytest.raises(InputError, match=f"{CONFIG_FILE}: {says}"):
        config.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[model]\nresidual = true\n", r"model\.residual was removed: .*: delete the line"),
        ("[gate]\ncalibration_labels = 20\n", r"gate\.calibration_labels was removed: "),
        ("[monitoring]\nfewest = 10\n", r"monitoring\.fewest was removed: "),
        ("[tim]\nmethod = 'projection'\n", r"tim\.method: 'projection' was removed: "),
    ],
)
def test_a_removed_setting_is_named(tmp_path, text, says):
    (tmp_path / CONFIG_FILE).write_text(text)
    with pytest.raises(InputError, match=f"{CONFIG_FILE}: {says}"):
        config.load(tmp_path)


def test_the_demo_has_two_folds_and_a_hospital_the_default(tmp_path):
    assert config.create("demo", None, None).evaluation.folds == 2
    hospital = config.create("tables", tmp_path, None)
    assert hospital.evaluation == config.EvaluationConfig()
    assert hospital.training == config.TrainingConfig()


def test_a_removed_setting_that_changes_nothing_is_passed_over(tmp_path):
    """`m3h init` of an earlier version has written all of them."""
    lines = ["[gate]", "calibration_labels = 100", "[monitoring]", "fewest = 50"]
    (tmp_path / CONFIG_FILE).write_text("\n".join(lines))
    assert config.load(tmp_path) == config.Config()
    config.save(config.set_snapshot(config.load(tmp_path), "2026-05-01"), tmp_path)
    assert config.load(tmp_path).source.snapshot == "2026-05-01"


def test_the_reference_page_is_what_the_docstrings_say(tmp_path):
    written = write_reference(tmp_path / "settings.md").read_text()
    assert written == PAGE.read_text(), (
        "docs/settings.md is out of date: run python -m m3h_pipeline.config and commit the result"
    )
    for name, section in sections(config.Config()):
        assert not name or f"## [{name}]" in written
        for field, about in type(section).model_fields.items():
            assert not about.description or f"| `{field}` |" in written
