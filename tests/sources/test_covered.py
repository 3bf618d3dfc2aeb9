"""Signals that nobody listed: which they are, how they are called, what becomes of each row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from canonical_tables import count_reasons
from mimic_folder import (
    Tables,
    admission,
    diagnosis,
    hospital,
    infusion,
    item,
    lab_item,
    measurement,
    write,
)
from passage import Passage

from m3h_pipeline.config import Config, InputsConfig, build_settings, open_source
from m3h_pipeline.errors import InputError
from m3h_pipeline.sources import Settings
from m3h_pipeline.sources.covered.choose import DENIED, TEXT, TOO_FEW, UNLISTED
from m3h_pipeline.sources.covered.denied import load_denials
from m3h_pipeline.sources.covered.items import Item
from m3h_pipeline.sources.covered.names import name_items
from m3h_pipeline.state.lineage import find_unaccounted

_TRAIN = Settings(signal_coverage=0.5, split=(1.0, 0.0, 0.0, 0.0))
_STAYS = 4
PLACES = {
    "labs": "hosp/labevents",
    "charted": "icu/chartevents",
    "outputs": "icu/outputevents",
    "rates": "icu/inputevents",
}


def make_tables(
    labs: Any = (), charted: Any = (), outputs: Any = (), rates: Any = (), **others: Any
) -> Tables:
    """Four patients of a stay each, from noon, predicted a day later; of each kind (item, value,
    unit) in a stay, for as many stays as the fourth number says.
    """
    tables: Tables = {
        "hosp/patients": [
            {"subject_id": i, "gender": "F", "anchor_age": 60, "anchor_year": 2150, "dod": None}
            for i in range(_STAYS)
        ],
        "hosp/admissions": [
            admission(i, 100 + i, "2150-01-01 12:00:00", "2150-01-09 12:00:00", place="HOME")
            for i in range(_STAYS)
        ],
        "hosp/diagnoses_icd": [diagnosis(100 + i, "4280", 9) for i in range(_STAYS)],
        "icu/chartevents": [
            measurement(0, 100, "2150-01-01 13:00:00", 220045, 80, "bpm"),
        ],
    }
    start = "2150-01-01 14:00:00"
    kinds = {"labs": labs, "charted": charted, "outputs": outputs, "rates": rates}
    for kind, rows in kinds.items():
        make = infusion_of if kind == "rates" else measurement
        for itemid, value, unit, n_stays in rows:
            tables.setdefault(PLACES[kind], []).extend(
                make(i, 100 + i, start, itemid, value, unit) for i in range(n_stays)
            )
    return tables | others


def infusion_of(subject, hadm, start, itemid, rate, unit) -> dict[str, object]:
    return infusion(subject, hadm, start, "2150-01-03 14:00:00", itemid, rate, unit)


def pass_through(tmp_path: Path, tables: Tables, settings: Settings = _TRAIN) -> Passage:
    root = write(tmp_path / "h", tables)
    passage = Passage(open_source("mimic-iv", root), tmp_path / "out", settings)
    read = passage.facts["rows read"]
    assert find_unaccounted(passage.ingested, "events", read) == []
    lineage = passage.read("lineage").group_by("file").agg(pl.col("rows").sum())
    assert dict(lineage.iter_rows()) == read
    return passage


def read_signals(passage: Passage) -> dict[str, str | None]:
    signals = json.loads((passage.ingested / "signals.json").read_text())
    assert all(signal["covered"] and signal["low"] is None for signal in signals)
    return {signal["code"]: signal["unit"] for signal in signals}


def test_what_enough_training_stays_have_becomes_a_signal(tmp_path):
    passage = pass_through(
        tmp_path,
        make_tables(
            labs=[(50813, 2.1, "mmol/L", 2), (50802, 1, "mEq/L", 1)],
            charted=[(220052, 75, "mmHg", 4), (220046, 120, "bpm", 4)],
            outputs=[(226559, 200, "ml", 3)],
            rates=[(221906, 0.1, "mcg/kg/min", 2), (225158, None, None, 2)],
            **{
                "icu/d_items": [
                    item(220052, "Arterial Blood Pressure mean"),
                    item(220046, "Heart rate Alarm - High", "Alarms"),
                    item(226559, "Foley", "Output", table="outputevents"),
                    item(221906, "Norepinephrine", "Medications", table="inputevents"),
                ],
                "hosp/d_labitems": [lab_item(50813, "Lactate"), lab_item(50802, "Base Excess")],
            },
        ),
    )
    assert read_signals(passage) == {
        "arterial_blood_pressure_mean": "mmHg",
        "foley": "ml",
        "lactate": "mmol/L",
        "norepinephrine_rate": "mcg/kg/min",
    }
    counts = passage.valid("events").group_by("code").len()
    assert dict(counts.iter_rows()) == {
        "arterial_blood_pressure_mean": 4,
        "foley": 3,
        "heart_rate": 1,
        "lactate": 2,
        "norepinephrine_rate": 2,
    }
    lineage = passage.read("lineage")
    assert count_reasons(lineage, "hosp/labevents") == {None: 2, TOO_FEW: 1}
    assert count_reasons(lineage, "icu/chartevents") == {None: 5, DENIED: 4}
    assert count_reasons(lineage, "icu/inputevents") == {None: 2, TOO_FEW: 2}


def test_rows_of_other_patients_and_without_a_stay_decide_nothing(tmp_path):
    """Only the training split counts; a lab without hadm_id counts by its time."""
    tables = make_tables(labs=[(50813, 2.1, "mmol/L", 1), (50802, 1, "mEq/L", 4)])
    loose = measurement(1, None, "2150-01-02 01:00:00", 50813, 2, "mmol/L")
    outside = measurement(2, None, "2149-01-02 01:00:00", 50802, 2, "mEq/L")
    tables["hosp/labevents"] += [loose, outside]
    assert read_signals(pass_through(tmp_path / "a", tables)).keys() == {"lab_50813", "lab_50802"}
    none_in_training = Settings(signal_coverage=0.5, split=(0.0, 0.0, 0.0, 1.0))
    assert read_signals(pass_through(tmp_path / "b", tables, none_in_training)) == {}


def test_each_signal_has_one_unit(tmp_path):
    """What most rows have; what can be converted is, and the rest is in quarantine."""
    rates = [(221906, 60, "mL/hour", 4), (221906, 2, "ml/min", 2), (221906, 7, "dose", 1)]
    passage = pass_through(tmp_path, make_tables(rates=[*rates, (221906, 30, "", 1)]))
    assert read_signals(passage) == {"rate_221906": "mL/hour"}
    events = passage.valid("events").filter(pl.col("code") == "rate_221906")
    assert sorted(events["value"].to_list()) == [30, 60, 60, 60, 60, 120, 120]
    assert events["unit"].unique().to_list() == ["mL/hour"]
    assert [rule for rule, _ in passage.reasons("events")] == ["unknown_unit"]


def test_text_is_no_mistake_of_a_signal_that_nobody_listed(tmp_path):
    labs = [(50813, 2.1, "mmol/L", 4), (50813, "HEMOLYZED", "mmol/L", 1), (51466, "NEG", "", 4)]
    tables = make_tables(labs=[*labs, (51466, 3, "", 2)])
    for row in tables["hosp/labevents"]:
        row["valuenum"] = row["value"] if not isinstance(row["value"], str) else None
    passage = pass_through(tmp_path, tables)
    assert read_signals(passage) == {"lab_50813": "mmol/L"}
    assert passage.reasons("events") == []
    reasons = count_reasons(passage.read("lineage"), "hosp/labevents")
    assert reasons == {None: 4, "no value": 1, TEXT: 6}


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_every_form_of_a_file_gives_the_same(tmp_path, suffix):
    tables = make_tables(labs=[(50813, 2.1, "mmol/L", 4)], outputs=[(226559, 200, "ml", 3)])
    root = write(tmp_path / "h", tables, suffix)
    passage = Passage(open_source("mimic-iv", root), tmp_path / "out", _TRAIN)
    assert read_signals(passage) == {"lab_50813": "mmol/L", "output_226559": "ml"}
    assert len(passage.valid("events")) == 8


def test_a_row_that_cannot_be_split_is_quarantined_once(tmp_path):
    root = write(tmp_path / "h", make_tables(labs=[(50813, 2.1, "mmol/L", 4)]), ".csv")
    with (root / "hosp/labevents.csv").open("ab") as file:
        file.write(b"1,2\n")
        file.write(b"0,100,2150-01-01 15:00:00,,50813,2,2,m\xff,\n")
    passage = Passage(open_source("mimic-iv", root), tmp_path / "out", _TRAIN)
    assert find_unaccounted(passage.ingested, "events", passage.facts["rows read"]) == []
    assert [rule for rule, _ in passage.reasons("events")] == ["unreadable_field"] * 2
    assert len(passage.valid("events")) == 5


def test_what_is_no_item_id_becomes_no_code(tmp_path):
    passage = pass_through(tmp_path, make_tables(labs=[("John Smith", 2.1, "mmol/L", 4)]))
    assert read_signals(passage) == {}
    assert count_reasons(passage.read("lineage"), "hosp/labevents") == {UNLISTED: 4}


def test_without_the_setting_nothing_else_is_read(tmp_path):
    tables = make_tables(outputs=[(226559, 200, "ml", 4)])
    passage = pass_through(tmp_path, tables, Settings(split=_TRAIN.split))
    assert not (passage.ingested / "signals.json").exists()
    assert "icu/outputevents.csv.gz" not in passage.facts["rows read"]
    assert passage.valid("events")["code"].to_list() == ["heart_rate"]


def test_the_settings_ask_for_it_where_a_source_can(tmp_path):
    root = write(tmp_path / "h", hospital())
    covered = Config(inputs=InputsConfig(signals="covered", signal_coverage=0.2))
    listed = Config(inputs=InputsConfig(signals="listed"))
    mimic = open_source("mimic-iv", root)
    assert build_settings(covered, mimic).signal_coverage == 0.2
    assert build_settings(listed, mimic).signal_coverage is None
    demo = open_source("demo", tmp_path / "demo")
    assert build_settings(covered, demo).signal_coverage is None
    with pytest.raises(InputError, match=r"signal_coverage is 1\.5, it must be above 0"):
        Settings(signal_coverage=1.5)


def test_a_table_without_its_columns_is_refused(tmp_path):
    tables = make_tables(outputs=[(226559, 200, "ml", 4)])
    for row in tables["icu/outputevents"]:
        del row["storetime"]
    root = write(tmp_path / "h", tables)
    with pytest.raises(InputError, match=r"outputevents\.csv\.gz lacks the column storetime"):
        Passage(open_source("mimic-iv", root), tmp_path / "out", _TRAIN)


def test_codes_are_unique_and_do_not_change_as_items_come_in():
    dictionary = [
        Item("1", "Glucose", fluid="Blood"),
        Item("2", "Glucose", fluid="Urine"),
        Item("3", "glucose ", fluid="Urine"),
        Item("4", "Glucose urine 2"),
        Item("5", "µ", prefix="lab"),
        Item("6", "Foley"),
    ]
    codes = name_items(dictionary, taken=["heart_rate"])
    assert codes == {
        "1": "glucose",
        "2": "glucose_urine_2",
        "3": "glucose_urine_3",
        "4": "glucose_urine_2_4",
        "5": "lab_5",
        "6": "foley",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("denied: []", "needs a list under the key 'denied'"),
        ("denied: [{label: '(', why: x}]", "is not a regular expression"),
        ("denied: [{why: x}]", "an entry needs one of category, param_type, label"),
        ("denied: [{label: a}]", "lacks why"),
        ("denied: [{label: a, wy: x, why: x}]", "unknown key wy"),
    ],
)
def test_a_wrong_list_of_denials_is_refused(tmp_path, content, message):
    file = tmp_path / "covered.yaml"
    file.write_text(content)
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        load_denials(file)
