-- An admission is a sample's row, discharges and deaths make labels; what else is said of a patient
-- is no row by itself.
CREATE TEMP TABLE person_reasons AS
SELECT
    person.source_row,
    person.role IN ('discharge', 'death') AS makes_labels,
    CASE
        WHEN stays.reason IS NOT NULL THEN stays.reason
        WHEN person.subject_id IS NULL
            OR person.subject_id NOT IN (
                SELECT subject_id FROM sample_rows WHERE subject_id IS NOT NULL
            ) THEN 'no stay in the cohort'
        WHEN person.role NOT IN ('admission', 'discharge', 'death')
            THEN 'a column of its patient''s samples, no row of its own'
    END AS reason
FROM person_rows person
LEFT JOIN admitted USING (source_row)
LEFT JOIN stays ON stays.stay_id = coalesce(admitted.hadm_id, person.hadm_id)
