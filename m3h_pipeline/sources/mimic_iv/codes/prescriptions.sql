-- An order has no time of its own; it was there when it was to begin.
CREATE TEMP VIEW typed_prescriptions AS
SELECT
    as_id(hadm_id) AS hadm_id,
    as_id(subject_id) AS subject_id,
    as_time(starttime) AS time,
    as_time(starttime) AS available_time,
    'drug_ordered' AS kind,
    as_path(drug) AS code,
    NULL::DOUBLE AS value,
    CASE
        WHEN broken IS NOT NULL THEN NULL
        WHEN as_text(drug_type) = 'BASE' THEN 'what a drug is dissolved in'
        WHEN as_text(drug) IS NULL THEN 'no drug is named'
        WHEN as_text(starttime) IS NULL THEN 'no time when it begins'
    END AS reason,
    nullif(concat_ws('; ', not_a_date('starttime', starttime), broken), '') AS parse_errors,
    source_row
FROM raw_prescriptions
