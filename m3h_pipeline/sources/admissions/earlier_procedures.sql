-- Procedures that were coded for earlier stays.
CREATE TEMP TABLE history_of_procedures AS
SELECT
    earlier.stay_id,
    'earlier_procedure' AS kind,
    icd_path(procedures.code, procedures.version) AS code,
    earlier.discharge_time AS time,
    earlier.discharge_time + {{ coded_after }} AS available_time,
    procedures.source_row
FROM (
    SELECT
        as_id(hadm_id) AS earlier_id,
        nullif(upper(replace(replace(icd_code, '.', ''), ' ', '')), '') AS code,
        as_id(icd_version) AS version,
        source_row
    FROM raw_procedures_icd
    WHERE broken IS NULL
) procedures
JOIN earlier_stays earlier USING (earlier_id)
WHERE procedures.code IS NOT NULL AND procedures.version IN ('9', '10');

-- What became of each row.
CREATE TEMP TABLE procedures_icd_rows AS
SELECT
    raw.source_row,
    CASE
        WHEN raw.broken IS NOT NULL THEN raw.broken
        WHEN earlier.source_row IS NULL THEN 'of no stay that another of its patient follows'
    END AS reason
FROM raw_procedures_icd raw
LEFT JOIN (SELECT DISTINCT source_row FROM history_of_procedures) earlier USING (source_row)
