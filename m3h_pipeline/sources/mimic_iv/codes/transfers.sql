-- Where the patient lay; a discharge names no unit.
CREATE TEMP VIEW typed_transfers AS
SELECT
    as_id(hadm_id) AS hadm_id,
    as_id(subject_id) AS subject_id,
    as_time(intime) AS time,
    as_time(intime) AS available_time,
    'unit' AS kind,
    as_path(careunit) AS code,
    NULL::DOUBLE AS value,
    CASE
        WHEN broken IS NULL AND (as_text(careunit) IS NULL OR as_text(eventtype) = 'discharge')
            THEN 'no unit is named'
    END AS reason,
    nullif(concat_ws('; ', not_a_date('intime', intime), broken), '') AS parse_errors,
    source_row
FROM raw_transfers
