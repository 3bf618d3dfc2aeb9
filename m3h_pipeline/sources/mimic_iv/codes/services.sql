CREATE TEMP VIEW typed_services AS
SELECT
    as_id(hadm_id) AS hadm_id,
    as_id(subject_id) AS subject_id,
    as_time(transfertime) AS time,
    as_time(transfertime) AS available_time,
    'service' AS kind,
    as_path(curr_service) AS code,
    NULL::DOUBLE AS value,
    CASE
        WHEN broken IS NULL AND as_text(curr_service) IS NULL THEN 'no service is named'
    END AS reason,
    nullif(concat_ws('; ', not_a_date('transfertime', transfertime), broken), '') AS parse_errors,
    source_row
FROM raw_services
