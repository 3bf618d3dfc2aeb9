"""MIMIC-IV (2.2 and 3.x), with MIMIC-IV-Note and MIMIC-CXR-JPG where they are present, to the
canonical tables.

A stay is a hospital admission (``hadm_id``). Each table may be csv.gz, csv or Parquet. All work is
done in DuckDB, out of core, on text columns: what can't be parsed becomes null and is named in
``parse_errors``, for the contract to quarantine; what is right but not wanted is counted in the
lineage as out of scope, with the reason.

When a record became known (``available_time``)
- vital signs, labs, notes: ``storetime``, where it is there and not before the record's own time; else that time.
- procedures: a record is saved again whenever it changes, so the ``storetime`` of one that lasts lies at its end. That
  it began was known when it began: ``starttime`` for those saved at or after their end, if that is later than the
  start; ``storetime`` for the others (points in time, and those saved while they ran).
- discharge summaries: not before the discharge, since their ``charttime`` is a bare date.
- images: when they were taken.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from m3h_pipeline.errors import InputError
from m3h_pipeline.sources.base import (
    EVENTS,
    IMAGES,
    LABELS,
    NOTES,
    Settings,
    Source,
    listing_fingerprint,
    samples_schema,
)
from m3h_pipeline.sources.columns import Columns
from m3h_pipeline.sources.extraction import (
    EVENTS_ORDER,
    NOTES_ORDER,
    NUMBER,
    TIME,
    Extraction,
    parse_errors,
)
from m3h_pipeline.sources.prediction import need_mode, points
from m3h_pipeline.sources.raw_tables import RawReader, RawTable, find_file, open_table
from m3h_pipeline.sources.tasks_file import (
    GIVEN_AWAY,
    TaskRule,
    gives_away,
    limits_of,
    load_signals,
    load_tasks,
)
from m3h_pipeline.sources.units import normalised, unit_rules
from m3h_pipeline.state.database import literal, spill_folder, workbench

COLUMNS = Columns(
    features=("age", "sex", "admission_type", "insurance", "marital_status"),
    audit=("sex", "race", "language", "insurance"),
)
_DECLARED = {
    "age": "DOUBLE",
    **dict.fromkeys(
        ("sex", "admission_type", "insurance", "language", "marital_status", "race"), "VARCHAR"
    ),
}

# Table -> where it may lie, and the columns that are read.
_FILES = {
    "patients": (["hosp/patients"], ["subject_id", "gender", "anchor_age", "anchor_year"]),
    "admissions": (
        ["hosp/admissions"],
        ["subject_id", "hadm_id", "admittime", "dischtime", "deathtime", "admission_type", "discharge_location",
         "insurance", "language", "marital_status", "race", "hospital_expire_flag"],
    ),
    "diagnoses": (["hosp/diagnoses_icd"], ["hadm_id", "icd_code", "icd_version"]),
    "chartevents": (
        ["icu/chartevents"],
        ["subject_id", "hadm_id", "charttime", "storetime", "itemid", "value", "valuenum", "valueuom"],
    ),
    "labevents": (
        ["hosp/labevents"],
        ["subject_id", "hadm_id", "charttime", "storetime", "itemid", "value", "valuenum", "valueuom"],
    ),
    "procedureevents": (
        ["icu/procedureevents"],
        ["subject_id", "hadm_id", "starttime", "endtime", "storetime", "itemid"],
    ),
    "radiology": (["note/radiology"], ["note_id", "subject_id", "hadm_id", "charttime", "storetime", "text"]),
    "discharge": (["note/discharge"], ["note_id", "subject_id", "hadm_id", "charttime", "storetime", "text"]),
    "icustays": (["icu/icustays"], ["hadm_id", "intime"]),
    "cxr": (
        ["cxr/mimic-cxr-2.0.0-metadata", "mimic-cxr-2.0.0-metadata"],
        ["dicom_id", "subject_id", "study_id", "viewposition", "studydate", "studytime"],
    ),
}  # fmt: skip
_REQUIRED = ("patients", "admissions", "diagnoses")
_EVENT_TABLES = {"chartevents": "vital", "labevents": "lab", "procedureevents": "procedure"}

# Read only where the prediction time asks for it.
_BY_MODE = {"icu": "icustays", "image": "cxr"}
_PLACES = {
    "home": ["HOME"],
    "home_with_services": ["HOME HEALTH CARE"],
    "facility": [
        "SKILLED NURSING FACILITY", "REHAB", "CHRONIC/LONG TERM ACUTE CARE", "ACUTE HOSPITAL", "HEALTHCARE FACILITY",
        "ASSISTED LIVING", "PSYCH FACILITY", "OTHER FACILITY",
    ],
    "other": ["HOSPICE", "AGAINST ADVICE"],
    "died": ["DIED"],
}  # fmt: skip


@dataclass
class MimicIV(Source):
    """A folder in MIMIC-IV's layout (``hosp/``, ``icu/``, and where present ``note/`` and
    ``cxr/``).
    """

    path: Path
    name: ClassVar[str] = "mimic-iv"
    prediction_modes = ("admission", "icu", "image", "nightly")

    def __post_init__(self) -> None:
        self.path = Path(self.path).absolute()

    def check(self) -> None:
        """Look at the layout and at the header of every table."""
        self._tables()

    def fingerprint(self) -> str:
        """Hash over the listing of the tables that are read, and of the images."""
        files = [file for places, _ in _FILES.values() if (file := find_file(self.path, *places))]
        return listing_fingerprint(self.path, [*files, *self._image_folders()])

    def extract(self, to: Path, settings: Settings) -> dict[str, Any]:
        """Write the canonical tables; see `Source.extract`."""
        need_mode(self.name, settings.prediction, self.prediction_modes)
        tables = self._tables()
        needed = _BY_MODE.get(settings.prediction)
        if needed and needed not in tables:
            raise InputError(f'{self.path} lacks {_FILES[needed][0][0]}.csv.gz, which prediction = '
                             f'"{settings.prediction}" needs: add it, or choose another prediction')  # fmt: skip
        rules = load_tasks(only=settings.tasks)
        spill = spill_folder(to, settings.spill)
        with workbench(spill, settings.memory_limit) as connection:
            columns = {table: names for table, (_, names) in _FILES.items()}
            work = MimicExtraction(
                connection, RawReader(connection, spill), tables, settings, columns, rules=rules
            )
            counts = work.extract(to, self._image_folders())
        (to / "tasks.json").write_text(
            json.dumps([rule.spec.to_dict() for rule in rules], indent=1) + "\n"
        )
        COLUMNS.save(to)
        optional = [table for table in _FILES if table != "icustays"]
        absent = [_FILES[table][0][0] for table in optional if table not in tables]
        return {**counts, "absent": absent, "limits": limits_of(rules)}

    def _tables(self) -> dict[str, RawTable]:
        if not self.path.is_dir():
            raise InputError(f"{self.path} is not a folder: name the one that holds hosp/ and icu/")
        found = {table: find_file(self.path, *places) for table, (places, _) in _FILES.items()}
        if missing := [
            f"{_FILES[table][0][0]}.csv.gz" for table in _REQUIRED if found[table] is None
        ]:
            raise InputError(
                f"{self.path} is no MIMIC-IV folder, it lacks {', '.join(missing)}: name the one "
                "that holds hosp/ and icu/ (each table as csv.gz, csv or Parquet)"
            )
        return {
            table: open_table(self.path, file, _FILES[table][1])
            for table, file in found.items()
            if file
        }

    def _image_folders(self) -> list[Path]:
        return [
            folder
            for folder in (self.path / "cxr" / "files", self.path / "files")
            if folder.is_dir()
        ]


@dataclass(kw_only=True)
class MimicExtraction(Extraction):
    """MIMIC-IV's tables; ``placed_by_time``: table -> rows kept that had no hadm_id."""

    rules: Sequence[TaskRule]
    placed_by_time: dict[str, int] = field(default_factory=dict)

    def extract(self, to: Path, image_folders: Sequence[Path]) -> dict[str, Any]:
        self.define_macros(self.settings.timezone)
        with self.loading(self._event_tables()):
            samples = self._samples(to)
            labels = self._labels(to)
        counts: dict[str, Any] = {
            "samples": samples,
            "events": self._events(to),
            "notes": self._notes(to),
            "images": self._images(to, image_folders),
            "labels": labels,
        }
        return {**counts, "placed by time": self.placed_by_time, **self.close(to)}

    # Samples --------------------------------------------------------------------------------------

    def _samples(self, to: Path) -> int:
        self.load("patients")
        self.load("admissions")
        self.connection.execute(_PEOPLE)
        self.connection.execute(_STAYS_READ)
        settings = self.settings
        if settings.prediction == "icu":
            self.load("icustays")
            self.connection.execute(_ICU_TIMES)
            self.count("samples", "icustays", "icu_rows")
        if settings.prediction == "image":
            self.connection.execute(
                _IMAGE_TIMES.format(typed=_CXR.format(raw=self.load("cxr"), root="''"))
            )
        moments = points(
            settings.prediction, settings.prediction_hours, settings.nightly_at, settings.timezone
        )
        self.connection.execute(f"CREATE TEMP TABLE points AS {moments}")
        self.connection.execute(_STAYS)
        self.register_splits("sample_rows")
        kept = self.write(
            to / "samples.parquet",
            samples_schema(_DECLARED),
            f"""SELECT *, {literal(self.tables["admissions"].name)} AS source_file
            FROM sample_rows LEFT JOIN splits USING (subject_id)""",
            "sample_id, source_row",
        )
        self.count("samples", "admissions", "stay_rows")
        self.count("samples", "patients", "people_rows")
        return kept

    # Events ---------------------------------------------------------------------------------------

    def _event_tables(self) -> dict[str, dict[str, Any]]:
        """The event tables that are there, and how they are loaded."""
        how: dict[str, dict[str, Any]] = {}
        for table, kind in _EVENT_TABLES.items():
            items = ", ".join(
                literal(str(item)) for s in load_signals() if s.kind == kind for item in s.mimic_iv
            )
            how[table] = {"where": f"as_text(itemid) IN ({items})"}
            if kind != "procedure":
                how[table] |= {"derived": MEASURED, "keep": False}
        return {table: arguments for table, arguments in how.items() if table in self.tables}

    def _events(self, to: Path) -> int:
        signals = load_signals()
        self.register(
            "signals",
            [(str(item), s.code, s.kind, s.unit) for s in signals for item in s.mimic_iv],
            ["item", "code", "kind", "unit"],
        )
        self.register("unit_rules", unit_rules(signals), ["code", "spelling", "factor"])
        here = {table: kind for table, kind in _EVENT_TABLES.items() if table in self.tables}
        kept = self._write_events(to, here)
        for table in here:
            listed = sum(rows for _, raw, _, rows in self.lineage if raw == table)
            self.lineage.append(
                ("events", table, "not a listed signal", self.rows_read[table] - listed)
            )
        return kept

    def _write_events(self, to: Path, tables: Mapping[str, str]) -> int:
        """Place and write the rows of the raw tables (-> "procedure", or another kind for
        measurements).
        """
        typed = {
            table: (PROCEDURES if kind == "procedure" else MEASUREMENTS).format(raw=f"raw_{table}")
            for table, kind in tables.items()
        }
        for table, rows in typed.items():
            self._place("events", table, rows)
        seen = " ".join(f"UNION SELECT item, valueuom FROM ({rows})" for rows in typed.values())
        self.connection.execute(_MEANINGS.format(seen=seen))
        stays = " UNION ".join(f"SELECT stay_id FROM rows_of_{table}" for table in tables)
        types = self.enumerate(
            "events",
            stay_id=stays or "SELECT NULL::VARCHAR",
            code="SELECT code FROM meanings",
            unit="SELECT unit FROM meanings",
        )
        for column in types.keys() & {"code", "unit"}:
            self.connection.execute(f"ALTER TABLE meanings ALTER {column} TYPE {types[column]}")
        parts = [
            _EVENTS.format(table=table, file=literal(self.tables[table].name)) for table in tables
        ]
        return self.write_parts(to / "events.parquet", EVENTS, parts, EVENTS_ORDER, types)

    def _place(self, to: str, table: str, typed: str) -> None:
        """The view ``placed_<table>`` of ``typed`` rows, which go ``to`` a canonical table: with
        their stay, or the reason why they are out of scope. ``rows_of_<table>`` has how many each
        stay has, and the lineage their sum.
        """
        self.connection.execute(
            f"CREATE TEMP TABLE by_time_{table} AS {_BY_TIME.format(typed=typed)}"
        )
        self.connection.execute(
            f"CREATE TEMP VIEW placed_{table} AS {_PLACED.format(typed=typed, table=table)}"
        )
        # Where a table is made of several files, each row says of which.
        file = self.expressions.get("source_file", literal(table))
        self.connection.execute(
            f"""CREATE TEMP TABLE rows_of_{table} AS
            SELECT stay_id, reason, by_time, {file} AS file, count(*) AS rows FROM placed_{table} GROUP BY ALL"""
        )
        found = self.connection.execute(
            f"""SELECT file, reason, sum(rows)::BIGINT, sum(rows) FILTER (by_time AND stay_id IS NOT NULL)::BIGINT
            FROM rows_of_{table} GROUP BY file, reason ORDER BY file, reason"""
        ).fetchall()
        self.lineage += [(to, name, reason, rows) for name, reason, rows, _ in found]
        self.placed_by_time[table] = sum(
            by_time or 0 for _, reason, _, by_time in found if reason is None
        )

    # Notes and images -----------------------------------------------------------------------------

    def _notes(self, to: Path) -> int:
        parts = []
        for table in ("radiology", "discharge"):
            if table not in self.tables:
                continue
            reason = GIVEN_AWAY if table in gives_away(self.rules) else None
            self._place(
                "notes",
                table,
                NOTE_ROWS.format(raw=self.load(table), kind=table, reason=literal(reason)),
            )
            columns = f"* REPLACE ({NOT_BEFORE_DISCHARGE})" if table == "discharge" else "*"
            parts.append(
                f"SELECT {columns}, {literal(self.tables[table].name)} AS source_file FROM "
                f"placed_{table}"
            )
        return self.write_parts(to / "notes.parquet", NOTES, parts, NOTES_ORDER)

    def _images(self, to: Path, folders: Sequence[Path]) -> int:
        parts = []
        if "cxr" in self.tables:
            root = folders[0] if folders else self.tables["cxr"].file.parent / "files"
            self._place("images", "cxr", _CXR.format(raw=self.load("cxr"), root=literal(root)))
            parts.append(
                f"SELECT *, {literal(self.tables['cxr'].name)} AS source_file FROM placed_cxr"
            )
        return self.write_parts(
            to / "images.parquet", IMAGES, parts, "stay_id, time, image_id, view, path, source_row"
        )

    # Labels ---------------------------------------------------------------------------------------

    def _labels(self, to: Path) -> int:
        parts = [_of_each_sample(self._column_labels(rule)) for rule in self.rules if rule.column]
        coded = [rule for rule in self.rules if rule.icd9 or rule.icd10]
        self.load("diagnoses")
        self.connection.execute(_DIAGNOSES)
        self.count("labels", "diagnoses", "diagnoses")
        self.register(
            "prefixes",
            [(rule.spec.name, version, prefix) for rule in coded
             for version, prefixes in (("9", rule.icd9), ("10", rule.icd10)) for prefix in prefixes],
            ["task", "version", "prefix"],
        )  # fmt: skip
        source = literal(self.tables["diagnoses"].name)
        parts.append(f"SELECT *, {source} AS source_file FROM ({_of_each_sample(_CODED_LABELS)})")
        parts.append(f"SELECT *, {source} AS source_file FROM ({_WRONG_DIAGNOSES})")
        types = self.enumerate(
            "labels",
            sample_id="SELECT sample_id FROM sample_ids UNION SELECT stay_id FROM diagnoses",
            task=f"SELECT unnest({[rule.spec.name for rule in self.rules]}::VARCHAR[])",
        )
        return self.write_parts(
            to / "labels.parquet", LABELS, parts, "sample_id, task, source_row", types
        )

    def _column_labels(self, rule: TaskRule) -> str:
        """SQL: one task's labels from its column; a contradiction or an unknown text is a wrong
        row.
        """
        value, problem = _column_sql(rule)
        return f"""SELECT stay_id, {literal(rule.spec.name)} AS task, label AS value, source_row,
                problem AS parse_errors, {literal(self.tables["admissions"].name)} AS source_file
            FROM (SELECT *, {problem} AS problem, CASE WHEN {problem} IS NULL THEN {value} END AS label FROM stays)
            WHERE has_labels AND (label IS NOT NULL OR problem IS NOT NULL)"""


def _of_each_sample(labels: str) -> str:
    """SQL: what is known of a stay, for each of its samples."""
    return f"SELECT labels.*, sample_id FROM ({labels}) labels JOIN sample_ids USING (stay_id)"


def _column_sql(rule: TaskRule) -> tuple[str, str]:
    """SQL of a derived column's value and of what is wrong with it (null: nothing)."""
    died = "coalesce(died_flag = '1', death_time IS NOT NULL OR place = 'DIED')"
    flag = """CASE WHEN died_flag NOT IN ('0', '1') THEN 'hospital_expire_flag: not 0 or 1'
        WHEN died_flag = '0' AND death_time IS NOT NULL THEN 'hospital_expire_flag: contradicts deathtime'
        WHEN died_flag = '0' AND place = 'DIED' THEN 'discharge_location: contradicts hospital_expire_flag' END"""
    if rule.column == "length_of_stay":
        return "date_diff('microsecond', admit_time, discharge_time) / 86400e6", "NULL"
    if rule.column == "death_in_hospital":
        known = "coalesce(died_flag, place, death_time::VARCHAR) IS NOT NULL"
        return f"CASE WHEN {known} THEN ({died})::INT::DOUBLE END", flag
    if rule.column == "discharge_location":
        classes = rule.spec.class_names
        if unknown := sorted(set(classes) ^ _PLACES.keys()):
            raise InputError(f"tasks.yaml: {rule.spec.name}: MIMIC-IV's places go to the classes "
                             f"{', '.join(_PLACES)}; {', '.join(unknown)} does not agree")  # fmt: skip
        index = {text: classes.index(name) for name, texts in _PLACES.items() for text in texts}
        cases = " ".join(f"WHEN '{text}' THEN {number}" for text, number in index.items())
        value = (
            f"CASE WHEN {died} THEN {classes.index('died')} ELSE (CASE place {cases} END) "
            "END::DOUBLE"
        )
        unknown_place = (
            f"CASE WHEN place NOT IN {tuple(index)} THEN 'discharge_location: not a known place' "
            "END"
        )
        return value, f"coalesce({flag}, {unknown_place})"
    raise InputError(f"tasks.yaml: {rule.spec.name}: MIMIC-IV has no column {rule.column!r}; known are "
                     "length_of_stay, death_in_hospital, discharge_location")  # fmt: skip


# SQL ----------------------------------------------------------------------------------------------

# One row a patient; where an id is there twice, the first counts, and if they differ its stays are
# wrong rows.
_PEOPLE = f"""
CREATE TEMP TABLE people AS
SELECT as_id(subject_id) AS subject_id, arg_min(as_text(gender), source_row) AS sex,
    arg_min(as_number(anchor_age), source_row) AS anchor_age,
    arg_min(as_number(anchor_year), source_row) AS anchor_year,
    min(source_row) AS source_row,
    nullif(concat_ws('; ', arg_min({parse_errors({"anchor_age": NUMBER, "anchor_year": NUMBER}, "broken")}, source_row),
        CASE WHEN count(DISTINCT (gender, anchor_age, anchor_year)) > 1 THEN 'subject_id: patients contradict' END),
        '') AS problem
FROM raw_patients WHERE subject_id IS NOT NULL GROUP BY ALL
"""

_STAYS_READ = f"""
CREATE TEMP TABLE stays_read AS
WITH typed AS (
    SELECT as_id(hadm_id) AS stay_id, as_id(subject_id) AS subject_id,
        as_time(admittime) AS admit_time, as_time(deathtime) AS death_time,
        -- For some who died, MIMIC-IV has the day alone as dischtime: midnight, before the death.
        greatest(as_time(dischtime), as_time(deathtime)) AS discharge_time,
        as_text(admission_type) AS admission_type, as_text(insurance) AS insurance, as_text(language) AS language,
        as_text(marital_status) AS marital_status, as_text(race) AS race,
        upper(as_text(discharge_location)) AS place, as_id(hospital_expire_flag) AS died_flag,
        as_text(dischtime) IS NULL OR as_time(dischtime) IS NOT NULL AS end_is_clear, source_row, broken,
        {parse_errors({"admittime": TIME, "dischtime": TIME, "deathtime": TIME})} AS errors
    FROM raw_admissions
)
SELECT typed.* EXCLUDE (errors, broken), people.sex,
    people.anchor_age + year(typed.admit_time) - people.anchor_year AS age,
    nullif(concat_ws('; ', broken, errors, people.problem,
        CASE WHEN typed.subject_id IS NOT NULL AND people.subject_id IS NULL THEN 'subject_id: not in patients' END,
        CASE WHEN death_time < admit_time THEN 'deathtime: before admittime' END), '') AS parse_errors,
    coalesce(death_time, discharge_time) AS end_time,
    -- A stay that ends before it begins is not short but wrong.
    admit_time IS NULL OR coalesce(death_time, discharge_time) < admit_time IS TRUE AS times_wrong
FROM typed LEFT JOIN people USING (subject_id)
"""

_ICU_TIMES = """
CREATE TEMP TABLE icu_times AS
SELECT as_id(hadm_id) AS stay_id, as_time(intime) AS time FROM raw_icustays WHERE as_time(intime) IS NOT NULL;

CREATE TEMP TABLE icu_rows AS
SELECT CASE WHEN broken IS NOT NULL THEN broken WHEN time IS NULL AND stays_read.stay_id IS NOT NULL THEN NULL
    WHEN stays_read.stay_id IS NULL THEN 'no such stay in admissions'
    WHEN row_number() OVER (PARTITION BY icu.stay_id ORDER BY time NULLS LAST, icu.source_row) > 1
        THEN 'not the first ICU stay of its admission' END AS reason, icu.source_row
FROM (SELECT as_id(hadm_id) AS stay_id, as_time(intime) AS time, source_row, broken FROM raw_icustays) icu
LEFT JOIN (SELECT DISTINCT stay_id FROM stays_read) stays_read USING (stay_id);

-- When intensive care began can't be said: the contract quarantines the sample.
UPDATE stays_read SET times_wrong = true, parse_errors = concat_ws('; ', parse_errors, 'intime: not a date')
WHERE stay_id IN (SELECT as_id(hadm_id) FROM raw_icustays WHERE hadm_id IS NOT NULL AND as_time(intime) IS NULL);
"""

# The images that lie within one stay of their patient alone, as in _PLACED.
_IMAGE_TIMES = """
CREATE TEMP TABLE image_times AS
SELECT min(stay.stay_id) AS stay_id, any_value(image.image_id) AS image_id, any_value(image.time) AS time
FROM ({typed}) image JOIN stays_read stay ON stay.subject_id = image.subject_id AND stay.end_is_clear
    AND image.time >= stay.admit_time AND (stay.discharge_time IS NULL OR image.time <= stay.discharge_time)
WHERE image.image_id IS NOT NULL AND image.parse_errors IS NULL
GROUP BY image.source_row HAVING count(DISTINCT stay.stay_id) = 1
"""

# The stays with what became of them, the samples, one row a stay, and the patients with what became
# of them.
_STAYS = """
CREATE TEMP TABLE stay_rows AS
SELECT stays_read.*, why.reason FROM stays_read JOIN (
    SELECT source_row, CASE WHEN bool_or(reason IS NULL) THEN NULL ELSE min(reason) END AS reason
    FROM points GROUP BY source_row) why USING (source_row);

CREATE TEMP TABLE sample_rows AS
SELECT stay_id || coalesce('-' || suffix, '') AS sample_id, stays_read.*, prediction_time
FROM stays_read JOIN points USING (source_row) WHERE reason IS NULL;

CREATE TEMP TABLE sample_ids AS SELECT DISTINCT stay_id, sample_id FROM sample_rows;

CREATE TEMP TABLE stays AS
SELECT *, reason IS NULL AND parse_errors IS NULL AND coalesce(discharge_time >= admit_time, false) AS has_labels
FROM stay_rows WHERE stay_id IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY stay_id ORDER BY source_row) = 1;

CREATE TEMP TABLE people_rows AS
SELECT CASE
    WHEN as_id(raw.subject_id) IS NULL THEN 'no subject_id'
    WHEN people.source_row <> raw.source_row THEN 'the same patient again'
    WHEN as_id(raw.subject_id) NOT IN (SELECT subject_id FROM stay_rows WHERE reason IS NULL AND subject_id IS NOT NULL)
        THEN 'no stay in the cohort'
    END AS reason
FROM raw_patients raw LEFT JOIN people ON people.subject_id = as_id(raw.subject_id)
"""

_KEYS = "as_id(hadm_id) AS hadm_id, as_id(subject_id) AS subject_id"
# When a record was known: when it was stored, unless that is missing or before the record's own
# time.
_AVAILABLE = (
    "CASE WHEN as_time(storetime) >= {time} THEN as_time(storetime) ELSE {time} END AS "
    "available_time"
)

_MEASUREMENT_ERRORS = parse_errors(
    {"charttime": TIME, "storetime": TIME, "valuenum": NUMBER},
    """CASE WHEN as_text(valuenum) IS NULL AND as_text(value) <> '___' AND as_number(value) IS NULL
        THEN 'value: not a number' || raw_of(value) END""",
)
# What is kept of a raw measurement, and what is read from there: most rows of a hospital are these,
# and nearly all are right, so that only the others are looked at closely.
MEASURED = {
    "hadm_id": "as_id(hadm_id)",
    "subject_id": "as_id(subject_id)",
    "item": "as_text(itemid)",
    "taken": "as_time(charttime)",
    "stored": "as_time(storetime)",
    "number": "coalesce(as_number(valuenum), as_number(value))",
    "valueuom": "valueuom",
    # Three underscores stand for what was removed to protect the patient.
    "nothing": """CASE WHEN as_number(valuenum) IS NULL
        THEN as_text(valuenum) IS NULL AND coalesce(as_text(value), '___') = '___' ELSE false END""",
    "errors": f"""CASE WHEN as_time(charttime) IS NULL OR as_number(valuenum) IS NULL
        OR (as_time(storetime) IS NULL AND storetime IS NOT NULL) THEN {_MEASUREMENT_ERRORS} END""",
}
MEASUREMENTS = """
SELECT hadm_id, subject_id, taken AS time, CASE WHEN stored >= taken THEN stored ELSE taken END AS available_time,
    item, valueuom, number, CASE WHEN broken IS NULL AND nothing THEN 'no value' END AS reason,
    CASE WHEN broken IS NULL THEN errors ELSE concat_ws('; ', errors, broken) END AS parse_errors, source_row
FROM {raw}
"""

PROCEDURES = f"""
SELECT {_KEYS}, as_time(starttime) AS time,
    CASE WHEN as_time(endtime) > as_time(starttime) + INTERVAL 1 MINUTE AND as_time(storetime) >= as_time(endtime)
        THEN as_time(starttime)
        WHEN as_time(storetime) >= as_time(starttime) THEN as_time(storetime)
        ELSE as_time(starttime) END AS available_time,
    as_text(itemid) AS item, NULL::VARCHAR AS valueuom, CASE WHEN as_text(itemid) IS NOT NULL THEN 1.0 END AS number,
    NULL::VARCHAR AS reason,
    {parse_errors({"starttime": TIME, "endtime": TIME, "storetime": TIME}, "broken")} AS parse_errors, source_row
FROM {{raw}}
"""

# What the items mean, each in the spellings of its unit.
_MEANINGS = f"""
CREATE TEMP TABLE meanings AS
SELECT seen.item, seen.valueuom, s.code, rule.factor,
    CASE WHEN rule.factor IS NULL THEN as_text(seen.valueuom) ELSE s.unit END AS unit
FROM (SELECT NULL AS item, NULL AS valueuom WHERE FALSE {{seen}}) seen JOIN signals s USING (item)
LEFT JOIN unit_rules rule ON rule.code = s.code AND rule.spelling = {normalised("seen.valueuom")}
"""
_EVENTS = """
SELECT placed.*, meant.code, number * coalesce(meant.factor, 1) AS value, meant.unit, {file} AS source_file
FROM placed_{table} placed LEFT JOIN meanings meant
ON meant.item = placed.item AND meant.valueuom IS NOT DISTINCT FROM placed.valueuom
"""

NOTE_ROWS = f"""
SELECT {_KEYS}, as_text(note_id) AS note_id, as_time(charttime) AS time,
    {_AVAILABLE.format(time="as_time(charttime)")}, '{{kind}}' AS kind, text,
    {{reason}}::VARCHAR AS reason,
    {parse_errors({"charttime": TIME, "storetime": TIME}, "broken")} AS parse_errors, source_row
FROM {{raw}} raw
"""

# studydate 21800506, studytime 93012.5 for 9:30:12; either may carry pandas' .0
_CXR = """
SELECT NULL::VARCHAR AS hadm_id, subject_id, dicom_id AS image_id, taken AS time, taken AS available_time, view,
    concat_ws('/', root, 'p' || left(subject_id, 2), 'p' || subject_id, 's' || study_id, dicom_id || '.jpg') AS path,
    NULL::VARCHAR AS reason,
    nullif(concat_ws('; ', CASE WHEN taken IS NULL AND (day IS NOT NULL OR clock IS NOT NULL)
        THEN 'studydate, studytime: not a date' END, broken), '') AS parse_errors,
    source_row
FROM (
    SELECT as_id(subject_id) AS subject_id, as_id(study_id) AS study_id, as_text(dicom_id) AS dicom_id,
        as_text(viewposition) AS view, as_id(studydate) AS day, as_text(studytime) AS clock, {root} AS root,
        in_utc(try_strptime(as_id(studydate) || lpad(floor(as_number(studytime))::BIGINT::VARCHAR, 6, '0'),
            '%Y%m%d%H%M%S')) AS taken,
        broken, source_row
    FROM {raw})
"""

NOT_BEFORE_DISCHARGE = "greatest(available_time, discharge_time) AS available_time"

# A row without hadm_id belongs to the one stay of its patient during which it was taken. A row of
# an unknown stay, or with neither hadm_id nor time, goes on: the contract quarantines it.
_BY_TIME = """
SELECT t.source_row, min(s.stay_id) AS stay_id, count(*) AS stays
FROM (FROM ({typed}) WHERE hadm_id IS NULL AND reason IS NULL AND time IS NOT NULL) t
JOIN stays s ON s.subject_id = t.subject_id AND s.end_is_clear
    AND t.time >= s.admit_time AND (s.discharge_time IS NULL OR t.time <= s.discharge_time)
GROUP BY t.source_row
"""
_PLACED = """
SELECT typed.* EXCLUDE (hadm_id, subject_id, reason, parse_errors),
    coalesce(typed.hadm_id, by_time.stay_id) AS stay_id, typed.hadm_id IS NULL AS by_time, stay.discharge_time,
    CASE WHEN typed.reason IS NOT NULL THEN typed.reason
        WHEN stay.stay_id IS NOT NULL AND coalesce(by_time.stays, 1) = 1 THEN stay.reason
        WHEN by_time.stays > 1 THEN 'no hadm_id, and taken within more than one stay'
        WHEN typed.hadm_id IS NULL AND typed.time IS NOT NULL THEN 'no hadm_id, and taken outside any stay'
    END AS reason,
    nullif(concat_ws('; ', typed.parse_errors,
        CASE WHEN typed.subject_id <> stay.subject_id THEN 'subject_id: not the patient of the stay' END), '')
        AS parse_errors
FROM ({typed}) typed LEFT JOIN by_time_{table} by_time USING (source_row)
LEFT JOIN stays stay ON stay.stay_id = coalesce(typed.hadm_id, by_time.stay_id)
"""

_DIAGNOSES = """
CREATE TEMP TABLE diagnoses AS
SELECT d.* EXCLUDE (broken), nullif(concat_ws('; ', broken,
        CASE WHEN broken IS NULL AND d.stay_id IS NULL THEN 'hadm_id: empty' END,
        CASE WHEN d.stay_id IS NOT NULL AND stay.stay_id IS NULL THEN 'hadm_id: not in admissions' END,
        CASE WHEN broken IS NULL AND code IS NULL THEN 'icd_code: empty' END,
        CASE WHEN broken IS NULL AND coalesce(version, '') NOT IN ('9', '10') THEN 'icd_version: not 9 or 10' END
    ), '') AS parse_errors,
    CASE WHEN stay.reason IS NOT NULL THEN stay.reason
        WHEN NOT coalesce(stay.has_labels, true) THEN 'the stay has no labels: it goes on, or its own row is wrong'
    END AS reason
FROM (
    SELECT as_id(hadm_id) AS stay_id, nullif(upper(replace(replace(icd_code, '.', ''), ' ', '')), '') AS code,
        as_id(icd_version) AS version, source_row, broken
    FROM raw_diagnoses) d
LEFT JOIN stays stay USING (stay_id)
"""

# Positive where a code begins with a prefix of the task, negative where the stay has codes but none
# of these.
_CODED_LABELS = """
WITH good AS (FROM diagnoses WHERE reason IS NULL AND parse_errors IS NULL),
meaning AS (
    SELECT DISTINCT code, version, task FROM (SELECT DISTINCT code, version FROM good)
    JOIN prefixes USING (version) WHERE starts_with(code, prefix)),
positive AS (SELECT DISTINCT stay_id, task FROM good JOIN meaning USING (code, version))
SELECT stay_id, task, (positive.task IS NOT NULL)::INT::DOUBLE AS value
FROM (SELECT DISTINCT stay_id FROM good) CROSS JOIN (SELECT DISTINCT task FROM prefixes)
LEFT JOIN positive USING (stay_id, task)
"""

# A wrong diagnosis decides no label; it is written as one without a task, for the contract to
# quarantine.
_WRONG_DIAGNOSES = """
SELECT stay_id AS sample_id, NULL::VARCHAR AS task, NULL::DOUBLE AS value, source_row, parse_errors
FROM diagnoses WHERE reason IS NULL AND parse_errors IS NOT NULL
"""
