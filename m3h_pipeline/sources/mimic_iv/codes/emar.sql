-- What was given, as the nurse recorded it.
CREATE TEMP VIEW typed_emar AS
SELECT
    as_id(hadm_id) AS hadm_id,
    as_id(subject_id) AS subject_id,
    as_time(charttime) AS time,
    known_since(as_time(storetime), as_time(charttime)) AS available_time,
    'drug_given' AS kind,
    as_path(medication) AS code,
    NULL::DOUBLE AS value,
    CASE
        WHEN broken IS NOT NULL THEN NULL
        WHEN as_text(medication) IS NULL THEN 'no drug is named'
        WHEN NOT is_given(event_txt) THEN 'not given'
    END AS reason,
    nullif(concat_ws('; ',
        not_a_date('charttime', charttime),
        not_a_date('storetime', storetime),
        broken
    ), '') AS parse_errors,
    source_row
FROM raw_emar
