CREATE TEMP VIEW typed_vitalsign AS
SELECT
    visit.hadm_id,
    as_id(raw.subject_id) AS subject_id,
    as_time(raw.charttime) AS time,
    as_time(raw.charttime) AS available_time,
    raw.temperature,
    raw.heartrate,
    raw.resprate,
    raw.o2sat,
    raw.sbp,
    raw.dbp,
    CASE
        WHEN raw.broken IS NOT NULL THEN NULL
        WHEN visit.ed_stay_id IS NULL THEN 'a visit that edstays does not have'
        WHEN coalesce(
            as_number(temperature), as_number(heartrate), as_number(resprate), as_number(o2sat),
            as_number(sbp), as_number(dbp)
        ) IS NULL THEN 'no number'
    END AS reason,
    nullif(concat_ws('; ', not_a_date('charttime', raw.charttime), raw.broken), '') AS parse_errors,
    raw.source_row
FROM raw_vitalsign raw
LEFT JOIN ed_visits visit ON visit.ed_stay_id = as_id(raw.stay_id)
