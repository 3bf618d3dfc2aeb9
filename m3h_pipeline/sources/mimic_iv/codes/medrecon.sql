-- What a patient takes at home, below its class where that is named.
CREATE TEMP VIEW typed_medrecon AS
SELECT
    visit.hadm_id,
    as_id(raw.subject_id) AS subject_id,
    as_time(raw.charttime) AS time,
    as_time(raw.charttime) AS available_time,
    'drug_at_home' AS kind,
    concat_ws('/', as_step(raw.etcdescription), as_step(raw.name)) AS code,
    NULL::DOUBLE AS value,
    CASE
        WHEN raw.broken IS NOT NULL THEN NULL
        WHEN visit.ed_stay_id IS NULL THEN 'a visit that edstays does not have'
        WHEN as_step(raw.name) IS NULL THEN 'no drug is named'
    END AS reason,
    nullif(concat_ws('; ', not_a_date('charttime', raw.charttime), raw.broken), '') AS parse_errors,
    raw.source_row
FROM raw_medrecon raw
LEFT JOIN ed_visits visit ON visit.ed_stay_id = as_id(raw.stay_id)
