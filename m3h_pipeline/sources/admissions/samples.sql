-- The stays as they were read, with what became of them.
CREATE TEMP TABLE stay_rows AS
SELECT stays_read.*, outcome.reason
FROM stays_read
JOIN (
    SELECT
        source_row,
        CASE WHEN bool_or(reason IS NULL) THEN NULL ELSE min(reason) END AS reason
    FROM points
    GROUP BY source_row
) outcome USING (source_row);

CREATE TEMP TABLE sample_rows AS
SELECT
    stay_id || coalesce('-' || suffix, '') AS sample_id,
    stays_read.*,
    prediction_time
FROM stays_read
JOIN points USING (source_row)
WHERE reason IS NULL;

CREATE TEMP TABLE sample_ids AS
SELECT DISTINCT stay_id, sample_id FROM sample_rows;

-- One row a stay.
CREATE TEMP TABLE stays AS
SELECT
    *,
    reason IS NULL AND parse_errors IS NULL AND coalesce(discharge_time >= admit_time, false)
        AS has_labels
FROM stay_rows
WHERE stay_id IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY stay_id ORDER BY source_row) = 1;

-- What became of each row of the patients.
CREATE TEMP TABLE people_rows AS
SELECT
    CASE
        WHEN as_id(raw.subject_id) IS NULL THEN 'no subject_id'
        WHEN people.source_row <> raw.source_row THEN 'the same patient again'
        WHEN as_id(raw.subject_id) NOT IN (
            SELECT subject_id FROM stay_rows WHERE reason IS NULL AND subject_id IS NOT NULL
        ) THEN 'no stay in the cohort'
    END AS reason
FROM raw_patients raw
LEFT JOIN people ON people.subject_id = as_id(raw.subject_id)
