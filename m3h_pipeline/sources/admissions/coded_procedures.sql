-- Each coded procedure; one that is not of the ICD's ninth or tenth version is none.
CREATE TEMP VIEW procedures AS
SELECT
    as_id(hadm_id) AS stay_id,
    as_icd(icd_code) AS code,
    as_id(icd_version) AS version,
    CASE
        WHEN broken IS NOT NULL THEN broken
        WHEN as_icd(icd_code) IS NULL OR coalesce(as_id(icd_version), '') NOT IN ('9', '10')
            THEN 'no code'
    END AS parse_errors,
    source_row
FROM raw_procedures_icd
