-- A diagnosis without a stay's id belongs to the one stay of its patient within which it lies.
CREATE TEMP TABLE raw_diagnoses AS
SELECT
    coalesce(coded.hadm_id, placed.hadm_id) AS hadm_id,
    coded.rest AS icd_code,
    coded.argument AS icd_version,
    NULL::VARCHAR AS broken,
    coded.source_row
FROM coded_rows coded
LEFT JOIN (
    SELECT coded.source_row, min(admission.hadm_id) AS hadm_id
    FROM coded_rows coded
    JOIN raw_admissions admission
        ON admission.subject_id = coded.subject_id
        AND coded.hadm_id IS NULL
        AND moment(coded.time) >= moment(admission.admittime)
        AND (
            admission.dischtime IS NULL
            OR moment(coded.time) <= moment(admission.dischtime)
        )
    GROUP BY coded.source_row
    HAVING count(*) = 1
) placed USING (source_row)
WHERE coalesce(coded.hadm_id, placed.hadm_id) IS NOT NULL;

CREATE TEMP TABLE unplaced_diagnoses AS
SELECT source_row, 'no stay, or more than one, at that time' AS reason
FROM coded_rows
ANTI JOIN raw_diagnoses USING (source_row)
