"""What the ingestion benchmark measures: each a function of a folder, in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEMORY_LIMIT = "4GB"


def extract(root: Path, scratch: Path) -> int:
    """The source `mimic-iv`, all tables."""
    from m3h_pipeline.config import open_source
    from m3h_pipeline.sources import Settings

    return open_source("mimic-iv", root).extract(scratch, Settings(memory_limit=MEMORY_LIMIT))[
        "events"
    ]


def extract_covered(root: Path, scratch: Path) -> int:
    """The same, with every signal that enough training stays have."""
    from m3h_pipeline.config import open_source
    from m3h_pipeline.sources import Settings

    settings = Settings(memory_limit=MEMORY_LIMIT, signal_coverage=0.05)
    return open_source("mimic-iv", root).extract(scratch, settings)["events"]


def floor(root: Path, scratch: Path) -> int:
    """DuckDB alone: scan, filter, sort, write the six columns of a measurement."""
    return _floor(root, scratch, {}, "stay_id, time, code, value")


def same_rows(root: Path, scratch: Path) -> int:
    """The same with all columns of `events`, in its order: each row with its number in its file."""
    order = "stay_id, time, code, value, available_time, unit, source_file, source_row"
    return _floor(
        root,
        scratch,
        {"source_file": "{file}", "source_row": "row", "parse_errors": "NULL::VARCHAR"},
        order,
    )


def _floor(root: Path, scratch: Path, more: dict[str, str], order: str) -> int:
    from m3h_pipeline.sources.tasks_file import load_signals
    from m3h_pipeline.state.database import open_database, quote_literal, write_parquet

    items = ", ".join(f"'{item}'" for signal in load_signals() for item in signal.mimic_iv)
    parts = []
    for table, time in (
        ("icu/chartevents", "charttime"),
        ("hosp/labevents", "charttime"),
        ("icu/procedureevents", "starttime"),
    ):
        file = next(root.glob(f"{table}.*"))
        scan = f"read_parquet({quote_literal(file)}, file_row_number = true)"
        row = "file_row_number + 1"
        if file.suffix != ".parquet":
            scan = (
                f"read_csv({quote_literal(file)}, all_varchar = true, header = true, "
                "delim = ',', quote = '\"')"
            )
            row = "row_number() OVER ()"
        if more:
            scan = f"(SELECT *, {row} AS row FROM {scan})"
        value, unit = ("1", "NULL") if "procedure" in table else ("valuenum", "valueuom")
        columns = "".join(
            f", {sql.format(file=quote_literal(file.name))} AS {name}" for name, sql in more.items()
        )
        parts.append(
            f"""SELECT hadm_id::VARCHAR AS stay_id, {time}::TIMESTAMP AS time,
                storetime::TIMESTAMP AS available_time,
            itemid::VARCHAR AS code, {value}::DOUBLE AS value, {unit}::VARCHAR AS unit{columns}
            FROM {scan} WHERE itemid IN ({items})"""
        )
    with open_database(scratch / ".spill", MEMORY_LIMIT) as connection:
        query = f"{' UNION ALL '.join(parts)} ORDER BY {order}"
        return write_parquet(connection, query, scratch / "events.parquet")


def two_days(root: Path, scratch: Path) -> int:
    """The source `mimic-iv`, predicting 48 hours after the admission."""
    from m3h_pipeline.config import open_source
    from m3h_pipeline.sources import Settings

    counts = open_source("mimic-iv", root).extract(
        scratch, Settings(memory_limit=MEMORY_LIMIT, prediction_hours=48)
    )
    print(json.dumps(counts["placed by time"]))
    return counts["events"]


def every_code(root: Path, scratch: Path) -> int:
    """The source `mimic-iv` with as little cut off and labelled as can be: the events of the listed
    codes.
    """
    from m3h_pipeline.config import open_source
    from m3h_pipeline.sources import Settings

    settings = Settings(
        memory_limit=MEMORY_LIMIT, prediction_hours=0.001, tasks=["death_in_hospital"]
    )
    return open_source("mimic-iv", root).extract(scratch, settings)["events"]


def features(root: Path, scratch: Path) -> int:
    """The first 48 hours' statistics of each sample and code, from the inputs that `as_of`
    writes.
    """
    import polars as pl

    from m3h_pipeline.features.as_of import write_inputs

    write_inputs(dict.fromkeys(["samples", "events", "notes", "images"], root), scratch)
    return _statistics(
        pl.scan_parquet(scratch / "timeseries.parquet").filter(pl.col("hours") >= -48), scratch
    )


def bare_features(root: Path, scratch: Path) -> int:
    """The same by one Polars query over the same events and samples."""
    import polars as pl

    samples = pl.scan_parquet(root / "samples.parquet").select(
        "sample_id", "stay_id", "prediction_time"
    )
    in_time = pl.max_horizontal("time", "available_time") <= pl.col("prediction_time")
    recent = pl.col("time") >= pl.col("prediction_time").dt.offset_by("-48h")
    events = (
        pl.scan_parquet(root / "events.parquet")
        .join(samples, on="stay_id")
        .filter(in_time & recent)
    )
    return _statistics(events, scratch)


def _statistics(events: Any, scratch: Path) -> int:
    import polars as pl

    value = pl.col("value").sort()
    frame = events.group_by("sample_id", "code").agg(
        value.mean().alias("mean"),
        value.min().alias("min"),
        value.max().alias("max"),
        pl.len().alias("count"),
    )
    frame = frame.collect().sort("sample_id", "code")
    frame.write_parquet(scratch / "features.parquet")
    return len(frame)


MEASURED: dict[str, Callable[[Path, Path], int]] = {
    "extract": extract,
    "covered": extract_covered,
    "floor": floor,
    "same rows": same_rows,
    "two days": two_days,
    "every code": every_code,
    "features": features,
    "bare": bare_features,
}
