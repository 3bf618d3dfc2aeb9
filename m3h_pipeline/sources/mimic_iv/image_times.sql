-- The images that lie within one stay of their patient alone, as records do that are placed by time.
CREATE TEMP TABLE image_times AS
SELECT
    min(stay.stay_id) AS stay_id,
    any_value(image.image_id) AS image_id,
    any_value(image.time) AS time
FROM typed_cxr image
JOIN stays_read stay
    ON stay.subject_id = image.subject_id
    AND stay.end_is_clear
    AND image.time >= stay.admit_time
    AND (stay.discharge_time IS NULL OR image.time <= stay.discharge_time)
WHERE image.image_id IS NOT NULL AND image.parse_errors IS NULL
GROUP BY image.source_row
HAVING count(DISTINCT stay.stay_id) = 1
