"""A folder in the Medical Event Data Standard to the canonical tables, by way of the tables that
MIMIC-IV has.

The rows of ``data/**/*.parquet`` become, by the roles that a mapping gives their codes
(``data_contracts/meds.yaml``), the tables of a MIMIC-IV folder in DuckDB; from there on
`mimic_iv.MimicExtraction` does what it does for MIMIC-IV. So the same records give the same inputs
by either way.

MEDS says when something happened, not when it was known. Where the data has a column
``available_time``, that counts; else a record counts as known at its own ``time``
(docs/sources/meds.md says what that means).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import polars as pl

from m3h_core.tasks import Problem, TaskSpec
from m3h_pipeline.errors import InputError
from m3h_pipeline.files.regular import is_regular_file
from m3h_pipeline.files.yaml_file import read_yaml
from m3h_pipeline.sources.base import IMAGES, LABELS, NOTES, Settings, Source, listing_fingerprint
from m3h_pipeline.sources.extraction import NOTES_ORDER
from m3h_pipeline.sources.mimic_iv import (
    COLUMNS,
    MEASURED,
    NOT_BEFORE_DISCHARGE,
    NOTE_ROWS,
    MimicExtraction,
)
from m3h_pipeline.sources.prediction import NONE, need_mode
from m3h_pipeline.sources.raw_tables import RawReader, RawTable
from m3h_pipeline.sources.splits import split_of
from m3h_pipeline.sources.tasks_file import (
    GIVEN_AWAY,
    TaskRule,
    gives_away,
    limits_of,
    load_signals,
    load_tasks,
)
from m3h_pipeline.sources.units import unit_rules
from m3h_pipeline.state.database import literal, spill_folder, workbench
from m3h_pipeline.state.paths import contracts_folder

_SECTIONS = {
    "stays": {"id", "admission", "discharge", "end", "icu"},
    "patients": {"birth", "death", "sex"},
    "columns": {"insurance", "language", "marital_status", "race"},
    "diagnoses": {"9", "10"},
    "notes": None,
    "signals": None,
}
_NO_ROLE = "a code without a role in the mapping"
# A row's number in all files: that of its file above these bits, that within the file below.
_BITS = 40
_SPLITS = {"train": 0, "tuning": 1, "held_out": 3}
# Parts of the names of files that are no patient's: a split, a number of few digits.
_SHARD = re.compile(
    r"(?:train|tuning|held_out|test|data|part|shard|chunk|file|batch)?[-_.]?\d{0,5}"
)
# The columns that may hold a MEDS label, and the problem that each makes where tasks.yaml does not
# know the task.
_VALUES: dict[str, Problem] = {
    "boolean_value": "binary",
    "float_value": "regression",
    "categorical_value": "multiclass",
    "integer_value": "multiclass",
}


@dataclass
class Meds(Source):
    """A MEDS dataset.

    ``codes``: a mapping of the hospital's own; ``labels``: a folder of MEDS labels, a file or a
    folder a task.
    """

    path: Path
    codes: Path | None = None
    labels: Path | None = None
    name: ClassVar[str] = "meds"

    def __post_init__(self) -> None:
        self.path = Path(self.path).absolute()
        self.prediction_modes = ("given",) if self.labels else ("admission", "icu", "nightly")

    def check(self) -> None:
        """Hold the layout, the mapping and the columns of every file against the standard."""
        self._files()
        _roles(self._mapping_file())
        self._label_files()

    def fingerprint(self) -> str:
        """Hash over the listing of data, metadata and labels, and the bytes of the mapping."""
        digest = hashlib.sha256(self._mapping_file().read_bytes())
        digest.update(
            listing_fingerprint(self.path, [self.path / "data", self.path / "metadata"]).encode()
        )
        if self.labels:
            digest.update(listing_fingerprint(self.labels, [self.labels]).encode())
        return digest.hexdigest()[:32]

    def extract(self, to: Path, settings: Settings) -> dict[str, Any]:
        """Write the canonical tables; see `Source.extract`."""
        need_mode(self.name, settings.prediction, self.prediction_modes)
        files = self._files()
        labels = self._label_files()
        rules = _label_rules(labels, settings.tasks) if labels else load_tasks(only=settings.tasks)
        spill = spill_folder(to, settings.spill)
        with workbench(spill, settings.memory_limit) as connection:
            tables = {
                f"data/{name}": file
                for name, file in shard_names(self.path / "data", files).items()
            }
            work = _MedsExtraction(
                connection, RawReader(connection, spill), {}, settings, {}, rules=rules,
                root=self.path, files=tables, roles=_roles(self._mapping_file()), label_files=labels,
            )  # fmt: skip
            try:
                work.prepare()
            except duckdb.OutOfMemoryException:
                raise
            except duckdb.Error:
                raise InputError(
                    f"{self.path} can't be read: a file is damaged; copy it again"
                ) from None
            counts = work.extract(to, [])
        (to / "tasks.json").write_text(
            json.dumps([rule.spec.to_dict() for rule in rules], indent=1) + "\n"
        )
        COLUMNS.save(to)
        found = {
            "splits from": work.splits_from,
            "codes": len(work.roles),
            "available_time": work.available,
        }
        return {**counts, **found, "limits": limits_of(rules)}

    def _mapping_file(self) -> Path:
        return self.codes or contracts_folder() / "meds.yaml"

    def _files(self) -> list[Path]:
        from meds import CodeMetadataSchema, DataSchema, SubjectSplitSchema

        files = sorted((self.path / "data").rglob("*.parquet"))
        if not files:
            raise InputError(f"{self.path} is no MEDS folder: it lacks data/**/*.parquet; name the folder that holds "
                             "data/ and metadata/")  # fmt: skip
        for name, file in shard_names(self.path / "data", files).items():
            _check_schema(file, DataSchema, self.path / "data" / name)
        for name, schema in (("codes", CodeMetadataSchema), ("subject_splits", SubjectSplitSchema)):
            if (file := self.path / "metadata" / f"{name}.parquet").exists():
                _check_schema(file, schema, file)
        return files

    def _label_files(self) -> dict[str, list[Path]]:
        """Task -> its files."""
        from meds import LabelSchema

        if self.labels is None:
            return {}
        found: dict[str, list[Path]] = {}
        for file in sorted(self.labels.rglob("*.parquet")):
            _check_schema(file, LabelSchema, file)
            found.setdefault(
                file.relative_to(self.labels).parts[0].removesuffix(".parquet"), []
            ).append(file)
        if not found:
            raise InputError(
                f"{self.labels} holds no labels: a task is a file TASK.parquet or a folder TASK of "
                "them"
            )
        return found


def shard_names(folder: Path, files: Sequence[Path]) -> dict[str, Path]:
    """Name -> file, as metadata and messages tell it: its path in the folder where that can't name
    a patient.

    Else the name is its place in the list of all files by name.

    >>> root = Path("data")
    >>> list(shard_names(root, [root / "train/0.parquet", root / "train/erika.parquet", root / "part-00007.parquet"]))
    ['train/0.parquet', 'file 2 of 3 by name', 'part-00007.parquet']
    """
    names = {}
    for number, file in enumerate(files, start=1):
        path = file.relative_to(folder)
        is_harmless = all(_SHARD.fullmatch(part) for part in path.with_suffix("").parts)
        names[path.as_posix() if is_harmless else f"file {number} of {len(files)} by name"] = file
    return names


def _check_schema(file: Path, schema: Any, shown: Path) -> None:
    """Hold a file's columns and types against a schema of the standard; its rows are judged later,
    by the contracts.

    ``shown``: how messages call the file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from flexible_schema.exceptions import SchemaValidationError

    if not is_regular_file(file):
        raise InputError(f"{shown} is not there")
    try:
        found = pq.read_schema(file)
    except (OSError, pa.ArrowException):
        raise InputError(f"{shown} can't be read (it is damaged): copy it again") from None
    # An int32 id or a large string is as good.
    families = (
        pa.types.is_integer,
        pa.types.is_floating,
        _is_text,
        _is_list,
        pa.types.is_timestamp,
        pa.types.is_boolean,
    )
    asked = {field.name: field.type for field in schema.schema()}
    fields = [
        field.with_type(asked[field.name])
        if field.name in asked
        and any(kind(field.type) and kind(asked[field.name]) for kind in families)
        else field
        for field in found
    ]
    try:
        schema.validate(pa.schema(fields))
    except SchemaValidationError as error:
        raise InputError(
            f"{shown} is not as MEDS' {schema.__name__} says: {_reason(error)}"
        ) from None


def _reason(error: Any) -> str:
    """What is wrong with a schema; columns that the standard doesn't know are counted: they may
    name a patient.
    """
    reasons = []
    if error.missing_req_cols:
        reasons.append(f"Missing required columns: {', '.join(error.missing_req_cols)}")
    if error.mistyped_cols:
        types = [f"{name} (want {want}, got {got})" for name, want, got in error.mistyped_cols]
        reasons.append(f"Columns with incorrect types: {', '.join(types)}")
    if error.disallowed_extra_cols:
        reasons.append(f"Columns that it does not have: {len(error.disallowed_extra_cols):,}")
    return ". ".join(reasons) or "it has another layout"


def _is_text(kind: Any) -> bool:
    return str(kind) in ("string", "large_string", "string_view")


def _is_list(kind: Any) -> bool:
    return str(kind).startswith(("list<", "large_list<"))


def _roles(file: Path) -> dict[str, tuple[str, str]]:
    """Code, or its beginning -> (role, argument), as the mapping file says.

    >>> from m3h_pipeline.state.paths import contracts_folder
    >>> roles = _roles(contracts_folder() / "meds.yaml")
    >>> roles["HOSPITAL_ADMISSION"], roles["LAB//220045"], roles["DIAGNOSIS//ICD//9"]
    (('admission', ''), ('signal', 'heart_rate'), ('diagnosis', '9'))
    """
    content = read_yaml(file, needs=f"the keys {', '.join(_SECTIONS)}")
    signals = {signal.code for signal in load_signals()}
    roles: dict[str, tuple[str, str]] = {}
    for section, entries in content.items():
        known = signals if section == "signals" else _SECTIONS.get(section, set())
        if section not in _SECTIONS or not isinstance(entries, dict):
            raise InputError(f"{file}: {section} is not known; the keys are {', '.join(_SECTIONS)}")
        for name, codes in entries.items():
            if known is not None and name not in known:
                raise InputError(
                    f"{file}: {section}: {name} is not known; choose of {', '.join(sorted(known))}"
                )
            role = {
                "columns": "column",
                "diagnoses": "diagnosis",
                "notes": "note",
                "signals": "signal",
            }.get(section)
            if (section, name) in (("stays", "id"), ("stays", "end")):
                if codes:
                    roles[f"={name}"] = ("option", str(codes))
                continue
            if not isinstance(codes, list) or not all(isinstance(code, str) for code in codes):
                raise InputError(f"{file}: {section}: {name} must be a list of codes")
            for code in codes:
                if code in roles:
                    raise InputError(f"{file}: the code {code} has two roles")
                roles[code] = (role, name) if role else (name, "")
    return roles


def role_of(
    code: str, parents: Iterable[str], roles: dict[str, tuple[str, str]]
) -> tuple[str, str, str] | None:
    """A code's role, its argument and what follows in the code; None where it has no role.

    >>> roles = {"LAB//RESULT//50931": ("signal", "glucose"), "LOINC/8867-4": ("signal", "heart_rate")}
    >>> role_of("LAB//RESULT//50931//mg/dL", [], roles)
    ('signal', 'glucose', 'mg/dL')
    >>> role_of("LAB//RESULT//509310//mg/dL", [], roles)
    >>> role_of("PULSE", ["SNOMED/1", "LOINC/8867-4"], roles)
    ('signal', 'heart_rate', '')
    """
    parts = code.split("//")
    for length in range(len(parts), 0, -1):
        if role := roles.get("//".join(parts[:length])):
            return (*role, "//".join(parts[length:]))
    return next(((*roles[parent], "") for parent in parents if parent in roles), None)


def _label_rules(labels: dict[str, list[Path]], only: Iterable[str] | None) -> list[TaskRule]:
    """The tasks of a label folder: as tasks.yaml says of that name, else as the kind of their
    values says.
    """
    import pyarrow.parquet as pq

    known = {rule.spec.name: rule.spec for rule in load_tasks()}
    rules = []
    for task, files in labels.items():
        if only is not None and task not in only:
            continue
        columns = [name for name in _VALUES if name in pq.read_schema(files[0]).names]
        if len(columns) != 1:
            raise InputError(
                f"{files[0]} must have one of {', '.join(_VALUES)}; it has "
                f"{', '.join(columns) or 'none'}"
            )
        if task in known:
            rules.append(TaskRule(known[task]))
            continue
        classes = None
        if _VALUES[columns[0]] == "multiclass":
            values = (
                pl.scan_parquet(files)
                .select(pl.col(columns[0]).drop_nulls().unique().sort())
                .collect()
            )
            classes = [str(value) for value in values.to_series()]
        try:
            spec = TaskSpec(
                task, _VALUES[columns[0]], classes=classes, definition="as the label folder says"
            )
        except ValueError as error:
            raise InputError(f"{files[0].parent}: {error}") from None
        rules.append(TaskRule(spec))
    return rules


@dataclass(kw_only=True)
class _MedsExtraction(MimicExtraction):
    """MEDS rows as MIMIC-IV's raw tables, then as every MIMIC-IV folder; rows are counted by the
    file they are in.
    """

    root: Path
    files: dict[str, Path]
    roles: dict[str, tuple[str, str]]
    label_files: dict[str, list[Path]]
    splits_from: str = "a hash of the patient's id"
    available: str = "time: the data has no column available_time"
    known: set[str] = field(default_factory=set)

    def prepare(self) -> None:
        """Give every code its role, and make the raw tables of what has one."""
        self.connection.execute(_MACROS)
        every = [*self.files.items(), *((f"labels/{task}/{file.name}", file) for task, files in self.label_files.items()
                                        for file in files)]  # fmt: skip
        for name, file in every:
            with file.open("rb") as stream:
                self.reader.checksums[name] = hashlib.file_digest(stream, "sha256").hexdigest()
            self.tables[name] = RawTable(file, name, ())
            self.rows_read[name] = self._one(
                f"SELECT num_rows FROM parquet_file_metadata({literal(file)})"
            )
        self.register("files", [(str(file), name, str(i)) for i, (name, file) in enumerate(every)],
                       ["path", "name", "number"])  # fmt: skip
        names = ", ".join(literal(name) for name, _ in every)
        self.connection.execute(
            f"CREATE TEMP MACRO file_name(x) AS [{names}][(x >> {_BITS})::INT + 1]"
        )
        self.expressions = {
            "source_file": "file_name(source_row)",
            "source_row": f"source_row & {(1 << _BITS) - 1}",
        }
        paths = ", ".join(literal(file) for file in self.files.values())
        self.connection.execute(f"""CREATE TEMP VIEW meds AS
            SELECT data.* EXCLUDE (filename, file_row_number),
                (files.number::BIGINT << {_BITS}) + file_row_number + 1 AS source_row
            FROM read_parquet([{paths}], filename = true, file_row_number = true, union_by_name = true) data
            JOIN files ON files.path = filename""")
        self.known = {row[0] for row in self.connection.execute("DESCRIBE meds").fetchall()}
        if "available_time" in self.known:
            self.available = "its own column"
        self._give_roles()
        self._make_stays()
        self._make_records()
        for table in (
            "patients",
            "admissions",
            "diagnoses",
            "icustays",
            "measurements",
            "procedures",
        ):
            self.tables[table] = RawTable(self.root, table, ())

    def _column(self, name: str, kind: str = "VARCHAR") -> str:
        """SQL: a column as text, null where the data has none of that name."""
        return f'data."{name}"::{kind}' if name in self.known else f"NULL::{kind}"

    def _give_roles(self) -> None:
        codes = [row[0] for row in self.connection.execute("SELECT DISTINCT code FROM meds WHERE code IS NOT NULL")
                 .fetchall()]  # fmt: skip
        parents: dict[str, list[str]] = {}
        metadata = self.root / "metadata" / "codes.parquet"
        if metadata.exists() and "parent_codes" in pl.read_parquet_schema(metadata):
            rows = pl.read_parquet(metadata, columns=["code", "parent_codes"]).drop_nulls()
            parents = dict(rows.iter_rows())
        found = [
            (code, *role)
            for code in sorted(codes)
            if (role := role_of(code, parents.get(code, ()), self.roles))
        ]
        self.register("roles", found, ["code", "role", "argument", "rest"])

    def _rows(self, name: str, *roles: str) -> None:
        """Load the rows whose codes have one of these roles; texts, as a MIMIC-IV table has."""
        stay_id = self._column(self.roles.get("=id", ("", "hadm_id"))[1])
        wanted = ", ".join(literal(role) for role in roles)
        declared = ", ".join(
            f"{self._column(column)} AS {column}" for column in sorted(_SECTIONS["columns"] or ())
        )
        self.connection.execute(f"""CREATE TEMP TABLE {name} AS
            SELECT data.subject_id::VARCHAR AS subject_id, {stay_id} AS hadm_id, data.time::VARCHAR AS time,
                {self._column("available_time")} AS storetime, roles.role, roles.argument,
                nullif(nullif(roles.rest, ''), 'UNK') AS rest, {self._column("unit")} AS unit,
                {self._column("numeric_value")} AS number, {self._column("text_value")} AS text,
                {self._column("note_id")} AS note_id, {self._column(self.roles.get("=end", ("", "-"))[1])} AS end_time,
                {declared}, data.code, source_row
            FROM meds data JOIN roles USING (code) WHERE roles.role IN ({wanted})""")

    def _make_stays(self) -> None:
        self._rows("person_rows", "admission", "discharge", "birth", "death", "sex", "column")
        self.connection.execute(_STAY_TABLES)

    def _make_records(self) -> None:
        self._rows("coded_rows", "diagnosis")
        self.connection.execute(_DIAGNOSIS_TABLES)
        self._rows("icu_admissions", "icu")
        self.connection.execute(
            """CREATE TEMP TABLE raw_icustays AS
            SELECT hadm_id, time AS intime, NULL::VARCHAR AS broken, source_row FROM icu_admissions"""
        )

    def load(
        self,
        table: str,
        where: str = "TRUE",
        derived: Mapping[str, str] | None = None,
        keep: bool = True,
    ) -> str:
        return f"raw_{table}"

    def count(self, table: str, raw: str, rows: str) -> int:
        # Patients and stays are made of several rows each: `_samples` counts these.
        if raw in ("patients", "admissions"):
            return 0
        by_file = (
            f"SELECT file_name(source_row), reason, count(*) FROM {rows} GROUP BY ALL ORDER BY ALL"
        )
        found = self.connection.execute(by_file).fetchall()
        self.lineage += [(table, file, reason, count) for file, reason, count in found]
        return sum(count for *_, count in found)

    def _samples(self, to: Path) -> int:
        if self.label_files:
            self._read_labels()
        kept = super()._samples(to)
        self.connection.execute(_PERSON_REASONS)
        self.count("samples", "persons", "(FROM person_reasons WHERE NOT makes_labels)")
        self.count("labels", "persons", "(FROM person_reasons WHERE makes_labels)")
        if self.settings.prediction != "icu":
            reason = literal("the prediction time does not ask for intensive care")
            self.count(
                "samples", "icu", f"(SELECT source_row, {reason} AS reason FROM icu_admissions)"
            )
        return kept

    def register_splits(self, subjects: str) -> None:
        """The folder's own splits, where it has them; part of tuning is calibration, since MEDS
        knows no such split.
        """
        super().register_splits(subjects)
        file = self.root / "metadata" / "subject_splits.parquet"
        if self.settings.holdout_months:
            self.splits_from = f"the last {self.settings.holdout_months} months"
        elif file.exists():
            frame = pl.read_parquet(file)
            if unknown := int((~frame["split"].is_in(list(_SPLITS))).sum()):
                raise InputError(
                    f"{file} has {unknown:,} rows with another split; MEDS knows "
                    f"{', '.join(_SPLITS)}"
                )
            _, valid, calibration, _ = self.settings.split
            shares = (0.0, valid / (valid + calibration), calibration / (valid + calibration), 0.0)
            given = [
                (
                    str(subject),
                    split_of(str(subject), shares) if split == "tuning" else _SPLITS[split],
                )
                for subject, split in frame.select("subject_id", "split").iter_rows()
            ]
            given = pl.DataFrame(given, {"subject_id": pl.String, "given": pl.Int8}, orient="row")
            hashed = (
                self.connection.sql("FROM splits").pl().join(given, on="subject_id", how="left")
            )
            without = hashed["given"].null_count()
            self.splits_from = (
                f"metadata/subject_splits.parquet; {without} subjects that it lacks by a hash of "
                "their id"
            )
            both = hashed.select("subject_id", pl.coalesce("given", "split").alias("split"))
            self.register_frame("splits", both)

    def _events(self, to: Path) -> int:
        signals = load_signals()
        self.register(
            "signals",
            [(s.code, s.code, s.kind, s.unit) for s in signals],
            ["item", "code", "kind", "unit"],
        )
        self.register("unit_rules", unit_rules(signals), ["code", "spelling", "factor"])
        self._rows("signal_rows", "signal")
        measured = ", ".join(f"{sql} AS {name}" for name, sql in MEASURED.items())
        self.connection.execute(_SIGNAL_TABLES.format(measured=measured))
        kept = self._write_events(to, {"measurements": "measurement", "procedures": "procedure"})
        nothing = literal(_NO_ROLE)
        self.count(
            "events",
            "others",
            f"(SELECT source_row, {nothing} AS reason FROM meds ANTI JOIN roles USING (code))",
        )
        return kept

    def _notes(self, to: Path) -> int:
        self._rows("note_rows", "note")
        removed = ", ".join(literal(kind) for kind in sorted(gives_away(self.rules))) or "NULL"
        self.connection.execute(_NOTE_TABLE)
        typed = NOTE_ROWS.format(raw="raw_notes", kind="", reason="NULL")
        self._place(
            "notes",
            "notes",
            f"""SELECT * REPLACE (note_kind AS kind,
            CASE WHEN note_kind IN ({removed}) THEN {literal(GIVEN_AWAY)} END AS reason)
            FROM ({typed}) JOIN (SELECT source_row, kind AS note_kind FROM raw_notes) USING (source_row)""",
        )
        parts = [
            "FROM placed_notes WHERE kind IS DISTINCT FROM 'discharge'",
            f"SELECT * REPLACE ({NOT_BEFORE_DISCHARGE}) FROM placed_notes WHERE kind = 'discharge'",
        ]
        return self.write_parts(to / "notes.parquet", NOTES, parts, NOTES_ORDER)

    def _images(self, to: Path, folders: Sequence[Path]) -> int:
        return self.write_parts(to / "images.parquet", IMAGES, [], "stay_id, time, image_id")

    # A folder of labels ---------------------------------------------------------------------------

    def _read_labels(self) -> None:
        """``label_rows`` of all label files, and from them ``given_times``."""
        parts = []
        for rule in self.rules:
            for file in self.label_files[rule.spec.name]:
                column = next(name for name in _VALUES if name in pl.read_parquet_schema(file))
                value = f"{column}::DOUBLE"
                if rule.spec.problem == "multiclass":
                    cases = " ".join(
                        f"WHEN {literal(name)} THEN {i}"
                        for i, name in enumerate(rule.spec.class_names)
                    )
                    value = f"CASE {column}::VARCHAR {cases} END"
                parts.append(f"""SELECT subject_id::VARCHAR AS subject_id, prediction_time AS time,
                    {literal(rule.spec.name)} AS task, ({value})::DOUBLE AS value, {column}::VARCHAR AS given,
                    (files.number::BIGINT << {_BITS}) + file_row_number + 1 AS source_row
                    FROM read_parquet({literal(file)}, filename = true, file_row_number = true)
                    JOIN files ON files.path = filename""")
        self.connection.execute(_LABEL_TABLES.format(rows=" UNION ALL ".join(parts)))

    def _unread_labels(self) -> None:
        """Label files of tasks that this run leaves out."""
        mine = {rule.spec.name for rule in self.rules}
        for task, files in self.label_files.items():
            for file in files if task not in mine else ():
                name = f"labels/{task}/{file.name}"
                self.lineage.append(
                    ("labels", name, "a task that this run leaves out", self.rows_read[name])
                )

    def _labels(self, to: Path) -> int:
        if not self.label_files:
            kept = super()._labels(to)
            self.count("labels", "coded", "unplaced_diagnoses")
            return kept
        reason = literal("labels come from a folder of their own")
        self.count("labels", "coded", f"(SELECT source_row, {reason} AS reason FROM coded_rows)")
        self._unread_labels()
        self.connection.execute(f"""CREATE TEMP TABLE placed_labels AS
            SELECT sample_id, task, value, label.source_row,
                CASE WHEN value IS NULL AND given IS NOT NULL THEN 'value: not a class of the task' END AS parse_errors,
                CASE WHEN sample_id IS NULL THEN {literal(NONE["given"])} END AS reason
            FROM label_rows label LEFT JOIN (SELECT DISTINCT subject_id, prediction_time, min(sample_id) AS sample_id
                FROM sample_rows GROUP BY ALL) sample
            ON sample.subject_id = label.subject_id AND sample.prediction_time = label.time""")
        self.count("labels", "labels", "placed_labels")
        return self.write_parts(
            to / "labels.parquet", LABELS, ["FROM placed_labels"], "sample_id, task, source_row"
        )

    def close(self, to: Path) -> dict[str, Any]:
        # A file of MEDS data is read into several tables; its sum is held against its rows in
        # `write_lineage`.
        self.write_lineage(to)
        return {
            "rows read": {
                name: rows for name, rows in self.rows_read.items() if name not in self.files
            }
        }

    def _one(self, query: str) -> int:
        row = self.connection.execute(query).fetchone()
        assert row is not None
        return int(row[0])


# SQL ----------------------------------------------------------------------------------------------

_MACROS = """
CREATE TEMP MACRO moment(x) AS TRY_CAST(x AS TIMESTAMP);
"""

# MEDS' events of a patient as MIMIC-IV's patients and admissions. Where no column names the stay, a
# discharge belongs to the admission before it. A death is that of the stay if the patient left it
# dead, or where nothing says how they left, if it lies within: the day alone, as MIMIC-IV has for
# deaths at home, may be that of the discharge.
_STAY_TABLES = """
CREATE TEMP TABLE raw_patients AS
SELECT subject_id, sex AS gender, CASE WHEN birth IS NOT NULL THEN '0' END AS anchor_age,
    year(moment(birth))::VARCHAR AS anchor_year, coalesce(sex_row, birth_row) AS source_row, NULL::VARCHAR AS broken
FROM (SELECT subject_id, rest AS sex, min(source_row) AS sex_row FROM person_rows WHERE role = 'sex' GROUP BY ALL) s
FULL JOIN (SELECT subject_id, min(time) AS birth, min(source_row) AS birth_row
    FROM person_rows WHERE role = 'birth' GROUP BY ALL) b USING (subject_id);
INSERT INTO raw_patients SELECT subject_id, NULL, NULL, NULL, min(source_row), NULL FROM person_rows
WHERE subject_id IS NOT NULL AND subject_id NOT IN (SELECT subject_id FROM raw_patients WHERE subject_id IS NOT NULL)
GROUP BY ALL;

CREATE TEMP TABLE admitted AS
SELECT subject_id, coalesce(hadm_id, subject_id || '-' || strftime(moment(time), '%Y%m%dT%H%M%S')) AS hadm_id,
    hadm_id IS NULL AS by_time, time AS admittime, split_part(rest, '//', 1) AS admission_type, end_time, source_row,
    insurance, language, marital_status, race,
    lead(moment(time)) OVER (PARTITION BY subject_id ORDER BY moment(time)) AS next_time
FROM person_rows WHERE role = 'admission';

CREATE TEMP TABLE discharged AS
SELECT a.source_row AS admission_row, arg_min(d.time, d.source_row) AS time, arg_min(d.rest, d.source_row) AS place
FROM admitted a JOIN person_rows d ON d.role = 'discharge' AND d.subject_id = a.subject_id
    AND (d.hadm_id = a.hadm_id OR (d.hadm_id IS NULL AND a.by_time AND moment(d.time) >= moment(a.admittime)
        AND (a.next_time IS NULL OR moment(d.time) <= a.next_time)))
GROUP BY ALL;

CREATE TEMP TABLE told AS
SELECT subject_id, hadm_id, argument, arg_min(rest, source_row) AS value
FROM person_rows WHERE role = 'column' GROUP BY ALL;
CREATE TEMP TABLE told_of AS PIVOT told ON argument IN ('insurance', 'language', 'marital_status', 'race')
    USING first(value) GROUP BY subject_id, hadm_id;

CREATE TEMP TABLE raw_admissions AS
WITH dead AS (SELECT subject_id, min(time) AS death FROM person_rows WHERE role = 'death' GROUP BY ALL),
stays AS (
    SELECT a.*, coalesce(d.time, a.end_time) AS dischtime, upper(d.place) AS discharge_location, death,
        CASE WHEN moment(death) < moment(admittime) THEN false WHEN upper(d.place) = 'DIED'
            THEN moment(death) <= moment(coalesce(d.time, a.end_time)) + INTERVAL 1 DAY
            ELSE d.place IS NULL AND (coalesce(d.time, a.end_time) IS NULL
                OR moment(death) <= moment(coalesce(d.time, a.end_time))) END AS died
    FROM admitted a LEFT JOIN discharged d ON d.admission_row = a.source_row LEFT JOIN dead USING (subject_id))
SELECT stays.subject_id, stays.hadm_id, admittime, dischtime, CASE WHEN died THEN death END AS deathtime,
    admission_type, discharge_location, coalesce(t.insurance, stays.insurance) AS insurance,
    coalesce(t.language, stays.language) AS language,
    coalesce(t.marital_status, stays.marital_status) AS marital_status,
    coalesce(t.race, stays.race) AS race,
    CASE WHEN discharge_location = 'DIED' OR died THEN '1'
        WHEN dischtime IS NOT NULL AND (SELECT count(*) FROM dead) > 0 THEN '0' END AS hospital_expire_flag,
    NULL::VARCHAR AS broken, stays.source_row
FROM stays LEFT JOIN told_of t ON t.subject_id = stays.subject_id AND t.hadm_id IS NOT DISTINCT FROM
    CASE WHEN by_time THEN NULL ELSE stays.hadm_id END
"""

# A diagnosis without a stay's id belongs to the one stay of its patient within which it lies.
_DIAGNOSIS_TABLES = """
CREATE TEMP TABLE raw_diagnoses AS
SELECT coalesce(c.hadm_id, placed.hadm_id) AS hadm_id, c.rest AS icd_code, c.argument AS icd_version,
    NULL::VARCHAR AS broken, c.source_row
FROM coded_rows c LEFT JOIN (
    SELECT c.source_row, min(a.hadm_id) AS hadm_id FROM coded_rows c JOIN raw_admissions a
    ON a.subject_id = c.subject_id AND c.hadm_id IS NULL AND moment(c.time) >= moment(a.admittime)
        AND (a.dischtime IS NULL OR moment(c.time) <= moment(a.dischtime))
    GROUP BY c.source_row HAVING count(*) = 1) placed USING (source_row)
WHERE coalesce(c.hadm_id, placed.hadm_id) IS NOT NULL;

CREATE TEMP TABLE unplaced_diagnoses AS
SELECT source_row, 'no stay, or more than one, at that time' AS reason
FROM coded_rows ANTI JOIN raw_diagnoses USING (source_row)
"""

# An admission is a sample's row, discharges and deaths make labels; what else is said of a patient
# is no row by itself.
_PERSON_REASONS = """
CREATE TEMP TABLE person_reasons AS
SELECT p.source_row, p.role IN ('discharge', 'death') AS makes_labels,
    CASE WHEN stays.reason IS NOT NULL THEN stays.reason
    WHEN p.subject_id NOT IN (SELECT subject_id FROM sample_rows WHERE subject_id IS NOT NULL) OR p.subject_id IS NULL
        THEN 'no stay in the cohort'
    WHEN p.role NOT IN ('admission', 'discharge', 'death') THEN 'a column of its patient''s samples, no row of its own'
    END AS reason
FROM person_rows p LEFT JOIN admitted a USING (source_row)
LEFT JOIN stays ON stays.stay_id = coalesce(a.hadm_id, p.hadm_id)
"""

# What follows a signal's code is its unit.
_SIGNAL_TABLES = """
CREATE TEMP TABLE raw_measurements AS
SELECT {measured}, NULL::VARCHAR AS broken, source_row
FROM (SELECT subject_id, hadm_id, time AS charttime, storetime, argument AS itemid, text AS value, number AS valuenum,
        coalesce(unit, rest) AS valueuom, source_row
    FROM signal_rows WHERE argument IN (SELECT code FROM signals WHERE kind <> 'procedure'));

CREATE TEMP TABLE raw_procedures AS
SELECT subject_id, hadm_id, time AS starttime, NULL::VARCHAR AS endtime, storetime, argument AS itemid,
    NULL::VARCHAR AS broken, source_row
FROM signal_rows WHERE argument IN (SELECT code FROM signals WHERE kind = 'procedure');
DROP TABLE signal_rows
"""

# A note without an id has one from what it is, so that it stays the same wherever it lies.
_NOTE_TABLE = """
CREATE TEMP TABLE raw_notes AS
SELECT coalesce(note_id, left(md5(concat_ws('|', subject_id, time, code, text)), 16)) AS note_id, subject_id, hadm_id,
    time AS charttime, storetime, text, argument AS kind, NULL::VARCHAR AS broken, source_row
FROM note_rows
"""

_LABEL_TABLES = """
CREATE TEMP TABLE label_rows AS {rows};

CREATE TEMP TABLE given_times AS
SELECT DISTINCT as_id(a.hadm_id) AS stay_id, label.time
FROM label_rows label JOIN raw_admissions a ON a.subject_id = label.subject_id
    AND label.time >= as_time(a.admittime) AND (a.dischtime IS NULL OR label.time <= as_time(a.dischtime))
"""
