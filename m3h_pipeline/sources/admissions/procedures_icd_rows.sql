-- What became of each row of the coded procedures.
CREATE TEMP TABLE procedures_icd_rows AS
SELECT
    raw.source_row,
    CASE
        WHEN raw.broken IS NOT NULL THEN raw.broken
        WHEN earlier.source_row IS NULL THEN 'of no stay that another of its patient follows'
    END AS reason
FROM raw_procedures_icd raw
LEFT JOIN (SELECT DISTINCT source_row FROM history_of_procedures) earlier USING (source_row)
