-- Triage has no time of its own: it is known an hour after the arrival.
CREATE TEMP VIEW typed_triage AS
SELECT
    visit.hadm_id,
    as_id(raw.subject_id) AS subject_id,
    visit.arrived AS time,
    visit.arrived + INTERVAL 1 HOUR AS available_time,
    raw.temperature,
    raw.heartrate,
    raw.resprate,
    raw.o2sat,
    raw.sbp,
    raw.dbp,
    raw.pain,
    raw.acuity,
    raw.chiefcomplaint,
    CASE
        WHEN raw.broken IS NOT NULL THEN NULL
        WHEN visit.ed_stay_id IS NULL THEN 'a visit that edstays does not have'
        WHEN coalesce(
            as_number(temperature), as_number(heartrate), as_number(resprate), as_number(o2sat),
            as_number(sbp), as_number(dbp), as_number(pain), as_number(acuity)
        ) IS NULL AND as_step(chiefcomplaint) IS NULL THEN 'nothing that can be read'
    END AS reason,
    raw.broken AS parse_errors,
    raw.source_row
FROM raw_triage raw
LEFT JOIN ed_visits visit ON visit.ed_stay_id = as_id(raw.stay_id)
