-- So long after the admission to the hospital.
CREATE OR REPLACE TEMP TABLE moments AS
SELECT
    source_row,
    NULL::VARCHAR AS suffix,
    admit_time + to_microseconds(CAST($seconds * 1e6 AS BIGINT)) AS prediction_time
FROM stays_read
