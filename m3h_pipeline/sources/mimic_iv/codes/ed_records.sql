-- The rows of a table of the emergency department, with the stay that their visit led to.
CREATE TEMP VIEW visited_{{ table }} AS
SELECT
    raw.* EXCLUDE (subject_id, stay_id),
    as_id(raw.subject_id) AS subject_id,
    visit.hadm_id,
    visit.arrived,
    visit.visit_id IS NULL AS has_no_visit
FROM raw_{{ table }} raw
LEFT JOIN ed_visits visit ON visit.visit_id = as_id(raw.stay_id)
