-- Where earlier stays ended, and how long they were; known at their end.
CREATE TEMP VIEW history_of_stays AS
SELECT
    stay_id,
    'earlier_stay' AS kind,
    coalesce(as_path(place), 'unknown place') AS code,
    discharge_time AS time,
    discharge_time AS available_time,
    days AS value,
    source_row
FROM earlier_stays;

-- What was coded for earlier stays: codes are given some days after the discharge.
CREATE TEMP VIEW history_of_diagnoses AS
SELECT
    earlier.stay_id,
    'earlier_diagnosis' AS kind,
    icd_path(diagnosis.code, diagnosis.version) AS code,
    earlier.discharge_time AS time,
    earlier.discharge_time + {{ coded_after }} AS available_time,
    diagnosis.source_row
FROM diagnoses diagnosis
JOIN earlier_stays earlier ON earlier.earlier_id = diagnosis.stay_id
WHERE diagnosis.parse_errors IS NULL
