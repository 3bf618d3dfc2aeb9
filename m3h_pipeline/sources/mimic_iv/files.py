"""Where MIMIC-IV's tables lie, and which of their columns are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from m3h_pipeline.errors import InputError
from m3h_pipeline.sources.raw_tables import RawTable, find_file, open_table

_MEASUREMENT = (
    "subject_id",
    "hadm_id",
    "charttime",
    "storetime",
    "itemid",
    "value",
    "valuenum",
    "valueuom",
)
_OUTPUT = tuple(column for column in _MEASUREMENT if column != "valuenum")
_ED_SIGNS = ("temperature", "heartrate", "resprate", "o2sat", "sbp", "dbp")
_NOTE = ("note_id", "subject_id", "hadm_id", "charttime", "storetime", "text")


@dataclass(frozen=True)
class _Table:
    """``places``: where it may lie, without the ending; ``columns``: those that are read;
    ``is_for_covered``: read only where the signals are chosen by coverage.
    """

    places: tuple[str, ...]
    columns: tuple[str, ...]
    is_required: bool = False
    is_for_covered: bool = False


_TABLES = {
    "patients": _Table(
        ("hosp/patients",),
        ("subject_id", "gender", "anchor_age", "anchor_year"),
        is_required=True,
    ),
    "admissions": _Table(
        ("hosp/admissions",),
        (
            "subject_id",
            "hadm_id",
            "admittime",
            "dischtime",
            "deathtime",
            "admission_type",
            "discharge_location",
            "insurance",
            "language",
            "marital_status",
            "race",
            "hospital_expire_flag",
        ),
        is_required=True,
    ),
    "diagnoses": _Table(
        ("hosp/diagnoses_icd",), ("hadm_id", "icd_code", "icd_version"), is_required=True
    ),
    "chartevents": _Table(("icu/chartevents",), _MEASUREMENT),
    "labevents": _Table(("hosp/labevents",), _MEASUREMENT),
    "procedureevents": _Table(
        ("icu/procedureevents",),
        ("subject_id", "hadm_id", "starttime", "endtime", "storetime", "itemid"),
    ),
    "procedures_icd": _Table(("hosp/procedures_icd",), ("hadm_id", "icd_code", "icd_version")),
    "prescriptions": _Table(
        ("hosp/prescriptions",), ("subject_id", "hadm_id", "starttime", "drug_type", "drug")
    ),
    "emar": _Table(
        ("hosp/emar",),
        ("subject_id", "hadm_id", "charttime", "storetime", "medication", "event_txt"),
    ),
    "services": _Table(
        ("hosp/services",), ("subject_id", "hadm_id", "transfertime", "curr_service")
    ),
    "transfers": _Table(
        ("hosp/transfers",), ("subject_id", "hadm_id", "eventtype", "careunit", "intime")
    ),
    "microbiologyevents": _Table(
        ("hosp/microbiologyevents",),
        (
            "subject_id",
            "hadm_id",
            "chartdate",
            "charttime",
            "spec_type_desc",
            "storedate",
            "storetime",
            "test_name",
            "org_name",
            "ab_name",
            "interpretation",
        ),
    ),
    "omr": _Table(("hosp/omr",), ("subject_id", "chartdate", "result_name", "result_value")),
    "edstays": _Table(
        ("ed/edstays",), ("subject_id", "hadm_id", "stay_id", "intime", "arrival_transport")
    ),
    "triage": _Table(
        ("ed/triage",),
        ("subject_id", "stay_id", *_ED_SIGNS, "pain", "acuity", "chiefcomplaint"),
    ),
    "vitalsign": _Table(("ed/vitalsign",), ("subject_id", "stay_id", "charttime", *_ED_SIGNS)),
    "medrecon": _Table(
        ("ed/medrecon",), ("subject_id", "stay_id", "charttime", "name", "etcdescription")
    ),
    "pyxis": _Table(("ed/pyxis",), ("subject_id", "stay_id", "charttime", "name")),
    "radiology": _Table(("note/radiology",), _NOTE),
    "discharge": _Table(("note/discharge",), _NOTE),
    "icustays": _Table(("icu/icustays",), ("hadm_id", "intime")),
    "cxr": _Table(
        ("cxr/mimic-cxr-2.0.0-metadata", "mimic-cxr-2.0.0-metadata"),
        ("dicom_id", "subject_id", "study_id", "viewposition", "studydate", "studytime"),
    ),
    "outputevents": _Table(("icu/outputevents",), _OUTPUT, is_for_covered=True),
    "inputevents": _Table(
        ("icu/inputevents",),
        (
            "subject_id",
            "hadm_id",
            "starttime",
            "endtime",
            "storetime",
            "itemid",
            "rate",
            "rateuom",
        ),
        is_for_covered=True,
    ),
    "d_items": _Table(
        ("icu/d_items",),
        ("itemid", "label", "category", "param_type", "linksto"),
        is_for_covered=True,
    ),
    "d_labitems": _Table(
        ("hosp/d_labitems",), ("itemid", "label", "fluid", "category"), is_for_covered=True
    ),
}
COLUMNS_READ = {name: table.columns for name, table in _TABLES.items()}
# Read only where the prediction time asks for it.
_BY_MODE = {"icu": "icustays", "image": "cxr"}


def find_files(root: Path) -> dict[str, Path]:
    """The file of each table that is there."""
    files = {name: find_file(root, *table.places) for name, table in _TABLES.items()}
    return {name: file for name, file in files.items() if file}


def open_tables(root: Path, with_covered: bool = False) -> dict[str, RawTable]:
    """Look at the layout and at the header of every table that is read, those of covered signals
    too where they are asked for; an `InputError` where one is wrong.
    """
    if not root.is_dir():
        raise InputError(f"{root} is not a folder: name the one that holds hosp/ and icu/")
    files = find_files(root)
    missing = [
        f"{table.places[0]}.csv.gz"
        for name, table in _TABLES.items()
        if table.is_required and name not in files
    ]
    if missing:
        raise InputError(
            f"{root} is no MIMIC-IV folder, it lacks {', '.join(missing)}: name the one "
            "that holds hosp/ and icu/ (each table as csv.gz, csv or Parquet)"
        )
    return {
        name: open_table(root, file, COLUMNS_READ[name])
        for name, file in files.items()
        if _is_read(name, with_covered)
    }


def need_table_of_mode(root: Path, tables: Mapping[str, RawTable], mode: str) -> None:
    """Raise `InputError` where the table that a prediction mode asks for is not there."""
    table = _BY_MODE.get(mode)
    if table and table not in tables:
        raise InputError(
            f'{root} lacks {_TABLES[table].places[0]}.csv.gz, which prediction = "{mode}" needs: '
            "add it, or choose another prediction"
        )


def list_absent(tables: Mapping[str, RawTable], with_covered: bool = False) -> list[str]:
    """Places of the tables that are not there; ICU stays say nothing that is missed."""
    return [
        table.places[0]
        for name, table in _TABLES.items()
        if name != "icustays" and name not in tables and _is_read(name, with_covered)
    ]


def _is_read(name: str, with_covered: bool) -> bool:
    return with_covered or not _TABLES[name].is_for_covered


def find_image_folders(root: Path) -> list[Path]:
    """The folders that hold images; the first counts."""
    return [folder for folder in (root / "cxr" / "files", root / "files") if folder.is_dir()]
