-- A record is saved again whenever it changes, so the storetime of one that lasts lies at its end.
-- That it began was known when it began.
CREATE TEMP VIEW typed_{{ table }} AS
SELECT
    as_id(hadm_id) AS hadm_id,
    as_id(subject_id) AS subject_id,
    as_time(starttime) AS time,
    CASE
        WHEN as_time(endtime) > as_time(starttime) + INTERVAL 1 MINUTE
            AND as_time(storetime) >= as_time(endtime) THEN as_time(starttime)
        ELSE known_since(as_time(storetime), as_time(starttime))
    END AS available_time,
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
