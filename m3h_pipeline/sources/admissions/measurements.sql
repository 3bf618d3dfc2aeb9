CREATE TEMP VIEW typed_{{ table }} AS
SELECT
    hadm_id,
    subject_id,
    taken AS time,
    known_since(stored, taken) AS available_time,
    item,
    valueuom,
    number,
    CASE WHEN broken IS NULL AND nothing THEN 'no value' END AS reason,
    CASE WHEN broken IS NULL THEN errors ELSE concat_ws('; ', errors, broken) END AS parse_errors,
    source_row
FROM raw_{{ table }}
