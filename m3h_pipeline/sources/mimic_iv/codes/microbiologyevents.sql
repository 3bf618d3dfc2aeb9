-- A bare date is known at its end. What grew, and what it resists, is known when the result was
-- stored; without such a time it is never an input. A test has a row for each drug that was tried on
-- what grew: that it was taken must count once, or the count would say what is known later.
CREATE TEMP VIEW typed_microbiologyevents AS
WITH typed AS (
    SELECT
        as_id(hadm_id) AS hadm_id,
        as_id(subject_id) AS subject_id,
        coalesce(as_time(charttime), as_time(chartdate) + INTERVAL 1 DAY) AS time,
        coalesce(as_time(storetime), as_time(storedate) + INTERVAL 1 DAY) AS stored,
        as_path(coalesce(as_text(test_name), as_text(spec_type_desc))) AS test,
        CASE WHEN org_name <> 'CANCELLED' THEN as_path(org_name) END AS organism,
        CASE WHEN upper(interpretation) = 'R' THEN as_path(ab_name) END AS drug,
        nullif(concat_ws('; ',
            not_a_date('charttime', charttime),
            not_a_date('chartdate', chartdate),
            not_a_date('storetime', storetime),
            not_a_date('storedate', storedate),
            broken
        ), '') AS parse_errors,
        source_row
    FROM raw_microbiologyevents
),
numbered AS (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY subject_id, hadm_id, time, test ORDER BY source_row
        ) AS place_of_test,
        row_number() OVER (
            PARTITION BY subject_id, hadm_id, time, test, organism
            ORDER BY stored NULLS LAST, source_row
        ) AS place_of_growth
    FROM typed
),
said AS (
    SELECT
        numbered.* EXCLUDE (place_of_test, place_of_growth, test, organism, drug),
        CASE WHEN place_of_test = 1 THEN test END AS taken,
        CASE WHEN place_of_growth = 1 AND stored IS NOT NULL THEN organism END AS grown,
        CASE WHEN stored IS NOT NULL THEN drug END AS resisted
    FROM numbered
)
SELECT
    said.*,
    time AS available_time,
    CASE
        WHEN parse_errors IS NULL AND coalesce(taken, grown, resisted) IS NULL
            THEN 'says no more than another row, or nothing'
    END AS reason
FROM said
