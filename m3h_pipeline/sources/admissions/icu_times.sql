-- When intensive care began, of the stays that had any.
CREATE TEMP TABLE icu_times AS
SELECT as_id(hadm_id) AS stay_id, as_time(intime) AS time
FROM raw_icustays
WHERE as_time(intime) IS NOT NULL;

-- What became of each row of the ICU stays.
CREATE TEMP TABLE icu_rows AS
SELECT
    CASE
        WHEN broken IS NOT NULL THEN broken
        WHEN time IS NULL AND stays_read.stay_id IS NOT NULL THEN NULL
        WHEN stays_read.stay_id IS NULL THEN 'no such stay in admissions'
        WHEN row_number() OVER (
            PARTITION BY icu.stay_id ORDER BY time NULLS LAST, icu.source_row
        ) > 1 THEN 'not the first ICU stay of its admission'
    END AS reason,
    icu.source_row
FROM (
    SELECT as_id(hadm_id) AS stay_id, as_time(intime) AS time, source_row, broken
    FROM raw_icustays
) icu
LEFT JOIN (SELECT DISTINCT stay_id FROM stays_read) stays_read USING (stay_id);

-- When intensive care began can't be said: the contract quarantines the sample.
UPDATE stays_read
SET times_wrong = true, parse_errors = concat_ws('; ', parse_errors, 'intime: not a date')
WHERE stay_id IN (
    SELECT as_id(hadm_id) FROM raw_icustays WHERE hadm_id IS NOT NULL AND as_time(intime) IS NULL
)
