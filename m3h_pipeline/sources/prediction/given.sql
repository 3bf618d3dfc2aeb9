-- At the moments that the data names.
CREATE OR REPLACE TEMP TABLE moments AS
SELECT DISTINCT
    source_row,
    strftime(time, '%Y%m%dT%H%M%S') AS suffix,
    time AS prediction_time
FROM stays_read
JOIN given_times USING (stay_id)
WHERE time >= admit_time
