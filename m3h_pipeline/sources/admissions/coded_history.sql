-- What was coded for earlier stays: codes are given some days after the discharge.
CREATE TEMP TABLE history_of_{{ coded }} AS
SELECT
    earlier.stay_id,
    {{ kind | literal }} AS kind,
    icd_path(coded.code, coded.version) AS code,
    earlier.discharge_time AS time,
    earlier.discharge_time + {{ coded_after }} AS available_time,
    coded.source_row
FROM {{ coded }} coded
JOIN earlier_stays earlier ON earlier.earlier_id = coded.stay_id
WHERE coded.parse_errors IS NULL
