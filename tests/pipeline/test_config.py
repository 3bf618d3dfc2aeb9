"""m3h.toml: written once, read by all, with errors that say what to change."""

import pytest

from m3h_pipeline import config, tracking
from m3h_pipeline.errors import InputError
from m3h_pipeline.pages import is_served, only_server, remember


def test_round_trip(tmp_path):
    chosen = config.for_run(tmp_path, "demo", None, "tiny", None)
    config.save(chosen, tmp_path)
    assert config.load(tmp_path) == chosen
    assert chosen.source.snapshot == config.DEMO_SNAPSHOT


def test_second_run_needs_no_options(tmp_path):
    config.save(config.for_run(tmp_path, "demo", None, "tiny", None), tmp_path)
    assert config.for_run(tmp_path, None, None, None, None).source.size == "tiny"


@pytest.mark.parametrize(
    ("source", "path", "says"),
    [("mimic-iv", "elsewhere", "one out-folder holds one source"), ("demo", None, None)],
)
def test_another_source_is_refused(tmp_path, source, path, says):
    config.save(config.for_run(tmp_path, "demo", None, None, None), tmp_path)
    if says is None:
        config.for_run(tmp_path, source, None, None, None)
        return
    with pytest.raises(InputError, match=says):
        config.for_run(tmp_path, source, tmp_path / path, None, None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[source]\nname = 'oracle'\n", r"source\.name"),
        ("[traning]\nseed = 1\n", "traning"),
        ("[cohort]\nprediction_hours = -3\n", r"cohort\.prediction_hours"),
        ("source = [", "not valid TOML"),
    ],
)
def test_wrong_file_names_the_key(tmp_path, text, says):
    (tmp_path / config.FILE).write_text(text)
    with pytest.raises(InputError, match=says):
        config.load(tmp_path)


def test_source_without_path(tmp_path):
    with pytest.raises(InputError, match="needs --path"):
        config.for_run(tmp_path, "mimic-iv", None, None, None)


def test_snapshot_must_be_a_date(tmp_path):
    with pytest.raises(InputError, match="not a date"):
        config.for_run(tmp_path, "demo", None, None, "yesterday")


def test_links_lead_to_the_server_without_its_password_or_to_what_m3h_ui_serves(monkeypatch, tmp_path):
    import mlflow

    monkeypatch.delenv(tracking.PAGE_VARIABLE, raising=False)
    for uri, page in [
        ("https://me:secret@mlflow.hospital:5000/", "https://mlflow.hospital:5000"),
        ("sqlite:////srv/mlflow.db", "http://127.0.0.1:5000"),
    ]:
        monkeypatch.setattr(mlflow, "get_tracking_uri", lambda uri=uri: uri)
        assert tracking.page(tmp_path) == page
    with only_server(tmp_path) as lock:
        remember(lock, 3001, 5001)
        assert is_served(tmp_path)
    assert not is_served(tmp_path)
    assert tracking.page(tmp_path) == "http://127.0.0.1:5001"
    monkeypatch.setenv(tracking.PAGE_VARIABLE, "http://127.0.0.1:5002")
    assert tracking.page(tmp_path) == "http://127.0.0.1:5002"
