"""HAIM-MIMIC-MM's published embedding file to the canonical tables: a sample an image, its vectors
given.

A row of ``cxr_ic_fusion_1103.csv`` (Soenksen et al. 2022; PhysioNet, haim-multimodal 1.0.1) is one
chest image within an ICU stay, predicted at the time of the image. The layout was read from HAIM's
code (github.com/lrsoenksen/HAIM); the file itself is credentialed. What is done about its defects
is in docs/sources/haim.md.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from m3h_core.tasks import TaskSpec
from m3h_pipeline.errors import InputError
from m3h_pipeline.sources.base import (
    EMBEDDINGS,
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
from m3h_pipeline.sources.extraction import Extraction
from m3h_pipeline.sources.raw_tables import RawReader, RawTable, find_file, open_table
from m3h_pipeline.state.database import literal, spill_folder, workbench

FILE = "cxr_ic_fusion_1103"
# Row n (from 0) of this file, which HAIM's code writes, is the patient, admission and ICU stay of
# haim_id n.
KEYS = "haim_mimiciv_key_ids"

# Prefix -> columns. n_rad_ (768) is not read: the pathologies' labels come from those reports.
WIDTHS = {
    "de_": 6,
    "vd_": 1024, "vp_": 18, "vmd_": 1024, "vmp_": 18,
    "ts_ce_": 99, "ts_le_": 242, "ts_pe_": 110,
    "n_ecg_": 768, "n_ech_": 768,
}  # fmt: skip
MODALITIES = {
    "tabular": ("de_",),
    "timeseries": ("ts_ce_", "ts_le_", "ts_pe_"),
    "language": ("n_ecg_", "n_ech_"),
    "vision": ("vd_", "vp_", "vmd_", "vmp_"),
}
# Where a lone image's time-weighted mean is 0/0, it is the image's own.
_OWN_IMAGE = {"vmd_": "vd_", "vmp_": "vp_"}
# The ten of CheXpert's fourteen that HAIM predicts.
PATHOLOGIES = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion",
    "Lung Opacity", "Pneumonia", "Pneumothorax",
)  # fmt: skip
_FACTS = (
    "haim_id", "img_id", "img_charttime", "img_deltacharttime", "img_length_of_stay", "death_status",
    *(name.lower() for name in PATHOLOGIES),
)  # fmt: skip
_ANOTHER_STAY = "the same image again, under another ICU stay of its admission"

TASKS = (
    *(
        TaskSpec(name.lower().replace(" ", "_"), "binary", department="radiology",
                 definition=(
                     f"{name}: mentioned as present (1) or absent (0) in the image's report, by "
                     "CheXpert"
                 ))
        for name in PATHOLOGIES
    ),
    TaskSpec("discharged_within_48h", "binary", department="hospital",
             definition="Discharged alive within 48 hours of the image"),
    TaskSpec("died_within_48h", "binary", department="hospital", definition="Died within 48 hours of the image"),
)  # fmt: skip
_COLUMNS = Columns(features=(), audit=("sex",))
_LIMITS = (
    "Radiology notes (n_rad_) are left out for all tasks: the pathologies' labels were read from "
    "them.",
    "The vectors were made by HAIM's pipeline: procedures are not cut at the image's time, and "
    "records count from when they were taken, not from when they were known.",
)
_NO_KEYS = (
    f"There was no {KEYS}.csv beside the file, so a patient is an admission: one with several "
    "admissions can be in train and in test."
)


@dataclass
class Haim(Source):
    """A folder that holds the embedding file, and HAIM's table of keys where there is one."""

    path: Path
    name: ClassVar[str] = "haim"

    def __post_init__(self) -> None:
        self.path = Path(self.path).absolute()

    def check(self) -> None:
        """Look at the header."""
        self._tables()

    def fingerprint(self) -> str:
        """Hash over the listing of the two files."""
        return listing_fingerprint(
            self.path, [file for name in (FILE, KEYS) if (file := find_file(self.path, name))]
        )

    def extract(self, to: Path, settings: Settings) -> dict[str, Any]:
        """Write the canonical tables; see `Source.extract`."""
        tables = self._tables()
        spill = spill_folder(to, settings.spill)
        columns = {"images": _FACTS, "keys": ["subject_id"]}
        if "keys" in tables and "haim_id" in tables["keys"].columns:
            columns["keys"] = ["subject_id", "haim_id"]
        with workbench(spill, settings.memory_limit) as connection:
            work = _Extraction(connection, RawReader(connection, spill), tables, settings, columns)
            counts = work.extract(to)
        (to / "tasks.json").write_text(
            json.dumps([task.to_dict() for task in TASKS], indent=1) + "\n"
        )
        _COLUMNS.save(to)
        return {**counts, "limits": [*_LIMITS, *([] if "keys" in tables else [_NO_KEYS])]}

    def _tables(self) -> dict[str, RawTable]:
        file = find_file(self.path, FILE) if self.path.is_dir() else None
        if file is None:
            raise InputError(
                f"{self.path} has no {FILE}.csv: name the folder that holds HAIM-MIMIC-MM's "
                "embedding file"
            )
        needed = [*_FACTS, *(column for prefix in WIDTHS for column in _columns(prefix))]
        tables = {"images": open_table(self.path, file, needed)}
        if keys := find_file(self.path, KEYS):
            tables["keys"] = open_table(self.path, keys, ["subject_id"])
        return tables


def _columns(prefix: str) -> list[str]:
    return [f"{prefix}{i}" for i in range(WIDTHS[prefix])]


@dataclass(kw_only=True)
class _Extraction(Extraction):
    """One pass over the file; its thousands of numbers a row become four vectors as they are
    read.
    """

    def extract(self, to: Path) -> dict[str, Any]:
        self.define_macros(self.settings.timezone)
        self.connection.execute(_MACROS)
        self.load(
            "images",
            derived={modality: _vector(prefixes) for modality, prefixes in MODALITIES.items()},
        )
        self._subjects()
        self.connection.execute(
            _ROWS.format(labels=", ".join(f"{sql} AS {task}" for task, sql in _LABELS.items()))
        )
        self.connection.execute("DROP TABLE raw_images")
        self.register_splits("image_rows")
        self.count("samples", "images", "image_rows")
        if "keys" in self.tables:
            self.count("samples", "keys", "key_rows")
        file = literal(self.tables["images"].name)
        samples = (
            f"SELECT *, {file} AS source_file FROM image_rows LEFT JOIN splits USING (subject_id) "
            "WHERE reason IS NULL"
        )
        # The vectors have no source_file: a row of the file is counted once, as the sample that it
        # is.
        vectors = [
            f"SELECT sample_id, '{modality}' AS modality, {modality} AS vector FROM image_rows "
            "WHERE is_first"
            for modality in MODALITIES
        ]
        labels = [
            f"SELECT sample_id, '{task}' AS task, {task} AS value, source_row, {file} AS "
            f"source_file FROM image_rows WHERE is_first AND {task} IS NOT NULL"
            for task in _LABELS
        ]
        return {
            "samples": self.write(
                to / "samples.parquet",
                samples_schema({"sex": "VARCHAR"}),
                samples,
                "sample_id, place, source_row",
            ),
            "events": self.write_parts(to / "events.parquet", EVENTS, [], "stay_id"),
            "notes": self.write_parts(to / "notes.parquet", NOTES, [], "stay_id"),
            "images": self.write_parts(to / "images.parquet", IMAGES, [], "stay_id"),
            "labels": self.write_parts(to / "labels.parquet", LABELS, labels, "sample_id, task"),
            "embeddings": self.write_parts(
                to / "embeddings.parquet", EMBEDDINGS, vectors, "sample_id, modality"
            ),
            **self.close(to),
        }

    def _subjects(self) -> None:
        """The SQL table ``subjects``: haim_id, subject_id (null: not in the table of keys)."""
        if "keys" not in self.tables:
            self.connection.execute(_SUBJECTS_BY_IMAGE)
            return
        self.load("keys")
        number = (
            "as_id(haim_id)" if "haim_id" in self.columns["keys"] else "(source_row - 1)::VARCHAR"
        )
        self.connection.execute(_SUBJECTS_BY_KEY.format(haim_id=number))


# SQL ----------------------------------------------------------------------------------------------

# Nothing is 0, as HAIM writes it where nothing was measured; what is no number is null. Of a lone
# image's 0/0 there is another value to take.
_MACROS = """
CREATE MACRO is_nothing(x) AS x IS NULL OR lower(trim(x)) IN ('', 'nan');
CREATE MACRO finite(x) AS CASE WHEN isfinite(TRY_CAST(x AS FLOAT)) THEN TRY_CAST(x AS FLOAT) END;
CREATE MACRO haim_number(x) AS CASE WHEN is_nothing(x) THEN 0 ELSE finite(x) END;
CREATE MACRO haim_number_or(x, y) AS CASE WHEN is_nothing(x) THEN haim_number(y) ELSE finite(x) END;
CREATE MACRO hours(x) AS to_microseconds(CAST(as_number(x) * 3600e6 AS BIGINT));
"""


def _vector(prefixes: Sequence[str]) -> str:
    parts = []
    for prefix in prefixes:
        numbers = f"[{', '.join(_columns(prefix))}]"
        if own := _OWN_IMAGE.get(prefix):
            pairs = f"list_zip({numbers}, [{', '.join(_columns(own))}])"
            parts.append(f"list_transform({pairs}, lambda pair: haim_number_or(pair[1], pair[2]))")
        else:
            parts.append(f"list_transform({numbers}, lambda number: haim_number(number))")
    return " || ".join(parts)


def _chexpert(column: str) -> str:
    return f'CASE as_number("{column}") WHEN 1 THEN 1.0 WHEN 0 THEN 0.0 END'


_STAY_LEFT = "as_number(img_length_of_stay)"
_DIED = "as_number(death_status)"
# Task -> SQL of its label; null: not labelled. CheXpert's -1 (uncertain) and empty (not mentioned)
# are not.
_LABELS = {
    **{name.lower().replace(" ", "_"): _chexpert(name.lower()) for name in PATHOLOGIES},
    "discharged_within_48h": f"({_STAY_LEFT} < 48 AND {_DIED} = 0)::INT::DOUBLE",
    "died_within_48h": f"({_STAY_LEFT} < 48 AND {_DIED} = 1)::INT::DOUBLE",
}

# All ICU stays of an admission have the same images, so these say which stays are one patient's;
# not which admissions.
_SUBJECTS_BY_IMAGE = """
CREATE TEMP TABLE subjects AS
WITH pairs AS (
    SELECT DISTINCT as_id(haim_id) AS haim_id, img_id, img_charttime FROM raw_images
    WHERE haim_id IS NOT NULL AND img_id IS NOT NULL),
by_image AS (SELECT haim_id, min(haim_id) OVER (PARTITION BY img_id, img_charttime) AS first_id FROM pairs)
SELECT haim_id, min(first_id) AS subject_id FROM by_image GROUP BY haim_id
"""

_SUBJECTS_BY_KEY = """
CREATE TEMP TABLE numbered_keys AS
SELECT {haim_id} AS haim_id, as_id(subject_id) AS subject_id, broken, source_row FROM raw_keys;

CREATE TEMP TABLE subjects AS
SELECT haim_id, any_value(subject_id) AS subject_id FROM numbered_keys WHERE subject_id IS NOT NULL GROUP BY haim_id;

CREATE TEMP TABLE key_rows AS
SELECT CASE WHEN broken IS NOT NULL THEN broken WHEN subject_id IS NULL THEN 'no subject_id'
    WHEN haim_id NOT IN (SELECT as_id(haim_id) FROM raw_images WHERE haim_id IS NOT NULL) THEN 'no image in the file'
    END AS reason FROM numbered_keys
"""

_CHECKS = ", ".join(
    [
        "broken",
        "CASE WHEN as_text(img_charttime) IS NOT NULL AND charttime IS NULL THEN 'img_charttime: "
        "not a date' END",
        "CASE WHEN broken IS NULL AND as_text(img_id) IS NULL THEN 'img_id: empty' END",
        "CASE WHEN broken IS NULL AND subject_id IS NULL THEN 'haim_id: not among the keys' END",
        *(
            f"CASE WHEN as_text({column}) IS NOT NULL AND as_number({column}) IS NULL THEN "
            f"'{column}: not a number' END"
            for column in ("img_deltacharttime", "img_length_of_stay")
        ),
        "CASE WHEN as_text(death_status) IS NOT NULL AND as_number(death_status) NOT IN (0, 1) IS "
        "NOT FALSE THEN 'death_status: not 0 or 1' END",
        *(
            f'CASE WHEN as_text("{name.lower()}") IS NOT NULL AND as_number("{name.lower()}") NOT IN (1, 0, -1) '
            f"IS NOT FALSE THEN '{name}: not 1, 0 or -1' END"
            for name in PATHOLOGIES
        ),
        *(
            f"CASE WHEN list_count({modality}) < len({modality}) THEN '{'*, '.join(prefixes)}*: "
            "not all numbers' END"
            for modality, prefixes in MODALITIES.items()
        ),
    ]
)

# ``place``: rows of the same image and time in an order that does not depend on that of the file;
# wrong rows have none.
_ROWS = f"""
CREATE TEMP TABLE image_rows AS
WITH typed AS (
    SELECT as_text(img_id) || '-' || strftime(charttime, '%Y%m%d%H%M%S') AS sample_id, as_id(raw.haim_id) AS stay_id,
        subject_id, charttime - hours(img_deltacharttime) AS admit_time,
        charttime + hours(img_length_of_stay) AS discharge_time, charttime AS prediction_time,
        CASE tabular[2] WHEN 0 THEN 'F' WHEN 1 THEN 'M' END AS sex, {", ".join(MODALITIES)}, {{labels}},
        nullif(concat_ws('; ', {_CHECKS}), '') AS parse_errors, source_row
    FROM (SELECT *, as_time(img_charttime) AS charttime FROM raw_images) raw
    LEFT JOIN subjects ON subjects.haim_id = as_id(raw.haim_id)),
placed AS (
    SELECT *, CASE WHEN parse_errors IS NULL AND sample_id IS NOT NULL THEN row_number() OVER (
        PARTITION BY sample_id, parse_errors IS NULL
        ORDER BY TRY_CAST(stay_id AS BIGINT), stay_id, hash({", ".join(MODALITIES)}),
            hash({", ".join(_LABELS)}), source_row
        ) END AS place
    FROM typed)
SELECT *, coalesce(place = 1, false) AS is_first,
    CASE WHEN place > 1 AND stay_id <> first_value(stay_id) OVER (PARTITION BY sample_id ORDER BY place NULLS LAST)
        THEN '{_ANOTHER_STAY}' END AS reason
FROM placed
"""
