"""Hospitals of any size for the ingestion benchmark: copies of one under other ids."""

from __future__ import annotations

from pathlib import Path

TABLES = (
    "hosp/patients",
    "hosp/admissions",
    "hosp/diagnoses_icd",
    "hosp/labevents",
    "icu/chartevents",
    "icu/procedureevents",
    "icu/icustays",
)
# What signals that nobody listed are read of, too.
TABLES_OF_COVERED = ("icu/outputevents", "icu/inputevents")
TABLES_OF_CODES = (
    "hosp/procedures_icd",
    "hosp/prescriptions",
    "hosp/services",
    "hosp/transfers",
    "hosp/microbiologyevents",
    "hosp/omr",
)
DICTIONARIES = ("icu/d_items", "hosp/d_labitems")
_IDS = ("subject_id", "hadm_id", "stay_id")
# Times as many rows as prescriptions, as in the whole of MIMIC-IV.
_EMAR = """
SELECT subject_id, hadm_id, starttime AS charttime, starttime AS storetime, drug AS medication,
    'Administered' AS event_txt
FROM read_csv('{prescriptions}', all_varchar = true, quote = '"'), range(2)
"""


def grow(base: Path, to: Path, copies: int, suffix: str, tables: tuple[str, ...] = TABLES) -> None:
    """Copies of all stays of a hospital, each under ids of its own, in the same layout."""
    import duckdb

    for table in tables:
        file = to / f"{table}{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        with duckdb.connect() as connection:
            source = f"read_csv('{base / table}.csv.gz', all_varchar = true, quote = '\"')"
            columns = [row[0] for row in connection.execute(f"DESCRIBE FROM {source}").fetchall()]
            ids = [
                f"({name}::BIGINT + n * 100000000)::VARCHAR AS {name}"
                if name in _IDS
                else f'"{name}"'
                for name in columns
            ]
            form = (
                "FORMAT parquet" if suffix == ".parquet" else "FORMAT csv, HEADER, COMPRESSION gzip"
            )
            rows = f"SELECT {', '.join(ids)} FROM range({copies}) t(n), {source}"
            connection.execute(f"COPY ({rows}) TO '{file}' ({form})")


def make_emar(root: Path) -> None:
    """Write drugs given, made of the drugs ordered."""
    import duckdb

    rows = _EMAR.format(prescriptions=root / "hosp/prescriptions.csv.gz")
    form = "FORMAT csv, HEADER, COMPRESSION gzip"
    with duckdb.connect() as connection:
        connection.execute(f"COPY ({rows}) TO '{root / 'hosp/emar.csv.gz'}' ({form})")


def count_rows(root: Path) -> int:
    """The rows of all tables in a folder."""
    import duckdb

    with duckdb.connect() as connection:
        total = 0
        for file in root.rglob("*.csv.gz"):
            rows = connection.execute(
                f"SELECT count(*) FROM read_csv('{file}', all_varchar = true, quote = '\"')"
            ).fetchall()
            total += rows[0][0]
    return total
