"""The prediction times of all stays, as an SQL table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb

from m3h_pipeline.sources.prediction.modes import ENDED, NONE, NOT_YET
from m3h_pipeline.state.sql import render_sql

_SQL = Path(__file__).parent

_LONGEST_NIGHTLY_DAYS = 3653
_TOO_LONG = "the stay lasts more than ten years"


def make_points(connection: duckdb.DuckDBPyConnection, mode: str, hours: float, clock: str) -> None:
    """The SQL table ``points``: source_row, suffix, prediction_time (UTC), reason (null: a sample).

    Reads ``stays_read`` (source_row, stay_id, admit_time, end_time: null while the patient is in,
    times_wrong), and by mode ``icu_times`` (stay_id, time), ``image_times`` (stay_id, image_id,
    time) or ``given_times`` (stay_id, time). Local times are those of `define_time_macros`. Every
    stay has at least one row. One whose own times are wrong has no reason, so that the contract
    judges it.

    >>> from m3h_pipeline.sources.extraction import define_time_macros
    >>> connection = duckdb.connect()
    >>> _ = connection.execute('''CREATE TABLE stays_read AS
    ...     FROM (SELECT *, false AS times_wrong FROM (VALUES
    ...     (1, 'a', TIMESTAMP '2150-03-27 20:00', TIMESTAMP '2150-03-30 10:00'),
    ...     (2, 'b', TIMESTAMP '2150-03-28 01:00', TIMESTAMP '2150-03-28 05:00'),
    ...     (3, 'c', TIMESTAMP '2150-03-28 20:00', NULL))
    ...     t(source_row, stay_id, admit_time, end_time))''')
    >>> def show(*how):
    ...     make_points(connection, *how)
    ...     for row in connection.execute("FROM points ORDER BY source_row, suffix").fetchall():
    ...         print(row[0], row[1], row[2] and f"{row[2]:%m-%d %H:%M}", row[3])
    >>> define_time_macros(connection, "Europe/Berlin")
    >>> show("admission", 24, "00:00")
    1 None 03-28 20:00 None
    2 None 03-29 01:00 the stay ended before the prediction time
    3 None 03-29 20:00 None
    >>> show("admission", 48, "00:00")
    1 None 03-29 20:00 None
    2 None 03-30 01:00 the stay ended before the prediction time
    3 None 03-30 20:00 the prediction time is still to come

    Midnight in Berlin is 23:00 in winter and, from the last Sunday of March on, 22:00:

    >>> show("nightly", 24, "00:00")
    1 2150-03-28 03-27 23:00 None
    1 2150-03-29 03-28 23:00 None
    1 2150-03-30 03-29 22:00 None
    2 None None the patient was never in at the hour of prediction
    3 2150-03-29 03-28 23:00 None
    3 2150-03-30 03-29 22:00 None
    """
    values: dict[str, Any] = {}
    if mode in ("admission", "icu"):
        values = {"seconds": float(hours) * 3600}
    elif mode == "nightly":
        values = {"clock": clock, "longest": _LONGEST_NIGHTLY_DAYS}
    connection.execute(render_sql(_SQL / f"{mode}.sql"), values)
    reasons = {
        "none": NONE[mode],
        "ended": ENDED,
        "not_yet": NOT_YET,
        # Only the nights of a stay are as many as its days.
        "longest": _LONGEST_NIGHTLY_DAYS if mode == "nightly" else None,
        "too_long": _TOO_LONG,
    }
    connection.execute(render_sql(_SQL / "points.sql"), reasons)
