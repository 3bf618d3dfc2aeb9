-- Positive where a code begins with a prefix of the task, negative where the stay has codes but none
-- of these.
CREATE TEMP VIEW coded_labels AS
WITH good AS (
    FROM diagnoses WHERE reason IS NULL AND parse_errors IS NULL
),
meaning AS (
    SELECT DISTINCT code, version, task
    FROM (SELECT DISTINCT code, version FROM good)
    JOIN prefixes USING (version)
    WHERE starts_with(code, prefix)
),
positive AS (
    SELECT DISTINCT stay_id, task FROM good JOIN meaning USING (code, version)
)
SELECT stay_id, task, (positive.task IS NOT NULL)::INT::DOUBLE AS value
FROM (SELECT DISTINCT stay_id FROM good)
CROSS JOIN (SELECT DISTINCT task FROM prefixes)
LEFT JOIN positive USING (stay_id, task);

-- A wrong diagnosis decides no label; it is written as one without a task, for the contract to
-- quarantine.
CREATE TEMP VIEW wrong_diagnoses AS
SELECT
    stay_id AS sample_id,
    NULL::VARCHAR AS task,
    NULL::DOUBLE AS value,
    source_row,
    parse_errors
FROM diagnoses
WHERE reason IS NULL AND parse_errors IS NOT NULL
