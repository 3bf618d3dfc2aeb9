-- Codes as the tables of MIMIC-IV have them: coded procedures, and measurements between stays.
CREATE TEMP VIEW raw_procedures_icd AS
SELECT
    hadm_id,
    rest AS icd_code,
    argument AS icd_version,
    NULL::VARCHAR AS broken,
    source_row
FROM procedure_rows;

CREATE TEMP VIEW raw_omr AS
SELECT
    subject_id,
    time AS chartdate,
    coalesce(rest, code) AS result_name,
    coalesce(text, number) AS result_value,
    NULL::VARCHAR AS broken,
    source_row
FROM code_rows
WHERE argument = 'measured_before'
