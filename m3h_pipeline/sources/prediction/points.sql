-- Every stay with its moments, or the reason why it has none.
CREATE OR REPLACE TEMP TABLE points AS
WITH latest AS (
    SELECT max(greatest(admit_time, coalesce(end_time, admit_time))) AS time FROM stays_read
)
SELECT
    source_row,
    moments.suffix,
    coalesce(moments.prediction_time, CASE WHEN times_wrong THEN admit_time END)
        AS prediction_time,
    CASE
        WHEN times_wrong THEN NULL
        WHEN moments.prediction_time IS NULL
            AND date_diff('day', admit_time, end_time) > $longest::BIGINT THEN $too_long
        WHEN moments.prediction_time IS NULL THEN $none
        WHEN end_time < moments.prediction_time THEN $ended
        WHEN end_time IS NULL AND moments.prediction_time > latest.time THEN $not_yet
    END AS reason
FROM latest, stays_read
LEFT JOIN moments USING (source_row)
