-- At each image.
CREATE OR REPLACE TEMP TABLE moments AS
SELECT source_row, image_id AS suffix, min(time) AS prediction_time
FROM stays_read
JOIN image_times USING (stay_id)
GROUP BY source_row, image_id
