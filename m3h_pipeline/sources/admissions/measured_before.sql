-- Measurements between stays, such as weight and blood pressure, with the bare date on which they
-- were taken: known at its end. They belong to each stay of the patient that follows within a year.
CREATE TEMP TABLE measured_before AS
WITH typed AS (
    SELECT
        as_id(subject_id) AS subject_id,
        as_time(chartdate) + INTERVAL 1 DAY AS time,
        as_step(result_name) AS name,
        as_text(result_value) AS result,
        nullif(concat_ws('; ', not_a_date('chartdate', chartdate), broken), '') AS parse_errors,
        source_row
    FROM raw_omr
),
-- 120/80: two numbers.
parted AS (
    SELECT
        typed.* EXCLUDE (name, result),
        name || part.suffix AS code,
        as_number(part.number) AS value
    FROM typed,
        LATERAL (VALUES
            ('', CASE WHEN result NOT LIKE '%/%' THEN result END),
            (' systolic', CASE WHEN result LIKE '%/%' THEN split_part(result, '/', 1) END),
            (' diastolic', CASE WHEN result LIKE '%/%' THEN split_part(result, '/', 2) END)
        ) part(suffix, number)
    WHERE part.number IS NOT NULL
)
SELECT
    stay.stay_id,
    'measured_before' AS kind,
    parted.code,
    parted.time,
    parted.time AS available_time,
    parted.value,
    CASE
        WHEN parted.value IS NULL AND parted.parse_errors IS NULL
            THEN 'result_value: not a number'
        ELSE parted.parse_errors
    END AS parse_errors,
    parted.source_row
FROM parted
JOIN stays stay
    ON stay.subject_id = parted.subject_id
    AND stay.reason IS NULL
    AND parted.time > stay.admit_time - INTERVAL 1 YEAR
    AND parted.time <= coalesce(stay.discharge_time, parted.time);

-- What became of each row.
CREATE TEMP TABLE omr_rows AS
SELECT
    raw_omr.source_row,
    CASE
        WHEN measured.source_row IS NULL THEN 'no stay of its patient within the year after it'
    END AS reason
FROM raw_omr
LEFT JOIN (SELECT DISTINCT source_row FROM measured_before) measured USING (source_row)
