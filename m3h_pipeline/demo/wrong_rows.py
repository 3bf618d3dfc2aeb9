"""Rows that are wrong on purpose, a fixed and known list, so that tests can check that they are
found.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from m3h_pipeline.demo.stays import Array, Stays
from m3h_pipeline.demo.tables import BROKEN_BYTE, PICTURES

README = """\
A synthetic hospital in the layout of MIMIC-IV, MIMIC-IV-Note and MIMIC-CXR-JPG, written by m3h.
No real patient is in it. What can be found in it was put into it: it says nothing of medicine.

wrong_rows.csv names the rows that are wrong on purpose: file, data row (from 1), kind.
  bad_date                    a date that the calendar does not have
  broken_utf8                 bytes that are no UTF-8
  discharge_before_admission  the two times exchanged
  duplicate                   the same row once more (this is the second)
  empty_file                  a picture's file without a byte
  empty_text                  a note without text
  impossible_value            a number that no patient can have
  missing_file                a picture without a file
  orphan_hadm_id              a stay that admissions does not have
  text_in_number              words where a number belongs
  truncated_file              a picture's file that ends too early: the row looks right
  unknown_unit                a unit that nobody uses
  unknown_version             neither ICD-9 nor ICD-10
"""
_NO_SUCH_DAY = "2150-02-30 08:00:00"
_NO_SUCH_STAY = "29999999"
# Items whose rows are spoiled: sodium, and heart rate.
_SIGNALS = {"hosp/labevents": "50983", "icu/chartevents": "220045"}

# Table -> kind -> (how many, cells to overwrite). Duplicates overwrite nothing; files are spoiled
# once written.
_PLANTS: dict[str, dict[str, tuple[int, dict[str, str]]]] = {
    "hosp/patients": {"text_in_number": (1, {"anchor_age": "unknown"})},
    "hosp/admissions": {
        "bad_date": (1, {"admittime": _NO_SUCH_DAY}),
        "discharge_before_admission": (1, {}),
        "duplicate": (1, {}),
    },
    "hosp/diagnoses_icd": {
        "orphan_hadm_id": (2, {"hadm_id": _NO_SUCH_STAY}),
        "unknown_version": (1, {"icd_version": "11"}),
    },
    "hosp/labevents": {
        "bad_date": (3, {"charttime": _NO_SUCH_DAY}),
        "duplicate": (4, {}),
        "impossible_value": (4, {"value": "1390", "valuenum": "1390"}),
        "orphan_hadm_id": (3, {"hadm_id": _NO_SUCH_STAY}),
        "text_in_number": (4, {"value": "HEMOLYZED", "valuenum": "HEMOLYZED"}),
        "unknown_unit": (4, {"valueuom": "drops"}),
    },
    "icu/chartevents": {
        "bad_date": (3, {"charttime": _NO_SUCH_DAY}),
        "duplicate": (3, {}),
        "impossible_value": (4, {"value": "900", "valuenum": "900"}),
        "orphan_hadm_id": (3, {"hadm_id": _NO_SUCH_STAY}),
        "text_in_number": (3, {"value": "see note", "valuenum": "see note"}),
        "unknown_unit": (3, {"valueuom": "furlongs"}),
    },
    "icu/procedureevents": {
        "bad_date": (1, {"starttime": _NO_SUCH_DAY}),
        "orphan_hadm_id": (1, {"hadm_id": _NO_SUCH_STAY}),
    },
    "note/radiology": {
        "bad_date": (1, {"charttime": _NO_SUCH_DAY}),
        "broken_utf8": (2, {"text": f"FINDINGS: {BROKEN_BYTE}{BROKEN_BYTE}. No acute process."}),
        "duplicate": (2, {}),
        "empty_text": (2, {"text": " "}),
        "orphan_hadm_id": (1, {"hadm_id": _NO_SUCH_STAY}),
    },
    "note/discharge": {
        "broken_utf8": (1, {"text": f"Discharge Diagnosis: {BROKEN_BYTE}{BROKEN_BYTE}"}),
        "empty_text": (1, {"text": " "}),
    },
    PICTURES: {
        "bad_date": (1, {"StudyDate": "21500230"}),
        "duplicate": (1, {}),
        "empty_file": (1, {}),
        "missing_file": (1, {}),
        "truncated_file": (1, {}),
    },
    "hosp/prescriptions": {
        "bad_date": (1, {"starttime": _NO_SUCH_DAY}),
        "orphan_hadm_id": (1, {"hadm_id": _NO_SUCH_STAY}),
    },
}


def plant_wrong_rows(
    rng: np.random.Generator, rows: dict[str, pl.DataFrame], stays: Stays
) -> pl.DataFrame:
    """Spoil some of the first rows of each table, in place; return file, row and kind of each, and
    a picture's path.

    A wrong stay spoils all of its records too, so the other rows are in stays that are right; no
    row is wrong twice.
    """
    bad, good = _choose_stays(rows, stays)
    wrong_rows = []
    for name, kinds in _PLANTS.items():
        frame = _as_text(rows[name])
        places = iter(rng.permutation(_draw_places(name, frame, stays, bad, good)).tolist())
        for kind, (count, cells) in kinds.items():
            for place in [next(places) for _ in range(count)]:
                at = place
                change = cells
                if kind == "duplicate":
                    frame = pl.concat([frame, frame[place : place + 1]])
                    at = len(frame) - 1
                elif kind == "discharge_before_admission":
                    change = {
                        "admittime": frame[place, "dischtime"],
                        "dischtime": frame[place, "admittime"],
                    }
                for column, value in change.items():
                    frame[at, column] = value
                wrong_rows.append(
                    (
                        f"{name}.csv.gz",
                        at + 1,
                        kind,
                        frame[at, "path"] if name == PICTURES else None,
                    )
                )
        rows[name] = frame
    return pl.DataFrame(wrong_rows, schema=["file", "row", "kind", "path"], orient="row")


def spoil_pictures(to: Path, wrong: pl.DataFrame) -> None:
    """Spoil the pictures' files that ``wrong`` names."""
    for kind, path in wrong.select("kind", "path").iter_rows():
        if kind == "missing_file":
            (to / path).unlink()
        elif kind == "empty_file":
            (to / path).write_bytes(b"")
        elif kind == "truncated_file":
            content = (to / path).read_bytes()
            (to / path).write_bytes(content[: len(content) // 3])


def _choose_stays(rows: dict[str, pl.DataFrame], stays: Stays) -> tuple[Array, Array]:
    """Four stays to be wrong, with as few records as can be had, and all that can hold other wrong
    rows.
    """
    is_long = stays.hours > 30
    has_pictures = np.isin(np.arange(len(stays)), rows[PICTURES]["stay"].to_numpy())
    records = (~np.isnat(stays.icu_in)).astype(int) + has_pictures
    is_only = np.bincount(stays.patient)[stays.patient] == 1
    bad = np.lexsort((records, ~is_only, ~is_long | stays.died))[:4]
    return bad, np.setdiff1d(np.flatnonzero(is_long), bad)


def _draw_places(name: str, frame: pl.DataFrame, stays: Stays, bad: Array, good: Array) -> Array:
    """Rows of a table that may be spoiled."""
    if name == "hosp/patients":
        return stays.patient[bad[:1]]
    if name == "hosp/admissions":
        return bad[1:]
    if name == PICTURES:
        # One from before the admission would not belong to the stay.
        stay = frame["stay"].cast(pl.Int64).to_numpy()
        is_during = frame["time"].str.to_datetime().to_numpy() > stays.admit[stay]
        return np.flatnonzero(np.isin(stay, good) & is_during)
    fits = pl.col("hadm_id").is_in(stays.hadm_id[good].astype(str))
    if name in _SIGNALS:
        fits &= (pl.col("itemid") == _SIGNALS[name]) & pl.col("valuenum").is_not_null()
    return frame.select(fits.fill_null(False).arg_true()).to_series().to_numpy()


def _as_text(frame: pl.DataFrame) -> pl.DataFrame:
    times = [name for name, kind in frame.schema.items() if kind == pl.Datetime]
    return frame.with_columns(pl.col(times).dt.strftime("%Y-%m-%d %H:%M:%S")).cast(pl.String)
