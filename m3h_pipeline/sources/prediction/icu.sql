-- So long after the first admission to the ICU.
CREATE OR REPLACE TEMP TABLE moments AS
SELECT
    source_row,
    NULL::VARCHAR AS suffix,
    min(time) + to_microseconds(CAST($seconds * 1e6 AS BIGINT)) AS prediction_time
FROM stays_read
JOIN icu_times USING (stay_id)
GROUP BY source_row
