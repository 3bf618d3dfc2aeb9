-- Drugs that were taken out of the cabinet of the emergency department.
CREATE TEMP VIEW typed_pyxis AS
SELECT
    visit.hadm_id,
    as_id(raw.subject_id) AS subject_id,
    as_time(raw.charttime) AS time,
    as_time(raw.charttime) AS available_time,
    'ed_drug' AS kind,
    as_path(raw.name) AS code,
    NULL::DOUBLE AS value,
    CASE
        WHEN raw.broken IS NOT NULL THEN NULL
        WHEN visit.ed_stay_id IS NULL THEN 'a visit that edstays does not have'
        WHEN as_path(raw.name) IS NULL THEN 'no drug is named'
    END AS reason,
    nullif(concat_ws('; ', not_a_date('charttime', raw.charttime), raw.broken), '') AS parse_errors,
    raw.source_row
FROM raw_pyxis raw
LEFT JOIN ed_visits visit ON visit.ed_stay_id = as_id(raw.stay_id)
