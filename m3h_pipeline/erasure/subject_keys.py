"""Whose a row is: the ids of forgotten patients' subjects, stays and samples, and which rows of a
table name them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from m3h_pipeline.erasure.forgotten import Forgotten
from m3h_pipeline.state.data_files import read_json
from m3h_pipeline.state.layout import COHORT, valid_folder

KEYS = ("subject_id", "stay_id", "sample_id")
# Where a wrong row that names no known stay may still name its patient.
_NAMES = ("note_id", "image_id", "path")
_WORD = re.compile(r"[0-9A-Za-z]+")


@dataclass
class SubjectKeys:
    """The keys of the forgotten patients in an out-folder, and the list of who is forgotten.

    ``known_stays``: stays of anybody; a row of no known stay is judged by what its own names say.
    """

    forgotten: Forgotten
    subjects: set[str] = field(default_factory=set)
    stays: set[str] = field(default_factory=set)
    samples: set[str] = field(default_factory=set)
    known_stays: set[str] = field(default_factory=set)

    def update(self, keys: pl.DataFrame) -> None:
        """Take in a table of keys: some of subject_id, stay_id, sample_id."""
        if "stay_id" in keys.columns:
            self.known_stays.update(keys["stay_id"].drop_nulls())
        is_forgotten = [subject in self.forgotten for subject in keys["subject_id"]]
        subject_rows = keys.filter(pl.Series(is_forgotten, dtype=pl.Boolean))
        for name, ids in self._ids_by_key().items():
            if name in subject_rows.columns:
                ids.update(subject_rows[name].drop_nulls())

    def match(self, table: pl.LazyFrame) -> pl.Expr | None:
        """True for the rows of the forgotten patients; None for a table that holds nobody's.

        A table says whose a row is by its keys, or, in quarantine, by those in the row's JSON.
        """
        values = _key_values(table)
        matches = [
            values[name].is_in(list(ids)).fill_null(False)
            for name, ids in self._ids_by_key().items()
            if name in values
        ]
        if not matches:
            return None
        names = [values[name] for name in _NAMES if name in values]
        if "stay_id" in values and names:
            matches.append(self._match_orphans(table, values["stay_id"], names))
        return pl.any_horizontal(matches)

    def _match_orphans(self, table: pl.LazyFrame, stay: pl.Expr, names: list[pl.Expr]) -> pl.Expr:
        """True for rows of no known stay whose own names hold a forgotten subject's id."""
        is_orphan = ~stay.is_in(list(self.known_stays)).fill_null(False)
        text = pl.concat_str(names, separator=" ", ignore_nulls=True)
        orphans = table.select(text.filter(is_orphan)).unique().collect().to_series()
        of_subjects = [orphan for orphan in orphans if self._is_named_in(orphan)]
        return (is_orphan & text.is_in(of_subjects)).fill_null(False)

    def _ids_by_key(self) -> dict[str, set[str]]:
        return dict(zip(KEYS, (self.subjects, self.stays, self.samples), strict=True))

    def _is_named_in(self, text: str | None) -> bool:
        """Whether a word of a text is a forgotten subject's id; MIMIC's image folders put a p
        before it.
        """
        words = _WORD.findall(text or "")
        return any(
            word in self.forgotten or word.removeprefix("p") in self.forgotten for word in words
        )


def _key_values(table: pl.LazyFrame) -> dict[str, pl.Expr]:
    """Key or name -> where a table has it: in a column, or in the JSON of a quarantined row."""
    schema = table.collect_schema()
    columns = (*KEYS, *_NAMES)
    if "rule" in schema and "row" in schema:
        return {name: _from_row(name) for name in columns}
    return {name: pl.col(name).cast(pl.String) for name in columns if name in schema}


def _from_row(name: str) -> pl.Expr:
    return pl.col("row").str.json_path_match(f"$.{name}")


def read_keys(snapshot: Path) -> Iterator[pl.DataFrame]:
    """Tables that say which stays and samples are whose, wherever a snapshot has them."""
    for file in sorted(snapshot.rglob("*.parquet")):
        schema = pl.read_parquet_schema(file)
        if "subject_id" in schema:
            names = [name for name in KEYS if name in schema]
            yield pl.read_parquet(file, columns=names).select(pl.col(names).cast(pl.String))
        elif file.parent == valid_folder(snapshot, "samples") and "rule" in schema:
            keys = [_from_row(name).alias(name) for name in KEYS]
            yield pl.read_parquet(file, columns=["row"]).select(keys)
    cohort = snapshot / COHORT / "cohort.json"
    if cohort.exists():
        record = read_json(cohort)
        if record["subject_ids"] is not None:
            yield pl.DataFrame(
                {"subject_id": record["subject_ids"], "sample_id": record["sample_ids"]}
            )
