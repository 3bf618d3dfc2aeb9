"""A MIMIC-IV folder as MEDS, in the spelling of MIMIC-IV-MEDS 0.2, for tests of the source `meds`.

A converter of our own, since MIMIC-IV-MEDS brings a stack of its own and asks for every table of
the release. Two things differ from it: a column ``available_time`` carries when a record was known,
and a lab's time is when it was taken (MIMIC-IV-MEDS gives a result the time when it was stored, and
the specimen an event of its own).
"""

from __future__ import annotations

from pathlib import Path

import duckdb
import polars as pl
from meds import CodeMetadataSchema, DataSchema

_HADM = "hadm_id"
# Table -> its events: code, time, and the columns beside them.
_EVENTS = {
    "hosp/patients": [
        ("'GENDER//' || gender", "NULL", {}),
        ("'MEDS_BIRTH'", "make_timestamp(anchor_year::INT - anchor_age::INT, 1, 1, 0, 0, 0)", {}),
        ("'MEDS_DEATH'", "coalesce(death, dod)", {}),
    ],
    "hosp/admissions": [
        ("'HOSPITAL_ADMISSION//' || admission_type || '//UNK'", "admittime", {_HADM: _HADM}),
        (
            "'HOSPITAL_DISCHARGE//' || coalesce(discharge_location, 'UNK')",
            "dischtime",
            {_HADM: _HADM},
        ),
        *(
            (f"'{name.upper()}//' || {name}", "admittime", {_HADM: _HADM})
            for name in ("insurance", "language", "marital_status", "race")
        ),
    ],
    "hosp/diagnoses_icd": [
        ("'DIAGNOSIS//ICD//' || icd_version || '//' || icd_code", "dischtime", {_HADM: _HADM})
    ],
    "hosp/labevents": [
        (
            "'LAB//RESULT//' || itemid || '//' || coalesce(valueuom, 'UNK')",
            "charttime",
            {
                _HADM: _HADM,
                "numeric_value": "valuenum",
                "text_value": "value",
                "available_time": "storetime",
            },
        ),
    ],
    "icu/chartevents": [
        (
            "'LAB//' || itemid || '//' || coalesce(valueuom, 'UNK')",
            "charttime",
            {
                _HADM: _HADM,
                "numeric_value": "valuenum",
                "text_value": "value",
                "available_time": "storetime",
            },
        ),
    ],
    "icu/procedureevents": [
        (
            "'PROCEDURE//START//' || itemid",
            "starttime",
            # A procedure that was saved at or after its end was known when it began.
            {
                _HADM: _HADM,
                "available_time": (
                    "CASE WHEN endtime::TIMESTAMP > starttime::TIMESTAMP + INTERVAL 1 MINUTE AND "
                    "storetime::TIMESTAMP >= endtime::TIMESTAMP THEN starttime ELSE storetime END"
                ),
            },
        ),
    ],
    "hosp/procedures_icd": [
        ("'PROCEDURE//ICD//' || icd_version || '//' || icd_code", "chartdate", {_HADM: _HADM})
    ],
    "hosp/prescriptions": [
        (
            "CASE WHEN drug_type <> 'BASE' THEN 'MEDICATION//START//' || drug END",
            "starttime",
            {_HADM: _HADM},
        )
    ],
    "hosp/emar": [
        (
            "'MEDICATION//' || medication || '//' || event_txt",
            "charttime",
            {_HADM: _HADM, "available_time": "storetime"},
        )
    ],
    "hosp/transfers": [
        ("'TRANSFER_TO//' || eventtype || '//' || careunit", "intime", {_HADM: _HADM})
    ],
    "hosp/services": [("'SERVICE//' || curr_service", "transfertime", {_HADM: _HADM})],
    "hosp/omr": [("result_name", "chartdate", {"text_value": "result_value"})],
    "icu/icustays": [("'ICU_ADMISSION//UNIT'", "intime", {_HADM: _HADM})],
    "note/radiology": [
        (
            "'NOTE//radiology'",
            "charttime",
            {
                _HADM: _HADM,
                "text_value": "text",
                "note_id": "note_id",
                "available_time": "storetime",
            },
        ),
    ],
    "note/discharge": [
        (
            "'NOTE//discharge'",
            "charttime",
            {
                _HADM: _HADM,
                "text_value": "text",
                "note_id": "note_id",
                "available_time": "storetime",
            },
        ),
    ],
}
_TYPES = {
    _HADM: "BIGINT",
    "numeric_value": "FLOAT",
    "text_value": "VARCHAR",
    "note_id": "VARCHAR",
    "available_time": "TIMESTAMP",
}
# Tables whose events have a column of another table's.
_SOURCES = {
    "hosp/patients": """(
        SELECT patients.*, death
        FROM "hosp/patients" patients
        LEFT JOIN (
            SELECT subject_id, min(deathtime) AS death
            FROM read_csv('{admissions}', all_varchar = true)
            GROUP BY ALL
        ) USING (subject_id)
    )""",
    "hosp/diagnoses_icd": """(
        SELECT diagnoses.* EXCLUDE (subject_id), admissions.subject_id, admissions.dischtime
        FROM "hosp/diagnoses_icd" diagnoses
        JOIN "hosp/admissions" admissions USING (hadm_id)
    )""",
}


def as_meds(mimic: Path, to: Path, shards: int = 3, without: tuple[str, ...] = ()) -> Path:
    """Write ``mimic`` as MEDS into ``to``: shards by subject, sorted by subject and time; leave
    some columns out.
    """
    (to / "metadata").mkdir(parents=True)
    (to / "data" / "train").mkdir(parents=True)
    with duckdb.connect() as connection:
        parts = []
        for table, events in _EVENTS.items():
            file = mimic / f"{table}.csv.gz"
            if not file.exists():
                continue
            connection.execute(
                f"CREATE TABLE \"{table}\" AS FROM read_csv('{file}', all_varchar = true, header = "
                "true, delim = ',', quote = '\"', escape = '\"', parallel = false)"
            )
            source = _SOURCES.get(table, f'"{table}"')
            source = source.format(admissions=mimic / "hosp/admissions.csv.gz")
            for code, time, columns in events:
                beside = ", ".join(
                    f"({columns.get(name, 'NULL')})::{kind} AS {name}"
                    for name, kind in _TYPES.items()
                )
                parts.append(
                    f"""SELECT subject_id::BIGINT AS subject_id, ({time})::TIMESTAMP AS time,
                    {code} AS code, {beside} FROM {source}"""
                )
        rows = connection.execute(" UNION ALL BY NAME ".join(parts)).pl()
    # A row without a code, and an event without its time, are none (MIMIC-IV-MEDS drops them, too).
    rows = rows.filter(pl.col("code").is_not_null()).filter(
        pl.col("time").is_not_null() | pl.col("code").str.starts_with("GENDER")
    )
    rows = rows.drop(without).sort("subject_id", "time", maintain_order=True)
    for shard in range(shards):
        part = rows.filter(pl.col("subject_id") % shards == shard).to_arrow()
        part = DataSchema.align(part)
        DataSchema.validate(part)
        pl.DataFrame(part).write_parquet(to / "data" / "train" / f"{shard}.parquet")
    codes = rows.select(pl.col("code").unique().sort()).with_columns(
        description=pl.lit(None, pl.String), parent_codes=pl.lit(None, pl.List(pl.String))
    )
    pl.DataFrame(CodeMetadataSchema.align(codes.to_arrow())).write_parquet(
        to / "metadata" / "codes.parquet"
    )
    return to
