"""The cut at the prediction time: nothing known later, and no order of rows, changes a byte of the
inputs.
"""

from __future__ import annotations

import copy
import datetime as dt
import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mimic_folder import hospital, image, measurement, note, write

from m3h_pipeline.config import open_source
from m3h_pipeline.errors import InputError
from m3h_pipeline.features.as_of import write_inputs
from m3h_pipeline.sources import Settings
from m3h_pipeline.sources.columns import Columns

T0 = dt.datetime(2150, 1, 1)
PREDICTION = T0 + dt.timedelta(hours=24)
FILES = [
    "language.parquet",
    "samples.parquet",
    "tabular.parquet",
    "timeseries.parquet",
    "vision.parquet",
]
MODEST = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

SAMPLES = pl.DataFrame(
    {
        "sample_id": ["s1", "s2", "s3"],
        "stay_id": ["s1", "s2", "s3"],
        "subject_id": ["p1", "p2", "p2"],
        "admit_time": [T0] * 3,
        "discharge_time": [T0 + dt.timedelta(days=5)] * 3,
        "prediction_time": [PREDICTION] * 3,
        "split": pl.Series([0, 3, 3], dtype=pl.Int8),
        "age": [60.0, None, 30.0],
        "sex": ["F", None, "M"],
        "race": ["A", "B", "C"],
    }
)
_TIMES = {"time": pl.Datetime("us"), "available_time": pl.Datetime("us")}
SCHEMAS = {
    "events": {
        "stay_id": pl.String,
        **_TIMES,
        "code": pl.String,
        "value": pl.Float64,
        "unit": pl.String,
    },
    "notes": {
        "stay_id": pl.String,
        "note_id": pl.String,
        **_TIMES,
        "kind": pl.String,
        "text": pl.String,
    },
    "images": {
        "stay_id": pl.String,
        "image_id": pl.String,
        **_TIMES,
        "view": pl.String,
        "path": pl.String,
    },
}

minutes = st.integers(0, 60 * 60)
stays = st.sampled_from(["s1", "s2", "s3"])


@st.composite
def records(draw, table: str, late: bool | None = None) -> tuple:
    """A row of a table; with ``late``, one that is known after the prediction time."""
    taken = T0 + dt.timedelta(minutes=draw(minutes))
    available = taken + dt.timedelta(minutes=draw(st.integers(0, 600)))
    if late and available <= PREDICTION:
        available = PREDICTION + dt.timedelta(microseconds=draw(st.integers(1, 10**9)))
    if table == "events":
        value = draw(st.floats(-1e6, 1e6))
        return (
            draw(stays),
            taken,
            available,
            draw(st.sampled_from(["heart_rate", "glucose"])),
            value,
            "bpm",
        )
    middle = (draw(stays), draw(st.text(max_size=3)), taken, available)
    return (*middle, draw(st.sampled_from(["PA", "AP"])), draw(st.text(max_size=20)))


@st.composite
def hospitals(draw) -> dict[str, list[tuple]]:
    return {table: draw(st.lists(records(table), max_size=8)) for table in SCHEMAS}


def inputs_of(
    tables: dict[str, list[tuple]], samples: pl.DataFrame = SAMPLES, columns: Columns | None = None
) -> dict:
    """Bytes of the input files of a validated hospital."""
    with tempfile.TemporaryDirectory() as folder:
        valid = Path(folder, "valid")
        to = Path(folder, "inputs")
        valid.mkdir()
        to.mkdir()
        samples.write_parquet(valid / "samples.parquet")
        (columns or Columns(("age", "sex"), ("race",))).save(valid)
        for table, rows in tables.items():
            pl.DataFrame(rows, schema=SCHEMAS[table], orient="row").write_parquet(
                valid / f"{table}.parquet"
            )
        write_inputs(dict.fromkeys(["samples", *SCHEMAS], valid), to)
        assert sorted(file.name for file in to.iterdir()) == FILES
        return {file.name: file.read_bytes() for file in to.iterdir()}


@pytest.mark.slow(5)
@MODEST
@given(data=st.data(), tables=hospitals())
def test_what_is_known_later_changes_no_byte(data, tables):
    expected = inputs_of(tables)
    changed = {}
    for table, rows in tables.items():
        # Late records are deleted or changed, and new ones put anywhere; the others stay.
        available = list(SCHEMAS[table]).index("available_time")
        rows = [
            data.draw(records(table, late=True)) if row[available] > PREDICTION else row
            for row in rows
        ]
        rows = [row for row in rows if row[available] <= PREDICTION or data.draw(st.booleans())]
        for late in data.draw(st.lists(records(table, late=True), max_size=5)):
            rows.insert(data.draw(st.integers(0, len(rows))), late)
        changed[table] = rows
    assert inputs_of(changed) == expected


@pytest.mark.slow(3)
@MODEST
@given(data=st.data(), tables=hospitals())
def test_the_order_of_rows_changes_no_byte(data, tables):
    permuted = {table: data.draw(st.permutations(rows)) for table, rows in tables.items()}
    order = data.draw(st.permutations(range(len(SAMPLES))))
    assert inputs_of(permuted, SAMPLES[order]) == inputs_of(tables)


def test_order_and_bytes_at_a_size_that_is_sorted_in_parallel():
    n = 250_000
    frame = pl.DataFrame({"i": range(n)}).select(
        stay_id="s" + (pl.col("i") % 3 + 1).cast(pl.String),
        time=pl.lit(T0) + pl.duration(seconds=(pl.col("i") * 7919) % 80_000),
        available_time=pl.lit(T0) + pl.duration(seconds=(pl.col("i") * 7919) % 80_000 + 3600),
        code=pl.lit("heart_rate"),
        value=(pl.col("i") % 97).cast(pl.Float64),
        unit=pl.lit("bpm"),
    )
    tables = {"notes": [], "images": []}
    first = inputs_of({**tables, "events": frame})
    assert (
        inputs_of({**tables, "events": frame.sample(fraction=1.0, shuffle=True, seed=1)}) == first
    )


def test_what_the_inputs_hold():
    hour = dt.timedelta(hours=1)
    with_ties = {
        "events": [
            ("s1", PREDICTION - 3 * hour, PREDICTION, "glucose", 5.0, "mg/dL"),
            ("s1", PREDICTION - 3 * hour, PREDICTION + hour, "glucose", 6.0, "mg/dL"),
            ("s1", PREDICTION, PREDICTION, "glucose", 7.0, "mg/dL"),
            # A clock that runs ahead: taken after the prediction, said to be known before.
            ("s1", PREDICTION + hour, PREDICTION - hour, "glucose", 8.0, "mg/dL"),
            ("unknown", T0, T0, "glucose", 9.0, "mg/dL"),
        ],
        "notes": [("s2", "n1", T0, T0, "radiology", "clear")],
        "images": [("s3", "i1", T0 + hour, T0 + hour, None, "/x.jpg")],
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, content in inputs_of(with_ties).items():
            Path(folder, name).write_bytes(content)
        read = {name: pl.read_parquet(Path(folder, name)) for name in FILES}
    assert read["timeseries.parquet"].rows() == [
        ("s1", "glucose", -3.0, 5.0),
        ("s1", "glucose", 0.0, 7.0),
    ]
    assert read["timeseries.parquet"].columns == ["sample_id", "code", "hours", "value"]
    assert read["language.parquet"].rows(named=True) == [
        {"sample_id": "s2", "hours": -24.0, "note_id": "n1", "kind": "radiology", "text": "clear"}
    ]
    assert read["vision.parquet"].rows(named=True) == [
        {"sample_id": "s3", "hours": -23.0, "image_id": "i1", "view": None, "path": "/x.jpg"}
    ]
    assert read["tabular.parquet"].columns == ["sample_id", "split", "age", "sex"]
    assert read["tabular.parquet"]["age"].to_list() == [60.0, None, 30.0]
    assert read["samples.parquet"].rows() == [("s1", "p1", 0), ("s2", "p2", 3), ("s3", "p2", 3)]


@pytest.mark.parametrize(
    "name",
    [
        "deathtime",
        "discharge_location",
        "discharge_time",
        "dischtime",
        "hospital_expire_flag",
        "dod",
        "length_of_stay",
        "los",
        "Death_In_Hospital",
        "survival_days",
        "drg_code",
        "icd10",
        "outtime",
        "subject_id",
        "split",
    ],
)
def test_an_outcome_or_a_key_is_no_feature(name):
    with pytest.raises(InputError, match=f"{name} can't be a feature"):
        Columns(features=("age", name))


def test_an_outcome_that_was_written_into_the_file_is_refused(tmp_path):
    (tmp_path / "columns.json").write_text('{"features": ["age", "deathtime"], "audit": []}')
    with pytest.raises(InputError, match="deathtime can't be a feature"):
        write_inputs(dict.fromkeys(["samples", *SCHEMAS], tmp_path), tmp_path)


def test_columns_that_are_not_declared_stay_out_and_missing_ones_are_named():
    tables: dict[str, list] = {table: [] for table in SCHEMAS}
    with pytest.raises(
        InputError, match="declares the feature height, which the samples table lacks"
    ):
        inputs_of(tables, columns=Columns(("age", "height")))
    with_outcome = SAMPLES.with_columns(deathtime=pl.lit(T0))
    assert inputs_of(tables, with_outcome) == inputs_of(tables)


# From raw files to inputs -------------------------------------------------------------------------


def inputs_of_folder(root: Path) -> dict[str, bytes]:
    ingested = root.with_name(root.name + "-ingested")
    to = root.with_name(root.name + "-inputs")
    ingested.mkdir()
    to.mkdir()
    open_source("mimic-iv", root).extract(ingested, Settings())
    write_inputs(dict.fromkeys(["samples", *SCHEMAS], ingested), to)
    paths = str(root).encode()
    return {file.name: file.read_bytes() for file in to.iterdir() if paths not in file.read_bytes()}


def test_a_hospital_that_goes_on_changes_no_byte(tmp_path):
    """What comes after the prediction time in the raw files: results, notes, images, outcomes, the
    order of rows.
    """
    before = hospital()
    del before["cxr/mimic-cxr-2.0.0-metadata"]
    expected = inputs_of_folder(write(tmp_path / "before", before))
    after = copy.deepcopy(before)
    after["hosp/labevents"] += [
        measurement(
            11, 21, "2150-01-02 07:00:00", 50931, 500, "mg/dL", stored="2150-01-02 08:00:01"
        ),
        measurement(11, 21, "2150-01-04 07:00:00", 50931, 500, "mg/dL"),
    ]
    after["note/radiology"].append(
        note("11-RR-9", 11, 21, "2150-01-02 07:00:00", "2150-01-02 09:00:00", "Later.")
    )
    # A summary whose charttime is a bare date before the prediction time is not known before the
    # discharge.
    after["note/discharge"].append(note("11-DS-9", 11, 21, "2150-01-02 00:00:00", None, "Died."))
    after["cxr/mimic-cxr-2.0.0-metadata"] = [image("d9", 11, 59, 21500103, 93012.5)]
    for stay in after["hosp/admissions"]:
        if stay["hadm_id"] == 21:
            stay |= {"dischtime": "2150-01-05 08:00:00", "discharge_location": "REHAB"}
    after["hosp/diagnoses_icd"] = list(reversed(after["hosp/diagnoses_icd"]))[:3]
    after = {name: list(reversed(rows)) for name, rows in after.items()}
    assert inputs_of_folder(write(tmp_path / "after", after)) == expected
    assert len(expected) == len(FILES)


def test_real_records_in_another_order_give_the_same_bytes(mimic_demo_tables, tmp_path):
    ingested = mimic_demo_tables.copy_to(tmp_path / "ingested")
    results = []
    for seed in (None, 1):
        to = tmp_path / f"inputs-{seed}"
        to.mkdir()
        for table in SCHEMAS:
            frame = pl.read_parquet(ingested / f"{table}.parquet")
            frame = frame.sample(fraction=1.0, shuffle=True, seed=seed) if seed else frame
            frame.write_parquet(ingested / f"{table}.parquet")
        counts = write_inputs(dict.fromkeys(["samples", *SCHEMAS], ingested), to)
        results.append({file.name: file.read_bytes() for file in to.iterdir()})
    assert results[0] == results[1]
    events = pl.read_parquet(ingested / "events.parquet").join(
        pl.read_parquet(ingested / "samples.parquet").select("stay_id", "prediction_time"),
        on="stay_id",
    )
    in_time = events.filter(
        pl.max_horizontal("time", "available_time") <= pl.col("prediction_time")
    )
    assert counts["timeseries"] == len(in_time) > 20_000
