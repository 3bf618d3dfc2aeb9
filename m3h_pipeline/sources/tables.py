"""A hospital's own tables, in the format of docs/sources/tables.md, to the canonical tables.

The files are the canonical tables already; what is done here is to read them out of core, to
convert what text says (times to UTC, class names to indices, units where they are known), and to
say of every row what became of it.

When a record became known (``available_time``): the column of that name; where it is absent or
empty, the record's own time; and where either is a bare date, the end of that day, since nobody
knows how late on that day it was.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from m3h_core.cohort import SPLITS
from m3h_pipeline.errors import SIMILAR, InputError, did_you_mean
from m3h_pipeline.files.regular import is_regular_file
from m3h_pipeline.sources.base import (
    EMBEDDINGS,
    EVENTS,
    IMAGES,
    LABELS,
    NOTES,
    SIGNALS,
    Settings,
    Source,
    listing_fingerprint,
    samples_schema,
)
from m3h_pipeline.sources.cohort_file import FILE, CohortFile, load_cohort_file
from m3h_pipeline.sources.extraction import Extraction
from m3h_pipeline.sources.prediction import ENDED, NONE, NOT_YET, need_mode
from m3h_pipeline.sources.raw_tables import SUFFIXES, RawReader, RawTable, find_file, open_table
from m3h_pipeline.sources.raw_tables.headers import (
    describe_columns,
    select_known_names,
    suggest_renamings,
)
from m3h_pipeline.sources.tasks_file import load_signals
from m3h_pipeline.sources.units import unit_rules
from m3h_pipeline.state.database import literal, spill_folder, workbench


@dataclass(frozen=True)
class _Format:
    """Columns of one of the files: those that must be there, and those that may."""

    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()


_FORMATS = {
    "samples": _Format(
        ("stay_id", "subject_id", "admit_time", "discharge_time"),
        ("sample_id", "prediction_time", "split"),
    ),
    "events": _Format(("stay_id", "time", "code", "value", "unit"), ("available_time",)),
    "notes": _Format(("stay_id", "note_id", "time", "kind", "text"), ("available_time",)),
    "images": _Format(("stay_id", "image_id", "time", "view", "path"), ("available_time",)),
    "labels": _Format(("sample_id", "task", "value")),
    "embeddings": _Format(("sample_id", "modality", "vector")),
}
_REQUIRED = ("samples", "labels")
# What these columns are called elsewhere (MIMIC-IV, OMOP and common sense), for the error that says
# what to rename.
_OTHER_NAMES = {
    "stay_id": (
        "hadm_id",
        "encounter_id",
        "visit_id",
        "visit_occurrence_id",
        "admission_id",
        "case_id",
    ),
    "subject_id": (
        "patient_id",
        "patient",
        "person_id",
        "mrn",
        "pid",
        "patient_number",
        "patientid",
    ),
    "sample_id": ("stay_id", "hadm_id", "encounter_id", "visit_id"),
    "admit_time": (
        "admittime",
        "admission_time",
        "admission",
        "admitted",
        "visit_start_datetime",
        "start_time",
    ),
    "discharge_time": ("dischtime", "discharge", "discharged", "visit_end_datetime", "end_time"),
    "time": (
        *("charttime", "datetime", "timestamp", "measurement_datetime", "starttime", "date"),
        *("measured_at", "taken_at", "collected_at", "collection_time", "event_time"),
    ),
    "available_time": ("storetime", "result_time", "available_at", "known_time", "filed_time"),
    "code": (
        *("itemid", "measurement_concept_id", "signal", "label"),
        *("test", "test_name", "parameter", "variable", "analyte", "item", "name"),
    ),
    "value": (
        *("valuenum", "value_as_number", "result", "result_value", "numeric_value"),
        *("label", "target", "outcome", "class", "y"),
    ),
    "unit": ("valueuom", "unit_source_value", "uom"),
    "note_id": ("document_id", "doc_id", "id"),
    "image_id": ("dicom_id", "study_id", "id"),
    "view": ("viewposition", "projection"),
    "kind": ("category", "note_type", "type"),
    "text": ("note_text", "note", "report"),
    "path": ("file", "filename", "image_path"),
    "task": ("name", "target", "label", "outcome", "endpoint"),
    "vector": ("embedding", "features"),
}
_TIMES = {"admit_time", "discharge_time", "prediction_time", "time", "available_time"}
_IDS = {"sample_id", "stay_id", "subject_id", "note_id", "image_id"}
# Columns of which numbers are asked for by the contract, and those that stay text however many
# numbers they hold.
_CONTRACT_TYPES = {"age": "DOUBLE"} | dict.fromkeys(
    ("sex", "admission_type", "insurance", "language", "marital_status", "race"), "VARCHAR"
)
# From this share of numbers on, a column is one of numbers, and what is none in it is a mistake.
_MOSTLY_NUMBERS = 0.95
_NO_VALUE = "no value"


@dataclass
class Tables(Source):
    """A folder that holds ``samples``, ``labels``, ``cohort.yaml`` and, where there are, the other
    tables.
    """

    path: Path
    name: ClassVar[str] = "tables"
    prediction_modes = ("admission", "given")

    def __post_init__(self) -> None:
        self.path = Path(self.path).absolute()

    def check(self) -> None:
        """Look at cohort.yaml, at which files there are and at their headers."""
        self._tables(self._cohort())

    def fingerprint(self) -> str:
        """Hash over the listing of the tables, and of all that lies below the folder where there
        are images.
        """
        images = find_file(self.path, "images") is not None
        files = [
            file
            for file in self.path.iterdir()
            if not file.name.startswith(".") and (images or file.is_file())
        ]
        return listing_fingerprint(self.path, files)

    def extract(self, to: Path, settings: Settings) -> dict[str, Any]:
        """Write the canonical tables; see `Source.extract`. The time zone is that of
        cohort.yaml.
        """
        need_mode(self.name, settings.prediction, self.prediction_modes)
        cohort = self._cohort()
        tables = self._tables(cohort)
        columns = {table: _columns_of(table, raw, cohort) for table, raw in tables.items()}
        spill = spill_folder(to, settings.spill)
        with workbench(spill, settings.memory_limit) as connection:
            reader = RawReader(connection, spill)
            work = _Extraction(
                connection, reader, tables, settings, columns, cohort=cohort, folder=self.path
            )
            counts = work.extract(to)
        specs = [task.to_dict() for task in cohort.tasks]
        (to / "tasks.json").write_text(json.dumps(specs, indent=1) + "\n")
        cohort.columns.save(to)
        unread = {
            table: sorted(set(raw.columns) - set(columns[table])) for table, raw in tables.items()
        }
        named = {
            table: select_known_names(names, _vocabulary(cohort)) for table, names in unread.items()
        }
        others = {table: len(names) - len(named[table]) for table, names in unread.items()}
        return {
            **counts,
            "absent": sorted(_FORMATS.keys() - tables.keys()),
            "columns not read": {table: names for table, names in named.items() if names},
            "columns not read, of unknown names": {
                table: count for table, count in others.items() if count
            },
        }

    def _cohort(self) -> CohortFile:
        if not self.path.is_dir():
            raise InputError(
                f"{self.path} is not a folder: name the one that holds samples, labels and {FILE}"
            )
        return load_cohort_file(self.path)

    def _tables(self, cohort: CohortFile) -> dict[str, RawTable]:
        tables = {}
        for table, wanted in _FORMATS.items():
            file = self._file(table)
            if file is None:
                continue
            others = {*wanted.optional, *cohort.columns.declared}
            raw = open_table(self.path, file, wanted.needed, _OTHER_NAMES, others)
            unknown = (
                set(raw.columns)
                - set(wanted.needed)
                - set(wanted.optional)
                - set(cohort.columns.declared)
            )
            # A misspelt optional column would be left out in silence, and with available_time the
            # future let in.
            absent = [name for name in wanted.optional if name not in raw.columns]
            meant = {
                name: names for name, names in _OTHER_NAMES.items() if name == "available_time"
            }
            if hint := suggest_renamings(absent, unknown, meant):
                raise InputError(
                    f"{file} has no column {', '.join(absent)}, but one that is much alike: {hint}"
                )
            tables[table] = raw
        declared = cohort.columns.declared
        if lost := [name for name in declared if name not in tables["samples"].columns]:
            known = set(tables["samples"].columns) - set(_FORMATS["samples"].needed)
            raise InputError(
                f"{self.path / FILE}: {tables['samples'].name} has no column {', '.join(lost)}"
                + (
                    did_you_mean(lost[0], known, SIMILAR)
                    or f"; {describe_columns(tables['samples'].columns, _vocabulary(cohort))}"
                )
            )
        return tables

    def _file(self, table: str) -> Path | None:
        """The file of a table; an `InputError` where there are two, or one that is likely to be
        meant.
        """
        candidates = [self.path / f"{table}{suffix}" for suffix in SUFFIXES]
        found = [file for file in candidates if is_regular_file(file)]
        if len(found) > 1:
            raise InputError(
                f"{self.path} has {' and '.join(file.name for file in found)}: keep one of them"
            )
        if found:
            return found[0]
        # No name of a file is told but one that is nearly the table's: what else lies there may be
        # named by a patient.
        stems = {_stem(file.name): file.name for file in self.path.iterdir() if file.is_file()}
        stems.pop("", None)
        candidates = [stem for stem in stems if stem not in _FORMATS]
        near = (
            [table] if table in stems else difflib.get_close_matches(table, candidates, 1, SIMILAR)
        )
        if near or table in _REQUIRED:
            raise InputError(
                f"{self.path} has no {table}.csv (or {table}.csv.gz, {table}.parquet)"
                + (
                    f": is it {stems[near[0]]}? Save it under that name"
                    if near
                    else f": write it; {_about(table)}"
                )
            )
        return None


def _stem(name: str) -> str:
    """A table's name without its ending, in lower case; empty where the ending is that of no table.

    >>> _stem("Samples.csv.gz"), _stem("labels.txt")
    ('samples', '')
    """
    return next(
        (name.lower().removesuffix(end) for end in SUFFIXES if name.lower().endswith(end)), ""
    )


def _vocabulary(cohort: CohortFile) -> set[str]:
    """Names of columns that are known: the format's, what others call them, and those that
    cohort.yaml declares.
    """
    formats = (name for wanted in _FORMATS.values() for name in (*wanted.needed, *wanted.optional))
    others = (name for names in _OTHER_NAMES.values() for name in names)
    return {*formats, *others, *cohort.columns.declared}


def _about(table: str) -> str:
    return f"its columns are {', '.join(_FORMATS[table].needed)} (docs/sources/tables.md)"


def _columns_of(table: str, raw: RawTable, cohort: CohortFile) -> list[str]:
    wanted = _FORMATS[table]
    columns = [*wanted.needed, *(name for name in wanted.optional if name in raw.columns)]
    return columns + [name for name in cohort.columns.declared if table == "samples"]


@dataclass(kw_only=True)
class _Extraction(Extraction):
    """A hospital's own tables; ``folder``: where they and, by relative paths, the images lie."""

    cohort: CohortFile
    folder: Path

    def extract(self, to: Path) -> dict[str, Any]:
        self.define_macros(self.cohort.timezone)
        self.connection.execute(_MACROS)
        return {
            "samples": self._samples(to),
            "events": self._records(to, "events", EVENTS, self._event_columns(to)),
            "notes": self._records(to, "notes", NOTES, self._note_columns()),
            "images": self._records(to, "images", IMAGES, self._image_columns()),
            "labels": self._labels(to),
            "embeddings": self._embeddings(to),
            **self.close(to),
        }

    # Samples --------------------------------------------------------------------------------------

    def _samples(self, to: Path) -> int:
        columns = self._read("samples")
        types = self._declared_types()
        sample_id = "sample_id" if "sample_id" in columns else "stay_id"
        given = "prediction_time_utc" if "prediction_time" in columns else "NULL::TIMESTAMP"
        later = (
            f"to_microseconds(CAST({float(self.settings.prediction_hours) * 3600} * 1e6 AS BIGINT))"
        )
        without = f"admit_time_utc + {later}"
        not_given = "false"
        if self.settings.prediction == "given":
            if "prediction_time" not in columns:
                raise InputError(
                    f"{self.tables['samples'].file} has no column prediction_time, which "
                    'cohort.prediction = "given" needs: add it, or leave that setting out'
                )
            without = "NULL::TIMESTAMP"
            not_given = "known(prediction_time) IS NULL AND broken IS NULL"
        split = f"{_SPLIT} AS split," if "split" in columns else ""
        declared = [
            f'{"as_quantity" if kind == "DOUBLE" else "as_text"}("{name}") AS "{name}",'
            for name, kind in types.items()
        ]
        not_numbers = [
            f"CASE WHEN known(\"{name}\") IS NOT NULL AND as_quantity(\"{name}\") IS NULL THEN "
            f"{literal(name)} || ': not a number' || raw_of(\"{name}\") END" for name, kind in types.items() if kind == "DOUBLE"
        ]  # fmt: skip
        wrong_split = (
            f"CASE WHEN as_text(split) IS NOT NULL AND {_SPLIT} IS NULL "
            f"THEN 'split: not one of {_SPLITS}' || raw_of(split) END"
        )
        wrong = _wrong(columns, not_numbers, [wrong_split] if split else [])
        self.connection.execute(
            f"""CREATE TEMP TABLE sample_rows AS
            SELECT *, CASE WHEN not_given THEN {literal(NONE["given"])} WHEN asked IS NOT NULL THEN NULL
                WHEN discharge_time >= admit_time AND discharge_time < prediction_time THEN '{ENDED}'
                WHEN discharge_time IS NULL AND prediction_time
                    > max(greatest(admit_time, coalesce(discharge_time, admit_time))) OVER () THEN '{NOT_YET}'
                END AS reason
            FROM (
                SELECT as_id({sample_id}) AS sample_id, as_id(stay_id) AS stay_id, as_id(subject_id) AS subject_id,
                    admit_time_utc AS admit_time, discharge_time_utc AS discharge_time, {given} AS asked,
                    coalesce({given}, {without}) AS prediction_time, {not_given} AS not_given,
                    {split} {" ".join(declared)} {wrong} AS parse_errors, source_row
                FROM {_with_times("raw_samples", columns)})"""
        )
        self._check_samples(sample_id)
        self.connection.execute(_STAYS)
        self.count("samples", "samples", "sample_rows")
        self.register_splits("sample_rows")
        # Of rows with the same key the first is kept, so their order must not depend on the file's.
        order = ", ".join(
            f'"{name}"' for name in ("sample_id", "admit_time", "prediction_time", *types)
        )
        join = "" if split else "LEFT JOIN splits USING (subject_id)"
        return self.write(
            to / "samples.parquet",
            samples_schema(types),
            f"SELECT *, {literal(self.tables['samples'].name)} AS source_file FROM sample_rows "
            f"{join} WHERE reason IS NULL",
            f"{order}, source_row",
        )

    def _declared_types(self) -> dict[str, str]:
        """The type of each declared column: what the contract says, else numbers where nearly all
        are numbers.
        """
        types = {}
        for name in self.cohort.columns.declared:
            if name in _CONTRACT_TYPES or name in self.cohort.categories:
                types[name] = _CONTRACT_TYPES.get(name, "VARCHAR")
                continue
            numbers, filled = self._one(
                f'SELECT count(as_quantity("{name}")), count(known("{name}")) FROM raw_samples'
            )
            types[name] = "DOUBLE" if filled and numbers >= _MOSTLY_NUMBERS * filled else "VARCHAR"
        return types

    def _check_samples(self, sample_id: str) -> None:
        file = self.tables["samples"].file
        if sample_id == "stay_id":
            (twins,) = self._one(
                """SELECT count(*) FROM (SELECT stay_id FROM sample_rows WHERE stay_id IS NOT NULL
                GROUP BY stay_id HAVING count(DISTINCT prediction_time) > 1)"""
            )
            if twins:
                raise InputError(
                    f"{file} has no sample_id, and {twins:,} stay_ids with more than one "
                    "prediction time: add a column sample_id that is different in each row, and "
                    "refer to it in labels"
                )
        left, ended = self._one(
            "SELECT count(*) FILTER (reason IS NULL), count(reason) FROM sample_rows"
        )
        if not left and ended and self.settings.prediction == "given":
            raise InputError(f"{file}: prediction_time is empty in all {ended:,} rows: fill it in, or leave "
                             "cohort.prediction out")  # fmt: skip
        if not left and ended:
            raise InputError(
                f"{file}: all {ended:,} stays ended before their prediction time, "
                f"{self.settings.prediction_hours:g} h after admission, or have it still to come: "
                "give another in a column prediction_time, or as cohort.prediction_hours in "
                "m3h.toml"
            )

    # Events, notes and images ---------------------------------------------------------------------

    def _records(self, to: Path, table: str, schema: Mapping[str, str], typed: str | None) -> int:
        """Write a table of records, each with its stay, or the reason why it is out of scope."""
        # What was known first comes first: of rows with the same key it is kept, whatever comes
        # later or anew.
        content = [
            name
            for name in schema
            if name not in ("stay_id", "source_file", "source_row", "parse_errors")
        ]
        order = ", ".join(["stay_id", "greatest(available_time, time)", *content])
        file = to / f"{table}.parquet"
        if typed is None:
            return self.write_parts(file, schema, [], order)
        self.connection.execute(
            f"""CREATE TEMP TABLE placed_{table} AS
            SELECT typed.* EXCLUDE (reason), coalesce(stays.left_out, reason) AS reason
            FROM ({typed}) typed LEFT JOIN stays USING (stay_id);
            DROP TABLE raw_{table}"""
        )
        self.count(table, table, f"placed_{table}")
        part = f"SELECT *, {literal(self.tables[table].name)} AS source_file FROM placed_{table}"
        return self.write_parts(file, schema, [part], f"{order}, source_row")

    def _event_columns(self, to: Path) -> str | None:
        columns = self._read("events")
        signals = [*load_signals(), *self.cohort.signals]
        self.register("unit_rules", unit_rules(signals), ["code", "spelling", "factor"])
        self.register("signals", [(s.code, s.unit) for s in signals], ["code", "unit"])
        self._write_signals(to)
        if not columns:
            return None
        return f"""
            SELECT as_id(stay_id) AS stay_id, {_times(columns)}, as_text(raw.code) AS code,
                as_quantity(raw.value) * coalesce(rule.factor, 1) AS value,
                CASE WHEN rule.factor IS NULL THEN coalesce(as_text(raw.unit), '') ELSE s.unit END AS unit,
                CASE WHEN broken IS NULL AND known(raw.value) IS NULL THEN '{_NO_VALUE}' END AS reason,
                {_wrong(columns, [_not_a("value", "number", "as_quantity")])} AS parse_errors, source_row
            FROM {_with_times("raw_events", columns)} raw
            LEFT JOIN signals s ON s.code = as_text(raw.code)
            LEFT JOIN unit_rules rule ON rule.code = s.code AND rule.spelling = normal_unit(raw.unit)"""

    def _write_signals(self, to: Path) -> None:
        """``signals.json``: the hospital's own codes; those that cohort.yaml does not name have no
        unit or range.
        """
        own: list[dict[str, Any]] = [
            {
                "code": signal.code,
                "unit": signal.unit,
                "low": signal.low if math.isfinite(signal.low) else None,
                "high": signal.high if math.isfinite(signal.high) else None,
            }
            for signal in self.cohort.signals
        ]
        if "events" in self.tables:
            found = self.connection.execute(
                f"""SELECT DISTINCT as_text(code) AS code FROM raw_events WHERE code IS NOT NULL
                AND code NOT IN (SELECT code FROM signals) AND {_READABLE.format("code")} ORDER BY code"""
            ).fetchall()
            own += [{"code": code, "unit": None, "low": None, "high": None} for (code,) in found]
        (to / SIGNALS).write_text(json.dumps(own, indent=1) + "\n")

    def _note_columns(self) -> str | None:
        columns = self._read("notes")
        if not columns:
            return None
        sources = [
            (kind.lower(), task)
            for task, kinds in self.cohort.derived_from.items()
            for kind in kinds
        ]
        self._check_kinds(kind for kind, _ in sources)
        self.register("derived", sources, ["kind", "task"])
        return f"""
            SELECT as_id(stay_id) AS stay_id, as_id(note_id) AS note_id, {_times(columns)}, as_text(raw.kind) AS kind,
                text, CASE WHEN derived.kind IS NOT NULL THEN 'a report that labels come from: ' || derived.tasks END
                AS reason, {_wrong(columns)} AS parse_errors, source_row
            FROM {_with_times("raw_notes", columns)} raw
            LEFT JOIN (SELECT kind, string_agg(task, ', ' ORDER BY task) AS tasks FROM derived GROUP BY kind) derived
                ON derived.kind = lower(as_text(raw.kind))"""

    def _check_kinds(self, kinds: Iterable[str]) -> None:
        """A misspelt kind would leave the reports in that give a label away."""
        found = [
            row[0]
            for row in self.connection.execute(
                "SELECT DISTINCT lower(as_text(kind)) FROM raw_notes"
            ).fetchall()
        ]
        if lost := sorted(set(kinds) - set(found)):
            hint = did_you_mean(lost[0], [kind for kind in found if kind], SIMILAR)
            raise InputError(
                f"{self.folder / FILE}: derived_from: no note is of the kind {lost[0]!r}{hint}"
            )

    def _image_columns(self) -> str | None:
        columns = self._read("images")
        if not columns:
            return None
        return f"""
            SELECT as_id(stay_id) AS stay_id, as_id(image_id) AS image_id, {_times(columns)},
                as_text(raw.view) AS view, CASE WHEN as_text(path) LIKE '/%' THEN as_text(path)
                    ELSE {literal(self.folder)} || '/' || as_text(path) END AS path,
                NULL::VARCHAR AS reason, {_wrong(columns, [_OUTSIDE])} AS parse_errors, source_row
            FROM {_with_times("raw_images", columns)} raw"""

    # Labels and vectors ---------------------------------------------------------------------------

    def _labels(self, to: Path) -> int:
        columns = self._read("labels")
        tasks = self.cohort.tasks
        self.register("tasks", [(task.name, task.problem) for task in tasks], ["task", "problem"])
        classes = [
            (task.name, name.lower(), float(i))
            for task in tasks
            for i, name in enumerate(_class_names(task))
        ]
        self.register("classes", classes, ["task", "name", "factor"])
        wrong = """CASE WHEN known(raw.value) IS NULL OR label IS NOT NULL OR problem IS NULL THEN NULL
            WHEN problem = 'binary' THEN 'value: not 0 or 1' || raw_of(raw.value)
            WHEN problem = 'multiclass'
                THEN 'value: not one of the classes of its task in cohort.yaml' || raw_of(raw.value)
            ELSE 'value: not a number' || raw_of(raw.value) END"""
        self.connection.execute(
            f"""CREATE TEMP TABLE placed_labels AS
            SELECT sample_id, task, label AS value, parse_errors, source_row,
                CASE WHEN broken IS NOT NULL THEN NULL
                    WHEN problem = 'clustering' THEN 'a clustering needs no labels'
                    WHEN known(value) IS NULL THEN '{_NO_VALUE}'
                    ELSE left_out END AS reason
            FROM (
                SELECT *, {_wrong(columns, [wrong])} AS parse_errors FROM (
                    SELECT raw.* EXCLUDE (sample_id, task), as_id(raw.sample_id) AS sample_id, problem, left_out,
                        as_text(raw.task) AS task,
                        CASE problem
                            WHEN 'binary' THEN (CASE lower(as_text(raw.value)) WHEN 'true' THEN 1 WHEN 'false' THEN 0
                                ELSE as_quantity(raw.value) END)
                            WHEN 'multiclass' THEN coalesce(classes.factor, CASE WHEN NOT EXISTS (
                                FROM classes other WHERE other.task = tasks.task AND as_number(other.name) IS NOT NULL)
                                THEN as_quantity(raw.value) END)
                            ELSE as_quantity(raw.value) END AS label
                    FROM raw_labels raw
                    LEFT JOIN tasks ON tasks.task = as_text(raw.task)
                    LEFT JOIN classes ON classes.task = tasks.task AND classes.name = lower(as_text(raw.value))
                    LEFT JOIN samples_known ON samples_known.sample_id = as_id(raw.sample_id)) raw)"""
        )
        self._check_tasks()
        self.count("labels", "labels", "placed_labels")
        part = f"SELECT *, {literal(self.tables['labels'].name)} AS source_file FROM placed_labels"
        return self.write_parts(
            to / "labels.parquet", LABELS, [part], "sample_id, task, value, source_row"
        )

    def _check_tasks(self) -> None:
        """A task without any label is misspelt, here or there."""
        counts = "SELECT task, count(value) FROM placed_labels WHERE reason IS NULL GROUP BY task"
        labelled = dict(self.connection.execute(counts).fetchall())
        file = self.tables["labels"].file
        for task in self.cohort.tasks:
            if task.problem == "clustering" or labelled.get(task.name):
                continue
            if task.name in labelled:
                raise InputError(
                    f"{file}: no value of the task {task.name} can be read: a {task.problem} task "
                    "takes "
                    + {
                        "multiclass": f"one of {', '.join(_class_names(task))}",
                        "binary": "0 or 1",
                    }.get(task.problem, "numbers, with a decimal point")
                )
            hint = did_you_mean(task.name, [name for name in labelled if name], SIMILAR)
            raise InputError(
                f"{self.folder / FILE}: the task {task.name} has no label in {file.name}"
                + (hint or f": add rows with {task.name} in the column task, or take the task out")
            )

    def _embeddings(self, to: Path) -> int:
        columns = self._read("embeddings")
        order = "sample_id, modality, vector"
        if not columns:
            return self.write_parts(to / "embeddings.parquet", EMBEDDINGS, [], order)
        wrong = _not_a("vector", "list of finite numbers such as [0.5, 1.25]", "as_vector")
        self.connection.execute(
            f"""CREATE TEMP TABLE placed_embeddings AS
            SELECT typed.*, left_out AS reason
            FROM (SELECT as_id(sample_id) AS sample_id, as_text(modality) AS modality, as_vector(vector) AS vector,
                {_wrong(columns, [wrong])} AS parse_errors, source_row FROM raw_embeddings raw) typed
            LEFT JOIN samples_known USING (sample_id)"""
        )
        self.count("embeddings", "embeddings", "placed_embeddings")
        part = (
            f"SELECT *, {literal(self.tables['embeddings'].name)} AS source_file FROM "
            "placed_embeddings"
        )
        return self.write_parts(
            to / "embeddings.parquet", EMBEDDINGS, [part], f"{order}, source_row"
        )

    # Reading --------------------------------------------------------------------------------------

    def _read(self, table: str) -> Sequence[str]:
        """Load a table where there is one; its columns. A column of which nothing can be read is an
        `InputError`.
        """
        if table not in self.tables:
            return ()
        self.load(table)
        times = [column for column in self.columns[table] if column in _TIMES]
        numbers = ["value"] if table == "events" else []
        read = [f"{time}_utc" for time in times] + [f"as_quantity({number})" for number in numbers]
        counts = [
            f"count(known({column})), count({sql})"
            for column, sql in zip(times + numbers, read, strict=True)
        ]
        found = (
            self._one(f"SELECT {', '.join(counts)} FROM {_with_times(f'raw_{table}', times)}")
            if counts
            else ()
        )
        for column, filled, readable in zip(times + numbers, found[::2], found[1::2], strict=True):
            if filled and not readable:
                what = (
                    "time: write 2026-01-31 14:05:00, year first, with an offset such as +01:00 "
                    "where you have one"
                    if column in times
                    else "number: write 3.5, with a point"
                )
                raise InputError(
                    f"{self.tables[table].file}: none of the {filled:,} values of {column} can be "
                    f"read as a {what}"
                )
        return self.columns[table]

    def _one(self, query: str) -> tuple[int, ...]:
        row = self.connection.execute(query).fetchone()
        assert row is not None
        return row


def _class_names(task: Any) -> tuple[str, ...]:
    return task.class_names if task.problem == "multiclass" else ()


# SQL ----------------------------------------------------------------------------------------------

_SPLITS = ", ".join(f"{number} ({name})" for name, number in SPLITS.items())
_SPLIT = (
    "CASE lower(as_id(split)) "
    + " ".join(
        f"WHEN '{name}' THEN {number} WHEN '{number}' THEN {number}"
        for name, number in SPLITS.items()
    )
    + " END"
)
_OUTSIDE = r"""CASE WHEN as_text(path) NOT LIKE '/%' AND regexp_matches(path, '(^|/)\.\.(/|$)')
    THEN 'path: leads out of the folder' END"""
_READABLE = "NOT regexp_matches({}, '[\\x00-\\x1f\\x7f\ufffd]|^.{{129}}')"

# What programs write where there is nothing; and a clock that goes forward leaves local times out.
# DuckDB plans a join for each IN of so many values: of 50 features it planned for minutes, of 1,000
# it crashed.
_MACROS = """
CREATE TEMP MACRO known(x) AS
    CASE WHEN NOT list_contains(['', 'na', 'n/a', 'nan', 'nat', 'null', 'none'], lower(trim(x))) THEN trim(x) END;
CREATE TEMP MACRO as_quantity(x) AS as_number(known(x));
CREATE TEMP MACRO is_left_out(x, utc) AS from_utc(utc) <> TRY_CAST(x AS TIMESTAMP)
    AND NOT (regexp_matches(x, '(Z|[+-][0-9:]+)$', 'i') AND length(x) > 10);
CREATE TEMP MACRO as_vector(x) AS CASE
    WHEN list_aggregate(list_transform(TRY_CAST(x AS FLOAT[]), lambda v: coalesce(isfinite(v), false)), 'bool_and')
    THEN TRY_CAST(x AS FLOAT[]) END;
"""

# Stays and samples, and why all of theirs are left out of the cohort; those that are wrong go on to
# the contract.
_STAYS = """
CREATE TEMP TABLE stays AS
SELECT stay_id, CASE WHEN bool_and(reason IS NOT NULL) THEN min(reason) END AS left_out
FROM sample_rows WHERE stay_id IS NOT NULL GROUP BY stay_id;
CREATE TEMP TABLE samples_known AS
SELECT sample_id, CASE WHEN bool_and(reason IS NOT NULL) THEN min(reason) END AS left_out
FROM sample_rows WHERE sample_id IS NOT NULL GROUP BY sample_id;
"""


def _with_times(raw: str, columns: Sequence[str]) -> str:
    """SQL: a table with, of each of its times, ``<time>_utc``, and ``<time>_left_out`` where the
    local time never was.

    In steps: written as one expression it would grow with each, and planning it takes longer than
    running it.
    """
    times = [column for column in columns if column in _TIMES]
    known = ", ".join(f"known({time}) AS {time}" for time in times)
    read = "".join(f", as_time({time}) AS {time}_utc" for time in times)
    judged = "".join(
        f", coalesce(is_left_out({time}, {time}_utc), false) AS {time}_left_out" for time in times
    )
    kept = ", ".join(
        f"CASE WHEN NOT {time}_left_out THEN {time}_utc END AS {time}_utc" for time in times
    )
    if not times:
        return raw
    return f"""(SELECT * REPLACE ({kept}) FROM (SELECT *{judged} FROM (
        SELECT *{read} FROM (SELECT * REPLACE ({known}) FROM {raw}))))"""


def _times(columns: Sequence[str]) -> str:
    """SQL of a record's time and of when it was known."""
    asked = [column for column in ("available_time", "time") if column in columns]
    known = [
        f"CASE WHEN length(raw.{c}) = 10 THEN {c}_utc + INTERVAL 1 DAY ELSE {c}_utc END"
        for c in asked
    ]
    return f"time_utc AS time, coalesce({', '.join(known)}) AS available_time"


def _not_a(column: str, kind: str, function: str) -> str:
    return f"""CASE WHEN known(raw.{column}) IS NOT NULL AND {function}(raw.{column}) IS NULL
        THEN '{column}: not a {kind}' || raw_of(raw.{column}) END"""


def _wrong(columns: Sequence[str], *others: Sequence[str]) -> str:
    """SQL of parse_errors: the row as a whole, its times, its ids, and what else is wrong with
    it.
    """
    checks = ["broken"]
    for column in columns:
        if column in _TIMES:
            checks.append(
                f"""CASE WHEN {column}_left_out
                    THEN '{column}: no such local time, the clocks go forward' || raw_of({column})
                WHEN {column} IS NOT NULL AND {column}_utc IS NULL
                THEN '{column}: not a date, write 2026-01-31 14:05:00' || raw_of({column}) END"""
            )
        if column in _IDS:
            checks.append(
                f"""CASE WHEN regexp_matches(trim({column}), '^[0-9][.,][0-9]+[eE][+][0-9]+$')
                THEN '{column}: a spreadsheet wrote it as 1.2E+10, so digits are lost' || raw_of({column}) END"""
            )
    return (
        "nullif(concat_ws('; ', "
        f"{', '.join([*checks, *(check for more in others for check in more)])}), '')"
    )
