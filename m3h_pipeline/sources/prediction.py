"""When predictions are made: the moments at which each stay becomes a sample, the same for every
source.

- ``admission``: so many hours after the hospital admission.
- ``icu``: so many hours after the first ICU admission of the stay.
- ``image``: at each image of the stay, as HAIM does (Soenksen et al. 2022); it and all that came before goes in.
- ``nightly``: at one local hour of every day on which the patient is in, for a model that runs each night.
- ``given``: at the moments that the data itself names.

Who is still in is predicted up to the latest admission or discharge that is known: what comes later
was not recorded yet, and the stay becomes a sample in a later night.

A sample's id is the stay's where a stay has one prediction. Else a suffix follows that never
changes as the stay goes on: the image's id, the local date, or the moment itself.
"""

from __future__ import annotations

import datetime as dt

from m3h_pipeline.errors import InputError
from m3h_pipeline.state.database import literal

MODES = ("admission", "icu", "image", "nightly", "given")
ENDED = "the stay ended before the prediction time"
NOT_YET = "the prediction time is still to come"
# Why a stay has no prediction time at all.
NONE = {
    "admission": "the stay has no admission time",
    "icu": "the stay has no ICU admission",
    "image": "the stay has no image",
    "nightly": "the patient was never in at the hour of prediction",
    "given": "no prediction time is given for the stay",
}
_LONGEST_NIGHTLY_DAYS = 3653
_TOO_LONG = "the stay lasts more than ten years"


def need_mode(source: str, mode: str, supported: tuple[str, ...]) -> None:
    """Raise `InputError` where a source can't predict in this mode.

    >>> need_mode("meds", "image", ("admission", "icu"))
    Traceback (most recent call last):
        ...
    m3h_pipeline.errors.InputError: the source meds can't predict with prediction = "image"; it knows admission, icu
    """
    if mode not in supported:
        known = ", ".join(supported)
        raise InputError(
            f'the source {source} can\'t predict with prediction = "{mode}"; it knows {known}'
        )


def check_clock(text: str) -> None:
    """Raise `InputError` unless the text is an hour of the day.

    >>> check_clock("06:30")
    >>> check_clock("half past six")
    Traceback (most recent call last):
        ...
    m3h_pipeline.errors.InputError: nightly_at 'half past six' is not an hour of the day; write it as 00:00 or 06:30
    """
    try:
        if dt.time.fromisoformat(text).tzinfo is None:
            return
    except ValueError:
        pass
    raise InputError(f"nightly_at {text!r} is not an hour of the day; write it as 00:00 or 06:30")


def points(mode: str, hours: float, clock: str, zone: str) -> str:
    """SQL: the prediction times of all stays as source_row, suffix, prediction_time (UTC), reason
    (null: a sample).

    Reads ``stays_read`` (source_row, stay_id, admit_time, end_time: null while the patient is in,
    times_wrong), and by mode ``icu_times`` (stay_id, time), ``image_times`` (stay_id, image_id,
    time) or ``given_times`` (stay_id, time). Every stay has at least one row. One whose own times
    are wrong has no reason, so that the contract judges it.

    >>> import duckdb
    >>> connection = duckdb.connect()
    >>> _ = connection.execute('''CREATE TABLE stays_read AS FROM (SELECT *, false AS times_wrong FROM (VALUES
    ...     (1, 'a', TIMESTAMP '2150-03-27 20:00', TIMESTAMP '2150-03-30 10:00'),
    ...     (2, 'b', TIMESTAMP '2150-03-28 01:00', TIMESTAMP '2150-03-28 05:00'),
    ...     (3, 'c', TIMESTAMP '2150-03-28 20:00', NULL)) t(source_row, stay_id, admit_time, end_time))''')
    >>> def show(*how):
    ...     for row in connection.execute(f"{points(*how)} ORDER BY source_row, suffix").fetchall():
    ...         print(row[0], row[1], row[2] and f"{row[2]:%m-%d %H:%M}", row[3])
    >>> show("admission", 24, "00:00", "UTC")
    1 None 03-28 20:00 None
    2 None 03-29 01:00 the stay ended before the prediction time
    3 None 03-29 20:00 None
    >>> show("admission", 48, "00:00", "UTC")
    1 None 03-29 20:00 None
    2 None 03-30 01:00 the stay ended before the prediction time
    3 None 03-30 20:00 the prediction time is still to come

    Midnight in Berlin is 23:00 in winter and, from the last Sunday of March on, 22:00:

    >>> show("nightly", 24, "00:00", "Europe/Berlin")
    1 2150-03-28 03-27 23:00 None
    1 2150-03-29 03-28 23:00 None
    1 2150-03-30 03-29 22:00 None
    2 None None the patient was never in at the hour of prediction
    3 2150-03-29 03-28 23:00 None
    3 2150-03-30 03-29 22:00 None
    """
    none = literal(NONE[mode])
    if mode == "nightly":
        none = (
            f"CASE WHEN {_DAYS} > {_LONGEST_NIGHTLY_DAYS} THEN {literal(_TOO_LONG)} ELSE {none} END"
        )
    return f"""
        SELECT source_row, asked.suffix,
            coalesce(asked.prediction_time, CASE WHEN times_wrong THEN admit_time END) AS prediction_time,
            CASE WHEN times_wrong THEN NULL WHEN asked.prediction_time IS NULL THEN {none}
                WHEN end_time < asked.prediction_time THEN {literal(ENDED)}
                WHEN end_time IS NULL AND asked.prediction_time > latest.time THEN {literal(NOT_YET)} END AS reason
        FROM ({_LATEST}) latest, stays_read LEFT JOIN ({_asked(mode, hours, clock, zone)}) asked USING (source_row)"""


_LATEST = "SELECT max(greatest(admit_time, coalesce(end_time, admit_time))) AS time FROM stays_read"
_DAYS = "date_diff('day', admit_time, end_time)"


def _asked(mode: str, hours: float, clock: str, zone: str) -> str:
    later = f"to_microseconds(CAST({float(hours) * 3600} * 1e6 AS BIGINT))"
    if mode == "admission":
        return (
            f"SELECT source_row, NULL::VARCHAR AS suffix, admit_time + {later} AS prediction_time "
            "FROM stays_read"
        )
    if mode == "icu":
        return f"""SELECT source_row, NULL::VARCHAR AS suffix, min(time) + {later} AS prediction_time
            FROM stays_read JOIN icu_times USING (stay_id) GROUP BY source_row"""
    if mode == "image":
        return """SELECT source_row, image_id AS suffix, min(time) AS prediction_time
            FROM stays_read JOIN image_times USING (stay_id) GROUP BY source_row, image_id"""
    if mode == "given":
        return """SELECT DISTINCT source_row, strftime(time, '%Y%m%dT%H%M%S') AS suffix, time AS prediction_time
            FROM stays_read JOIN given_times USING (stay_id) WHERE time >= admit_time"""
    return _nights(clock, zone)


def _nights(clock: str, zone: str) -> str:
    """The hour of each local day at which the patient is in: from the admission on, and before the
    end of the stay.

    A local hour that a change of clocks leaves out is the moment when they change.
    """
    local_day = "{}::DATE"
    instant = f"(night::DATE + TIME {literal(clock)})"
    if zone != "UTC":
        local_day = f"(({{}} AT TIME ZONE 'UTC') AT TIME ZONE {literal(zone)})::DATE"
        instant = f"({instant} AT TIME ZONE {literal(zone)}) AT TIME ZONE 'UTC'"
    return f"""
        WITH latest AS ({_LATEST}),
        nights AS (
            SELECT source_row, admit_time, end_time, latest.time AS latest,
                unnest(generate_series({local_day.format("admit_time")},
                    {local_day.format("coalesce(end_time, latest.time)")}, INTERVAL 1 DAY)) AS night
            FROM stays_read, latest WHERE coalesce({_DAYS} <= {_LONGEST_NIGHTLY_DAYS}, true))
        SELECT source_row, strftime(max(night), '%Y-%m-%d') AS suffix, {instant} AS prediction_time FROM nights
        WHERE {instant} >= admit_time AND coalesce({instant} < end_time, {instant} <= latest)
        GROUP BY source_row, prediction_time"""
