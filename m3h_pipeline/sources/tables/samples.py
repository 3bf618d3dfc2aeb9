"""Samples: which rows are in scope, their declared columns and their splits."""

from __future__ import annotations

from pathlib import Path

from m3h_core.data.cohort import SPLITS
from m3h_pipeline.errors import InputError
from m3h_pipeline.sources.base import samples_schema
from m3h_pipeline.sources.prediction import ENDED, NONE, NOT_YET
from m3h_pipeline.sources.tables.reading import TablesExtraction
from m3h_pipeline.state.database import quote_identifier, quote_literal

# Columns of which numbers are asked for by the contract, and those that stay text however many
# numbers they hold.
_CONTRACT_TYPES = {
    "age": "DOUBLE",
    "sex": "VARCHAR",
    "admission_type": "VARCHAR",
    "insurance": "VARCHAR",
    "language": "VARCHAR",
    "marital_status": "VARCHAR",
    "race": "VARCHAR",
}
# From this share of numbers on, a column is one of numbers, and what is none in it is a mistake.
_MOSTLY_NUMBERS = 0.95


def write_samples(extraction: TablesExtraction, to: Path) -> int:
    """Write ``samples.parquet``; return its rows. Leaves the SQL tables ``sample_rows``,
    ``stay_scope`` and ``sample_scope``.
    """
    columns = extraction.read("samples")
    settings = extraction.settings
    file = extraction.tables["samples"].file
    types = _infer_declared_types(extraction)
    sample_id = "sample_id" if "sample_id" in columns else "stay_id"
    must_be_given = settings.prediction == "given"
    if must_be_given and "prediction_time" not in columns:
        raise InputError(
            f"{file} has no column prediction_time, which "
            'cohort.prediction = "given" needs: add it, or leave that setting out'
        )
    query = extraction.render_table(
        "samples",
        sample_id=sample_id,
        types=types,
        splits=SPLITS,
        must_be_given=must_be_given,
        prediction_seconds=float(settings.prediction_hours) * 3600,
        reasons={"not_given": NONE["given"], "ended": ENDED, "not_yet": NOT_YET},
    )
    extraction.connection.execute(query)
    if sample_id == "stay_id":
        _check_unique_stays(extraction, file)
    _check_any_in_scope(extraction, file)
    extraction.connection.execute(extraction.render("scope.sql"))
    extraction.count("samples", "samples", "sample_rows")
    extraction.register_splits("sample_rows")
    # Of rows with the same key the first is kept, so their order must not depend on the file's.
    keys = map(quote_identifier, ("sample_id", "admit_time", "prediction_time", *types))
    join = "" if "split" in columns else "LEFT JOIN splits USING (subject_id)"
    return extraction.write(
        to / "samples.parquet",
        samples_schema(types),
        f"SELECT *, {quote_literal(extraction.tables['samples'].name)} AS source_file "
        f"FROM sample_rows {join} WHERE reason IS NULL",
        f"{', '.join(keys)}, source_row",
    )


def _infer_declared_types(extraction: TablesExtraction) -> dict[str, str]:
    """The type of each declared column: what the contract says, else numbers where nearly all are
    numbers.
    """
    types = {}
    for name in extraction.cohort.columns.declared:
        if name in _CONTRACT_TYPES or name in extraction.cohort.categories:
            types[name] = _CONTRACT_TYPES.get(name, "VARCHAR")
            continue
        column = quote_identifier(name)
        n_numbers, n_filled = extraction.fetch_one(
            f"SELECT count(as_quantity({column})), count(non_missing({column})) FROM raw_samples"
        )
        is_number = n_filled and n_numbers >= _MOSTLY_NUMBERS * n_filled
        types[name] = "DOUBLE" if is_number else "VARCHAR"
    return types


def _check_unique_stays(extraction: TablesExtraction, file: Path) -> None:
    (n_twins,) = extraction.fetch_one(
        """SELECT count(*) FROM (SELECT stay_id FROM sample_rows WHERE stay_id IS NOT NULL
        GROUP BY stay_id HAVING count(DISTINCT prediction_time) > 1)"""
    )
    if n_twins:
        raise InputError(
            f"{file} has no sample_id, and {n_twins:,} stay_ids with more than one "
            "prediction time: add a column sample_id that is different in each row, and "
            "refer to it in labels"
        )


def _check_any_in_scope(extraction: TablesExtraction, file: Path) -> None:
    n_kept, n_out_of_scope = extraction.fetch_one(
        "SELECT count(*) FILTER (reason IS NULL), count(reason) FROM sample_rows"
    )
    if n_kept or not n_out_of_scope:
        return
    if extraction.settings.prediction == "given":
        raise InputError(
            f"{file}: prediction_time is empty in all {n_out_of_scope:,} rows: fill it in, or "
            "leave cohort.prediction out"
        )
    raise InputError(
        f"{file}: all {n_out_of_scope:,} stays ended before their prediction time, "
        f"{extraction.settings.prediction_hours:g} h after admission, or have it still to come: "
        "give another in a column prediction_time, or as cohort.prediction_hours in "
        "m3h.toml"
    )
