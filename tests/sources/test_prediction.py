"""When predictions are made: each way on a few rows, labels and inputs of several samples a stay,
what is refused.
"""

from __future__ import annotations

import copy
import datetime as dt
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb
import polars as pl
import pytest
from canonical_tables import count_reasons, extract_mimic
from hypothesis import given, settings
from hypothesis import strategies as st
from mimic_folder import Tables, hospital, image, measurement, note, write

from m3h_pipeline import config
from m3h_pipeline.errors import InputError
from m3h_pipeline.features.as_of import write_inputs
from m3h_pipeline.sources import Settings
from m3h_pipeline.sources.extraction import define_time_macros
from m3h_pipeline.sources.prediction.points import make_points
from m3h_pipeline.sources.tasks_file import GIVEN_AWAY, load_tasks


def with_icu() -> Tables:
    """The hospital with ICU stays: 21 has two, 22 is too short, 23 has one whose time can't be
    read.
    """
    stays = [
        (21, "2150-01-02 20:00:00"),
        (21, "2150-01-01 20:00:00"),
        (22, "2150-02-01 09:00:00"),
        (23, "soon"),
        (99, "2150-02-01 09:00:00"),
    ]
    rows = [
        {"subject_id": 1, "hadm_id": hadm, "stay_id": 3, "intime": time} for hadm, time in stays
    ]
    return {**hospital(), "icu/icustays": rows}


def extract(root: Path, tables: Tables, **settings) -> dict[str, pl.DataFrame]:
    """The canonical tables of these rows."""
    return extract_mimic(write(root, tables), **settings)[0]


def prediction_times(tables: dict[str, pl.DataFrame]) -> dict[str, str]:
    samples = tables["samples"].select("sample_id", "prediction_time").iter_rows()
    return {sample: f"{time:%m-%d %H:%M}" for sample, time in samples}


def test_hours_after_the_first_icu_admission(tmp_path):
    tables = extract(tmp_path / "h", with_icu(), prediction="icu", prediction_hours=24)
    assert prediction_times(tables) == {"21": "01-02 20:00", "23": "03-01 00:00"}
    assert tables["samples"]["parse_errors"].to_list() == [None, "intime: not a date"]
    assert count_reasons(tables["lineage"], "hosp/admissions") == {
        None: 2, "the stay ended before the prediction time": 1, "the stay has no ICU admission": 2
    }  # fmt: skip
    assert count_reasons(tables["lineage"], "icu/icustays") == {
        None: 3, "no such stay in admissions": 1, "not the first ICU stay of its admission": 1
    }  # fmt: skip
    assert set(tables["labels"]["sample_id"]) == {"21"}


def test_a_sample_an_image(tmp_path):
    data = with_icu()
    data["cxr/mimic-cxr-2.0.0-metadata"] += [
        image("d3", 11, 53, 21500104, 93012), image("d4", 11, 54, 21500202, 93012),
        image("d5", 12, 55, 21500304, 120000),
    ]  # fmt: skip
    tables = extract(tmp_path / "h", data, prediction="image")
    # d2 and d4 lie outside any stay, d5 within two.
    assert prediction_times(tables) == {"21-d1": "01-01 09:30", "21-d3": "01-04 09:30"}
    assert count_reasons(tables["lineage"], "hosp/admissions") == {
        None: 1,
        "the stay has no image": 4,
    }
    labels = tables["labels"].filter(pl.col("task") == "heart_failure")
    assert labels.select("sample_id", "value").rows() == [("21-d1", 1.0), ("21-d3", 1.0)]
    to = tmp_path / "inputs"
    to.mkdir()
    write_inputs(
        dict.fromkeys(["samples", "events", "notes", "images"], tmp_path / "h-ingested"), to
    )
    # The image itself, and all that was known before it.
    vision = pl.read_parquet(to / "vision.parquet")
    assert vision.select("sample_id", "image_id").rows() == [
        ("21-d1", "d1"),
        ("21-d3", "d1"),
        ("21-d3", "d3"),
    ]
    events = pl.read_parquet(to / "timeseries.parquet").group_by("sample_id").len()
    assert dict(events.iter_rows()) == {"21-d3": 6}


def test_every_midnight_of_the_stay(tmp_path):
    tables = extract(tmp_path / "h", with_icu(), prediction="nightly")
    nights = prediction_times(tables)
    assert [sample for sample in nights if sample.startswith("21-")] == [
        f"21-2150-01-0{day}" for day in range(2, 7)
    ]
    assert nights["21-2150-01-02"] == "01-02 00:00"
    # Admitted at midnight: in. Discharged at midnight: no more.
    assert [sample for sample in nights if sample.startswith("23-")] == [
        f"23-2150-03-0{day}" for day in range(1, 5)
    ]
    assert (
        count_reasons(tables["lineage"], "hosp/admissions")[
            "the patient was never in at the hour of prediction"
        ]
        == 1
    )
    stays = tables["labels"].filter(pl.col("task") == "length_of_stay").group_by("sample_id").len()
    assert set(stays["sample_id"]) == set(nights)
    assert stays["len"].to_list() == [1] * len(nights)


def test_a_stay_that_goes_on_keeps_its_samples(tmp_path):
    before = with_icu()
    before["hosp/admissions"][3] |= {"dischtime": None, "discharge_location": None}
    before["hosp/admissions"] = before["hosp/admissions"][:4]
    after = copy.deepcopy(with_icu())
    first, second = (
        extract(
            tmp_path / name,
            data,
            prediction="nightly",
            nightly_at="06:30",
            timezone="America/New_York",
        )
        for name, data in (("before", before), ("after", after))
    )
    times = prediction_times(second)
    assert {sample: times[sample] for sample in prediction_times(first)} == prediction_times(first)
    # Still in at the latest time that anything says.
    assert [sample for sample in prediction_times(first) if sample.startswith("24-")] == [
        "24-2150-03-04"
    ]
    assert times["24-2150-03-07"] == "03-07 11:30"
    assert first["labels"].filter(pl.col("sample_id").str.starts_with("24-")).is_empty()


@pytest.mark.slow(3)
@given(
    zone=st.sampled_from(
        [
            "Europe/Berlin",
            "America/Sao_Paulo",
            "Australia/Lord_Howe",
            "Pacific/Apia",
            "Asia/Kolkata",
        ]
    ),
    admitted=st.datetimes(dt.datetime(2011, 1, 1), dt.datetime(2020, 1, 1)).map(
        lambda t: t.replace(microsecond=0)
    ),
    hours=st.integers(0, 24 * 20),
    clock=st.times().map(lambda t: t.strftime("%H:%M")),
)
@settings(max_examples=60, deadline=None)
def test_there_is_one_prediction_a_local_day(zone, admitted, hours, clock):
    """Whatever the clocks do: at the local hour, once a day, never before the admission or after
    the end.
    """
    end = admitted + dt.timedelta(hours=hours)
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE stays_read AS SELECT 1 AS source_row, 's' AS stay_id, ?::TIMESTAMP AS "
            "admit_time, ?::TIMESTAMP AS end_time, false AS times_wrong", [admitted, end]
        )  # fmt: skip
        define_time_macros(connection, zone)
        make_points(connection, "nightly", 24, clock)
        rows = connection.execute("FROM points ORDER BY prediction_time").fetchall()
    nights = [(suffix, time) for _, suffix, time, reason in rows if reason is None]
    assert all(admitted <= time < end for _, time in nights)
    assert len({suffix for suffix, _ in nights}) == len({time for _, time in nights}) == len(nights)
    assert abs(len(nights) - hours / 24) <= 1
    for _, time in nights:
        local = time.replace(tzinfo=dt.UTC).astimezone(ZoneInfo(zone))
        asked = dt.datetime.combine(local.date(), dt.time.fromisoformat(clock), ZoneInfo(zone))
        exists = asked.astimezone(dt.UTC).astimezone(ZoneInfo(zone)).time() == asked.time()
        assert not exists or local.time() == asked.time()


def test_what_comes_later_changes_no_earlier_sample(tmp_path):
    data = with_icu()
    expected = inputs(tmp_path / "before", data)
    data["hosp/labevents"].append(
        measurement(
            11, 21, "2150-01-03 09:00:00", 50931, 120, "mg/dL", stored="2150-01-04 00:00:01"
        )
    )
    data["note/radiology"].append(
        note("11-RR-9", 11, 21, "2150-01-03 20:00:00", "2150-01-04 21:00:00", "Later.")
    )
    after = inputs(tmp_path / "after", data)
    early = {"21-2150-01-02", "21-2150-01-03", "21-2150-01-04"}
    assert len(expected) == 3
    for name, frame in after.items():
        same = pl.col("sample_id").is_in(early)
        assert frame.filter(same).equals(expected[name].filter(same)), name
        assert len(frame) > len(expected[name]) or name == "tabular"


def inputs(root: Path, data: Tables) -> dict[str, pl.DataFrame]:
    extract(
        root,
        {name: rows for name, rows in data.items() if not name.startswith("cxr")},
        prediction="nightly",
    )
    to = root.with_name(root.name + "-inputs")
    to.mkdir()
    folder = root.with_name(root.name + "-ingested")
    write_inputs(dict.fromkeys(["samples", "events", "notes", "images"], folder), to)
    return {
        name: pl.read_parquet(to / f"{name}.parquet")
        for name in ("tabular", "timeseries", "language")
    }


@pytest.mark.parametrize(
    ("mode", "missing"), [("icu", "icu/icustays"), ("image", "cxr/mimic-cxr-2.0.0-metadata")]
)
def test_a_mode_whose_table_is_not_there(tmp_path, mode, missing):
    tables = {name: rows for name, rows in hospital().items() if not name.startswith("cxr")}
    with pytest.raises(
        InputError, match=f'lacks {missing}.csv.gz, which prediction = "{mode}" needs'
    ):
        extract(tmp_path / "h", tables, prediction=mode)


def test_a_mode_that_the_source_does_not_know(tmp_path):
    (tmp_path / "m3h.toml").write_text(
        '[source]\nname = "mimic-iv"\npath = "h"\n[cohort]\nprediction = "given"\n'
    )
    chosen = config.load(tmp_path)
    with pytest.raises(
        InputError,
        match=r'can\'t predict with prediction = "given"; it knows admission, icu, image',
    ):
        config.build_settings(chosen, config.open_configured_source(chosen, tmp_path))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"prediction": "weekly"}, "choose one of admission"),
        ({"nightly_at": "noon"}, "nightly_at 'noon'"),
        ({"holdout_months": -1}, "holdout_months is -1"),
    ],
)
def test_impossible_settings(how, message):
    with pytest.raises(InputError, match=message):
        Settings(**how)


def test_the_last_months_are_the_test_split(tmp_path):
    tables = extract(tmp_path / "h", hospital(), holdout_months=2)
    # Patient 11's later stay ended too early to be a sample; 12 and 13 were admitted within two
    # months of 1 May.
    splits = dict(tables["samples"].select("subject_id", "split").iter_rows())
    assert splits["12"] == splits["13"] == 3
    assert splits["11"] != 3


# Notes that give a label away ---------------------------------------------------------------------


def test_reports_that_labels_were_made_from_are_in_nobodys_inputs(tmp_path, monkeypatch):
    file = tmp_path / "tasks.yaml"
    file.write_text("""tasks:
  - {name: death, problem: binary, column: death_in_hospital, derived_from: [radiology]}
  - {name: gout, problem: binary, icd10: [M10]}
""")
    monkeypatch.setattr(
        "m3h_pipeline.sources.mimic_iv.source.load_tasks", lambda only: load_tasks(file, only)
    )
    tables = extract(tmp_path / "h", hospital())
    assert tables["notes"]["kind"].to_list() == ["discharge"]
    assert count_reasons(tables["lineage"], "note/radiology") == {GIVEN_AWAY: 1}
    # A run without that task has them.
    tables = extract(tmp_path / "other", hospital(), tasks=["gout"])
    assert tables["notes"]["kind"].to_list() == ["radiology", "discharge"]


def test_derived_from_is_a_list(tmp_path):
    file = tmp_path / "tasks.yaml"
    file.write_text(
        "tasks:\n  - {name: gout, problem: binary, icd10: [M10], derived_from: radiology}\n"
    )
    with pytest.raises(InputError, match="'gout': derived_from must be a list of kinds of notes"):
        load_tasks(file)


# On real patients ---------------------------------------------------------------------------------


def test_labs_that_were_known_only_after_the_first_day(mimic_demo, mimic_demo_tables, tmp_path):
    """What a cut by the time taken would have let in: of all labs by another engine, and of those
    that are read.
    """
    stays = pl.read_csv(mimic_demo / "hosp/admissions.csv.gz", try_parse_dates=True).select(
        "hadm_id", "admittime"
    )
    labs = pl.read_csv(
        mimic_demo / "hosp/labevents.csv.gz", try_parse_dates=True, infer_schema_length=None
    )
    day = pl.col("admittime").dt.offset_by("24h")
    first_day = labs.join(stays, on="hadm_id").filter(pl.col("charttime") <= day)
    assert (len(first_day.filter(pl.col("storetime") > day)), len(first_day)) == (501, 17_768)

    to = mimic_demo_tables.path
    inputs_to = tmp_path / "inputs"
    inputs_to.mkdir()
    samples = pl.read_parquet(to / "samples.parquet").select("stay_id", "prediction_time")
    events = pl.read_parquet(to / "events.parquet").join(samples, on="stay_id")
    taken = events.filter(pl.col("time") <= pl.col("prediction_time"))
    late = taken.filter(pl.col("available_time") > pl.col("prediction_time"))
    is_lab = pl.col("source_file") == "hosp/labevents.csv.gz"
    assert (len(late.filter(is_lab)), len(taken.filter(is_lab))) == (271, 8_364)
    counts = write_inputs(dict.fromkeys(["samples", "events", "notes", "images"], to), inputs_to)
    assert counts["timeseries"] == len(taken) - len(late)
