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
FROM earlier_stays
