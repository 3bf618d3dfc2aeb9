-- Visits to the emergency department, one row each, for the records that name only the visit.
CREATE TEMP TABLE ed_visits AS
SELECT
    as_id(stay_id) AS visit_id,
    any_value(as_id(hadm_id)) AS hadm_id,
    min(as_time(intime)) AS arrived
FROM raw_edstays
WHERE as_id(stay_id) IS NOT NULL
GROUP BY ALL
