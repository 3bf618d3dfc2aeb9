"""The synthetic hospital: MIMIC-IV's layout, and the same bytes for the same seed."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from demo_rows import N_STAYS, read_right_rows, read_rows
from PIL import Image

from m3h_pipeline.demo import write_demo_hospital
from m3h_pipeline.demo.codes import CODES
from m3h_pipeline.demo.diseases import DISEASES
from m3h_pipeline.demo.lab_results import draw_lab_results
from m3h_pipeline.demo.story import draw_stays
from m3h_pipeline.errors import InputError
from m3h_pipeline.sources.tasks_file import load_signals, load_tasks

METADATA = "cxr/mimic-cxr-2.0.0-metadata"
TABLES = [
    "hosp/patients",
    "hosp/admissions",
    "hosp/diagnoses_icd",
    "hosp/d_icd_diagnoses",
    "hosp/labevents",
    "hosp/d_labitems",
    "hosp/prescriptions",
    "hosp/services",
    "icu/icustays",
    "icu/chartevents",
    "icu/procedureevents",
    "icu/d_items",
]


def listing(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


def auroc(score: np.ndarray, label: np.ndarray) -> float:
    rank = np.argsort(np.argsort(score, kind="stable"), kind="stable") + 1
    positives = int(label.sum())
    above = rank[label].sum() - positives * (positives + 1) / 2
    return above / (positives * (len(label) - positives))


@pytest.mark.parametrize("table", TABLES)
def test_columns_are_those_of_mimic_iv(hospital, mimic_demo, table):
    with (
        gzip.open(hospital / f"{table}.csv.gz", "rt") as ours,
        gzip.open(mimic_demo / f"{table}.csv.gz", "rt") as real,
    ):
        assert ours.readline() == real.readline()


def test_values_are_written_as_mimic_iv_writes_them(hospital, mimic_demo, wrong):
    """Times, numbers and units of the real demo and of this one have the same shapes."""
    for table, columns in {
        "hosp/admissions": ["admittime", "hospital_expire_flag"],
        "hosp/labevents": ["charttime", "storetime", "priority"],
        "icu/chartevents": ["charttime", "warning"],
    }.items():
        for column in columns:
            shapes = [
                set(frame[column].drop_nulls().str.replace_all(r"\d", "9").unique())
                for frame in (
                    read_right_rows(hospital, table, wrong),
                    read_rows(mimic_demo, table, 50_000),
                )
            ]
            assert shapes[0] <= shapes[1], (table, column)
    items = pl.Series(
        [
            str(item)
            for signal in load_signals()
            if signal.kind != "procedure"
            for item in signal.mimic_iv
        ]
    )
    for table in ("hosp/labevents", "icu/chartevents"):
        ours, real = (
            frame.filter(pl.col("itemid").is_in(items.implode()))
            .select("itemid", "valueuom")
            .drop_nulls()
            .unique()
            for frame in (
                read_right_rows(hospital, table, wrong),
                read_rows(mimic_demo, table, 50_000),
            )
        )
        assert ours.join(real, on=["itemid", "valueuom"], how="anti").is_empty()


@pytest.mark.slow(2)
def test_same_seed_same_bytes(hospital, tmp_path):
    write_demo_hospital(tmp_path / "again", N_STAYS, 0)
    assert listing(tmp_path / "again") == listing(hospital)
    write_demo_hospital(tmp_path / "other", 20, 1)
    write_demo_hospital(tmp_path / "first", 20, 0)
    assert (
        listing(tmp_path / "other")["hosp/labevents.csv.gz"]
        != listing(tmp_path / "first")["hosp/labevents.csv.gz"]
    )


def test_what_lay_there_is_replaced(tmp_path):
    """A kill leaves the temporary folder; an interrupted step may have left some of the tables."""
    (tmp_path / ".hospital.writing" / "hosp").mkdir(parents=True)
    (tmp_path / "hospital" / "icu").mkdir(parents=True)
    (tmp_path / "hospital" / "icu" / "old.csv.gz").touch()
    write_demo_hospital(tmp_path / "hospital", 5, 0)
    write_demo_hospital(tmp_path / "clean", 5, 0)
    assert listing(tmp_path / "hospital") == listing(tmp_path / "clean")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clean", "hospital"]


@pytest.mark.parametrize(("stays", "seed"), [(0, 0), (10, -1)])
def test_impossible_sizes(tmp_path, stays, seed):
    with pytest.raises(InputError, match="can't be"):
        write_demo_hospital(tmp_path / "hospital", stays, seed)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stays", [1, 20])
def test_small_hospitals_have_no_wrong_rows(tmp_path, stays):
    done = []
    write_demo_hospital(
        tmp_path / "hospital", stays, 0, on_progress=lambda *progress: done.append(progress)
    )
    assert read_rows(tmp_path / "hospital", "hosp/admissions").height == stays
    assert (tmp_path / "hospital" / "wrong_rows.csv").read_text() == "file,row,kind\n"
    assert done == [(stays, stays)]


def test_stays_and_patients(hospital, wrong):
    stays = read_right_rows(hospital, "hosp/admissions", wrong)
    patients = read_rows(hospital, "hosp/patients")
    spoiled = wrong.filter(
        pl.col("file") == "hosp/admissions.csv.gz", pl.col("kind") != "duplicate"
    ).height
    assert stays.height == N_STAYS - spoiled
    assert stays["hadm_id"].is_unique().all()
    assert patients["subject_id"].is_unique().all()
    assert set(stays["subject_id"]) <= set(patients["subject_id"])
    assert 1.2 < N_STAYS / patients.height < 1.7
    times = stays.select(
        "subject_id",
        pl.col("admittime", "dischtime", "deathtime").str.to_datetime(),
        died="hospital_expire_flag",
    ).sort("subject_id", "admittime")
    assert (times["dischtime"] > times["admittime"]).all()
    again = pl.col("subject_id") == pl.col("subject_id").shift(1)
    assert times.filter(again & (pl.col("admittime") < pl.col("dischtime").shift(1))).is_empty()
    assert times.filter(again & pl.col("deathtime").shift(1).is_not_null()).is_empty(), (
        "the dead come back"
    )
    assert times.filter(
        (pl.col("died") == "1") != (pl.col("deathtime") == pl.col("dischtime")).fill_null(False)
    ).is_empty()


def test_codes_stand_for_their_task_alone():
    rules = [rule for rule in load_tasks() if rule.icd9]
    assert {rule.spec.name for rule in rules} == set(DISEASES)
    for disease, version, code in CODES.select("disease", "icd_version", "icd_code").iter_rows():
        names = {
            rule.spec.name
            for rule in rules
            if code.startswith(rule.icd9 if version == 9 else rule.icd10)
        }
        assert names == ({disease} if disease != "other" else set()), code


def test_every_signal_is_there(hospital):
    tables = {
        "vital": "icu/chartevents",
        "lab": "hosp/labevents",
        "procedure": "icu/procedureevents",
    }
    items = {kind: set(read_rows(hospital, table)["itemid"]) for kind, table in tables.items()}
    missing = {
        signal.code
        for signal in load_signals()
        if items[signal.kind].isdisjoint(map(str, signal.mimic_iv))
    }
    # Rare procedures need a larger hospital.
    assert missing <= {
        "peritoneal_dialysis",
        "crrt",
        "chest_tube_removed",
        "hemodialysis",
        "bronchoscopy",
    }


def test_diagnoses_are_as_frequent_as_the_story_says():
    stays = draw_stays(np.random.default_rng(0), 6000, 0, 0, 0)
    for k, (name, disease) in enumerate(DISEASES.items()):
        assert stays.coded[:, k].mean() == pytest.approx(0.97 * disease.share, rel=0.2), name
    assert 0.04 < stays.died.mean() < 0.11
    assert 0.55 < (~np.isnat(stays.icu_in)).mean() < 0.75
    assert 0.01 < (stays.hours < 24).mean() < 0.07
    assert set(stays.icd_version) == {9, 10}


def test_no_single_lab_decides_a_diagnosis():
    stays = draw_stays(np.random.default_rng(1), 3000, 0, 0, 0)
    results = draw_lab_results(np.random.default_rng(2), stays, 0).with_columns(
        pl.col("hadm_id").cast(pl.Int64)
    )
    means = (
        results.group_by("hadm_id", "itemid")
        .agg(pl.col("number").mean())
        .pivot("itemid", index="hadm_id")
    )
    order = pl.DataFrame({"hadm_id": stays.hadm_id}).join(means, on="hadm_id", how="left")
    best = 0.0
    for item in order.columns[1:]:
        values = order[item].to_numpy()
        is_measured = np.isfinite(values)
        for k in range(len(DISEASES)):
            if stays.coded[is_measured, k].sum() > 20:
                area = auroc(values[is_measured], stays.coded[is_measured, k])
                best = max(best, area, 1 - area)
    assert 0.75 < best < 0.92


def test_records_are_known_later_than_taken(hospital, wrong):
    for table, share_late in (
        ("icu/chartevents", 0.02),
        ("hosp/labevents", 0.5),
        ("note/radiology", 0.5),
    ):
        times = read_right_rows(hospital, table, wrong).select(
            pl.col("charttime", "storetime").str.to_datetime()
        )
        hours = (times["storetime"] - times["charttime"]).dt.total_minutes() / 60
        assert hours.min() >= 0
        assert (hours > 1).mean() > share_late, table


def test_labs_without_a_stay(hospital, wrong):
    labs = read_right_rows(hospital, "hosp/labevents", wrong)
    assert 0.1 < labs["hadm_id"].is_null().mean() < 0.35


def test_discharge_summaries_would_leak_but_come_late(hospital, wrong):
    notes = read_right_rows(hospital, "note/discharge", wrong)
    stays = read_right_rows(hospital, "hosp/admissions", wrong).select("hadm_id", "dischtime")
    codes = read_right_rows(hospital, "hosp/diagnoses_icd", wrong)
    gout = set(
        codes.filter(pl.col("icd_code").is_in(CODES.filter(disease="gout")["icd_code"].implode()))[
            "hadm_id"
        ]
    )
    coded = set(codes["hadm_id"])
    joined = notes.join(stays, on="hadm_id").filter(pl.col("hadm_id").is_in(coded))
    assert (joined["storetime"] > joined["dischtime"]).all()
    assert joined["charttime"].str.ends_with("00:00:00").all()
    assert set(joined.filter(pl.col("text").str.contains("\nGout\n"))["hadm_id"]) == gout & set(
        joined["hadm_id"]
    )
    # A report never carries the list of diagnoses.
    assert (
        not read_right_rows(hospital, "note/radiology", wrong)["text"]
        .str.contains("Discharge Diagnosis")
        .any()
    )


def test_sick_patients_have_more_notes_and_films(hospital, wrong):
    stays = read_right_rows(hospital, "hosp/admissions", wrong)
    noted = set(read_rows(hospital, "note/radiology")["hadm_id"])
    filmed = set(read_rows(hospital, METADATA)["subject_id"])
    assert 0.75 < stays["hadm_id"].is_in(noted).mean() < 0.95
    assert 0.5 < stays["subject_id"].is_in(filmed).mean() < 0.85


def test_pictures(hospital, wrong):
    films = read_rows(hospital, METADATA).with_row_index("row", 1)
    spoiled = set(wrong.filter(pl.col("file").str.starts_with(METADATA))["row"])
    assert set(films["ViewPosition"]) == {"PA", "AP", "LATERAL"}
    files = {path.name: path for path in hospital.rglob("*.jpg")}
    for film in films.filter(~pl.col("row").is_in(spoiled)).iter_rows(named=True):
        file = files[f"{film['dicom_id']}.jpg"]
        subject = film["subject_id"]
        assert file.parent == hospital / f"cxr/files/p{subject[:2]}/p{subject}/s{film['study_id']}"
        with Image.open(file) as picture:
            picture.load()
            assert (picture.mode, picture.size) == ("L", (int(film["Columns"]), int(film["Rows"])))


def test_pictures_show_a_large_heart(hospital):
    """The left border of the heart is darker, being lung, where there is no heart failure."""
    codes = read_rows(hospital, "hosp/diagnoses_icd")
    failing = set(
        codes.filter(
            pl.col("icd_code").is_in(CODES.filter(disease="heart_failure")["icd_code"].implode())
        )["subject_id"]
    )
    brightness = []
    label = []
    films = read_rows(hospital, METADATA).filter(pl.col("ViewPosition") != "LATERAL")
    for film in films.iter_rows(named=True):
        file = next(hospital.glob(f"cxr/files/*/*/*/{film['dicom_id']}.jpg"), None)
        if file is None or file.stat().st_size < 4000:
            continue
        with Image.open(file) as picture:
            pixels = np.asarray(picture, dtype=float)
        brightness.append(pixels[120:155, 145:165].mean() / pixels.mean())
        label.append(film["subject_id"] in failing)
    assert 0.6 < auroc(np.array(brightness), np.array(label)) < 0.95
