CREATE TEMP VIEW typed_{{ table }} AS
SELECT
    as_id(hadm_id) AS hadm_id,
    as_id(subject_id) AS subject_id,
    as_time(starttime) AS time,
    known_of_lasting(as_time(starttime), as_time(endtime), as_time(storetime)) AS available_time,
    as_text(itemid) AS item,
    NULL::VARCHAR AS valueuom,
    CASE WHEN as_text(itemid) IS NOT NULL THEN 1.0 END AS number,
    NULL::VARCHAR AS reason,
    nullif(concat_ws('; ',
        not_a_date('starttime', starttime),
        not_a_date('endtime', endtime),
        not_a_date('storetime', storetime),
        broken
    ), '') AS parse_errors,
    source_row
FROM raw_{{ table }}
