-- How a patient came to the emergency department.
CREATE TEMP VIEW typed_edstays AS
SELECT
    as_id(hadm_id) AS hadm_id,
    as_id(subject_id) AS subject_id,
    as_time(intime) AS time,
    as_time(intime) AS available_time,
    'ed_arrival' AS kind,
    as_path(arrival_transport) AS code,
    NULL::DOUBLE AS value,
    CASE
        WHEN broken IS NULL AND as_path(arrival_transport) IS NULL THEN 'no transport is named'
    END AS reason,
    nullif(concat_ws('; ', not_a_date('intime', intime), broken), '') AS parse_errors,
    source_row
FROM raw_edstays
